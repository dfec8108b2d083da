package write

import (
	"testing"

	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/object"
)

func TestSplit(t *testing.T) {
	part := func(i int32, bytes int) object.Part {
		return object.Part{Partition: i, Units: []object.Unit{{Bytes: make([]byte, bytes/2)}, {Bytes: make([]byte, bytes-bytes/2)}}}
	}
	var parts []object.Part
	for i := range int32(12) {
		parts = append(parts, part(i, 90+int(i)))
	}
	parts = append(parts, part(20, 5))
	singles, rest := split(parts, 91)
	if len(singles) != catalog.MaxSingles || len(rest) != 5 {
		t.Fatalf("%d singles, %d in the set", len(singles), len(rest))
	}
	if singles[0].Partition != 4 || rest[4].Partition != 20 {
		t.Errorf("the largest go first: %d, %d", singles[0].Partition, rest[4].Partition)
	}
	if singles, rest = split(parts, 1000); len(singles) != 0 || len(rest) != 13 {
		t.Error("nothing is large")
	}
}

func TestExpired(t *testing.T) {
	extents := []catalog.Extent{
		{Base: 0, End: 10, MaxTimestamp: 100, Bytes: 10}, {Base: 10, End: 20, MaxTimestamp: 300, Bytes: 10},
		{Base: 25, End: 30, MaxTimestamp: 200, Bytes: 10}, {Base: 30, End: 40, MaxTimestamp: -1, Bytes: 10},
	}
	for _, c := range []struct{ ms, bytes, now, want int64 }{
		{-1, -1, 1000, 0},
		{100, -1, 200, 10},   // the second is young, so the third stays too
		{100, -1, 400, 30},   // all with a time are old
		{100, -1, 10000, 30}, // without time nothing is old
		{-1, 40, 0, 0}, {-1, 39, 0, 0}, {-1, 30, 0, 10}, {-1, 21, 0, 10}, {-1, 20, 0, 20}, {-1, 0, 0, 40},
		{100, 20, 200, 20},
	} {
		if got := expired(extents, catalog.Settings{RetentionMillis: c.ms, RetentionBytes: c.bytes}, c.now); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}
