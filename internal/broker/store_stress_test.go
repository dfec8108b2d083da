package broker

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/partition"
)

// TestConcurrent appends, reads, flushes and sweeps at the same time. Memory is
// used again at once, and the caller's bytes are overwritten when Append returns: a
// reader that still had them would see a bad CRC or other offsets.
func TestConcurrent(t *testing.T) {
	const partitions, each = 3, 2500
	w := newWorld()
	w.cfg.Partitions.ChunkBytes = 2 << 10
	w.cfg.Partitions.RetainBytes = -1
	p := w.mustStart(t)
	topic := p.create(t, "events", partitions, map[string]string{"retention.ms": "-1"})
	var wg sync.WaitGroup
	fail := func(format string, args ...any) { t.Errorf(format, args...) }
	for i := range int32(partitions) {
		part := p.partition(t, topic, i)
		wg.Go(func() {
			out := make(chan partition.Appended, each)
			for seq := range int32(each) {
				b := idempotent(int64(i), 0, seq, fmt.Sprintf("%d-%s", seq, strings.Repeat("s", 100)))
				part.Append(context.Background(), partition.Append{
					Batches: b, Done: func(a partition.Appended) { out <- a },
				})
				clear(b)
			}
			for seq := range int64(each) {
				if a := <-out; a.Err != nil || a.Base != seq {
					fail("append %d: %+v", seq, a)
					return
				}
			}
		})
		for _, size := range []int{1, 900} {
			wg.Go(func() { // a consumer that waits for what is new
				waiter := partition.NewWaiter()
				defer part.Cancel(waiter)
				for next := int64(0); next < each; {
					chunk, err := part.Read(context.Background(), partition.Read{Offset: next, MaxBytes: size, AtLeastOne: true, CurrentLeaderEpoch: -1})
					if err != nil {
						fail("read at %d: %v", next, err)
						return
					}
					for _, run := range chunk.Records {
						for b := range batch.Split(run) {
							if err := b.CheckCRC(); err != nil || b.BaseOffset() != next {
								fail("batch %d at %d: %v", b.BaseOffset(), next, err)
								return
							}
							next = b.LastOffset() + 1
						}
					}
					if len(chunk.Records) == 0 {
						part.Notify(next, waiter)
						select {
						case <-waiter.C:
						case <-time.After(20 * time.Second):
							fail("nobody woke the reader at %d", next)
							return
						}
					}
					if chunk.Release != nil {
						chunk.Release()
					}
				}
			})
		}
		wg.Go(func() { // a reader of everything there is, again and again
			for range 10 {
				if _, err := readValues(part, 0, partition.Read{MaxBytes: 5000}); err != nil {
					fail("%v", err)
					return
				}
			}
		})
	}
	stop := make(chan struct{})
	var sweeps sync.WaitGroup
	sweeps.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				p.e.Partitions().Seal()
				if err := p.e.jobs.Sweeper().Round(context.Background()); err != nil {
					fail("sweep: %v", err)
				}
			}
		}
	})
	wg.Wait()
	close(stop)
	sweeps.Wait()
	p.flush(t)
	p.stop(t)
}

// The write path copies into memory that it has, and allocates little.
func TestAppendAllocations(t *testing.T) {
	w := newWorld()
	w.cfg.Partitions = partition.Config{SealAfter: time.Hour}
	w.cfg.Log.MaxBatch, w.cfg.Log.SegmentBytes = 64<<10, 256<<10
	p := w.mustStart(t)
	topic := p.create(t, "events", 1, nil)
	part := p.partition(t, topic, 0)
	kvs := make([]batch.KV, 256)
	for i := range kvs {
		kvs[i] = batch.KV{Timestamp: 1, Value: make([]byte, 10)}
	}
	var batches [][]byte
	for range 202 {
		batches = append(batches, batch.Build(batch.Plain, kvs...))
	}
	done := make(chan partition.Appended, 1)
	tell := func(a partition.Appended) { done <- a }
	i := 0
	allocs := testing.AllocsPerRun(200, func() {
		part.Append(context.Background(), partition.Append{Batches: batches[i], Done: tell})
		if a := <-done; a.Err != nil {
			t.Fatal(a.Err)
		}
		i++
	})
	// Two of ours a batch; the rest is the disk in memory and growing slices.
	if allocs > 8 {
		t.Errorf("%.0f allocations for a batch of 256 records", allocs)
	}
	p.stop(t)
}
