package partition

import (
	"context"
	"fmt"

	"github.com/looptape/looptape/internal/broker/batch"
)

// Special timestamps of OffsetForTime.
const (
	Latest       int64 = -1 // the high watermark
	Earliest     int64 = -2 // the log start
	MaxTimestamp int64 = -3 // the record with the largest timestamp
)

// OffsetForTime returns the offset and the timestamp of the first record with a
// timestamp at or after ts (ms); -1, -1 when there is none. Latest and Earliest
// give offsets without timestamp.
func (p *Partition) OffsetForTime(ctx context.Context, ts int64) (offset, timestamp int64, err error) {
	start, high, _ := p.Offsets()
	switch ts {
	case Latest:
		return high, -1, nil
	case Earliest:
		return start, -1, nil
	}
	if ts == MaxTimestamp {
		if ts, err = p.newest(ctx, start, high); err != nil || ts < 0 {
			return -1, -1, err
		}
	}
	return p.atTime(ctx, ts, start, high)
}

func (p *Partition) atTime(ctx context.Context, ts, start, high int64) (offset, timestamp int64, err error) {
	// Memory first, so that nothing slips from memory to objects in between.
	hotOffset, hotTime, memory := int64(-1), int64(-1), high
	for from := start; hotOffset < 0; {
		b, begin := p.candidate(from, high, ts)
		memory = min(memory, begin)
		if b == nil {
			break
		}
		if hotOffset, hotTime, err = b.AtTime(ts, start); err != nil {
			return -1, -1, err
		}
		from = b.LastOffset() + 1
	}
	offset, timestamp, err = p.set.reader.AtTime(ctx, p.id.catalog(), ts, start, memory)
	if err != nil {
		return -1, -1, fmt.Errorf("find time: %w", err)
	}
	if offset < 0 {
		return hotOffset, hotTime, nil
	}
	return offset, timestamp, nil
}

// candidate returns a copy of the first batch in memory in [from, high) that says
// it has a timestamp at or after ts, and the offset at which memory begins.
func (p *Partition) candidate(from, high, ts int64) (b batch.Batch, memory int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	memory = high
	if len(p.tail) > 0 {
		memory = p.tail[0].Base
	}
	for _, seg := range p.tail {
		if seg.Max < ts || seg.End <= from {
			continue
		}
		for _, e := range seg.Entries {
			if e.Last >= from && e.Base < high && e.MaxTimestamp >= ts {
				return append(batch.Batch(nil), e.Bytes...), memory
			}
		}
	}
	return nil, memory
}

// newest is the largest timestamp, -1 when there is no record.
func (p *Partition) newest(ctx context.Context, start, high int64) (int64, error) {
	p.mu.Lock()
	newest, memory := int64(-1), high
	if len(p.tail) > 0 {
		memory = p.tail[0].Base
	}
	for _, seg := range p.tail {
		if seg.End > start {
			newest = max(newest, seg.Max)
		}
	}
	p.mu.Unlock()
	cold, err := p.set.reader.Newest(ctx, p.id.catalog(), start, memory)
	if err != nil {
		return -1, err
	}
	return max(newest, cold), nil
}
