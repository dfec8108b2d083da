package broker

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/partition"
	"github.com/looptape/looptape/internal/broker/store/catalog"
)

// benchStore runs a store on the real disk with the default configuration.
func benchStore(b *testing.B, dir string) (e *Store, stop func()) {
	b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	e, err := openStore(ctx, DefaultConfig(dir), slog.New(slog.NewTextHandler(io.Discard, nil)), nil)
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	return e, func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	}
}

// recordsPerBatch and valueBytes are those of the load generator's plain profile.
const (
	recordsPerBatch = 256
	valueBytes      = 1024
)

// BenchmarkAppend appends batches to 8 partitions, durably, with 64 appends in
// flight. Allocations are per batch of 256 records.
func BenchmarkAppend(b *testing.B) {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(180 << 20))
	e, stop := benchStore(b, b.TempDir())
	defer stop()
	topic, err := e.Catalog().CreateTopic(context.Background(), catalog.Topic{Name: "t", Partitions: 8})
	if err != nil {
		b.Fatal(err)
	}
	kvs := make([]batch.KV, recordsPerBatch)
	for i := range kvs {
		kvs[i] = batch.KV{Timestamp: time.Now().UnixMilli(), Value: make([]byte, valueBytes)}
	}
	data := batch.Build(batch.Plain, kvs...)
	slots := make(chan struct{}, 64)
	var parts []*partition.Partition
	for i := range int32(8) {
		p, err := e.Partitions().Get(partition.ID{Topic: topic.ID, Index: i})
		if err != nil {
			b.Fatal(err)
		}
		parts = append(parts, p)
	}
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		slots <- struct{}{}
		parts[i%8].Append(context.Background(), partition.Append{
			Batches: data,
			Done: func(a partition.Appended) {
				if a.Err != nil {
					b.Error(a.Err)
				}
				<-slots
			},
		})
		i++
	}
	for range cap(slots) {
		slots <- struct{}{}
	}
	b.ReportMetric(float64(residentBytes())/(1<<20), "MiB-resident")
}

func residentBytes() int64 {
	status, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(status))
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// BenchmarkReopen opens a store after its process was cut off with a full log,
// however much there is in objects.
func BenchmarkReopen(b *testing.B) {
	for _, mib := range []int{10, 300} {
		b.Run(strconv.Itoa(mib)+"MiB", func(b *testing.B) {
			dir := b.TempDir()
			e, stop := benchStore(b, dir)
			topic, err := e.Catalog().CreateTopic(context.Background(), catalog.Topic{Name: "t", Partitions: 8})
			if err != nil {
				b.Fatal(err)
			}
			data := batch.Build(batch.Plain, batch.KV{Timestamp: time.Now().UnixMilli(), Value: make([]byte, 512<<10)})
			for i := range 2 * mib {
				p, err := e.Partitions().Get(partition.ID{Topic: topic.ID, Index: int32(i % 8)})
				if err != nil {
					b.Fatal(err)
				}
				if out := appendTo(p, partition.Append{Batches: append([]byte(nil), data...)}); out.Err != nil {
					b.Fatal(out.Err)
				}
			}
			// What a kill leaves: no flush, no clean end of the log. A copy is only
			// true while nothing changes.
			for e.Partitions().Usage().Cuts > 0 {
				time.Sleep(time.Millisecond)
			}
			crashed := b.TempDir()
			if err := os.CopyFS(crashed, os.DirFS(dir)); err != nil {
				b.Fatal(err)
			}
			stop()
			left := 0.0
			for b.Loop() {
				b.StopTimer()
				copied := b.TempDir()
				if err := errors.Join(os.CopyFS(copied, os.DirFS(crashed)), syncAll(copied)); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				e, err := openStore(context.Background(), DefaultConfig(copied), slog.New(slog.NewTextHandler(io.Discard, nil)), nil)
				if err != nil {
					b.Fatal(err)
				}
				left = float64(e.Partitions().Usage().Unflushed)
				b.StopTimer()
				if err := e.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			b.ReportMetric(left/(1<<20), "MiB-recovered")
		})
	}
}

// syncAll writes back what a copy left in the page cache: the log of a killed
// process is on the device.
func syncAll(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}
