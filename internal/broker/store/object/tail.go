package object

import (
	"github.com/looptape/looptape/internal/broker/batch"
)

// MaxTailDepth is the longest chain of deltas below which a full snapshot lies,
// so that an open reads at most nine tails (P10).
const MaxTailDepth = 8

// Sample says that the batches up to Offset have timestamps up to Timestamp.
type Sample struct {
	Offset    int64
	Timestamp int64 // ms
}

// Tail is a partition's tail section: its state right after the last batch the
// object holds of it.
type Tail struct {
	TopicName   string
	LogStart    int64 // known to the writer; the catalog's may be higher
	Base, End   int64 // the span here: offsets [Base, End)
	LastStable  int64
	LeaderEpoch int32
	Epochs      []batch.EpochStart // leader epochs, oldest first
	// Depth says what Producers is: 0 the state of every producer, n > 0 that of
	// the producers seen in this span, over the tail of the span before, which
	// has depth n-1.
	Depth     uint8
	Producers []batch.Producer // by id
	Open      []batch.OpenTxn  // at End
	Ended     []batch.EndedTxn // whose marker is in this span, by marker
	Samples   []Sample
}

const (
	producerSize = 8 + 2 + 4 + 8 + 1
	spanSize     = 4 + 4 + 8 + 8 + 8
)

// Encode returns the tail's bytes.
func (t *Tail) Encode() []byte {
	w := writer{make([]byte, 0, 128+len(t.Producers)*(producerSize+spanSize*batch.Window))}
	w.u8(version)
	w.str(t.TopicName)
	w.i64(t.LogStart)
	w.i64(t.Base)
	w.i64(t.End)
	w.i64(t.LastStable)
	w.i32(t.LeaderEpoch)
	w.u32(uint32(len(t.Epochs)))
	for _, e := range t.Epochs {
		w.i32(e.Epoch)
		w.i64(e.Base)
	}
	w.u8(t.Depth)
	w.u32(uint32(len(t.Producers)))
	for i := range t.Producers {
		p := &t.Producers[i]
		w.i64(p.ID)
		w.u16(uint16(p.Epoch))
		w.i32(p.CoordinatorEpoch)
		w.i64(p.Timestamp)
		w.u8(uint8(p.Count))
		for _, s := range p.Spans[:p.Count] {
			w.i32(s.FirstSequence)
			w.i32(s.LastSequence)
			w.i64(s.BaseOffset)
			w.i64(s.LastOffset)
			w.i64(s.Timestamp)
		}
	}
	w.u32(uint32(len(t.Open)))
	for _, o := range t.Open {
		w.i64(o.ProducerID)
		w.i64(o.First)
	}
	w.u32(uint32(len(t.Ended)))
	for _, e := range t.Ended {
		w.i64(e.ProducerID)
		w.i64(e.First)
		w.i64(e.Marker)
		w.i64(e.LastStable)
		w.flag(e.Commit)
	}
	w.u32(uint32(len(t.Samples)))
	for _, s := range t.Samples {
		w.i64(s.Offset)
		w.i64(s.Timestamp)
	}
	return w.b
}

// DecodeTail reads a tail section whose CRC the caller has checked.
func DecodeTail(b []byte) (*Tail, error) {
	r := reader{b: b}
	if r.u8() != version {
		r.bad = true
	}
	t := &Tail{TopicName: r.str(), LogStart: r.i64(), Base: r.i64(), End: r.i64(), LastStable: r.i64(), LeaderEpoch: r.i32()}
	for range r.list(12) {
		t.Epochs = append(t.Epochs, batch.EpochStart{Epoch: r.i32(), Base: r.i64()})
	}
	t.Depth = r.u8()
	n := r.list(producerSize)
	if n > 0 {
		t.Producers = make([]batch.Producer, 0, n)
	}
	for range n {
		p := batch.Producer{ID: r.i64(), Epoch: int16(r.u16()), CoordinatorEpoch: r.i32(), Timestamp: r.i64()}
		if p.Count = int(r.u8()); p.Count > batch.Window {
			r.bad = true
			break
		}
		for i := range p.Count {
			p.Spans[i] = batch.Span{
				FirstSequence: r.i32(), LastSequence: r.i32(), BaseOffset: r.i64(), LastOffset: r.i64(), Timestamp: r.i64(),
			}
		}
		t.Producers = append(t.Producers, p)
	}
	for range r.list(16) {
		t.Open = append(t.Open, batch.OpenTxn{ProducerID: r.i64(), First: r.i64()})
	}
	for range r.list(33) {
		t.Ended = append(t.Ended, batch.EndedTxn{ProducerID: r.i64(), First: r.i64(), Marker: r.i64(), LastStable: r.i64(), Commit: r.flag()})
	}
	for range r.list(16) {
		t.Samples = append(t.Samples, Sample{Offset: r.i64(), Timestamp: r.i64()})
	}
	if t.Base < 0 || t.End < t.Base || t.LastStable > t.End || t.Depth > MaxTailDepth {
		r.bad = true
	}
	return t, r.end("tail section")
}
