package write

import (
	"cmp"
	"slices"

	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/store/object"
)

// maxSamples keeps the tail section of a merged object small.
const maxSamples = 64

// joinTails returns the tail of the span that the spans of tails make up
// together. tails are those of neighbouring spans, oldest first, at least one.
func joinTails(tails []*object.Tail) object.Tail {
	t := *tails[len(tails)-1]
	t.Base = tails[0].Base
	t.Depth, t.Producers = joinProducers(tails)
	t.Ended, t.Samples = nil, nil
	newest := int64(-1)
	for _, old := range tails {
		t.LogStart = max(t.LogStart, old.LogStart)
		t.Ended = append(t.Ended, old.Ended...)
		for _, s := range old.Samples {
			newest = max(newest, s.Timestamp)
			t.Samples = append(t.Samples, object.Sample{Offset: s.Offset, Timestamp: newest})
		}
	}
	slices.SortStableFunc(t.Ended, func(a, b batch.EndedTxn) int { return cmp.Compare(a.Marker, b.Marker) })
	t.Ended = slices.CompactFunc(t.Ended, func(a, b batch.EndedTxn) bool { return a.Marker == b.Marker })
	t.Samples = thin(t.Samples)
	return t
}

// joinProducers returns the newest state of every producer in tails, oldest
// first, and what it still builds on: nothing (0) once one of them is a full
// snapshot, else what the oldest builds on.
func joinProducers(tails []*object.Tail) (depth uint8, all []batch.Producer) {
	known := map[int64]bool{}
	depth = tails[0].Depth
	for _, t := range slices.Backward(tails) {
		for _, p := range t.Producers {
			if !known[p.ID] {
				known[p.ID] = true
				all = append(all, p)
			}
		}
		if t.Depth == 0 {
			depth = 0
			break
		}
	}
	slices.SortFunc(all, func(a, b batch.Producer) int { return cmp.Compare(a.ID, b.ID) })
	return depth, all
}

// thin keeps evenly spread samples, the last among them.
func thin(all []object.Sample) []object.Sample {
	if len(all) <= maxSamples {
		return all
	}
	kept := make([]object.Sample, 0, maxSamples)
	for i := 1; i <= maxSamples; i++ {
		kept = append(kept, all[i*len(all)/maxSamples-1])
	}
	return kept
}
