package write

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/object"
)

// SweepConfig tunes a Sweeper. The zero value is the default.
type SweepConfig struct {
	Every   time.Duration // between rounds; default 1 min
	Orphans time.Duration // between searches for orphans; default 1 h
	Grace   time.Duration // a retired object lives on for readers; default 10 min
	Now     func() time.Time
}

func (c SweepConfig) withDefaults() SweepConfig {
	if c.Every <= 0 {
		c.Every = time.Minute
	}
	if c.Orphans <= 0 {
		c.Orphans = time.Hour
	}
	if c.Grace <= 0 {
		c.Grace = 10 * time.Minute
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// perRound bounds the objects deleted in one round, so that a mass deletion does
// not crowd out reads and writes.
const perRound = 500

// Starts raises log starts, in the catalog and for readers.
type Starts interface {
	Raise(ctx context.Context, p catalog.Partition, before int64) error
}

// Sweeper expires records by time and size, retires objects that nobody needs,
// deletes them after a grace, and removes objects of dead epochs that no
// transaction ever made visible.
type Sweeper struct {
	catalog *catalog.Catalog
	writer  *catalog.Writer
	store   blob.Store
	starts  Starts
	cfg     SweepConfig
	log     *slog.Logger
	deleted atomic.Int64
}

// NewSweeper returns a sweeper.
func NewSweeper(cat *catalog.Catalog, writer *catalog.Writer, store blob.Store, starts Starts, cfg SweepConfig, log *slog.Logger) *Sweeper {
	return &Sweeper{catalog: cat, writer: writer, store: store, starts: starts, cfg: cfg.withDefaults(), log: log}
}

// Deleted counts the objects deleted.
func (s *Sweeper) Deleted() int64 { return s.deleted.Load() }

// Run sweeps until ctx ends. Failures are logged and tried again in the next
// round; only a fenced epoch ends it.
func (s *Sweeper) Run(ctx context.Context) error {
	searched := s.cfg.Now()
	for sleep(ctx, s.cfg.Every) == nil {
		err := s.Round(ctx)
		if err == nil && s.cfg.Now().Sub(searched) >= s.cfg.Orphans {
			searched = s.cfg.Now()
			err = s.SweepOrphans(ctx)
		}
		switch {
		case err == nil || ctx.Err() != nil:
		case errors.Is(err, catalog.ErrFenced):
			return fmt.Errorf("sweep: %w", err)
		default:
			s.log.Warn("sweep failed and will be tried again", "error", err)
		}
	}
	return nil
}

// Round expires, retires and deletes once.
func (s *Sweeper) Round(ctx context.Context) error {
	now := s.cfg.Now().UnixMilli()
	if err := s.expire(ctx, now); err != nil {
		return err
	}
	if dead := s.catalog.Unneeded(); len(dead) > 0 {
		if err := s.writer.Retire(ctx, dead[:min(len(dead), perRound)], now+s.cfg.Grace.Milliseconds()); err != nil {
			return err
		}
	}
	garbage, err := s.catalog.Garbage(ctx, now, perRound)
	if err != nil {
		return err
	}
	for _, g := range garbage {
		if err := s.store.Delete(ctx, object.Key(s.catalog.ClusterID(), g.Object)); err != nil {
			return fmt.Errorf("delete object %s: %w", g.Object, err)
		}
		s.deleted.Add(1)
	}
	if err := s.writer.Collected(ctx, garbage); err != nil {
		return err
	}
	return s.writer.Bury(ctx)
}

// expire raises the log start of every partition above what its topic's
// retention no longer wants. Only whole extents go, so nothing goes early.
func (s *Sweeper) expire(ctx context.Context, now int64) error {
	for _, p := range s.catalog.Partitions() {
		t, ok := s.catalog.TopicByID(p.Topic)
		if !ok {
			continue
		}
		set := t.Settings()
		if !set.Delete {
			continue
		}
		before := expired(s.catalog.Extents(p), set, now)
		if before <= s.catalog.Record(p).LogStart {
			continue
		}
		if err := s.starts.Raise(ctx, p, before); err != nil {
			return fmt.Errorf("expire %s: %w", p, err)
		}
	}
	return nil
}

// expired returns the offset below which retention wants nothing. Time stops at
// the first extent that is young enough; an extent without timestamps never is old.
func expired(extents []catalog.Extent, set catalog.Settings, now int64) (before int64) {
	if set.RetentionMillis >= 0 {
		for _, x := range extents {
			if x.MaxTimestamp < 0 || x.MaxTimestamp > now-set.RetentionMillis {
				break
			}
			before = x.End
		}
	}
	if set.RetentionBytes >= 0 {
		var kept int64
		for i := len(extents) - 1; i >= 0; i-- {
			// The extent goes if what is newer fills the quota without it.
			if kept >= set.RetentionBytes {
				before = max(before, extents[i].End)
				break
			}
			kept += extents[i].Bytes
		}
	}
	return before
}

// SweepOrphans deletes objects of this broker's dead epochs that the catalog
// does not know. Such an epoch is sealed, so nothing can make them visible any
// more; what the catalog knows is read after the listing began.
func (s *Sweeper) SweepOrphans(ctx context.Context) error {
	prefix := fmt.Sprintf("%s%d-", object.Prefix(s.catalog.ClusterID()), s.writer.Broker())
	var old []string
	limit := s.cfg.Now().Add(-s.cfg.Grace)
	err := s.store.List(ctx, prefix, func(info blob.Info) error {
		name := info.Key[len(object.Prefix(s.catalog.ClusterID())):]
		id, err := object.ParseName(name)
		if err != nil || id.Epoch >= s.writer.Epoch() || info.Modified.After(limit) {
			return nil // not ours to judge
		}
		old = append(old, name)
		return nil
	})
	if err != nil {
		return fmt.Errorf("list objects: %w", err)
	}
	unknown, err := s.catalog.Unknown(ctx, old)
	if err != nil {
		return err
	}
	for _, name := range unknown[:min(len(unknown), perRound)] {
		s.log.Info("delete an orphan object", "object", name)
		if err := s.store.Delete(ctx, object.Key(s.catalog.ClusterID(), name)); err != nil {
			return fmt.Errorf("delete orphan %s: %w", name, err)
		}
		s.deleted.Add(1)
	}
	return nil
}
