package read

import (
	"context"
	"fmt"
	"slices"

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
func (r *Reader) State(ctx context.Context, p catalog.Partition) (State, error) {
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
		return State{}, fmt.Errorf("read state of %s: %w", p, err)
	}
	s.Found, s.End, s.LogStart = true, newest.End, newest.LogStart
	s.LeaderEpoch, s.Epochs, s.Depth, s.Open = newest.LeaderEpoch, newest.Epochs, newest.Depth, newest.Open
	// Newest first, so a producer that is known already is the newer one. Retired
	// deltas leave a chain that ends early: what they said was of deleted records.
	for i, depth := len(extents)-1, int(newest.Depth); i >= 0 && depth >= 0; i, depth = i-1, depth-1 {
		t, err := r.tail(ctx, p, extents[i])
		if err != nil {
			return State{}, fmt.Errorf("read state of %s: %w", p, err)
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

func (r *Reader) tail(ctx context.Context, p catalog.Partition, x catalog.Extent) (*object.Tail, error) {
	key := tailKey{x.Object.Name, p}
	if t, ok := r.tails.get(key); ok {
		return t, nil
	}
	index, err := r.index(ctx, x.Object)
	if err != nil {
		return nil, err
	}
	e, ok := index.Tail(p.Topic, p.Index, x.Base)
	if !ok {
		return nil, fmt.Errorf("%w: object %s has no tail of %s", object.ErrCorrupt, x.Object.Name, p)
	}
	b := make([]byte, e.Len)
	if _, err := r.store.GetRange(ctx, r.key(x.Object), e.Pos, b); err != nil {
		return nil, fmt.Errorf("get tail of %s in object %s: %w", p, x.Object.Name, err)
	}
	if err := e.Check(b); err != nil {
		return nil, fmt.Errorf("object %s: %w", x.Object.Name, err)
	}
	t, err := object.DecodeTail(b)
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", x.Object.Name, err)
	}
	r.tails.put(key, t, int64(len(b))+256)
	return t, nil
}

// Aborted returns the aborted transactions that a reader of [from, upto) has to
// skip: those whose first offset is below upto and whose marker is at or above
// from. Objects are read forward until one says that everything below upto was
// decided; complete is false if none did and the rest is in memory (P9).
func (r *Reader) Aborted(ctx context.Context, p catalog.Partition, from, upto int64) (aborted []batch.EndedTxn, complete bool, err error) {
	extents := r.catalog.Extents(p)
	at := slices.IndexFunc(extents, func(x catalog.Extent) bool { return x.End > from })
	if at < 0 {
		return nil, false, nil
	}
	for _, x := range extents[at:] {
		t, err := r.tail(ctx, p, x)
		if err != nil {
			return nil, false, fmt.Errorf("read aborted transactions of %s: %w", p, err)
		}
		for _, e := range t.Ended {
			if !e.Commit && e.First < upto && e.Marker >= from {
				aborted = append(aborted, e)
			}
		}
		if t.LastStable >= upto {
			return aborted, true, nil
		}
	}
	return aborted, false, nil
}
