package join

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/looptape/looptape/internal/loop/event"
	"github.com/looptape/looptape/internal/loop/stream"
)

// traffic is what n requests leave on the tape: traced ones, with feedback by
// response id and by an id of the application's, and scores.
func traffic(n int, scores int) (recs []event.Record) {
	for i := range n {
		trace := fmt.Sprintf("%032x", i+1)
		ref, resp := fmt.Sprint("order-", i), fmt.Sprint("chatcmpl-", i)
		at := time.Duration(i) * time.Second
		facts := func(more ...string) []string {
			return append([]string{"request", trace, "trace", trace, "app", "shop", "release", fmt.Sprint("r", i%3)}, more...)
		}
		recs = append(recs,
			binding(resp, trace), binding(ref, trace),
			ev(event.TopicPrompt, event.RequestStarted, fmt.Sprint("s", i), trace, at, event.Prompt{Name: "chat"}, facts("span", "01", "arm", "candidate", "propensity", "0.5", "unit", ref, "unit_kind", "request")...),
			ev(event.TopicPrompt, event.PromptRendered, fmt.Sprint("p", i), trace, at, event.Prompt{Messages: []event.Message{{Role: "user", Content: "How long does delivery take?"}}}, facts("span", "02", "model", "m1")...),
			ev(event.TopicRetrieval, event.RetrievalCompleted, fmt.Sprint("q", i), trace, at, event.Retrieval{Query: "delivery", Documents: []event.Document{{ID: "d1", Text: "Delivery takes three days."}}}, facts("span", "03")...),
			ev(event.TopicResponse, event.ModelCallCompleted, fmt.Sprint("m", i), trace, at+time.Second, event.Response{CostUSD: 0.001, Usage: &event.Usage{Input: 100, Output: 20}, Messages: []event.Message{{Role: "assistant", Content: "Three days."}}}, facts("span", "02", "response", resp)...),
			ev(event.TopicResponse, event.RequestClosed, fmt.Sprint("c", i), trace, at+time.Second, event.Response{LatencyMs: 1000}, facts("span", "01")...),
			ev(event.TopicFeedback, event.FeedbackRecorded, fmt.Sprint("f", i), resp, at+time.Hour, event.Feedback{Kind: "thumbs", Value: ptr(1.0)}),
			ev(event.TopicFeedback, event.OutcomeRecorded, fmt.Sprint("o", i), ref, at+24*time.Hour, event.Feedback{Kind: "outcome", Label: "kept"}, "request", ref),
		)
		for j := range scores {
			v := float64(j) / 10
			recs = append(recs, ev(event.TopicScore, event.EvaluationResult, event.ScoreID("t", trace, fmt.Sprint("e", j), "live"), trace, at+time.Minute,
				event.Score{Evaluator: fmt.Sprint("e", j), Metric: fmt.Sprint("e", j), Mode: "live", Value: &v, InputCount: 4, InputsHash: "x", SampledP: 1}, facts()...))
		}
	}
	return recs
}

func cluster(t testing.TB) *stream.Client {
	t.Helper()
	k, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	c, err := stream.Dial(deadline(t), stream.Config{Brokers: k.ListenAddrs()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	var specs []stream.TopicSpec
	for _, topic := range append(Inputs(), event.TopicCase) {
		specs = append(specs, stream.TopicSpec{Name: topic, Partitions: 3})
	}
	if _, err := c.EnsureTopics(deadline(t), specs); err != nil {
		t.Fatal(err)
	}
	return c
}

func deadline(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// collect reads a whole topic into a memory's log.
func collect(t testing.TB, c *stream.Client, m *memory, topic string) {
	t.Helper()
	ctx, cancel := context.WithCancel(deadline(t))
	defer cancel()
	if err := c.Tail(ctx, stream.TailConfig{Topics: []string{topic}, CaughtUp: cancel,
		Batch: func(_ context.Context, recs []event.Record, _ map[string]map[int32]int64) error {
			for _, r := range recs {
				m.append(r)
			}
			return nil
		}}); err != nil {
		t.Fatal(err)
	}
}

// TestRun joins on a Kafka, ended before every step of its batches again and
// again, with its store kept or lost, and gives the cases of a quiet run.
func TestRun(t *testing.T) {
	in := traffic(30, 3)
	quiet := newMemory(t, 3)
	for _, r := range in {
		quiet.append(r)
	}
	quiet.drain()
	want := quiet.cases()
	if len(want) != 30 {
		t.Fatalf("%d cases", len(want))
	}
	for _, tc := range []struct{ name, changelog string }{{"changelog", ""}, {"log", "-"}} {
		for _, lost := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/lost=%v", tc.name, lost), func(t *testing.T) {
				t.Parallel()
				c := cluster(t)
				rnd := rand.New(rand.NewPCG(5, 5))
				order := append([]event.Record{}, in...)
				for _, i := range rnd.Perm(len(in))[:40] {
					order = append(order, in[i])
				}
				rnd.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
				crash := errors.New("crash")
				steps := []stream.Step{stream.StepEmit, stream.StepCheckpoint, stream.StepCommit, stream.StepProcess, stream.StepChangelog}
				cfg := Config{StateDir: t.TempDir(), Changelog: tc.changelog}
				for i, crashes := 0, 0; ; i++ {
					if len(order) > 0 {
						n := min(60, len(order))
						if err := c.Produce(deadline(t), order[:n]...); err != nil {
							t.Fatal(err)
						}
						order = order[n:]
					}
					if lost {
						cfg.StateDir = t.TempDir()
					}
					var mu sync.Mutex
					count, at := 0, 1+i%3
					cfg.Hook = func(s stream.Step, _ int32) error {
						mu.Lock()
						defer mu.Unlock()
						if s == steps[i%len(steps)] {
							if count++; count == at {
								return crash
							}
						}
						return nil
					}
					// What join emits to its own inputs comes after it has caught up with what
					// was there: so it is run until a run has nothing to do.
					if len(order) == 0 && i > 12 {
						cfg.Hook = nil
					}
					_, before, err := c.Offsets(deadline(t), append(Inputs(), event.TopicCase)...)
					if err != nil {
						t.Fatal(err)
					}
					ctx, cancel := context.WithCancel(deadline(t))
					cfg.CaughtUp = cancel
					err = Run(ctx, c, cfg)
					cancel()
					switch {
					case errors.Is(err, crash):
						crashes++
						continue
					case err != nil:
						t.Fatal(err)
					case cfg.Hook != nil:
						continue
					}
					_, after, err := c.Offsets(deadline(t), append(Inputs(), event.TopicCase)...)
					if err != nil {
						t.Fatal(err)
					}
					if !lost && cmp.Diff(before, after) != "" {
						continue
					}
					if lost && i < 18 { // each run builds all anew; the last ones add nothing but themselves
						continue
					}
					if crashes < 5 {
						t.Errorf("only %d crashes", crashes)
					}
					break
				}
				got := newMemory(t, 3)
				collect(t, c, got, event.TopicCase)
				if diff := cmp.Diff(want, got.cases()); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

// TestBounds has a request with a hundred thousand parts, and a smaller one that
// is beyond the bounds too in two orders.
func TestBounds(t *testing.T) {
	const n = 100_000
	run := func(n int, reverse bool) (*event.Case, string) {
		m := newMemory(t, 1)
		h := newHandler(m, Config{}, m.newMetrics)
		task := &memTask{partitions: 1, kv: map[string][]byte{}}
		put := func(r event.Record) {
			r.Partition = 0
			if err := h.process(task, &r); err != nil {
				t.Fatal(err)
			}
		}
		for i := range n {
			if reverse {
				i = n - 1 - i
			}
			at := time.Duration(i) * time.Millisecond
			put(ev(event.TopicResponse, event.ModelCallCompleted, fmt.Sprint("m", i), "r", at, event.Response{CostUSD: 1e-6, Usage: &event.Usage{Input: 1}}, "request", "r", "trace", "r", "app", "a"))
			if i%100 == 0 {
				put(ev(event.TopicFeedback, event.FeedbackRecorded, fmt.Sprint("f", i), "r", at, event.Feedback{Kind: "thumbs"}, "request", "r", "trace", "r"))
				put(ev(event.TopicScore, event.EvaluationResult, fmt.Sprint("s", i), "r", at, event.Score{Evaluator: fmt.Sprint("e", i)}, "request", "r", "trace", "r"))
			}
			if i%5000 == 0 {
				if err := h.flush(task); err != nil {
					t.Fatal(err)
				}
				for _, v := range task.kv {
					if len(v) > stream.MaxRecordBytes {
						t.Fatalf("state of %d bytes", len(v))
					}
				}
			}
		}
		if err := h.flush(task); err != nil {
			t.Fatal(err)
		}
		m.append(task.emitted[len(task.emitted)-1])
		return m.raw()["t/r"], m.cases()["t/r"]
	}
	c, _ := run(n, false)
	if want := (event.Completeness{Response: n, Feedback: n / 100, Score: n / 100}); c.Has != want {
		t.Errorf("has %+v, want %+v", c.Has, want)
	}
	if len(c.Parts) == 0 || len(c.Parts) > maxParts || len(c.Scores) > maxScores || len(c.Labels) > maxLabels {
		t.Errorf("lists %d parts, %d scores, %d labels", len(c.Parts), len(c.Scores), len(c.Labels))
	}
	if c.CostUSD != 0.1 || c.Usage.Input != n || !c.End.Equal(day.Add((n-1)*time.Millisecond)) || c.App != "a" {
		t.Errorf("cost %v, usage %+v, end %v", c.CostUSD, c.Usage, c.End)
	}
	_, one := run(5000, false)
	if _, other := run(5000, true); other != one {
		t.Error("another order, another case")
	}
}

// BenchmarkJoin is the handler alone: events per second through one partition.
func BenchmarkJoin(b *testing.B) {
	in := traffic(200, 8) // few: the task in memory scans all of its keys
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		m := newMemory(b, 1)
		h := newHandler(m, Config{}, m.newMetrics)
		task := &memTask{partitions: 1, kv: map[string][]byte{}}
		for i := range in {
			if err := h.process(task, &in[i]); err != nil {
				b.Fatal(err)
			}
			if i%1000 == 999 {
				if err := h.flush(task); err != nil {
					b.Fatal(err)
				}
				task.emitted = nil
			}
		}
		n += len(in)
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkRun is the whole of it against an in-memory Kafka in the same process:
// fetch, join, store, changelog, cases.
func BenchmarkRun(b *testing.B) {
	in := traffic(2000, 8)
	n := 0
	for b.Loop() {
		b.StopTimer()
		c := cluster(b)
		if err := c.Produce(deadline(b), in...); err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(deadline(b))
		b.StartTimer()
		if err := Run(ctx, c, Config{StateDir: b.TempDir(), CaughtUp: cancel}); err != nil {
			b.Fatal(err)
		}
		n += len(in)
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
}
