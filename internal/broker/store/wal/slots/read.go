package slots

import (
	"context"
	"errors"
	"fmt"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/run"
	"github.com/looptape/looptape/internal/broker/store/wal"
)

// readers is how many slots are read ahead.
const readers = 4

// Recovered is what Read found in a dead epoch.
type Recovered struct {
	Broker int32
	Epoch  int64
	End    int64 // number of the slot that ends the log
	// First and Last bound the records; both 0 when there is none. The caller has
	// to check that nothing it still needs is below First.
	First, Last wal.LSN
	Bytes       int64 // of the slots

	from  int64
	slots []placed
	nonce [16]byte // of the process whose log it was
}

// Place is wal.Log's for this epoch: where another recovery may begin when
// everything up to and including lsn is committed.
func (r *Recovered) Place(lsn wal.LSN) int64 {
	return place(placed{seq: r.from - 1}, r.slots, lsn)
}

// Read calls fn for every record in the slots from fromSlot up to and without
// endSlot, in LSN order, from one goroutine. fromSlot is the one after the committed slot, endSlot what
// Seal returned, or what the metadata says: whatever lies there or beyond was never
// acknowledged. fn may keep data.
//
// Failures of the store are waited out until ctx ends. A *wal.CorruptError names
// the object that is missing, damaged or not of this log. fn's error ends it.
func Read(ctx context.Context, store blob.Store, prefix string, broker int32, deadEpoch, fromSlot, endSlot int64, fn func(lsn wal.LSN, data []byte) error) (*Recovered, error) {
	of := series{prefix, broker, deadEpoch}
	r := &Recovered{Broker: broker, Epoch: deadEpoch, End: endSlot, from: fromSlot}
	if err := read(ctx, store, of, r, fn); err != nil {
		return nil, fmt.Errorf("read log in %s: %w", of.dir(), err)
	}
	return r, nil
}

func read(ctx context.Context, store blob.Store, of series, r *Recovered, fn func(wal.LSN, []byte) error) error {
	if r.from < 1 || r.End < r.from {
		return fmt.Errorf("slots from %d up to %d", r.from, r.End)
	}
	g := run.New(ctx)
	// Ahead of the decoder run a few readers, each with one slot; ahead keeps them
	// in order and bounds their number.
	type fetched struct {
		slot []byte
		err  error
	}
	ahead := make(chan chan fetched, readers-1)
	g.Go("wal-read-ahead", func(ctx context.Context) error {
		defer close(ahead)
		for seq := r.from; seq < r.End; seq++ {
			slot := make(chan fetched, 1)
			select {
			case ahead <- slot:
			case <-ctx.Done():
				return ctx.Err()
			}
			g.Go("wal-read", func(ctx context.Context) error {
				b, err := fetch(ctx, store, of.key(seq))
				slot <- fetched{b, err} // the decoder fails, when it gets there
				return nil
			})
		}
		return nil
	})
	g.Go("wal-decode", func(ctx context.Context) error {
		for slot := range ahead {
			select {
			case f := <-slot:
				if f.err != nil {
					return f.err
				}
				if err := r.add(f.slot, of, fn); err != nil {
					return err
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	err := g.Wait()
	if err == nil && int64(len(r.slots)) != r.End-r.from {
		err = fmt.Errorf("ended after %d of %d slots: %w", len(r.slots), r.End-r.from, context.Cause(ctx))
	}
	return err
}

// add takes the next slot.
func (r *Recovered) add(b []byte, of series, fn func(wal.LSN, []byte) error) error {
	seq := r.from + int64(len(r.slots))
	h, err := parseData(b, of, seq)
	if err == nil {
		err = r.follows(h)
	}
	if err == nil {
		err = eachRecord(b[headerBytes:], h.first, h.last, fn)
	}
	if err != nil {
		return corrupt(of.key(seq), err)
	}
	if len(r.slots) == 0 {
		r.First, r.nonce = h.first, h.writer.Nonce
	}
	r.slots = append(r.slots, placed{seq, h.last, int64(len(b))})
	r.Bytes += int64(len(b))
	r.Last = h.last
	return nil
}

// follows checks that the slot continues what was read: an epoch is one process,
// and its LSNs have no gap.
func (r *Recovered) follows(h header) error {
	switch {
	case len(r.slots) == 0 && r.from == 1 && h.first != 1:
		return differs(72, "first LSN of the epoch", 1, h.first)
	case len(r.slots) == 0:
		return nil
	case h.first != r.Last+1:
		return differs(72, "first LSN", r.Last+1, h.first)
	case h.writer.Nonce != r.nonce:
		return differs(48, "nonce", fmt.Sprintf("%x", r.nonce), fmt.Sprintf("%x", h.writer.Nonce))
	}
	return nil
}

// fetch reads a slot whole. What it returns may be anything, of at most the size
// of the largest slot.
func fetch(ctx context.Context, store blob.Store, key string) (b []byte, err error) {
	err = patiently(ctx, func(ctx context.Context) error {
		info, err := store.Stat(ctx, key)
		switch {
		case errors.Is(err, blob.ErrNotFound):
			return corrupt(key, differs(0, "object", "one", "none"))
		case err != nil:
			return err
		case info.Size < headerBytes || info.Size > headerBytes+maxBodyBytes:
			return corrupt(key, differs(0, "object bytes", fmt.Sprintf("%d to %d", headerBytes, headerBytes+maxBodyBytes), info.Size))
		}
		b = make([]byte, info.Size)
		_, err = store.GetRange(ctx, key, 0, b)
		if errors.Is(err, blob.ErrNotFound) || errors.Is(err, blob.ErrRange) {
			return corrupt(key, differs(0, "object bytes", info.Size, err))
		}
		return err
	})
	return b, err
}
