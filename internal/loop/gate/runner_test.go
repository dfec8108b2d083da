package gate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/loop/event"
	"github.com/looptape/looptape/internal/loop/stream"
)

// memLog is a log in memory.
type memLog struct {
	mu     sync.Mutex
	topics map[string][][]event.Record
	wake   chan struct{}
	refuse int // so many calls of Produce fail, after having appended
}

func newMemLog(cases int) *memLog {
	return &memLog{topics: map[string][][]event.Record{
		event.TopicCase: make([][]event.Record, cases), event.TopicDeployment: make([][]event.Record, 2), event.TopicDecision: make([][]event.Record, 2),
	}, wake: make(chan struct{})}
}

func (m *memLog) Produce(_ context.Context, recs ...event.Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range recs {
		parts := m.topics[r.Topic]
		key := r.Header("ce_partitionkey")
		if key == "" {
			key = string(r.Key)
		}
		r.Partition = event.PartitionOf(key, int32(len(parts)))
		r.Offset = int64(len(parts[r.Partition]))
		r.Time = time.Now()
		parts[r.Partition] = append(parts[r.Partition], r)
	}
	close(m.wake)
	m.wake = make(chan struct{})
	if m.refuse > 0 {
		m.refuse--
		return errors.New("the answer was lost")
	}
	return nil
}

func (m *memLog) Offsets(_ context.Context, topics ...string) (start, end map[string]map[int32]int64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	start, end = positions{}, positions{}
	for _, t := range topics {
		start[t], end[t] = map[int32]int64{}, map[int32]int64{}
		for p, recs := range m.topics[t] {
			start[t][int32(p)], end[t][int32(p)] = 0, int64(len(recs))
		}
	}
	return start, end, nil
}

func (m *memLog) Tail(ctx context.Context, cfg stream.TailConfig) error {
	next := positions{}
	for _, t := range cfg.Topics {
		next[t] = map[int32]int64{}
		for p, o := range cfg.From[t] {
			next[t][p] = o
		}
	}
	told := false
	for {
		m.mu.Lock()
		wake := m.wake
		var batch []event.Record
		for _, t := range cfg.Topics {
			for p, recs := range m.topics[t] {
				at := next[t][int32(p)]
				upto := min(int64(len(recs)), at+20)
				batch = append(batch, recs[at:upto]...)
				next[t][int32(p)] = upto
			}
		}
		m.mu.Unlock()
		if len(batch) > 0 {
			given := positions{}
			for t := range next {
				given[t] = map[int32]int64{}
				for p, o := range next[t] {
					given[t][p] = o
				}
			}
			if err := cfg.Batch(ctx, batch, given); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return err
			}
			continue
		}
		if !told && cfg.CaughtUp != nil {
			cfg.CaughtUp()
		}
		told = true
		select {
		case <-wake:
		case <-ctx.Done():
			return nil
		}
	}
}

func (m *memLog) decisions(t testing.TB) (evidence []event.Evidence, decisions []event.Decision, byID map[string][]string) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	byID = map[string][]string{}
	for _, recs := range m.topics[event.TopicDecision] {
		for i := range recs {
			ev, err := event.Decode(&recs[i])
			if err != nil {
				t.Fatal(err)
			}
			byID[ev.ID] = append(byID[ev.ID], string(ev.Data))
			switch ev.Type {
			case event.GateEvidence:
				var b event.Evidence
				if err := ev.Body(&b); err != nil {
					t.Fatal(err)
				}
				evidence = append(evidence, b)
			case event.GateDecision:
				var b event.Decision
				if err := ev.Body(&b); err != nil {
					t.Fatal(err)
				}
				decisions = append(decisions, b)
			}
		}
	}
	return evidence, decisions, byID
}

func caseRecord(t testing.TB, c *event.Case) event.Record {
	t.Helper()
	e := event.Event{ID: fmt.Sprintf("%s/%d", c.Request, c.Revision), Type: event.CaseRevised, Source: event.Source, Time: c.End, Facts: event.Facts{Tenant: c.Tenant, Request: c.Request}}
	if err := e.SetBody(c); err != nil {
		t.Fatal(err)
	}
	return e.Record(event.TopicCase, c.Tenant+"/"+c.Request, c.Request)
}

func deploymentRecord(t testing.TB, in *DeploymentInput) event.Record {
	t.Helper()
	e := event.Event{ID: in.Type + in.Body.Release + in.Body.Stage, Type: in.Type, Source: "test", Time: time.Now(), Facts: event.Facts{Tenant: in.Tenant}}
	if err := e.SetBody(&in.Body); err != nil {
		t.Fatal(err)
	}
	return e.Record(event.TopicDeployment, in.Body.Release, in.Body.Release)
}

// TestRunner is the gate from end to end on a log in memory, in virtual time: it
// is stopped and started again at arbitrary moments, answers to its appends are
// lost, and its actuator fails at first.
func TestRunner(t *testing.T) {
	for _, crashes := range []int{0, 5} {
		t.Run(fmt.Sprint(crashes, " restarts"), func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) { runnerScene(t, dir, crashes) })
		})
	}
}

func runnerScene(t *testing.T, dir string, restarts int) {
	log := newMemLog(4)
	var mu sync.Mutex
	share, calls := 0.5, map[string]int{}
	ramp := &Func{
		Label: "ramp",
		Call: func(_ context.Context, a Action) error {
			mu.Lock()
			defer mu.Unlock()
			calls[a.Decision+" "+a.Action]++
			if a.Action == "rollback" && calls[a.Decision+" "+a.Action] > 1 {
				share = 0
				return nil
			}
			return errors.New("busy")
		},
		ReadShare: func(context.Context, Action) (float64, error) {
			mu.Lock()
			defer mu.Unlock()
			return share, nil
		},
	}
	var runner *Runner
	var failed chan error
	var cancel context.CancelFunc
	begin := func() {
		var err error
		runner, err = NewRunner(RunnerConfig{
			Log: log, Policies: []*Policy{mustPolicy(t, testPolicy)}, StateDir: dir, Actuators: []Actuator{ramp},
			Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		var ctx context.Context
		ctx, cancel = context.WithCancel(t.Context())
		failed = make(chan error, 1)
		r := runner
		go func() { failed <- r.Run(ctx) }()
	}
	end := func() {
		cancel()
		if err := <-failed; err != nil {
			t.Fatal(err)
		}
	}
	begin()
	in := startedHalf().Deployment
	if err := log.Produce(t.Context(), deploymentRecord(t, in)); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 7))
	for i := range 1000 {
		time.Sleep(25 * time.Millisecond)
		candidate := rng.IntN(2) == 1
		v := 1.0
		if candidate && i > 300 {
			v = float64(rng.IntN(2))
		}
		c := requestCase(fmt.Sprint("u", i), time.Now(), candidate, v)
		c.Request = fmt.Sprint("r", i)
		unscored := c
		unscored.Scores = nil
		c.Revision = 2
		if i%100 == 50 {
			log.mu.Lock()
			log.refuse = 1
			log.mu.Unlock()
		}
		for _, k := range []*event.Case{&unscored, &c} {
			if err := log.Produce(t.Context(), caseRecord(t, k)); err != nil && k == &c {
				t.Log(err) // appended all the same
			}
		}
		if restarts > 0 && i%(1000/restarts) == 99 {
			synctest.Wait()
			end()
			begin()
		}
	}
	time.Sleep(30 * time.Second)
	synctest.Wait()
	g, ok, err := runner.Status("t", "new")
	if !ok || err != nil || g.Phase != PhaseFailed || g.OK || g.State != event.GateRolledBack || g.Decision == nil || g.Evidence == nil {
		t.Errorf("status = %+v, %v, %v", g, ok, err)
	}
	if _, ok, _ := runner.Status("u", "new"); ok {
		t.Error("another tenant sees the gate")
	}
	end()
	evidence, decisions, byID := log.decisions(t)
	for id, bodies := range byID {
		for _, b := range bodies {
			if b != bodies[0] {
				t.Fatalf("event %s was sent with two bodies: %s", id, cmp.Diff(bodies[0], b))
			}
		}
	}
	got, err := Recompute(evidence)
	if err != nil {
		t.Fatal(err)
	}
	if got.State != event.GateRollingBack {
		t.Errorf("recomputed state %s", got.State)
	}
	rollbacks := slices.DeleteFunc(slices.Clone(decisions), func(d event.Decision) bool { return d.Action != event.ActRollback })
	if len(rollbacks) == 0 {
		t.Fatalf("no rollback in %d decisions", len(decisions))
	}
	mu.Lock()
	defer mu.Unlock()
	if share != 0 {
		t.Error("the actuator was not driven to the end")
	}
	back := 0
	for _, recs := range log.topics[event.TopicDeployment] {
		for i := range recs {
			if recs[i].Header("ce_type") == event.DeploymentRolledBack {
				back++
			}
		}
	}
	if back == 0 {
		t.Error("no deployment.rolled_back")
	}
}

// TestOutboxSurvivesACrash: what was decided is sent after a crash between the
// commit and the append, with the same bytes.
func TestOutboxSurvivesACrash(t *testing.T) {
	dir := t.TempDir()
	p := mustPolicy(t, testPolicy)
	s, err := openStore(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	e := newEngine(t, p, 4)
	h := &heard{}
	h.hear(t, e.Step(startedHalf()))
	for i := range 60 {
		h.hear(t, give(e, requestCase(fmt.Sprint("u", i), start.Add(time.Duration(i)*100*time.Millisecond), i%2 == 0, 1)))
	}
	at := positions{event.TopicCase: {0: 60}, event.TopicDeployment: {1: 1}}
	recs := []event.Record{
		{Topic: event.TopicDecision, Partition: -1, Key: []byte("new"), Value: []byte(`{"a":1}`), Headers: []event.Header{{Key: "ce_id", Value: []byte("x")}}},
		{Topic: event.TopicDecision, Partition: -1, Key: []byte("new"), Value: []byte(`{"a":2}`)},
	}
	if err := s.commit(e, at, recs); err != nil {
		t.Fatal(err)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	if s, err = openStore(dir, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	n := newEngine(t, p, 4)
	next, unsent, err := s.load(n)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(recs, unsent); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(at, next); d != "" {
		t.Error(d)
	}
	if a, b := e.lanes[e.order[0]], n.lanes[n.order[0]]; a.process.stateHash() != b.process.stateHash() || len(a.units) != len(b.units) || len(a.units) == 0 {
		t.Errorf("%d open units of %d came back", len(b.units), len(a.units))
	}
	if err := s.sent(); err != nil {
		t.Fatal(err)
	}
	if err := s.commit(n, next, nil); err != nil {
		t.Fatal(err)
	}
	if _, unsent, err = s.load(newEngine(t, p, 4)); err != nil || len(unsent) != 0 {
		t.Errorf("%d records unsent after they were sent, %v", len(unsent), err)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
}
