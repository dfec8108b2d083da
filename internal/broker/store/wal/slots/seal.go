package slots

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/broker/store/wal"
)

// Limits of one request of a recovery; the pauses after failures.
const (
	requestTimeout = 30 * time.Second
	recoverMin     = 50 * time.Millisecond
	recoverMax     = 2 * time.Second
)

// Seal ends the log of a dead epoch for ever: it occupies the first free slot above
// committedSlot, or finds the seal that somebody else put there, and returns its
// number. The data slots from committedSlot+1 up to it hold everything that was
// ever acknowledged and is not committed.
//
// In a store without conditional puts a seal could overwrite data, and none is put:
// the first free slot is the end, since the writer asks the metadata before it
// acknowledges. There the end is what the metadata says, even more than here.
//
// The caller has taken the right to commit from the epoch before, and read
// committedSlot after that (P1). Failures of the store are waited out until ctx
// ends. A *wal.CorruptError: a slot on the way is neither data of the epoch nor a
// seal.
func Seal(ctx context.Context, store blob.Store, prefix string, broker int32, deadEpoch, committedSlot int64, by Writer) (endSlot int64, err error) {
	of := series{prefix, broker, deadEpoch}
	end, err := seal(ctx, store, of, committedSlot, by)
	if err != nil {
		return 0, fmt.Errorf("seal log in %s: %w", of.dir(), err)
	}
	return end, nil
}

func seal(ctx context.Context, store blob.Store, of series, committedSlot int64, by Writer) (int64, error) {
	// The listing only saves requests: what it shows is there, and what it does
	// not show the put finds.
	var sizes map[int64]int64
	err := patiently(ctx, func(ctx context.Context) (err error) {
		sizes, err = list(ctx, store, of)
		return err
	})
	if err != nil {
		return 0, err
	}
	for seq := committedSlot + 1; ; seq++ {
		if sizes[seq] > headerBytes {
			continue // data: a seal is not as long
		}
		h, err := occupy(ctx, store, of, seq, by)
		switch {
		case err != nil:
			return 0, err
		case h.kind == kindSeal:
			return seq, nil
		case h.writer.Broker != of.broker || h.writer.Epoch != of.epoch:
			return 0, corrupt(of.key(seq), differs(28, "writer", fmt.Sprint(of.broker, of.epoch), fmt.Sprint(h.writer.Broker, h.writer.Epoch)))
		}
	}
}

// occupy puts a seal into the slot if it is free, and says what the slot holds, or
// is as good as holding.
func occupy(ctx context.Context, store blob.Store, of series, seq int64, by Writer) (h header, err error) {
	key := of.key(seq)
	mine := header{kind: kindSeal, writer: by}
	body := make([]byte, headerBytes)
	mine.put(body, of, seq)
	err = patiently(ctx, func(ctx context.Context) error {
		creates := conditional(store)
		if creates {
			err := store.Put(ctx, key, bytes.NewReader(body), headerBytes)
			if !errors.Is(err, blob.ErrExists) {
				h = mine
				return err
			}
		}
		info, err := store.Stat(ctx, key)
		if !creates && errors.Is(err, blob.ErrNotFound) {
			h = mine
			return nil
		}
		if err != nil {
			return err
		}
		head := make([]byte, min(headerBytes, info.Size))
		if _, err := store.GetRange(ctx, key, 0, head); err != nil {
			return err
		}
		if h, err = parseHeader(head, info.Size, of, seq); err != nil {
			return corrupt(key, err)
		}
		return nil
	})
	return h, err
}

// list returns the sizes of the epoch's slots.
func list(ctx context.Context, store blob.Store, of series) (map[int64]int64, error) {
	sizes := map[int64]int64{}
	err := store.List(ctx, of.dir(), func(i blob.Info) error {
		if seq, ok := of.seq(i.Key); ok {
			sizes[seq] = i.Size
		}
		return nil
	})
	return sizes, err
}

// seq is the number in a slot's key.
func (e series) seq(key string) (int64, bool) {
	digits, ok := strings.CutPrefix(key, e.dir())
	if !ok || len(digits) != 20 {
		return 0, false
	}
	seq, err := strconv.ParseInt(digits, 10, 64)
	return seq, err == nil && seq > 0
}

// patiently repeats a request until its outcome is definite or ctx ends.
func patiently(ctx context.Context, request func(context.Context) error) error {
	for p := (pauses{min: recoverMin, max: recoverMax, rand: rand.Float64}); ; {
		one, cancel := context.WithTimeout(ctx, requestTimeout)
		err := request(one)
		cancel()
		var damage *wal.CorruptError
		if err == nil || errors.Is(err, blob.ErrBadKey) || errors.Is(err, blob.ErrRefused) || errors.As(err, &damage) {
			return err
		}
		if p.wait(ctx) != nil {
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}
