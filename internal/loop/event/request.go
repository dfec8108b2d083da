package event

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Request is everything that is known of one request, put together from its
// events: what was asked, what was retrieved, what was answered, what it took.
// It is a pure function of the set of events: the order in which they came and
// how often each came do not show.
type Request struct {
	ID     string
	Facts  Facts // merged: see MergeFacts
	Name   string
	Start  time.Time // earliest event time
	End    time.Time // latest event time
	Closed bool      // request.closed was seen

	System   string // the system prompt of the call that answered
	Question string // what the user asked, as far as it can be told apart from the prompt around it
	Contexts []Document
	Answer   string // the text that the user got, else the last text a model gave
	Finish   []string
	Params   map[string]any // of all prompts; of one name, the earliest wins

	Prompts     []Message // the messages of the last rendered prompt, in order
	Calls       []Call    // model calls, earliest first
	Retrievals  []Retrieval
	RetrievedAt []time.Time // when each of Retrievals happened
	Responses   []Response  // model calls and deliveries as they came, earliest first
	Actions     []Action
	Safety      []Safety
	Citations   []string // ids of documents that the answer declares to cite

	LatencyMs float64 // of the whole request; 0 is unknown
	CostUSD   float64
	Usage     *Usage
	Error     *Failure // the request ended in it
	Malformed []string // ids of events whose body could not be read
}

// A Call is one model call: the events that share its span.
type Call struct {
	Span     string
	Time     time.Time
	Prompt   []Message
	Response Response
}

// Content is an event with its body decoded: one pointer is set, or none for a
// type that carries no part of a request. Err says that the body is malformed.
type Content struct {
	Event
	Prompt    *Prompt
	Retrieval *Retrieval
	Response  *Response
	Action    *Action
	Safety    *Safety
	Err       error
}

// Open decodes the body of an event by its type. An event without a body, or
// with one that lies elsewhere (DataRef) and was not resolved, has an empty body.
func Open(e Event) Content {
	c := Content{Event: e}
	var body any
	switch e.Type {
	case RequestStarted, PromptRendered, UnitAssigned:
		c.Prompt = new(Prompt)
		body = c.Prompt
	case RetrievalCompleted:
		c.Retrieval = new(Retrieval)
		body = c.Retrieval
	case ModelCallCompleted, ResponseDelivered, RequestClosed:
		c.Response = new(Response)
		body = c.Response
	case ActionProposed, ActionDecided, ActionApproved, ActionExecuted, ActionReceipt:
		c.Action = new(Action)
		body = c.Action
	case GuardrailResult, SafetyIncident:
		c.Safety = new(Safety)
		body = c.Safety
	default:
		return c
	}
	if len(e.Data) == 0 {
		return c
	}
	if err := e.Body(body); err != nil {
		// A half-decoded body would depend on where the fault lies: none at all.
		c = Content{Event: e, Err: fmt.Errorf("event %s: malformed body", e.ID)}
	}
	return c
}

// order is the place that the producer gave the event among its siblings.
func (c *Content) order() int64 {
	switch {
	case c.Prompt != nil:
		return c.Prompt.Order
	case c.Response != nil:
		return c.Response.Order
	}
	return 0
}

// Assemble puts a request together from its events, in any order. Events that
// are not parts of a request (feedback, scores, cases, ...) are passed over, an
// id that comes twice counts once.
func Assemble(parts []Event) Request {
	cs := make([]Content, len(parts))
	for i, e := range parts {
		cs[i] = Open(e)
	}
	return AssembleContent(cs)
}

// AssembleContent is Assemble over events that were opened before. It does not
// change what parts refer to; the request shares their slices and strings.
func AssembleContent(parts []Content) Request {
	ps := make([]*Content, 0, len(parts))
	for i := range parts {
		ps = append(ps, &parts[i])
	}
	slices.SortFunc(ps, func(a, b *Content) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.order(), b.order()), cmp.Compare(a.ID, b.ID),
			cmp.Compare(string(b.Data), string(a.Data)))
	})
	seen := make(map[string]bool, len(ps))
	ps = slices.DeleteFunc(ps, func(c *Content) bool {
		dup := seen[c.ID]
		seen[c.ID] = true
		return dup
	})

	r := Request{Facts: mergeFacts(ps)}
	r.ID = r.Facts.Request
	a := assembly{r: &r, bySpan: map[string]*callParts{}}
	for _, c := range ps {
		a.add(c)
	}
	a.finish()
	return r
}

// assembly gathers what only the whole set of events can tell.
type assembly struct {
	r         *Request
	started   []Message // of request.started
	variables map[string]string
	calls     []*callParts
	bySpan    map[string]*callParts
	delivered []*Response
	closed    []*Response
}

// callParts are the events of one model call.
type callParts struct {
	span      string
	time      time.Time
	prompts   [][]Message
	responses []*Response
}

func (a *assembly) add(c *Content) {
	r := a.r
	if c.Err != nil {
		r.Malformed = append(r.Malformed, c.ID)
	}
	if c.Prompt == nil && c.Retrieval == nil && c.Response == nil && c.Action == nil && c.Safety == nil {
		if c.Err != nil {
			a.span(c)
		}
		if c.Type == RequestClosed {
			r.Closed = true
		}
		return
	}
	a.span(c)
	switch {
	case c.Prompt != nil:
		a.prompt(c)
	case c.Retrieval != nil:
		r.Retrievals = append(r.Retrievals, *c.Retrieval)
		r.RetrievedAt = append(r.RetrievedAt, c.Time)
	case c.Response != nil:
		a.response(c)
	case c.Action != nil:
		r.Actions = append(r.Actions, *c.Action)
	case c.Safety != nil:
		r.Safety = append(r.Safety, *c.Safety)
	}
}

// span widens the request's time span by the event.
func (a *assembly) span(c *Content) {
	if a.r.Start.IsZero() || c.Time.Before(a.r.Start) {
		a.r.Start = c.Time
	}
	if c.Time.After(a.r.End) {
		a.r.End = c.Time
	}
}

func (a *assembly) prompt(c *Content) {
	p := c.Prompt
	if a.r.Name == "" && c.Type == RequestStarted {
		a.r.Name = p.Name
	}
	for k, v := range p.Params {
		if _, ok := a.r.Params[k]; !ok {
			if a.r.Params == nil {
				a.r.Params = map[string]any{}
			}
			a.r.Params[k] = v
		}
	}
	for k, v := range p.Variables {
		if _, ok := a.variables[k]; !ok {
			if a.variables == nil {
				a.variables = map[string]string{}
			}
			a.variables[k] = v
		}
	}
	switch {
	case c.Type == RequestStarted:
		a.started = append(a.started, p.Messages...)
	case len(p.Messages) > 0:
		g := a.call(c)
		g.prompts = append(g.prompts, p.Messages)
	}
}

func (a *assembly) response(c *Content) {
	p := c.Response
	switch c.Type {
	case RequestClosed:
		a.r.Closed = true
		a.closed = append(a.closed, p)
	case ResponseDelivered:
		a.delivered = append(a.delivered, p)
		a.r.Responses = append(a.r.Responses, *p)
	default:
		g := a.call(c)
		g.responses = append(g.responses, p)
		a.r.Responses = append(a.r.Responses, *p)
	}
	for _, id := range p.Citations {
		if !slices.Contains(a.r.Citations, id) {
			a.r.Citations = append(a.r.Citations, id)
		}
	}
}

// call is the model call that the event belongs to: its span's, or its own when
// it names no span.
func (a *assembly) call(c *Content) *callParts {
	key := "span " + c.Facts.Span
	if c.Facts.Span == "" {
		key = "event " + c.ID
	}
	g := a.bySpan[key]
	if g == nil {
		g = &callParts{span: c.Facts.Span, time: c.Time}
		a.bySpan[key] = g
		a.calls = append(a.calls, g)
	}
	return g
}

func (a *assembly) finish() {
	r := a.r
	for _, g := range a.calls {
		r.Calls = append(r.Calls, Call{Span: g.span, Time: g.time, Prompt: mergeMessages(g.prompts), Response: mergeResponses(g.responses)})
	}
	for i := range r.Calls {
		if len(r.Calls[i].Prompt) > 0 {
			r.Prompts = r.Calls[i].Prompt
		}
	}
	if len(r.Prompts) == 0 {
		r.Prompts = a.started
	}
	r.System = cmp.Or(lastOf(a.started, "system", "developer"), lastOf(r.Prompts, "system", "developer"))
	r.Question = a.question()
	r.Contexts = contexts(r.Retrievals)
	a.answer()
	a.totals()
}

// question is what the user asked. A prompt often wraps it in instructions and
// retrieved text, so the places that hold it bare come first.
func (a *assembly) question() string {
	if q := lastOf(a.started, "user", "human"); q != "" {
		return q
	}
	for _, name := range []string{"question", "query", "input", "user_query", "user_input"} {
		if q := strings.TrimSpace(a.variables[name]); q != "" {
			return q
		}
	}
	q := lastOf(a.r.Prompts, "user", "human")
	for _, t := range a.r.Retrievals {
		if t.Query != "" && (q == "" || len(q) > len(t.Query) && strings.Contains(q, t.Query)) {
			return t.Query
		}
	}
	return q
}

// answer picks what the user got: what was delivered, else what the root span
// says it gave, else the last text of a model.
func (a *assembly) answer() {
	r := a.r
	take := func(p *Response) bool {
		text := assistantText(p.Messages)
		if text == "" {
			return false
		}
		r.Answer = text
		return true
	}
	for i := len(a.delivered) - 1; i >= 0 && r.Answer == ""; i-- {
		take(a.delivered[i])
	}
	for i := len(a.closed) - 1; i >= 0 && r.Answer == ""; i-- {
		take(a.closed[i])
	}
	for i := len(r.Calls) - 1; i >= 0; i-- {
		c := &r.Calls[i]
		if r.Answer == "" && !take(&c.Response) {
			continue
		}
		r.Finish = finishOf(&c.Response)
		break
	}
	if len(r.Finish) == 0 {
		for _, list := range [][]*Response{a.delivered, a.closed} {
			for _, p := range list {
				if len(r.Finish) == 0 {
					r.Finish = finishOf(p)
				}
			}
		}
	}
	if len(r.Finish) == 0 && len(r.Calls) > 0 {
		r.Finish = finishOf(&r.Calls[len(r.Calls)-1].Response)
	}
}

// totals are latency, cost, usage and the error: what the root span says, else
// what its parts add up to.
func (a *assembly) totals() {
	r := a.r
	var calls Usage
	var cost float64
	for i := range r.Calls {
		p := &r.Calls[i].Response
		cost += p.CostUSD
		if p.Usage != nil {
			calls.Input += p.Usage.Input
			calls.Output += p.Usage.Output
			calls.Total += total(p.Usage)
			calls.Cached += p.Usage.Cached
		}
	}
	for _, list := range [][]*Response{a.closed, a.delivered} {
		for _, p := range list {
			r.LatencyMs = cmp.Or(r.LatencyMs, p.LatencyMs)
			r.CostUSD = cmp.Or(r.CostUSD, p.CostUSD)
			if r.Usage == nil && p.Usage != nil {
				u := *p.Usage
				u.Total = total(p.Usage)
				r.Usage = &u
			}
			if r.Error == nil {
				r.Error = p.Error
			}
		}
	}
	r.CostUSD = cmp.Or(r.CostUSD, cost)
	if r.Usage == nil && calls != (Usage{}) {
		r.Usage = &calls
	}
	if n := len(r.Calls); r.Error == nil && r.Answer == "" && n > 0 {
		r.Error = r.Calls[n-1].Response.Error
	}
}

func total(u *Usage) int64 {
	if u.Total > 0 {
		return u.Total
	}
	return u.Input + u.Output
}

func finishOf(p *Response) []string {
	if len(p.Finish) > 0 {
		return p.Finish
	}
	for _, m := range p.Messages {
		if m.Finish != "" {
			return []string{m.Finish}
		}
	}
	return nil
}

// assistantText is the text of the last message that a model wrote.
func assistantText(ms []Message) string {
	for i := len(ms) - 1; i >= 0; i-- {
		switch ms[i].Role {
		case "", "assistant", "model", "ai":
			if strings.TrimSpace(ms[i].Content) != "" {
				return ms[i].Content
			}
		}
	}
	return ""
}

func lastOf(ms []Message, roles ...string) string {
	for i := len(ms) - 1; i >= 0; i-- {
		if slices.Contains(roles, ms[i].Role) && strings.TrimSpace(ms[i].Content) != "" {
			return ms[i].Content
		}
	}
	return ""
}

// contexts are the documents of all retrievals, each once.
func contexts(rs []Retrieval) []Document {
	var docs []Document
	type key struct{ id, version, text string }
	seen := map[key]bool{}
	for _, t := range rs {
		for _, d := range t.Documents {
			k := key{d.ID, d.Version, d.Text}
			if !seen[k] {
				seen[k] = true
				docs = append(docs, d)
			}
		}
	}
	return docs
}

// mergeMessages joins the lists that the events of one call carry. A span may
// come with the whole list and with one event per message too: what the longest
// list has is not said again.
func mergeMessages(lists [][]Message) []Message {
	switch len(lists) {
	case 0:
		return nil
	case 1:
		return lists[0]
	}
	longest := 0
	for i, l := range lists {
		if len(l) > len(lists[longest]) {
			longest = i
		}
	}
	if len(lists[longest]) <= 1 {
		return slices.Concat(lists...)
	}
	out := slices.Clone(lists[longest])
	for i, l := range lists {
		for _, m := range l {
			if i != longest && !slices.ContainsFunc(lists[longest], func(o Message) bool { return sameMessage(o, m) }) {
				out = append(out, m)
			}
		}
	}
	return out
}

func sameMessage(a, b Message) bool {
	return a.Role == b.Role && a.Content == b.Content && a.ToolCall == b.ToolCall && slices.Equal(a.ToolCalls, b.ToolCalls)
}

// mergeResponses makes one response of the events of one call: the first that
// knows a field gives it, output messages are joined without repetition.
func mergeResponses(ps []*Response) Response {
	if len(ps) == 0 {
		return Response{}
	}
	out := *ps[0]
	out.Messages = nil
	for _, p := range ps {
		out.Provider = cmp.Or(out.Provider, p.Provider)
		out.Operation = cmp.Or(out.Operation, p.Operation)
		out.ModelAsked = cmp.Or(out.ModelAsked, p.ModelAsked)
		out.ModelGiven = cmp.Or(out.ModelGiven, p.ModelGiven)
		out.Route = cmp.Or(out.Route, p.Route)
		out.LatencyMs = cmp.Or(out.LatencyMs, p.LatencyMs)
		out.CostUSD = cmp.Or(out.CostUSD, p.CostUSD)
		out.FirstMs = cmp.Or(out.FirstMs, p.FirstMs)
		out.Streaming = out.Streaming || p.Streaming
		if len(out.Finish) == 0 {
			out.Finish = p.Finish
		}
		if out.Usage == nil {
			out.Usage = p.Usage
		}
		if out.Error == nil {
			out.Error = p.Error
		}
		if len(out.Citations) == 0 {
			out.Citations = p.Citations
		}
		for _, m := range p.Messages {
			if !slices.ContainsFunc(out.Messages, func(o Message) bool { return sameMessage(o, m) }) {
				out.Messages = append(out.Messages, m)
			}
		}
	}
	return out
}

// MergeFacts are the facts of a request as its events tell them. Of one fact
// the assignment's word comes first (unit.assigned), then the root span's
// (request.started, request.closed), then the earliest event's. What
// is true of one event only (span, response, producer, ...) is left out.
func MergeFacts(parts []Event) Facts {
	ps := make([]*Content, len(parts))
	for i := range parts {
		ps[i] = &Content{Event: parts[i]}
	}
	slices.SortFunc(ps, func(a, b *Content) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.ID, b.ID))
	})
	return mergeFacts(ps)
}

// MergeContentFacts is MergeFacts over events that were opened before.
func MergeContentFacts(parts []Content) Facts {
	ps := make([]*Content, len(parts))
	for i := range parts {
		ps[i] = &parts[i]
	}
	slices.SortFunc(ps, func(a, b *Content) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.ID, b.ID))
	})
	return mergeFacts(ps)
}

// mergedFacts are the names of the facts that hold for the whole request.
var mergedFacts = map[string]bool{
	"tenant": true, "app": true, "environment": true, "request": true, "trace": true, "session": true, "task": true,
	"subject": true, "release": true, "deployment": true, "arm": true, "unit": true, "unit_kind": true, "stage": true,
	"assignment": true, "salt": true, "model": true, "prompt_version": true, "retriever_version": true,
}

func mergeFacts(ps []*Content) Facts {
	var f Facts
	rank := func(c *Content) int {
		switch c.Type {
		case UnitAssigned:
			return 0
		case RequestStarted:
			return 1
		case RequestClosed:
			return 2
		}
		return 3
	}
	for want := range 4 {
		for _, c := range ps {
			if rank(c) != want {
				continue
			}
			for _, s := range stringFacts {
				if to := s.at(&f); *to == "" && mergedFacts[s.name] {
					*to = *s.at(&c.Facts)
				}
			}
			if f.Propensity == nil {
				f.Propensity = c.Facts.Propensity
			}
			for dim, v := range c.Facts.Segments {
				if _, ok := f.Segments[dim]; !ok {
					if f.Segments == nil {
						f.Segments = map[string]string{}
					}
					f.Segments[dim] = v
				}
			}
		}
	}
	return f
}
