package partition

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/store/read"
)

// Read asks for records from Offset on.
type Read struct {
	Offset             int64
	MaxBytes           int
	AtLeastOne         bool  // give the first batch whole even above MaxBytes
	ReadCommitted      bool  // only below the last stable offset, with the aborted transactions
	CurrentLeaderEpoch int32 // as the caller knows it, -1 unknown
	// Glance gives only what is in memory, without waiting for the object store.
	// What is not is fetched meanwhile, and the chunk is Pending.
	Glance bool
}

// AbortedTxn is a transaction whose records a read-committed reader skips, from
// FirstOffset to its marker.
type AbortedTxn struct {
	ProducerID  int64
	FirstOffset int64
}

// Chunk is whole batches, in order; the first may start below the offset asked for.
type Chunk struct {
	Records       [][]byte // do not modify, and don't use after Release
	Release       func()   // may be nil; call it at most once
	HighWatermark int64
	LastStable    int64
	LogStart      int64
	Aborted       []AbortedTxn // under ReadCommitted, by first offset
	Pending       bool         // there is more, on its way from the object store
}

// Read returns what there is from r.Offset on; it does not wait for new data.
// ErrOffsetOutOfRange, ErrFencedEpoch, ErrUnknownEpoch; errors of the object
// store for what is only there. With ErrOffsetOutOfRange the chunk has the offsets.
func (p *Partition) Read(ctx context.Context, r Read) (Chunk, error) {
	var res collected
	next := r.Offset
	for try := 0; ; try++ {
		p.mu.Lock()
		chunk := Chunk{HighWatermark: p.high, LogStart: p.logStart, LastStable: p.txns.LastStable(p.high)}
		err := p.checkEpoch(r.CurrentLeaderEpoch)
		switch {
		case err != nil:
		case p.closed:
			err = p.gone()
		case try == 0 && (r.Offset < p.logStart || r.Offset > p.high):
			err = ErrOffsetOutOfRange
		}
		if err != nil {
			p.mu.Unlock()
			res.release()
			return chunk, err
		}
		limit := p.high
		if r.ReadCommitted {
			limit = chunk.LastStable
		}
		memory := p.high
		if len(p.tail) > 0 {
			memory = p.tail[0].Base
		}
		if next >= memory {
			next = p.fromMemory(&res, r, next, limit)
		}
		p.mu.Unlock()
		if next >= memory || next >= limit {
			return p.finish(ctx, r, chunk, &res, next)
		}
		// Below memory: objects have it, without a hole from the log start on.
		// Memory's start only rises meanwhile.
		got, err := p.set.reader.Read(ctx, read.Query{
			Partition: p.id.catalog(), Offset: next, End: min(limit, memory),
			MaxBytes: r.MaxBytes - res.bytes, AtLeastOne: r.AtLeastOne && res.bytes == 0, Glance: r.Glance,
		})
		if err != nil {
			res.release()
			return p.missed(chunk, next, err)
		}
		if got.Bytes > 0 {
			res.records = append(res.records, got.Records...)
			res.bytes += got.Bytes
			res.cold = append(res.cold, got)
		}
		next = got.Next
		chunk.Pending = got.Pending
		// What follows in memory comes with the next read, unless the objects are
		// used up and there is room left.
		if got.Full || got.Pending || got.Bytes > 0 && (next < min(limit, memory) || res.bytes >= r.MaxBytes) {
			return p.finish(ctx, r, chunk, &res, next)
		}
		// Nothing is left of it up to where memory began: compacted away.
		next = max(next, min(limit, memory))
	}
}

// missed explains why objects do not have the records at offset. Below a log
// start that has risen meanwhile that is no error of theirs.
func (p *Partition) missed(chunk Chunk, offset int64, err error) (Chunk, error) {
	if !errors.Is(err, read.ErrLost) {
		return chunk, err
	}
	start := p.set.catalog.Record(p.id.catalog()).LogStart
	p.mu.Lock()
	defer p.mu.Unlock()
	p.logStart = max(p.logStart, start)
	chunk.LogStart = p.logStart
	switch {
	case p.closed:
		return chunk, p.gone()
	case !p.set.Exists(p.id):
		return chunk, ErrUnknownPartition
	case offset < p.logStart:
		return chunk, ErrOffsetOutOfRange
	}
	return chunk, err
}

// collected is the answer so far with what it pins.
type collected struct {
	records [][]byte
	bytes   int
	hot     pin
	cold    []read.Result
}

func (c *collected) release() {
	c.hot.release()
	for i := range c.cold {
		c.cold[i].Release()
	}
	c.cold = nil
}

// fromMemory adds whole batches from next on, below limit, and returns where it
// stopped. p.mu is held.
func (p *Partition) fromMemory(res *collected, r Read, next, limit int64) int64 {
	at := sort.Search(len(p.tail), func(i int) bool { return p.tail[i].End > next })
	for _, seg := range p.tail[at:] {
		from := sort.Search(len(seg.Entries), func(i int) bool { return seg.Entries[i].Last >= next })
		for _, e := range seg.Entries[from:] {
			first := res.bytes == 0
			if e.Base >= limit || res.bytes+len(e.Bytes) > r.MaxBytes && !(first && r.AtLeastOne) {
				return next
			}
			res.hot.hold(e.chunk)
			res.records = append(res.records, e.Bytes)
			res.bytes += len(e.Bytes)
			next = e.Last + 1
		}
	}
	return next
}

func (p *Partition) finish(ctx context.Context, r Read, chunk Chunk, res *collected, next int64) (Chunk, error) {
	chunk.Records = res.records
	if len(res.hot) > 0 || len(res.cold) > 0 {
		held := *res
		chunk.Release = held.release
	}
	if r.ReadCommitted && res.bytes > 0 {
		first := batch.Batch(res.records[0]).BaseOffset()
		aborted, err := p.aborted(ctx, first, next)
		if err != nil {
			res.release()
			return p.missed(Chunk{}, first, err)
		}
		// What was deleted meanwhile may be gone from the objects, and with it what
		// would have told that a record was aborted.
		p.mu.Lock()
		now := Chunk{HighWatermark: p.high, LogStart: p.logStart, LastStable: p.txns.LastStable(p.high)}
		p.mu.Unlock()
		if r.Offset < now.LogStart || !p.set.Exists(p.id) {
			res.release()
			return p.missed(now, r.Offset, read.ErrLost)
		}
		chunk.Aborted = aborted
	}
	return chunk, nil
}

// aborted gathers the aborted transactions of [from, upto), from objects and
// from memory; both may know the same one.
func (p *Partition) aborted(ctx context.Context, from, upto int64) ([]AbortedTxn, error) {
	p.mu.Lock()
	memory := p.high
	if len(p.tail) > 0 {
		memory = p.tail[0].Base
	}
	var all []batch.EndedTxn
	for _, seg := range p.tail {
		for _, e := range seg.Ended {
			if !e.Commit && e.First < upto && e.Marker >= from {
				all = append(all, e)
			}
		}
	}
	p.mu.Unlock()
	// A segment leaves memory only when objects have it, so what memory had at
	// that moment and what objects have now is everything.
	if from < memory {
		cold, _, err := p.set.reader.Aborted(ctx, p.id.catalog(), from, upto)
		if err != nil {
			return nil, err
		}
		all = append(all, cold...)
	}
	slices.SortFunc(all, func(a, b batch.EndedTxn) int {
		if a.First != b.First {
			return int(max(-1, min(1, a.First-b.First)))
		}
		return int(max(-1, min(1, a.Marker-b.Marker)))
	})
	all = slices.CompactFunc(all, func(a, b batch.EndedTxn) bool { return a.Marker == b.Marker })
	out := make([]AbortedTxn, 0, len(all))
	for _, e := range all {
		out = append(out, AbortedTxn{ProducerID: e.ProducerID, FirstOffset: e.First})
	}
	return out, nil
}

// DeleteRecords deletes what lies below before, which may be the high watermark
// (-1 means that), and returns the log start. It is durable when it returns.
func (p *Partition) DeleteRecords(ctx context.Context, before int64) (logStart int64, err error) {
	p.mu.Lock()
	high := p.high
	p.mu.Unlock()
	if before == -1 {
		before = high
	}
	if before < 0 || before > high {
		return -1, fmt.Errorf("delete records below %d: %w: the high watermark is %d", before, ErrOffsetOutOfRange, high)
	}
	logStart, err = p.set.starts.SetLogStart(ctx, p.id.catalog(), before)
	if err != nil {
		return -1, fmt.Errorf("delete records below %d: %w", before, err)
	}
	p.mu.Lock()
	p.logStart = max(p.logStart, logStart)
	logStart = p.logStart
	p.mu.Unlock()
	return logStart, nil
}
