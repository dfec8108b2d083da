package broker

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/looptape/looptape/internal/broker/front/coord"
	"github.com/looptape/looptape/internal/broker/front/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A running broker on a loopback port and in memory.
type running struct {
	*Broker
	pipe *wire.PipeListener
	reg  *prometheus.Registry
	stop func()
}

func runBroker(t testing.TB, dir string) *running {
	t.Helper()
	cfg := DefaultConfig(dir)
	cfg.Listen = "127.0.0.1:0"
	cfg.Groups = coord.Config{InitialDelay: -1}
	cfg.DrainTimeout = time.Second
	r := &running{pipe: wire.NewPipeListener(), reg: prometheus.NewRegistry()}
	cfg.Listener = r.pipe
	b, err := Open(context.Background(), cfg, slog.New(slog.DiscardHandler), r.reg)
	if err != nil {
		t.Fatal(err)
	}
	r.Broker = b
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

func (r *running) client(t testing.TB, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(r.Addr()), kgo.MetadataMinAge(10 * time.Millisecond), kgo.AllowAutoTopicCreation()}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func timeout(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func produceRange(t testing.TB, cl *kgo.Client, topic string, from, to int) {
	t.Helper()
	var records []*kgo.Record
	for i := from; i < to; i++ {
		records = append(records, &kgo.Record{Topic: topic, Key: fmt.Append(nil, i), Value: fmt.Append(nil, "value of ", i)})
	}
	if err := cl.ProduceSync(timeout(t), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

func readAll(t testing.TB, cl *kgo.Client, n int) map[string]int {
	t.Helper()
	ctx := timeout(t)
	seen := map[string]int{}
	for got := 0; got < n; {
		fs := cl.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			t.Fatalf("poll after %d of %d: %v", got, n, err)
		}
		fs.EachRecord(func(r *kgo.Record) {
			seen[string(r.Key)]++
			got++
		})
	}
	return seen
}

// Records, topics, groups and committed offsets outlive the broker.
func TestRestartKeepsEverything(t *testing.T) {
	dir := t.TempDir()
	const perLife = 500
	for life := range 3 {
		b := runBroker(t, dir)
		admin := kadm.NewClient(b.client(t))
		if life == 0 {
			if _, err := admin.CreateTopic(timeout(t), 4, 1, nil, "events"); err != nil {
				t.Fatal(err)
			}
		}
		produceRange(t, b.client(t), "events", life*perLife, (life+1)*perLife)

		// The group goes on where it was.
		g := b.client(t, kgo.ConsumerGroup("readers"), kgo.ConsumeTopics("events"), kgo.DisableAutoCommit(), kgo.InstanceID("one"))
		for key, n := range readAll(t, g, perLife) {
			var i int
			fmt.Sscan(key, &i)
			if n != 1 || i < life*perLife {
				t.Fatalf("life %d: record %s %d times", life, key, n)
			}
		}
		if err := g.CommitUncommittedOffsets(timeout(t)); err != nil {
			t.Fatal(err)
		}
		g.Close()

		// Everything is there, in the order of each partition.
		all := b.client(t, kgo.ConsumeTopics("events"))
		if seen := readAll(t, all, (life+1)*perLife); len(seen) != (life+1)*perLife {
			t.Fatalf("life %d: %d different records, want %d", life, len(seen), (life+1)*perLife)
		}
		all.Close()
		lag, err := admin.Lag(timeout(t), "readers")
		if err != nil {
			t.Fatal(err)
		}
		if l := lag["readers"]; l.Error() != nil || l.Lag.Total() != 0 {
			t.Errorf("life %d: lag %d, %v", life, l.Lag.Total(), l.Error())
		}
		b.stop()
	}
}

func TestPipeAndLoopbackAreOneBroker(t *testing.T) {
	b := runBroker(t, t.TempDir())
	in, err := kgo.NewClient(kgo.SeedBrokers("any:1"), kgo.Dialer(b.pipe.Dial), kgo.AllowAutoTopicCreation())
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	produceRange(t, in, "t", 0, 100)
	readAll(t, b.client(t, kgo.ConsumeTopics("t")), 100)
	families, err := b.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	requests := uint64(0)
	for _, f := range families {
		if f.GetName() == "looptape_kafka_request_seconds" {
			for _, m := range f.Metric {
				requests += m.Histogram.GetSampleCount()
			}
		}
	}
	if requests < 5 {
		t.Errorf("%d requests are counted", requests)
	}
}

func TestListenErrorLeavesNothingBehind(t *testing.T) {
	b := runBroker(t, t.TempDir())
	cfg := DefaultConfig(t.TempDir())
	cfg.Listen = b.Addr()
	if _, err := Open(context.Background(), cfg, slog.New(slog.DiscardHandler), prometheus.NewRegistry()); err == nil {
		t.Fatal("two brokers listen on one port")
	}
	cfg.Listen = "127.0.0.1:0"
	c, err := Open(context.Background(), cfg, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkProduce(b *testing.B) {
	r := runBroker(b, b.TempDir())
	cl := r.client(b, kgo.MaxBufferedRecords(100_000), kgo.ProducerBatchMaxBytes(256<<10))
	value := make([]byte, 1024)
	b.SetBytes(1024)
	b.ReportAllocs()
	for b.Loop() {
		cl.Produce(context.Background(), &kgo.Record{Topic: "b", Value: value}, func(_ *kgo.Record, err error) {
			if err != nil {
				b.Error(err)
			}
		})
	}
	if err := cl.Flush(context.Background()); err != nil {
		b.Fatal(err)
	}
}
