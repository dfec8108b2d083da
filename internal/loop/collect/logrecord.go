package collect

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/looptape/looptape/internal/loop/event"
)

// A logWriter turns the log records of one request into events. It is used by
// one goroutine.
type logWriter struct {
	b    *batch
	base reading
	r    reading

	resource, scope []byte
	resourceID      string
	source          string

	rec       plog.LogRecord
	name      string
	trace, id string
}

func (w *logWriter) withResource(res pcommon.Resource) {
	w.base.c, w.r.c = w.b.c, w.b.c
	w.base.reset(nil)
	w.base.readAll(res.Attributes())
	w.resource = w.base.rest(0, w.b.tenant, nil)
	w.source = "otlp:" + w.base.app.value
	w.resourceID = string(appendMap(nil, res.Attributes()))
}

func (w *logWriter) withScope(s pcommon.InstrumentationScope) { w.scope = appendScope(w.scope[:0], s) }

// write turns one log record into events.
func (w *logWriter) write(rec plog.LogRecord, raw func() (json.RawMessage, error)) (fate, error) {
	w.rec = rec
	trace, id := rec.TraceID(), rec.SpanID()
	w.trace, w.id = hexID(trace[:]), hexID(id[:])
	w.name = rec.EventName()
	r := &w.r
	r.reset(&w.base)
	r.readAll(rec.Attributes())
	if v, ok := rec.Attributes().Get("event.name"); ok && w.name == "" {
		w.name = v.AsString()
	}
	r.settle()
	r.facts.Trace, r.facts.Span, r.facts.Request = w.trace, w.id, w.trace
	r.facts.Subject = w.b.c.cfg.Pseudonyms.Pseudonym(w.b.tenant, r.user)
	// Without a trace the response id is the only tie to a request; the event
	// waits under it.
	under := w.trace
	if under == "" {
		under = r.responseID
	}

	switch w.name {
	case "gen_ai.system.message", "gen_ai.user.message", "gen_ai.assistant.message", "gen_ai.tool.message", "gen_ai.developer.message",
		"gen_ai.choice", "gen_ai.client.inference.operation.details", "gen_ai.evaluation.result", "feature_flag.evaluation",
		"gen_ai.user.feedback", "gen_ai.feedback", "looptape.feedback":
	default:
		return w.quarantine("unknown_log", "The log record has no event name that is known.", raw)
	}
	if under == "" {
		return w.quarantine("no_trace_id", "The log record has no trace id and no response id, so it belongs to no request.", raw)
	}
	if w.trace != "" {
		if err := w.b.bind(r.responseID, "response", w.trace, w.at(), w.source); err != nil {
			return 0, err
		}
		for _, ref := range r.references {
			if err := w.b.bind(ref, "reference", w.trace, w.at(), w.source); err != nil {
				return 0, err
			}
		}
	}
	var err error
	switch w.name {
	case "gen_ai.choice":
		err = w.message(event.ModelCallCompleted, "assistant", under)
	case "gen_ai.client.inference.operation.details":
		err = w.details(under)
	case "gen_ai.evaluation.result":
		err = w.score(under)
	case "feature_flag.evaluation":
		err = w.emit(event.UnitAssigned, under, withField([]byte("{}"), "attributes", w.attributes(0, true)), &r.facts)
	case "gen_ai.user.feedback", "gen_ai.feedback", "looptape.feedback":
		err = w.feedback(under)
	default:
		role := strings.TrimSuffix(strings.TrimPrefix(w.name, "gen_ai."), ".message")
		err = w.message(event.PromptRendered, role, under)
	}
	return mapped, err
}

// message emits one message of a prompt, or one answer.
func (w *logWriter) message(typ, role, under string) error {
	d := draft{Message: event.Message{Role: role}}
	all := true
	switch body := w.rec.Body(); body.Type() {
	case pcommon.ValueTypeMap:
		all = readMessage(body.Map(), &d)
	case pcommon.ValueTypeStr:
		var in messages
		if looksLikeJSON(body.Str()) && in.read(body, role) && len(in.list) == 1 {
			d.Message, all = in.list[0], in.all
			d.texts = []string{d.Content}
		} else {
			addText(&d, body.Str())
		}
	case pcommon.ValueTypeEmpty: // content capture is off, or the attributes hold it
		for _, k := range []string{"content", "message"} {
			if v, ok := w.rec.Attributes().Get(k); ok {
				addText(&d, v.AsString())
			}
		}
	default:
		all = false
	}
	msg := d.done()
	r := &w.r
	attributes := w.attributes(gModel, !all)
	if typ == event.PromptRendered {
		body, err := encode(event.Prompt{Messages: []event.Message{msg}})
		if err != nil {
			return fmt.Errorf("encode prompt.rendered: %w", err)
		}
		return w.emitOrdered(typ, under, withField(body, "attributes", attributes))
	}
	resp := event.Response{Provider: r.provider, ModelAsked: r.modelAsked, ModelGiven: r.modelGiven, Messages: []event.Message{msg}}
	if msg.Finish != "" {
		resp.Finish = []string{msg.Finish}
	}
	body, err := encode(resp)
	if err != nil {
		return fmt.Errorf("encode model.call.completed: %w", err)
	}
	return w.emitOrdered(typ, under, withField(body, "attributes", attributes))
}

// details emits what gen_ai.client.inference.operation.details holds: the
// messages of a call in one record.
func (w *logWriter) details(under string) error {
	r := &w.r
	if body := w.rec.Body(); body.Type() == pcommon.ValueTypeMap {
		r.readAll(body.Map())
		r.settle()
	}
	in := r.inputs()
	has := gModel | gError
	if len(in) > 0 {
		body, err := encode(event.Prompt{Messages: in})
		if err != nil {
			return fmt.Errorf("encode prompt.rendered: %w", err)
		}
		if err := w.emit(event.PromptRendered, under, withField(body, "params", r.params()), &r.facts); err != nil {
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
	resp := event.Response{
		Provider: r.provider, Operation: r.op, ModelAsked: r.modelAsked, ModelGiven: r.modelGiven, Finish: r.finish, CostUSD: r.cost,
		Streaming: r.streaming, FirstMs: r.firstMs, Messages: out,
	}
	if r.errorType != "" {
		resp.Error = failureOf(nil, r.errorType, "", r.status)
	}
	if u := r.usage; u != (event.Usage{}) {
		if u.Total == 0 {
			u.Total = u.Input + u.Output
		}
		resp.Usage = &u
	}
	body, err := encode(resp)
	if err != nil {
		return fmt.Errorf("encode model.call.completed: %w", err)
	}
	return w.emit(event.ModelCallCompleted, under, withField(body, "attributes", w.attributes(has, false)), &r.facts)
}

func (w *logWriter) score(under string) error {
	r := &w.r
	if body := w.rec.Body(); body.Type() == pcommon.ValueTypeMap {
		r.readAll(body.Map())
	}
	name := r.evalName
	if name == "" {
		name = "unnamed"
	}
	evaluator := r.evaluator
	if evaluator == "" {
		evaluator = name
	}
	body, err := encode(event.Score{
		Evaluator: evaluator, Metric: name, Mode: "live", Value: r.evalScore, Label: r.evalLabel, Explanation: r.evalText, SampledP: 1,
	})
	if err != nil {
		return fmt.Errorf("encode evaluation.result: %w", err)
	}
	facts := r.facts
	if len(evaluator) <= w.b.c.cfg.Limits.FactBytes {
		facts.Evaluator = evaluator
	}
	return w.emit(event.EvaluationResult, under, withField(body, "attributes", w.attributes(gScore, false)), &facts)
}

// feedback reads the fields of the short form out of attributes and body.
func (w *logWriter) feedback(under string) error {
	item := map[string]json.RawMessage{}
	for _, m := range []pcommon.Map{w.rec.Attributes(), bodyMap(w.rec)} {
		for k, v := range m.All() {
			k = strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(k, "looptape.feedback."), "gen_ai.feedback."), "gen_ai.user.feedback.")
			switch k {
			case "thumbs", "rating", "scale", "value", "score", "label", "comment", "correction", "target", "kind", "author_role":
				item[k] = appendValue(nil, v)
			}
		}
	}
	f, _, _, p := feedbackBody(item)
	if p != nil {
		f = event.Feedback{Kind: "label", Label: "unreadable"}
	}
	body, err := encode(f)
	if err != nil {
		return fmt.Errorf("encode feedback.recorded: %w", err)
	}
	// The schema has no attributes for feedback, and open bodies may.
	return w.emit(event.FeedbackRecorded, under, withField(body, "attributes", w.attributes(0, true)), &w.r.facts)
}

func bodyMap(rec plog.LogRecord) pcommon.Map {
	if rec.Body().Type() == pcommon.ValueTypeMap {
		return rec.Body().Map()
	}
	return pcommon.NewMap()
}

// emitOrdered is emit for a message that is one of several of its span.
func (w *logWriter) emitOrdered(typ, under string, body []byte) error {
	id := w.eventID(typ, body)
	if w.id != "" {
		if n := w.b.c.order.place(w.b.tenant+aliasSeparator+w.trace+w.id, id); n > 0 {
			body = withField(body, "order", strconv.AppendInt(nil, n, 10))
		}
	}
	return w.add(typ, id, under, body, &w.r.facts)
}

func (w *logWriter) emit(typ, under string, body []byte, facts *event.Facts) error {
	return w.add(typ, w.eventID(typ, body), under, body, facts)
}

// eventID follows from where the record belongs, when it was made and what it
// says. Identical records of one request are told apart by their number.
func (w *logWriter) eventID(typ string, body []byte) string {
	t := strconv.FormatUint(uint64(w.rec.Timestamp()), 10)
	if w.trace != "" {
		return w.b.twin(event.DeriveID(w.b.tenant, w.trace, w.id, typ, t, string(body)))
	}
	return w.b.twin(event.DeriveID(w.b.tenant, w.resourceID, typ, t, string(body)))
}

func (w *logWriter) add(typ, id, under string, body []byte, facts *event.Facts) error {
	e := event.Event{ID: id, Type: typ, Source: w.source, Time: w.at(), Data: body, Facts: *facts}
	if w.trace != "" && w.id != "" {
		e.TraceParent = "00-" + w.trace + "-" + w.id + "-01"
	}
	return w.b.add(&e, under)
}

// attributes is what the record says and the body has no field for; withBody
// adds the record's body as it came.
func (w *logWriter) attributes(has group, withBody bool) []byte {
	i := slices.IndexFunc(w.r.attrs, func(a attr) bool { return a.key == "event.name" })
	if i >= 0 && w.r.attrs[i].value.AsString() == w.name {
		w.r.attrs[i].group = gUsed
	}
	return w.r.rest(has, w.b.tenant, func(dst []byte) []byte {
		dst = appendString(field(dst, "otel.event"), w.name)
		if withBody && w.rec.Body().Type() != pcommon.ValueTypeEmpty {
			dst = appendValue(field(dst, "otel.body"), w.rec.Body())
		}
		if len(w.scope) > 0 {
			dst = append(field(dst, "otel.scope"), w.scope...)
		}
		if len(w.resource) > 0 {
			dst = append(field(dst, "otel.resource"), w.resource...)
		}
		return dst
	})
}

func (w *logWriter) quarantine(reason, detail string, raw func() (json.RawMessage, error)) (fate, error) {
	text, err := raw()
	if err != nil {
		return 0, fmt.Errorf("encode log record for quarantine: %w", err)
	}
	f := event.Facts{App: w.r.facts.App, Trace: w.trace, Span: w.id, Release: w.r.facts.Release, Environment: w.r.facts.Environment}
	_, err = w.b.quarantine(event.Quarantined{Reason: reason, Detail: detail, Kind: kindLog, Raw: text}, f, w.at(), w.source, w.trace, w.id)
	return quarantined, err
}

func (w *logWriter) at() time.Time {
	return at(w.rec.Timestamp(), w.rec.ObservedTimestamp(), w.b.now)
}
