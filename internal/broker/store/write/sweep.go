package write

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
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
	// SnapshotEvery is how often the metadata is saved to the object store, 0
	// never: what an older snapshot names must outlive two of them, so Grace is at
	// least twice as long (P13).
	SnapshotEvery time.Duration
	// Collects says whether this broker deletes what all retired: the controller.
	// Default: yes.
	Collects func() bool
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
	c.Grace = max(c.Grace, 2*c.SnapshotEvery)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Collects == nil {
		c.Collects = func() bool { return true }
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
// deletes them after a grace, and removes objects that no transaction made
// visible or ever will.
//
// Whatever goes by the wall clock is done only while that clock agrees with the
// store's and has not jumped; and what is retired is deleted only when the grace
// has passed on this process's own clock, too, since it first saw it (P18).
type Sweeper struct {
	*Base
	starts Starts
	cfg    SweepConfig
	clock  *clockGuard
	seen   map[string]time.Time // garbage, since when; of the goroutine of rounds
	stats  sweepStats
}

type sweepStats struct {
	deleted, retired, raised, swept, distrusted, waiting atomic.Int64
}

// SweepCounts are a Sweeper's counters.
type SweepCounts struct {
	Raised     int64 // log starts, by retention
	Retired    int64 // objects taken out of sight since nobody needed them
	Deleted    int64 // objects, orphans included
	Swept      int64 // orphans deleted
	Waiting    int64 // gauge: retired objects whose grace has not passed
	Distrusted int64 // rounds that did nothing by the clock since it was not to be trusted
}

// NewSweeper returns a sweeper. It sets the grace of what all jobs on base retire.
func NewSweeper(base *Base, starts Starts, cfg SweepConfig) *Sweeper {
	cfg = cfg.withDefaults()
	base.Grace = cfg.Grace
	return &Sweeper{Base: base, starts: starts, cfg: cfg, clock: newClockGuard(base.Store, cfg.Now), seen: map[string]time.Time{}}
}

// Stats returns the counters.
func (s *Sweeper) Stats() SweepCounts {
	c := &s.stats
	return SweepCounts{c.raised.Load(), c.retired.Load(), c.deleted.Load(), c.swept.Load(), c.waiting.Load(), c.distrusted.Load()}
}

// Round expires, retires and deletes once.
func (s *Sweeper) Round(ctx context.Context) error {
	trusted, err := s.clock.trusted(ctx)
	if err != nil {
		return fmt.Errorf("read the store's clock: %w", err)
	}
	if !trusted {
		s.stats.distrusted.Add(1)
		s.Log.Warn("the clock is not to be trusted: nothing expires and nothing is deleted")
	}
	// A partition that can't be trimmed now, or a store that fails, keeps the other
	// steps from nothing.
	var errs []error
	if trusted {
		errs = append(errs, s.expire(ctx))
	}
	errs = append(errs, s.retire(ctx))
	if trusted && s.cfg.Collects() {
		errs = append(errs, s.collect(ctx))
	}
	errs = append(errs, s.Writer.Bury(ctx))
	return errors.Join(errs...)
}

// retire takes what nobody needs out of sight. Brokers look after what is theirs,
// so that they don't get in each other's way.
func (s *Sweeper) retire(ctx context.Context) error {
	mine := slices.DeleteFunc(s.Catalog.Unneeded(), func(v catalog.Visible) bool { return !s.keeps(v.Object.Name) })
	mine = mine[:min(len(mine), perRound)]
	if len(mine) == 0 {
		return nil
	}
	deadline := s.cfg.Now().Add(s.cfg.Grace).UnixMilli()
	if err := s.Writer.Retire(ctx, mine, deadline); err != nil {
		return err
	}
	s.stats.retired.Add(int64(len(mine)))
	return nil
}

// keeps says whether this broker looks after an object.
func (b *Base) keeps(name string) bool {
	id, err := object.ParseName(name)
	return err == nil && b.Catalog.Keeper(catalog.LogID{Broker: id.Broker, Epoch: id.Epoch}) == b.Writer.Broker()
}

// collect deletes what was retired long enough ago, by the key and by this
// process's own clock.
func (s *Sweeper) collect(ctx context.Context) error {
	all, err := s.Catalog.Garbage(ctx, math.MaxInt64, 10*perRound) // the oldest first
	if err != nil {
		return err
	}
	now, wall := time.Now(), s.cfg.Now().UnixMilli()
	seen := make(map[string]time.Time, len(all))
	var due []catalog.Garbage
	for _, g := range all {
		first, ok := s.seen[g.Key()]
		if !ok {
			first = now
		}
		seen[g.Key()] = first
		if g.Deadline <= wall && now.Sub(first) >= s.cfg.Grace && len(due) < perRound {
			due = append(due, g)
		}
	}
	s.seen = seen
	s.stats.waiting.Store(int64(len(all) - len(due)))
	for _, g := range due {
		if err := s.Limiter.Wait(ctx, deleteCost); err != nil {
			return err
		}
		if err := s.Store.Delete(ctx, object.Key(s.Catalog.ClusterID(), g.Object)); err != nil {
			return fmt.Errorf("delete object %s: %w", g.Object, err)
		}
		s.stats.deleted.Add(1)
	}
	return s.Writer.Collected(ctx, due)
}

// deleteCost is what a delete takes from the jobs' budget of bytes, so that a
// mass deletion is spread over time.
const deleteCost = 256 << 10

// expire raises the log start of every partition led here above what its topic's
// retention no longer wants. Only whole extents go, so nothing goes early.
func (s *Sweeper) expire(ctx context.Context) error {
	now := s.cfg.Now().UnixMilli()
	var errs []error
	for _, p := range s.Catalog.Partitions() {
		t, ok := s.Catalog.TopicByID(p.Topic)
		if !ok || !s.Catalog.Owns(p) {
			continue
		}
		set := t.Settings()
		if !set.Delete {
			continue
		}
		before := expired(s.Catalog.Extents(p), set, now)
		if before <= s.Catalog.Record(p).LogStart {
			continue
		}
		if err := s.starts.Raise(ctx, p, before); err != nil {
			if errs = append(errs, fmt.Errorf("expire %s: %w", p, err)); len(errs) == maxExpireErrors || ctx.Err() != nil {
				break
			}
			continue
		}
		s.stats.raised.Add(1)
	}
	return errors.Join(errs...)
}

// maxExpireErrors ends a round of expiry: then it is not a partition's fault.
const maxExpireErrors = 10

// expired returns the offset below which retention wants nothing. Time stops at
// the first extent that is young enough; an extent without timestamps never is
// old, unless it has no records either.
func expired(extents []catalog.Extent, set catalog.Settings, now int64) (before int64) {
	if set.RetentionMillis >= 0 {
		for _, x := range extents {
			if x.Bytes > 0 && (x.MaxTimestamp < 0 || x.MaxTimestamp > now-set.RetentionMillis) {
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

// SweepOrphans deletes objects that no key names: of this broker's epochs and of
// those it looks after. Each is claimed first, so that no transaction can make it
// visible any more, and what is on its way in this process is left alone (P12).
//
// Replacements that were staged must have been carried out before.
func (s *Sweeper) SweepOrphans(ctx context.Context) error {
	if err := s.carryAll(ctx); err != nil {
		return err
	}
	if err := s.sweepManifests(ctx); err != nil {
		return err
	}
	if s.cfg.Collects() {
		if err := s.sweepTombs(ctx); err != nil {
			return err
		}
	}
	before, err := s.Catalog.Swept(ctx)
	if err != nil {
		return err
	}
	prefix := object.Prefix(s.Catalog.ClusterID())
	limit := s.cfg.Now().Add(-s.cfg.Grace)
	there := map[string]bool{}
	var old []string
	err = s.Store.List(ctx, prefix, func(info blob.Info) error {
		name := info.Key[len(prefix):]
		id, err := object.ParseName(name)
		if err != nil {
			return nil // not ours to judge
		}
		log := catalog.LogID{Broker: id.Broker, Epoch: id.Epoch}
		own := log == s.Writer.ID()
		if !s.keeps(name) || !own && !s.Catalog.Sealed(log) {
			return nil
		}
		there[name] = true
		if info.Modified.After(limit) || s.Names.has(name) {
			return nil
		}
		old = append(old, name)
		return nil
	})
	if err != nil {
		return fmt.Errorf("list objects: %w", err)
	}
	unknown, err := s.Catalog.Unknown(ctx, old)
	if err != nil {
		return err
	}
	if unknown, err = s.Writer.Sweep(ctx, unknown[:min(len(unknown), perRound)]); err != nil {
		return err
	}
	for _, name := range unknown {
		if err := s.Limiter.Wait(ctx, deleteCost); err != nil {
			return err
		}
		s.Log.Info("delete an orphan object", "object", name)
		if err := s.Store.Delete(ctx, object.Key(s.Catalog.ClusterID(), name)); err != nil {
			return fmt.Errorf("delete orphan %s: %w", name, err)
		}
		s.stats.deleted.Add(1)
		s.stats.swept.Add(1)
	}
	// What was swept before this listing began and is not in it is gone for good
	// once nobody is left who might put it.
	gone := slices.DeleteFunc(before, func(name string) bool {
		id, err := object.ParseName(name)
		return err != nil || there[name] || !s.keeps(name) || !s.Catalog.Sealed(catalog.LogID{Broker: id.Broker, Epoch: id.Epoch})
	})
	return s.Writer.Unsweep(ctx, gone)
}

// stopped says that a round's error ends the process's jobs.
func stopped(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, catalog.ErrFenced)
}
