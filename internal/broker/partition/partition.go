// Package partition is who orders: a Partition gives offsets, checks producer
// sequences and epochs, knows the high watermark and the last stable offset, and
// keeps the newest records in memory until they are in objects.
//
// What it promises. An append is answered without error only when it and
// everything before it in the log is durable. Offsets are given once, in the
// order of the log, and never reused. Nothing of an append is visible before it
// is durable: high watermark, producer state and waiting fetches change together,
// in log order. A duplicate of an idempotent producer is answered with its first
// offsets, and while the first attempt is still on its way, after it.
//
// The bytes of an append are copied once, into memory that is used again and
// again: there they are patched, handed to the log, kept for readers, and referred
// to by the object that is made of them.
//
// How it fails. A failure of the log is final: every append from there on is
// answered with ErrStorage, and the process has to end and recover. A stalled
// object store holds appends back (Append waits) and loses nothing.
//
// Locks: one mutex a partition, one for the open cut of the Set; the cut's is
// taken first. Neither is held across I/O.
package partition

import (
	"errors"
	"slices"
	"sync"

	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/store/catalog"
)

var (
	// ErrUnknownPartition says that the topic does not exist or has no such partition.
	ErrUnknownPartition = errors.New("unknown partition")
	// ErrNotLeader says that another broker leads the partition.
	ErrNotLeader = errors.New("not the leader of the partition")
	// ErrLoading says that the partition is being opened; try again.
	ErrLoading = errors.New("partition is loading")
	// ErrOffsetOutOfRange says that the offset is below the log start or above the high watermark.
	ErrOffsetOutOfRange = errors.New("offset out of range")
	// ErrFencedEpoch says that the caller knows an older leader epoch.
	ErrFencedEpoch = errors.New("leader epoch is fenced")
	// ErrUnknownEpoch says that the caller knows a leader epoch that this broker does not.
	ErrUnknownEpoch = errors.New("unknown leader epoch")
	// ErrOutOfOrderSequence says that a producer's batches between are missing.
	ErrOutOfOrderSequence = errors.New("sequence out of order")
	// ErrInvalidEpoch says that the producer was fenced by a newer one.
	ErrInvalidEpoch = errors.New("producer epoch is fenced")
	// ErrUnknownProducer says that the producer has no state where it must have one.
	ErrUnknownProducer = errors.New("unknown producer")
	// ErrTooLarge says that a batch is above max.message.bytes.
	ErrTooLarge = errors.New("record batch too large")
	// ErrCorrupt says that a batch is damaged: format, length or CRC.
	ErrCorrupt = errors.New("corrupt record batch")
	// ErrTimestamp says that a timestamp is too far from now.
	ErrTimestamp = errors.New("timestamp out of range")
	// ErrInvalidRecord says that a batch is whole but may not be appended here.
	ErrInvalidRecord = errors.New("invalid record")
	// ErrStorage says that the log failed; the broker is about to end.
	ErrStorage = errors.New("storage failed")
)

// ID names a partition.
type ID struct {
	Topic catalog.TopicID
	Index int32
}

func (id ID) catalog() catalog.Partition { return catalog.Partition{Topic: id.Topic, Index: id.Index} }
func (id ID) String() string             { return id.catalog().String() }

// Partition is one partition led by this broker. Get it from a Set.
type Partition struct {
	id   ID
	name string // of the topic
	set  *Set

	mu       sync.Mutex
	closed   bool
	failed   error // the log has; nothing is accepted any more
	left     bool  // another broker leads it
	next     int64 // offset of the next append
	high     int64 // everything below is durable and visible
	logStart int64
	epoch    int32 // leader epoch
	epochs   []batch.EpochStart
	appended int64 // newest LogAppendTime, ms
	txns     batch.Transactions
	tail     []*Segment // newest records: contiguous, ends at high
	waiters  []waiting
	repeats  []repeat // duplicates of batches that are not durable yet

	producers map[int64]*producer

	book book // of the flusher alone
}

// producer is what is known of an idempotent producer: as appended, for checks,
// and as durable, for snapshots. durable is changed only while its segment is
// open and copied for the next one.
type producer struct {
	assigned batch.Producer
	durable  *batch.Producer
	segment  *Segment
	seen     int64 // wall clock at the last append, ms
}

// Offsets returns the log start, the high watermark and the last stable offset.
func (p *Partition) Offsets() (logStart, highWatermark, lastStable int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.logStart, p.high, p.txns.LastStable(p.high)
}

// LeaderEpoch is the partition's leader epoch.
func (p *Partition) LeaderEpoch() int32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.epoch
}

// checkEpoch compares the leader epoch that a caller knows; -1 knows none.
func (p *Partition) checkEpoch(epoch int32) error {
	switch {
	case epoch < 0 || epoch == p.epoch:
		return nil
	case epoch < p.epoch:
		return ErrFencedEpoch
	}
	return ErrUnknownEpoch
}

// OffsetForEpoch returns the largest epoch at or below epoch that the log has
// and the offset at which it ended; -1, -1 for an epoch above the current one.
// Offsets are never truncated, so the answer never signals a loss.
func (p *Partition) OffsetForEpoch(epoch int32) (endEpoch int32, endOffset int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case epoch > p.epoch || epoch < 0:
		return -1, -1
	case epoch == p.epoch:
		return epoch, p.high
	}
	above := slices.IndexFunc(p.epochs, func(s batch.EpochStart) bool { return s.Epoch > epoch })
	switch {
	case above < 0 && len(p.epochs) == 0:
		return epoch, p.high
	case above < 0:
		return p.epochs[len(p.epochs)-1].Epoch, p.high
	case above == 0:
		return epoch, p.epochs[0].Base
	}
	return p.epochs[above-1].Epoch, p.epochs[above].Base
}

// Waiter is told when a partition has something new. One may wait on many.
type Waiter struct {
	C <-chan struct{} // gets a value; at most one is kept
	c chan struct{}
}

// NewWaiter returns a waiter that waits on nothing.
func NewWaiter() *Waiter {
	c := make(chan struct{}, 1)
	return &Waiter{C: c, c: c}
}

func (w *Waiter) wake() {
	select {
	case w.c <- struct{}{}:
	default:
	}
}

type waiting struct {
	w     *Waiter
	after int64
}

// Notify wakes w once when the high watermark is above after, at once if it is
// already, and when the partition closes.
func (p *Partition) Notify(after int64, w *Waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.high > after || p.closed {
		w.wake()
		return
	}
	p.waiters = append(p.waiters, waiting{w, after})
}

// Cancel ends all of the waiter's waiting here.
func (p *Partition) Cancel(w *Waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiters = slices.DeleteFunc(p.waiters, func(x waiting) bool { return x.w == w })
}

// wake tells those that wait for less than the high watermark. It is called with
// p.mu held; waking never blocks.
func (p *Partition) wake() {
	if len(p.waiters) == 0 {
		return
	}
	kept := p.waiters[:0]
	for _, x := range p.waiters {
		if p.high > x.after || p.closed {
			x.w.wake()
		} else {
			kept = append(kept, x)
		}
	}
	clear(p.waiters[len(kept):])
	p.waiters = kept
}

// close ends the partition for its users. What was appended is still published,
// so that the log goes on.
func (p *Partition) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.wake()
}
