package wal

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/looptape/looptape/internal/base/disk"
)

// BenchmarkAppend is durable throughput on the real disk: records of one size,
// `inflight` of them unanswered at a time. MB/s is of data; commits/op tells how
// many records share a sync. Compare with writing and syncing blocks of the same
// size in a loop, BenchmarkRawCommit.
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{1 << 10, 32 << 10, 256 << 10} {
		for _, inflight := range []int{1, 64} {
			b.Run(fmt.Sprintf("%dKiB/inflight=%d", size>>10, inflight), func(b *testing.B) {
				benchmarkAppend(b, size, inflight)
			})
		}
	}
}

func benchmarkAppend(b *testing.B, size, inflight int) {
	ctx := context.Background()
	l, err := Open(ctx, disk.OS{}, b.TempDir(), Identity{testID, 1}, Config{}, nil)
	if err != nil {
		b.Fatal(err)
	}
	runCtx, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- l.Run(runCtx) }()
	free := make(chan *Record, inflight)
	data := make([]byte, size)
	for range inflight {
		r := &Record{Data: [2][]byte{data[:61], data[61:]}}
		r.Done = func(lsn LSN, err error) {
			if err != nil {
				b.Error(err)
			}
			if lsn%1024 == 0 {
				if err := l.Trim(lsn - 1); err != nil {
					b.Error(err)
				}
			}
			free <- r
		}
		free <- r
	}
	time.Sleep(300 * time.Millisecond) // the second segment is being prepared
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		r := <-free
		r.Reserved = size
		if err := l.Reserve(ctx, size); err != nil {
			b.Fatal(err)
		}
		if _, err := l.Append(r); err != nil {
			b.Fatal(err)
		}
	}
	for range inflight {
		<-free
	}
	b.StopTimer()
	s := l.Stats()
	b.ReportMetric(float64(s.Commits)/float64(s.Records), "commits/op")
	b.ReportMetric(float64(s.CommitNanos)/float64(s.Commits)/1e3, "us/commit")
	stop()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkRawCommit is the floor: write and sync blocks in a recycled file.
func BenchmarkRawCommit(b *testing.B) {
	for _, size := range []int{4 << 10, 36 << 10, 260 << 10, 1 << 20, 4 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			p := pool{fs: disk.OS{}, dir: b.TempDir(), bytes: 128 << 20}
			s, err := p.take(1, 1, 128<<20)
			if err != nil {
				b.Fatal(err)
			}
			defer s.file.Close()
			mem := disk.Aligned(size, minAlign)
			b.SetBytes(int64(size))
			b.ResetTimer()
			for range b.N {
				if s.used+int64(size) > s.size {
					s.used = 0
				}
				if err := s.commit(mem); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
