package view

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/looptape/looptape/internal/loop/event"
	"github.com/looptape/looptape/internal/loop/stream"
)

// batched gives the whole tape in batches of n records.
type batched struct {
	*tape
	n int
}

func (b batched) Tail(ctx context.Context, cfg stream.TailConfig) error {
	var recs []event.Record
	for _, ps := range b.parts {
		for _, p := range ps {
			recs = append(recs, p...)
		}
	}
	next := positions{}
	for len(recs) > 0 {
		n := min(b.n, len(recs))
		for _, r := range recs[:n] {
			if next[r.Topic] == nil {
				next[r.Topic] = map[int32]int64{}
			}
			next[r.Topic][r.Partition] = r.Offset + 1
		}
		if err := cfg.Batch(ctx, recs[:n], clonePositions(next)); err != nil {
			return err
		}
		recs = recs[n:]
	}
	return nil
}

// BenchmarkFold folds requests of five records each; one operation is one record.
func BenchmarkFold(b *testing.B) {
	for _, size := range []struct {
		name string
		n    int
	}{{"batch=20", 20}, {"batch=500", 500}} {
		b.Run(size.name, func(b *testing.B) {
			l := newTape()
			for i := 0; i < max(1, b.N/5); i++ {
				l.request(b, i, "r1", "baseline", 0.5)
			}
			v := openView(b, filepath.Join(b.TempDir(), "view.db"), batched{l, size.n}, Retention{})
			b.ResetTimer()
			if err := v.Run(b.Context()); err != nil {
				b.Fatal(err)
			}
		})
	}
}
