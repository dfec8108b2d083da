package write

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/looptape/looptape/internal/base/blob/blobmem"
	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/object"
)

// busy fills a world with sets and singles of three partitions: one that is in
// every flush, one that is seldom, one that is large now and then.
func busy(t testing.TB, seed uint64, flushes int) *world {
	w := newWorld(t, seed)
	w.topic("a", 2, nil)
	w.topic("b", 1, nil)
	for i := range flushes {
		var single []int
		if i%4 == 3 {
			single = []int{1}
		}
		w.flush(func(m *modelPart) {
			if m == w.parts[0] || m == w.parts[1] || w.r.IntN(3) == 0 {
				w.some(m)
			}
			if len(single) > 0 && m == w.parts[1] {
				m.take(w.build(batch.Plain, 2, 1500))
			}
		}, single...)
	}
	return w
}

func TestMerge(t *testing.T) {
	for seed := range uint64(8) {
		w := busy(t, seed, 30)
		w.check()
		before := len(w.data())
		if err := w.jobs.Merge(context.Background()); err != nil {
			t.Fatal(seed, err)
		}
		w.check()
		w.clean()
		w.check()
		s := w.jobs.Merger().Stats()
		if after := len(w.data()); after > before/2 || s.Jobs == 0 || s.Conflicts != 0 {
			t.Fatalf("seed %d: %d objects became %d, %+v", seed, before, after, s)
		}
		w.stop()
	}
}

// A process that dies at any remote call of a merge, before or after its effect,
// loses nothing, and what it leaves behind is swept.
func TestMergeDiesAtEveryCall(t *testing.T) {
	for _, after := range []bool{false, true} {
		for k := 1; ; k++ {
			w := busy(t, 3, 12)
			reached := w.failAt(k, after)
			err := w.jobs.Merge(context.Background())
			w.heal()
			if !reached() {
				if err != nil || k < 20 {
					t.Fatal(k, err)
				}
				w.stop()
				break
			}
			w.start()
			w.check()
			if err := w.jobs.Merge(context.Background()); err != nil {
				t.Fatal(k, err)
			}
			w.check()
			w.clean()
			w.check()
			w.stop()
		}
	}
}

// However many flushes, levels keep the sets few.
func TestSetsAreBounded(t *testing.T) {
	w := newWorld(t, 1)
	w.topic("a", 3, nil)
	most := 0
	for range 120 {
		w.flush(w.some)
		if err := w.jobs.Merge(context.Background()); err != nil {
			t.Fatal(err)
		}
		sets := slices.DeleteFunc(w.c.Visible(), func(v catalog.Visible) bool { return v.Single })
		most = max(most, len(sets))
	}
	w.check()
	if n := len(w.c.Visible()); most > 8 || n > 60 {
		t.Errorf("%d sets at most, %d objects", most, n)
	}
	w.stop()
}

// A span of a partition that is in an object of its own leaves a hole in a merged
// set, which holds what is before and after it as spans of their own.
func TestMergeAroundAnObject(t *testing.T) {
	w := newWorld(t, 1)
	w.cfg.Merge.LeaveBytes = 1 << 20
	w.start()
	w.topic("a", 1, nil)
	one := func(m *modelPart) { m.take(w.build(batch.Plain, 2, 100)) }
	w.flush(one)
	w.flush(one, 0)
	w.flush(one)
	w.flush(one)
	if err := w.jobs.Merge(context.Background()); err != nil {
		t.Fatal(err)
	}
	w.check()
	var spans []string
	for _, x := range w.c.Extents(w.parts[0].p) {
		id, _ := object.ParseName(x.Object.Name)
		spans = append(spans, fmt.Sprintf("%c%d-%d", id.Kind, x.Base, x.End))
	}
	if got := fmt.Sprint(spans); got != "[m0-2 f2-4 m4-8]" {
		t.Error(got)
	}
	w.clean()
	w.check()
	w.stop()
}

// wide fills sets with many partitions that each have enough to leave: more than a
// transaction has keys for.
func wide(t testing.TB) *world {
	w := newWorld(t, 7)
	w.cfg.Merge = MergeConfig{FanIn: 3, MiddleBytes: 1 << 20, LargeBytes: 2 << 20, LeaveBytes: 300, BlockBytes: 2 << 10, Memory: 1}
	w.start()
	w.topic("wide", 34, map[string]string{"retention.ms": "-1"})
	for range 3 {
		w.flush(func(m *modelPart) { m.take(w.build(batch.Plain, 1, 200)) })
	}
	return w
}

func TestStagedReplacement(t *testing.T) {
	w := wide(t)
	w.rounds(w.jobs.Merge)
	w.check()
	if n := len(w.c.Visible()); n != 34 {
		t.Errorf("%d objects", n)
	}
	w.clean()
	w.check()
	for _, key := range w.blobs.Keys() {
		if strings.HasPrefix(key, "manifest/") {
			t.Errorf("left: %s", key)
		}
	}
	if left, err := w.c.AllStaged(context.Background()); err != nil || len(left) != 0 {
		t.Error(left, err)
	}
	w.stop()
}

// Whatever call a staged replacement dies at, the next life carries it out or
// never hears of it.
func TestStagedReplacementDiesAtEveryCall(t *testing.T) {
	for _, after := range []bool{false, true} {
		for k := 38; ; k++ { // before that it puts objects
			w := wide(t)
			reached := w.failAt(k, after)
			err := w.jobs.Merge(context.Background())
			w.heal()
			if !reached() {
				if err != nil || k < 50 {
					t.Fatal(k, err)
				}
				w.stop()
				break
			}
			w.start()
			w.check() // copies may be seen twice, nothing never
			w.rounds(w.jobs.Merge)
			w.clean()
			w.check()
			if n := len(w.c.Visible()); n != 34 {
				t.Fatalf("call %d: %d objects", k, n)
			}
			w.stop()
		}
	}
}

// between runs fn once, right before the first object is put.
func (w *world) between(fn func()) {
	done := false
	w.blobs.SetFault(func(c blobmem.Call) blobmem.Fault {
		if c.Method == "Put" && !done {
			done = true
			fn()
		}
		return blobmem.Fault{}
	})
}

// Two that merge the same objects: one does it, the other's work is thrown away.
func TestMergeConflict(t *testing.T) {
	w := busy(t, 1, 12)
	job, _ := w.jobs.Merger().plan(nil)
	first := job[0].Object.Name
	w.between(func() {
		v, ok := w.c.Lookup(first)
		if !ok {
			t.Fatal("already gone")
		}
		// The same object under a new revision, as another's replacement would leave.
		if err := w.w.Replace(context.Background(), catalog.Replace{Inputs: []catalog.Visible{v}, Outputs: []catalog.NewObject{{Object: v.Object, Ranges: v.Ranges}}}); err == nil {
			t.Error("an input was taken and put under its own key")
		}
		if err := w.w.Retire(context.Background(), []catalog.Visible{v}, math.MaxInt64); err != nil {
			t.Fatal(err)
		}
		if err := w.w.Replace(context.Background(), catalog.Replace{Outputs: []catalog.NewObject{{Object: v.Object, Ranges: v.Ranges}}}); err != nil {
			t.Fatal(err)
		}
	})
	w.rounds(w.jobs.Merge)
	w.blobs.SetFault(nil)
	if s := w.jobs.Merger().Stats(); s.Conflicts != 1 {
		t.Errorf("%+v", s)
	}
	w.check()
	w.rounds(w.jobs.Merge)
	w.check()
	w.clean()
	w.stop()
}
