package partition

import (
	"context"
	"errors"
	"fmt"

	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/wal"
)

// Append is batches to append.
type Append struct {
	// Batches are complete batches of format 2. The partition copies them; they
	// are the caller's again when Append returns.
	Batches []byte
	// Internal is the broker's own append: control batches are allowed and
	// max.message.bytes does not apply.
	Internal bool
	// Verified says that the caller has checked that the transaction of a
	// transactional batch is open; without it such a batch is refused.
	Verified bool
	// Done is called exactly once: before Append returns when validation fails,
	// else from the log's goroutine. It must not block.
	Done func(Appended)
}

// Appended is the outcome of an Append.
type Appended struct {
	Base, Last    int64 // offsets, -1 on error
	LogAppendTime int64 // ms, -1 under CreateTime
	LogStart      int64
	Duplicate     bool // it had been written before; Base and Last say where
	Err           error
}

// pending is an append on its way through the log.
type pending struct {
	rec        wal.Record
	p          *Partition
	batches    []byte // in chunk
	chunk      *chunk
	done       func(Appended)
	base, last int64
	stamp      int64 // LogAppendTime or -1
	head       [recordHeader]byte
}

// repeat is a duplicate that waits for the first attempt to become durable.
type repeat struct {
	done       func(Appended)
	base, last int64
}

// Append validates the batches, gives them offsets and hands them to the log. It
// returns before they are durable, but waits while the log or the memory for
// what is not yet in objects is full, until ctx ends.
func (p *Partition) Append(ctx context.Context, a Append) {
	topic, ok := p.set.catalog.TopicByID(p.id.Topic)
	if !ok {
		p.refuse(a, ErrUnknownPartition)
		return
	}
	now := p.set.cfg.Now().UnixMilli()
	settings := topic.Settings()
	count, err := validate(a, settings, now)
	if err != nil {
		p.refuse(a, err)
		return
	}
	if err := p.set.reserve(ctx, len(a.Batches)); err != nil {
		if ctx.Err() == nil {
			err = fmt.Errorf("%w: %w", ErrStorage, err) // the log has failed or is closed
		}
		p.refuse(a, fmt.Errorf("wait for room in the log: %w", err))
		return
	}
	stamp := int64(-1)
	if settings.LogAppendTime {
		stamp = now
	}
	// Copied outside the lock, and while the bytes are in the processor's cache.
	d := &pending{p: p, done: a.Done, stamp: stamp}
	d.batches, d.chunk = p.set.arena.take(len(a.Batches))
	copy(d.batches, a.Batches)
	out, verdict := p.order(d, count, now)
	if verdict != accepted {
		p.set.giveBack(len(d.batches))
		d.chunk.unref(1)
	}
	if verdict == answered {
		a.Done(out)
	}
}

func (p *Partition) refuse(a Append, err error) {
	p.mu.Lock()
	start := p.logStart
	p.mu.Unlock()
	a.Done(Appended{Base: -1, Last: -1, LogAppendTime: -1, LogStart: start, Err: err})
}

// validate checks what needs no state.
func validate(a Append, s catalog.Settings, now int64) (count int32, err error) {
	producer := false
	for rest := a.Batches; len(rest) > 0; count++ {
		var b batch.Batch
		if b, rest, err = batch.Next(rest); err != nil {
			return 0, fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		if !a.Internal && len(b) > s.MaxMessageBytes {
			return 0, fmt.Errorf("%w: %d bytes, max.message.bytes is %d", ErrTooLarge, len(b), s.MaxMessageBytes)
		}
		if err := b.CheckCRC(); err != nil {
			return 0, fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		if err := b.CheckProduced(); err != nil {
			return 0, fmt.Errorf("%w: %w", ErrInvalidRecord, err)
		}
		if b.IsControl() && !a.Internal {
			return 0, fmt.Errorf("%w: a client may not write control batches", ErrInvalidRecord)
		}
		if b.IsTransactional() && !a.Internal && !a.Verified {
			return 0, fmt.Errorf("%w: the batch belongs to no open transaction", ErrInvalidRecord)
		}
		if b.HasProducer() {
			producer = true
			if !b.IsControl() && (b.ProducerEpoch() < 0 || b.BaseSequence() < 0) {
				return 0, fmt.Errorf("%w: producer epoch %d, sequence %d", ErrInvalidRecord, b.ProducerEpoch(), b.BaseSequence())
			}
		}
		if s.Compact && !b.IsControl() && !b.HasKeys() {
			return 0, fmt.Errorf("%w: a compacted topic needs keys", ErrInvalidRecord)
		}
		if err := checkTime(b, s, now); err != nil {
			return 0, err
		}
	}
	switch {
	case count == 0:
		return 0, fmt.Errorf("%w: no batch", ErrInvalidRecord)
	case producer && count > 1:
		return 0, fmt.Errorf("%w: %d batches of producers in one append, 1 is allowed", ErrInvalidRecord, count)
	}
	return count, nil
}

func checkTime(b batch.Batch, s catalog.Settings, now int64) error {
	ts := b.MaxTimestamp()
	if s.LogAppendTime || ts < 0 || b.IsControl() {
		return nil
	}
	if ahead := ts - now; ahead > s.TimestampAfterMax {
		return fmt.Errorf("%w: %d ms ahead, message.timestamp.after.max.ms is %d", ErrTimestamp, ahead, s.TimestampAfterMax)
	}
	if behind := now - ts; behind > s.TimestampBeforeMax {
		return fmt.Errorf("%w: %d ms behind, message.timestamp.before.max.ms is %d", ErrTimestamp, behind, s.TimestampBeforeMax)
	}
	return nil
}

// verdict is what order made of an append.
type verdict int

const (
	answered verdict = iota // its outcome is known
	waits                   // for the batch that it repeats
	accepted                // it is in the log, which will tell
)

// order is the short part under the lock: state checks, offsets, place in the
// log.
func (p *Partition) order(d *pending, count int32, now int64) (Appended, verdict) {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := Appended{Base: -1, Last: -1, LogAppendTime: -1, LogStart: p.logStart}
	switch {
	case p.closed:
		out.Err = p.gone()
		return out, answered
	case p.failed != nil:
		out.Err = p.failed
		return out, answered
	}
	first := batch.Batch(d.batches) // of a producer there is only one
	var known *producer
	if first.HasProducer() {
		if known = p.producers[first.ProducerID()]; known == nil {
			known = &producer{assigned: batch.NewProducer(first.ProducerID())}
		}
		switch v, span := p.check(first, known); v {
		case batch.Fenced:
			out.Err = fmt.Errorf("%w: epoch %d, the newest is %d", ErrInvalidEpoch, first.ProducerEpoch(), known.assigned.Epoch)
			return out, answered
		case batch.OutOfOrder:
			out.Err = fmt.Errorf("%w: sequence %d of epoch %d", ErrOutOfOrderSequence, first.BaseSequence(), first.ProducerEpoch())
			return out, answered
		case batch.Duplicate:
			if span.LastOffset >= p.high {
				// The first attempt is not durable yet: its fate is this one's too.
				p.repeats = append(p.repeats, repeat{d.done, span.BaseOffset, span.LastOffset})
				return out, waits
			}
			out.Base, out.Last, out.Duplicate = span.BaseOffset, span.LastOffset, true
			return out, answered
		}
	}
	if d.stamp >= 0 {
		d.stamp = max(d.stamp, p.appended) // append time never runs backwards
	}
	d.base = p.next
	next := p.next
	for b := range batch.Split(d.batches) {
		b.SetBaseOffset(next)
		b.SetLeaderEpoch(p.epoch)
		if d.stamp >= 0 {
			b.SetLogAppendTime(d.stamp)
		}
		next = b.LastOffset() + 1
	}
	d.last = next - 1
	d.rec.Data = [2][]byte{encodeRecord(d.head[:], p.id, p.epoch, d.base, d.last, count), d.batches}
	if count == 1 {
		d.rec.Sum = first.Sum()
	}
	d.rec.Reserved = recordHeader + len(d.batches)
	d.rec.Done = d.durable
	if _, err := p.set.log.Append(&d.rec); err != nil {
		if out.Err = fmt.Errorf("%w: %w", ErrStorage, err); errors.Is(err, wal.ErrTooLarge) {
			out.Err = fmt.Errorf("%w: %w", ErrTooLarge, err)
		}
		return out, answered
	}
	// The batch has its place; what follows it is checked against it.
	p.next = next
	p.appended = max(p.appended, d.stamp)
	if known != nil {
		if m, ok := first.Marker(); ok {
			known.assigned.ApplyMarker(first.ProducerEpoch(), m, first.MaxTimestamp())
		} else {
			known.assigned.Apply(first)
		}
		known.seen = now
		p.producers[first.ProducerID()] = known
	}
	return out, accepted
}

// check asks the producer's window; a marker carries no sequence but must not
// come from a fenced epoch or coordinator.
func (p *Partition) check(b batch.Batch, known *producer) (batch.Verdict, batch.Span) {
	if !b.IsControl() {
		return known.assigned.Check(b.ProducerEpoch(), b.BaseSequence(), b.LastSequence())
	}
	m, ok := b.Marker()
	if b.ProducerEpoch() < known.assigned.Epoch || ok && m.CoordinatorEpoch < known.assigned.CoordinatorEpoch {
		return batch.Fenced, batch.Span{}
	}
	return batch.Accept, batch.Span{}
}

// durable is called by the log, in its order.
func (d *pending) durable(lsn wal.LSN, err error) {
	if err != nil {
		d.p.set.room.give(int64(len(d.batches)))
		d.chunk.unref(1)
		d.p.fail(d, err)
		return
	}
	d.p.set.publish(d, lsn)
}

// fail answers an append that is not known to be durable, with those that wait
// for it. The log has failed for good, so no offset after it will be used; what
// still comes is refused, duplicates too: nobody can say what became of the first
// attempt. A log that another broker took over has its answer: look for the leader.
func (p *Partition) fail(d *pending, err error) {
	why := ErrStorage
	if errors.Is(err, wal.ErrFenced) {
		why = ErrNotLeader
	}
	err = fmt.Errorf("%w: %w", why, err)
	p.mu.Lock()
	p.failed = err
	out := Appended{Base: -1, Last: -1, LogAppendTime: -1, LogStart: p.logStart, Err: err}
	repeats := p.repeats
	p.repeats = nil
	p.mu.Unlock()
	d.done(out)
	for _, r := range repeats {
		r.done(out)
	}
}
