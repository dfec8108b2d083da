package coord

import (
	"context"
	"time"

	"github.com/looptape/looptape/internal/broker/batch"
)

// checkpointBatch is how many bytes of records go into one batch of a
// checkpoint.
const checkpointBatch = 256 << 10

// checkpoint writes the shard's whole state at the end of the log when enough
// has been written over, and then deletes what lies before. It begins only when
// nothing is in flight: the state of memory is then exactly that of the log, and
// writing it again changes nothing. A crash before the last batch is durable
// leaves the old records in place; the part that was written repeats them.
func (s *shard) checkpoint(ctx context.Context) {
	if s.busy || s.written < max(s.cfg.CheckpointBytes, 4*s.kept) {
		return
	}
	if s.pending > 0 {
		s.quiet = true
		return
	}
	s.quiet, s.busy = false, true
	s.written, s.kept = 0, 0
	s.signal() // the inbox may have waited

	var batches [][]byte
	var records []batch.KV
	size := 0
	cut := func() {
		if len(records) > 0 {
			b := batch.Build(batch.Plain, records...)
			s.kept += int64(len(b))
			batches = append(batches, b)
			records, size = nil, 0
		}
	}
	add := func(kv batch.KV) {
		records = append(records, kv)
		if size += len(kv.Key) + len(kv.Value); size >= checkpointBatch {
			cut()
		}
	}
	now := time.Now().UnixMilli()
	for _, g := range s.groups {
		if g.metadata != nil {
			add(batch.KV{Timestamp: now, Key: groupKey(g.id), Value: g.metadata})
		}
		for tp, o := range g.offsets {
			add(batch.KV{Timestamp: now, Key: offsetKey(g.id, tp), Value: offsetValue(o.Offset)})
		}
	}
	cut()
	if len(batches) == 0 {
		_, end := s.log.Bounds()
		s.trim(ctx, end)
		return
	}
	first, failed := int64(-1), error(nil)
	for i, b := range batches {
		s.append(ctx, b, func(_ time.Time, x *effects, base int64, err error) {
			if i == 0 {
				first = base
			}
			if err != nil {
				failed = err
			}
			if i < len(batches)-1 {
				return
			}
			if failed != nil {
				s.trimmed <- failed
				return
			}
			// Durable is now: every group again, from first on.
			s.trim(ctx, first)
		})
	}
}

// trim deletes in the background: it is a transaction of the catalog.
func (s *shard) trim(ctx context.Context, before int64) {
	s.tasks.Go("trim", func(context.Context) error {
		s.trimmed <- s.log.Trim(ctx, before)
		return nil
	})
}
