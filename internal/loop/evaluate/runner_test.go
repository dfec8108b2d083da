package evaluate

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/looptape/looptape/internal/loop/event"
	"github.com/looptape/looptape/internal/loop/stream"
)

var t0 = time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)

// memTask is a stream.Task in memory, with a tape that keeps what was processed.
type memTask struct {
	now     time.Time
	m       map[string][]byte
	timers  map[string]time.Time
	emitted []event.Record
	tape    []event.Record
	gone    bool
}

func newMemTask() *memTask {
	return &memTask{now: t0, m: map[string][]byte{}, timers: map[string]time.Time{}}
}

func (t *memTask) Context() context.Context { return context.Background() }
func (t *memTask) Partition() int32         { return 3 }
func (t *memTask) Now() time.Time           { return t.now }
func (t *memTask) Get(k []byte) ([]byte, error) {
	v, ok := t.m[string(k)]
	if !ok {
		return nil, nil
	}
	return slices.Clone(v), nil
}
func (t *memTask) Put(k, v []byte) error { t.m[string(k)] = append([]byte{}, v...); return nil }
func (t *memTask) Delete(k []byte) error { delete(t.m, string(k)); return nil }
func (t *memTask) Emit(r event.Record)   { t.emitted = append(t.emitted, r) }
func (t *memTask) SetTimer(at time.Time, k []byte) error {
	t.timers[at.UTC().Format(time.RFC3339Nano)+"/"+string(k)] = at
	return nil
}
func (t *memTask) Scan(prefix []byte, fn func(k, v []byte) error) error {
	var keys []string
	for k := range t.m {
		if strings.HasPrefix(k, string(prefix)) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		if err := fn([]byte(k), t.m[k]); err != nil {
			return err
		}
	}
	return nil
}

func (t *memTask) ReadAt(_ context.Context, at event.Position) (event.Record, error) {
	if t.gone || at.Offset >= int64(len(t.tape)) {
		return event.Record{}, stream.ErrGone
	}
	return t.tape[at.Offset], nil
}

// feed appends an event to the tape and processes it.
func (t *memTask) feed(tb failer, h *handler, e event.Event) {
	tb.Helper()
	r := e.Record(topicOf(e.Type), e.Facts.Request, e.Facts.Request)
	r.Partition, r.Offset, r.Time = 3, int64(len(t.tape)), t.now
	t.tape = append(t.tape, r)
	if err := h.process(t, &r); err != nil {
		tb.Fatalf("process %s: %v", e.ID, err)
	}
}

// advance moves the time on, firing timers in order.
func (t *memTask) advance(tb failer, h *handler, d time.Duration) {
	tb.Helper()
	end := t.now.Add(d)
	for {
		var first string
		for k, at := range t.timers {
			if !at.After(end) && (first == "" || at.Before(t.timers[first]) || at.Equal(t.timers[first]) && k < first) {
				first = k
			}
		}
		if first == "" {
			break
		}
		if at := t.timers[first]; at.After(t.now) {
			t.now = at
		}
		delete(t.timers, first)
		_, key, _ := strings.Cut(first, "/")
		if err := h.timer(t, key); err != nil {
			tb.Fatalf("timer: %v", err)
		}
	}
	t.now = end
	if err := h.tick(t); err != nil {
		tb.Fatalf("tick: %v", err)
	}
}

func topicOf(typ string) string {
	switch typ {
	case event.RetrievalCompleted:
		return event.TopicRetrieval
	case event.ModelCallCompleted, event.ResponseDelivered, event.RequestClosed:
		return event.TopicResponse
	case event.GuardrailResult:
		return event.TopicSafety
	}
	return event.TopicPrompt
}

func testRunner(tb testing.TB, cfg Config) *Runner {
	tb.Helper()
	r, err := New(Options{Config: cfg})
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// A standing score is what is left of all scores of one id, in canonical form.
type standing struct {
	Type  string
	Time  time.Time
	Score event.Score
}

func standings(tb failer, recs []event.Record) map[string]standing {
	tb.Helper()
	out := map[string]standing{}
	for i := range recs {
		e, err := event.Decode(&recs[i])
		if err != nil {
			tb.Fatal(err)
		}
		var s event.Score
		if err := e.Body(&s); err != nil {
			tb.Fatal(err)
		}
		s.LatencyMs = 0
		had, ok := out[e.ID]
		if !ok || cmp.Or(cmp.Compare(s.InputCount, had.Score.InputCount), cmp.Compare(s.InputsHash, had.Score.InputsHash)) >= 0 {
			if s.Reason == "request_too_large" {
				e.Time = time.Time{} // which parts were held when it became too large depends on their order
			}
			out[e.ID] = standing{e.Type, e.Time, s}
		}
	}
	return out
}

func byMetric(ss map[string]standing) map[string]standing {
	out := map[string]standing{}
	for _, s := range ss {
		out[s.Score.Metric] = s
	}
	return out
}

func made(tb failer, id, typ, span string, ms int, body any) event.Event {
	tb.Helper()
	e := event.Event{ID: id, Type: typ, Time: t0.Add(time.Duration(ms) * time.Millisecond),
		Facts: event.Facts{Tenant: "default", Request: "r1", Span: span}}
	if err := e.SetBody(body); err != nil {
		tb.Fatal(err)
	}
	return e
}

func ragEvents(tb failer) []event.Event {
	old := t0.Add(-72 * time.Hour)
	p := 0.1
	started := made(tb, "a", event.RequestStarted, "s0", 0, event.Prompt{Messages: []event.Message{{Role: "user", Content: "How long is a segment kept?"}}})
	started.Facts.Arm, started.Facts.Propensity, started.Facts.Release = "candidate", &p, "rel-2"
	return []event.Event{
		started,
		made(tb, "b", event.RetrievalCompleted, "s1", 5, event.Retrieval{IndexTime: &old, Documents: []event.Document{{ID: "doc-1", Text: "A sealed segment is kept for seven days and then removed."}}}),
		made(tb, "c", event.ModelCallCompleted, "s2", 40, event.Response{Finish: []string{"stop"}, Usage: &event.Usage{Input: 100, Output: 20}, CostUSD: 0.001,
			Messages: []event.Message{{Role: "assistant", Content: "A segment is kept for seven days [doc-1]."}}}),
		made(tb, "d", event.RequestClosed, "s0", 50, event.Response{LatencyMs: 50}),
	}
}

func TestRunnerScoresAtOnce(t *testing.T) {
	r := testRunner(t, Config{})
	m := newMemTask()
	h := r.handler(m)
	evs := ragEvents(t)
	m.feed(t, h, evs[0])
	if len(m.emitted) != 0 {
		t.Fatalf("%d scores after the prompt", len(m.emitted))
	}
	m.feed(t, h, evs[1])
	m.feed(t, h, evs[2])
	got := byMetric(standings(t, m.emitted))
	for _, want := range []string{"grounded", "citation", "retrieval_fresh", "refusal", "pii_output", "format"} {
		if got[want].Type != event.EvaluationResult {
			t.Errorf("%s: %+v", want, got[want])
		}
	}
	if _, early := got["over_cost"]; early {
		t.Error("over_cost spoke before the request was settled")
	}
	m.feed(t, h, evs[3])
	m.advance(t, h, 2*time.Second)
	got = byMetric(standings(t, m.emitted))
	if len(got) != 8 {
		t.Fatalf("metrics: %v", got)
	}
	e, _ := event.Decode(&m.emitted[len(m.emitted)-1])
	if e.Facts.Arm != "candidate" || e.Facts.Propensity == nil || e.Facts.Release != "rel-2" || e.Facts.Request != "r1" || e.Facts.Evaluator == "" {
		t.Errorf("facts of a score: %+v", e.Facts)
	}
	if r := m.emitted[0]; r.Topic != event.TopicScore || string(r.Key) != "r1" || r.Header("ce_partitionkey") != "r1" {
		t.Errorf("record of a score: %s %q", r.Topic, r.Key)
	}
	if v := *got["grounded"].Score.Value; v < 0.7 {
		t.Errorf("grounded %.2f", v)
	}
	if s := got["retrieval_fresh"].Score; s.Label != "stale" || *s.Pass {
		t.Errorf("retrieval_fresh %+v", s)
	}
	n := len(m.emitted)
	for _, e := range evs {
		m.feed(t, h, e)
	}
	m.advance(t, h, time.Minute)
	if len(m.emitted) != n {
		t.Errorf("duplicates made %d more scores", len(m.emitted)-n)
	}
}

func TestRunnerSkips(t *testing.T) {
	evs := ragEvents(t)
	tests := []struct {
		name string
		feed []event.Event
		want map[string]string // metric -> reason
	}{
		{"closed without retrieval", []event.Event{evs[0], evs[2], evs[3]}, map[string]string{"grounded": "no_context", "citation": "nothing_to_check", "retrieval_fresh": "no_retrieval"}},
		{"quiet without answer", evs[:2], map[string]string{"grounded": "no_answer", "refusal": "no_answer", "format": "no_answer", "over_slo": "no_latency", "over_cost": "no_usage"}},
		{"failed call", []event.Event{made(t, "x", event.ModelCallCompleted, "s", 0, event.Response{Error: &event.Failure{Type: "429"}})}, map[string]string{"refusal": "request_failed"}},
		{"malformed body", []event.Event{{ID: "x", Type: event.ModelCallCompleted, Time: t0, Facts: event.Facts{Request: "r1"}, Data: []byte(`{"messages":[`)}}, map[string]string{"refusal": "malformed_input", "grounded": "malformed_input"}},
		{"claimed body that is not to be had", []event.Event{{ID: "x", Type: event.ModelCallCompleted, Time: t0, Facts: event.Facts{Request: "r1"}, DataRef: "x"}}, map[string]string{"refusal": "input_unavailable"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := testRunner(t, Config{})
			m := newMemTask()
			h := r.handler(m)
			for _, e := range tt.feed {
				m.feed(t, h, e)
			}
			m.advance(t, h, time.Minute)
			got := byMetric(standings(t, m.emitted))
			if len(got) != 8 {
				t.Errorf("%d metrics ended, want all 8", len(got))
			}
			for metric, reason := range tt.want {
				if got[metric].Score.Reason != reason {
					t.Errorf("%s: reason %q, want %q", metric, got[metric].Score.Reason, reason)
				}
			}
		})
	}
}

func TestRunnerFoldsAndOpensAgain(t *testing.T) {
	evs := ragEvents(t)
	r := testRunner(t, Config{})
	whole := newMemTask()
	h := r.handler(whole)
	for _, e := range evs {
		whole.feed(t, h, e)
	}
	whole.advance(t, h, time.Minute)
	want := standings(t, whole.emitted)

	m := newMemTask()
	h = r.handler(m)
	for _, e := range []event.Event{evs[0], evs[2], evs[3]} {
		m.feed(t, h, e)
	}
	m.advance(t, h, 2*time.Hour)
	if h.open.len() != 0 {
		t.Fatalf("%d requests open after the idle time", h.open.len())
	}
	held := 0
	for _, v := range m.m {
		held += len(v)
	}
	if held > 1500 {
		t.Errorf("a folded request holds %d bytes", held)
	}
	n := len(m.emitted)
	m.feed(t, h, evs[2]) // a duplicate opens nothing
	if h.open.len() != 0 || len(m.emitted) != n {
		t.Error("a duplicate opened a folded request")
	}
	h = r.handler(m) // after a restart
	m.feed(t, h, evs[1])
	if d := gocmp.Diff(want, standings(t, m.emitted)); d != "" {
		t.Errorf("a part after the idle time (-want +got):\n%s", d)
	}
	m.advance(t, h, 30*time.Hour)
	if len(m.m) != 0 || len(m.timers) != 0 {
		t.Errorf("%d keys and %d timers are left after the request was forgotten", len(m.m), len(m.timers))
	}

	// After its retention the tape has no more parts: what was scored stands.
	m = newMemTask()
	h = r.handler(m)
	for _, e := range []event.Event{evs[0], evs[2], evs[3]} {
		m.feed(t, h, e)
	}
	m.advance(t, h, 2*time.Hour)
	before := standings(t, m.emitted)
	m.gone = true
	m.feed(t, h, evs[1])
	m.advance(t, h, time.Hour)
	if d := gocmp.Diff(before, standings(t, m.emitted)); d != "" {
		t.Errorf("a part whose siblings are gone changed scores:\n%s", d)
	}
}

func TestRunnerForgottenRequestKeepsScores(t *testing.T) {
	evs := ragEvents(t)
	r := testRunner(t, Config{})
	m := newMemTask()
	h := r.handler(m)
	for _, e := range evs {
		m.feed(t, h, e)
	}
	m.advance(t, h, 30*24*time.Hour)
	before := standings(t, m.emitted)
	m.feed(t, h, evs[2])
	m.advance(t, h, time.Hour)
	if d := gocmp.Diff(before, standings(t, m.emitted)); d != "" {
		t.Errorf("an event of a forgotten request changed what stands:\n%s", d)
	}
}

func TestRunnerLimits(t *testing.T) {
	r := testRunner(t, Config{MaxOpen: 3, MaxParts: 5})
	m := newMemTask()
	h := r.handler(m)
	for i := range 10 {
		e := ragEvents(t)[2]
		e.ID, e.Facts.Request = fmt.Sprintf("e%d", i), fmt.Sprintf("r%d", i)
		m.feed(t, h, e)
		m.advance(t, h, 10*time.Millisecond)
	}
	if h.open.len() != 3 || !h.open.has(stateKey("default", "r9")) {
		t.Errorf("%d open requests", h.open.len())
	}
	if n := len(standings(t, m.emitted)); n < 7*8 {
		t.Errorf("%d scores: those crowded out must be settled", n)
	}

	m = newMemTask()
	h = r.handler(m)
	for i := range 9 {
		e := ragEvents(t)[2]
		e.ID = fmt.Sprintf("e%d", i)
		m.feed(t, h, e)
	}
	m.advance(t, h, time.Minute)
	for metric, s := range byMetric(standings(t, m.emitted)) {
		if s.Type != event.EvaluationFailed || s.Score.Reason != "request_too_large" {
			t.Errorf("%s: %+v", metric, s)
		}
	}
}

// Whatever the order of arrival, the repetitions, the pauses between and the
// restarts, the same scores stand.
func TestRunnerAnyOrder(t *testing.T) {
	r := testRunner(t, Config{MaxParts: 12, Remember: 30 * 24 * time.Hour})
	rapid.Check(t, func(rt *rapid.T) {
		evs := drawEvents(rt)
		want := standings(rt, play(rt, r, evs, nil))
		order := rapid.Permutation(evs).Draw(rt, "order")
		for range rapid.IntRange(0, 4).Draw(rt, "duplicates") {
			at := rapid.IntRange(0, len(order)).Draw(rt, "at")
			order = slices.Insert(slices.Clone(order), at, evs[rapid.IntRange(0, len(evs)-1).Draw(rt, "which")])
		}
		got := standings(rt, play(rt, r, order, func() (pause time.Duration, what string) {
			return rapid.SampledFrom([]time.Duration{0, 0, 0, 2 * time.Second, time.Minute, 3 * time.Hour}).Draw(rt, "pause"),
				rapid.SampledFrom([]string{"", "", "checkpoint", "restart", "crash"}).Draw(rt, "then")
		}))
		if d := gocmp.Diff(want, got); d != "" {
			rt.Fatalf("another order, other scores (-want +got):\n%s", d)
		}
		if len(got) != 8 {
			rt.Fatalf("%d evaluators ended, want 8", len(got))
		}
	})
}

// play feeds the events and lets all timers end. between says after each how
// long nothing comes and what happens then: a checkpoint, a restart (with one),
// or a crash, after which what came since the last checkpoint comes again.
func play(tb failer, r *Runner, evs []event.Event, between func() (time.Duration, string)) []event.Record {
	m := newMemTask()
	h := r.handler(m)
	saved, timers, at := maps.Clone(m.m), maps.Clone(m.timers), 0
	crashes := 0
	for i := 0; i < len(evs); i++ {
		m.feed(tb, h, evs[i])
		if between == nil {
			continue
		}
		pause, what := between()
		m.advance(tb, h, pause)
		switch what {
		case "restart":
			h = r.handler(m)
			fallthrough
		case "checkpoint":
			saved, timers, at = maps.Clone(m.m), maps.Clone(m.timers), i+1
		case "crash":
			if crashes++; crashes < 4 {
				m.m, m.timers, i = maps.Clone(saved), maps.Clone(timers), at-1
				h = r.handler(m)
			}
		}
	}
	m.advance(tb, h, time.Minute)
	return m.emitted
}

// failer is what helpers need of a test or a rapid check.
type failer interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func drawEvents(rt *rapid.T) []event.Event {
	text := rapid.SampledFrom([]string{"A segment is kept for seven days [doc-1].", "I cannot help with that.", "Write to ann@example.org [9].", "```go\nx", ""})
	docs := rapid.SampledFrom([][]event.Document{nil, {{ID: "doc-1", Text: "A segment is kept for seven days."}}, {{ID: "doc-2", Text: "Nothing of the kind."}, {ID: "doc-3"}}})
	n := rapid.IntRange(1, 14).Draw(rt, "events")
	evs := make([]event.Event, n)
	for i := range evs {
		id := fmt.Sprintf("e%02d", i)
		span := rapid.SampledFrom([]string{"", "s1", "s2"}).Draw(rt, "span")
		at := rapid.IntRange(0, 5).Draw(rt, "ms")
		var typ string
		var body any
		switch rapid.IntRange(0, 6).Draw(rt, "kind") {
		case 0:
			typ, body = event.PromptRendered, event.Prompt{Params: rapid.SampledFrom([]map[string]any{nil, {"response_format": "json"}, {"response_format": "text"}}).Draw(rt, "params"),
				Messages: []event.Message{{Role: "user", Content: "How long?"}}}
		case 1:
			typ, body = event.RetrievalCompleted, event.Retrieval{Documents: docs.Draw(rt, "docs")}
		case 2, 3:
			typ, body = event.ModelCallCompleted, event.Response{Finish: rapid.SampledFrom([][]string{nil, {"stop"}, {"length"}}).Draw(rt, "finish"),
				CostUSD: rapid.SampledFrom([]float64{0, 0.06}).Draw(rt, "usd"), Messages: []event.Message{{Role: "assistant", Content: text.Draw(rt, "text")}}}
		case 4:
			typ, body = event.RequestClosed, event.Response{LatencyMs: float64(rapid.SampledFrom([]int{0, 50, 20_000}).Draw(rt, "latency"))}
		case 5:
			typ, body = event.GuardrailResult, event.Safety{Rule: "x"}
		case 6:
			typ, body = event.ModelCallCompleted, json.RawMessage(`{"messages":3}`)
			if rapid.Bool().Draw(rt, "usage") {
				body = event.Response{Usage: &event.Usage{Input: 5}}
			}
		}
		evs[i] = made(rt, id, typ, span, at, body)
	}
	return evs
}

func FuzzDecodePart(f *testing.F) {
	e := ragEvents(f)[2]
	r := e.Record("llm.response", "r1", "r1")
	f.Add(encodePart(&r, kindRecord, true))
	f.Add(encodePart(&r, kindPlace, false))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, kind, err := decodePart(b)
		if err != nil {
			return
		}
		again, kind2, err := decodePart(encodePart(&r, kind, true))
		if err != nil || kind != kind2 || !gocmp.Equal(r, again) {
			t.Fatalf("%v: %+v and %+v", err, r, again)
		}
	})
}
