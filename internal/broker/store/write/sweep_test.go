package write

import (
	"bytes"
	"context"
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/blob/blobmem"
	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/object"
)

// rounds runs a job's rounds.
func (w *world) rounds(all ...func(context.Context) error) {
	w.t.Helper()
	for _, round := range all {
		if err := round(context.Background()); err != nil {
			w.t.Fatal(err)
		}
	}
}

// A partition whose records are all gone still knows its next offset and its
// producers, and keeps no records for it (P10).
func TestEndsOutliveObjects(t *testing.T) {
	w := newWorld(t, 1)
	w.topic("a", 4, nil)
	for range 9 {
		w.flush(func(m *modelPart) {
			w.some(m)
			m.take(w.build(batch.Plain, 1, 100))
		}, 2)
	}
	for _, m := range w.parts[1:] {
		if _, err := w.w.SetLogStart(context.Background(), m.p, m.next); err != nil {
			t.Fatal(err)
		}
	}
	w.check()
	w.rounds(w.jobs.Sweep, w.jobs.Merge)
	w.clean()
	w.check()
	for _, m := range w.parts[1:] {
		all := w.c.Extents(m.p)
		if len(all) != 1 || all[0].Base != all[0].End || all[0].TailDepth != 0 || all[0].Bytes != 0 {
			t.Errorf("%s: %+v", m.p, all)
		}
	}
	// The next life goes on where this one ended, and so on.
	for range 12 {
		w.start()
		w.flush(w.some)
		w.check()
	}
	w.rounds(w.jobs.Merge)
	w.check()
	w.clean()
	w.stop()
}

func TestRetentionByTimeAndSize(t *testing.T) {
	w := newWorld(t, 2)
	w.topic("time", 1, map[string]string{"retention.ms": "1000"})
	w.topic("size", 1, map[string]string{"retention.ms": "-1", "retention.bytes": "1000"})
	base := w.now.UnixMilli()
	for i := range int64(10) {
		w.flush(func(m *modelPart) {
			m.take(batch.Build(batch.Plain, batch.KV{Timestamp: base + i*1000, Value: make([]byte, 400)}))
		})
	}
	w.now = w.now.Add(10 * time.Second)
	w.rounds(w.jobs.Sweep)
	w.check()
	if s := w.c.Record(w.parts[0].p).LogStart; s != 10 { // the youngest is a second old
		t.Errorf("by time: log start %d", s)
	}
	if s := w.c.Record(w.parts[1].p).LogStart; s != 7 {
		t.Errorf("by size: log start %d", s)
	}
	w.rounds(w.jobs.Merge)
	w.clean()
	w.check()
	w.stop()
}

// A deleted topic leaves no object, whatever the jobs made of it, and whatever is
// committed after the deletion.
func TestDeletedTopicLeavesNothing(t *testing.T) {
	w := busy(t, 5, 20)
	w.rounds(w.jobs.Merge)
	w.flush(w.some, 1)
	other := w.topic("other", 1, nil)
	w.flush(func(m *modelPart) { m.take(w.build(batch.Plain, 3, 50)) }, 0)
	late := w.parts[0].part([]batch.Batch{w.parts[0].take(w.build(batch.Plain, 1, 10))}, nil, w.parts[0].next-1)
	for _, name := range []string{"a", "b"} {
		if err := w.c.DeleteTopic(context.Background(), name); err != nil {
			t.Fatal(err)
		}
	}
	w.commit([][]object.Part{{late}}, true) // was on its way
	w.commit([][]object.Part{{late}}, false)
	w.rounds(w.jobs.Merge)
	w.clean()
	w.check()
	for _, v := range w.c.Visible() {
		for _, r := range v.Ranges {
			if r.Partition.Topic != other {
				t.Errorf("%s still holds %s", v.Object.Name, r.Partition)
			}
		}
	}
	if err := w.c.DeleteTopic(context.Background(), "other"); err != nil {
		t.Fatal(err)
	}
	w.clean()
	if left := w.data(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	w.stop()
}

// TestTrap11TornUpload: what an upload left behind is never seen: objects are
// visible by a commit alone, and one that is torn is refused by its own checks.
func TestTrap11TornUpload(t *testing.T) {
	w := newWorld(t, 1)
	w.topic("a", 1, nil)
	w.flush(func(m *modelPart) { m.take(w.build(batch.Plain, 2, 100)) })
	m := w.parts[0]
	saved := *m
	part := m.part([]batch.Batch{m.take(w.build(batch.Plain, 1, 10))}, nil, 2)
	*m = saved
	id := object.Identity{Cluster: w.c.ClusterID(), Epoch: w.w.Epoch(), Kind: object.Flush, Seq: 99}
	p, err := object.Pack(object.Footer{Identity: id}, 0, []object.Part{part})
	if err != nil {
		t.Fatal(err)
	}
	// Put and not committed: the store lists it, no reader sees it.
	if err := w.blobs.Put(context.Background(), object.Key(w.c.ClusterID(), id.Name()), p, p.Size()); err != nil {
		t.Fatal(err)
	}
	w.check()
	w.start()
	w.check()
	// Torn anywhere: the commit's own knowledge of it (size, index, CRCs) refuses it.
	whole := make([]byte, p.Size())
	if _, err := p.ReadAt(whole, 0); err != nil {
		t.Fatal(err)
	}
	o := newObject(&packed{p, "0-0000000009-f0000000001", false})
	var torn [][]byte
	for n := range whole { // the rest is missing, or a piece in the middle is
		torn = append(torn, append(bytes.Clone(whole[:n]), make([]byte, len(whole)-n)...))
		middle := bytes.Clone(whole)
		clear(middle[n:min(n+4, len(middle))])
		torn = append(torn, middle)
	}
	for i, torn := range torn {
		n := i / 2
		if bytes.Equal(torn, whole) {
			continue
		}
		store := blobmem.New()
		if err := store.Put(context.Background(), object.Key(w.c.ClusterID(), o.Object.Name), bytes.NewReader(torn), int64(len(torn))); err != nil {
			t.Fatal(err)
		}
		g := &gets{store, nil, &JobStats{}}
		read := func() error {
			in, err := g.open(context.Background(), w.c.ClusterID(), catalog.Visible{Object: o.Object})
			if err != nil {
				return err
			}
			for _, e := range in.index.Blocks {
				if _, err := g.block(context.Background(), in, e); err != nil {
					return err
				}
			}
			_, err = g.tail(context.Background(), in, m.p, 2)
			return err
		}
		header := bytes.Equal(torn[object.HeaderSize:], whole[object.HeaderSize:])
		footer := bytes.Equal(torn[:p.Footer.IndexPos+p.Footer.IndexLen], whole[:p.Footer.IndexPos+p.Footer.IndexLen])
		if err := read(); !header && !footer && !errors.Is(err, object.ErrCorrupt) {
			t.Fatalf("torn at %d: %v", n, err)
		}
		if footer {
			if _, err := object.DecodeFooter(torn[p.Footer.IndexPos+p.Footer.IndexLen:]); !errors.Is(err, object.ErrCorrupt) {
				t.Fatalf("torn at %d: %v", n, err)
			}
		}
	}
	w.clean()
	w.stop()
}

// TestTrap12Orphans: what no key names is found and deleted, of dead epochs and of
// the living one; but never what is on its way, and what was swept can't become
// visible any more.
func TestTrap12Orphans(t *testing.T) {
	w := newWorld(t, 1)
	w.topic("a", 1, nil)
	m := w.parts[0]
	ctx := context.Background()
	put := func(epoch, seq int64) (catalog.NewObject, string) {
		t.Helper()
		saved := *m
		part := m.part([]batch.Batch{m.take(w.build(batch.Plain, 1, 10))}, nil, saved.next)
		*m = saved
		id := object.Identity{Cluster: w.c.ClusterID(), Epoch: epoch, Kind: object.Merge, Seq: seq}
		p, err := object.Pack(object.Footer{Identity: id}, 0, []object.Part{part})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.blobs.Put(ctx, object.Key(w.c.ClusterID(), id.Name()), p, p.Size()); err != nil {
			t.Fatal(err)
		}
		return newObject(&packed{p, id.Name(), false}), id.Name()
	}
	put(w.w.Epoch(), 90)
	w.start()
	_, lost := put(w.w.Epoch(), 91)
	onItsWay, busy := put(w.w.Epoch(), 92)
	w.jobs.base.Names.add(busy)
	put(w.w.Epoch()+7, 93) // of an epoch that nobody knows: not ours to judge
	w.now = w.now.Add(time.Hour)
	w.rounds(w.jobs.Sweep)
	if left := w.data(); len(left) != 2 {
		t.Fatalf("left: %v", left)
	}
	// A late commit of a swept object fails; the other one's succeeds.
	_, again := put(w.w.Epoch(), 91)
	if again != lost {
		t.Fatal(again)
	}
	late, _ := catalog.NewObject{Object: &catalog.Object{Name: lost, Size: 100, Partitions: 1}}, 0
	if err := w.w.Replace(ctx, catalog.Replace{Outputs: []catalog.NewObject{late}}); !errors.Is(err, catalog.ErrChanged) {
		t.Errorf("commit of a swept object: %v", err)
	}
	if err := w.w.Replace(ctx, catalog.Replace{Outputs: []catalog.NewObject{onItsWay}}); err != nil {
		t.Error(err)
	}
	// The one that came late is an orphan again; its mark goes when the epoch is over.
	w.rounds(w.jobs.Sweep)
	w.start()
	w.rounds(w.jobs.Sweep, w.jobs.Sweep)
	if left, err := w.c.Swept(ctx); err != nil || len(left) != 0 {
		t.Errorf("swept keys left: %v %v", left, err)
	}
	if left := w.data(); len(left) != 2 {
		t.Errorf("left: %v", left)
	}
	w.stop()
}

// A sweeper that claims an object which a commit has just made visible lets go.
func TestSweepAfterCommit(t *testing.T) {
	w := newWorld(t, 1)
	w.topic("a", 1, nil)
	w.flush(func(m *modelPart) { m.take(w.build(batch.Plain, 2, 100)) })
	name := w.c.Visible()[0].Object.Name
	swept, err := w.w.Sweep(context.Background(), []string{name})
	if err != nil || len(swept) != 0 {
		t.Fatal(swept, err)
	}
	if left, err := w.c.Swept(context.Background()); err != nil || len(left) != 0 {
		t.Fatal(left, err)
	}
	w.stop()
}

// TestTrap13MergeWhileReading: a merged or retired object stays until the grace
// has passed, so that a reader who looked before can finish, however late.
func TestTrap13MergeWhileReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const grace = 10 * time.Minute
		w := newWorld(t, 1)
		w.cfg.Sweep = SweepConfig{Grace: grace, Now: time.Now}
		w.start()
		w.topic("a", 1, nil)
		for range 6 {
			w.flush(func(m *modelPart) { m.take(w.build(batch.Plain, 2, 100)) })
		}
		m := w.parts[0]
		reader := w.c.Extents(m.p) // what a reader holds who is about to get
		names := func() (gone int) {
			for _, x := range reader {
				_, err := w.blobs.Stat(t.Context(), object.Key(w.c.ClusterID(), x.Object.Name))
				if errors.Is(err, blob.ErrNotFound) {
					gone++
				}
			}
			return gone
		}
		w.rounds(w.jobs.Merge)
		if len(w.c.Extents(m.p)) >= len(reader) {
			t.Fatal("nothing was merged")
		}
		garbage, err := w.c.Garbage(t.Context(), math.MaxInt64, 100)
		if err != nil || len(garbage) == 0 {
			t.Fatal(garbage, err)
		}
		for _, g := range garbage {
			if g.Deadline < time.Now().Add(grace).UnixMilli() {
				t.Errorf("%s may be deleted at %d", g.Object, g.Deadline)
			}
		}
		for range 9 {
			w.rounds(w.jobs.Sweep)
			if n := names(); n != 0 {
				t.Fatalf("%d objects of a reader are gone", n)
			}
			time.Sleep(time.Minute)
		}
		time.Sleep(2 * time.Minute)
		w.rounds(w.jobs.Sweep)
		if n := names(); n != len(reader) {
			t.Errorf("%d of %d objects are gone after the grace", n, len(reader))
		}
		w.check()
		// A new process waits for the grace itself: its clock has seen nothing yet.
		w.flush(func(m *modelPart) { m.take(w.build(batch.Plain, 2, 100)) })
		w.flush(func(m *modelPart) { m.take(w.build(batch.Plain, 2, 100)) })
		reader = w.c.Extents(m.p)
		w.rounds(w.jobs.Merge)
		time.Sleep(2 * grace)
		w.start()
		w.rounds(w.jobs.Sweep)
		if n := names(); n != 0 {
			t.Errorf("a new process deleted %d objects at once", n)
		}
		time.Sleep(grace)
		w.rounds(w.jobs.Sweep)
		if n := names(); n == 0 {
			t.Error("nothing is deleted")
		}
		w.check()
		w.stop()
	})
}

// clocked is a store with a clock of its own.
type clocked struct {
	blob.Store
	now func() time.Time
	err error
}

func (c clocked) Now(context.Context) (time.Time, error) { return c.now(), c.err }

func TestClockGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var skew, theirs time.Duration
		now := func() time.Time { return time.Now().Add(skew) }
		var fail error
		g := newClockGuard(clocked{blobmem.New(), func() time.Time { return time.Now().Add(theirs) }, fail}, now)
		ask := func(want bool, what string) {
			t.Helper()
			time.Sleep(time.Minute)
			if got, err := g.trusted(t.Context()); err != nil || got != want {
				t.Errorf("%s: %t, %v", what, got, err)
			}
		}
		ask(true, "at first")
		skew = 4 * time.Minute
		ask(true, "a little ahead")
		skew = 20 * time.Minute
		ask(false, "jumped ahead")
		ask(false, "still ahead of the store")
		theirs = 20 * time.Minute
		ask(true, "both ahead")
		skew, theirs = -time.Hour, -time.Hour
		ask(false, "jumped back with the store")
		ask(true, "and stays there")
		g = newClockGuard(clocked{blobmem.New(), now, errors.New("unreachable")}, now)
		if ok, err := g.trusted(t.Context()); ok || err == nil {
			t.Error("a store that does not answer is not trusted")
		}
		g = newClockGuard(blobmem.New(), now)
		ask(true, "no clock")
		skew += time.Hour
		ask(false, "no clock, jumped")
	})
}

// Nothing expires by a clock that jumped.
func TestNothingExpiresByABadClock(t *testing.T) {
	w := newWorld(t, 1)
	w.topic("a", 1, map[string]string{"retention.ms": "1000"})
	w.flush(func(m *modelPart) { m.take(batch.Build(batch.Plain, batch.KV{Timestamp: w.now.UnixMilli()})) })
	w.rounds(w.jobs.Sweep)
	w.now = w.now.Add(24 * time.Hour)
	w.rounds(w.jobs.sweeper.Round)
	if s := w.c.Record(w.parts[0].p).LogStart; s != 0 || w.jobs.Sweeper().Stats().Distrusted != 1 {
		t.Errorf("log start %d, %+v", s, w.jobs.Sweeper().Stats())
	}
	w.rounds(w.jobs.Sweep) // it has not jumped since: an operator set it
	if s := w.c.Record(w.parts[0].p).LogStart; s != 1 {
		t.Errorf("log start %d", s)
	}
	w.stop()
}

func TestLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy := false
		l := NewLimiter(1000, func() bool { return busy })
		took := func(n int64) time.Duration {
			began := time.Now()
			for range n / 100 {
				if err := l.Wait(t.Context(), 100); err != nil {
					t.Fatal(err)
				}
			}
			return time.Since(began)
		}
		if d := took(5000); d < 4500*time.Millisecond || d > 5*time.Second {
			t.Error("5000 bytes took", d)
		}
		busy = true
		if d := took(1000); d < 3900*time.Millisecond || d > 4100*time.Millisecond {
			t.Error("1000 bytes took", d, "while busy")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if l.Wait(ctx, 1) == nil || NewLimiter(0, nil).Wait(ctx, 1) == nil {
			t.Error("ended")
		}
		if err := NewLimiter(-1, nil).Wait(t.Context(), 1<<40); err != nil {
			t.Error(err)
		}
	})
}
