package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/base/run"
	"github.com/looptape/looptape/internal/loop/event"
)

// tally is a handler as they should be: it remembers the ids it has seen under a
// key, adds only what is new and emits the state under a deterministic id.
type tally struct{ process func(*event.Record) error }

func (h *tally) Process(t *Task, r *event.Record) error {
	if h.process != nil {
		if err := h.process(r); err != nil {
			return err
		}
	}
	if r.Partition != t.Partition() {
		return fmt.Errorf("record of partition %d in task %d", r.Partition, t.Partition())
	}
	id := r.Topic + "." + string(r.Value)
	seen := map[string]bool{}
	v, err := t.Get(r.Key)
	if err != nil {
		return err
	}
	if v != nil {
		if err := json.Unmarshal(v, &seen); err != nil {
			return err
		}
	}
	if seen[id] {
		return nil
	}
	seen[id] = true
	if v, err = json.Marshal(seen); err != nil {
		return err
	}
	if err := t.Put(r.Key, v); err != nil {
		return err
	}
	t.Emit(event.Record{Topic: "out", Partition: -1, Key: r.Key, Value: v})
	return nil
}

func (h *tally) Tick(*Task, time.Time) error { return nil }

// feed produces n records to two co-partitioned inputs and returns what the
// tallies must come to.
func feed(t testing.TB, c *Client, n int, seed uint64) map[string]map[string]bool {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 1))
	want := map[string]map[string]bool{}
	var recs []event.Record
	for i := range n {
		topic, key := []string{"in.a", "in.b"}[rnd.IntN(2)], fmt.Sprintf("key%d", rnd.IntN(20))
		v := fmt.Sprint(seed, ".", i)
		for range 1 + rnd.IntN(2) { // sent twice, now and then
			recs = append(recs, rec(topic, key, key, v))
		}
		if want[key] == nil {
			want[key] = map[string]bool{}
		}
		want[key][topic+"."+v] = true
	}
	if err := c.Produce(deadline(t), recs...); err != nil {
		t.Fatal(err)
	}
	return want
}

// outcome reads the last record of every key of a topic.
func outcome(t testing.TB, c *Client, topic string) map[string]map[string]bool {
	t.Helper()
	got := map[string]map[string]bool{}
	stop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(deadline(t))
	defer cancel(nil)
	err := c.Tail(ctx, TailConfig{Topics: []string{topic}, CaughtUp: func() { cancel(stop) },
		Batch: func(_ context.Context, recs []event.Record, _ map[string]map[int32]int64) error {
			for _, r := range recs {
				seen := map[string]bool{}
				if err := json.Unmarshal(r.Value, &seen); err != nil {
					return err
				}
				got[string(r.Key)] = seen
			}
			return nil
		}})
	if err != nil || context.Cause(ctx) != stop {
		t.Fatal(err, context.Cause(ctx))
	}
	return got
}

func tallying(dir string) ProcessorConfig {
	return ProcessorConfig{Name: "tally", Inputs: []string{"in.a", "in.b"}, StateDir: dir, MaxRecords: 25, Tick: 50 * time.Millisecond,
		New: func() Handler { return &tally{} }}
}

// process runs a processor until it has caught up.
func process(t testing.TB, c *Client, cfg ProcessorConfig) error {
	t.Helper()
	ctx, cancel := context.WithCancel(deadline(t))
	defer cancel()
	cfg.CaughtUp = cancel
	return Run(ctx, c, cfg)
}

func TestProcessor(t *testing.T) {
	c := cluster(t, 2)
	ensure(t, c, 4, "in.a", "in.b", "out")
	dir := t.TempDir()
	want := feed(t, c, 400, 1)
	if err := process(t, c, tallying(dir)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, outcome(t, c, "out")); diff != "" {
		t.Fatal(diff)
	}
	// Positions survive: a second run processes nothing again.
	_, before, _ := c.Offsets(deadline(t), "out")
	if err := process(t, c, tallying(dir)); err != nil {
		t.Fatal(err)
	}
	_, after, _ := c.Offsets(deadline(t), "out")
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("started again, it emitted again: %s", diff)
	}
	committed, err := c.adm.FetchOffsets(deadline(t), "looptape-tally")
	if err != nil {
		t.Fatal(err)
	}
	_, end, _ := c.Offsets(deadline(t), "in.a", "in.b")
	for topic, ps := range end {
		for p, n := range ps {
			if o, _ := committed.Lookup(topic, p); n > 0 && o.At != n {
				t.Errorf("%s/%d: committed %d of %d", topic, p, o.At, n)
			}
		}
	}
	for k, v := range feed(t, c, 100, 2) {
		if want[k] == nil {
			want[k] = map[string]bool{}
		}
		maps.Copy(want[k], v)
	}
	if err := process(t, c, tallying(dir)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, outcome(t, c, "out")); diff != "" {
		t.Error(diff)
	}
}

// TestProcessorCrash ends the processor before every step of some batch, again
// and again, with the local store kept, lost, or moved between two.
func TestProcessorCrash(t *testing.T) {
	for _, changelog := range []string{"", "tally-changelog"} {
		for _, stores := range []string{"kept", "lost", "two"} {
			t.Run(fmt.Sprintf("changelog=%v/%s", changelog != "", stores), func(t *testing.T) {
				t.Parallel()
				c := cluster(t, 1)
				ensure(t, c, 2, "in.a", "in.b", "out")
				want := feed(t, c, 200, 7)
				dirs := []string{t.TempDir(), t.TempDir()}
				crash := errors.New("crash")
				steps := []Step{StepProcess, StepEmit, StepCheckpoint, StepCommit}
				if changelog != "" {
					steps = append(steps, StepChangelog)
				}
				crashes := 0
				for i := 0; ; i++ {
					cfg := tallying(dirs[0])
					cfg.Changelog = changelog
					switch stores {
					case "lost":
						cfg.StateDir = t.TempDir()
					case "two":
						cfg.StateDir = dirs[i%2]
					}
					var mu sync.Mutex
					step, count := steps[i%len(steps)], 0
					cfg.Hook = func(s Step, part int32) error {
						mu.Lock()
						defer mu.Unlock()
						if s == step && part == int32(i/len(steps)%2) {
							if count++; count == 3 {
								return crash
							}
						}
						return nil
					}
					if i >= 4*len(steps) {
						cfg.Hook = nil
					}
					err := process(t, c, cfg)
					if err == nil && cfg.Hook == nil {
						break
					}
					if err != nil && !errors.Is(err, crash) {
						t.Fatal(err)
					}
					if err != nil {
						crashes++
					}
				}
				if crashes < 3 {
					t.Errorf("only %d crashes", crashes)
				}
				if diff := cmp.Diff(want, outcome(t, c, "out")); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

// TestProcessorRebalance has three processes share the work, come and go while
// records arrive.
func TestProcessorRebalance(t *testing.T) {
	for _, changelog := range []string{"", "tally-changelog"} {
		t.Run(fmt.Sprintf("changelog=%v", changelog != ""), func(t *testing.T) {
			t.Parallel()
			c := cluster(t, 1)
			ensure(t, c, 6, "in.a", "in.b", "out")
			ctx := deadline(t)
			g := run.New(ctx)
			start := func(name string) (stop func()) {
				ctx, cancel := context.WithCancel(ctx)
				cfg := tallying(t.TempDir())
				cfg.Changelog = changelog
				ended := make(chan struct{})
				g.Go(name, func(context.Context) error {
					defer close(ended)
					return Run(ctx, c, cfg)
				})
				return func() { cancel(); <-ended }
			}
			want := map[string]map[string]bool{}
			add := func(seed uint64) {
				for k, v := range feed(t, c, 300, seed) {
					if want[k] == nil {
						want[k] = map[string]bool{}
					}
					maps.Copy(want[k], v)
				}
			}
			one := start("one")
			add(1)
			two := start("two")
			add(2)
			three := start("three")
			add(3)
			one()
			add(4)
			two()
			add(5)
			for cmp.Diff(want, outcome(t, c, "out")) != "" {
				if ctx.Err() != nil {
					t.Fatal(cmp.Diff(want, outcome(t, c, "out")))
				}
			}
			three()
			if err := g.Wait(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestProcessorNotCoPartitioned(t *testing.T) {
	c := cluster(t, 1)
	ensure(t, c, 2, "in.a")
	ensure(t, c, 3, "in.b")
	err := Run(deadline(t), c, tallying(t.TempDir()))
	if !errors.Is(err, ErrPartitions) || !strings.Contains(err.Error(), "in.a has 2, in.b has 3") {
		t.Fatal(err)
	}
	if err := Run(deadline(t), c, ProcessorConfig{}); err == nil {
		t.Fatal("an empty configuration was taken")
	}
}

func TestProcessorHandlerError(t *testing.T) {
	c := cluster(t, 1)
	ensure(t, c, 2, "in.a", "in.b", "out")
	want := feed(t, c, 50, 3)
	dir, bad := t.TempDir(), errors.New("bad")
	cfg := tallying(dir)
	var n atomic.Int64
	cfg.New = func() Handler {
		return &tally{process: func(r *event.Record) error {
			switch n.Add(1) {
			case 30:
				return bad
			case 40:
				panic("worse")
			}
			return nil
		}}
	}
	cfg.MaxRecords = 1
	if err := process(t, c, cfg); !errors.Is(err, bad) || !strings.Contains(err.Error(), "in.") {
		t.Fatal(err)
	}
	n.Store(39)
	if err := process(t, c, cfg); err == nil || !strings.Contains(err.Error(), "worse") {
		t.Fatal(err)
	}
	n.Store(1000)
	if err := process(t, c, cfg); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, outcome(t, c, "out")); diff != "" {
		t.Error(diff)
	}
}

// TestProcessorPause has a handler that does not move until all is fetched that
// may be, then checks that the queues were bounded and nothing is missing.
func TestProcessorPause(t *testing.T) {
	c := cluster(t, 1)
	ensure(t, c, 1, "in.a", "in.b", "out")
	want := feed(t, c, 3000, 9)
	cfg := tallying(t.TempDir())
	cfg.QueueRecords, cfg.MaxRecords = 50, 10
	if err := process(t, c, cfg); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, outcome(t, c, "out")); diff != "" {
		t.Error(diff)
	}
}

// alarm sets a timer a minute of stream time after each record.
type alarm struct {
	mu    *sync.Mutex
	fired map[string]time.Time
	all   func() // called when three have fired
}

func (h alarm) Process(t *Task, r *event.Record) error {
	return t.SetTimer(r.Time.Add(time.Minute), r.Value)
}
func (h alarm) Tick(*Task, time.Time) error { return nil }
func (h alarm) Timer(t *Task, at time.Time, key []byte) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t.Now().Before(at) {
		return fmt.Errorf("timer of %v at %v", at, t.Now())
	}
	if _, twice := h.fired[string(key)]; twice {
		return fmt.Errorf("timer %s fired twice", key)
	}
	h.fired[string(key)] = at
	if len(h.fired) == 3 {
		h.all()
	}
	return nil
}

func TestProcessorTimers(t *testing.T) {
	c := cluster(t, 1)
	ensure(t, c, 1, "in.a")
	base := time.Now().Add(-time.Hour).Truncate(time.Millisecond).UTC()
	put := func(name string, at time.Duration) {
		r := rec("in.a", "k", "", name)
		r.Time = base.Add(at)
		if err := c.Produce(deadline(t), r); err != nil {
			t.Fatal(err)
		}
	}
	put("one", 0)
	put("two", 30*time.Second)
	put("three", 61*time.Second)
	// All were appended an hour ago, so once the task has caught up, wall time
	// fires what is left. The second process restores what the first has left.
	ctx, cancel := context.WithCancel(deadline(t))
	defer cancel()
	h := alarm{new(sync.Mutex), map[string]time.Time{}, cancel}
	cfg := ProcessorConfig{Name: "alarm", Inputs: []string{"in.a"}, StateDir: t.TempDir(), Tick: time.Hour,
		MaxRecords: 1, // the tick of the start finds it behind
		Changelog:  "alarm-changelog", New: func() Handler { return h }}
	if err := process(t, c, cfg); err != nil {
		t.Fatal(err)
	}
	if len(h.fired) > 1 {
		t.Errorf("fired before their time: %v", h.fired)
	}
	cfg.StateDir, cfg.Tick = t.TempDir(), 10*time.Millisecond
	if err := Run(ctx, c, cfg); err != nil {
		t.Fatal(err)
	}
	want := map[string]time.Time{"one": base.Add(time.Minute), "two": base.Add(90 * time.Second), "three": base.Add(121 * time.Second)}
	if diff := cmp.Diff(want, h.fired); diff != "" {
		t.Error(diff)
	}
}
