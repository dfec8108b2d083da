package join

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/looptape/looptape/internal/loop/event"
)

// fold makes the case of a state, or nil where there is none: nothing has come
// but what waits for a binding, or all of it has followed an alias.
func (s *state) fold() *event.Case {
	sets := []*set{&s.own}
	if len(s.bound) == 0 {
		sets = append(sets, &s.loose)
	} else if !s.ownTrace() {
		return nil
	}
	f := folder{revision: addUp(s.seen, s.own.size())}
	for _, x := range sets {
		f.parts = append(f.parts, x.parts.items...)
		f.over.merge(&x.over)
	}
	f.parts = unique(f.parts, part.ident, func(a, b *part) bool { return a.beats(b) })
	c := &event.Case{Request: s.request, Tenant: s.tenant, Revision: f.revision}
	f.count(c)
	f.facts(c)
	f.totals(c)
	var scores []score
	var labels []label
	for _, x := range sets {
		scores = append(scores, x.scores.items...)
		labels = append(labels, x.labels.items...)
	}
	for _, sc := range unique(scores, score.ident, func(a, b *score) bool { return a.beats(b) }) {
		c.Scores = append(c.Scores, sc.CaseScore)
	}
	for _, l := range unique(labels, label.ident, func(a, b *label) bool { return a.beats(b) }) {
		c.Labels = append(c.Labels, l.Label)
	}
	c.Has.Score = int(f.over.counts[kindScore]) + len(c.Scores)
	if len(f.parts) == 0 && c.Has == (event.Completeness{}) {
		return nil
	}
	c.Parts = make([]event.Part, 0, len(f.parts))
	for i := range f.parts {
		p := &f.parts[i]
		c.Parts = append(c.Parts, event.Part{
			ID: p.id, Type: p.typ, Time: fromNanos(p.time), Span: p.span,
			Position: &event.Position{Topic: topicOf(p.kind), Partition: p.partition, Offset: p.offset},
		})
	}
	c.Sort()
	c.Parts = firstOf(c.Parts, maxParts)
	c.Scores = firstOf(c.Scores, maxScores)
	c.Labels = firstOf(c.Labels, maxLabels)
	return c
}

// ownTrace tells whether the state holds anything that was not re-keyed to it.
func (s *state) ownTrace() bool {
	return slices.ContainsFunc(s.own.parts.items, func(p part) bool {
		return !slices.ContainsFunc(p.facts, func(f fact) bool { return f.name == factVia })
	})
}

// unique keeps one item of each id: an event of a request's own trace and its
// like without the trace may have one id.
func unique[T any](xs []T, ident func(T) string, beats func(a, b *T) bool) []T {
	seen := make(map[string]int, len(xs))
	out := xs[:0:0]
	for i := range xs {
		at, ok := seen[ident(xs[i])]
		if !ok {
			seen[ident(xs[i])] = len(out)
			out = append(out, xs[i])
		} else if beats(&xs[i], &out[at]) {
			out[at] = xs[i]
		}
	}
	return out
}

func firstOf[T any](xs []T, n int) []T { return xs[:min(n, len(xs))] }

func topicOf(kind uint8) string {
	return [kinds]string{event.TopicPrompt, event.TopicRetrieval, event.TopicResponse, event.TopicAction,
		event.TopicSafety, event.TopicFeedback, event.TopicScore}[kind]
}

// A folder makes one case.
type folder struct {
	parts    []part
	over     over
	revision int64
}

func (o *over) merge(p *over) {
	timed := func(o *over) bool { return o.counts[0]+o.counts[1]+o.counts[2]+o.counts[3]+o.counts[4] > 0 }
	switch {
	case !timed(p):
	case !timed(o):
		o.first, o.last = p.first, p.last
	default:
		o.first, o.last = min(o.first, p.first), max(o.last, p.last)
	}
	for i, n := range p.counts {
		o.counts[i] = addUp(o.counts[i], n)
	}
	o.labels = addUp(o.labels, p.labels)
	o.cost = addUp(o.cost, p.cost)
	o.used = o.used || p.used
	addUsage(&o.usage, &p.usage)
}

// count says how many of each kind there are and from when to when they reach.
// Start is of what happened in the request; feedback alone gives its own.
func (f *folder) count(c *event.Case) {
	n := f.over.counts
	var first, last int64
	timed := f.over.counts[0]+f.over.counts[1]+f.over.counts[2]+f.over.counts[3]+f.over.counts[4] > 0
	if timed {
		first, last = f.over.first, f.over.last
	}
	feedback, any := int64(0), false
	for i := range f.parts {
		p := &f.parts[i]
		n[p.kind]++
		if p.kind == kindFeedback {
			if !any || p.time < feedback {
				feedback, any = p.time, true
			}
			continue
		}
		if !timed {
			first, last, timed = p.time, p.time, true
		}
		first, last = min(first, p.time), max(last, p.time)
	}
	c.Has = event.Completeness{
		Prompt: int(n[kindPrompt]), Retrieval: int(n[kindRetrieval]), Response: int(n[kindResponse]),
		Action: int(n[kindAction]), Safety: int(n[kindSafety]), Feedback: int(n[kindFeedback]),
	}
	switch {
	case timed:
		c.Start, c.End = fromNanos(first), fromNanos(last)
	case any:
		c.Start, c.End = fromNanos(feedback), fromNanos(feedback)
	}
}

// facts copies each fact from the first part that carries it: by rank (whose
// facts hold for the whole request), then (time, id).
func (f *folder) facts(c *event.Case) {
	slices.SortFunc(f.parts, func(a, b part) int {
		return cmp.Or(cmp.Compare(a.rank(), b.rank()), cmp.Compare(a.time, b.time), cmp.Compare(a.id, b.id))
	})
	fields := map[string]*string{
		"app": &c.App, "environment": &c.Environment, "session": &c.Session, "task": &c.Task, "subject": &c.Subject,
		"release": &c.Release, "deployment": &c.Deployment, "arm": &c.Arm, "unit": &c.Unit, "unit_kind": &c.UnitKind,
		"stage": &c.Stage, "assignment": &c.Assignment, "salt": &c.Salt, "model": &c.Model,
	}
	aliases := map[string]bool{}
	for i := range f.parts {
		for _, ft := range f.parts[i].facts {
			if to := fields[ft.name]; to != nil {
				if *to == "" {
					*to = ft.value
				}
				continue
			}
			switch ft.name {
			case "propensity":
				if v, err := strconv.ParseFloat(ft.value, 64); err == nil && c.Propensity == nil {
					c.Propensity = &v
				}
			case factResponse, factTrace, factVia:
				if ft.value != c.Request && ft.value != "" {
					aliases[ft.value] = true
				}
			default:
				dim := strings.TrimPrefix(ft.name, segmentPrefix)
				if _, ok := c.Segments[dim]; !ok && len(c.Segments) < maxSegments {
					if c.Segments == nil {
						c.Segments = map[string]string{}
					}
					c.Segments[dim] = ft.value
				}
			}
		}
	}
	c.Aliases = firstOf(slices.Sorted(maps.Keys(aliases)), maxAliases)
	if len(c.Aliases) == 0 {
		c.Aliases = nil
	}
}

// totals are what the request took. What the root span says of the whole request
// stands; without it, what was delivered; without that, the sum of the model
// calls, a call counted once however many events tell of it.
func (f *folder) totals(c *event.Case) {
	type call struct {
		cost  int64
		usage *event.Usage
	}
	calls := map[string]*call{}
	var lastCall *part
	var responses, delivered, closed []*part
	for i := range f.parts {
		p := &f.parts[i]
		if p.kind != kindResponse {
			continue
		}
		responses = append(responses, p)
		switch p.typ {
		case event.RequestClosed:
			closed, c.Closed = append(closed, p), true
		case event.SessionClosed:
			c.Closed = true
		case event.ResponseDelivered:
			delivered = append(delivered, p)
		case event.ModelCallCompleted:
			if lastCall == nil || cmp.Or(cmp.Compare(p.time, lastCall.time), cmp.Compare(p.id, lastCall.id)) > 0 {
				lastCall = p
			}
			k := "span " + p.span
			if p.span == "" {
				k = "event " + p.id
			}
			if calls[k] == nil {
				calls[k] = &call{}
			}
			calls[k].cost = max(calls[k].cost, p.cost)
			if u := p.usage; u != nil && (calls[k].usage == nil || moreUsage(u, calls[k].usage)) {
				calls[k].usage = u
			}
		}
	}
	cost, usage, used := f.over.cost, f.over.usage, f.over.used
	for _, one := range calls {
		cost = addUp(cost, one.cost)
		if one.usage != nil {
			used = true
			addUsage(&usage, one.usage)
		}
	}
	whole := int64(0)
	for _, p := range slices.Concat(closed, delivered) { // each sorted by (time, id)
		c.LatencyMs = cmp.Or(c.LatencyMs, p.latency)
		whole = cmp.Or(whole, p.cost)
		if c.Usage == nil && p.usage != nil {
			u := *p.usage
			c.Usage = &u
		}
	}
	if c.LatencyMs == 0 && len(responses) > 0 {
		c.LatencyMs = float64(c.End.Sub(c.Start)) / float64(time.Millisecond)
	}
	c.CostUSD = float64(cmp.Or(whole, cost)) / 1e12
	if c.Usage == nil && used {
		c.Usage = &usage
	}
	failed := func(p *part) bool { return p.failed }
	switch {
	case len(closed) > 0:
		c.Failed = slices.ContainsFunc(closed, failed)
	case len(delivered) > 0:
		c.Failed = slices.ContainsFunc(delivered, failed)
	case lastCall != nil:
		c.Failed = lastCall.failed
	}
}

// moreUsage orders what two events tell of one call.
func moreUsage(a, b *event.Usage) bool {
	return cmp.Or(cmp.Compare(a.Total, b.Total), cmp.Compare(a.Input, b.Input), cmp.Compare(a.Output, b.Output), cmp.Compare(a.Cached, b.Cached)) > 0
}

// caseKey is the record key on llm.case.
func caseKey(tenant, request string) string { return tenant + "/" + request }

// caseEvent is the record of a case. A case too large for a record lists less.
func caseEvent(c *event.Case) (event.Event, error) {
	var data []byte
	for {
		var err error
		if data, err = json.Marshal(c); err != nil {
			return event.Event{}, fmt.Errorf("encode case: %w", err)
		}
		if len(data) <= maxCaseBytes {
			break
		}
		c.Parts = c.Parts[:len(c.Parts)/2]
		c.Scores = c.Scores[:len(c.Scores)*3/4]
		c.Labels = c.Labels[:len(c.Labels)*3/4]
	}
	e := event.Event{
		ID:   event.DeriveID("case", c.Tenant, c.Request, strconv.FormatInt(c.Revision, 10), event.InputsHash([]string{string(data)})),
		Type: event.CaseRevised, Source: event.Source, Time: c.End, About: c.Request, Data: data,
		Facts: event.Facts{
			Tenant: c.Tenant, App: c.App, Environment: c.Environment, Request: c.Request, Session: c.Session, Task: c.Task,
			Subject: c.Subject, Release: c.Release, Deployment: c.Deployment, Arm: c.Arm, Unit: c.Unit, UnitKind: c.UnitKind,
			Propensity: c.Propensity, Stage: c.Stage, Assignment: c.Assignment, Salt: c.Salt, Model: c.Model, Segments: c.Segments,
		},
	}
	for i := range c.Labels {
		if at := c.Labels[i].Time; at.After(e.Time) {
			e.Time = at
		}
	}
	return e, nil
}

// withdrawal is the tombstone of a case.
func withdrawal(s *state) event.Record {
	e := event.Event{
		ID: event.DeriveID("case withdrawn", s.tenant, s.request), Type: event.CaseRevised, Source: event.Source,
		Time: time.Unix(0, 0).UTC(), About: s.request, Facts: event.Facts{Tenant: s.tenant, Request: s.request},
	}
	return e.Record(event.TopicCase, caseKey(s.tenant, s.request), s.request)
}
