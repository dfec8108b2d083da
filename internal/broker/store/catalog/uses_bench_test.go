package catalog

import (
	"fmt"
	"testing"
)

// BenchmarkUses judges 64 sets of ten thousand partitions each.
func BenchmarkUses(b *testing.B) {
	ix := newIndex()
	topic := TopicID{1}
	ix.topics[topic] = Topic{ID: topic}
	for i := range 64 {
		rs := make([]Range, 10_000)
		for p := range rs {
			rs[p] = Range{Partition: Partition{topic, int32(p)}, Base: int64(i) * 10, End: int64(i)*10 + 10, Bytes: 1}
		}
		name := fmt.Sprint("s", i)
		if _, _, err := ix.apply(change{key: setKey(name), object: &Object{Name: name}, ranges: rs}); err != nil {
			b.Fatal(err)
		}
	}
	c := &Catalog{ix: ix}
	b.ReportAllocs()
	for b.Loop() {
		if n := len(c.Uses()); n != 64 {
			b.Fatal(n)
		}
	}
}
