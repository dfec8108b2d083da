// Package gate decides on releases: cases and a policy in, decisions with their
// evidence out.
//
//	llm.deployment ─┐                    ┌─> gate.evidence, gate.decision   (llm.decision)
//	                ├─> Engine ──────────┤
//	llm.case ───────┘   (pure, a step    └─> Actuator ─> gate.acknowledged, deployment.rolled_back
//	tick, ack ──────>    at a time)
//
// A Policy names the guarded metrics, their margins and weights, the error rates
// and the rules. A release that a deployment event starts gets one e-process
// (package measure) per metric and segment, under the policy that matched it,
// frozen for the release's life.
//
// What enters a comparison, and when, decides whether its guarantee is true. One
// unit of randomisation (a conversation) gives one outcome per metric. It closes
// after unit_close without a request, when its session ends, or at its 20th
// request, all in event time; it enters in order of first request, only after
// the watermark's time has passed since it closed, in its arm and stage at first
// request, and only with a logged propensity. A score that is not there by then
// takes the value that hurts the claim; one that comes later changes nothing.
// Evidence is read at fixed points of the units' order, so that any order of
// arrival within the watermark gives the same integers and the same decisions.
//
// The Engine is pure: it has no clock, no log and no I/O, and its time is the
// event time of the cases, carried on by ticks when the stream is idle. Every
// evidence event lists the units that entered and what they came to, so that
// Recompute can run the same code over the log and must find the same integers,
// hashes and decisions.
//
// The Runner feeds it from the stream, keeps its state with the offsets it was
// reached at in one atomic write together with the events to be sent (an
// outbox), sends them, and drives the actuators. A crash at any point leads to
// the same events again, with the same ids and bytes.
//
// A crossing is final. rolled_back is left only by a new release. Without data
// the ramp holds. A broken assignment is quarantined, whatever the rules say.
package gate

import (
	"container/heap"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/looptape/looptape/internal/loop/event"
	"github.com/looptape/looptape/internal/loop/measure"
)

// Config is what an Engine is built with.
type Config struct {
	Policies   []*Policy     // the first that matches a release judges it
	Partitions int           // of llm.case
	IdleAfter  time.Duration // wall time without a case after which ticks carry the clock on; default 3 s
	MaxOpen    int           // open units per release; default 200,000
	MaxUnits   int           // units remembered per release, so that none enters twice; default 2,000,000

	quiet bool // no confidence sequences, no record of changes: for simulation
}

// An Engine runs the gates of all tenants. It belongs to one goroutine.
type Engine struct {
	cfg       Config
	lanes     map[string]*lane // by process id
	order     []string         // of creation
	clock     clock
	unmatched []waiting // cases that came before their deployment
	offsets   map[string]map[int32]int64

	changed map[string][]byte // since the last Flush; nil value: deleted
}

// clock is event time: of every partition the latest that was read, and of the
// whole the least of these.
type clock struct {
	Data []time.Time `json:"data"`
	Max  time.Time   `json:"max"`
	Wall time.Time   `json:"-"` // when a case last came, by the ticks' clock; a restart begins anew, as what feeds us may have to catch up
	Seen bool        `json:"-"` // a case came since the last tick
}

func (c *clock) now() time.Time {
	t := c.Data[0]
	for _, d := range c.Data[1:] {
		if d.Before(t) {
			t = d
		}
	}
	return t
}

// A waiting case is one whose release no gate judges yet.
type waiting struct {
	Key  string     `json:"key"`
	At   time.Time  `json:"at"`
	Case event.Case `json:"case"`
}

const (
	maxWaiting  = 2000
	waitingTime = time.Minute
	maxLanes    = 256 // running and recently concluded
)

// A lane is one release on its way through the gate: the queue before its
// process.
type lane struct {
	process *process
	queue   queue
	units   map[string]*unit
	done    map[[16]byte]struct{}

	meta laneMeta
}

type laneMeta struct {
	FloorAt  time.Time         `json:"floor_at"` // units up to here have had their turn
	FloorID  string            `json:"floor_id"`
	Boundary time.Time         `json:"boundary"` // end of the running read-out interval
	Last     time.Time         `json:"last"`     // clock when a unit last entered
	Idle     bool              `json:"idle,omitempty"`
	Dropped  event.GateDropped `json:"dropped"`
	Actions  []Action          `json:"actions,omitempty"` // not yet acknowledged as done
	Evidence json.RawMessage   `json:"evidence,omitempty"`
	Decision json.RawMessage   `json:"decision,omitempty"`
	LastIDs  [2]string         `json:"last_ids"` // of evidence and decision
}

// NewEngine returns an engine without releases.
func NewEngine(cfg Config) (*Engine, error) {
	if len(cfg.Policies) == 0 {
		return nil, fmt.Errorf("gate engine: no policy")
	}
	if cfg.Partitions < 1 || cfg.Partitions > 4096 {
		return nil, fmt.Errorf("gate engine: %d partitions of cases", cfg.Partitions)
	}
	if cfg.IdleAfter == 0 {
		cfg.IdleAfter = 3 * time.Second
	}
	if cfg.MaxOpen == 0 {
		cfg.MaxOpen = 200_000
	}
	if cfg.MaxUnits == 0 {
		cfg.MaxUnits = 2_000_000
	}
	return &Engine{cfg: cfg, lanes: map[string]*lane{}, clock: clock{Data: make([]time.Time, cfg.Partitions)}, changed: map[string][]byte{}}, nil
}

// An Input is one thing that happened; exactly one field is set.
type Input struct {
	Case       *CaseInput
	Deployment *DeploymentInput
	Tick       *Tick
	Ack        *Ack
}

// CaseInput is a revision of a case, or its withdrawal.
type CaseInput struct {
	Partition int32
	Appended  time.Time // by the log's clock; zero when unknown
	Case      event.Case
	Withdrawn bool // a tombstone: Case has tenant and request only
}

// DeploymentInput is an event of llm.deployment.
type DeploymentInput struct {
	Type   string
	Tenant string
	Time   time.Time // when it happened
	Body   event.Deployment
}

// Tick says that at Now, by the wall clock, everything in these partitions had
// been read.
type Tick struct {
	Now        time.Time
	Partitions []int32
}

// Ack is what became of an action.
type Ack struct {
	Process  string
	Decision string
	Actuator string
	Done     bool
	Observed string
	Share    *float64
	Attempts int
	Error    string
	At       time.Time
}

// An Effect is what an engine wants done; one field is set. Actions to be carried
// out are kept in the state: see Unfinished.
type Effect struct {
	Emit *Emission
	Note string // for the operator's log
}

// An Emission is an event to be appended, once or more.
type Emission struct {
	Topic string
	Key   string
	Event event.Event
}

// An Action is a decision to be carried out, with the decision's id as
// idempotency key.
type Action struct {
	Process         string     `json:"process"`
	Decision        string     `json:"decision"`
	Tenant          string     `json:"tenant"`
	Action          string     `json:"action"`
	Release         string     `json:"release"`
	Baseline        string     `json:"baseline"`
	Deployment      string     `json:"deployment,omitempty"`
	App             string     `json:"app,omitempty"`
	Stage           string     `json:"stage,omitempty"`
	Reason          string     `json:"reason,omitempty"`
	ReversibleUntil *time.Time `json:"reversible_until,omitempty"`
	Time            time.Time  `json:"time"` // of the decision
}

// SetOffsets tells the next offsets to be read, as evidence records them.
func (e *Engine) SetOffsets(next map[string]map[int32]int64) { e.offsets = next }

// Step takes one input and returns what follows from it, in order.
func (e *Engine) Step(in Input) []Effect {
	var out []Effect
	switch {
	case in.Case != nil:
		e.stepCase(in.Case)
	case in.Deployment != nil:
		out = e.stepDeployment(in.Deployment)
	case in.Tick != nil:
		e.stepTick(in.Tick)
	case in.Ack != nil:
		return e.stepAck(in.Ack)
	}
	now := e.clock.now()
	for _, id := range e.order {
		out = append(out, e.advance(e.lanes[id], now)...)
	}
	return out
}

func (e *Engine) stepTick(t *Tick) {
	c := &e.clock
	if c.Seen || c.Wall.IsZero() {
		c.Wall, c.Seen = t.Now, false
	}
	// A partition that was read to its end holds nothing older than what the
	// others show. With none showing anything the wall clock carries on.
	to := c.Max
	if idle := t.Now.Sub(c.Wall); idle >= e.cfg.IdleAfter && t.Now.Add(-e.cfg.IdleAfter).After(to) {
		to = t.Now.Add(-e.cfg.IdleAfter)
	}
	for _, p := range t.Partitions {
		if p >= 0 && int(p) < len(c.Data) && to.After(c.Data[p]) {
			c.Data[p] = to
		}
	}
	if len(t.Partitions) == len(c.Data) && to.After(c.Max) {
		c.Max = to
	}
	e.keep("c", c)
}

func (e *Engine) stepCase(in *CaseInput) {
	if in.Partition < 0 || int(in.Partition) >= len(e.clock.Data) {
		return // the topic has grown: EnsureTopics refuses that for request-scoped topics
	}
	c := &in.Case
	if in.Withdrawn {
		for _, id := range e.order {
			e.lanes[id].remove(e, shellID(c.Request))
		}
		return
	}
	at := c.End
	if c.Start.After(at) {
		at = c.Start
	}
	// A clock that runs ahead at the sender must not close everybody's units.
	if !in.Appended.IsZero() && at.After(in.Appended) {
		at = in.Appended
	}
	e.clock.Seen = true
	if at.After(e.clock.Data[in.Partition]) {
		e.clock.Data[in.Partition] = at.UTC()
	}
	if at.After(e.clock.Max) {
		e.clock.Max = at.UTC()
	}
	e.keep("c", &e.clock)
	if !e.route(c) && c.Propensity != nil {
		e.await(waiting{Key: c.Tenant + "/" + c.Request, At: at, Case: *c})
	}
}

// route puts a case into the queue of its release's gate. It reports false when
// no gate judges the release.
func (e *Engine) route(c *event.Case) bool {
	if c.Arm == event.ArmShadow || c.Request == "" {
		return true
	}
	var found *lane
	arm := ""
	known := false
	for _, id := range e.order {
		l := e.lanes[id]
		r := &l.process.Release
		if l.process.Tenant != c.Tenant {
			continue
		}
		a := c.Arm
		if a == "" && c.Release == r.Release {
			a = event.ArmCandidate
		} else if a == "" && c.Release == r.Baseline {
			a = event.ArmBaseline
		}
		fits := a == event.ArmCandidate && c.Release == r.Release || a == event.ArmBaseline && c.Release == r.Baseline
		if c.Deployment != "" && r.Deployment != "" {
			fits = c.Deployment == r.Deployment && (a == event.ArmCandidate || a == event.ArmBaseline)
		}
		if !fits {
			continue
		}
		known = true
		if l.process.concluded() {
			continue
		}
		if found != nil {
			if c.Revision <= 1 {
				for _, amb := range []*lane{found, l} {
					amb.meta.Dropped.Ambiguous++
					e.keepLane(amb)
				}
			}
			return true
		}
		found, arm = l, a
	}
	if found != nil {
		found.put(e, c, arm)
	}
	return known
}

func (e *Engine) await(w waiting) {
	now := e.clock.now()
	e.unmatched = slices.DeleteFunc(e.unmatched, func(o waiting) bool {
		gone := o.Key == w.Key || o.At.Add(waitingTime).Before(now)
		if gone {
			e.forget("w\x00" + o.Key)
		}
		return gone
	})
	if len(e.unmatched) >= maxWaiting {
		e.forget("w\x00" + e.unmatched[0].Key)
		e.unmatched = e.unmatched[1:]
	}
	e.unmatched = append(e.unmatched, w)
	e.keep("w\x00"+w.Key, &w)
}

func shellID(request string) string { return "\x00" + request }

func doneKey(unit string) [16]byte {
	sum := sha256.Sum256([]byte(unit))
	return [16]byte(sum[:16])
}

// put takes a revision of a case into its unit.
func (l *lane) put(e *Engine, c *event.Case, arm string) {
	p := l.process.policy
	id := c.Unit
	if id == "" && p.Unit == "request" && c.Propensity != nil {
		id = c.Request
	}
	shell := id == "" || c.Propensity == nil
	if shell {
		id = shellID(c.Request)
	} else {
		l.remove(e, shellID(c.Request)) // what came before its randomisation facts
	}
	if _, done := l.done[doneKey(id)]; done {
		return
	}
	u := l.units[id]
	if u == nil {
		if len(l.units) >= e.cfg.MaxOpen || len(l.done)+len(l.units) >= e.cfg.MaxUnits {
			l.meta.Dropped.OverCap++
			e.keepLane(l)
			return
		}
		u = &unit{ID: id, Shell: shell, First: c.Start.UTC(), Requests: map[string]*request{}}
		l.units[id] = u
		heap.Push(&l.queue, u)
	}
	if u.put(c.Request, requestOf(p, c, arm)) {
		heap.Fix(&l.queue, u.place)
	}
	e.keep(unitKey(l, u.ID), u)
}

// remove takes a unit out without a trace.
func (l *lane) remove(e *Engine, id string) {
	if u := l.units[id]; u != nil {
		heap.Remove(&l.queue, u.place)
		delete(l.units, id)
		e.forget(unitKey(l, id))
	}
}

// finish takes the head out for good: it never enters again.
func (l *lane) finish(e *Engine) {
	u := l.queue[0]
	l.remove(e, u.ID)
	k := doneKey(u.ID)
	l.done[k] = struct{}{}
	e.keepRaw("d\x00"+l.process.ID+"\x00"+string(k[:]), []byte{})
	if !before(l.meta.FloorAt, l.meta.FloorID, u) {
		return
	}
	l.meta.FloorAt, l.meta.FloorID = u.First, u.ID
	e.keepLane(l)
}

// advance gives every unit whose turn has come its turn, and reads out at the
// fixed points of their order.
func (e *Engine) advance(l *lane, now time.Time) (out []Effect) {
	pr := l.process
	p := pr.policy
	lag := p.UnitClose + p.Watermark.Time // the least by which an entry follows the first request
	for !pr.concluded() {
		var head *unit
		if len(l.queue) > 0 {
			head = l.queue[0]
		}
		if head != nil && !before(l.meta.FloorAt, l.meta.FloorID, head) {
			l.meta.Dropped.Late++
			l.finish(e)
			continue
		}
		if head != nil {
			ids, closed := head.counted(p)
			timely := !now.Before(closed.Add(p.Watermark.Time))
			if timely || len(l.queue) > p.Watermark.Units {
				if len(pr.Pending) > 0 && !head.First.Before(l.meta.Boundary) {
					out = append(out, e.readout(l, l.meta.Boundary.Add(lag), ambience{})...)
					continue // the verdict may have come
				}
				l.enter(e, head, ids, timely, now)
				l.finish(e)
				if len(pr.Pending) >= p.Readout.Units {
					out = append(out, e.readout(l, head.First.Add(lag), ambience{})...)
				}
				continue
			}
		}
		if len(pr.Pending) > 0 && !now.Add(-lag).Before(l.meta.Boundary) && (head == nil || !head.First.Before(l.meta.Boundary)) {
			// Whatever comes now with an earlier first request is late.
			l.meta.FloorAt, l.meta.FloorID = l.meta.Boundary, ""
			out = append(out, e.readout(l, l.meta.Boundary.Add(lag), ambience{})...)
			continue
		}
		if pr.State == event.GateComparing && !l.meta.Idle && len(pr.Pending) == 0 && now.Sub(l.meta.Last) >= p.StaleAfter {
			l.meta.Idle = true
			out = append(out, e.readout(l, now, ambience{Stale: true})...)
			continue
		}
		return out
	}
	e.empty(l)
	return out
}

// empty drops what a concluded gate no longer needs.
func (e *Engine) empty(l *lane) {
	if len(l.units) == 0 && len(l.done) == 0 {
		return
	}
	l.meta.Dropped.AfterConclusion += int64(len(l.units))
	for id := range l.units {
		e.forget(unitKey(l, id))
	}
	for k := range l.done {
		e.forget("d\x00" + l.process.ID + "\x00" + string(k[:]))
	}
	l.queue, l.units, l.done = nil, map[string]*unit{}, map[[16]byte]struct{}{}
	e.keepLane(l)
}

// enter turns the head into one outcome per metric, or says why it cannot.
func (l *lane) enter(e *Engine, u *unit, ids []string, timely bool, now time.Time) {
	pr, d := l.process, &l.meta.Dropped
	p := pr.policy
	r := u.Requests[ids[0]]
	defer e.keepLane(l)
	d.LateRequests += int64(len(u.Requests) - len(ids))
	switch {
	case r.Propensity < 0:
		d.NoPropensity += int64(len(ids))
		return
	case u.Shell:
		d.NoUnit += int64(len(ids))
		return
	case r.UnitKind != "" && kind(r.UnitKind) != p.Unit:
		d.WrongUnit++
		return
	case !(r.Propensity >= measure.MinPropensity && r.Propensity <= 1-measure.MinPropensity):
		d.BadPropensity++
		return
	}
	if said := pr.Release.Announced[r.Stage]; len(said) > 0 && !slices.ContainsFunc(said, func(a float64) bool { return a-r.Propensity < 1e-9 && r.Propensity-a < 1e-9 }) {
		d.BadPropensity++
		return
	}
	stage, err := pr.stage(r.Stage, r.Propensity)
	if err != nil {
		d.BadPropensity++
		return
	}
	g := event.GateUnit{
		Unit: u.ID, Stage: stage, First: u.First, Requests: ids, Why: "complete",
		Outcome: u.outcomes(p, ids), Segments: r.Segments,
	}
	if r.Arm == event.ArmCandidate {
		g.Arm = measure.Candidate
	}
	if !timely || slices.Contains(g.Outcome, event.OutcomeMissing) {
		g.Why = "timeout"
	}
	for _, id := range ids {
		o := u.Requests[id]
		if o.Arm != r.Arm {
			d.ArmChanged++
		}
		for i, ev := range o.Evaluators {
			switch {
			case ev == "":
			case pr.Pins[i] == "":
				pr.Pins[i] = ev
			case pr.Pins[i] != ev:
				pr.Suspect[i] = true
			}
		}
	}
	if len(pr.Pending) == 0 {
		l.meta.Boundary = u.First.Truncate(p.Readout.Every).Add(p.Readout.Every)
	}
	l.meta.Last, l.meta.Idle = now, false
	pr.enter(g)
}

func kind(k string) string {
	if k == "session" {
		return "conversation"
	}
	return k
}

// readout takes the evidence and turns it into effects.
func (e *Engine) readout(l *lane, at time.Time, amb ambience) []Effect {
	pr := l.process
	amb.Open, amb.Dropped, amb.Offsets = len(l.units), l.meta.Dropped, e.offsets
	amb.Watermark = l.meta.FloorAt
	if !l.meta.FloorAt.IsZero() {
		amb.LagS = max(0, e.clock.Max.Sub(l.meta.FloorAt).Seconds())
	}
	for i, s := range pr.Suspect {
		if s {
			amb.Suspect = append(amb.Suspect, pr.policy.Guards[i].Metric)
		}
	}
	pr.bands = !e.cfg.quiet
	r, err := pr.readout(at, amb)
	if err != nil {
		return []Effect{{Note: err.Error()}}
	}
	var out []Effect
	if r.Note != "" {
		out = append(out, Effect{Note: fmt.Sprintf("release %s: %s", pr.Release.Release, r.Note)})
	}
	shown := r.Evidence
	shown.Units, shown.Policy = nil, nil
	l.meta.LastIDs[0] = r.EvidenceID
	if !e.cfg.quiet {
		l.meta.Evidence = mustJSON(&shown)
	}
	out = append(out, Effect{Emit: e.emission(pr, event.GateEvidence, r.EvidenceID, r.Evidence.Time, r.Data)})
	if d := r.Decision; d != nil {
		data := mustJSON(d)
		l.meta.LastIDs[1], l.meta.Decision = r.DecisionID, data
		out = append(out, Effect{Emit: e.emission(pr, event.GateDecision, r.DecisionID, d.Time, data)})
		if d.Action != event.ActExpire {
			a := Action{
				Process: pr.ID, Decision: r.DecisionID, Tenant: pr.Tenant, Action: d.Action, Release: d.Release, Baseline: d.Baseline,
				Deployment: d.Deployment, App: d.App, Stage: d.Stage, Reason: d.Reason, ReversibleUntil: d.ReversibleUntil, Time: d.Time,
			}
			// Only the newest word counts: an older move that was not carried out
			// yet must not be carried out after it.
			l.meta.Actions = []Action{a}
		}
	}
	e.keepLane(l)
	return out
}

func (e *Engine) emission(pr *process, typ, id string, at time.Time, data []byte) *Emission {
	ev := event.Event{ID: id, Type: typ, Source: event.Source, Time: at.UTC(), About: pr.Release.Release, Data: data}
	ev.Facts = event.Facts{
		Tenant: pr.Tenant, App: pr.Release.App, Release: pr.Release.Release, Deployment: pr.Release.Deployment,
		Stage: pr.Release.Stage, Policy: pr.policy.Title() + "#" + pr.policy.Hash(), Privacy: "P2", Retention: "audit",
	}
	return &Emission{Topic: event.TopicDecision, Key: pr.Release.Release, Event: ev}
}

// mustJSON encodes a body made of numbers, texts and times.
func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("gate: encode %T: %v", v, err))
	}
	return b
}
