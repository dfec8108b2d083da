package read

import (
	"context"
	"fmt"

	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/store/catalog"
)

// ended is what a tail says of transactions: which were aborted by a marker in
// its span, and up to where everything was decided at its end. It is kept beside
// the tails because readers want it long after the producers are of interest.
type ended struct {
	aborted    []batch.EndedTxn
	lastStable int64
}

// Aborted returns the aborted transactions that a reader of [from, upto) has to
// skip: those whose first offset is below upto and whose marker is at or above
// from. Objects are read forward until one says that everything below upto was
// decided; complete is false if none did and the rest is in memory (P9).
func (r *Reader) Aborted(ctx context.Context, p catalog.Partition, from, upto int64) (aborted []batch.EndedTxn, complete bool, err error) {
	err = r.look(ctx, func() (err error) {
		aborted, complete, err = r.aborted(ctx, p, from, upto)
		return err
	})
	if err != nil {
		return nil, false, fmt.Errorf("read aborted transactions of %s: %w", p, err)
	}
	return aborted, complete, nil
}

func (r *Reader) aborted(ctx context.Context, p catalog.Partition, from, upto int64) (aborted []batch.EndedTxn, complete bool, err error) {
	all := r.catalog.Extents(p)
	for _, x := range all[firstAbove(all, from):] {
		t, err := r.endedIn(ctx, p, x)
		if err != nil {
			return nil, false, err
		}
		for _, e := range t.aborted {
			if e.First < upto && e.Marker >= from {
				aborted = append(aborted, e)
			}
		}
		if t.lastStable >= upto {
			return aborted, true, nil
		}
	}
	return aborted, false, nil
}

func (r *Reader) endedIn(ctx context.Context, p catalog.Partition, x catalog.Extent) (ended, error) {
	key := tailKey{x.Object.Name, p, x.SpanBase}
	if e, ok := r.ended.get(key); ok {
		return e, nil
	}
	t, err := r.tail(ctx, p, x)
	if err != nil {
		return ended{}, err
	}
	e := ended{lastStable: t.LastStable}
	for _, x := range t.Ended {
		if !x.Commit {
			e.aborted = append(e.aborted, x)
		}
	}
	r.ended.put(key, e, int64(len(e.aborted))*48+192)
	return e, nil
}
