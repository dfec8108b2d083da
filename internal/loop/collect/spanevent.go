package collect

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fastjson"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/looptape/looptape/internal/loop/event"
)

// readEvents reads the events of the span: messages, exceptions, flags, scores.
// Those it does not know are kept for the attributes.
func (w *spanWriter) readEvents() {
	r := &w.r
	for i, e := range w.span.Events().All() {
		name, attrs := e.Name(), e.Attributes()
		switch name {
		case "gen_ai.system.message", "gen_ai.user.message", "gen_ai.assistant.message", "gen_ai.tool.message", "gen_ai.developer.message":
			role := strings.TrimSuffix(strings.TrimPrefix(name, "gen_ai."), ".message")
			d := draft{Message: event.Message{Role: role}}
			all := readMessage(attrs, &d)
			r.modelish = true
			r.prompts.list = append(r.prompts.list, indexedMessage{n: maxIndexed + i, msg: d})
			if all {
				continue
			}
		case "gen_ai.choice":
			d := draft{Message: event.Message{Role: "assistant"}}
			all := readMessage(attrs, &d)
			r.modelish = true
			r.completions.list = append(r.completions.list, indexedMessage{n: maxIndexed + i, msg: d})
			if all {
				continue
			}
		case "gen_ai.content.prompt", "gen_ai.content.completion", "gen_ai.client.inference.operation.details", "feature_flag.evaluation",
			"gen_ai.evaluation.result":
			// Their attributes are those a span has.
			if name == "gen_ai.evaluation.result" {
				if a, all := evaluationOf(attrs); all {
					if r.annotations == nil {
						r.annotations = map[int]*annotation{}
					}
					r.annotations[maxIndexed+i] = a
					continue
				}
				break
			}
			r.readAll(attrs)
			continue
		case "exception":
			if w.failure == nil {
				w.failure = &event.Failure{}
			}
			if v, ok := attrs.Get("exception.type"); ok {
				w.failure.Type = v.AsString()
			}
			if v, ok := attrs.Get("exception.message"); ok {
				w.failure.Message = v.AsString()
			}
		case "db.query.result":
			r.retrievalish = true
			d := event.Document{Rank: len(r.docs) + 1}
			for k, v := range attrs.All() {
				switch strings.TrimPrefix(k, "db.query.result.") {
				case "id":
					d.ID = v.AsString()
				case "score":
					r.floatPtr(&d.Score, v, gRetrieval)
				case "document":
					d.Text = v.AsString()
				case "metadata":
					describe(&d, jsonText(v))
				}
			}
			r.docs = append(r.docs, d)
		case "gen_ai.first_token", "gen_ai.content.first_token", "First Token Stream Event", "ai.stream.firstChunk":
			if start := w.span.StartTimestamp(); r.firstMs == 0 && start != 0 && e.Timestamp() > start {
				r.firstMs, r.streaming = float64(e.Timestamp()-start)/1e6, true
			}
		}
		if len(w.events) == 0 {
			w.events = append(w.events, '[')
		} else {
			w.events = append(w.events, ',')
		}
		w.events = appendString(append(w.events, `{"name":`...), name)
		if t := e.Timestamp(); t != 0 && t <= 1<<63-1 {
			w.events = appendString(append(w.events, `,"time":`...), t.AsTime().Format(time.RFC3339Nano))
		}
		if attrs.Len() > 0 {
			w.events = appendMap(append(w.events, `,"attributes":`...), attrs)
		}
		w.events = append(w.events, '}')
	}
}

// readFailure is the error of the span: its status, error.type, an exception.
func (w *spanWriter) readFailure() *event.Failure {
	status := w.span.Status()
	f := w.failure
	if status.Code() != ptrace.StatusCodeError && w.r.errorType == "" {
		return nil // an exception that was handled stays among the events
	}
	return failureOf(f, w.r.errorType, status.Message(), w.r.status)
}

func failureOf(f *event.Failure, errorType, message string, status int) *event.Failure {
	var out event.Failure
	if f != nil {
		out = *f
	}
	out.Type = cmp.Or(errorType, out.Type, "error")
	out.Message = cmp.Or(message, out.Message)
	out.Status = status
	if out.Status == 0 {
		out.Status = leadingStatus(out.Message)
	}
	if out.Status == 0 {
		out.Status = leadingStatus(out.Type) // error.type is often the status code
	}
	return &out
}

// leadingStatus is the HTTP status of messages like "429 Rate limit reached".
func leadingStatus(s string) int {
	if len(s) < 3 || len(s) > 3 && s[3] != ' ' {
		return 0
	}
	n, err := strconv.Atoi(s[:3])
	if err != nil || n < 400 || n > 599 {
		return 0
	}
	return n
}

// readMessage reads a message out of the attributes or the body of an event of
// the older convention. It reports whether nothing else was in it.
func readMessage(m pcommon.Map, d *draft) (all bool) {
	all = true
	for k, v := range m.All() {
		switch k {
		case "role":
			d.Role = plainRole(v.AsString())
		case "content":
			if v.Type() == pcommon.ValueTypeStr && !strings.HasPrefix(v.Str(), "[{") {
				addText(d, v.Str())
				continue
			}
			in := messages{all: true}
			if !parse(v.AsString(), func(j *fastjson.Value) { in.content(j, d) }) {
				addText(d, v.AsString())
			}
			all = all && in.all
		case "message":
			if v.Type() == pcommon.ValueTypeMap {
				all = readMessage(v.Map(), d) && all
				continue
			}
			in := messages{all: true}
			if !parse(v.AsString(), func(j *fastjson.Value) { in.content(j, d) }) {
				addText(d, v.AsString())
			}
			all = all && in.all
		case "tool_calls":
			ok := parse(v.AsString(), func(j *fastjson.Value) {
				for _, call := range j.GetArray() {
					d.ToolCalls = append(d.ToolCalls, toolCall(call))
				}
			})
			all = all && ok
		case "id", "tool_call_id":
			d.ToolCall = v.AsString()
		case "name":
			d.Name = v.AsString()
		case "finish_reason":
			d.Finish = v.AsString()
		case "index", "gen_ai.system", "gen_ai.provider.name", "event.name":
		default:
			all = false
		}
	}
	return all
}

// evaluationOf reads gen_ai.evaluation.result.
func evaluationOf(attrs pcommon.Map) (a *annotation, all bool) {
	a, all = &annotation{kind: "evaluator"}, true
	for k, v := range attrs.All() {
		switch k {
		case "gen_ai.evaluation.name":
			a.name = v.AsString()
		case "gen_ai.evaluation.score.value":
			n, ok := number(v)
			if !ok {
				all = false
				continue
			}
			a.score = &n
		case "gen_ai.evaluation.score.label":
			a.label = v.AsString()
		case "gen_ai.evaluation.explanation":
			a.text = v.AsString()
		case "gen_ai.response.id", "event.name":
		default:
			all = false
		}
	}
	return a, all && a.name != ""
}

func sortedKeys[V any](m map[int]V) []int { return slices.Sorted(maps.Keys(m)) }
