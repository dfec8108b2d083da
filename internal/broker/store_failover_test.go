package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/meta/metamem"
	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/cluster"
	"github.com/looptape/looptape/internal/broker/partition"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/wal"
)

// newClusterWorld is a world whose brokers keep their logs in the object store.
func newClusterWorld() *world {
	w := newWorld()
	w.clock = func() time.Duration { return time.Duration(w.passed.Load()) }
	w.meta = metamem.NewAt(time.Now) // leases end when the test says so
	w.cfg.Slots.Linger = time.Millisecond
	w.cfg.Slots.DrainTimeout = 20 * time.Millisecond
	w.cfg.Slots.RetryMin, w.cfg.Slots.RetryMax = time.Millisecond, 2*time.Millisecond
	w.cfg.DrainTimeout = 20 * time.Millisecond
	return w
}

func testLog() *slog.Logger {
	if os.Getenv("LOOPTAPE_TEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return slog.New(slog.NewTextHandler(io.Discard, nil))
}

// join starts a broker of the cluster; killAt as in start. The process is
// returned also when it died while it opened.
func (w *world) join(broker int32, killAt int, after bool) (*process, error) {
	return w.joinWith(broker, "object", killAt, after)
}

// joinWith is join with the kind of log.
func (w *world) joinWith(broker int32, kind string, killAt int, after bool) (*process, error) {
	p := &process{w: w, killAt: killAt, after: after, done: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	e, err := OpenStore(ctx, Parts{
		Files: w.files, Dir: "/wal", Blobs: mortalBlobs{w.blobs, p}, Meta: leasedMeta{mortalMeta{w.meta, p}, p}, Broker: broker, WAL: kind,
		Cluster: true, Clock: w.clock, Address: fmt.Sprintf("broker-%d:9092", broker), Lease: time.Hour,
		Members: cluster.Config{Grace: time.Millisecond, RetryMin: time.Millisecond, RetryMax: 4 * time.Millisecond},
	}, w.cfg, testLog().With("on", broker))
	if err != nil {
		cancel()
		close(p.done)
		return p, err
	}
	p.e = e
	go func() { p.err = e.Run(ctx); close(p.done) }()
	return p, nil
}

func (w *world) mustJoin(t testing.TB, broker int32) *process {
	t.Helper()
	p, err := w.join(broker, 0, false)
	if err != nil {
		t.Fatalf("open broker %d: %v", broker, err)
	}
	return p
}

// leasedMeta remembers the leases of a process, so that they can end with it.
type leasedMeta struct {
	mortalMeta
	p *process
}

func (m leasedMeta) Grant(ctx context.Context, ttl time.Duration) (id meta.LeaseID, err error) {
	err = m.do(func() error {
		id, err = m.Store.Grant(ctx, ttl)
		if err == nil {
			m.p.mu.Lock()
			m.p.leases = append(m.p.leases, id)
			m.p.mu.Unlock()
		}
		return err
	})
	return id, err
}
func (m leasedMeta) KeepAlive(ctx context.Context, id meta.LeaseID) (ttl time.Duration, err error) {
	err = m.do(func() error { ttl, err = m.Store.KeepAlive(ctx, id); return err })
	return ttl, err
}
func (m leasedMeta) Revoke(ctx context.Context, id meta.LeaseID) error {
	return m.do(func() error { return m.Store.Revoke(ctx, id) })
}

// Watch lags while the process is paused.
func (m leasedMeta) Watch(ctx context.Context, prefix string, after int64) <-chan meta.Batch {
	out := make(chan meta.Batch)
	go func() {
		defer close(out)
		for b := range m.Store.Watch(ctx, prefix, after) {
			m.p.mu.Lock()
			held := m.p.held
			m.p.mu.Unlock()
			if held != nil {
				select {
				case <-held:
				case <-ctx.Done():
				}
			}
			select {
			case out <- b:
			case <-ctx.Done():
			}
		}
	}()
	return out
}

// crash ends a broker at once, as SIGKILL does; its lease ends when its time has
// passed, which is now.
func (p *process) crash(t testing.TB) {
	t.Helper()
	p.mu.Lock()
	p.dead = true
	leases := p.leases
	p.mu.Unlock()
	p.cancel()
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		t.Fatal("a dead process does not end")
	}
	for _, id := range leases {
		p.w.meta.Expire(id)
	}
}

// serves waits until the broker serves the partitions of a topic.
func (p *process) serves(t testing.TB, topic catalog.Topic) []*partition.Partition {
	t.Helper()
	all := make([]*partition.Partition, topic.Partitions)
	deadline := time.Now().Add(20 * time.Second)
	for i := range all {
		for {
			part, err := p.e.Partitions().Get(partition.ID{Topic: topic.ID, Index: int32(i)})
			if err == nil {
				all[i] = part
				break
			}
			select {
			case <-p.done:
				t.Fatalf("the broker ended: %v", p.err)
			default:
			}
			if time.Now().After(deadline) {
				t.Fatalf("partition %d is not served: %v", i, err)
			}
			time.Sleep(time.Millisecond)
		}
	}
	return all
}

// A broker dies with records in objects and in its log. The other one serves all
// that was acknowledged, under the next leader epoch, continues the producers where
// they were, and no data was copied but what the log alone had (traps 7 and 9).
func TestTrap09FailoverServesWhatWasAcknowledged(t *testing.T) {
	w := newClusterWorld()
	a := w.mustJoin(t, 1)
	topic := a.create(t, "events", 2, nil)
	b := w.mustJoin(t, 2)
	first := a.partition(t, topic, 0)
	want := map[int64]string{}
	add := func(part *partition.Partition, seq int32, v string) partition.Appended {
		t.Helper()
		r := appendTo(part, partition.Append{Batches: idempotent(7, 0, seq, v)})
		if r.Err != nil {
			t.Fatalf("append %s: %v", v, r.Err)
		}
		want[r.Base] = v
		return r
	}
	for i := range 5 {
		add(first, int32(i), fmt.Sprint("in objects ", i))
	}
	a.flush(t)
	for i := range 5 {
		add(first, int32(5+i), fmt.Sprint("in the log ", i))
	}
	if _, err := b.e.Partitions().Get(partition.ID{Topic: topic.ID}); !errors.Is(err, partition.ErrNotLeader) {
		t.Errorf("before: %v", err)
	}
	if leader, epoch, serves := b.e.Catalog().Leader(catalog.Partition{Topic: topic.ID}); leader != 1 || epoch != 0 || !serves {
		t.Error(leader, epoch, serves)
	}
	before := len(w.blobs.Keys())
	a.crash(t)

	parts := b.serves(t, topic)
	if diff := cmp.Diff(want, values(t, parts[0], 0, partition.Read{MaxBytes: 1 << 20})); diff != "" {
		t.Error(diff)
	}
	if _, high, _ := parts[0].Offsets(); high != 10 || parts[0].LeaderEpoch() != 1 {
		t.Errorf("high watermark %d, leader epoch %d", high, parts[0].LeaderEpoch())
	}
	if leader, epoch, serves := b.e.Catalog().Leader(catalog.Partition{Topic: topic.ID}); leader != 2 || epoch != 1 || !serves {
		t.Error(leader, epoch, serves)
	}
	// A retry of what was acknowledged is a duplicate; the next one goes on.
	if r := appendTo(parts[0], partition.Append{Batches: idempotent(7, 0, 9, "in the log 4")}); r.Err != nil || !r.Duplicate || r.Base != 9 {
		t.Errorf("duplicate: %+v", r)
	}
	if r := appendTo(parts[0], partition.Append{Batches: idempotent(7, 0, 12, "gap")}); !errors.Is(r.Err, partition.ErrOutOfOrderSequence) {
		t.Errorf("gap: %+v", r)
	}
	add(parts[0], 10, "after")
	if e, end := parts[0].OffsetForEpoch(0); e != 0 || end != 10 {
		t.Errorf("end of leader epoch 0: %d %d", e, end)
	}
	if after := len(w.blobs.Keys()); after > before+5 { // recovered object, seal, slot, mark
		t.Errorf("%d objects before, %d after: %v", before, after, w.blobs.Keys())
	}
	// And back: the first broker starts again and finds nothing of its own.
	a = w.mustJoin(t, 1)
	if _, err := a.e.Partitions().Get(partition.ID{Topic: topic.ID}); !errors.Is(err, partition.ErrNotLeader) {
		t.Errorf("after: %v", err)
	}
	b.crash(t)
	parts = a.serves(t, topic)
	add(parts[0], 11, "back")
	if diff := cmp.Diff(want, values(t, parts[0], 0, partition.Read{MaxBytes: 1 << 20})); diff != "" {
		t.Error(diff)
	}
	a.crash(t)
}

// A broker that stops cleanly leaves nothing to recover and is replaced at once;
// one that starts again in place goes on by itself.
func TestStopAndRestartInCluster(t *testing.T) {
	w := newClusterWorld()
	w.cfg.DrainTimeout = 5 * time.Second
	a := w.mustJoin(t, 1)
	topic := a.create(t, "events", 1, nil)
	want := map[int64]string{}
	fill := func(part *partition.Partition, v string) {
		t.Helper()
		r := appendTo(part, partition.Append{Batches: plain(v)})
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		want[r.Base] = v
	}
	fill(a.partition(t, topic, 0), "one")
	a.crash(t)
	a = w.mustJoin(t, 1) // nobody else is there
	fill(a.serves(t, topic)[0], "two")
	if e := a.partition(t, topic, 0).LeaderEpoch(); e != 0 {
		t.Errorf("leader epoch %d after a restart in place", e)
	}
	b := w.mustJoin(t, 2)
	a.stop(t)
	part := b.serves(t, topic)[0]
	fill(part, "three")
	if diff := cmp.Diff(want, values(t, part, 0, partition.Read{MaxBytes: 1 << 20})); diff != "" {
		t.Error(diff)
	}
	b.stop(t)
}

// The log of a broker that restarted in place, before what it had adopted was in
// objects, is recovered together with the one before it.
func TestFailoverAfterRestartInPlace(t *testing.T) {
	w := newClusterWorld()
	a := w.mustJoin(t, 1)
	topic := a.create(t, "events", 1, nil)
	want := map[int64]string{}
	var last *process
	for life := range 3 {
		if life > 0 {
			a = w.mustJoin(t, 1)
		}
		part := a.serves(t, topic)[0]
		for i := range 3 {
			v := fmt.Sprint(life, "/", i)
			r := appendTo(part, partition.Append{Batches: idempotent(3, 0, int32(life*3+i), v)})
			if r.Err != nil {
				t.Fatal(r.Err)
			}
			want[r.Base] = v
		}
		last = a
		if life < 2 {
			a.crash(t)
		}
	}
	b := w.mustJoin(t, 2)
	last.crash(t)
	part := b.serves(t, topic)[0]
	if diff := cmp.Diff(want, values(t, part, 0, partition.Read{MaxBytes: 1 << 20})); diff != "" {
		t.Error(diff)
	}
	if r := appendTo(part, partition.Append{Batches: idempotent(3, 0, 9, "next")}); r.Err != nil || r.Base != 9 {
		t.Errorf("%+v", r)
	}
	b.crash(t)
}

// An open transaction stays open over the failover: the last stable offset does
// not pass it, and its marker ends it (trap 8 across brokers).
func TestFailoverCarriesTransactions(t *testing.T) {
	w := newClusterWorld()
	a := w.mustJoin(t, 1)
	b := w.mustJoin(t, 2)
	topic := a.create(t, "events", 1, nil)
	part := a.partition(t, topic, 0)
	txn := func(part *partition.Partition, seq int32, v string) {
		t.Helper()
		r := appendTo(part, partition.Append{Verified: true, Batches: build(batch.Header{
			Attributes: 1 << 4, LeaderEpoch: -1, ProducerID: 5, ProducerEpoch: 1, Sequence: seq,
		}, v)})
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	appendTo(part, partition.Append{Batches: plain("before")})
	txn(part, 0, "undecided")
	a.flush(t)
	txn(part, 1, "undecided too")
	appendTo(part, partition.Append{Batches: plain("behind")})
	a.crash(t)
	part = b.serves(t, topic)[0]
	if _, high, stable := part.Offsets(); high != 4 || stable != 1 {
		t.Errorf("high watermark %d, last stable offset %d", high, stable)
	}
	r := appendTo(part, partition.Append{Internal: true, Batches: batch.BuildMarker(5, 1, false, 0, 1000)})
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	got := values(t, part, 0, partition.Read{MaxBytes: 1 << 20, ReadCommitted: true})
	if diff := cmp.Diff(map[int64]string{0: "before", 3: "behind"}, got); diff != "" {
		t.Error(diff)
	}
	b.crash(t)
}

// One process alone may keep its log in the bucket, too: no lease, no other
// broker, and the next start goes on where the last one was killed.
func TestObjectLogAlone(t *testing.T) {
	w := newClusterWorld()
	want := map[int64]string{}
	var topic catalog.Topic
	for life := range 4 {
		p := &process{w: w, done: make(chan struct{})}
		ctx, cancel := context.WithCancel(context.Background())
		p.cancel = cancel
		e, err := OpenStore(ctx, Parts{Blobs: mortalBlobs{w.blobs, p}, Meta: mortalMeta{w.meta, p}, WAL: "object", Unconditional: life == 2}, w.cfg, testLog())
		if err != nil {
			t.Fatal(err)
		}
		p.e = e
		go func() { p.err = e.Run(ctx); close(p.done) }()
		if life == 0 {
			topic = p.create(t, "events", 1, nil)
		}
		part := p.partition(t, topic, 0)
		if diff := cmp.Diff(want, values(t, part, 0, partition.Read{MaxBytes: 1 << 20})); diff != "" {
			t.Fatalf("life %d: %s", life, diff)
		}
		for i := range 3 {
			v := fmt.Sprint(life, "/", i)
			r := appendTo(part, partition.Append{Batches: idempotent(3, 0, int32(life*3+i), v)})
			if r.Err != nil {
				t.Fatal(r.Err)
			}
			want[r.Base] = v
		}
		if !e.Serving() || !e.Acking() {
			t.Error("a process alone asks nobody")
		}
		p.crash(t)
	}
}

// A log in files is only for its own broker: while that one is dead its partitions
// are offline, nobody takes them over, and it goes on when it comes back. Its acks
// stop with its lease.
func TestFileLogInCluster(t *testing.T) {
	w := newClusterWorld()
	a, err := w.joinWith(1, "file", 0, false)
	if err != nil {
		t.Fatal(err)
	}
	b := w.mustJoin(t, 2)
	topic := a.create(t, "events", 1, nil)
	if r := appendTo(a.partition(t, topic, 0), partition.Append{Batches: plain("kept")}); r.Err != nil {
		t.Fatal(r.Err)
	}
	if !a.e.Acking() {
		t.Error("does not acknowledge while it lives")
	}
	w.passed.Store(int64(2 * time.Hour))
	if a.e.Acking() || !b.e.Acking() {
		t.Error("acks after the deadline:", a.e.Acking(), b.e.Acking())
	}
	w.passed.Store(0)
	a.crash(t)
	w.files = w.files.Crash(nil)
	p := catalog.Partition{Topic: topic.ID}
	deadline := time.Now().Add(10 * time.Second)
	for {
		leader, _, _ := b.e.Catalog().Leader(p)
		if leader == -1 && b.e.Catalog().Controller() == b.e.writer.ID() {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("leader %d, controller %v", leader, b.e.Catalog().Controller())
		}
		time.Sleep(time.Millisecond)
	}
	if dead := b.e.Catalog().DeadBrokers(); len(dead) != 1 || !dead[0].Stuck {
		t.Errorf("%+v", dead)
	}
	if a, err = w.joinWith(1, "file", 0, false); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[int64]string{0: "kept"}, values(t, a.serves(t, topic)[0], 0, partition.Read{MaxBytes: 1 << 20})); diff != "" {
		t.Error(diff)
	}
	// The kind changes only when nothing is left in the old log.
	a.crash(t)
	w.files = w.files.Crash(nil)
	if _, err := w.joinWith(1, "object", 0, false); err == nil || !strings.Contains(err.Error(), "--wal file") {
		t.Errorf("another kind of log: %v", err)
	}
	b.crash(t)
}

// A log with a gap in one partition takes that one offline and no other; an
// operator brings it back, and what was there before the gap is served (P2).
func TestQuarantine(t *testing.T) {
	ctx := context.Background()
	w := newClusterWorld()
	a := w.mustJoin(t, 1)
	b := w.mustJoin(t, 2)
	topic := a.create(t, "events", 2, nil)
	for i := range int32(6) {
		if r := appendTo(a.partition(t, topic, i%2), partition.Append{Batches: plain(fmt.Sprint(i))}); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	// One record goes to the log past its partition: bits that rot in memory do
	// this, nothing that Looptape does.
	bad := build(batch.Plain, "far away")
	batch.Batch(bad).SetBaseOffset(1000)
	id := partition.ID{Topic: topic.ID, Index: 0}
	out := make(chan error, 1)
	if _, err := a.e.wal.Append(&wal.Record{
		Data: [2][]byte{partition.EncodeRecord(id, 0, 1000, 1000, 1), bad}, Done: func(_ wal.LSN, err error) { out <- err },
	}); err != nil {
		t.Fatal(err)
	}
	if err := <-out; err != nil {
		t.Fatal(err)
	}
	if r := appendTo(a.partition(t, topic, 1), partition.Append{Batches: plain("behind it")}); r.Err != nil {
		t.Fatal(r.Err)
	}
	a.crash(t)
	deadline := time.Now().Add(10 * time.Second)
	for {
		part, err := b.e.Partitions().Get(partition.ID{Topic: topic.ID, Index: 1})
		if err == nil {
			if diff := cmp.Diff(map[int64]string{0: "1", 1: "3", 2: "5", 3: "behind it"}, values(t, part, 0, partition.Read{MaxBytes: 1 << 20})); diff != "" {
				t.Error(diff)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	damaged := catalog.Partition{Topic: topic.ID}
	if _, err := b.e.Partitions().Get(id); !errors.Is(err, partition.ErrNotLeader) {
		t.Errorf("a damaged partition is served: %v", err)
	}
	if leader, _, _ := b.e.Catalog().Leader(damaged); leader != -1 || b.e.Catalog().Quarantined()[damaged] == "" {
		t.Errorf("leader %d, %v", leader, b.e.Catalog().Quarantined())
	}
	if err := b.e.Catalog().Release(ctx, damaged); err != nil {
		t.Fatal(err)
	}
	part := b.serves(t, topic)[0]
	if diff := cmp.Diff(map[int64]string{0: "0", 1: "2", 2: "4"}, values(t, part, 0, partition.Read{MaxBytes: 1 << 20})); diff != "" {
		t.Error(diff)
	}
	b.crash(t)
}

// acked is what a workload was told.
type acked struct {
	mu   sync.Mutex
	last map[int32]int64            // by partition
	recs map[int32]map[int64]string // by partition and offset
}

// work appends to a broker until it fails or n are done, with flushes between.
func (k *acked) work(p *process, topic catalog.Topic, n int) {
	for i := range n {
		index := int32(i) % topic.Partitions
		part, err := p.e.Partitions().Get(partition.ID{Topic: topic.ID, Index: index})
		if err != nil {
			return
		}
		v := fmt.Sprintf("%d by %s", i, p.e.writer.ID())
		r := appendTo(part, partition.Append{Batches: plain(v)})
		if r.Err != nil {
			return
		}
		k.mu.Lock()
		if k.recs[index] == nil {
			k.recs[index] = map[int64]string{}
		}
		if old, twice := k.recs[index][r.Base]; twice {
			panic(fmt.Sprintf("offset %d of partition %d given twice: %q, %q", r.Base, index, old, v))
		}
		k.recs[index][r.Base] = v
		k.mu.Unlock()
		if i%5 == 4 {
			p.e.Partitions().Seal()
		}
	}
}

// check says that everything acknowledged can be read where it was acknowledged.
func (k *acked) check(t *testing.T, parts []*partition.Partition) {
	t.Helper()
	for i, part := range parts {
		got, err := readValues(part, 0, partition.Read{MaxBytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, v := range got {
			if seen[v] {
				t.Errorf("partition %d has %q twice", i, v)
			}
			seen[v] = true
		}
		for offset, v := range k.recs[int32(i)] {
			if got[offset] != v {
				t.Errorf("partition %d at %d: %q, acknowledged was %q", i, offset, got[offset], v)
			}
		}
	}
}

// The leader dies before or after each of its remote calls.
func TestFailoverAtEveryCallOfTheLeader(t *testing.T) {
	for _, after := range []bool{false, true} {
		died := 0
		for k := 1; ; k++ {
			w := newClusterWorld()
			b := w.mustJoin(t, 2)
			topic := b.create(t, "events", 2, nil)
			a, err := w.join(1, k, after)
			acks := &acked{recs: map[int32]map[int64]string{}}
			var own catalog.Topic
			if err == nil {
				if own, err = a.e.Catalog().CreateTopic(context.Background(), catalog.Topic{Name: "own", Partitions: 2}); err == nil {
					acks.work(a, own, 12)
				}
			}
			a.mu.Lock()
			dead := a.dead
			a.mu.Unlock()
			a.crash(t)
			if dead {
				died++
			}
			if acks.recs[0] != nil || err == nil {
				acks.check(t, b.serves(t, own))
			}
			b.serves(t, topic)
			b.crash(t)
			if t.Failed() {
				t.Fatalf("call %d, after its effect: %v", k, after)
			}
			if !dead {
				break
			}
		}
		if died < 15 {
			t.Errorf("only %d calls", died)
		}
	}
}

// The broker that takes over dies before or after each of its remote calls, and a
// third one takes over from both.
func TestFailoverAtEveryCallOfTheRecoverer(t *testing.T) {
	for _, after := range []bool{false, true} {
		for k := 1; ; k++ {
			w := newClusterWorld()
			a := w.mustJoin(t, 1)
			topic := a.create(t, "events", 2, nil)
			acks := &acked{recs: map[int32]map[int64]string{}}
			acks.work(a, topic, 14)
			b, err := w.join(2, 0, after)
			if err != nil {
				t.Fatal(err)
			}
			// The third comes after the second has had its chance.
			b.mu.Lock()
			b.killAt = b.calls + k
			b.mu.Unlock()
			a.crash(t)
			dead := false
			deadline := time.Now().Add(20 * time.Second)
			for !dead {
				b.mu.Lock()
				dead = b.dead
				b.mu.Unlock()
				if _, err := b.e.Partitions().Get(partition.ID{Topic: topic.ID, Index: 1}); err == nil {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("call %d: neither dead nor serving", k)
				}
				time.Sleep(100 * time.Microsecond)
			}
			if !dead {
				acks.work(b, topic, 6)
			}
			c := w.mustJoin(t, 3)
			b.crash(t)
			acks.check(t, c.serves(t, topic))
			c.crash(t)
			if t.Failed() {
				t.Fatalf("call %d, after its effect: %v", k, after)
			}
			if !dead {
				if k < 8 {
					t.Errorf("only %d calls", k)
				}
				break
			}
		}
	}
}

// A leader whose lease has ended while it was paused: the other takes over, and
// when the first goes on it acknowledges nothing, commits nothing and ends. Its
// reads stop with the lease (trap 14: the clock decides availability only).
func TestTrap14PausedLeaderIsFenced(t *testing.T) {
	w := newClusterWorld()
	a := w.mustJoin(t, 1)
	b := w.mustJoin(t, 2)
	topic := a.create(t, "events", 1, nil)
	part := a.partition(t, topic, 0)
	want := map[int64]string{}
	for i := range 4 {
		r := appendTo(part, partition.Append{Batches: plain(fmt.Sprint(i))})
		want[r.Base] = fmt.Sprint(i)
	}
	// The lease ends behind its back; nothing tells the first one but the store.
	a.mu.Lock()
	leases := a.leases
	a.mu.Unlock()
	hold := make(chan struct{})
	a.pause(hold)
	if !a.e.Serving() {
		t.Error("reads are not answered before the deadline")
	}
	w.passed.Store(int64(time.Hour)) // by its clock
	if a.e.Serving() {
		t.Error("reads are answered after the deadline")
	}
	for _, id := range leases {
		w.meta.Expire(id)
	}
	next := b.serves(t, topic)[0]
	r := appendTo(next, partition.Append{Batches: plain("by the next")})
	if r.Err != nil || r.Base != 4 {
		t.Fatalf("%+v", r)
	}
	want[4] = "by the next"
	out := make(chan partition.Appended, 1)
	part.Append(context.Background(), partition.Append{Batches: plain("by the zombie"), Done: func(x partition.Appended) { out <- x }})
	close(hold)
	if x := <-out; !errors.Is(x.Err, partition.ErrNotLeader) {
		t.Errorf("the zombie answered: %+v", x)
	}
	select {
	case <-a.done:
	case <-time.After(20 * time.Second):
		t.Fatal("the zombie lives")
	}
	if !errors.Is(a.err, wal.ErrFenced) && !errors.Is(a.err, catalog.ErrFenced) {
		t.Errorf("the zombie ended with %v", a.err)
	}
	if diff := cmp.Diff(want, values(t, next, 0, partition.Read{MaxBytes: 1 << 20})); diff != "" {
		t.Error(diff)
	}
	b.crash(t)
}
