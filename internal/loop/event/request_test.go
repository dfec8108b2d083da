package event

import (
	"encoding/json"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var t0 = time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)

func partOf(t testing.TB, id, typ, span string, ms int, body any) Event {
	t.Helper()
	e := Event{ID: id, Type: typ, Time: t0.Add(time.Duration(ms) * time.Millisecond),
		Facts: Facts{Tenant: "default", Request: "r1", Span: span}}
	if body != nil {
		if err := e.SetBody(body); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

func ragParts(t testing.TB) []Event {
	p := 0.5
	started := partOf(t, "a", RequestStarted, "s0", 0, Prompt{Name: "POST /ask", Messages: []Message{{Role: "user", Content: "Who made the tape?"}}})
	started.Facts.Arm, started.Facts.Propensity, started.Facts.Unit = "candidate", &p, "c1"
	return []Event{
		started,
		partOf(t, "b", RetrievalCompleted, "s1", 5, Retrieval{Query: "made tape", Documents: []Document{{ID: "d1", Text: "one"}, {ID: "d2", Text: "two"}}}),
		partOf(t, "c", RetrievalCompleted, "s2", 6, Retrieval{Query: "tape", Documents: []Document{{ID: "d2", Text: "two"}, {ID: "d3", Text: "three"}}}),
		partOf(t, "d1", PromptRendered, "s3", 10, Prompt{Messages: []Message{{Role: "system", Content: "Be brief."}}}),
		partOf(t, "d2", PromptRendered, "s3", 10, Prompt{Order: 1, Messages: []Message{{Role: "user", Content: "Context ... Who made the tape?"}}}),
		partOf(t, "e1", ModelCallCompleted, "s3", 40, Response{ModelGiven: "m", LatencyMs: 30, Usage: &Usage{Input: 10, Output: 5}, Finish: []string{"stop"}}),
		partOf(t, "e2", ModelCallCompleted, "s3", 40, Response{Order: 1, Messages: []Message{{Role: "assistant", Content: "They did [d1]."}}}),
		partOf(t, "f", RequestClosed, "s0", 50, Response{LatencyMs: 50}),
		partOf(t, "g", FeedbackRecorded, "", 60, Feedback{Kind: "thumbs"}),
	}
}

func TestAssemble(t *testing.T) {
	r := Assemble(ragParts(t))
	if r.ID != "r1" || !r.Closed || r.Name != "POST /ask" || r.Facts.Arm != "candidate" || *r.Facts.Propensity != 0.5 || r.Facts.Span != "" {
		t.Errorf("facts: %+v", r)
	}
	if r.Question != "Who made the tape?" || r.System != "Be brief." || r.Answer != "They did [d1]." {
		t.Errorf("text: question %q system %q answer %q", r.Question, r.System, r.Answer)
	}
	if len(r.Contexts) != 3 || len(r.Calls) != 1 || len(r.Calls[0].Prompt) != 2 || len(r.Prompts) != 2 || len(r.Responses) != 2 {
		t.Errorf("parts: %+v", r)
	}
	if r.LatencyMs != 50 || !cmp.Equal(r.Usage, &Usage{Input: 10, Output: 5, Total: 15}) || !cmp.Equal(r.Finish, []string{"stop"}) {
		t.Errorf("totals: %v %v %v", r.LatencyMs, r.Usage, r.Finish)
	}
	if !r.Start.Equal(t0) || !r.End.Equal(t0.Add(50*time.Millisecond)) {
		t.Errorf("from %v to %v", r.Start, r.End)
	}
}

func TestAssembleAnyOrder(t *testing.T) {
	parts := ragParts(t)
	want := Assemble(parts)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		shuffled := append([]Event(nil), parts...)
		for range rng.IntN(4) {
			shuffled = append(shuffled, parts[rng.IntN(len(parts))])
		}
		rng.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		if d := cmp.Diff(want, Assemble(shuffled)); d != "" {
			t.Fatalf("another order, another request (-want +got):\n%s", d)
		}
	}
}

func TestAssembleSources(t *testing.T) {
	user := func(s string) []Message { return []Message{{Role: "user", Content: s}} }
	assistant := func(s string) []Message { return []Message{{Role: "assistant", Content: s}} }
	call := ToolCall{ID: "1", Name: "search"}
	tests := []struct {
		name             string
		parts            []Event
		question, answer string
		calls            int
		fails            bool
	}{
		{"variables before the wrapped prompt", []Event{
			partOf(t, "a", PromptRendered, "s", 0, Prompt{Messages: user("Use this: ... Q: why?"), Variables: map[string]string{"question": "why?"}}),
		}, "why?", "", 1, false},
		{"the retrieval's query when the prompt contains it", []Event{
			partOf(t, "a", PromptRendered, "s", 0, Prompt{Messages: user("Use this: ... Q: why so?")}),
			partOf(t, "b", RetrievalCompleted, "s1", 0, Retrieval{Query: "why so?"}),
		}, "why so?", "", 1, false},
		{"a rewritten query does not replace the question", []Event{
			partOf(t, "a", PromptRendered, "s", 0, Prompt{Messages: user("why so?")}),
			partOf(t, "b", RetrievalCompleted, "s1", 0, Retrieval{Query: "reasons for the thing in question"}),
		}, "why so?", "", 1, false},
		{"an agent's last text, not its tool calls", []Event{
			partOf(t, "a", ModelCallCompleted, "s1", 0, Response{Messages: assistant("let me look")}),
			partOf(t, "b", ModelCallCompleted, "s2", 1, Response{Messages: assistant("it is 4")}),
			partOf(t, "c", ModelCallCompleted, "s3", 2, Response{Messages: []Message{{Role: "assistant", ToolCalls: []ToolCall{call}}}}),
		}, "", "it is 4", 3, false},
		{"what was delivered stands before what a model said", []Event{
			partOf(t, "a", ResponseDelivered, "", 0, Response{Messages: assistant("redacted")}),
			partOf(t, "b", ModelCallCompleted, "s2", 1, Response{Messages: assistant("raw")}),
		}, "", "redacted", 1, false},
		{"whole list and single messages of one span", []Event{
			partOf(t, "a", PromptRendered, "s", 0, Prompt{Messages: append(user("first"), user("second")...)}),
			partOf(t, "b", PromptRendered, "s", 0, Prompt{Messages: user("first"), Order: 1}),
		}, "second", "", 1, false},
		{"failed call", []Event{
			partOf(t, "a", ModelCallCompleted, "s", 0, Response{Error: &Failure{Type: "429"}}),
		}, "", "", 1, true},
		{"malformed body", []Event{{ID: "x", Type: ModelCallCompleted, Data: []byte(`{"messages":[{`)}}, "", "", 0, false},
		{"nothing", nil, "", "", 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := Assemble(tt.parts)
			if r.Question != tt.question || r.Answer != tt.answer || len(r.Calls) != tt.calls || (r.Error != nil) != tt.fails {
				t.Errorf("question %q, answer %q, %d calls, error %v", r.Question, r.Answer, len(r.Calls), r.Error)
			}
		})
	}
}

func FuzzAssemble(f *testing.F) {
	for _, e := range ragParts(f) {
		f.Add(e.Type, e.Data, e.Data)
	}
	f.Add(RequestClosed, []byte(`[]`), []byte(`{"usage":{"input_tokens":1e3}}`))
	f.Fuzz(func(t *testing.T, typ string, a, b []byte) {
		x := Event{ID: "x", Type: typ, Time: t0, Data: a, Facts: Facts{Request: "r"}}
		y := Event{ID: "y", Type: ModelCallCompleted, Time: t0, Data: b}
		one, two := Assemble([]Event{x, y, x}), Assemble([]Event{y, x})
		j1, err1 := json.Marshal(one)
		j2, err2 := json.Marshal(two)
		if (err1 == nil) != (err2 == nil) || string(j1) != string(j2) {
			t.Fatalf("order shows:\n%s\n%s", j1, j2)
		}
	})
}
