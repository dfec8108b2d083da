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
	err = r.look(ctx, func() (err error) {
		offset, timestamp, err = r.atTime(ctx, p, ts, from, end)
		return err
	})
	if err != nil {
		return -1, -1, fmt.Errorf("find time in %s: %w", p, err)
	}
	return offset, timestamp, nil
}

func (r *Reader) atTime(ctx context.Context, p catalog.Partition, ts, from, end int64) (offset, timestamp int64, err error) {
	for _, x := range r.catalog.Extents(p) {
		if x.End <= from || x.Base >= end || x.MaxTimestamp < ts {
			continue
		}
		ix, err := r.index(ctx, x.Object, CatchUp)
		if err != nil {
			return -1, -1, err
		}
		below := min(end, x.End) // what the object holds beyond is out of date
		lo, hi := ix.partition(p)
		for i := ix.from(lo, hi, max(from, x.Base)); i < hi && ix.Blocks[i].Base < below; i++ {
			e := ix.Blocks[i]
			if e.MaxTimestamp < ts {
				continue
			}
			b, _, err := r.chunk(ctx, x.Object, ix, i, wants{class: CatchUp, must: true})
			if err != nil {
				return -1, -1, err
			}
			offset, timestamp, err = first(b.bytes[e.Pos-b.key.pos:][:e.Len], ts, max(from, x.Base), below)
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
func (r *Reader) Newest(ctx context.Context, p catalog.Partition, from, end int64) (newest int64, err error) {
	err = r.look(ctx, func() (err error) {
		newest, err = r.newest(ctx, p, from, end)
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("find newest record of %s: %w", p, err)
	}
	return newest, nil
}

func (r *Reader) newest(ctx context.Context, p catalog.Partition, from, end int64) (int64, error) {
	newest := int64(-1)
	for _, x := range r.catalog.Extents(p) {
		switch {
		case x.End <= from || x.Base >= end || x.MaxTimestamp <= newest:
		case x.Base >= from && x.End <= end && x.Base == x.SpanBase && x.End == x.SpanEnd:
			newest = x.MaxTimestamp
		default:
			ix, err := r.index(ctx, x.Object, CatchUp)
			if err != nil {
				return -1, err
			}
			lo, hi := ix.partition(p)
			for i := ix.from(lo, hi, max(from, x.Base)); i < hi && ix.Blocks[i].Base < min(end, x.End); i++ {
				newest = max(newest, ix.Blocks[i].MaxTimestamp)
			}
		}
	}
	return newest, nil
}
