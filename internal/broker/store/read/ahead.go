package read

import (
	"context"
	"sync/atomic"

	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/object"
)

type aheadJob struct {
	object *catalog.Object
	entry  object.Entry
}

// plan asks for the blocks after entries[i], which was not in memory, if the
// reader seems to go through the partition: the block before is in memory, or
// this is the object's first. A full queue drops the wish.
func (r *Reader) plan(o *catalog.Object, entries []object.Entry, i int) {
	if i > 0 && !r.blocks.has(blockKey{o.Name, entries[i-1].Pos}) {
		return
	}
	for _, e := range entries[i+1 : min(len(entries), i+1+max(r.cfg.Ahead, 0))] {
		if r.blocks.has(blockKey{o.Name, e.Pos}) {
			continue
		}
		select {
		case r.ahead <- aheadJob{o, e}:
		default:
			return
		}
	}
}

func (r *Reader) readAhead(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case job := <-r.ahead:
			// A failure shows when somebody reads the block for real.
			if b, _, err := r.block(ctx, job.object, job.entry); err == nil {
				r.stats.ahead.Add(1)
				r.blocks.release(b)
			}
		}
	}
}

type stats struct {
	gets, bytes, ahead, stale atomic.Int64
}

// Stats are counters since New, and the size of the cache.
type Stats struct {
	Gets       int64 // blocks read from the store
	Bytes      int64 // of them
	Ahead      int64 // of them read ahead
	Stale      int64 // reads that found the index stale
	CacheBytes int64 // gauge
}

// Stats returns the counters.
func (r *Reader) Stats() Stats {
	r.blocks.mu.Lock()
	size := r.blocks.size
	r.blocks.mu.Unlock()
	return Stats{r.stats.gets.Load(), r.stats.bytes.Load(), r.stats.ahead.Load(), r.stats.stale.Load(), size}
}
