package write

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/blob/blobmem"
	"github.com/looptape/looptape/internal/base/meta/metamem"
	"github.com/looptape/looptape/internal/broker/store/catalog"
)

// saved is a catalog and a bucket, for snapshots of the one in the other.
type saved struct {
	catalog *catalog.Catalog
	meta    *metamem.Store
	blobs   *blobmem.Store
	topics  int
}

// save runs a test in a synctest bubble.
func save(t *testing.T, test func(t *testing.T, s *saved)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &saved{meta: metamem.New(), blobs: blobmem.New()}
		var err error
		if s.catalog, err = catalog.Open(t.Context(), s.meta, catalog.Config{}); err != nil {
			t.Fatal(err)
		}
		test(t, s)
		if err := s.meta.Close(); err != nil {
			t.Error(err)
		}
	})
}

func (s *saved) change(t *testing.T) {
	t.Helper()
	s.topics++
	if _, err := s.catalog.CreateTopic(t.Context(), catalog.Topic{Name: fmt.Sprint("t", s.topics), Partitions: 1}); err != nil {
		t.Fatal(err)
	}
}

func (s *saved) run(ctx context.Context, cfg SnapshotConfig) (*Snapshotter, <-chan error) {
	n := NewSnapshotter(s.catalog, s.blobs, cfg, slog.New(slog.DiscardHandler))
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	return n, ended
}

// puts counts the snapshots there are.
func (s *saved) puts(t *testing.T) int {
	t.Helper()
	all, err := Snapshots(t.Context(), s.blobs, s.catalog.ClusterID())
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// Every hour in which something changed, and only then, also across restarts.
func TestSnapshots(t *testing.T) {
	save(t, func(t *testing.T, s *saved) {
		ctx, cancel := context.WithCancel(t.Context())
		n, ended := s.run(ctx, SnapshotConfig{})
		s.change(t)
		for hour, c := range []struct{ changes, want int }{{0, 1}, {0, 1}, {3, 2}, {0, 2}, {1, 3}} {
			for range c.changes {
				s.change(t)
			}
			time.Sleep(time.Hour)
			synctest.Wait()
			if got := s.puts(t); got != c.want {
				t.Errorf("hour %d: %d snapshots, want %d", hour, got, c.want)
			}
		}
		newest, err := NewestSnapshot(t.Context(), s.blobs, s.catalog.ClusterID())
		if err != nil {
			t.Fatal(err)
		}
		now, err := s.catalog.Snapshot(t.Context())
		if d := cmp.Diff(now.Entries, newest.Entries); d != "" || err != nil || newest.Number != now.Number {
			t.Errorf("number %d of %d, %v\n%s", newest.Number, now.Number, err, d)
		}
		if st := n.Stats(); st.Number != now.Number || st.Bytes == 0 || st.Failed != 0 || !st.Taken.Equal(newest.Taken) {
			t.Errorf("%+v", st)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		// The next process knows what is there.
		n, _ = s.run(t.Context(), SnapshotConfig{Every: time.Minute})
		taken, err := n.Round(t.Context())
		if taken || err != nil || n.Stats().Number != now.Number {
			t.Errorf("taken %v, %v, %+v", taken, err, n.Stats())
		}
		s.change(t)
		if taken, err := n.Round(t.Context()); !taken || err != nil {
			t.Errorf("taken %v, %v", taken, err)
		}
	})
}

func TestSnapshotsAreOffOrAnothers(t *testing.T) {
	save(t, func(t *testing.T, s *saved) {
		s.change(t)
		if _, ended := s.run(t.Context(), SnapshotConfig{Every: -1}); <-ended != nil {
			t.Error("an error")
		}
		var mine atomic.Bool
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		_, ended := s.run(ctx, SnapshotConfig{Mine: mine.Load})
		time.Sleep(3 * time.Hour)
		if n := s.puts(t); n != 0 {
			t.Errorf("%d snapshots by a broker that should take none", n)
		}
		mine.Store(true)
		time.Sleep(time.Hour + time.Second)
		if n := s.puts(t); n != 1 {
			t.Errorf("%d snapshots", n)
		}
		cancel()
		<-ended
	})
	if SnapshotConfig.Interval(SnapshotConfig{}) != time.Hour || SnapshotConfig.Interval(SnapshotConfig{Every: -1}) != 0 {
		t.Error("intervals")
	}
}

// A failing store costs a retry, not a snapshot; old ones go, the newest stay; a
// damaged one is no reason to take none.
func TestSnapshotFaults(t *testing.T) {
	save(t, func(t *testing.T, s *saved) {
		down := errors.New("down")
		n := NewSnapshotter(s.catalog, s.blobs, SnapshotConfig{Keep: 3}, slog.New(slog.DiscardHandler))
		for _, method := range []string{"List", "Put"} {
			for _, after := range []bool{false, true} {
				s.change(t)
				s.blobs.SetFault(func(c blobmem.Call) (f blobmem.Fault) {
					if c.Method == method {
						if f.Before = down; after {
							f = blobmem.Fault{After: down}
						}
					}
					return f
				})
				if _, err := n.Round(t.Context()); !errors.Is(err, down) {
					t.Errorf("%s: %v", method, err)
				}
				s.blobs.SetFault(nil)
				if _, err := n.Round(t.Context()); err != nil {
					t.Errorf("%s, then: %v", method, err)
				}
				newest, err := NewestSnapshot(t.Context(), s.blobs, s.catalog.ClusterID())
				now, _ := s.catalog.Snapshot(t.Context())
				if err != nil || newest.Sum() != now.Sum() {
					t.Errorf("%s: the newest snapshot is old, %v", method, err)
				}
			}
		}
		for range 5 {
			s.change(t)
			if _, err := n.Round(t.Context()); err != nil {
				t.Error(err)
			}
		}
		all, err := Snapshots(t.Context(), s.blobs, s.catalog.ClusterID())
		if len(all) != 3 || err != nil || all[2] != n.Stats().Number {
			t.Errorf("%v, %v, newest %d", all, err, n.Stats().Number)
		}
		// One bit of the newest.
		key := SnapshotKey(s.catalog.ClusterID(), all[2])
		info, err := s.blobs.Stat(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		body := make([]byte, info.Size)
		if _, err := s.blobs.GetRange(t.Context(), key, 0, body); err != nil {
			t.Fatal(err)
		}
		body[len(body)/2] ^= 1
		damaged := blobmem.New()
		if err := damaged.Put(t.Context(), key, bytes.NewReader(body), int64(len(body))); err != nil {
			t.Fatal(err)
		}
		if _, err := NewestSnapshot(t.Context(), damaged, s.catalog.ClusterID()); !errors.Is(err, catalog.ErrCorrupt) {
			t.Errorf("damaged: %v", err)
		}
		s.change(t)
		n = NewSnapshotter(s.catalog, damaged, SnapshotConfig{}, slog.New(slog.DiscardHandler))
		if taken, err := n.Round(t.Context()); !taken || err != nil {
			t.Errorf("beside a damaged one: taken %v, %v", taken, err)
		}
		if _, err := NewestSnapshot(t.Context(), blobmem.New(), "x"); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("none: %v", err)
		}
	})
}

// While snapshots fail they are tried every minute.
func TestSnapshotRetry(t *testing.T) {
	save(t, func(t *testing.T, s *saved) {
		ctx, cancel := context.WithCancel(t.Context())
		n, ended := s.run(ctx, SnapshotConfig{})
		s.change(t)
		s.blobs.SetFault(func(blobmem.Call) blobmem.Fault { return blobmem.Fault{Before: errors.New("down")} })
		time.Sleep(time.Hour + 5*time.Minute + time.Second)
		s.blobs.SetFault(nil)
		if st := n.Stats(); st.Failed != 6 || st.Number != 0 {
			t.Errorf("%+v", st)
		}
		time.Sleep(time.Minute)
		if got := s.puts(t); got != 1 {
			t.Errorf("%d snapshots", got)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
