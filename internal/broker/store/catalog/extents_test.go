package catalog

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Whatever is visible together, in whatever order it came and went: extents are
// disjoint and in order, each offset that any object holds is shown by the one of
// the highest generation, and Find finds it.
func TestExtentsAgainstModel(t *testing.T) {
	p := Partition{TopicID{1}, 0}
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		ix := newIndex()
		type span struct {
			base, end  int64
			generation int32
			name       string
		}
		live := map[string][]span{}
		for step := range 30 {
			name := fmt.Sprint("o", r.IntN(12))
			if _, there := live[name]; there {
				if _, _, err := ix.apply(change{key: setKey(name), gone: true}); err != nil {
					t.Fatal(err)
				}
				delete(live, name)
				continue
			}
			generation := int32(r.IntN(3))
			var rs []Range
			for at := int64(r.IntN(20)); len(rs) < 1+r.IntN(3); {
				end := at + int64(r.IntN(10))
				rs = append(rs, Range{Partition: p, Base: at, End: end, Bytes: 100})
				live[name] = append(live[name], span{at, end, generation, name})
				at = end + 1 + int64(r.IntN(5))
			}
			if _, _, err := ix.apply(change{key: setKey(name), object: &Object{Name: name, Generation: generation}, ranges: rs}); err != nil {
				t.Fatal(err)
			}
			all := ix.shown(p)
			for i, x := range all {
				if x.Base < x.SpanBase || x.End > x.SpanEnd || x.End < x.Base || i > 0 && (x.Base < all[i-1].End || x.End < all[i-1].End) {
					t.Fatalf("seed %d, step %d: extent %d of %+v", seed, step, i, all)
				}
			}
			c := &Catalog{ix: ix}
			for o := range int64(60) {
				best := int32(-1)
				for _, spans := range live {
					for _, s := range spans {
						if s.base <= o && o < s.end {
							best = max(best, s.generation)
						}
					}
				}
				x, ok := c.Find(p, o)
				holds := ok && x.Base <= o
				if holds != (best >= 0) || holds && x.Object.Generation != best {
					t.Fatalf("seed %d, step %d: offset %d is in %+v, %t; want generation %d of %+v", seed, step, o, x, ok, best, live)
				}
			}
		}
	}
}

// Tails without offsets stay in sight beside what builds on them, and the chain of
// producer states goes by spans.
func TestChain(t *testing.T) {
	ix := newIndex()
	p := Partition{TopicID{1}, 0}
	put := func(name string, generation int32, base, end int64, depth uint8) {
		if _, _, err := ix.apply(change{key: setKey(name), object: &Object{Name: name, Generation: generation}, ranges: []Range{{Partition: p, Base: base, End: end, TailDepth: depth}}}); err != nil {
			t.Fatal(err)
		}
	}
	names := func(all []Extent) (got []string) {
		for _, x := range all {
			got = append(got, x.Object.Name)
		}
		return got
	}
	put("tail", 1, 10, 10, 0)
	put("b", 2, 10, 20, 1) // higher, and still it builds on the tail
	put("c", 0, 20, 30, 2)
	put("old", 3, 0, 10, 2) // what ends there does not hide it
	if diff := cmp.Diff([]string{"old", "tail", "b", "c"}, names(ix.shown(p))); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"c", "b", "tail"}, names(Chain(ix.shown(p)))); diff != "" {
		t.Error(diff)
	}
	put("clean", 9, 12, 25, 0) // within the spans of b and c
	if diff := cmp.Diff([]string{"c", "b", "tail"}, names(Chain(ix.shown(p)))); diff != "" {
		t.Error(diff)
	}
	put("over", 1, 5, 15, 0) // nobody reads it
	if diff := cmp.Diff([]string{"old", "tail", "b", "clean", "c"}, names(ix.shown(p))); diff != "" {
		t.Error(diff)
	}
	put("all", 10, 5, 30, 0) // goes on where the tail is
	if diff := cmp.Diff([]string{"old", "all"}, names(ix.shown(p))); diff != "" {
		t.Error(diff)
	}
}
