package stream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/looptape/looptape/internal/loop/event"
)

// cluster is an in-memory Kafka and a client on it.
func cluster(t testing.TB, brokers int) *Client {
	t.Helper()
	k, err := kfake.NewCluster(kfake.NumBrokers(brokers))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return dial(t, k.ListenAddrs())
}

func dial(t testing.TB, addrs []string) *Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := Dial(ctx, Config{Brokers: addrs})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func deadline(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func ensure(t testing.TB, c *Client, partitions int32, topics ...string) {
	t.Helper()
	var specs []TopicSpec
	for _, n := range topics {
		specs = append(specs, TopicSpec{Name: n, Partitions: partitions})
	}
	if _, err := c.EnsureTopics(deadline(t), specs); err != nil {
		t.Fatal(err)
	}
}

func rec(topic, key, partitionKey, value string) event.Record {
	r := event.Record{Topic: topic, Partition: -1, Key: []byte(key), Value: []byte(value)}
	if partitionKey != "" {
		r.Headers = append(r.Headers, event.Header{Key: "ce_partitionkey", Value: []byte(partitionKey)})
	}
	return r
}

func TestEnsureTopics(t *testing.T) {
	c, ctx := cluster(t, 1), deadline(t)
	created, err := c.EnsureTopics(ctx, []TopicSpec{{Name: "a", Partitions: 3}, {Name: "b", Partitions: 3, Config: map[string]string{"cleanup.policy": "compact"}}})
	if err != nil || len(created) != 2 {
		t.Fatalf("created %v, %v", created, err)
	}
	created, err = c.EnsureTopics(ctx, []TopicSpec{{Name: "a", Partitions: 3}, {Name: "b"}})
	if err != nil || len(created) != 0 {
		t.Fatalf("again: created %v, %v", created, err)
	}
	_, err = c.EnsureTopics(ctx, []TopicSpec{{Name: "a", Partitions: 4}})
	if !errors.Is(err, ErrPartitions) || !strings.Contains(err.Error(), "topic a has 3 partitions and must have 4") {
		t.Fatalf("other partition count: %v", err)
	}
}

func TestProduceReadAt(t *testing.T) {
	c, ctx := cluster(t, 2), deadline(t)
	ensure(t, c, 5, "a", "b")
	var recs []event.Record
	for i := range 40 {
		recs = append(recs, rec("a", "k", fmt.Sprintf("r%d", i), fmt.Sprint(i)), rec("b", fmt.Sprintf("r%d", i), "", fmt.Sprint(i)))
	}
	if err := c.Produce(ctx, recs...); err != nil {
		t.Fatal(err)
	}
	start, end, err := c.Offsets(ctx, "a", "b")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(end["a"], end["b"]); diff != "" {
		t.Errorf("one partition key, two partitions: %s", diff)
	}
	seen := map[string]bool{}
	for topic, ps := range end {
		for p, n := range ps {
			for o := start[topic][p]; o < n; o++ {
				r, err := c.ReadAt(ctx, event.Position{Topic: topic, Partition: p, Offset: o})
				if err != nil {
					t.Fatal(err)
				}
				if r.Offset != o || r.Partition != p || r.Topic != topic || r.Time.IsZero() {
					t.Fatalf("read %+v at %s/%d/%d", r, topic, p, o)
				}
				if key := "r" + string(r.Value); p != event.PartitionOf(key, 5) {
					t.Errorf("%s lies in partition %d", key, p)
				}
				seen[topic+string(r.Value)] = true
			}
		}
	}
	if len(seen) != 80 {
		t.Errorf("read %d records of 80", len(seen))
	}
	if _, err := c.ReadAt(ctx, event.Position{Topic: "a", Partition: 1, Offset: 1000}); !errors.Is(err, ErrGone) {
		t.Errorf("beyond the end: %v", err)
	}
	if _, err := c.ReadAt(ctx, event.Position{Topic: "none", Partition: 1, Offset: 0}); err == nil || errors.Is(err, ErrGone) {
		t.Errorf("unknown topic: %v", err)
	}
	if err := c.Produce(ctx, rec("a", "k", "", strings.Repeat("x", MaxRecordBytes))); err == nil {
		t.Error("a record above the limit was taken")
	}
	big := rec("a", "k", "", strings.Repeat("x", MaxRecordBytes-1))
	big.Partition = 4
	if err := c.Produce(ctx, big); err != nil {
		t.Errorf("a record at the limit: %v", err)
	}
}

func TestDialNobody(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	refuse := func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("refused") }
	_, err := Dial(ctx, Config{Brokers: []string{"nowhere:1"}, Dialer: refuse})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
}

func TestTail(t *testing.T) {
	c, ctx := cluster(t, 1), deadline(t)
	ensure(t, c, 3, "a", "b")
	for i := range 300 {
		if err := c.Produce(ctx, rec("a", "", fmt.Sprint(i%7), fmt.Sprint("a", i)), rec("b", "", fmt.Sprint(i%7), fmt.Sprint("b", i))); err != nil {
			t.Fatal(err)
		}
	}
	var (
		got  = map[string]int{}
		next map[string]map[int32]int64
		full bool
	)
	stop := errors.New("stop")
	tail := func(limit int) error {
		return c.Tail(ctx, TailConfig{
			Name: "looptape-test", Topics: []string{"a", "b"}, From: next, MaxRecords: 37,
			CaughtUp: func() { full = true },
			Batch: func(_ context.Context, recs []event.Record, n map[string]map[int32]int64) error {
				if len(recs) > 37 {
					t.Errorf("batch of %d", len(recs))
				}
				last := map[string]int64{}
				for _, r := range recs {
					k := fmt.Sprint(r.Topic, r.Partition)
					if at, ok := last[k]; ok && r.Offset <= at {
						t.Errorf("%s: offset %d after %d", k, r.Offset, at)
					}
					last[k] = r.Offset
				}
				if len(got) >= limit {
					return stop
				}
				for _, r := range recs {
					got[string(r.Value)]++
				}
				next = n
				if full && limit < 1000 {
					t.Error("caught up too early")
				}
				if len(got) == 600 {
					return stop
				}
				return nil
			},
		})
	}
	if err := tail(200); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	if err := tail(1000); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	for v, n := range got {
		if n != 1 {
			t.Errorf("%s was given %d times", v, n)
		}
	}
	_, end, err := c.Offsets(ctx, "a", "b")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(end, next); diff != "" {
		t.Errorf("positions: %s", diff)
	}
	// Started at the end, it has caught up at once, and the group shows no lag.
	caught := make(chan struct{})
	short, cancel := context.WithCancel(ctx)
	go func() { <-caught; cancel() }()
	if err := c.Tail(short, TailConfig{Name: "looptape-test", Topics: []string{"a", "b"}, From: next,
		Batch: func(context.Context, []event.Record, map[string]map[int32]int64) error { return nil }, CaughtUp: func() { close(caught) }}); err != nil {
		t.Fatal(err)
	}
	committed, err := c.adm.FetchOffsets(ctx, "looptape-test")
	if err != nil {
		t.Fatal(err)
	}
	if o, ok := committed.Lookup("a", 0); !ok || o.At <= 0 || o.At > end["a"][0] {
		t.Errorf("committed %+v of %d", o, end["a"][0])
	}
	// Positions that are not in the log start again.
	n := 0
	if err := c.Tail(ctx, TailConfig{Topics: []string{"a"}, From: map[string]map[int32]int64{"a": {0: 1e6, 1: end["a"][1], 2: end["a"][2]}},
		Batch: func(_ context.Context, recs []event.Record, _ map[string]map[int32]int64) error {
			if n += len(recs); n == int(end["a"][0]) {
				return stop
			}
			return nil
		}}); !errors.Is(err, stop) {
		t.Fatal(err)
	}
}
