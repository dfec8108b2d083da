package read

import (
	"cmp"
	"context"
	"fmt"
	"sort"

	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/object"
)

// State is what a partition's newest objects say of it: enough to go on.
type State struct {
	Found        bool
	End          int64 // next offset as far as objects go
	LogStart     int64 // as the newest object has it; the catalog's may be higher
	MaxTimestamp int64 // of all objects, ms, -1 none
	LeaderEpoch  int32
	Epochs       []batch.EpochStart
	Depth        uint8 // of the newest tail
	Producers    map[int64]batch.Producer
	Open         []batch.OpenTxn
}

// State reads the newest tail of a partition and those it builds on.
func (r *Reader) State(ctx context.Context, p catalog.Partition) (s State, err error) {
	err = r.look(ctx, func() (err error) {
		s, err = r.state(ctx, p)
		return err
	})
	if err != nil {
		return State{}, fmt.Errorf("read state of %s: %w", p, err)
	}
	return s, nil
}

func (r *Reader) state(ctx context.Context, p catalog.Partition) (State, error) {
	s := State{MaxTimestamp: -1, Producers: map[int64]batch.Producer{}}
	extents := r.catalog.Extents(p)
	if len(extents) == 0 {
		return s, nil
	}
	for _, x := range extents {
		s.MaxTimestamp = max(s.MaxTimestamp, x.MaxTimestamp)
	}
	newest, err := r.tail(ctx, p, extents[len(extents)-1])
	if err != nil {
		return State{}, err
	}
	s.Found, s.End, s.LogStart = true, newest.End, newest.LogStart
	s.LeaderEpoch, s.Epochs, s.Depth, s.Open = newest.LeaderEpoch, newest.Epochs, newest.Depth, newest.Open
	// Newest first, so a producer that is known already is the newer one. Retired
	// deltas leave a chain that ends early: what they said was of deleted records.
	for _, x := range catalog.Chain(extents) {
		t, err := r.tail(ctx, p, x)
		if err != nil {
			return State{}, err
		}
		for _, known := range t.Producers {
			if _, ok := s.Producers[known.ID]; !ok {
				s.Producers[known.ID] = known
			}
		}
		if t.Depth == 0 {
			break
		}
	}
	return s, nil
}

type tailKey struct {
	object    string
	partition catalog.Partition
	base      int64 // of the span
}

// tailChunk is how much of neighbouring tails one GET reads: who opens one
// partition of an object mostly opens the others, too.
const tailChunk = 256 << 10

func (r *Reader) tail(ctx context.Context, p catalog.Partition, x catalog.Extent) (*object.Tail, error) {
	return r.tails.load(ctx, tailKey{x.Object.Name, p, x.SpanBase}, func(ctx context.Context) (*object.Tail, int64, error) {
		ix, err := r.index(ctx, x.Object, CatchUp)
		if err != nil {
			return nil, 0, err
		}
		i := sort.Search(len(ix.Tails), func(i int) bool {
			return cmp.Or(ix.Tails[i].ComparePartition(p.Topic, p.Index), cmp.Compare(ix.Tails[i].Base, x.SpanBase)) >= 0
		})
		if i == len(ix.Tails) || ix.Tails[i].ComparePartition(p.Topic, p.Index) != 0 || ix.Tails[i].Base != x.SpanBase {
			return nil, 0, fmt.Errorf("%w: object %s has no tail of %s at %d", object.ErrCorrupt, x.Object.Name, p, x.SpanBase)
		}
		run, at := chunk(ix.Tails, ix.tails, i)
		b := make([]byte, runBytes(run))
		if err := r.gate.enter(ctx, CatchUp); err != nil {
			return nil, 0, err
		}
		_, err = r.store.GetRange(ctx, r.key(x.Object), run[0].Pos, b)
		r.gate.leave(CatchUp)
		if err != nil {
			return nil, 0, fmt.Errorf("get tail of %s in object %s: %w", p, x.Object.Name, err)
		}
		t, err := decodeTail(run, at, b)
		if err != nil {
			return nil, 0, fmt.Errorf("object %s: %w", x.Object.Name, err)
		}
		for i, e := range run {
			// A neighbour that is damaged says so when it is asked for.
			if n, err := decodeTail(run, i, b); i != at && err == nil {
				r.tails.put(tailKey{x.Object.Name, catalog.Partition{Topic: e.Topic, Index: e.Partition}, e.Base}, n, tailBytes(e))
			}
		}
		return t, tailBytes(run[at]), nil
	})
}

// tailBytes is about what a decoded tail takes.
func tailBytes(e object.Entry) int64 { return 2*int64(e.Len) + 256 }

// decodeTail decodes one of the tails in b.
func decodeTail(run []object.Entry, i int, b []byte) (*object.Tail, error) {
	e := run[i]
	b = b[e.Pos-run[0].Pos:][:e.Len]
	if err := e.Check(b); err != nil {
		return nil, err
	}
	return object.DecodeTail(b)
}
