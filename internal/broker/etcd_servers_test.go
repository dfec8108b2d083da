//go:build servers

package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/looptape/looptape/internal/base/blob/blobmem"
	"github.com/looptape/looptape/internal/base/disk/diskmem"
	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/meta/metaetcd"
	"github.com/looptape/looptape/internal/broker/partition"
	"github.com/looptape/looptape/internal/broker/store/write"
	"github.com/looptape/looptape/test/rig"
)

// counted counts the transactions of a store, their operations and bytes.
type counted struct {
	meta.Store
	mu   sync.Mutex
	txns []txnSize
}

type txnSize struct{ ops, bytes int }

func (c *counted) Txn(ctx context.Context, t meta.Txn) (meta.TxnResult, error) {
	s := txnSize{ops: len(t.If) + len(t.Then) + len(t.ElseGet)}
	for _, i := range t.If {
		s.bytes += len(i.Key) + len(i.Value)
	}
	for _, o := range t.Then {
		s.bytes += len(o.Key) + len(o.Value)
	}
	for _, k := range t.ElseGet {
		s.bytes += len(k)
	}
	c.mu.Lock()
	c.txns = append(c.txns, s)
	c.mu.Unlock()
	return c.Store.Txn(ctx, t)
}

// since says what the transactions from n on were, and how many there are now.
func (c *counted) since(n int) (sum, most txnSize, count int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.txns[n:] {
		sum.ops, sum.bytes = sum.ops+t.ops, sum.bytes+t.bytes
		most.ops, most.bytes = max(most.ops, t.ops), max(most.bytes, t.bytes)
	}
	return sum, most, len(c.txns)
}

// onEtcd is a store whose metadata is in etcd and everything else in memory.
type onEtcd struct {
	files *diskmem.FS
	blobs *blobmem.Store
	meta  *counted
	cfg   StoreConfig
	e     *Store
	stop  func(t *testing.T)
}

func (o *onEtcd) start(t *testing.T, url string) {
	t.Helper()
	cfg, err := metaetcd.Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	s, err := metaetcd.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	o.meta = &counted{Store: s}
	ctx, cancel := context.WithCancel(context.Background())
	o.e, err = OpenStore(ctx, Parts{Files: o.files, Dir: "/wal", Blobs: o.blobs, Meta: o.meta}, o.cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- o.e.Run(ctx) }()
	o.stop = func(t *testing.T) {
		t.Helper()
		cancel()
		if err := errors.Join(<-done, s.Close()); err != nil {
			t.Error(err)
		}
	}
}

// P7: with 10,000 partitions on an etcd as it comes, a commit that touches all of
// them is as small as one that touches ten.
func TestTenThousandPartitions(t *testing.T) {
	const topics, each = 10, 1000
	server := rig.Etcd(t) // no flags: stock limits
	o := &onEtcd{files: diskmem.New(512), blobs: blobmem.New(), cfg: StoreConfig{
		Partitions: partition.Config{SealAfter: time.Hour}, Snapshots: write.SnapshotConfig{Every: -1},
	}}
	o.start(t, server.URL("many"))
	report := func(what string, from int, began time.Time) int {
		sum, most, n := o.meta.since(from)
		t.Logf("%-36s %4d transactions, %6d operations, %8d bytes; largest %3d operations, %6d bytes; %v",
			what, n-from, sum.ops, sum.bytes, most.ops, most.bytes, time.Since(began).Round(time.Millisecond))
		if most.ops > 100 || most.bytes > 512<<10 {
			t.Errorf("%s: a transaction of %d operations and %d bytes", what, most.ops, most.bytes)
		}
		return n
	}
	began := time.Now()
	p := &process{e: o.e}
	var parts []*partition.Partition
	for i := range topics {
		topic := p.create(t, fmt.Sprint("t", i), each, nil)
		for j := range int32(each) {
			parts = append(parts, p.partition(t, topic, j))
		}
	}
	seen := report("create 10 topics of 1,000 partitions", 0, began)
	for flush := range 3 {
		began = time.Now()
		var acked sync.WaitGroup
		var failed atomic.Pointer[error]
		for _, part := range parts {
			acked.Add(1)
			part.Append(t.Context(), partition.Append{Batches: plain(fmt.Sprint("value ", flush)), Done: func(a partition.Appended) {
				if a.Err != nil {
					failed.Store(&a.Err)
				}
				acked.Done()
			}})
		}
		acked.Wait()
		if err := failed.Load(); err != nil {
			t.Fatal(*err)
		}
		p.flush(t)
		before := seen
		seen = report(fmt.Sprintf("flush %d of all of them", flush+1), seen, began)
		if seen == before {
			t.Error("nothing was committed")
		}
		if sum, most, _ := o.meta.since(before); most.ops > 20 || sum.ops > 20*(seen-before) {
			t.Errorf("commits of %d operations for %d partitions", most.ops, len(parts))
		}
	}
	o.stop(t)
	began = time.Now()
	o.start(t, server.URL("many"))
	t.Logf("start with %d partitions: %v", len(parts), time.Since(began).Round(time.Millisecond))
	p = &process{e: o.e}
	for i := range topics {
		topic, ok := o.e.Catalog().Topic(fmt.Sprint("t", i))
		if !ok {
			t.Fatal("a topic is gone")
		}
		for j := int32(0); j < each; j += 97 {
			got := values(t, p.partition(t, topic, j), 0, partition.Read{MaxBytes: 1 << 20})
			if d := cmp.Diff(map[int64]string{0: "value 0", 1: "value 1", 2: "value 2"}, got); d != "" {
				t.Fatalf("partition %d of topic %d: %s", j, i, d)
			}
		}
	}
	o.stop(t)
}

// P7: an etcd that is full throttles producers. Nobody is told that something was
// stored which was not, nobody fails, and with space again everything goes on.
func TestEtcdIsFull(t *testing.T) {
	server := rig.Etcd(t, "--quota-backend-bytes", strconv.Itoa(8<<20))
	o := &onEtcd{files: diskmem.New(512), blobs: blobmem.New(), cfg: StoreConfig{
		Partitions: partition.Config{SealBytes: 4 << 10, SealAfter: time.Hour, MaxUnflushed: 64 << 10, RetainBytes: -1},
		Snapshots:  write.SnapshotConfig{Every: -1},
	}}
	o.start(t, server.URL("full"))
	p := &process{e: o.e}
	part := p.partition(t, p.create(t, "events", 1, nil), 0)
	admin, err := clientv3.New(clientv3.Config{Endpoints: []string{server.Addr}})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()

	made := produce(t, part)
	count := made.count
	wait := func(what string, ok func() bool) {
		t.Helper()
		rig.Until(t, 30*time.Second, func() error {
			if !ok() {
				return fmt.Errorf("waiting for %s; %d acknowledged", what, count())
			}
			return nil
		})
	}
	wait("producers", func() bool { return count() > 500 })
	for full := false; !full; { // somebody else's data
		_, err := admin.Put(t.Context(), fmt.Sprint("junk/", time.Now().UnixNano()), string(make([]byte, 1<<20)))
		full = err != nil
	}
	wait("throttled producers", func() bool { return o.e.Partitions().Usage().Waiting > 0 })
	stalled := count()
	for range 20 { // nothing moves, nothing fails
		time.Sleep(50 * time.Millisecond)
	}
	if n := count(); n != stalled {
		wait("producers that stand still", func() bool { before := count(); time.Sleep(time.Second); return count() == before })
		stalled = count()
	}
	if used := o.e.Partitions().Usage().Unflushed; used > 64<<10 {
		t.Errorf("%d bytes are held, the bound is %d", used, 64<<10)
	}
	if _, err := admin.Delete(t.Context(), "junk/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	r, err := admin.Get(t.Context(), "junk/")
	if err == nil {
		_, err = admin.Compact(t.Context(), r.Header.Revision, clientv3.WithCompactPhysical())
	}
	if err == nil {
		_, err = admin.Defragment(t.Context(), "http://"+server.Addr)
	}
	if err == nil {
		_, err = admin.AlarmDisarm(t.Context(), &clientv3.AlarmMember{})
	}
	if err != nil {
		t.Fatal(err)
	}
	wait("producers again", func() bool { return count() > stalled+500 })
	acked := made.end()
	t.Logf("%d acknowledged, %d before there was space again", len(acked), stalled)
	o.stop(t)
	o.start(t, server.URL("full"))
	o.holds(t, acked)
	o.stop(t)
}

// While etcd is killed and started again, and hangs, nothing that was acknowledged
// is lost, moved or doubled, and the same process goes on.
func TestEtcdIsKilled(t *testing.T) {
	server := rig.Etcd(t)
	o := &onEtcd{files: diskmem.New(512), blobs: blobmem.New(), cfg: StoreConfig{
		Partitions: partition.Config{SealBytes: 4 << 10, SealAfter: time.Hour, MaxUnflushed: 64 << 10, RetainBytes: -1},
		Snapshots:  write.SnapshotConfig{Every: -1},
	}}
	o.start(t, server.URL("killed")+"?timeout=2s")
	p := &process{e: o.e}
	made := produce(t, p.partition(t, p.create(t, "events", 1, nil), 0))
	began := time.Now()
	for i := range 5 {
		before := made.count()
		t.Logf("%v: %d acknowledged", time.Since(began).Round(time.Millisecond), before)
		rig.Until(t, 60*time.Second, func() error {
			if n := made.count() - before; n < 1000 {
				return fmt.Errorf("%d of 1,000 more acknowledged", n)
			}
			return nil
		})
		t.Logf("%v: %d more; etcd goes", time.Since(began).Round(time.Millisecond), made.count()-before)
		if i == 2 {
			server.Pause()
			time.Sleep(3 * time.Second)
			server.Resume()
		} else {
			server.Restart()
		}
	}
	acked := made.end()
	if err := o.e.Catalog().Refresh(t.Context()); err != nil {
		t.Error(err)
	}
	t.Logf("%d acknowledged, %+v", len(acked), o.e.Catalog().Stats())
	o.holds(t, acked)
	o.stop(t)
	o.start(t, server.URL("killed"))
	o.holds(t, acked)
	o.stop(t)
}

// producers append to a partition until their end.
type producers struct {
	mu    sync.Mutex
	acked map[int64]string
	stop  chan struct{}
	group sync.WaitGroup
}

func produce(t *testing.T, part *partition.Partition) *producers {
	p := &producers{acked: map[int64]string{}, stop: make(chan struct{})}
	for i := range 4 {
		p.group.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-p.stop:
					return
				default:
				}
				value := fmt.Sprintf("%d-%d-%0200d", i, n, 0)
				out := make(chan partition.Appended, 1)
				part.Append(context.Background(), partition.Append{Batches: plain(value), Done: func(a partition.Appended) { out <- a }})
				a := <-out
				if a.Err != nil {
					t.Errorf("append: %v", a.Err)
					return
				}
				p.mu.Lock()
				if _, twice := p.acked[a.Base]; twice {
					t.Errorf("offset %d twice", a.Base)
				}
				p.acked[a.Base] = value
				p.mu.Unlock()
			}
		})
	}
	return p
}

func (p *producers) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.acked)
}

func (p *producers) end() map[int64]string {
	close(p.stop)
	p.group.Wait()
	return p.acked
}

// holds wants exactly these records in the topic.
func (o *onEtcd) holds(t *testing.T, want map[int64]string) {
	t.Helper()
	topic, _ := o.e.Catalog().Topic("events")
	got := values(t, (&process{e: o.e}).partition(t, topic, 0), 0, partition.Read{MaxBytes: 1 << 20})
	if !maps.Equal(got, want) {
		t.Errorf("%d records, %d acknowledged; offsets %v", len(got), len(want), slices.Sorted(maps.Keys(got))[:min(10, len(got))])
	}
}
