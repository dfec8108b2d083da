//go:build crash

package failover

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	topic      = "failover.records"
	partitions = 4
	producers  = 2
	// zombieValue is what only a stopped broker was sent. It may be in the log,
	// but never acknowledged.
	zombieValue = "zombie"
)

func fromEnv(t *testing.T, name string, otherwise int) int {
	v := os.Getenv(name)
	if v == "" {
		return otherwise
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatalf("%s=%q is not a number", name, v)
	}
	return n
}

// load is idempotent producers that write numbered records to every partition,
// and what they were told.
type load struct {
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu     sync.Mutex
	acked  map[key]int64 // offset
	marked time.Time
	since  map[int32]time.Time // first acknowledgement of a record sent after the mark
}

type key struct {
	producer  int
	partition int32
	seq       int64
}

func startLoad(t *testing.T, p *pair) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel, acked: map[key]int64{}, since: map[int32]time.Time{}}
	for id := range producers {
		cl := p.newClient(
			kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerLinger(time.Millisecond),
			kgo.MaxBufferedRecords(500), kgo.RecordRetries(1<<30), kgo.RecordDeliveryTimeout(5*time.Minute),
			// A broker that is stopped answers nothing and closes nothing.
			kgo.ProduceRequestTimeout(time.Second), kgo.RequestTimeoutOverhead(2*time.Second),
		)
		l.done.Go(func() { l.produce(ctx, t, cl, id) })
	}
	t.Cleanup(func() { cancel(); l.done.Wait() }) // before the clients close
	return l
}

func (l *load) produce(ctx context.Context, t *testing.T, cl *kgo.Client, id int) {
	body := strings.Repeat("x", 300)
	for seq := int64(0); ctx.Err() == nil; seq++ {
		k := key{id, int32(seq % partitions), seq}
		sent := time.Now()
		r := &kgo.Record{Topic: topic, Partition: k.partition, Value: fmt.Appendf(nil, "%d %d %s", id, seq, body)}
		cl.Produce(context.Background(), r, func(r *kgo.Record, err error) {
			if err != nil {
				t.Errorf("producer %d, record %d: %v", id, seq, err)
				return
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			l.acked[k] = r.Offset
			if _, known := l.since[k.partition]; !known && !l.marked.IsZero() && (sent.After(l.marked) || time.Since(l.marked) > time.Second) {
				l.since[k.partition] = time.Now()
			}
		})
		time.Sleep(time.Millisecond)
	}
	flush, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if err := cl.Flush(flush); err != nil {
		t.Errorf("producer %d: records still unacknowledged at the end: %v", id, err)
	}
}

func (l *load) total() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked)
}

// mark is the moment at which a broker goes.
func (l *load) mark() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.marked = time.Now()
	clear(l.since)
}

// awaitAll waits until every partition has acknowledged again, and returns how
// long the last one took.
func (l *load) awaitAll(t *testing.T, within time.Duration) (gap time.Duration) {
	t.Helper()
	for {
		l.mu.Lock()
		n, since := len(l.since), time.Since(l.marked)
		gap = 0
		for _, at := range l.since {
			gap = max(gap, at.Sub(l.marked))
		}
		l.mu.Unlock()
		if n == partitions {
			return gap
		}
		if since > within {
			t.Fatalf("%d of %d partitions acknowledge after %s", n, partitions, within)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (l *load) stop(t *testing.T) {
	t.Helper()
	l.cancel()
	l.done.Wait()
}

// verify reads everything back: each acknowledged record is there once, at its
// offset, in the order of its producer, and no offset is missing.
func (l *load) verify(t *testing.T, p *pair) int {
	t.Helper()
	from := map[int32]kgo.Offset{}
	for i := range int32(partitions) {
		from[i] = kgo.NewOffset().AtStart()
	}
	cl := p.newClient(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}), kgo.FetchMaxWait(500*time.Millisecond))
	seen := map[key]int64{}
	next := map[int32]int64{}
	last := map[key]int64{} // by producer and partition
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		f := cl.PollFetches(ctx)
		cancel()
		if errs := f.Errors(); len(errs) > 0 && !errors.Is(errs[0].Err, context.DeadlineExceeded) {
			t.Fatalf("read back: %v", errs[0].Err)
		}
		if f.NumRecords() == 0 {
			break
		}
		for _, r := range f.Records() {
			if r.Offset != next[r.Partition] {
				t.Fatalf("partition %d: offset %d follows %d", r.Partition, r.Offset, next[r.Partition]-1)
			}
			next[r.Partition]++
			if string(r.Value) == zombieValue {
				continue
			}
			k := key{partition: r.Partition}
			if _, err := fmt.Sscanf(string(r.Value[:min(len(r.Value), 40)]), "%d %d", &k.producer, &k.seq); err != nil {
				t.Fatalf("partition %d offset %d: not a record that was sent", r.Partition, r.Offset)
			}
			if at, twice := seen[k]; twice {
				t.Fatalf("%+v is there twice, at %d and %d", k, at, r.Offset)
			}
			seen[k] = r.Offset
			lane := key{producer: k.producer, partition: k.partition}
			if prev, ok := last[lane]; ok && prev >= k.seq {
				t.Fatalf("producer %d: record %d comes after %d in partition %d", k.producer, k.seq, prev, k.partition)
			}
			last[lane] = k.seq
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for k, want := range l.acked {
		if got, ok := seen[k]; !ok || got != want {
			t.Fatalf("%+v was acknowledged at offset %d; there: %v, at %d", k, want, ok, got)
		}
	}
	if len(l.acked) == 0 {
		t.Fatal("no record was acknowledged: the test has shown nothing")
	}
	return len(l.acked)
}

// group is a consumer group that reads along and commits.
type group struct {
	cl     *kgo.Client
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu   sync.Mutex
	seen map[key]bool
}

func startGroup(t *testing.T, p *pair) *group {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	g := &group{cancel: cancel, seen: map[key]bool{}}
	g.cl = p.newClient(kgo.ConsumerGroup("failover"), kgo.ConsumeTopics(topic), kgo.AutoCommitInterval(200*time.Millisecond),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(200*time.Millisecond))
	g.done.Go(func() {
		for ctx.Err() == nil {
			f := g.cl.PollFetches(ctx)
			g.mu.Lock()
			f.EachRecord(func(r *kgo.Record) {
				k := key{partition: r.Partition}
				if _, err := fmt.Sscanf(string(r.Value[:min(len(r.Value), 40)]), "%d %d", &k.producer, &k.seq); err == nil {
					g.seen[k] = true
				}
			})
			g.mu.Unlock()
		}
	})
	return g
}

// verify waits until the group has seen everything that was acknowledged.
func (g *group) verify(t *testing.T, l *load) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for {
		missing := 0
		l.mu.Lock()
		g.mu.Lock()
		for k := range l.acked {
			if !g.seen[k] {
				missing++
			}
		}
		g.mu.Unlock()
		l.mu.Unlock()
		if missing == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Errorf("the group has not seen %d acknowledged records", missing)
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	g.cancel()
	g.done.Wait()
}
