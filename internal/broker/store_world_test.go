package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/blob/blobmem"
	"github.com/looptape/looptape/internal/base/disk/diskmem"
	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/meta/metamem"
	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/partition"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/read"
	"github.com/looptape/looptape/internal/broker/store/wal"
	"github.com/looptape/looptape/internal/broker/store/write"
)

// errDead is what a killed process gets from everything it calls.
var errDead = errors.New("the process is dead")

// world is a disk, an object store and a metadata store that outlive the
// processes on them.
type world struct {
	files *diskmem.FS
	blobs *blobmem.Store
	meta  *metamem.Store
	cfg   StoreConfig
	proc  *process
	// Of brokers in a cluster.
	clock  func() time.Duration
	passed atomic.Int64 // by clock
}

// process is one life of an engine. Its remote calls go through it, so that it
// can be killed before or after any of them.
type process struct {
	w      *world
	e      *Store
	cancel context.CancelFunc
	done   chan struct{}
	err    error // of Run, when done is closed

	mu     sync.Mutex
	dead   bool
	calls  int
	killAt int  // the call at which it dies, 0 never
	after  bool // it dies after the call took effect
	leases []meta.LeaseID
	held   chan struct{} // remote calls wait for it; nil: they don't
}

func newWorld() *world {
	return &world{
		files: diskmem.New(512), blobs: blobmem.New(), meta: metamem.New(),
		cfg: StoreConfig{
			Log:          wal.Config{SegmentBytes: 64 << 10, MaxBatch: 8 << 10},
			Partitions:   partition.Config{SealBytes: 4 << 10, SealAfter: time.Hour, MaxUnflushed: 64 << 10, RetainBytes: 2 << 10},
			Read:         read.Config{CacheBytes: 16 << 10, Ahead: 2},
			Flush:        write.Config{SingleBytes: 1 << 10, BlockBytes: 512, RetryMin: time.Millisecond, RetryMax: 2 * time.Millisecond},
			Sweep:        write.SweepConfig{Every: time.Hour, Grace: time.Nanosecond},
			Snapshots:    write.SnapshotConfig{Every: -1}, // they would stretch the grace
			DrainTimeout: 5 * time.Second,
		},
	}
}

// start opens and runs an engine on the world. An error means that the process
// died while it opened, if it was told to; its mess is left to the next one.
func (w *world) start(killAt int, after bool) (*process, error) {
	p := &process{w: w, killAt: killAt, after: after, done: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	e, err := OpenStore(ctx, Parts{
		Files: w.files, Dir: "/wal", Blobs: mortalBlobs{w.blobs, p}, Meta: mortalMeta{w.meta, p},
	}, w.cfg, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		cancel()
		return nil, err
	}
	p.e = e
	w.proc = p
	go func() { p.err = e.Run(ctx); close(p.done) }()
	return p, nil
}

func (w *world) mustStart(t testing.TB) *process {
	t.Helper()
	p, err := w.start(0, false)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return p
}

// call is asked before and after every remote call.
func (p *process) call(afterEffect bool) error {
	p.mu.Lock()
	if held := p.held; held != nil && !afterEffect {
		p.mu.Unlock()
		<-held
		p.mu.Lock()
	}
	defer p.mu.Unlock()
	if p.dead {
		return errDead
	}
	if !afterEffect {
		p.calls++
	}
	if p.killAt > 0 && p.calls >= p.killAt && afterEffect == p.after {
		p.dead = true
		return errDead
	}
	return nil
}

// pause makes remote calls wait until hold is closed.
func (p *process) pause(hold chan struct{}) {
	p.mu.Lock()
	p.held = hold
	p.mu.Unlock()
}

// kill ends the process at once and leaves the disk as a power cut would; a nil
// r keeps only what was synced.
func (p *process) kill(t testing.TB, r *rand.Rand) {
	t.Helper()
	p.mu.Lock()
	p.dead = true
	p.mu.Unlock()
	p.w.files.StopAt(1)
	p.w.files = p.w.files.Crash(r)
	p.cancel()
	<-p.done
}

// stop ends the process cleanly.
func (p *process) stop(t testing.TB) {
	t.Helper()
	p.cancel()
	if <-p.done; p.err != nil {
		t.Fatalf("clean stop: %v", p.err)
	}
}

// mortalBlobs and mortalMeta fail for good once the process is dead. Their
// errors are ones that are not retried, so that a dead process ends.
type mortalBlobs struct {
	blob.Store
	p *process
}

func (m mortalBlobs) do(fn func() error) error {
	if err := m.p.call(false); err != nil {
		return fmt.Errorf("%w: %w", blob.ErrBadKey, err)
	}
	err := fn()
	if dead := m.p.call(true); dead != nil {
		return fmt.Errorf("%w: %w", blob.ErrBadKey, dead)
	}
	return err
}
func (m mortalBlobs) Put(ctx context.Context, key string, body io.ReaderAt, size int64) error {
	return m.do(func() error { return m.Store.Put(ctx, key, body, size) })
}
func (m mortalBlobs) GetRange(ctx context.Context, key string, off int64, dst []byte) (n int, err error) {
	err = m.do(func() error { n, err = m.Store.GetRange(ctx, key, off, dst); return err })
	return n, err
}
func (m mortalBlobs) Delete(ctx context.Context, key string) error {
	return m.do(func() error { return m.Store.Delete(ctx, key) })
}

type mortalMeta struct {
	meta.Store
	p *process
}

func (m mortalMeta) do(fn func() error) error {
	if err := m.p.call(false); err != nil {
		return fmt.Errorf("%w: %w", meta.ErrClosed, err)
	}
	err := fn()
	if dead := m.p.call(true); dead != nil {
		return fmt.Errorf("%w: %w", meta.ErrClosed, dead)
	}
	return err
}
func (m mortalMeta) Get(ctx context.Context, keys ...string) (found map[string]meta.KV, rev int64, err error) {
	err = m.do(func() error { found, rev, err = m.Store.Get(ctx, keys...); return err })
	return found, rev, err
}
func (m mortalMeta) Scan(ctx context.Context, prefix string, fn func(meta.KV) error) (rev int64, err error) {
	err = m.do(func() error { rev, err = m.Store.Scan(ctx, prefix, fn); return err })
	return rev, err
}
func (m mortalMeta) Txn(ctx context.Context, t meta.Txn) (res meta.TxnResult, err error) {
	err = m.do(func() error { res, err = m.Store.Txn(ctx, t); return err })
	return res, err
}

func (p *process) create(t testing.TB, name string, partitions int32, config map[string]string) catalog.Topic {
	t.Helper()
	topic, err := p.e.Catalog().CreateTopic(context.Background(), catalog.Topic{Name: name, Partitions: partitions, Config: config})
	if err != nil {
		t.Fatal(err)
	}
	return topic
}

func (p *process) partition(t testing.TB, topic catalog.Topic, index int32) *partition.Partition {
	t.Helper()
	part, err := p.e.Partitions().Get(partition.ID{Topic: topic.ID, Index: index})
	if err != nil {
		t.Fatal(err)
	}
	return part
}

// appendTo appends and waits.
func appendTo(part *partition.Partition, a partition.Append) partition.Appended {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out := make(chan partition.Appended, 2)
	a.Done = func(x partition.Appended) { out <- x }
	part.Append(ctx, a)
	select {
	case x := <-out:
		return x
	case <-time.After(20 * time.Second):
		return partition.Appended{Err: errors.New("no answer")}
	}
}

// plain is a batch of one record for each value.
func plain(values ...string) []byte { return build(batch.Plain, values...) }

func build(h batch.Header, values ...string) []byte {
	var kvs []batch.KV
	for _, v := range values {
		kvs = append(kvs, batch.KV{Timestamp: 1000, Key: []byte("k"), Value: []byte(v)})
	}
	return batch.Build(h, kvs...)
}

func idempotent(id int64, epoch int16, seq int32, values ...string) []byte {
	return build(batch.Header{LeaderEpoch: -1, ProducerID: id, ProducerEpoch: epoch, Sequence: seq}, values...)
}

// flush puts everything appended so far into objects and waits for it.
func (p *process) flush(t testing.TB) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for p.e.Partitions().Usage().Unflushed > 0 {
		p.e.Partitions().Seal()
		if time.Now().After(deadline) {
			t.Fatalf("not flushed: %+v", p.e.Partitions().Usage())
		}
		time.Sleep(100 * time.Microsecond)
	}
}

// values reads a partition from offset on, a little at a time, and returns the
// records by offset.
func values(t testing.TB, part *partition.Partition, from int64, r partition.Read) map[int64]string {
	t.Helper()
	got, err := readValues(part, from, r)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func readValues(part *partition.Partition, from int64, r partition.Read) (map[int64]string, error) {
	got := map[int64]string{}
	r.AtLeastOne, r.CurrentLeaderEpoch = true, -1
	for next := from; ; {
		r.Offset = next
		chunk, err := part.Read(context.Background(), r)
		if err != nil {
			return nil, fmt.Errorf("read at %d: %w", next, err)
		}
		if len(chunk.Records) == 0 {
			limit := chunk.HighWatermark
			if r.ReadCommitted {
				limit = chunk.LastStable
			}
			if next < limit {
				return nil, fmt.Errorf("nothing at %d though the limit is %d", next, limit)
			}
			return got, nil
		}
		for _, run := range chunk.Records {
			for len(run) > 0 {
				b, rest, err := batch.Next(run)
				if err == nil {
					err = b.CheckCRC()
				}
				if err != nil {
					return nil, err
				}
				if b.LastOffset() < next {
					return nil, fmt.Errorf("batch %d-%d comes at %d", b.BaseOffset(), b.LastOffset(), next)
				}
				aborted := false
				for _, a := range chunk.Aborted {
					aborted = aborted || b.IsTransactional() && a.ProducerID == b.ProducerID() && a.FirstOffset <= b.BaseOffset() && !endedBefore(chunk.Aborted, a, b)
				}
				if err := b.Records(func(rec batch.Record) bool {
					if !b.IsControl() && !aborted {
						got[b.BaseOffset()+int64(rec.OffsetDelta)] = string(bytes.Clone(rec.Value))
					}
					return true
				}); err != nil {
					return nil, err
				}
				next, run = b.LastOffset()+1, rest
			}
		}
		if chunk.Release != nil {
			chunk.Release()
		}
	}
}

// endedBefore keeps the test's reading of aborted ranges simple: a producer has
// one aborted transaction in these tests.
func endedBefore([]partition.AbortedTxn, partition.AbortedTxn, batch.Batch) bool { return false }
