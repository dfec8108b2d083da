package read

import (
	"context"
	"fmt"

	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/object"
)

// Found is a batch found by time: a copy, so that the caller needs no Release.
type Found struct {
	Batch batch.Batch
	OK    bool
}

// AtTime returns the first batch at or above offset from, starting below end,
// that has a timestamp at or after ts.
func (r *Reader) AtTime(ctx context.Context, p catalog.Partition, ts, from, end int64) (Found, error) {
	for _, x := range r.catalog.Extents(p) {
		if x.End <= from || x.Base >= end || x.MaxTimestamp < ts {
			continue
		}
		entries, err := r.entries(ctx, p, x.Object)
		if err != nil {
			return Found{}, fmt.Errorf("find time in %s: %w", p, err)
		}
		for _, e := range entries {
			if e.Last < from || e.Base >= end || e.MaxTimestamp < ts {
				continue
			}
			f, err := r.scan(ctx, x.Object, e, func(b batch.Batch) bool {
				return b.LastOffset() >= from && b.BaseOffset() < end && b.MaxTimestamp() >= ts
			})
			if err != nil || f.OK {
				return f, err
			}
		}
	}
	return Found{}, nil
}

// Latest returns the first batch at or above from and below end with the largest
// timestamp that objects hold.
func (r *Reader) Latest(ctx context.Context, p catalog.Partition, from, end int64) (Found, error) {
	most := int64(-1)
	for _, x := range r.catalog.Extents(p) {
		if x.End > from && x.Base < end {
			most = max(most, x.MaxTimestamp)
		}
	}
	for most >= 0 {
		f, err := r.AtTime(ctx, p, most, from, end)
		if err != nil || f.OK {
			return f, err
		}
		// The batch with that time lies outside of the range: try the next lower.
		next := int64(-1)
		for _, x := range r.catalog.Extents(p) {
			if x.End > from && x.Base < end && x.MaxTimestamp < most {
				next = max(next, x.MaxTimestamp)
			}
		}
		most = next
	}
	return Found{}, nil
}

func (r *Reader) scan(ctx context.Context, o *catalog.Object, e object.Entry, want func(batch.Batch) bool) (Found, error) {
	b, _, err := r.block(ctx, o, e)
	if err != nil {
		return Found{}, err
	}
	defer r.blocks.release(b)
	for h := range batch.Split(b.bytes) {
		if want(h) {
			return Found{Batch: append(batch.Batch(nil), h...), OK: true}, nil
		}
	}
	return Found{}, nil
}
