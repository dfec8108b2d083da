package gate

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/looptape/looptape/internal/loop/event"
	"github.com/looptape/looptape/internal/loop/measure"
)

// Metrics that the gate makes itself; all others come from scores.
const (
	MetricMissingScore  = "missing_score"  // share of the scores of the guards that are not there
	MetricRequestFailed = "request_failed" // the request ended in an error
	MetricThumbsDown    = "thumbs_down"    // an end user disliked it
)

// maxUnitRequests bounds what one unit may hold while it is open.
const maxUnitRequests = 1024

// A unit is one conversation (or user, or request) that has not had its turn. It
// keeps the newest word on each of its requests; what they come to is worked out
// once, when the unit enters.
type unit struct {
	ID       string              `json:"id"`
	Shell    bool                `json:"shell,omitempty"` // one request without randomisation facts: dropped and counted in its turn
	First    time.Time           `json:"first"`           // start of its first request
	Requests map[string]*request `json:"requests"`

	place int // in the queue

	ids    []string  // of counted, until a request comes
	closed time.Time // likewise
}

// A request is what the gate keeps of one case.
type request struct {
	Revision   int64             `json:"revision"`
	Start      time.Time         `json:"start"`
	Ended      time.Time         `json:"ended,omitzero"` // of its session, when session.closed was seen
	Arm        string            `json:"arm"`
	UnitKind   string            `json:"unit_kind,omitempty"`
	Propensity float64           `json:"propensity"` // NaN never: -1 when absent
	Stage      string            `json:"stage,omitempty"`
	Segments   map[string]string `json:"segments,omitempty"`
	Values     []float64         `json:"values"`               // per guard: 0 .. 1 with 1 good, or an outcome constant
	Evaluators []string          `json:"evaluators,omitempty"` // per guard: whose score it is
}

// requestOf reads a case by the policy's guards.
func requestOf(p *Policy, c *event.Case, arm string) *request {
	r := &request{
		Revision: c.Revision, Start: c.Start.UTC(), Arm: arm, UnitKind: c.UnitKind, Propensity: -1, Stage: c.Stage,
		Values: make([]float64, len(p.Guards)), Evaluators: make([]string, len(p.Guards)),
	}
	if c.Propensity != nil && !math.IsNaN(*c.Propensity) {
		r.Propensity = *c.Propensity
	}
	for _, s := range p.Segments.Of {
		if c.Segments[s.Dim] == s.Value {
			if r.Segments == nil {
				r.Segments = map[string]string{}
			}
			r.Segments[s.Dim] = s.Value
		}
	}
	for _, part := range c.Parts {
		if part.Type == event.SessionClosed && (r.Ended.IsZero() || part.Time.Before(r.Ended)) {
			r.Ended = part.Time.UTC()
		}
	}
	for i := range p.Guards {
		g := &p.Guards[i]
		switch g.Metric {
		case MetricMissingScore: // of the whole request, below
		case MetricRequestFailed:
			r.Values[i] = oneUnless(c.Failed)
		case MetricThumbsDown:
			r.Values[i] = oneUnless(disliked(c))
		default:
			r.Values[i], r.Evaluators[i] = scoreOf(g, c)
		}
	}
	for i := range p.Guards {
		if p.Guards[i].Metric == MetricMissingScore {
			r.Values[i] = 1 - missingShare(p, r.Values)
		}
	}
	return r
}

func oneUnless(bad bool) float64 {
	if bad {
		return 0
	}
	return 1
}

func disliked(c *event.Case) bool {
	return slices.ContainsFunc(c.Labels, func(l event.Label) bool {
		return l.Kind == "thumbs" && l.Value != nil && *l.Value < 0.5
	})
}

// scoreOf is the value of a guard's metric on a case. A score without an
// evaluator version never gates; of several versions the one that sorts last
// counts, so that the order of arrival does not.
func scoreOf(g *Guard, c *event.Case) (float64, string) {
	var best *event.CaseScore
	for i := range c.Scores {
		s := &c.Scores[i]
		if s.Mode != "live" || s.Metric != g.Metric || !strings.Contains(s.Evaluator, "@") || !fromEvaluator(s.Evaluator, g.Evaluator) {
			continue
		}
		if best == nil || cmp.Or(cmp.Compare(s.Evaluator, best.Evaluator), cmp.Compare(s.ID, best.ID)) > 0 {
			best = s
		}
	}
	if best == nil {
		return event.OutcomeMissing, ""
	}
	switch {
	case best.Status == "skipped" && !(best.SampledP > 0 && best.SampledP < 1): // one that sampling left out is missing
		return event.OutcomeNotApplicable, best.Evaluator
	case best.Status != "scored" || best.Value == nil || !(*best.Value >= 0 && *best.Value <= 1) || best.Good != "" && best.Good != g.Good:
		return event.OutcomeMissing, best.Evaluator
	case g.Good == "low":
		return 1 - *best.Value, best.Evaluator
	}
	return *best.Value, best.Evaluator
}

// fromEvaluator reports whether an evaluator (id@version#hash) is the one that
// the policy pins: nothing, id, id@version or all of it.
func fromEvaluator(evaluator, pinned string) bool {
	rest, ok := strings.CutPrefix(evaluator, pinned)
	return ok && (pinned == "" || rest == "" || rest[0] == '@' || rest[0] == '#')
}

func missingShare(p *Policy, values []float64) float64 {
	scored, missing := 0, 0
	for i := range p.Guards {
		switch p.Guards[i].Metric {
		case MetricMissingScore, MetricRequestFailed, MetricThumbsDown:
			continue
		}
		scored++
		if values[i] == event.OutcomeMissing {
			missing++
		}
	}
	if scored == 0 {
		return 0
	}
	return float64(missing) / float64(scored)
}

// put takes the newest word on a request. It reports whether the unit's place in
// the queue may have changed.
func (u *unit) put(id string, r *request) bool {
	old := u.Requests[id]
	if old != nil && r.Revision < old.Revision || old == nil && len(u.Requests) >= maxUnitRequests {
		return false
	}
	u.Requests[id] = r
	u.ids = nil
	first := r.Start
	for _, o := range u.Requests {
		if o.Start.Before(first) {
			first = o.Start
		}
	}
	moved := !first.Equal(u.First)
	u.First = first
	return moved
}

// counted are the requests that count, in order of start, and when the unit
// closed: unitClose after the last of them, at the end of its session, or at the
// last one it may have. It depends on the requests only, not on when they came.
func (u *unit) counted(p *Policy) (ids []string, closed time.Time) {
	if u.ids == nil {
		u.ids, u.closed = u.count(p)
	}
	return u.ids, u.closed
}

func (u *unit) count(p *Policy) (ids []string, closed time.Time) {
	all := make([]string, 0, len(u.Requests))
	for id := range u.Requests {
		all = append(all, id)
	}
	slices.SortFunc(all, func(a, b string) int {
		return cmp.Or(u.Requests[a].Start.Compare(u.Requests[b].Start), cmp.Compare(a, b))
	})
	var ended time.Time
	for _, id := range all {
		r := u.Requests[id]
		if len(ids) > 0 && r.Start.After(closed) || !ended.IsZero() && r.Start.After(ended) {
			break
		}
		ids = append(ids, id)
		closed = r.Start.Add(p.UnitClose)
		if !r.Ended.IsZero() && (ended.IsZero() || r.Ended.Before(ended)) {
			ended = r.Ended
		}
		if len(ids) == p.MaxRequest {
			return ids, r.Start
		}
	}
	if !ended.IsZero() && ended.Before(closed) {
		closed = ended
	}
	return ids, closed
}

// outcomes is the unit's one value per guard: the mean of its requests that have
// one, or the worst.
func (u *unit) outcomes(p *Policy, ids []string) []int {
	out := make([]int, len(p.Guards))
	for i := range p.Guards {
		var sum float64
		worst := 1.0
		n, missing := 0, 0
		for _, id := range ids {
			switch v := u.Requests[id].Values[i]; v {
			case event.OutcomeMissing:
				missing++
			case event.OutcomeNotApplicable:
			default:
				n++
				sum += v
				worst = math.Min(worst, v)
			}
		}
		switch {
		case n > 0 && p.Guards[i].Aggregate == "worst":
			out[i] = measure.Bin(worst)
		case n > 0:
			out[i] = measure.Bin(sum / float64(n))
		case missing > 0:
			out[i] = event.OutcomeMissing
		default:
			out[i] = event.OutcomeNotApplicable
		}
	}
	return out
}

// A queue holds the open units in order of first request: a heap.
type queue []*unit

func before(at time.Time, id string, u *unit) bool {
	return cmp.Or(at.Compare(u.First), cmp.Compare(id, u.ID)) < 0
}

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return before(q[i].First, q[i].ID, q[j]) }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i, j
}
func (q *queue) Push(x any) {
	u := x.(*unit)
	u.place = len(*q)
	*q = append(*q, u)
}
func (q *queue) Pop() any {
	old := *q
	u := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return u
}
