//go:build crash

package crash

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/looptape/looptape/test/rig"
)

const (
	topic      = "crash.records"
	partitions = 4
	producers  = 4
)

// A load is idempotent producers with acks=all that go on until stop, whatever
// happens to the server.
type load struct {
	broker string
	ctx    context.Context // ends the load
	cancel context.CancelFunc
	hard   context.Context // ends what is under way, too: the test has failed
	abort  context.CancelFunc
	work   sync.WaitGroup
	logs   []*ledger
}

// startLoad makes the topic and starts the producers.
func startLoad(t *testing.T, broker string) *load { return startLoadOf(t, broker, 200) }

// startLoadOf is startLoad with records of about that many bytes.
func startLoadOf(t *testing.T, broker string, bytes int) *load {
	t.Helper()
	if out, err := rig.Run(t, "topic", "create", topic, "--brokers", broker, "--partitions", strconv.Itoa(partitions)); err != nil {
		t.Fatalf("create: %v\n%s", err, out)
	}
	l := &load{broker: broker}
	l.hard, l.abort = context.WithCancel(context.Background())
	l.ctx, l.cancel = context.WithCancel(l.hard)
	for i := range producers {
		g := &ledger{}
		l.logs = append(l.logs, g)
		l.also(func() { g.produce(l.ctx, l.hard, t, broker, i, bytes) })
	}
	t.Cleanup(func() { l.abort(); l.stop() })
	return l
}

func (l *load) also(work func()) { l.work.Go(work) }

// stop ends the load and waits for what is under way.
func (l *load) stop() {
	l.cancel()
	l.work.Wait()
}

func (l *load) total() (n int64) {
	for _, g := range l.logs {
		n += g.count.Load()
	}
	return n
}

// flows waits until n more records are acknowledged.
func (l *load) flows(t *testing.T, n int64) {
	t.Helper()
	from := l.total()
	rig.Until(t, 60*time.Second, func() error {
		if got := l.total() - from; got < n {
			return fmt.Errorf("%d records acknowledged", got)
		}
		return nil
	})
}

// verify reads everything back.
func (l *load) verify(t *testing.T) int64 {
	t.Helper()
	return verifyRecords(t, l.broker, l.logs)
}

// A ledger is what one producer has sent and was told.
type ledger struct {
	mu    sync.Mutex
	acked map[int32]map[int64]int64 // partition -> sequence -> offset
	count atomic.Int64
}

// produce writes numbered records to every partition with an idempotent
// producer until ctx ends, and then waits for what is under way, until hard ends.
func (l *ledger) produce(ctx, hard context.Context, t *testing.T, broker string, id, bytes int) {
	l.acked = map[int32]map[int64]int64{}
	cl, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerLinger(time.Millisecond), kgo.MaxBufferedRecords(2000),
		kgo.RecordRetries(1<<30), kgo.RetryBackoffFn(func(int) time.Duration { return 50 * time.Millisecond }),
		kgo.MetadataMinAge(100*time.Millisecond))
	if err != nil {
		t.Error(err)
		return
	}
	defer cl.Close()
	body := strings.Repeat("x", bytes)
	for seq := int64(0); ctx.Err() == nil; seq++ {
		p := int32(seq % partitions)
		r := &kgo.Record{Topic: topic, Partition: p, Value: fmt.Appendf(nil, "%d %d %s", id, seq, body)}
		cl.Produce(hard, r, func(r *kgo.Record, err error) {
			if err != nil && hard.Err() != nil {
				return
			}
			if err != nil {
				t.Errorf("producer %d, record %d: %v", id, seq, err)
				return
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.acked[p] == nil {
				l.acked[p] = map[int64]int64{}
			}
			l.acked[p][seq] = r.Offset
			l.count.Add(1)
		})
		if seq%50 == 49 {
			time.Sleep(5 * time.Millisecond)
		}
	}
	flush, cancel := context.WithTimeout(hard, 60*time.Second)
	defer cancel()
	if err := cl.Flush(flush); err != nil && hard.Err() == nil {
		t.Errorf("producer %d: records still unacknowledged at the end: %v", id, err)
	}
}

// verifyRecords reads every partition from its start and holds it against what
// was acknowledged.
func verifyRecords(t *testing.T, broker string, logs []*ledger) int64 {
	t.Helper()
	from := map[int32]kgo.Offset{}
	for p := range int32(partitions) {
		from[p] = kgo.NewOffset().AtStart()
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}), kgo.FetchMaxWait(500*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	seen := make([]map[int64]int, len(logs))
	last := make([]map[int32]int64, len(logs))
	for i := range seen {
		seen[i], last[i] = map[int64]int{}, map[int32]int64{}
	}
	next := map[int32]int64{}
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
			var id int
			var seq int64
			if _, err := fmt.Sscanf(string(r.Value[:min(len(r.Value), 40)]), "%d %d", &id, &seq); err != nil || id >= len(logs) {
				t.Fatalf("partition %d offset %d: not a record that was sent", r.Partition, r.Offset)
			}
			if seen[id][seq]++; seen[id][seq] > 1 {
				t.Fatalf("producer %d, record %d: there twice", id, seq)
			}
			if prev, ok := last[id][r.Partition]; ok && prev >= seq {
				t.Fatalf("producer %d: record %d comes after %d in partition %d", id, seq, prev, r.Partition)
			}
			last[id][r.Partition] = seq
			logs[id].mu.Lock()
			if want, ok := logs[id].acked[r.Partition][seq]; ok && want != r.Offset {
				t.Errorf("producer %d, record %d: acknowledged at offset %d, lies at %d", id, seq, want, r.Offset)
			}
			logs[id].mu.Unlock()
		}
	}
	var n int64
	for id, l := range logs {
		for p, byseq := range l.acked {
			for seq := range byseq {
				n++
				if seen[id][seq] == 0 {
					t.Fatalf("producer %d, record %d: acknowledged in partition %d and lost", id, seq, p)
				}
			}
		}
	}
	if n == 0 {
		t.Fatal("no record was acknowledged: the test has shown nothing")
	}
	return n
}
