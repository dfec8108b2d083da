package evaluate

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/looptape/looptape/internal/loop/event"
)

// answerText is about 1 KB, contextText about 4 KB, as a RAG application's are.
var (
	answerText  = strings.Repeat("A sealed segment is kept for seven days and then removed by the sweeper, unless a reader holds it [doc-1]. ", 9)
	contextText = strings.Repeat("The sweeper removes segments that are sealed and older than the retention. A reader that holds a segment keeps it alive. ", 8)
)

func benchEvents(i int) []event.Event {
	req := fmt.Sprintf("%032x", i)
	at := t0.Add(time.Duration(i) * time.Millisecond)
	index := at.Add(-time.Hour)
	make := func(id, typ string, body any) event.Event {
		e := event.Event{ID: req + id, Type: typ, Time: at, Facts: event.Facts{Tenant: "default", App: "bench", Request: req, Trace: req, Release: "r1", Session: "s1", Span: id}}
		if err := e.SetBody(body); err != nil {
			panic(err)
		}
		return e
	}
	var docs []event.Document
	for k := range 4 {
		docs = append(docs, event.Document{ID: fmt.Sprintf("doc-%d", k+1), Rank: k + 1, Text: contextText[k*20:]})
	}
	return []event.Event{
		make("a", event.RequestStarted, event.Prompt{Messages: []event.Message{{Role: "user", Content: "How long is a segment kept?"}}}),
		make("b", event.RetrievalCompleted, event.Retrieval{IndexTime: &index, Documents: docs}),
		make("c", event.PromptRendered, event.Prompt{Messages: []event.Message{{Role: "system", Content: "Answer from the context."}, {Role: "user", Content: contextText}}}),
		make("d", event.ModelCallCompleted, event.Response{Finish: []string{"stop"}, Usage: &event.Usage{Input: 1000, Output: 200}, Messages: []event.Message{{Role: "assistant", Content: answerText}}}),
		make("e", event.RequestClosed, event.Response{LatencyMs: 900}),
	}
}

func BenchmarkEvaluators(b *testing.B) {
	r := event.Assemble(benchEvents(1))
	for _, e := range Builtin(defaults(b)) {
		b.Run(e.Manifest().ID, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				e.Evaluate(&r)
			}
		})
	}
}

// BenchmarkRunner is the runner without its stream: decode, state, evaluate,
// encode scores. It reports events a second on one core.
func BenchmarkRunner(b *testing.B) {
	r := testRunner(b, Config{Grace: -1})
	var recs []event.Record
	const requests = 2000
	for i := range requests {
		for _, e := range benchEvents(i) {
			rec := e.Record(topicOf(e.Type), e.Facts.Request, e.Facts.Request)
			rec.Time = t0
			recs = append(recs, rec)
		}
	}
	m := newMemTask()
	h := r.handler(m)
	b.ReportAllocs()
	n, scores := 0, 0
	for b.Loop() {
		if n%len(recs) == 0 {
			scores += len(m.emitted)
			m = newMemTask()
			h = r.handler(m)
		}
		if err := h.process(m, &recs[n%len(recs)]); err != nil {
			b.Fatal(err)
		}
		n++
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(float64(scores+len(m.emitted))/float64(n), "scores/event")
}

func BenchmarkOpen(b *testing.B) {
	for _, e := range benchEvents(1)[1:4] {
		b.Run(fmt.Sprintf("%s-%dB", e.Type, len(e.Data)), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				event.Open(e)
			}
		})
	}
}
