package slots

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/looptape/looptape/internal/base/blob/blobmem"
	"github.com/looptape/looptape/internal/broker/store/wal"
)

// BenchmarkAppend measures acknowledged bytes and the time to the acknowledgment
// against a store whose puts take 5 ms, with that many callers who each wait for
// the answer. The 99th percentile has to stay below 1.5 x (linger + put).
func BenchmarkAppend(b *testing.B) {
	for _, c := range []struct{ callers, bytes int }{{1, 1 << 10}, {64, 1 << 10}, {1000, 1 << 10}, {64, 64 << 10}, {256, 256 << 10}} {
		b.Run(fmt.Sprintf("callers=%d/bytes=%d", c.callers, c.bytes), func(b *testing.B) { benchAppend(b, c.callers, c.bytes) })
	}
}

func benchAppend(b *testing.B, callers, bytes int) {
	const putTime = 5 * time.Millisecond
	store := &forgetful{Store: blobmem.New(), delay: putTime}
	l, err := Open(b.Context(), Config{Store: store, Prefix: testPrefix, Broker: 1, Epoch: 7, Conditional: true})
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	stopTrim := trimAlways(l)
	data := make([]byte, bytes)
	var mu sync.Mutex
	var all []time.Duration
	left := b.N
	b.SetBytes(int64(bytes))
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			done := make(chan error, 1)
			rec := &wal.Record{Data: [2][]byte{data[:16], data[16:]}, Done: func(_ wal.LSN, err error) { done <- err }}
			rec.Reserved = bytes
			for {
				mu.Lock()
				left--
				over := left < 0
				mu.Unlock()
				if over {
					return
				}
				began := time.Now()
				if err := l.Reserve(ctx, bytes); err != nil {
					b.Error(err)
					return
				}
				if _, err := l.Append(rec); err != nil {
					b.Error(err)
					return
				}
				if err := <-done; err != nil {
					b.Error(err)
					return
				}
				took := time.Since(began)
				mu.Lock()
				all = append(all, took)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	stopTrim()
	stop()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
	slices.Sort(all)
	p99 := all[len(all)*99/100]
	s := l.Requests()
	b.ReportMetric(float64(p99.Microseconds())/1e3, "p99-ms")
	b.ReportMetric(float64(s.WrittenBytes)/float64(s.Commits)/(1<<20), "MiB/put")
	slices.Sort(store.took)
	if limit := 3 * (50*time.Millisecond + store.took[len(store.took)*99/100]) / 2; p99 > limit && b.N > 100 {
		b.Errorf("99 %% are acknowledged within %v, the bound is %v", p99, limit)
	}
}

// trimAlways trims all that is durable, as a flusher would.
func trimAlways(l *Log) (stop func()) {
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(50 * time.Millisecond)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				_ = l.Trim(l.Durable())
			case <-end:
				return
			}
		}
	})
	return func() { close(end); wg.Wait() }
}

// forgetful reads what is put, as a transport would, and keeps nothing of it.
type forgetful struct {
	*blobmem.Store
	delay time.Duration
	mu    sync.Mutex
	took  []time.Duration
}

func (s *forgetful) Put(_ context.Context, _ string, body io.ReaderAt, size int64) error {
	began := time.Now()
	p := make([]byte, 256<<10)
	for off := int64(0); off < size; {
		n, err := body.ReadAt(p[:min(int64(len(p)), size-off)], off)
		if err != nil && err != io.EOF {
			return err
		}
		off += int64(n)
	}
	time.Sleep(s.delay - time.Since(began))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.took = append(s.took, time.Since(began))
	return nil
}
