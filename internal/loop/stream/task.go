package stream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/looptape/looptape/internal/loop/event"
)

// A Task is what a handler sees of its partition number while it works on a
// batch: keyed state, timers and output. It belongs to the handler's goroutine.
// What is put, set and emitted is visible to the handler at once, and outside
// only with the whole batch.
type Task struct {
	ctx   context.Context
	store *store
	part  int32
	n     int32
	now   time.Time // stream time

	batch     *pebble.Batch
	changed   map[string]bool // store keys written, without the partition: for the changelog
	track     bool            // there is a changelog
	emitted   []event.Record
	weight    int       // bytes emitted and written
	nextTimer time.Time // no timer is earlier; zero: there is none
}

// Context ends when the batch must be given up.
func (t *Task) Context() context.Context { return t.ctx }

// Partition is the partition number, the same of all inputs.
func (t *Task) Partition() int32 { return t.part }

// Partitions is how many partitions each input has.
func (t *Task) Partitions() int32 { return t.n }

// Now is the stream time: the latest append time processed while the task is
// behind (so that a replay sees time pass as it did), and wall time, less a
// fraction of a second, while it is caught up. It never goes back and never
// exceeds wall time.
func (t *Task) Now() time.Time { return t.now }

// Get is the value of a key, or nil where there is none. The slice is the
// caller's.
func (t *Task) Get(key []byte) ([]byte, error) {
	v, done, err := t.batch.Get(storeKey(t.part, kindState, key))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	defer done.Close()
	return append(make([]byte, 0, len(v)), v...), nil
}

// Put sets a key. Both slices are copied.
func (t *Task) Put(key, value []byte) error { return t.set(storeKey(t.part, kindState, key), value) }

// Delete removes a key; one that is absent is no error.
func (t *Task) Delete(key []byte) error { return t.remove(storeKey(t.part, kindState, key)) }

// Scan calls fn for every key with that prefix in order of their bytes, until it
// fails. The slices are only valid during the call; fn must not write.
func (t *Task) Scan(prefix []byte, fn func(key, value []byte) error) error {
	return t.scan(storeKey(t.part, kindState, prefix), func(k, v []byte) error { return fn(k[5:], v) })
}

// Emit produces a record with the batch, in the order of the calls per
// partition. With Partition -1 the partition follows from its partition key.
func (t *Task) Emit(r event.Record) {
	t.emitted = append(t.emitted, r)
	t.weight += len(r.Key) + len(r.Value)
}

// SetTimer has TimerHandler.Timer called with that key once the stream time has
// reached at, which survives restarts and moves. Set twice with the same time
// and key, it is one timer.
func (t *Task) SetTimer(at time.Time, key []byte) error {
	if t.nextTimer.IsZero() || at.Before(t.nextTimer) {
		t.nextTimer = at
	}
	return t.set(storeKey(t.part, kindTimer, timerKey(at, key)), nil)
}

// ClearTimer removes a timer; one that is absent is no error.
func (t *Task) ClearTimer(at time.Time, key []byte) error {
	return t.remove(storeKey(t.part, kindTimer, timerKey(at, key)))
}

// maxTimers bounds the timers that fire in one batch.
const maxTimers = 1000

// fire calls the handler for timers that are due. It reports whether some are
// left for the next batch.
func (t *Task) fire(h TimerHandler) (more bool, err error) {
	if t.nextTimer.IsZero() || t.now.Before(t.nextTimer) {
		return false, nil
	}
	var due [][]byte
	stop := errors.New("enough")
	next := time.Time{}
	err = t.scan(storeKey(t.part, kindTimer, nil), func(k, _ []byte) error {
		at := timerTime(k[5:])
		if at.After(t.now) || len(due) == maxTimers {
			next = at
			return stop
		}
		due = append(due, slices.Clone(k))
		return nil
	})
	if err != nil && !errors.Is(err, stop) {
		return false, err
	}
	t.nextTimer = next // timers set by the handler below lower it again
	for _, k := range due {
		if err := t.remove(k); err != nil {
			return false, err
		}
		if err := h.Timer(t, timerTime(k[5:]), k[5+8:]); err != nil {
			return false, err
		}
	}
	return !next.IsZero() && !next.After(t.now), nil
}

// loadTimers finds the first timer of a task that was just opened.
func (t *Task) loadTimers() error {
	stop := errors.New("enough")
	err := t.scan(storeKey(t.part, kindTimer, nil), func(k, _ []byte) error {
		t.nextTimer = timerTime(k[5:])
		return stop
	})
	if errors.Is(err, stop) {
		return nil
	}
	return err
}

func (t *Task) set(k, v []byte) error {
	if err := t.batch.Set(k, v, nil); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	t.wrote(k, len(v))
	return nil
}

func (t *Task) remove(k []byte) error {
	if err := t.batch.Delete(k, nil); err != nil {
		return fmt.Errorf("delete state: %w", err)
	}
	t.wrote(k, 0)
	return nil
}

func (t *Task) wrote(k []byte, n int) {
	t.weight += len(k) + n
	if t.track {
		t.changed[string(k[4:])] = true
	}
}

func (t *Task) scan(prefix []byte, fn func(k, v []byte) error) error {
	it, err := t.batch.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: keyEnd(prefix)})
	if err != nil {
		return fmt.Errorf("scan state: %w", err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		if err := fn(it.Key(), it.Value()); err != nil {
			return errors.Join(err, it.Close())
		}
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return fmt.Errorf("scan state: %w", err)
	}
	return nil
}

// begin opens the batch, end throws away what was not committed.
func (t *Task) begin(ctx context.Context) {
	t.ctx = ctx
	t.batch = t.store.db.NewIndexedBatch()
	t.emitted, t.weight = nil, 0
	if t.track {
		t.changed = map[string]bool{}
	}
}

func (t *Task) end() error {
	if err := t.batch.Close(); err != nil {
		return fmt.Errorf("close batch: %w", err)
	}
	t.batch, t.emitted, t.changed = nil, nil, nil
	return nil
}

func timerKey(at time.Time, key []byte) []byte {
	b := make([]byte, 8, 8+len(key))
	binary.BigEndian.PutUint64(b, uint64(at.UnixNano())^1<<63)
	return append(b, key...)
}

func timerTime(k []byte) time.Time {
	if len(k) < 8 {
		return time.Time{}
	}
	return time.Unix(0, int64(binary.BigEndian.Uint64(k)^1<<63)).UTC()
}
