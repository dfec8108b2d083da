package read

import (
	"context"
	"fmt"

	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/store/catalog"
)

// AtTime returns the first record at or above offset from, in a batch that starts
// below end, with a timestamp at or after ts; -1, -1 when objects hold none.
func (r *Reader) AtTime(ctx context.Context, p catalog.Partition, ts, from, end int64) (offset, timestamp int64, err error) {
	for _, x := range r.catalog.Extents(p) {
		if x.End <= from || x.Base >= end || x.MaxTimestamp < ts {
			continue
		}
		entries, err := r.entries(ctx, p, x.Object)
		if err != nil {
			return -1, -1, fmt.Errorf("find time in %s: %w", p, err)
		}
		for _, e := range entries {
			if e.Last < from || e.Base >= end || e.MaxTimestamp < ts {
				continue
			}
			b, _, err := r.block(ctx, x.Object, e)
			if err != nil {
				return -1, -1, fmt.Errorf("find time in %s: %w", p, err)
			}
			offset, timestamp, err = first(b.bytes, ts, from, end)
			r.blocks.release(b)
			if err != nil || offset >= 0 {
				return offset, timestamp, err
			}
		}
	}
	return -1, -1, nil
}

func first(batches []byte, ts, from, end int64) (offset, timestamp int64, err error) {
	for b := range batch.Split(batches) {
		if b.LastOffset() < from || b.MaxTimestamp() < ts {
			continue
		}
		if b.BaseOffset() >= end {
			break
		}
		if offset, timestamp, err = b.AtTime(ts, from); err != nil || offset >= 0 {
			return offset, timestamp, err
		}
	}
	return -1, -1, nil
}

// Newest returns the largest timestamp that objects hold in [from, end); -1 when
// there is none. It goes by whole blocks: a block that reaches below from counts
// with all its records.
func (r *Reader) Newest(ctx context.Context, p catalog.Partition, from, end int64) (int64, error) {
	newest := int64(-1)
	for _, x := range r.catalog.Extents(p) {
		switch {
		case x.End <= from || x.Base >= end || x.MaxTimestamp <= newest:
		case x.Base >= from && x.End <= end:
			newest = x.MaxTimestamp
		default:
			entries, err := r.entries(ctx, p, x.Object)
			if err != nil {
				return -1, fmt.Errorf("find newest record of %s: %w", p, err)
			}
			for _, e := range entries {
				if e.Last >= from && e.Base < end {
					newest = max(newest, e.MaxTimestamp)
				}
			}
		}
	}
	return newest, nil
}
