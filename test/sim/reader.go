package sim

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/partition"
	"github.com/looptape/looptape/internal/broker/store/object"
	"github.com/looptape/looptape/internal/broker/store/read"
)

// fetch reads one chunk as a client does and holds it against the model. next is
// where to go on; it is offset when there is nothing.
func (w *world) fetch(p *part, offset int64, bytes int, committed bool, got map[int64]*sent) (next int64, chunk partition.Chunk, err error) {
	proc, store := w.leader(p.id)
	if store == nil || proc.wait() != nil {
		return offset, chunk, errNobody
	}
	at, err := store.Partitions().Get(p.id)
	if err != nil {
		return offset, chunk, err
	}
	before := w.model.known(p)
	ctx, cancel := bounded(proc, 20*time.Second)
	defer cancel()
	chunk, err = at.Read(ctx, partition.Read{
		Offset: offset, MaxBytes: bytes, AtLeastOne: true, ReadCommitted: committed, CurrentLeaderEpoch: -1,
	})
	if !proc.hears() || !store.Serving() {
		return offset, chunk, errNever
	}
	if chunk.Release != nil {
		defer chunk.Release()
	}
	switch {
	case errors.Is(err, partition.ErrOffsetOutOfRange):
		w.model.told(p, before, chunk.LogStart, chunk.HighWatermark, chunk.LastStable)
		if offset >= chunk.LogStart && offset <= before.high {
			w.hist.violate("I1: %s has nothing at %d: its high watermark is %d, it was %d", p.id, offset, chunk.HighWatermark, before.high)
		}
		return offset, chunk, err
	case errors.Is(err, read.ErrLost), errors.Is(err, object.ErrCorrupt), errors.Is(err, partition.ErrCorrupt):
		if !w.model.deleting(p) {
			w.hist.violate("I3: read %s at %d: %v", p.id, offset, err)
		}
		return offset, chunk, err
	case err != nil:
		return offset, chunk, err
	}
	w.model.told(p, before, chunk.LogStart, chunk.HighWatermark, chunk.LastStable)
	return w.take(p, offset, bytes, committed, chunk, got), chunk, nil
}

// take goes through a chunk's batches.
func (w *world) take(p *part, offset int64, bytes int, committed bool, chunk partition.Chunk, got map[int64]*sent) (next int64) {
	next = offset
	limit := chunk.HighWatermark
	if committed {
		limit = chunk.LastStable
	}
	aborted := slices.Clone(chunk.Aborted)
	skipping := map[int64]bool{}
	size := 0
	for _, run := range chunk.Records {
		for len(run) > 0 {
			b, rest, err := batch.Next(run)
			if err != nil {
				w.hist.violate("I7: %s after %d: %v", p.id, next, err)
				return next
			}
			run = rest
			if size += len(b); size > bytes && size > len(b) {
				w.hist.violate("read %s at %d: more than %d bytes", p.id, offset, bytes)
			}
			switch {
			case b.BaseOffset() > next && (p.topic.compact || w.model.deletable(p, b.BaseOffset())):
				// Compacted, or the log start has passed the reader.
			case b.LastOffset() < next, b.BaseOffset() > next, b.BaseOffset() < next && next != offset:
				w.hist.violate("I1: read %s at %d: batch %d-%d where %d is wanted", p.id, offset, b.BaseOffset(), b.LastOffset(), next)
				return next
			case b.BaseOffset() >= limit:
				w.hist.violate("I6: read %s at %d, committed %t: batch at %d, the limit is %d", p.id, offset, committed, b.BaseOffset(), limit)
			}
			s := w.model.served(p, b)
			next = b.LastOffset() + 1
			if s != nil && got != nil {
				b.Records(func(rec batch.Record) bool {
					got[b.BaseOffset()+int64(rec.OffsetDelta)] = s
					return true
				})
			}
			if committed {
				w.judge(p, b, s, &aborted, skipping)
			}
		}
	}
	if next == offset && offset < limit && offset >= chunk.LogStart && !w.model.nothing(p, offset, limit) {
		w.hist.violate("I1: read %s at %d: nothing, though the limit is %d", p.id, offset, limit)
	}
	return next
}

// judge does what a read-committed client does with the list of aborted
// transactions, and looks whether it shows the right ones.
func (w *world) judge(p *part, b batch.Batch, s *sent, aborted *[]partition.AbortedTxn, skipping map[int64]bool) {
	for len(*aborted) > 0 && (*aborted)[0].FirstOffset <= b.LastOffset() {
		skipping[(*aborted)[0].ProducerID] = true
		*aborted = (*aborted)[1:]
	}
	if b.IsControl() {
		if m, ok := b.Marker(); ok && !m.Commit {
			delete(skipping, b.ProducerID())
		}
		return
	}
	if s == nil || s.txn == nil {
		return
	}
	w.model.mu.Lock()
	defer w.model.mu.Unlock()
	shown := !skipping[b.ProducerID()]
	switch {
	case shown && !s.txn.ending:
		w.hist.violate("I6: %s at %d: batch %d is shown as committed, its transaction is open", p.id, b.BaseOffset(), s.number)
	case shown && !s.txn.commit:
		w.hist.violate("I6: %s at %d: batch %d is shown, its transaction was aborted", p.id, b.BaseOffset(), s.number)
	case !shown && s.txn.ending && s.txn.commit:
		w.hist.violate("I1: %s at %d: batch %d is hidden, its transaction was committed", p.id, b.BaseOffset(), s.number)
	}
}

func (m *model) deleting(p *part) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return p.topic.deleting
}

// consume is a consumer that reads here and there.
func (w *world) consume(n int) {
	who := fmt.Sprintf("reader %d", n)
	r := w.dice.about(who)
	for !w.over() {
		if t := w.pick(r); t != nil {
			p := t.parts[r.IntN(len(t.parts))]
			known := w.model.known(p)
			offset := known.start
			if r.IntN(3) > 0 {
				offset += r.Int64N(max(1, known.high-known.start+2))
			}
			w.follow(r, p, offset)
			if r.IntN(3) == 0 {
				w.search(r, p)
			}
		}
		time.Sleep(between(r, 0, 400*time.Millisecond))
	}
}

func (w *world) follow(r *rand.Rand, p *part, offset int64) {
	committed := chance(r, 0.5)
	size := []int{1, 300, 1500, 1 << 20}[r.IntN(4)]
	for range 1 + r.IntN(20) {
		next, _, err := w.fetch(p, offset, size, committed, nil)
		if err != nil || next == offset {
			return
		}
		offset = next
		if chance(r, 0.2) {
			time.Sleep(between(r, 0, 100*time.Millisecond))
		}
	}
}

// search asks for an offset by time.
func (w *world) search(r *rand.Rand, p *part) {
	proc, store := w.leader(p.id)
	if store == nil || proc.wait() != nil {
		return
	}
	at, err := store.Partitions().Get(p.id)
	if err != nil {
		return
	}
	// What was acknowledged before the question counts.
	w.model.mu.Lock()
	var acked []*sent
	for _, s := range p.at {
		if s.acked {
			acked = append(acked, s)
		}
	}
	w.model.mu.Unlock()
	ts := time.Now().UnixMilli() - r.Int64N(30_000)
	ctx, cancel := bounded(proc, 20*time.Second)
	defer cancel()
	offset, found, err := at.OffsetForTime(ctx, ts)
	start, _, _ := at.Offsets()
	if err != nil || !proc.hears() || !store.Serving() {
		return
	}
	w.model.mu.Lock()
	defer w.model.mu.Unlock()
	if p.topic.appending || p.topic.deleting || p.topic.compact {
		return // stamps are not the client's
	}
	if offset >= 0 && found < ts {
		w.hist.violate("I7: %s: the first record at or after %d is said to be of %d", p.id, ts, found)
	}
	for _, s := range acked {
		last := s.base + int64(s.count) - 1
		if s.time >= ts && s.base >= start && (offset < 0 || last < offset) && w.model.mayStart(p, last+1) != nil {
			w.hist.violate("I7: %s: batch %d at %d is of %d, the first at or after %d is said to be at %d (log start %d)", p.id, s.number, s.base, s.time, ts, offset, start)
		}
	}
}

// readAll reads a partition from its start. It tries again while it may.
func (w *world) readAll(p *part, size int, committed bool) (got map[int64]*sent, start int64, ok bool) {
	r := w.dice.about("full read")
	for {
		got = map[int64]*sent{}
		next, chunk, err := w.fetch(p, w.model.known(p).start, size, committed, got)
		for err == nil {
			limit := chunk.HighWatermark
			if committed {
				limit = chunk.LastStable
			}
			if next >= limit {
				return got, chunk.LogStart, true
			}
			before := next
			if next, chunk, err = w.fetch(p, next, size, committed, got); err == nil && next == before {
				if w.model.nothing(p, next, limit) {
					return got, chunk.LogStart, true
				}
				break
			}
		}
		if w.hist.violated() || w.model.deleting(p) {
			return nil, 0, false
		}
		if errors.Is(err, partition.ErrOffsetOutOfRange) && next < chunk.LogStart && !w.late() {
			continue // it rose meanwhile
		}
		if w.late() {
			w.hist.violate("liveness: %s can't be read: %v; %s", p.id, err, w.opinions(p))
			return nil, 0, false
		}
		time.Sleep(between(r, 50*time.Millisecond, 500*time.Millisecond))
	}
}
