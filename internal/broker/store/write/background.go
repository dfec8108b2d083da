package write

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/looptape/looptape/internal/base/run"
	"github.com/looptape/looptape/internal/broker/store/catalog"
)

// BackgroundConfig tunes the jobs beside flushing. The zero value is the default.
type BackgroundConfig struct {
	Merge   MergeConfig
	Compact CompactConfig
	Sweep   SweepConfig
	// MergeEvery is the time between rounds of merging, default 1 min;
	// CompactEvery of compaction, default 1 min.
	MergeEvery, CompactEvery time.Duration
	// BytesPerSecond bounds what all jobs read and write together; default 64
	// MiB/s, negative unlimited.
	BytesPerSecond int64
	// Busy says that writers wait: then the jobs take a quarter. May be nil.
	Busy func() bool
}

// Background are the jobs that keep the store small: Merger, Compactor, Sweeper.
// They share one budget of bytes. Jobs that change objects run one at a time.
type Background struct {
	merger    *Merger
	compactor *Compactor
	sweeper   *Sweeper
	cfg       BackgroundConfig
	base      *Base
	turn      chan struct{} // held by the job that changes objects
}

// NewBackground returns the jobs of one broker epoch. base.Grace and
// base.Limiter are set by it.
func NewBackground(base *Base, starts Starts, cfg BackgroundConfig) *Background {
	if cfg.MergeEvery <= 0 {
		cfg.MergeEvery = time.Minute
	}
	if cfg.CompactEvery <= 0 {
		cfg.CompactEvery = time.Minute
	}
	if cfg.BytesPerSecond == 0 {
		cfg.BytesPerSecond = 64 << 20
	}
	base.Limiter = NewLimiter(cfg.BytesPerSecond, cfg.Busy)
	if base.Now == nil {
		base.Now = cfg.Sweep.Now
	}
	return &Background{
		merger: NewMerger(base, cfg.Merge), compactor: NewCompactor(base, cfg.Compact),
		sweeper: NewSweeper(base, starts, cfg.Sweep), cfg: cfg, base: base, turn: make(chan struct{}, 1),
	}
}

// Merge runs one round of merging, Compact one of log compaction.
func (b *Background) Merge(ctx context.Context) error   { return b.inTurn(ctx, b.merger.Round) }
func (b *Background) Compact(ctx context.Context) error { return b.inTurn(ctx, b.compactor.Round) }

// Sweep expires, retires and deletes once, and looks for orphans.
func (b *Background) Sweep(ctx context.Context) error {
	if err := b.sweeper.Round(ctx); err != nil {
		return err
	}
	return b.orphans(ctx)
}

// orphans looks for orphans while no other job has objects in the making: what a
// staged replacement is about to show is none.
func (b *Background) orphans(ctx context.Context) error { return b.inTurn(ctx, b.sweeper.SweepOrphans) }

// Merger, Compactor and Sweeper give access to the jobs' counters.
func (b *Background) Merger() *Merger       { return b.merger }
func (b *Background) Compactor() *Compactor { return b.compactor }
func (b *Background) Sweeper() *Sweeper     { return b.sweeper }

func (b *Background) inTurn(ctx context.Context, round func(context.Context) error) error {
	select {
	case b.turn <- struct{}{}:
		defer func() { <-b.turn }()
		if err := b.base.carryAll(ctx); err != nil {
			return err
		}
		return round(ctx)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Run does all rounds until ctx ends. Failures are logged and tried again in the
// next round; only a fenced epoch ends it.
func (b *Background) Run(ctx context.Context) error {
	g := run.New(ctx)
	every := func(name string, d time.Duration, round func(context.Context) error) {
		g.Go(name, func(ctx context.Context) error {
			for run.Sleep(ctx, d) == nil {
				switch err := round(ctx); {
				case err == nil || ctx.Err() != nil:
				case errors.Is(err, catalog.ErrFenced):
					return fmt.Errorf("%s: %w", name, err)
				default:
					b.base.Log.Warn("a background job failed and will be tried again", "job", name, "error", err)
				}
			}
			return nil
		})
	}
	every("merge", b.cfg.MergeEvery, b.Merge)
	every("compact", b.cfg.CompactEvery, b.Compact)
	every("sweep", b.sweeper.cfg.Every, b.sweeper.Round)
	every("sweep orphans", b.sweeper.cfg.Orphans, b.orphans)
	return g.Wait()
}
