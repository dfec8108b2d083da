package partition

import (
	"context"
	"fmt"

	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/store/read"
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
	var found batch.Batch
	if ts == MaxTimestamp {
		if found, err = p.newest(ctx, start, high); err != nil || found == nil {
			return -1, -1, err
		}
		ts = found.MaxTimestamp()
	} else if found, err = p.atTime(ctx, ts, start, high); err != nil || found == nil {
		return -1, -1, err
	}
	return found.AtTime(ts, start)
}

func (p *Partition) atTime(ctx context.Context, ts, start, high int64) (batch.Batch, error) {
	hot, memory := p.scan(start, high, func(e Entry) bool { return e.MaxTimestamp >= ts }, true)
	cold, err := p.set.reader.AtTime(ctx, p.id.catalog(), ts, start, memory)
	if err != nil {
		return nil, fmt.Errorf("find time: %w", err)
	}
	if cold.OK {
		return cold.Batch, nil
	}
	return hot, nil
}

func (p *Partition) newest(ctx context.Context, start, high int64) (batch.Batch, error) {
	most := int64(-1)
	hot, memory := p.scan(start, high, func(e Entry) bool {
		if e.MaxTimestamp > most {
			most = e.MaxTimestamp
			return true
		}
		return false
	}, false)
	var cold read.Found
	var err error
	if cold, err = p.set.reader.Latest(ctx, p.id.catalog(), start, memory); err != nil {
		return nil, fmt.Errorf("find newest record: %w", err)
	}
	if cold.OK && cold.Batch.MaxTimestamp() >= most {
		return cold.Batch, nil
	}
	return hot, nil
}

// scan looks through memory for the first (or last) batch that is wanted, and
// returns a copy of it, with the offset at which memory began.
func (p *Partition) scan(start, high int64, want func(Entry) bool, first bool) (found batch.Batch, memory int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	memory = high
	if len(p.tail) > 0 {
		memory = p.tail[0].Base
	}
	var hit []byte
	for _, seg := range p.tail {
		for _, e := range seg.Entries {
			if e.Last < start || e.Base >= high || !want(e) {
				continue
			}
			if hit = e.Bytes; first {
				return append(batch.Batch(nil), hit...), memory
			}
		}
	}
	if hit == nil {
		return nil, memory
	}
	return append(batch.Batch(nil), hit...), memory
}
