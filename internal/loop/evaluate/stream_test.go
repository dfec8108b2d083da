package evaluate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/looptape/looptape/internal/loop/event"
	"github.com/looptape/looptape/internal/loop/stream"
)

// The runner on a broker in memory: requests whose events lie on several
// topics, each sent twice, evaluated by a processor that is stopped in between.
func TestRunnerOnStream(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := stream.Dial(ctx, stream.Config{Brokers: cluster.ListenAddrs()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var specs []stream.TopicSpec
	for _, name := range append([]string{event.TopicScore}, Inputs...) {
		specs = append(specs, stream.TopicSpec{Name: name, Partitions: 2})
	}
	if _, err := c.EnsureTopics(ctx, specs); err != nil {
		t.Fatal(err)
	}
	const requests = 30
	send := func(from, to int) {
		t.Helper()
		var recs []event.Record
		for i := from; i < to; i++ {
			for _, e := range ragEvents(t) {
				e.ID, e.Facts.Request = fmt.Sprintf("%s-%d", e.ID, i), fmt.Sprintf("r%d", i)
				r := e.Record(topicOf(e.Type), e.Facts.Request, e.Facts.Request)
				recs = append(recs, r, r)
			}
		}
		if err := c.Produce(ctx, recs...); err != nil {
			t.Fatal(err)
		}
	}

	dir := t.TempDir()
	run := func() (stop func()) {
		r, err := New(Options{StateDir: dir, Config: Config{Grace: -1}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx, c) }()
		return func() {
			cancel()
			if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
	}
	// want is what one runner says of each request when it comes in order.
	want := map[string]standing{}
	r := testRunner(t, Config{})
	wantOf := func(from, to int) {
		for i := from; i < to; i++ {
			m := newMemTask()
			h := r.handler(m)
			for _, e := range ragEvents(t) {
				e.ID, e.Facts.Request = fmt.Sprintf("%s-%d", e.ID, i), fmt.Sprintf("r%d", i)
				m.feed(t, h, e)
			}
			m.advance(t, h, time.Minute)
			maps.Copy(want, standings(t, m.emitted))
		}
	}
	// wait reads the scores until those that are wanted stand, or time is up.
	wait := func() (recs []event.Record) {
		t.Helper()
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		err := c.Tail(ctx, stream.TailConfig{Name: "test", Topics: []string{event.TopicScore},
			Batch: func(_ context.Context, in []event.Record, _ map[string]map[int32]int64) error {
				recs = append(recs, in...)
				if gocmp.Equal(want, standings(t, recs)) {
					cancel()
				}
				return nil
			}})
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if d := gocmp.Diff(want, standings(t, recs)); d != "" {
			t.Fatalf("scores that stand (-want +got):\n%s", d)
		}
		return recs
	}

	wantOf(0, requests/2)
	send(0, requests/2)
	stop := run()
	wait()
	stop()
	wantOf(requests/2, requests)
	send(0, requests) // half of it again, as a sender that retries would
	stop = run()
	recs := wait()
	stop()
	if len(want) != 8*requests {
		t.Fatalf("%d scores stand, want %d", len(want), 8*requests)
	}
	for _, rec := range recs {
		if rec.Partition != event.PartitionOf(string(rec.Key), 2) {
			t.Fatalf("score of %s in partition %d", rec.Key, rec.Partition)
		}
	}
}
