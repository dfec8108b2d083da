package write

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/run"
	"github.com/looptape/looptape/internal/broker/store/catalog"
)

// SnapshotConfig tunes a Snapshotter. The zero value is the default. What the
// newest but one names has to outlive it, so a Sweeper has to know Every.
type SnapshotConfig struct {
	Every time.Duration // between snapshots; default 1 h, negative: none are taken
	Keep  int           // newest snapshots that stay; default 48
	// Mine says whether this broker is the one that takes them; nil: it is.
	Mine func() bool
}

// Interval is the time between snapshots; 0: none are taken.
func (c SnapshotConfig) Interval() time.Duration { return max(0, c.withDefaults().Every) }

func (c SnapshotConfig) withDefaults() SnapshotConfig {
	if c.Every == 0 {
		c.Every = time.Hour
	}
	if c.Keep <= 0 {
		c.Keep = 48
	}
	if c.Mine == nil {
		c.Mine = func() bool { return true }
	}
	return c
}

// SnapshotStats says what became of snapshots.
type SnapshotStats struct {
	Number int64     // of the newest this broker knows of; 0: none
	Taken  time.Time // the newest this broker put
	Bytes  int64     // of it
	Failed int64     // attempts
}

// Snapshotter puts snapshots of the catalog into the object store, if there is
// something new in them, and removes old ones.
type Snapshotter struct {
	catalog *catalog.Catalog
	store   blob.Store
	cfg     SnapshotConfig
	log     *slog.Logger
	stats   atomic.Pointer[SnapshotStats]
	sum     [32]byte // of the newest one's entries
	known   bool     // sum
}

// NewSnapshotter returns a snapshotter.
func NewSnapshotter(cat *catalog.Catalog, store blob.Store, cfg SnapshotConfig, log *slog.Logger) *Snapshotter {
	s := &Snapshotter{catalog: cat, store: store, cfg: cfg.withDefaults(), log: log}
	s.stats.Store(&SnapshotStats{})
	return s
}

// Stats says what became of snapshots.
func (s *Snapshotter) Stats() SnapshotStats { return *s.stats.Load() }

// snapshotRetry is between a failed attempt and the next.
const snapshotRetry = time.Minute

// Run takes snapshots until ctx ends. Failures are logged and tried again.
func (s *Snapshotter) Run(ctx context.Context) error {
	if s.cfg.Every < 0 {
		return nil
	}
	for wait := s.cfg.Every; run.Sleep(ctx, wait) == nil; {
		wait = s.cfg.Every
		if !s.cfg.Mine() {
			s.known = false // another broker goes on from here
			continue
		}
		if _, err := s.Round(ctx); err != nil && ctx.Err() == nil {
			wait = min(wait, snapshotRetry)
			st := s.Stats()
			st.Failed++
			s.stats.Store(&st)
			s.log.Warn("snapshot of the metadata failed and will be tried again", "error", err, "failed", st.Failed)
		}
	}
	return nil
}

// Round takes a snapshot if the catalog holds something else than the newest one,
// and says whether it did.
func (s *Snapshotter) Round(ctx context.Context) (taken bool, err error) {
	if !s.known {
		if err := s.look(ctx); err != nil {
			return false, err
		}
	}
	snap, err := s.catalog.Snapshot(ctx)
	if err != nil {
		return false, err
	}
	if s.known && snap.Sum() == s.sum {
		return false, nil
	}
	body, err := snap.Encode()
	if err != nil {
		return false, err
	}
	key := SnapshotKey(snap.Cluster, snap.Number)
	err = s.store.Put(ctx, key, bytes.NewReader(body), int64(len(body)))
	if errors.Is(err, blob.ErrExists) {
		// A revision has one content, so it is the same but for the time it says.
		err = nil
	}
	if err != nil {
		return false, fmt.Errorf("put snapshot %s: %w", key, err)
	}
	// True now: losing the coordinating store loses what comes after this number.
	s.sum, s.known = snap.Sum(), true
	st := s.Stats()
	st.Number, st.Taken, st.Bytes = snap.Number, snap.Taken, int64(len(body))
	s.stats.Store(&st)
	return true, s.prune(ctx)
}

// look reads what the newest snapshot holds.
func (s *Snapshotter) look(ctx context.Context) error {
	snap, err := NewestSnapshot(ctx, s.store, s.catalog.ClusterID())
	switch {
	case errors.Is(err, blob.ErrNotFound):
		return nil
	case errors.Is(err, catalog.ErrCorrupt):
		s.log.Error("the newest snapshot of the metadata is damaged; another one is taken", "error", err)
		return nil
	case err != nil:
		return err
	}
	s.sum, s.known = snap.Sum(), true
	st := s.Stats()
	st.Number = snap.Number
	s.stats.Store(&st)
	return nil
}

func (s *Snapshotter) prune(ctx context.Context) error {
	numbers, err := Snapshots(ctx, s.store, s.catalog.ClusterID())
	if err != nil {
		return err
	}
	for _, n := range numbers[:max(0, len(numbers)-s.cfg.Keep)] {
		if err := s.store.Delete(ctx, SnapshotKey(s.catalog.ClusterID(), n)); err != nil {
			return fmt.Errorf("delete old snapshot %d: %w", n, err)
		}
	}
	return nil
}

func snapshotPrefix(cluster string) string { return "meta/" + cluster + "/" }

// SnapshotKey is the object that a snapshot is.
func SnapshotKey(cluster string, number int64) string {
	return fmt.Sprintf("%s%020d", snapshotPrefix(cluster), number)
}

// Snapshots lists the numbers of a cluster's snapshots, ascending.
func Snapshots(ctx context.Context, store blob.Store, cluster string) ([]int64, error) {
	var all []int64
	prefix := snapshotPrefix(cluster)
	if err := store.List(ctx, prefix, func(info blob.Info) error {
		n, err := strconv.ParseInt(strings.TrimPrefix(info.Key, prefix), 10, 64)
		if err == nil && SnapshotKey(cluster, n) == info.Key {
			all = append(all, n)
		}
		return nil
	}); err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	return all, nil
}

// maxSnapshot bounds what is read as one snapshot.
const maxSnapshot = 4 << 30

// ReadSnapshot reads a snapshot.
func ReadSnapshot(ctx context.Context, store blob.Store, cluster string, number int64) (catalog.Snapshot, error) {
	key := SnapshotKey(cluster, number)
	info, err := store.Stat(ctx, key)
	if err != nil {
		return catalog.Snapshot{}, fmt.Errorf("read snapshot %s: %w", key, err)
	}
	if info.Size > maxSnapshot {
		return catalog.Snapshot{}, fmt.Errorf("read snapshot %s: %w: %d bytes", key, catalog.ErrCorrupt, info.Size)
	}
	body := make([]byte, info.Size)
	if len(body) > 0 {
		if _, err := store.GetRange(ctx, key, 0, body); err != nil {
			return catalog.Snapshot{}, fmt.Errorf("read snapshot %s: %w", key, err)
		}
	}
	snap, err := catalog.DecodeSnapshot(body)
	if err == nil && (snap.Cluster != cluster || snap.Number != number) {
		err = fmt.Errorf("%w: it says it is %d of cluster %s", catalog.ErrCorrupt, snap.Number, snap.Cluster)
	}
	if err != nil {
		return catalog.Snapshot{}, fmt.Errorf("read snapshot %s: %w", key, err)
	}
	return snap, nil
}

// NewestSnapshot reads the newest snapshot; blob.ErrNotFound: there is none.
func NewestSnapshot(ctx context.Context, store blob.Store, cluster string) (catalog.Snapshot, error) {
	number, err := newestSnapshot(ctx, store, cluster)
	if err != nil {
		return catalog.Snapshot{}, err
	}
	return ReadSnapshot(ctx, store, cluster, number)
}

func newestSnapshot(ctx context.Context, store blob.Store, cluster string) (number int64, err error) {
	numbers, err := Snapshots(ctx, store, cluster)
	if err == nil && len(numbers) == 0 {
		err = fmt.Errorf("no snapshot of cluster %s: %w", cluster, blob.ErrNotFound)
	}
	if err != nil {
		return 0, err
	}
	return numbers[len(numbers)-1], nil
}

// Outdated returns nil if the catalog holds all that the newest snapshot in the
// bucket does, and why not otherwise. It reads the beginning of the snapshot, and
// only before it finds fault all of it.
func Outdated(ctx context.Context, store blob.Store, c *catalog.Catalog) (why, err error) {
	number, err := newestSnapshot(ctx, store, c.ClusterID())
	if errors.Is(err, blob.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	key := SnapshotKey(c.ClusterID(), number)
	head := make([]byte, catalog.SnapshotHeaderBytes)
	if _, err := store.GetRange(ctx, key, 0, head); err != nil {
		return nil, fmt.Errorf("read snapshot %s: %w", key, err)
	}
	snap, err := catalog.DecodeSnapshotHeader(head)
	if err != nil {
		return nil, fmt.Errorf("read snapshot %s: %w", key, err)
	}
	if why, err := c.Outdated(ctx, snap); why == nil || err != nil {
		return nil, err
	}
	if snap, err = ReadSnapshot(ctx, store, c.ClusterID(), number); err != nil {
		return nil, err
	}
	return c.Outdated(ctx, snap)
}
