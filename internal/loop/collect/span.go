package collect

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/looptape/looptape/internal/loop/event"
)

// What a span stands for.
type work int

const (
	workNone      work = iota // nothing this package knows
	workModel                 // a call of a model
	workDelivery              // a wrapper around model calls whose output the caller got
	workRetrieval             //
	workTool                  // a tool ran
	workStep                  // an agent, chain, workflow or task: a step of the application
	workSafety                // a guardrail looked at content
	workScore                 // an evaluator gave a value
	workPrompt                // a prompt was rendered
)

// classify tells what a span stands for: by what it says it is, else by what it
// carries.
func (r *reading) classify() work {
	switch strings.ToLower(r.kind) {
	case "model":
		return workModel
	case "retrieval":
		return workRetrieval
	case "action", "tool":
		return workTool
	case "safety", "guardrail":
		return workSafety
	case "score", "evaluation":
		return workScore
	case "prompt":
		return workPrompt
	case "step":
		return workStep
	}
	switch r.op {
	case "chat", "text_completion", "completion", "generate_content", "embeddings", "embedding":
		return workModel
	case "retrieval":
		return workRetrieval
	case "execute_tool":
		return workTool
	case "invoke_agent", "create_agent", "invoke_workflow":
		return workStep
	}
	switch strings.ToUpper(r.oi) {
	case "LLM", "EMBEDDING":
		return workModel
	case "RETRIEVER", "RERANKER":
		return workRetrieval
	case "TOOL":
		return workTool
	case "GUARDRAIL":
		return workSafety
	case "EVALUATOR":
		return workScore
	case "PROMPT":
		return workPrompt
	case "AGENT", "CHAIN":
		return workStep
	}
	switch {
	case r.vercel == "":
	case strings.HasSuffix(r.vercel, ".doGenerate"), strings.HasSuffix(r.vercel, ".doStream"), strings.HasSuffix(r.vercel, ".doEmbed"):
		return workModel
	case strings.HasSuffix(r.vercel, "toolCall"):
		return workTool
	default:
		return workDelivery
	}
	switch strings.ToLower(r.langfuse) {
	case "generation", "embedding":
		return workModel
	case "tool":
		return workTool
	case "retriever":
		return workRetrieval
	case "guardrail":
		return workSafety
	case "evaluator":
		return workScore
	case "agent", "chain":
		return workStep
	}
	switch strings.ToUpper(r.mlflow) {
	case "LLM", "CHAT_MODEL", "EMBEDDING":
		return workModel
	case "RETRIEVER", "RERANKER":
		return workRetrieval
	case "TOOL":
		return workTool
	case "AGENT", "CHAIN", "WORKFLOW", "TASK":
		return workStep
	}
	switch r.traceloop {
	case "tool":
		return workTool
	case "workflow", "task", "agent":
		return workStep
	}
	switch {
	case r.llmType == "rerank":
		return workRetrieval
	case r.llmType != "":
		return workModel
	case r.evalName != "" || r.evaluator != "":
		return workScore
	case r.safetyish:
		return workSafety
	case r.tool != "" || len(r.args) > 0 && len(r.result) > 0:
		return workTool
	case r.vectorDB, r.retrievalish:
		return workRetrieval
	case r.agentName != "":
		return workStep
	case r.modelish:
		return workModel
	case r.langfuse != "":
		return workStep
	}
	return workNone
}

// A spanWriter turns the spans of one request into events. It is used by one
// goroutine.
type spanWriter struct {
	b    *batch
	base reading // of the resource
	r    reading

	resource, scope []byte // JSON of what the resource and the scope say besides facts
	source          string

	span     ptrace.Span
	trace    string
	id       string
	ordinals map[string]int
	events   []byte // span events that were not understood, JSON list
	failure  *event.Failure
}

// withResource reads a resource, whose facts are those of all its spans.
func (w *spanWriter) withResource(res pcommon.Resource) {
	w.base.c, w.r.c = w.b.c, w.b.c
	w.base.reset(nil)
	w.base.readAll(res.Attributes())
	w.resource = w.base.rest(0, w.b.tenant, nil)
	w.source = "otlp:" + w.base.app.value
}

func (w *spanWriter) withScope(s pcommon.InstrumentationScope) { w.scope = appendScope(w.scope[:0], s) }

// appendScope appends what is known of an instrumentation scope, nothing when it
// is empty.
func appendScope(dst []byte, s pcommon.InstrumentationScope) []byte {
	if s.Name() == "" && s.Attributes().Len() == 0 {
		return dst
	}
	dst = appendString(append(dst, `{"name":`...), s.Name())
	if s.Version() != "" {
		dst = appendString(append(dst, `,"version":`...), s.Version())
	}
	if s.Attributes().Len() > 0 {
		dst = appendMap(append(dst, `,"attributes":`...), s.Attributes())
	}
	return append(dst, '}')
}

// write turns one span into events. The error ends the whole request; errTooLarge
// concerns this span only.
func (w *spanWriter) write(span ptrace.Span, raw func() (json.RawMessage, error)) (fate, error) {
	w.span = span
	trace, id := span.TraceID(), span.SpanID()
	w.trace, w.id = hexID(trace[:]), hexID(id[:])
	w.failure, w.events = nil, w.events[:0]
	clear(w.ordinals)
	r := &w.r
	r.reset(&w.base)
	r.readAll(span.Attributes())
	w.readEvents()
	r.settle()
	r.facts.Trace, r.facts.Span, r.facts.Request = w.trace, w.id, w.trace
	r.facts.Subject = w.b.c.cfg.Pseudonyms.Pseudonym(w.b.tenant, r.user)
	if w.trace == "" || w.id == "" {
		return w.quarantine("no_trace_id", "The span has no trace id or no span id, so it belongs to no request.", raw)
	}
	kind := r.classify()
	root := span.ParentSpanID().IsEmpty()
	if kind == workNone && !root && len(r.annotations) == 0 {
		return w.quarantine("unknown_span", "The span is neither the root of a request nor of a kind that is known.", raw)
	}
	w.failure = w.readFailure()
	if err := w.bindings(); err != nil {
		return 0, err
	}
	var err error
	switch {
	case root && (kind == workStep || kind == workNone):
		err = w.root()
	case root:
		if err = w.start(0, nil); err == nil {
			err = w.close()
		}
	}
	if err != nil {
		return 0, err
	}
	switch kind {
	case workModel, workDelivery:
		err = w.model(kind)
	case workRetrieval:
		err = w.retrieval()
	case workTool:
		err = w.action(r.tool, gTool)
	case workSafety:
		err = w.guardrail()
	case workScore:
		err = w.score()
	case workPrompt:
		err = w.prompt(true)
	case workStep:
		if !root {
			err = w.action(cmp.Or(r.agentName, span.Name()), 0)
		}
	case workNone:
	}
	if err == nil {
		err = w.feedback()
	}
	return mapped, err
}

// emit adds one event of the span. Its id follows from the span, the type and
// how many of the type the span gave before.
func (w *spanWriter) emit(typ string, at time.Time, body []byte, facts *event.Facts) error {
	if w.ordinals == nil {
		w.ordinals = map[string]int{}
	}
	n := w.ordinals[typ]
	w.ordinals[typ] = n + 1
	e := event.Event{
		ID:   event.DeriveID(w.b.tenant, w.trace, w.id, typ, strconv.Itoa(n)),
		Type: typ, Source: w.source, Time: at, Data: body, Facts: *facts,
		TraceParent: "00-" + w.trace + "-" + w.id + "-01",
	}
	return w.b.add(&e, w.trace)
}

// attributes is what the span says and a body that holds the groups in has does
// not: its other attributes, what it is called, where it hangs. One event of each
// span carries them.
func (w *spanWriter) attributes(has group) []byte {
	return w.r.rest(has, w.b.tenant, func(dst []byte) []byte {
		if name := w.span.Name(); name != "" {
			dst = appendString(field(dst, "otel.name"), name)
		}
		if parent := w.span.ParentSpanID(); !parent.IsEmpty() {
			dst = appendString(field(dst, "otel.parent"), hexID(parent[:]))
		}
		if k := w.span.Kind(); k != ptrace.SpanKindUnspecified && k != ptrace.SpanKindInternal {
			dst = appendString(field(dst, "otel.kind"), k.String())
		}
		if s := w.span.TraceState().AsRaw(); s != "" {
			dst = appendString(field(dst, "otel.tracestate"), s)
		}
		if s := w.span.Status(); s.Message() != "" && (w.failure == nil || w.failure.Message != s.Message()) {
			dst = appendString(field(dst, "otel.status"), s.Message())
		}
		if len(w.scope) > 0 {
			dst = append(field(dst, "otel.scope"), w.scope...)
		}
		if len(w.resource) > 0 {
			dst = append(field(dst, "otel.resource"), w.resource...)
		}
		if len(w.events) > 0 {
			dst = append(append(field(dst, "otel.events"), w.events...), ']')
		}
		if links := w.span.Links(); links.Len() > 0 {
			dst = append(field(dst, "otel.links"), '[')
			for i, l := range links.All() {
				if i > 0 {
					dst = append(dst, ',')
				}
				trace, id := l.TraceID(), l.SpanID()
				dst = appendString(append(dst, `{"trace":`...), hexID(trace[:]))
				dst = appendString(append(dst, `,"span":`...), hexID(id[:]))
				if l.Attributes().Len() > 0 {
					dst = appendMap(append(dst, `,"attributes":`...), l.Attributes())
				}
				dst = append(dst, '}')
			}
			dst = append(dst, ']')
		}
		return dst
	})
}

// start emits request.started and, when the assignment was logged,
// unit.assigned.
func (w *spanWriter) start(has group, in []event.Message) error {
	body, err := encode(event.Prompt{Name: w.span.Name(), Messages: in})
	if err != nil {
		return fmt.Errorf("encode request.started: %w", err)
	}
	if has != 0 {
		body = withField(body, "attributes", w.attributes(has))
	}
	if err := w.emit(event.RequestStarted, w.began(), body, &w.r.facts); err != nil {
		return err
	}
	if w.r.facts.Propensity == nil {
		return nil
	}
	return w.emit(event.UnitAssigned, w.began(), []byte("{}"), &w.r.facts)
}

// close emits request.closed: latency and error of the whole request.
func (w *spanWriter) close() error {
	body, err := encode(event.Response{LatencyMs: w.latencyMs(), Error: w.failure})
	if err != nil {
		return fmt.Errorf("encode request.closed: %w", err)
	}
	return w.emit(event.RequestClosed, w.ended(), body, &w.r.facts)
}

// root emits the events of a root span that is nothing more than that.
func (w *spanWriter) root() error {
	r := &w.r
	in := r.messages("user", r.input)
	out := r.messages("assistant", r.output)
	if len(out) > 0 {
		body, err := encode(event.Response{Messages: out})
		if err != nil {
			return fmt.Errorf("encode response.delivered: %w", err)
		}
		if err := w.emit(event.ResponseDelivered, w.ended(), body, &r.facts); err != nil {
			return err
		}
	}
	if err := w.start(gError, in); err != nil {
		return err
	}
	return w.close()
}

// model emits prompt.rendered when the span carries messages, and
// model.call.completed (or response.delivered, for a wrapper around calls).
func (w *spanWriter) model(kind work) error {
	r := &w.r
	has := gModel | gError
	in := r.inputs()
	if len(in) > 0 || r.template.name != "" || r.template.text != "" {
		if err := w.renderPrompt(in, false); err != nil {
			return err
		}
		has |= gPrompt | gParam
	}
	out := r.completions.messages("assistant")
	if len(out) == 0 {
		out = r.messages("assistant", r.output)
	}
	if len(out) == 0 {
		out = r.choices
	}
	finish := r.finish
	if len(finish) == 0 {
		for _, m := range out {
			if m.Finish != "" {
				finish = append(finish, m.Finish)
			}
		}
	}
	resp := event.Response{
		Provider: r.provider, Operation: r.op, ModelAsked: r.modelAsked, ModelGiven: r.modelGiven, Route: r.route, Finish: finish,
		LatencyMs: w.latencyMs(), CostUSD: r.cost, Streaming: r.streaming, FirstMs: r.firstMs, Error: w.failure,
		Citations: r.citations, Messages: out,
	}
	if resp.Operation == "" && r.llmType != "" {
		resp.Operation = r.llmType
	}
	if t, err := time.Parse(time.RFC3339Nano, r.firstAt); err == nil && resp.FirstMs == 0 && t.After(w.began()) {
		resp.FirstMs, resp.Streaming = float64(t.Sub(w.began()))/1e6, true
	}
	if u := r.usage; u != (event.Usage{}) {
		if u.Total == 0 {
			u.Total = u.Input + u.Output
		}
		resp.Usage = &u
	}
	typ := event.ModelCallCompleted
	if kind == workDelivery {
		// The calls inside report usage and cost; here they would count twice.
		typ, resp.Usage, resp.CostUSD = event.ResponseDelivered, nil, 0
	}
	body, err := encode(resp)
	if err != nil {
		return fmt.Errorf("encode %s: %w", typ, err)
	}
	return w.emit(typ, w.ended(), withField(body, "attributes", w.attributes(has)), &r.facts)
}

// inputs are the messages that a model got.
func (r *reading) inputs() []event.Message {
	in := r.prompts.messages("user")
	if len(in) == 0 {
		in = r.messages("user", r.input)
	}
	if v, ok := r.pick(r.system); ok {
		var m messages
		if m.read(v, "system") {
			for i := range m.list {
				m.list[i].Role = "system"
			}
			in = append(m.list, in...)
		}
		if !m.all {
			r.unpick(r.system)
		}
	}
	return in
}

// unpick makes candidates attributes again.
func (r *reading) unpick(list []given) {
	for _, c := range list {
		r.attrs[c.at].group = gOther
	}
}

func (w *spanWriter) prompt(attributes bool) error {
	return w.renderPrompt(w.r.inputs(), attributes)
}

func (w *spanWriter) renderPrompt(in []event.Message, attributes bool) error {
	r := &w.r
	p := event.Prompt{Template: r.template.text, Name: r.template.name, Version: r.facts.PromptVersion, Messages: in}
	if r.template.hasVariables {
		var m map[string]any
		if json.Unmarshal(jsonText(r.template.variables), &m) == nil {
			p.Variables = make(map[string]string, len(m))
			for k, v := range m {
				p.Variables[k] = fmt.Sprint(v)
			}
		}
	}
	body, err := encode(p)
	if err != nil {
		return fmt.Errorf("encode prompt.rendered: %w", err)
	}
	body = withField(body, "params", r.params())
	if attributes {
		body = withField(body, "attributes", w.attributes(gPrompt|gParam))
	}
	return w.emit(event.PromptRendered, w.began(), body, &r.facts)
}

// params are the request parameters by their short names.
func (r *reading) params() []byte {
	dst := []byte{'{'}
	for i := range r.attrs {
		a := &r.attrs[i]
		if a.group == gParam {
			name := strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(a.key, "gen_ai."), "request."), "llm.")
			dst = appendValue(field(dst, name), a.value)
		}
	}
	if len(dst) == 1 {
		return nil
	}
	return append(dst, '}')
}

func (w *spanWriter) retrieval() error {
	r := &w.r
	ret := event.Retrieval{
		Source: r.source, IndexVersion: r.indexVersion, K: r.k, Documents: r.docs, LatencyMs: w.latencyMs(), Error: w.failure,
	}
	if r.indexTime != "" {
		if t, ok := timeOf(pcommon.NewValueStr(r.indexTime)); ok {
			ret.IndexTime = &t
		}
	}
	if v, ok := r.pick(r.query, r.input); ok {
		ret.Query = v.AsString()
	}
	if v, ok := r.pick(r.docsIn); ok && len(ret.Documents) == 0 {
		docs, all := readDocuments(jsonText(v))
		ret.Documents = docs
		if !all {
			r.unpick(r.docsIn)
		}
	}
	body, err := encode(ret)
	if err != nil {
		return fmt.Errorf("encode retrieval.completed: %w", err)
	}
	facts := r.facts
	if facts.RetrieverVersion == "" {
		facts.RetrieverVersion = r.indexVersion
	}
	return w.emit(event.RetrievalCompleted, w.ended(), withField(body, "attributes", w.attributes(gRetrieval|gError)), &facts)
}

// readDocuments reads a list of documents: objects with id, score, content and
// the like, or plain texts.
func readDocuments(text json.RawMessage) (docs []event.Document, all bool) {
	var list []json.RawMessage
	if json.Unmarshal(text, &list) != nil {
		return nil, false
	}
	all = true
	for i, item := range list {
		d := event.Document{Rank: i + 1}
		var s string
		if json.Unmarshal(item, &s) == nil {
			if json.Valid([]byte(s)) && strings.HasPrefix(s, "{") {
				item = json.RawMessage(s)
			} else {
				d.Text = s
				docs = append(docs, d)
				continue
			}
		}
		var o struct {
			event.Document
			Content, PageContent string
			DocumentID           string          `json:"document_id"`
			Metadata             json.RawMessage `json:"metadata"`
		}
		if err := json.Unmarshal(item, &o); err != nil {
			all = false
			continue
		}
		d = o.Document
		if d.Rank == 0 {
			d.Rank = i + 1
		}
		if d.Text == "" {
			d.Text = o.Content
		}
		if d.Text == "" {
			d.Text = o.PageContent
		}
		if d.ID == "" {
			d.ID = o.DocumentID
		}
		describe(&d, item)
		if o.Metadata != nil {
			describe(&d, o.Metadata)
			all = false
		}
		docs = append(docs, d)
	}
	return docs, all
}

// action emits action.executed of a tool or, with has 0, of a step of the
// application.
func (w *spanWriter) action(name string, has group) error {
	r := &w.r
	if name == "" {
		name = w.span.Name()
	}
	if name == "" {
		name = "unnamed"
	}
	a := event.Action{Tool: name, Call: r.toolCall, Tier: r.tier, Decision: r.decision, LatencyMs: w.latencyMs(), Error: w.failure}
	if has == 0 {
		a.Call = ""
	}
	if v, ok := r.pick(r.args, r.input); ok {
		a.Args = jsonText(v)
		a.ArgsHash = event.DeriveID("args", string(a.Args))
	}
	if v, ok := r.pick(r.result, r.output); ok {
		a.Result = jsonText(v)
		a.ResultHash = event.DeriveID("result", string(a.Result))
	}
	body, err := encode(a)
	if err != nil {
		return fmt.Errorf("encode action.executed: %w", err)
	}
	return w.emit(event.ActionExecuted, w.ended(), withField(body, "attributes", w.attributes(has|gError)), &r.facts)
}

func (w *spanWriter) guardrail() error {
	s := w.r.safety
	if s.Component == "" {
		s.Component = w.span.Name()
	}
	body, err := encode(s)
	if err != nil {
		return fmt.Errorf("encode guardrail.result: %w", err)
	}
	return w.emit(event.GuardrailResult, w.ended(), withField(body, "attributes", w.attributes(gSafety)), &w.r.facts)
}

func (w *spanWriter) score() error {
	r := &w.r
	name := r.evalName
	if name == "" {
		name = w.span.Name()
	}
	return w.scoreOf(&annotation{name: name, label: r.evalLabel, text: r.evalText, score: r.evalScore}, r.evaluator, gScore|gError)
}

// scoreOf emits a score that somebody else's evaluator gave. Without a version in
// its name it is stored and never gates.
func (w *spanWriter) scoreOf(a *annotation, evaluator string, has group) error {
	if a.name == "" {
		a.name = "unnamed"
	}
	if evaluator == "" {
		evaluator = a.name
	}
	body, err := encode(event.Score{
		Evaluator: evaluator, Metric: a.name, Mode: "live", Value: a.score, Label: a.label, Explanation: a.text,
		LatencyMs: w.latencyMs(), SampledP: 1,
	})
	if err != nil {
		return fmt.Errorf("encode evaluation.result: %w", err)
	}
	if has != 0 {
		body = withField(body, "attributes", w.attributes(has))
	}
	facts := w.r.facts
	if len(evaluator) <= w.b.c.cfg.Limits.FactBytes {
		facts.Evaluator = evaluator
	}
	return w.emit(event.EvaluationResult, w.ended(), body, &facts)
}

// feedback emits what annotations on the span say: people's as feedback,
// programs' as scores.
func (w *spanWriter) feedback() error {
	for _, n := range sortedKeys(w.r.annotations) {
		a := w.r.annotations[n]
		if a.kind != "" && !strings.EqualFold(a.kind, "HUMAN") {
			if err := w.scoreOf(a, "", 0); err != nil {
				return err
			}
			continue
		}
		f := event.Feedback{Kind: "label", Label: a.label, Comment: a.text, AuthorRole: "end_user", Target: "request"}
		if a.label == "" {
			f.Label = a.name
		}
		if a.score != nil && *a.score >= 0 && *a.score <= 1 {
			f.Kind, f.Value = "rating", a.score
		}
		body, err := encode(f)
		if err != nil {
			return fmt.Errorf("encode feedback.recorded: %w", err)
		}
		if err := w.emit(event.FeedbackRecorded, w.ended(), body, &w.r.facts); err != nil {
			return err
		}
	}
	return nil
}

// bindings emits by which other ids the request is known.
func (w *spanWriter) bindings() error {
	r := &w.r
	if err := w.b.bind(r.responseID, "response", w.trace, w.ended(), w.source); err != nil {
		return err
	}
	for _, ref := range r.references {
		if err := w.b.bind(ref, "reference", w.trace, w.began(), w.source); err != nil {
			return err
		}
	}
	return nil
}

func (w *spanWriter) quarantine(reason, detail string, raw func() (json.RawMessage, error)) (fate, error) {
	text, err := raw()
	if err != nil {
		return 0, fmt.Errorf("encode span for quarantine: %w", err)
	}
	f := event.Facts{App: w.r.facts.App, Trace: w.trace, Span: w.id, Release: w.r.facts.Release, Environment: w.r.facts.Environment}
	_, err = w.b.quarantine(event.Quarantined{Reason: reason, Detail: detail, Kind: kindSpan, Raw: text}, f, w.ended(), w.source, w.trace, w.id)
	return quarantined, err
}

func (w *spanWriter) began() time.Time {
	return at(w.span.StartTimestamp(), w.span.EndTimestamp(), w.b.now)
}
func (w *spanWriter) ended() time.Time {
	return at(w.span.EndTimestamp(), w.span.StartTimestamp(), w.b.now)
}

func at(t, or pcommon.Timestamp, now time.Time) time.Time {
	if t == 0 {
		t = or
	}
	if t == 0 || t > 1<<63-1 {
		return now
	}
	return t.AsTime()
}

func (w *spanWriter) latencyMs() float64 {
	from, to := w.span.StartTimestamp(), w.span.EndTimestamp()
	if from == 0 || to <= from {
		return 0
	}
	return float64(to-from) / 1e6
}

// hexID is a trace or span id as digits, "" for one of zeros only.
func hexID(id []byte) string {
	for _, b := range id {
		if b != 0 {
			return hex.EncodeToString(id)
		}
	}
	return ""
}
