package partition

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/store/wal"
)

// Cut is a stretch of one epoch's log in memory, on its way to the object store:
// all records with LSNs First to Last, by partition.
type Cut struct {
	Epoch       int64
	First, Last wal.LSN
	Bytes       int64 // of batches
	Segments    []*Segment
	Final       bool // the epoch's log ends here; only of an adopted epoch

	started time.Time
	sealed  atomic.Bool
}

// Entry is one batch.
type Entry struct {
	Base, Last   int64
	MaxTimestamp int64
	Bytes        []byte

	chunk *chunk // with Bytes; nil: they have memory of their own
}

// Segment is what one partition has in one cut. Once the cut is sealed it does
// not change.
type Segment struct {
	ID        ID
	TopicName string
	Base, End int64 // offsets [Base, End)
	Bytes     int64
	Entries   []Entry
	Ended     []batch.EndedTxn // whose marker is here
	Max       int64            // timestamp, ms, -1 none

	// As of End, set when the cut is sealed.
	LogStart    int64
	LastStable  int64
	LeaderEpoch int32
	Epochs      []batch.EpochStart
	Open        []batch.OpenTxn

	partition *Partition
	cut       *Cut
	touched   []*batch.Producer // producers seen here, with their state at End
	chunks    pin               // with all entries; held while the partition's tail has the segment
}

// add takes a durable append with its reference to c: with it, everything below
// its end is visible. It is called with the partition's lock and the cut's.
func (p *Partition) add(cut *Cut, batches []byte, c *chunk, leaderEpoch int32, now int64) {
	var seg *Segment
	if n := len(p.tail); n > 0 && p.tail[n-1].cut == cut {
		seg = p.tail[n-1]
	} else {
		base := batch.Batch(batches).BaseOffset()
		seg = &Segment{ID: p.id, TopicName: p.name, Base: base, End: base, Max: -1, partition: p, cut: cut}
		p.tail = append(p.tail, seg)
		cut.Segments = append(cut.Segments, seg)
	}
	for b := range batch.Split(batches) {
		if n := len(p.epochs); n == 0 || p.epochs[n-1].Epoch < leaderEpoch {
			p.epochs = appendEpoch(p.epochs, batch.EpochStart{Epoch: leaderEpoch, Base: b.BaseOffset()})
		}
		seg.Entries = append(seg.Entries, Entry{b.BaseOffset(), b.LastOffset(), b.MaxTimestamp(), b, c})
		seg.Max = max(seg.Max, b.MaxTimestamp())
		seg.End = b.LastOffset() + 1
		if b.HasProducer() {
			p.settle(seg, b, now)
		}
		p.high = seg.End
		if ended, ok := p.txns.Apply(b); ok {
			seg.Ended = append(seg.Ended, ended)
		}
	}
	seg.Bytes += int64(len(batches))
	cut.Bytes += int64(len(batches))
	seg.chunks.adopt(c)
	p.wake()
}

// settle records a durable batch of an idempotent producer. The state at the end
// of a sealed segment stays as it is: the first batch in a new one copies it.
func (p *Partition) settle(seg *Segment, b batch.Batch, now int64) {
	id := b.ProducerID()
	known := p.producers[id]
	if known == nil { // in recovery, or forgotten since the append
		known = &producer{assigned: batch.NewProducer(id), seen: now}
		p.producers[id] = known
	}
	if known.durable == nil || known.segment != seg {
		state := batch.NewProducer(id)
		if known.durable != nil {
			state = *known.durable
		}
		known.durable, known.segment = &state, seg
		seg.touched = append(seg.touched, &state)
	}
	if m, ok := b.Marker(); ok {
		known.durable.ApplyMarker(b.ProducerEpoch(), m, b.MaxTimestamp())
	} else if !b.IsControl() {
		known.durable.Apply(b)
	}
}

// maxEpochs bounds the leader-epoch history (P17).
const maxEpochs = 64

func appendEpoch(all []batch.EpochStart, e batch.EpochStart) []batch.EpochStart {
	if len(all) >= maxEpochs {
		all = all[len(all)-maxEpochs+1:]
	}
	// A copy: sealed segments keep the older slice.
	return append(slices.Clone(all), e)
}

// seal freezes the segment's view of the partition.
func (s *Segment) seal() {
	p := s.partition
	p.mu.Lock()
	defer p.mu.Unlock()
	s.LogStart, s.LeaderEpoch, s.Epochs = p.logStart, p.epoch, p.epochs
	s.Open, s.LastStable = p.txns.Open(), p.txns.LastStable(s.End)
}

// book is how far a partition's producer state has got in objects: what a reader
// of the tails written so far would know.
type book struct {
	depth     uint8 // of the newest tail
	deltas    int   // producers in the deltas since the full snapshot
	written   bool
	producers map[int64]*batch.Producer
}

// Producers returns the segment's producer state for its tail section: with
// depth 0 that of all producers, else that of those seen in the segment, over
// the tail before. It is called once a segment, in log order, by the one
// goroutine that builds objects.
func (s *Segment) Producers(maxDepth uint8, now int64) (depth uint8, all []batch.Producer) {
	p := s.partition
	b := &p.book
	if b.producers == nil {
		b.producers = map[int64]*batch.Producer{}
	}
	for _, state := range s.touched {
		b.producers[state.ID] = state
	}
	full := !b.written || b.depth >= maxDepth || b.deltas+len(s.touched) >= len(b.producers)
	b.written = true
	if !full {
		b.depth++
		b.deltas += len(s.touched)
		all = make([]batch.Producer, 0, len(s.touched))
		for _, state := range s.touched {
			all = append(all, *state)
		}
	} else {
		p.expire(now)
		b.depth, b.deltas = 0, 0
		all = make([]batch.Producer, 0, len(b.producers))
		for _, state := range b.producers {
			all = append(all, *state)
		}
	}
	slices.SortFunc(all, func(x, y batch.Producer) int {
		if x.ID < y.ID {
			return -1
		}
		return 1
	})
	return b.depth, all
}

// expire forgets producers that were silent for long, and the most silent ones
// above the cap. It runs before a full snapshot.
func (p *Partition) expire(now int64) {
	limit := now - p.set.cfg.ProducerExpiry.Milliseconds()
	p.mu.Lock()
	defer p.mu.Unlock()
	open := p.txns.Open()
	forget := func(id int64) {
		delete(p.producers, id)
		delete(p.book.producers, id)
	}
	idle := func(id int64, known *producer) bool {
		// A pending batch or an open transaction keeps the state.
		n := known.assigned.Count
		return known.durable != nil && (known.segment == nil || known.segment.cut.sealed.Load()) &&
			(n == 0 || known.assigned.Spans[n-1].LastOffset < p.high) &&
			!slices.ContainsFunc(open, func(o batch.OpenTxn) bool { return o.ProducerID == id })
	}
	for id, known := range p.producers {
		if known.seen < limit && idle(id, known) {
			forget(id)
		}
	}
	excess := len(p.producers) - p.set.cfg.MaxProducers
	if excess <= 0 {
		return
	}
	type silent struct{ id, seen int64 }
	var all []silent
	for id, known := range p.producers {
		if idle(id, known) {
			all = append(all, silent{id, known.seen})
		}
	}
	slices.SortFunc(all, func(a, b silent) int { return int(max(-1, min(1, a.seen-b.seen))) })
	for _, s := range all[:min(excess, len(all))] {
		forget(s.id)
	}
}
