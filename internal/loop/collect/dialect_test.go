package collect

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/loop/event"
)

var (
	askHi   = []event.Message{{Role: "user", Content: "hi"}}
	sayHo   = []event.Message{{Role: "assistant", Content: "ho"}}
	sayStop = []event.Message{{Role: "assistant", Content: "ho", Finish: "stop"}}
)

// One small span of each dialect's model call: the prompt, the answer, the model
// and the tokens come out the same.
func TestModelDialects(t *testing.T) {
	tests := []struct {
		name  string
		attrs map[string]any
		more  string
		in    []event.Message
		out   []event.Message
		typ   string // default model.call.completed
	}{
		{name: "OpenTelemetry from 1.37 on", attrs: map[string]any{
			"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "m", "gen_ai.usage.input_tokens": 3, "gen_ai.usage.output_tokens": 4,
			"gen_ai.system_instructions": `[{"type":"text","content":"be kind"}]`,
			"gen_ai.input.messages":      `[{"role":"user","parts":[{"type":"text","content":"hi"}]}]`,
			"gen_ai.output.messages":     `[{"role":"assistant","parts":[{"type":"text","content":"ho"}],"finish_reason":"stop"}]`},
			in: []event.Message{{Role: "system", Content: "be kind"}, {Role: "user", Content: "hi"}}, out: sayStop},
		{name: "OpenTelemetry from 1.37 on, structured", attrs: map[string]any{
			"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "m", "gen_ai.usage.input_tokens": 3, "gen_ai.usage.output_tokens": 4,
			"gen_ai.input.messages": []any{map[string]any{"role": "user", "parts": []any{map[string]any{"type": "text", "content": "hi"}}}},
			"gen_ai.output.messages": []any{map[string]any{"role": "assistant", "parts": []any{
				map[string]any{"type": "tool_call", "id": "c1", "name": "f", "arguments": map[string]any{"a": 1}}}}}},
			in: askHi, out: []event.Message{{Role: "assistant", ToolCalls: []event.ToolCall{{ID: "c1", Name: "f", Arguments: `{"a":1}`}}}}},
		{name: "OpenTelemetry up to 1.36, attributes", attrs: map[string]any{
			"gen_ai.system": "openai", "gen_ai.request.model": "m", "gen_ai.usage.prompt_tokens": 3, "gen_ai.usage.completion_tokens": 4,
			"gen_ai.prompt.0.role": "user", "gen_ai.prompt.0.content": "hi", "gen_ai.completion.0.role": "assistant", "gen_ai.completion.0.content": "ho",
			"gen_ai.completion.0.finish_reason": "stop"},
			in: askHi, out: sayStop},
		{name: "OpenTelemetry up to 1.36, span events", attrs: map[string]any{
			"gen_ai.system": "openai", "gen_ai.request.model": "m", "gen_ai.usage.input_tokens": 3, "gen_ai.usage.output_tokens": 4},
			more: `"events":[{"name":"gen_ai.user.message","attributes":` + jsonAttrs(map[string]any{"content": "hi"}) + `},` +
				`{"name":"gen_ai.choice","attributes":` + jsonAttrs(map[string]any{"index": 0, "finish_reason": "stop", "message": `{"role":"assistant","content":"ho"}`}) + `}]`,
			in: askHi, out: sayStop},
		{name: "OpenLIT span events", attrs: map[string]any{
			"gen_ai.operation.name": "chat", "gen_ai.system": "openai", "gen_ai.request.model": "m", "gen_ai.usage.input_tokens": "3", "gen_ai.usage.output_tokens": "4"},
			more: `"events":[{"name":"gen_ai.content.prompt","attributes":` + jsonAttrs(map[string]any{"gen_ai.prompt": "hi"}) + `},` +
				`{"name":"gen_ai.content.completion","attributes":` + jsonAttrs(map[string]any{"gen_ai.completion": "ho"}) + `}]`,
			in: askHi, out: sayHo},
		{name: "OpenInference", attrs: map[string]any{
			"openinference.span.kind": "LLM", "llm.provider": "openai", "llm.model_name": "m", "llm.token_count.prompt": 3, "llm.token_count.completion": 4,
			"llm.input_messages.0.message.role": "user", "llm.input_messages.0.message.content": "hi",
			"llm.output_messages.0.message.role": "assistant", "llm.output_messages.0.message.contents.0.message_content.type": "text",
			"llm.output_messages.0.message.contents.0.message_content.text": "ho"},
			in: askHi, out: sayHo},
		{name: "Traceloop", attrs: map[string]any{
			"llm.request.type": "chat", "gen_ai.system": "openai", "gen_ai.request.model": "m", "gen_ai.usage.prompt_tokens": 3, "gen_ai.usage.completion_tokens": 4,
			"gen_ai.prompt.0.content": "hi", "gen_ai.prompt.0.role": "user", "gen_ai.completion.0.content": "ho", "traceloop.entity.name": "x"},
			in: askHi, out: sayHo},
		{name: "Vercel AI, inner", attrs: map[string]any{
			"ai.operationId": "ai.generateText.doGenerate", "ai.model.provider": "openai", "ai.model.id": "m", "ai.usage.promptTokens": 3, "ai.usage.completionTokens": 4,
			"ai.prompt.messages": `[{"role":"user","content":[{"type":"text","text":"hi"}]}]`, "ai.response.text": "ho"},
			in: askHi, out: sayHo},
		{name: "Langfuse", attrs: map[string]any{
			"langfuse.observation.type": "generation", "langfuse.observation.model.name": "m", "gen_ai.system": "openai",
			"langfuse.observation.usage_details": `{"input":3,"output":4}`,
			"langfuse.observation.input":         `[{"role":"user","content":"hi"}]`, "langfuse.observation.output": `{"role":"assistant","content":"ho"}`},
			in: askHi, out: sayHo},
		{name: "pydantic-ai", attrs: map[string]any{
			"gen_ai.operation.name": "chat", "gen_ai.system": "openai", "gen_ai.request.model": "m", "gen_ai.usage.input_tokens": 3, "gen_ai.usage.output_tokens": 4,
			"events": `[{"event.name":"gen_ai.user.message","role":"user","content":"hi"},{"event.name":"gen_ai.choice","index":0,"message":{"role":"assistant","content":"ho"}}]`},
			in: askHi, out: sayHo},
		{name: "Vertex agent", attrs: map[string]any{
			"gen_ai.system": "openai", "gen_ai.request.model": "m", "gen_ai.usage.input_tokens": 3, "gen_ai.usage.output_tokens": 4,
			"gcp.vertex.agent.llm_request":  `{"model":"m","contents":[{"role":"user","parts":[{"text":"hi"}]}]}`,
			"gcp.vertex.agent.llm_response": `{"content":{"role":"model","parts":[{"text":"ho"}]},"finish_reason":"stop"}`},
			in: askHi, out: sayStop},
		{name: "MLflow", attrs: map[string]any{
			"mlflow.spanType": "CHAT_MODEL", "gen_ai.system": "openai", "gen_ai.request.model": "m", "gen_ai.usage.input_tokens": 3, "gen_ai.usage.output_tokens": 4,
			"mlflow.spanInputs": `{"messages":[{"role":"user","content":"hi"}]}`, "mlflow.spanOutputs": `"ho"`},
			in: askHi, out: sayHo},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHarness(t)
			got := h.events(t, "/v1/traces", spanJSON(false, nil, tt.attrs, tt.more))
			p := body[event.Prompt](t, one(t, got, event.PromptRendered))
			if d := cmp.Diff(tt.in, p.Messages); d != "" {
				t.Errorf("prompt: %s", d)
			}
			e := one(t, got, event.ModelCallCompleted)
			r := body[event.Response](t, e)
			if d := cmp.Diff(tt.out, r.Messages); d != "" {
				t.Errorf("answer: %s", d)
			}
			if r.Provider != "openai" || r.ModelAsked != "m" || r.LatencyMs != 250 || e.Facts.Model != "m" {
				t.Errorf("facts: %s", e.Data)
			}
			if d := cmp.Diff(&event.Usage{Input: 3, Output: 4, Total: 7}, r.Usage); d != "" {
				t.Errorf("usage: %s", d)
			}
			h.checkFates(t)
		})
	}
}

// A message without text is a message.
func TestToolCallInOldChoice(t *testing.T) {
	h := newHarness(t)
	got := h.events(t, "/v1/traces", spanJSON(false, nil, map[string]any{"gen_ai.operation.name": "chat"}, `"events":[{"name":"gen_ai.choice","attributes":`+
		jsonAttrs(map[string]any{"message": `{"role":"assistant","tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}]}`})+`},`+
		`{"name":"gen_ai.tool.message","attributes":`+jsonAttrs(map[string]any{"id": "c", "content": `[{"type":"text","text":"42"}]`})+`}]`))
	r := body[event.Response](t, one(t, got, event.ModelCallCompleted))
	if d := cmp.Diff([]event.Message{{Role: "assistant", ToolCalls: []event.ToolCall{{ID: "c", Name: "f", Arguments: "{}"}}}}, r.Messages); d != "" {
		t.Error(d)
	}
	p := body[event.Prompt](t, one(t, got, event.PromptRendered))
	if d := cmp.Diff([]event.Message{{Role: "tool", Content: "42", ToolCall: "c"}}, p.Messages); d != "" {
		t.Error(d)
	}
}

func TestDeliveryWrapsCalls(t *testing.T) {
	h := newHarness(t)
	got := h.events(t, "/v1/traces", spanJSON(true, nil, map[string]any{
		"ai.operationId": "ai.generateText", "ai.model.id": "m", "ai.usage.promptTokens": 3, "ai.prompt": `{"system":"s","prompt":"hi"}`, "ai.response.text": "ho"}, ""))
	r := body[event.Response](t, one(t, got, event.ResponseDelivered))
	if d := cmp.Diff(sayHo, r.Messages); d != "" || r.Usage != nil {
		t.Errorf("%s %+v", d, r.Usage)
	}
	p := body[event.Prompt](t, one(t, got, event.PromptRendered))
	if d := cmp.Diff([]event.Message{{Role: "system", Content: "s"}, {Role: "user", Content: "hi"}}, p.Messages); d != "" {
		t.Error(d)
	}
	one(t, got, event.RequestStarted)
	one(t, got, event.RequestClosed)
}

func TestRetrieval(t *testing.T) {
	score, updated := 0.5, time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	doc := event.Document{ID: "d1", Rank: 1, Score: &score, Text: "passage"}
	dated := doc
	dated.Updated, dated.Version = &updated, "7"
	tests := []struct {
		name  string
		attrs map[string]any
		more  string
		want  event.Retrieval
	}{
		{"OpenInference", map[string]any{"openinference.span.kind": "RETRIEVER", "input.value": "q",
			"retrieval.documents.0.document.id": "d1", "retrieval.documents.0.document.score": 0.5, "retrieval.documents.0.document.content": "passage",
			"retrieval.documents.0.document.metadata": `{"version":"7","updated_at":"2026-01-02T00:00:00Z"}`}, "",
			event.Retrieval{Query: "q", Documents: []event.Document{dated}}},
		{"OpenTelemetry", map[string]any{"gen_ai.operation.name": "retrieval", "gen_ai.data_source.id": "kb", "gen_ai.retrieval.query.text": "q",
			"gen_ai.retrieval.documents": `[{"id":"d1","score":0.5,"content":"passage"}]`}, "",
			event.Retrieval{Source: "kb", Query: "q", Documents: []event.Document{doc}}},
		{"Looptape", map[string]any{"looptape.retrieval.query": "q", "looptape.retrieval.index_version": "i9", "looptape.retrieval.index_time": "2026-01-02T00:00:00Z",
			"looptape.retrieval.k": 4, "looptape.retrieval.documents.0.id": "d1", "looptape.retrieval.documents.0.text": "passage", "looptape.retrieval.documents.0.score": 0.5,
			"looptape.retrieval.documents.0.updated": 1767312000, "looptape.retrieval.documents.0.version": "7"}, "",
			event.Retrieval{Query: "q", IndexVersion: "i9", IndexTime: &updated, K: 4, Documents: []event.Document{dated}}},
		{"Traceloop vector store", map[string]any{"db.system": "chroma", "db.vector.query.top_k": 4},
			`"events":[{"name":"db.query.result","attributes":` + jsonAttrs(map[string]any{"db.query.result.id": "d1", "db.query.result.score": 0.5, "db.query.result.document": "passage"}) + `}]`,
			event.Retrieval{Source: "chroma", K: 4, Documents: []event.Document{doc}}},
		{"count only", map[string]any{"gen_ai.operation.name": "retrieval", "retrieval.documents.count": 1}, "", event.Retrieval{K: 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHarness(t)
			e := one(t, h.events(t, "/v1/traces", spanJSON(false, nil, tt.attrs, tt.more)), event.RetrievalCompleted)
			got := body[event.Retrieval](t, e)
			tt.want.LatencyMs, got.Attrs = 250, nil
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
			if e.Facts.RetrieverVersion != tt.want.IndexVersion {
				t.Errorf("retriever version %q", e.Facts.RetrieverVersion)
			}
		})
	}
}

func TestActions(t *testing.T) {
	tests := []struct {
		name         string
		attrs        map[string]any
		tool, call   string
		args, result string
	}{
		{"OpenTelemetry", map[string]any{"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "f", "gen_ai.tool.call.id": "c",
			"gen_ai.tool.call.arguments": `{"a":1}`, "gen_ai.tool.call.result": "done"}, "f", "c", `{"a":1}`, `"done"`},
		{"OpenInference", map[string]any{"openinference.span.kind": "TOOL", "tool.name": "f", "input.value": `{"a":1}`, "output.value": "done"}, "f", "", `{"a":1}`, `"done"`},
		{"Vercel AI", map[string]any{"ai.operationId": "ai.toolCall", "ai.toolCall.name": "f", "ai.toolCall.id": "c", "ai.toolCall.args": `{"a":1}`, "ai.toolCall.result": `"done"`}, "f", "c", `{"a":1}`, `"done"`},
		{"pydantic-ai", map[string]any{"gen_ai.tool.name": "f", "gen_ai.tool.call.id": "c", "tool_arguments": `{"a":1}`, "tool_response": "done"}, "f", "c", `{"a":1}`, `"done"`},
		{"Traceloop", map[string]any{"traceloop.span.kind": "tool", "tool.name": "f", "traceloop.entity.input": `{"a":1}`, "traceloop.entity.output": "done"}, "f", "", `{"a":1}`, `"done"`},
		{"Langfuse", map[string]any{"langfuse.observation.type": "tool", "langfuse.observation.input": `{"a":1}`, "langfuse.observation.output": "done"}, "the span", "", `{"a":1}`, `"done"`},
		{"step", map[string]any{"traceloop.span.kind": "workflow", "traceloop.entity.input": `{"a":1}`, "traceloop.entity.output": "done", "gen_ai.usage.input_tokens": 7}, "the span", "", `{"a":1}`, `"done"`},
		{"agent", map[string]any{"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "f", "input.value": `{"a":1}`, "output.value": "done"}, "f", "", `{"a":1}`, `"done"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHarness(t)
			a := body[event.Action](t, one(t, h.events(t, "/v1/traces", spanJSON(false, nil, tt.attrs, "")), event.ActionExecuted))
			if a.Tool != tt.tool || a.Call != tt.call || string(a.Args) != tt.args || string(a.Result) != tt.result || a.LatencyMs != 250 {
				t.Errorf("%+v", a)
			}
			if tt.name == "step" && a.Attrs["gen_ai.usage.input_tokens"] != 7.0 {
				t.Errorf("the tokens of a step were lost: %v", a.Attrs)
			}
		})
	}
}

func TestSafetyAndScores(t *testing.T) {
	h := newHarness(t)
	e := one(t, h.events(t, "/v1/traces", spanJSON(false, nil, map[string]any{"looptape.guardrail.component": "pii", "looptape.guardrail.action": "block",
		"looptape.guardrail.score": 0.9, "looptape.guardrail.category": "email", "looptape.guardrail.matched": "a@b"}, "")), event.GuardrailResult)
	if s := body[event.Safety](t, e); s.Component != "pii" || s.Enforced != "block" || *s.Score != 0.9 || s.Category != "email" || s.Matched != "a@b" {
		t.Errorf("%+v", s)
	}
	e = one(t, h.events(t, "/v1/traces", spanJSON(false, nil, map[string]any{"openinference.span.kind": "GUARDRAIL", "x": "y"}, "")), event.GuardrailResult)
	if s := body[event.Safety](t, e); s.Component != "the span" || s.Attrs["x"] != "y" {
		t.Errorf("%+v", s)
	}
	eval := map[string]any{"gen_ai.evaluation.name": "relevance", "gen_ai.evaluation.score.value": 0.25, "gen_ai.evaluation.score.label": "poor", "gen_ai.evaluation.explanation": "because"}
	check := func(e event.Event) {
		t.Helper()
		s := body[event.Score](t, e)
		if s.Metric != "relevance" || s.Evaluator != "relevance" || *s.Value != 0.25 || s.Label != "poor" || s.Explanation != "because" || e.Facts.Evaluator != "relevance" || e.Facts.Request != testTrace {
			t.Errorf("%+v %+v", s, e.Facts)
		}
	}
	check(one(t, h.events(t, "/v1/traces", spanJSON(false, nil, eval, "")), event.EvaluationResult))
	check(one(t, h.events(t, "/v1/traces", spanJSON(false, nil, map[string]any{"gen_ai.operation.name": "chat"},
		`"events":[{"name":"gen_ai.evaluation.result","attributes":`+jsonAttrs(eval)+`}]`)), event.EvaluationResult))
	withName := maps.Clone(eval)
	withName["event.name"] = "gen_ai.evaluation.result"
	check(one(t, h.events(t, "/v1/logs", logJSON(withName, nil)), event.EvaluationResult))

	got := h.events(t, "/v1/traces", spanJSON(false, nil, map[string]any{"openinference.span.kind": "LLM",
		"annotations.0.annotation.name": "thumbs", "annotations.0.annotation.score": 1.0, "annotations.0.annotation.annotator_kind": "HUMAN",
		"annotations.1.annotation.name": "toxicity", "annotations.1.annotation.score": 0.5, "annotations.1.annotation.annotator_kind": "LLM"}, ""))
	if f := body[event.Feedback](t, one(t, got, event.FeedbackRecorded)); f.Label != "thumbs" || *f.Value != 1 {
		t.Errorf("%+v", f)
	}
	if s := body[event.Score](t, one(t, got, event.EvaluationResult)); s.Metric != "toxicity" || *s.Value != 0.5 {
		t.Errorf("%+v", s)
	}
	h.checkFates(t)
}

func TestRoot(t *testing.T) {
	h := newHarness(t)
	got := h.events(t, "/v1/traces", spanJSON(true,
		map[string]any{"service.name": "shop", "service.version": "v1", "deployment.environment.name": "prod", "looptape.segment.region": "eu", "host.name": "h1"},
		map[string]any{"app.request.ref": "order-1", "looptape.request": "r-1", "session.id": "s-2", "gen_ai.conversation.id": "s-1", "user.id": "alice@example.com",
			"looptape.release": "v2", "feature_flag.result.variant": "candidate", "looptape.propensity": 0.5, "looptape.stage": "canary", "looptape.salt": "x",
			"looptape.segment.tier": "gold", "deployment.id": "d1", "http.route": "/ask"},
		`"status":{"code":2,"message":"429 Too Many Requests"},"events":[{"name":"exception","attributes":`+jsonAttrs(map[string]any{"exception.type": "RateLimit", "exception.message": "slow down"})+`}]`))
	half := 0.5
	want := event.Facts{
		Tenant: "default", App: "shop", Environment: "prod", Request: testTrace, Trace: testTrace, Span: testSpan, Session: "s-1",
		Subject: pseudonyms{}.Pseudonym("default", "alice@example.com"), Release: "v2", Deployment: "d1", Arm: "candidate", Unit: "s-1", UnitKind: "conversation",
		Propensity: &half, Stage: "canary", Salt: "x", Privacy: "P3", Retention: "hot", ReceivedTime: testNow, Segments: map[string]string{"region": "eu", "tier": "gold"},
	}
	start := one(t, got, event.RequestStarted)
	if d := cmp.Diff(want, start.Facts); d != "" {
		t.Error(d)
	}
	p := body[event.Prompt](t, start)
	res, _ := p.Attrs["otel.resource"].(map[string]any)
	if p.Name != "the span" || p.Attrs["http.route"] != "/ask" || p.Attrs["otel.resource.service.version"] != "v1" || p.Attrs["session.id"] != "s-2" || res["host.name"] != "h1" {
		t.Errorf("%s", start.Data)
	}
	if a := one(t, got, event.UnitAssigned); a.Facts.Arm != "candidate" || a.Facts.Unit != "s-1" {
		t.Errorf("%+v", a.Facts)
	}
	end := one(t, got, event.RequestClosed)
	r := body[event.Response](t, end)
	if d := cmp.Diff(event.Response{LatencyMs: 250, Error: &event.Failure{Type: "RateLimit", Message: "429 Too Many Requests", Status: 429}}, r); d != "" {
		t.Error(d)
	}
	if !end.Time.After(start.Time) {
		t.Error("closed before it started")
	}
	var bound []string
	for _, e := range ofType(got, event.AliasBound) {
		a := body[event.Alias](t, e)
		if a.Request != testTrace || a.Kind != "reference" {
			t.Errorf("%+v", a)
		}
		bound = append(bound, a.Alias)
	}
	if len(bound) != 2 {
		t.Errorf("aliases %v", bound)
	}
	for _, e := range got {
		if strings.Contains(string(e.Data), "alice@") {
			t.Errorf("the user's id is in %s", e.Type)
		}
	}
	// The same again: its aliases are known, its ids the same.
	again := h.events(t, "/v1/traces", spanJSON(true, nil, map[string]any{"app.request.ref": "order-1"}, ""))
	if len(ofType(again, event.AliasBound)) != 0 || one(t, again, event.RequestStarted).ID != start.ID {
		t.Error("second export")
	}
}

func TestRootWithContent(t *testing.T) {
	h := newHarness(t)
	got := h.events(t, "/v1/traces", spanJSON(true, nil, map[string]any{"openinference.span.kind": "CHAIN", "input.value": "hi", "output.value": "ho"}, ""))
	if p := body[event.Prompt](t, one(t, got, event.RequestStarted)); cmp.Diff(askHi, p.Messages) != "" {
		t.Errorf("%+v", p)
	}
	if r := body[event.Response](t, one(t, got, event.ResponseDelivered)); cmp.Diff(sayHo, r.Messages) != "" {
		t.Errorf("%+v", r)
	}
	for _, kind := range []string{"TOOL", "RETRIEVER", "LLM", "GUARDRAIL", "EVALUATOR"} {
		got := h.events(t, "/v1/traces", spanJSON(true, nil, map[string]any{"openinference.span.kind": kind}, ""))
		one(t, got, event.RequestStarted)
		one(t, got, event.RequestClosed)
		if len(got) != 3 {
			t.Errorf("%s: %d events", kind, len(got))
		}
	}
}

func TestCallFacts(t *testing.T) {
	h := newHarness(t)
	got := h.events(t, "/v1/traces", spanJSON(false, nil, map[string]any{
		"gen_ai.operation.name": "chat", "gen_ai.request.model": "asked", "gen_ai.response.model": "given", "gen_ai.response.id": "resp-1", "gen_ai.request.temperature": 0.5,
		"gen_ai.response.finish_reasons": []any{"stop"}, "gen_ai.request.stream": true, "looptape.time_to_first_token_ms": 12.5, "gen_ai.usage.cost": 0.002,
		"gen_ai.usage.cache_read.input_tokens": 9, "error.type": "RateLimitError", "gen_ai.prompt.name": "greet", "gen_ai.prompt.version": "3",
		"gen_ai.input.messages": "hi", "custom": "kept", "gen_ai.tool.name": "stray"},
		`"status":{"code":2,"message":"429 Rate limit reached"}`))
	e := one(t, got, event.ModelCallCompleted)
	r := body[event.Response](t, e)
	attrs := r.Attrs
	r.Attrs = nil
	want := event.Response{Operation: "chat", ModelAsked: "asked", ModelGiven: "given", Finish: []string{"stop"}, Usage: &event.Usage{Cached: 9}, LatencyMs: 250, CostUSD: 0.002,
		Streaming: true, FirstMs: 12.5, Error: &event.Failure{Type: "RateLimitError", Message: "429 Rate limit reached", Status: 429}}
	if d := cmp.Diff(want, r); d != "" {
		t.Error(d)
	}
	if attrs["custom"] != "kept" || attrs["gen_ai.tool.name"] != "stray" || attrs["gen_ai.request.temperature"] != nil || attrs["otel.parent"] != "1112131415161718" {
		t.Errorf("attributes %v", attrs)
	}
	if e.Facts.Response != "resp-1" || e.Facts.Model != "given" || e.Facts.PromptVersion != "3" {
		t.Errorf("%+v", e.Facts)
	}
	p := body[event.Prompt](t, one(t, got, event.PromptRendered))
	if p.Name != "greet" || p.Version != "3" || p.Params["temperature"] != 0.5 || cmp.Diff(askHi, p.Messages) != "" {
		t.Errorf("%+v", p)
	}
	if a := body[event.Alias](t, one(t, got, event.AliasBound)); a != (event.Alias{Alias: "resp-1", Kind: "response", Request: testTrace}) {
		t.Errorf("%+v", a)
	}
}

func TestUnknown(t *testing.T) {
	h := newHarness(t)
	e := one(t, h.events(t, "/v1/traces", spanJSON(false, map[string]any{"service.name": "shop"}, map[string]any{"db.statement": "select 1"}, "")), event.EventQuarantined)
	q := body[event.Quarantined](t, e)
	if q.Reason != "unknown_span" || q.Kind != kindSpan || !strings.Contains(string(q.Raw), "select 1") || !strings.Contains(string(q.Raw), "shop") {
		t.Errorf("%s", e.Data)
	}
	// What lies in quarantine can be sent again as it is.
	if w := h.post("/v1/traces", typeJSON, q.Raw); w.Code != 200 {
		t.Errorf("raw form: %d %s", w.Code, w.Body)
	}
	if again := one(t, h.tape.take(t), event.EventQuarantined); again.ID != e.ID {
		t.Error("another id for the same span")
	}
	e = one(t, h.events(t, "/v1/logs", logJSON(map[string]any{"a": "b"}, "plain line")), event.EventQuarantined)
	if q := body[event.Quarantined](t, e); q.Reason != "unknown_log" || !strings.Contains(string(q.Raw), "plain line") {
		t.Errorf("%s", e.Data)
	}
	noTrace := strings.Replace(spanJSON(true, nil, map[string]any{"user.id": "alice"}, ""), testTrace, "", 1)
	e = one(t, h.events(t, "/v1/traces", noTrace), event.EventQuarantined)
	if q := body[event.Quarantined](t, e); q.Reason != "no_trace_id" {
		t.Errorf("%s", e.Data)
	}
	if h.value(kindSpan, "quarantined") != 3 || h.value(kindLog, "quarantined") != 1 {
		t.Error("fates")
	}
	h.checkFates(t)
}

func TestLogMessages(t *testing.T) {
	h := newHarness(t)
	record := func(name string, b any) string {
		s := logJSON(map[string]any{"event.name": name, "gen_ai.system": "openai"}, b)
		s = s[strings.Index(s, `"logRecords":[`)+len(`"logRecords":[`):]
		return s[:strings.LastIndex(s, `]}]}]}`)]
	}
	export := `{"resourceLogs":[{"scopeLogs":[{"logRecords":[` + strings.Join([]string{
		record("gen_ai.system.message", map[string]any{"content": "be kind"}),
		record("gen_ai.user.message", map[string]any{"content": "hi"}),
		record("gen_ai.user.message", map[string]any{"content": "hi"}),
		record("gen_ai.assistant.message", map[string]any{"tool_calls": []any{map[string]any{"id": "c", "type": "function", "function": map[string]any{"name": "f", "arguments": "{}"}}}}),
		record("gen_ai.tool.message", map[string]any{"id": "c", "content": "42"}),
		record("gen_ai.choice", map[string]any{"index": 0, "finish_reason": "stop", "message": map[string]any{"content": "ho"}}),
	}, ",") + `]}]}]}`
	got := h.events(t, "/v1/logs", export)
	var in []event.Message
	for i, e := range ofType(got, event.PromptRendered) {
		p := body[event.Prompt](t, e)
		if p.Order != int64(i) || e.Facts.Span != testSpan {
			t.Errorf("message %d has place %d", i, p.Order)
		}
		in = append(in, p.Messages...)
	}
	want := []event.Message{{Role: "system", Content: "be kind"}, {Role: "user", Content: "hi"}, {Role: "user", Content: "hi"},
		{Role: "assistant", ToolCalls: []event.ToolCall{{ID: "c", Name: "f", Arguments: "{}"}}}, {Role: "tool", Content: "42", ToolCall: "c"}}
	if d := cmp.Diff(want, in); d != "" {
		t.Error(d)
	}
	r := body[event.Response](t, one(t, got, event.ModelCallCompleted))
	if d := cmp.Diff(sayStop, r.Messages); d != "" {
		t.Error(d)
	}
	// Again: the same ids and places, the twins told apart.
	again := h.events(t, "/v1/logs", export)
	for i := range got {
		if got[i].ID != again[i].ID || string(got[i].Data) != string(again[i].Data) {
			t.Errorf("event %d changed", i)
		}
	}
	details := h.events(t, "/v1/logs", logJSON(map[string]any{"event.name": "gen_ai.client.inference.operation.details", "gen_ai.operation.name": "chat",
		"gen_ai.input.messages": `[{"role":"user","content":"hi"}]`, "gen_ai.output.messages": `[{"role":"assistant","content":"ho"}]`, "gen_ai.request.top_p": 1}, nil))
	if p := body[event.Prompt](t, one(t, details, event.PromptRendered)); cmp.Diff(askHi, p.Messages) != "" || p.Params["top_p"] != 1.0 {
		t.Errorf("%+v", p)
	}
	if r := body[event.Response](t, one(t, details, event.ModelCallCompleted)); cmp.Diff(sayHo, r.Messages) != "" {
		t.Errorf("%+v", r)
	}
	flag := one(t, h.events(t, "/v1/logs", logJSON(map[string]any{"event.name": "feature_flag.evaluation", "feature_flag.key": "rag-v2",
		"feature_flag.result.variant": "candidate", "feature_flag.context.id": "u1"}, nil)), event.UnitAssigned)
	if flag.Facts.Arm != "candidate" || flag.Facts.Unit != "u1" || !strings.Contains(string(flag.Data), "rag-v2") {
		t.Errorf("%+v %s", flag.Facts, flag.Data)
	}
	fb := body[event.Feedback](t, one(t, h.events(t, "/v1/logs", logJSON(map[string]any{"event.name": "looptape.feedback", "looptape.feedback.thumbs": "down"}, nil)), event.FeedbackRecorded))
	if fb.Kind != "thumbs" || *fb.Value != 0 {
		t.Errorf("%+v", fb)
	}
	h.checkFates(t)
}

func TestLogsWithoutTrace(t *testing.T) {
	h := newHarness(t)
	noTrace := func(attrs map[string]any) string {
		return strings.NewReplacer(testTrace, "", testSpan, "").Replace(logJSON(attrs, nil))
	}
	e := one(t, h.events(t, "/v1/logs", noTrace(map[string]any{"event.name": "gen_ai.evaluation.result", "gen_ai.evaluation.name": "x", "gen_ai.response.id": "resp-1"})), event.EvaluationResult)
	if e.Facts.Request != "" || e.Facts.Response != "resp-1" {
		t.Errorf("%+v", e.Facts)
	}
	e = one(t, h.events(t, "/v1/logs", noTrace(map[string]any{"event.name": "gen_ai.user.message"})), event.EventQuarantined)
	if q := body[event.Quarantined](t, e); q.Reason != "no_trace_id" {
		t.Errorf("%+v", q)
	}
}
