package join

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/loop/event"
	"github.com/looptape/looptape/internal/loop/stream"
)

// memory is a tape and the stores of one processor on it, with batches that may
// be lost after they have emitted.
type memory struct {
	tb         tb
	partitions int32
	log        map[string][][]event.Record // by topic and partition
	stores     []map[string][]byte
	next       []map[string]int // consumed, by partition number and topic
	handlers   []*handler
	newMetrics *metrics
}

type tb interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func newMemory(tb tb, partitions int32) *memory {
	tb.Helper()
	m := &memory{tb: tb, partitions: partitions, log: map[string][][]event.Record{}}
	for range partitions {
		m.stores = append(m.stores, map[string][]byte{})
		m.next = append(m.next, map[string]int{})
		m.handlers = append(m.handlers, nil)
	}
	var err error
	if m.newMetrics, err = newMetrics(nil); err != nil {
		tb.Fatal(err)
	}
	return m
}

func (m *memory) append(r event.Record) {
	if m.log[r.Topic] == nil {
		m.log[r.Topic] = make([][]event.Record, m.partitions)
	}
	if r.Partition < 0 {
		key := r.Header("ce_partitionkey")
		if key == "" {
			key = string(r.Key)
		}
		r.Partition = event.PartitionOf(key, m.partitions)
	}
	p := &m.log[r.Topic][r.Partition]
	r.Offset, r.Time = int64(len(*p)), time.Unix(1700000000, 0).UTC()
	*p = append(*p, r)
}

func (m *memory) ReadAt(_ context.Context, at event.Position) (event.Record, error) {
	if p := m.log[at.Topic]; p != nil && at.Offset < int64(len(p[at.Partition])) {
		return p[at.Partition][at.Offset], nil
	}
	return event.Record{}, stream.ErrGone
}

// lag is how many records of the inputs are not yet processed, and where.
func (m *memory) lag() (places []topicPartition) {
	for _, topic := range Inputs() {
		for p := range m.log[topic] {
			if m.next[p][topic] < len(m.log[topic][p]) {
				places = append(places, topicPartition{topic, int32(p)})
			}
		}
	}
	return places
}

type topicPartition struct {
	topic     string
	partition int32
}

// batch processes up to n records from each of some topics of one partition
// number, in the order given. Lost, it leaves nothing but what it emitted.
func (m *memory) batch(partition int32, topics []string, n int, lost bool) {
	m.tb.Helper()
	h := m.handlers[partition]
	if h == nil {
		h = newHandler(m, Config{}, m.newMetrics)
		m.handlers[partition] = h
	}
	t := &memTask{partition: partition, partitions: m.partitions, kv: maps.Clone(m.stores[partition])}
	next := maps.Clone(m.next[partition])
	for _, topic := range topics {
		if m.log[topic] == nil {
			continue
		}
		recs := m.log[topic][partition]
		for i := 0; i < n && next[topic] < len(recs); i++ {
			r := recs[next[topic]]
			if err := h.process(t, &r); err != nil {
				m.tb.Fatal(err)
			}
			next[topic]++
		}
	}
	if err := h.flush(t); err != nil {
		m.tb.Fatal(err)
	}
	for _, r := range t.emitted {
		m.append(r)
	}
	if lost {
		m.handlers[partition] = nil
		return
	}
	m.stores[partition], m.next[partition] = t.kv, next
}

// drain processes everything.
func (m *memory) drain() {
	m.tb.Helper()
	for lag := m.lag(); len(lag) > 0; lag = m.lag() {
		for _, at := range lag {
			m.batch(at.partition, []string{at.topic}, 100, false)
		}
	}
}

// cases are the canonical forms of the newest records of llm.case.
func (m *memory) cases() map[string]string {
	m.tb.Helper()
	out := map[string]string{}
	for _, c := range m.raw() {
		b, err := c.Canonical()
		if err != nil {
			m.tb.Fatal(err)
		}
		out[caseKey(c.Tenant, c.Request)] = string(b)
	}
	return out
}

func (m *memory) raw() map[string]*event.Case {
	m.tb.Helper()
	out := map[string]*event.Case{}
	highest := map[string]int64{}
	defer func() {
		for k, c := range out {
			if c.Revision < highest[k] {
				m.tb.Fatalf("case %s stands at revision %d, %d was published", k, c.Revision, highest[k])
			}
		}
	}()
	for _, recs := range m.log[event.TopicCase] {
		for i := range recs {
			r := &recs[i]
			if r.Value == nil {
				delete(out, string(r.Key))
				continue
			}
			e, err := event.Decode(r)
			if err != nil {
				m.tb.Fatal(err)
			}
			c := new(event.Case)
			if err := e.Body(c); err != nil {
				m.tb.Fatal(err)
			}
			if len(r.Value) > stream.MaxRecordBytes-64<<10 {
				m.tb.Fatalf("case of %d bytes", len(r.Value))
			}
			if string(r.Key) != caseKey(c.Tenant, c.Request) {
				m.tb.Fatalf("case of %s under %s", c.Request, r.Key)
			}
			highest[string(r.Key)] = max(highest[string(r.Key)], c.Revision)
			out[string(r.Key)] = c
		}
	}
	return out
}

type memTask struct {
	partition, partitions int32
	kv                    map[string][]byte
	emitted               []event.Record
}

func (t *memTask) Context() context.Context { return context.Background() }
func (t *memTask) Partition() int32         { return t.partition }
func (t *memTask) Partitions() int32        { return t.partitions }
func (t *memTask) Get(k []byte) ([]byte, error) {
	return slices.Clone(t.kv[string(k)]), nil
}
func (t *memTask) Put(k, v []byte) error {
	t.kv[string(k)] = append([]byte{}, v...)
	return nil
}
func (t *memTask) Delete(k []byte) error { delete(t.kv, string(k)); return nil }
func (t *memTask) Scan(prefix []byte, fn func(k, v []byte) error) error {
	var keys []string
	for k := range t.kv {
		if strings.HasPrefix(k, string(prefix)) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		if err := fn([]byte(k), t.kv[k]); err != nil {
			return err
		}
	}
	return nil
}
func (t *memTask) Emit(r event.Record) { t.emitted = append(t.emitted, r) }

// day is when the events of the tests happen.
var day = time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)

// ev makes an event; under is the id that it is partitioned by.
func ev(topic, typ, id, under string, at time.Duration, body any, facts ...string) event.Record {
	e := event.Event{ID: id, Type: typ, Source: "test", Time: day.Add(at), Facts: event.Facts{Tenant: "t"}}
	for i := 0; i+1 < len(facts); i += 2 {
		if ok, err := e.Facts.Set(facts[i], facts[i+1]); err != nil || !ok {
			panic(fmt.Sprint(facts[i], err))
		}
	}
	if body != nil {
		if err := e.SetBody(body); err != nil {
			panic(err)
		}
	}
	return e.Record(topic, under, under)
}

func binding(alias, request string) event.Record {
	return ev(event.TopicAlias, event.AliasBound, event.DeriveID("alias", alias, request), alias, 0,
		event.Alias{Alias: alias, Kind: "reference", Request: request}, "request", request)
}

func ptr[T any](v T) *T { return &v }

func one(t *testing.T, recs ...event.Record) *event.Case {
	t.Helper()
	m := newMemory(t, 4)
	for _, r := range recs {
		m.append(r)
	}
	m.drain()
	cs := m.raw()
	if len(cs) != 1 {
		t.Fatalf("%d cases: %v", len(cs), slices.Collect(maps.Keys(cs)))
	}
	for _, c := range cs {
		return c
	}
	return nil
}

func TestCase(t *testing.T) {
	trace := "0af7651916cd43dd8448eb211c80319c"
	in := []string{"request", trace, "trace", trace}
	facts := func(more ...string) []string { return append(slices.Clone(in), more...) }
	got := one(t,
		ev(event.TopicFeedback, event.FeedbackRecorded, "f1", trace, -time.Hour, event.Feedback{Kind: "thumbs", Value: ptr(0.0), Author: "u1"}, "request", trace, "via", "resp-1"),
		ev(event.TopicPrompt, event.RequestStarted, "a", trace, 0, event.Prompt{Name: "chat"}, facts("span", "01", "app", "root", "release", "r2", "arm", "candidate", "propensity", "0.5", "unit", "s1", "unit_kind", "conversation", "segment.country", "DE")...),
		ev(event.TopicPrompt, event.PromptRendered, "b", trace, time.Second, event.Prompt{}, facts("span", "02", "app", "child", "model", "m1", "segment.plan", "pro")...),
		ev(event.TopicRetrieval, event.RetrievalCompleted, "c", trace, 500*time.Millisecond, event.Retrieval{}, facts("span", "03", "response", "ignored-not")...),
		ev(event.TopicResponse, event.ModelCallCompleted, "d", trace, 2*time.Second, event.Response{LatencyMs: 900, CostUSD: 0.002, Usage: &event.Usage{Input: 10, Output: 5}}, facts("span", "02", "response", "resp-1")...),
		ev(event.TopicResponse, event.ModelCallCompleted, "d2", trace, 2*time.Second, event.Response{CostUSD: 0.001, Usage: &event.Usage{Input: 1, Output: 1}, Error: &event.Failure{Type: "x"}}, facts("span", "04")...),
		ev(event.TopicResponse, event.RequestClosed, "e", trace, 3*time.Second, event.Response{LatencyMs: 3100.5}, facts("span", "01", "session", "s1")...),
		ev(event.TopicScore, event.EvaluationResult, "s", trace, time.Minute, event.Score{Evaluator: "grounded@1#a", Metric: "grounded", Mode: "live", Value: ptr(0.25), Good: "high", InputCount: 2, InputsHash: "aa", SampledP: 1}, facts()...),
		ev(event.TopicScore, event.EvaluationResult, "s", trace, time.Minute, event.Score{Evaluator: "grounded@1#a", Metric: "grounded", Mode: "live", Value: ptr(0.75), Good: "high", InputCount: 4, InputsHash: "00", SampledP: 1}, facts()...),
		ev(event.TopicScore, event.EvaluationResult, "s", trace, time.Minute, event.Score{Evaluator: "grounded@1#a", Metric: "grounded", Mode: "live", Value: ptr(0.5), Good: "high", InputCount: 3, InputsHash: "ff", SampledP: 1}, facts()...),
		ev(event.TopicScore, event.AnchorScored, "an", trace, time.Minute, nil, facts()...),
		ev(event.TopicFeedback, event.OutcomeRecorded, "f2", trace, 90*24*time.Hour, event.Feedback{Kind: "outcome", Label: "refund"}, facts()...),
	)
	for i := range got.Parts {
		got.Parts[i].Position = nil
	}
	got.Revision = 0
	want := &event.Case{
		Request: trace, Tenant: "t", App: "root", Session: "s1", Release: "r2", Arm: "candidate", Unit: "s1", UnitKind: "conversation",
		Propensity: ptr(0.5), Model: "m1", Segments: map[string]string{"country": "DE", "plan": "pro"},
		Start: day, End: day.Add(3 * time.Second), Closed: true, LatencyMs: 3100.5, CostUSD: 0.003,
		Usage:   &event.Usage{Input: 11, Output: 6, Total: 17},
		Aliases: []string{"ignored-not", "resp-1"},
		Has:     event.Completeness{Prompt: 2, Retrieval: 1, Response: 3, Feedback: 2, Score: 1},
		Parts: []event.Part{
			{ID: "f1", Type: event.FeedbackRecorded, Time: day.Add(-time.Hour)},
			{ID: "a", Type: event.RequestStarted, Time: day, Span: "01"},
			{ID: "c", Type: event.RetrievalCompleted, Time: day.Add(500 * time.Millisecond), Span: "03"},
			{ID: "b", Type: event.PromptRendered, Time: day.Add(time.Second), Span: "02"},
			{ID: "d", Type: event.ModelCallCompleted, Time: day.Add(2 * time.Second), Span: "02"},
			{ID: "d2", Type: event.ModelCallCompleted, Time: day.Add(2 * time.Second), Span: "04"},
			{ID: "e", Type: event.RequestClosed, Time: day.Add(3 * time.Second), Span: "01"},
			{ID: "f2", Type: event.OutcomeRecorded, Time: day.Add(90 * 24 * time.Hour)},
		},
		Scores: []event.CaseScore{{ID: "s", Evaluator: "grounded@1#a", Metric: "grounded", Mode: "live", Status: "scored", Value: ptr(0.75), Good: "high", InputCount: 4, InputsHash: "00", SampledP: 1}},
		Labels: []event.Label{
			{ID: "f1", Kind: "thumbs", Value: ptr(0.0), Author: "u1", Time: day.Add(-time.Hour)},
			{ID: "f2", Kind: "outcome", Label: "refund", Time: day.Add(90 * 24 * time.Hour)},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestPositions checks that parts tell where their content lies.
func TestPositions(t *testing.T) {
	m := newMemory(t, 3)
	for i := range 5 {
		m.append(ev(event.TopicResponse, event.ModelCallCompleted, fmt.Sprint(i), "r", 0, event.Response{}, "request", "r"))
		m.append(ev(event.TopicResponse, event.ModelCallCompleted, fmt.Sprint("x", i), "other", 0, event.Response{}, "request", "other"))
	}
	m.drain()
	for _, c := range m.raw() {
		for _, p := range c.Parts {
			r, err := m.ReadAt(context.Background(), *p.Position)
			if err != nil || r.Header("ce_id") != p.ID || r.Header("request") != c.Request {
				t.Errorf("part %s of %s at %v: %v", p.ID, c.Request, p.Position, err)
			}
		}
	}
}

// TestAgain sends everything twice: no case is written again.
func TestAgain(t *testing.T) {
	m := newMemory(t, 2)
	recs := []event.Record{
		ev(event.TopicPrompt, event.RequestStarted, "a", "r", 0, nil, "request", "r", "trace", "r"),
		ev(event.TopicFeedback, event.FeedbackRecorded, "f", "ref", 0, event.Feedback{Kind: "thumbs"}, "request", "ref"),
		ev(event.TopicScore, event.EvaluationResult, "s", "r", 0, event.Score{Evaluator: "e"}, "request", "r"),
		binding("ref", "r"),
	}
	for _, r := range recs {
		m.append(r)
	}
	m.drain()
	count := func() (n int) {
		for _, topic := range []string{event.TopicCase, event.TopicFeedback} {
			for _, p := range m.log[topic] {
				n += len(p)
			}
		}
		return n
	}
	before := count()
	for _, r := range recs {
		m.append(r)
	}
	m.drain()
	if after := count(); after != before+1 { // the feedback itself
		t.Errorf("%d records became %d", before, after)
	}
}

func TestAlias(t *testing.T) {
	up := func(under, request, id string) event.Record {
		facts := []string{}
		if request != "" {
			facts = append(facts, "request", request)
		}
		return ev(event.TopicFeedback, event.FeedbackRecorded, id, under, time.Second, event.Feedback{Kind: "thumbs", Value: ptr(1.0)}, facts...)
	}
	root := func(trace string) event.Record {
		return ev(event.TopicPrompt, event.RequestStarted, "root-"+trace, trace, 0, event.Prompt{}, "request", trace, "trace", trace)
	}
	own := func(s string) string { return s + " parts of its own" }
	tests := []struct {
		name string
		in   []event.Record
		want map[string][]string // labels, and a word for parts, by case
	}{
		{"without a request it waits", []event.Record{up("resp", "", "f")}, map[string][]string{}},
		{"with a request it is a case", []event.Record{up("ref", "ref", "f")}, map[string][]string{"t/ref": {"f"}}},
		{"bound later", []event.Record{up("resp", "", "f"), root("T"), binding("resp", "T")}, map[string][]string{"t/T": {"f", own("T")}}},
		{"bound before", []event.Record{binding("resp", "T"), up("resp", "", "f"), root("T")}, map[string][]string{"t/T": {"f", own("T")}}},
		{"the request comes last", []event.Record{binding("resp", "T"), up("resp", "", "f")}, map[string][]string{"t/T": {"f"}}},
		{"a published case is withdrawn", []event.Record{up("ref", "ref", "f"), root("T"), binding("ref", "T")}, map[string][]string{"t/T": {"f", own("T")}}},
		{"two requests of one alias", []event.Record{up("ref", "ref", "f"), root("T"), root("U"), binding("ref", "T"), binding("ref", "U")},
			map[string][]string{"t/T": {"f", own("T")}, "t/U": {"f", own("U")}}},
		{"an alias that is a trace keeps its own", []event.Record{root("K"), up("K", "K", "f"), root("T"), binding("K", "T")},
			map[string][]string{"t/K": {own("K")}, "t/T": {"f", own("T")}}},
		{"an alias of an alias", []event.Record{up("a", "", "f"), binding("a", "b"), binding("b", "T"), root("T")},
			map[string][]string{"t/T": {"f", own("T")}}},
		{"an alias of an alias, backwards", []event.Record{binding("b", "T"), binding("a", "b"), root("T"), up("a", "", "f")},
			map[string][]string{"t/T": {"f", own("T")}}},
		{"a circle", []event.Record{up("a", "a", "f"), binding("a", "b"), binding("b", "c"), binding("c", "a"), up("b", "b", "g")},
			map[string][]string{}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			m := newMemory(t, 4)
			for i, r := range tc.in {
				m.append(r)
				if i%2 == 0 {
					m.drain()
				}
			}
			m.drain()
			got := map[string][]string{}
			for k, c := range m.raw() {
				labels := []string{}
				for _, l := range c.Labels {
					labels = append(labels, l.ID)
				}
				if c.Has.Prompt > 0 {
					labels = append(labels, own(c.Request))
				}
				got[k] = labels
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestAliasOtherTenant checks that a binding of one tenant moves nothing of
// another's.
func TestAliasOtherTenant(t *testing.T) {
	m := newMemory(t, 2)
	m.append(ev(event.TopicFeedback, event.FeedbackRecorded, "f", "ref", 0, event.Feedback{Kind: "thumbs"}, "request", "ref", "tenant", "other"))
	m.append(binding("ref", "T"))
	m.drain()
	if cs := m.raw(); len(cs) != 1 || cs["other/ref"] == nil {
		t.Errorf("%v", slices.Collect(maps.Keys(cs)))
	}
}

// TestMisplaced checks that what a foreign partitioner wrote elsewhere joins.
func TestMisplaced(t *testing.T) {
	m := newMemory(t, 4)
	for p := range int32(4) {
		r := ev(event.TopicFeedback, event.FeedbackRecorded, fmt.Sprint(p), "r", 0, event.Feedback{Kind: "thumbs"}, "request", "r")
		r.Partition = p
		m.append(r)
	}
	m.drain()
	if cs := m.raw(); len(cs) != 1 || cs["t/r"].Has.Feedback != 4 {
		t.Errorf("%+v", cs)
	}
}

// TestHostile has records that are no events, or carry nonsense.
func TestHostile(t *testing.T) {
	m := newMemory(t, 1)
	m.append(event.Record{Topic: event.TopicAlias, Partition: 0, Key: []byte("a\x1fb")})
	m.append(event.Record{Topic: event.TopicPrompt, Partition: 0, Key: []byte("r"), Value: []byte("not an event")})
	m.append(event.Record{Topic: event.TopicPrompt, Partition: 0, Value: []byte("{}"), Headers: []event.Header{{Key: "ce_id", Value: []byte("1")}, {Key: "ce_type", Value: []byte("x")}}})
	bad := ev(event.TopicResponse, event.RequestClosed, "b", "r", 0, nil, "request", "r")
	bad.Value = []byte(`{"latency_ms":"soon"`)
	m.append(bad)
	for _, topic := range []string{event.TopicFeedback, event.TopicScore, event.TopicAlias} {
		r := ev(topic, map[string]string{event.TopicFeedback: event.FeedbackRecorded, event.TopicScore: event.EvaluationResult, event.TopicAlias: event.AliasBound}[topic], "c"+topic, "r", 0, nil, "request", "r")
		r.Value = []byte("[[[")
		m.append(r)
	}
	m.append(ev(event.TopicPrompt, "their.own", strings.Repeat("é", 400), "r", 0, map[string]any{"x": 1}, "request", "r", "app", strings.Repeat("\xff", 999)))
	m.drain()
	c := m.raw()["t/r"]
	if c == nil || c.Has.Response != 1 || c.Has.Prompt != 1 || len(c.Labels) != 1 || c.Labels[0].Kind != "unreadable" || len(c.Scores) != 1 {
		t.Errorf("%+v", c)
	}
}
