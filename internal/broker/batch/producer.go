package batch

import "math"

// Window is how many of its last batches a partition remembers of a producer:
// an idempotent producer has at most that many in flight.
const Window = 5

// Span is one remembered batch of a producer.
type Span struct {
	FirstSequence, LastSequence int32
	BaseOffset, LastOffset      int64
	Timestamp                   int64 // the batch's max timestamp, ms
}

// Producer is what a partition knows of one idempotent producer. It is a value:
// assigning copies all of it. The zero Producer with Epoch -1 is unknown.
type Producer struct {
	ID               int64
	Epoch            int16
	CoordinatorEpoch int32 // of the last marker, -1 none (P14)
	Timestamp        int64 // of the newest batch or marker, ms
	Spans            [Window]Span
	Count            int // of Spans in use, oldest first
}

// NewProducer is a producer of which nothing is known.
func NewProducer(id int64) Producer {
	return Producer{ID: id, Epoch: -1, CoordinatorEpoch: -1, Timestamp: -1}
}

// Verdict is the answer to "may this batch be appended?"
type Verdict uint8

const (
	Accept     Verdict = iota
	Duplicate          // written already; the span says where
	OutOfOrder         // a hole in the sequence
	Fenced             // the producer's epoch is an older one
)

// Check says what to do with a batch of the producer that has the given epoch
// and sequences. Like Kafka it takes any first sequence of an unknown producer
// (its state may have expired), and only sequence 0 of a new epoch.
func (p *Producer) Check(epoch int16, first, last int32) (Verdict, Span) {
	switch {
	case epoch < p.Epoch:
		return Fenced, Span{}
	case epoch > p.Epoch:
		if p.Epoch >= 0 && first != 0 {
			return OutOfOrder, Span{}
		}
		return Accept, Span{}
	}
	for i := p.Count - 1; i >= 0; i-- {
		if s := p.Spans[i]; s.FirstSequence == first && s.LastSequence == last {
			return Duplicate, s
		}
	}
	// Epoch known but no span: a marker opened the epoch; its first sequence is free.
	if p.Count == 0 || addSequence(p.Spans[p.Count-1].LastSequence, 1) == first {
		return Accept, Span{}
	}
	return OutOfOrder, Span{}
}

// Apply records a batch that Check accepted and that has its offsets.
func (p *Producer) Apply(b Batch) {
	if e := b.ProducerEpoch(); e != p.Epoch {
		p.Epoch, p.Count = e, 0
	}
	p.Timestamp = max(p.Timestamp, b.MaxTimestamp())
	if p.Count == Window {
		copy(p.Spans[:], p.Spans[1:])
		p.Count--
	}
	p.Spans[p.Count] = Span{
		FirstSequence: b.BaseSequence(), LastSequence: b.LastSequence(),
		BaseOffset: b.BaseOffset(), LastOffset: b.LastOffset(), Timestamp: b.MaxTimestamp(),
	}
	p.Count++
}

// ApplyMarker records a control batch: it fences older epochs and coordinators.
func (p *Producer) ApplyMarker(epoch int16, m Marker, timestamp int64) {
	if epoch > p.Epoch {
		p.Epoch, p.Count = epoch, 0
	}
	p.CoordinatorEpoch = max(p.CoordinatorEpoch, m.CoordinatorEpoch)
	p.Timestamp = max(p.Timestamp, timestamp)
}

// addSequence adds in the ring 0..MaxInt32.
func addSequence(s, n int32) int32 {
	if s > math.MaxInt32-n {
		return n - (math.MaxInt32 - s) - 1
	}
	return s + n
}

// EpochStart says that the batches from Base on were written under Epoch.
type EpochStart struct {
	Epoch int32
	Base  int64
}
