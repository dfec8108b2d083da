package join

import (
	"cmp"
	"encoding/json"
	"math"
	"strings"

	"github.com/looptape/looptape/internal/loop/event"
)

// Kinds of events, by topic.
const (
	kindPrompt = iota
	kindRetrieval
	kindResponse
	kindAction
	kindSafety
	kindFeedback
	kindScore
	kinds
)

func kindOf(topic string) uint8 {
	switch topic {
	case event.TopicPrompt:
		return kindPrompt
	case event.TopicRetrieval:
		return kindRetrieval
	case event.TopicResponse:
		return kindResponse
	case event.TopicAction:
		return kindAction
	case event.TopicSafety:
		return kindSafety
	case event.TopicFeedback:
		return kindFeedback
	}
	return kindScore
}

// A part is what a case needs of one event that is no score: no content.
type part struct {
	id, typ, span string
	kind          uint8
	time          int64
	failed        bool  // its body tells of an error
	cost          int64 // 1e-12 dollars
	latency       float64
	usage         *event.Usage
	facts         []fact

	partition int32
	offset    int64
}

type fact struct{ name, value string }

// Names of facts that are no fields of a case but aliases of it.
const (
	factResponse = "response"
	factTrace    = "trace"
	factVia      = "via"
)

// caseFacts are the facts that a part lends to its case, and segments.
var caseFacts = map[string]bool{
	"app": true, "environment": true, "session": true, "task": true, "subject": true, "release": true,
	"deployment": true, "arm": true, "unit": true, "unit_kind": true, "propensity": true, "stage": true,
	"assignment": true, "salt": true, "model": true, factResponse: true, factTrace: true, factVia: true,
}

const segmentPrefix = "segment."

// rank orders parts by whose facts hold for the whole request: an assignment's,
// then the root span's, then any part's, then those that came with feedback.
func (p *part) rank() int {
	switch {
	case p.kind == kindFeedback:
		return 4
	case p.typ == event.UnitAssigned:
		return 0
	case p.typ == event.RequestStarted:
		return 1
	case p.typ == event.RequestClosed:
		return 2
	}
	return 3
}

func (p part) ident() string { return p.id }

func (p part) place() place {
	class := uint8(1)
	if p.rank() <= 2 {
		class = 0
	}
	return place{class: class, time: p.time, id: p.id}
}

func (p part) size() int {
	n := 40 + len(p.id) + len(p.typ) + len(p.span)
	for _, f := range p.facts {
		n += 4 + len(f.name) + len(f.value)
	}
	return n
}

// figures are the parts of a body that join reads.
type figures struct {
	Usage     *event.Usage    `json:"usage"`
	LatencyMs float64         `json:"latency_ms"`
	CostUSD   float64         `json:"cost_usd"`
	Error     json.RawMessage `json:"error"`
}

func newPart(e *event.Event) part {
	p := part{
		id: clip(e.ID, maxID), typ: clip(e.Type, maxType), span: clip(e.Facts.Span, maxSpan),
		kind: kindOf(e.Position.Topic), time: nanos(e.Time), partition: e.Position.Partition, offset: e.Position.Offset,
	}
	segments := 0
	e.Facts.Each(func(name, value string) {
		if strings.HasPrefix(name, segmentPrefix) {
			if segments++; segments > maxSegments {
				return
			}
		} else if !caseFacts[name] {
			return
		}
		p.facts = append(p.facts, fact{clip(name, maxFact), clip(value, maxFact)})
	})
	if p.kind == kindResponse && len(e.Data) > 0 {
		var f figures
		if json.Unmarshal(e.Data, &f) == nil {
			p.failed = len(f.Error) > 0 && string(f.Error) != "null"
			p.cost = picos(f.CostUSD)
			if f.LatencyMs > 0 && !math.IsInf(f.LatencyMs, 0) {
				p.latency = f.LatencyMs
			}
			if u := f.Usage; u != nil {
				u.Input, u.Output, u.Total, u.Cached = max(u.Input, 0), max(u.Output, 0), max(u.Total, 0), max(u.Cached, 0)
				if u.Total == 0 {
					u.Total = addUp(u.Input, u.Output)
				}
				p.usage = u
			}
		}
	}
	return p
}

// A score is one evaluator's result, as a case holds it.
type score struct{ event.CaseScore }

func (s score) ident() string { return s.ID }
func (s score) place() place  { return place{a: s.Evaluator, b: s.Mode, id: s.ID} }
func (s score) size() int {
	return 48 + len(s.ID) + len(s.Evaluator) + len(s.Metric) + len(s.Mode) + len(s.Label) + len(s.Reason) + len(s.InputsHash) + len(s.Good)
}

// newScore reads a score. An event of llm.score that is none (an anchor's, a
// user's own type) is not part of a case.
func newScore(e *event.Event) (score, bool) {
	var status string
	switch e.Type {
	case event.EvaluationResult:
		status = "scored"
	case event.EvaluationSkipped:
		status = "skipped"
	case event.EvaluationFailed:
		status = "failed"
	default:
		return score{}, false
	}
	var b event.Score
	if len(e.Data) > 0 && json.Unmarshal(e.Data, &b) != nil {
		b = event.Score{Reason: "unreadable"}
	}
	return score{event.CaseScore{
		ID: clip(e.ID, maxID), Evaluator: clip(cmp.Or(b.Evaluator, e.Facts.Evaluator), maxFact), Metric: clip(b.Metric, maxWord),
		Mode: clip(b.Mode, maxWord), Status: status, Value: b.Value, Good: clip(b.Good, maxWord), Label: clip(b.Label, maxWord),
		Pass: b.Pass, Reason: clip(b.Reason, maxCause), InputCount: max(b.InputCount, 0), InputsHash: clip(b.InputsHash, maxWord), SampledP: b.SampledP,
	}}, true
}

// beats tells whether a score stands against another of its id.
func (s *score) beats(o *score) bool {
	if c := cmp.Or(cmp.Compare(s.InputCount, o.InputCount), cmp.Compare(s.InputsHash, o.InputsHash)); c != 0 {
		return c > 0
	}
	return string(s.bytes()) > string(o.bytes())
}

// A label is one piece of feedback, as a case holds it.
type label struct {
	event.Label
	time int64
}

func (l label) ident() string { return l.ID }
func (l label) place() place  { return place{time: l.time, id: l.ID} }
func (l label) size() int {
	return 32 + len(l.ID) + len(l.Kind) + len(l.Label.Label) + len(l.Author) + len(l.AuthorRole)
}

func newLabel(e *event.Event) label {
	var b event.Feedback
	if len(e.Data) > 0 && json.Unmarshal(e.Data, &b) != nil {
		b = event.Feedback{Kind: "unreadable"}
	}
	at := nanos(e.Time)
	return label{event.Label{
		ID: clip(e.ID, maxID), Kind: clip(b.Kind, maxWord), Value: b.Value, Label: clip(b.Label, maxFact),
		Author: clip(b.Author, maxFact), AuthorRole: clip(b.AuthorRole, maxWord), Time: fromNanos(at),
	}, at}
}
