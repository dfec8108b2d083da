package evaluate

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/looptape/looptape/internal/loop/event"
)

// A request is the state of one request: the events that came, and for each
// evaluator of how many of them it has spoken. It is pure; the runner keeps it.
type request struct {
	tenant, id string
	parts      []part
	ids        map[string]bool
	bytes      int // of the bodies held

	settled  bool // closed or quiet: what is missing is taken as missing
	oversize bool // beyond the limits: failed as a whole
	done     map[string]int
}

// A part is one event of a request.
type part struct {
	event.Content
	carries Fields
	lost    string // why its body can't be read; its carries are then all that its type may carry
}

func newRequest(tenant, id string) *request {
	return &request{tenant: tenant, id: id, ids: map[string]bool{}, done: map[string]int{}}
}

// carriedBy is what events of a type may carry: what is missing when a body
// cannot be read.
func carriedBy(typ string) Fields {
	switch typ {
	case event.RequestStarted, event.PromptRendered, event.UnitAssigned:
		return Question | Params
	case event.RetrievalCompleted:
		return Contexts
	case event.ModelCallCompleted, event.ResponseDelivered:
		return Answer | Citations | Finish | Usage | Money | Failure
	case event.RequestClosed:
		return Answer | Citations | Finish | Usage | Money | Failure | Latency
	}
	return 0
}

// newPart reads an event as a part. lost says that its body was looked for and
// is not to be had.
func newPart(e event.Event, lost string) part {
	p := part{Content: event.Open(e), lost: lost}
	if p.Err != nil {
		p.lost = "malformed_input"
	}
	if p.lost != "" {
		p.carries = carriedBy(e.Type)
	} else {
		p.carries = fieldsOf(&p.Content)
	}
	p.Data = nil // decoded: the bytes need not stay
	return p
}

// isPart says that events of the type belong to a request's state.
func isPart(typ string) bool {
	switch typ {
	case event.RequestStarted, event.PromptRendered, event.UnitAssigned, event.RetrievalCompleted,
		event.ModelCallCompleted, event.ResponseDelivered, event.RequestClosed,
		event.ActionProposed, event.ActionDecided, event.ActionApproved, event.ActionExecuted, event.ActionReceipt,
		event.GuardrailResult, event.SafetyIncident:
		return true
	}
	return false
}

// add takes a part in. It reports whether the part is new; an id that is there
// already changes nothing.
func (q *request) add(p part, size int, limit *Config) bool {
	if q.ids[p.ID] {
		return false
	}
	if q.oversize {
		return false
	}
	if len(q.parts) >= limit.MaxParts || q.bytes+size > limit.MaxBytes {
		q.oversize = true
		return true
	}
	q.ids[p.ID] = true
	q.parts = append(q.parts, p)
	q.bytes += size
	return true
}

// closed says that request.closed is among the parts.
func (q *request) closed() bool {
	return slices.ContainsFunc(q.parts, func(p part) bool { return p.Type == event.RequestClosed })
}

// A suite is the evaluators that are run, with what is asked of each often.
type suite struct {
	mode  string
	units []unit
}

type unit struct {
	Evaluator
	manifest Manifest
	name     string
}

func newSuite(mode string, es []Evaluator) (*suite, error) {
	s := &suite{mode: mode}
	for _, e := range es {
		m := e.Manifest()
		if m.ID == "" || m.Version == "" || m.Output.Good != GoodHigh && m.Output.Good != GoodLow {
			return nil, fmt.Errorf("evaluator %q: its manifest lacks id, version or the good end of its value", m.ID)
		}
		if slices.ContainsFunc(s.units, func(u unit) bool { return u.manifest.ID == m.ID }) {
			return nil, fmt.Errorf("evaluator %q is there twice", m.ID)
		}
		s.units = append(s.units, unit{e, m, m.Name()})
	}
	return s, nil
}

// oversizeCount is the input count of a request that is failed as a whole: it
// stands above whatever was said before, in any order of arrival.
const oversizeCount = 1 << 30

// scoreSchema is the schema of a score's body in the contract.
const scoreSchema = "urn:looptape:schema:score:1"

// An outcome is one score event to be written.
type outcome struct {
	metric string
	status Status
	took   time.Duration
	event  event.Event
}

// run lets every evaluator speak that has something new to say: its inputs are
// more than when it last spoke, and what it needs is there or will not come.
// clock measures the evaluators' own time. The same set of parts and the same
// settled give the same last words whatever the way there.
func (s *suite) run(q *request, clock func() time.Time) []outcome {
	if len(q.parts) == 0 {
		return nil
	}
	var out []outcome
	var facts event.Facts
	merged := false
	assembled := map[string]*event.Request{}
	for i := range s.units {
		u := &s.units[i]
		if q.oversize {
			if q.done[u.name] == oversizeCount+1 {
				continue
			}
		} else if !s.due(q, u) {
			continue
		}
		if !merged {
			merged = true
			cs := make([]event.Content, len(q.parts))
			for i := range q.parts {
				cs[i] = q.parts[i].Content
			}
			facts = event.MergeContentFacts(cs)
			facts.Tenant, facts.Request = q.tenant, q.id
		}
		began := clock()
		r, inputs := s.judge(q, u, assembled)
		took := clock().Sub(began)
		o := s.outcome(q, u, r, inputs, facts)
		o.took = took
		if err := o.encode(u, r, inputs, q, s.mode, took); err != nil {
			// A score always encodes: its numbers are finite.
			panic(err)
		}
		out = append(out, o)
	}
	return out
}

// due says that an evaluator must speak now, and remembers that it did.
func (s *suite) due(q *request, u *unit) bool {
	var have Fields
	n := 0
	for i := range q.parts {
		have |= q.parts[i].carries
		if q.parts[i].carries&u.manifest.Reads != 0 {
			n++
		}
	}
	if q.settled {
		have |= Closed
	}
	if have&u.manifest.Needs != u.manifest.Needs && !q.settled {
		return false
	}
	said := n + 1
	if n == 0 {
		said = -int(q.latest().UnixNano()) // see nothingHash
	}
	if q.done[u.name] == said {
		return false
	}
	q.done[u.name] = said
	return true
}

// latest is the time of the latest part.
func (q *request) latest() time.Time {
	var t time.Time
	for i := range q.parts {
		if q.parts[i].Time.After(t) {
			t = q.parts[i].Time
		}
	}
	return t
}

// nothingHash takes the place of the inputs' hash where there are no inputs: it
// grows with the time of the request's latest part, so that of an
// evaluator's words about nothing the last stands, and with it its time.
func nothingHash(t time.Time) string { return fmt.Sprintf("%032x", max(0, t.UnixNano())) }

// judge runs one evaluator on what it may see.
// Evaluators with the same inputs share what was assembled of them.
func (s *suite) judge(q *request, u *unit, assembled map[string]*event.Request) (r Result, inputs []*part) {
	if q.oversize {
		q.done[u.name] = oversizeCount + 1
		return fail("request_too_large"), nil
	}
	lost := ""
	var which []byte
	for i := range q.parts {
		if p := &q.parts[i]; p.carries&u.manifest.Reads != 0 {
			inputs = append(inputs, p)
			which = binary.AppendUvarint(which, uint64(i))
			lost = max(lost, p.lost) // of several, one that does not depend on the order
		}
	}
	if lost != "" {
		return fail(lost), inputs
	}
	view := assembled[string(which)]
	if view == nil {
		cs := make([]event.Content, len(inputs))
		for i, p := range inputs {
			cs[i] = p.Content
		}
		a := event.AssembleContent(cs)
		a.ID = q.id
		view = &a
		assembled[string(which)] = view
	}
	defer func() {
		if recover() != nil {
			r = fail("panic")
		}
	}()
	r = u.Evaluate(view)
	if r.Status == Scored && !(r.Value >= 0 && r.Value <= 1) {
		return fail("value_out_of_range"), inputs
	}
	return r, inputs
}

func (s *suite) outcome(q *request, u *unit, r Result, inputs []*part, facts event.Facts) outcome {
	o := outcome{metric: u.manifest.ID, status: r.Status}
	one := 1.0
	facts.Evaluator, facts.SampledP = u.name, &one
	facts.Privacy, facts.Retention = "P3", "release"
	o.event = event.Event{ID: event.ScoreID(q.tenant, q.id, u.name, s.mode), Source: event.Source, About: q.id, DataSchema: scoreSchema, Facts: facts}
	// The score happened when the last of its inputs did: a replay says the same.
	for _, p := range inputs {
		if p.Time.After(o.event.Time) {
			o.event.Time = p.Time
		}
	}
	if len(inputs) == 0 {
		o.event.Time = q.latest()
	}
	switch r.Status {
	case Scored:
		o.event.Type = event.EvaluationResult
	case Skipped:
		o.event.Type = event.EvaluationSkipped
	default:
		o.event.Type = event.EvaluationFailed
	}
	return o
}

func (o *outcome) encode(u *unit, r Result, inputs []*part, q *request, mode string, took time.Duration) error {
	ids := make([]string, len(inputs))
	for i, p := range inputs {
		ids[i] = p.ID
	}
	slices.Sort(ids)
	b := event.Score{
		Evaluator: u.name, Metric: u.manifest.ID, Mode: mode, Good: u.manifest.Output.Good,
		Reason: r.Reason, InputCount: len(ids), InputsHash: event.InputsHash(ids), Inputs: ids,
		SampledP: 1, LatencyMs: float64(took.Microseconds()) / 1000,
	}
	switch {
	case q.oversize:
		b.InputCount = oversizeCount
	case len(ids) == 0:
		b.InputsHash = nothingHash(o.event.Time)
	}
	if r.Status == Scored {
		b.Value, b.Label, b.Pass, b.Explanation = &r.Value, r.Label, &r.Pass, r.Explanation
	}
	return o.event.SetBody(b)
}
