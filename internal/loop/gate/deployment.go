package gate

import (
	"fmt"
	"slices"
	"time"

	"github.com/looptape/looptape/internal/loop/event"
)

// stepDeployment opens, moves and ends gates.
func (e *Engine) stepDeployment(in *DeploymentInput) []Effect {
	b := &in.Body
	if b.Release == "" {
		return []Effect{{Note: in.Type + " without a release is ignored"}}
	}
	switch in.Type {
	case event.DeploymentStarted:
		if l := e.find(in.Tenant, b); l != nil {
			return e.move(l, b) // told again: a repeated started never restarts a comparison
		}
		return e.open(in)
	case event.DeploymentStep:
		if l := e.find(in.Tenant, b); l != nil {
			return e.move(l, b)
		}
	case event.DeploymentFinished, event.DeploymentRolledBack:
		if l := e.find(in.Tenant, b); l != nil {
			outcome := b.Outcome
			if in.Type == event.DeploymentRolledBack {
				outcome = "rolled_back"
			}
			return e.end(l, outcome, in.Time)
		}
	}
	return nil
}

// find is the gate of a deployment, or of a release when the event names none.
func (e *Engine) find(tenant string, b *event.Deployment) *lane {
	for i := len(e.order) - 1; i >= 0; i-- {
		l := e.lanes[e.order[i]]
		r := &l.process.Release
		if l.process.Tenant == tenant && r.Release == b.Release && (b.Deployment == "" || b.Deployment == r.Deployment) {
			return l
		}
	}
	return nil
}

func (e *Engine) open(in *DeploymentInput) []Effect {
	b := &in.Body
	if b.Baseline == "" || b.Baseline == b.Release {
		return []Effect{{Note: fmt.Sprintf("release %s names no baseline to compare it with: no gate judges it", b.Release)}}
	}
	info := releaseInfo{
		Release: b.Release, Baseline: b.Baseline, Deployment: b.Deployment, App: b.App, Kind: b.Kind, Layer: b.Layer,
		ReversibleUntil: b.ReversibleUntil, Announced: map[string][]float64{},
	}
	announce(&info, b)
	facts := ReleaseFacts{
		ID: b.Release, Baseline: b.Baseline, Deployment: b.Deployment, App: b.App, Kind: b.Kind, Layer: b.Layer,
		Stage: b.Stage, Propensity: b.Propensity, ReversibleUntil: farFuture,
	}
	if b.ReversibleUntil != nil {
		facts.ReversibleUntil = *b.ReversibleUntil
	}
	var out []Effect
	for _, p := range e.cfg.Policies {
		ok, err := p.Matches(facts)
		if err != nil {
			out = append(out, Effect{Note: fmt.Sprintf("release %s, policy %s: %v", b.Release, p.Title(), err)})
			continue
		}
		if !ok {
			continue
		}
		l := &lane{process: newProcess(in.Tenant, info, p), units: map[string]*unit{}, done: map[[16]byte]struct{}{}}
		e.makeRoom()
		e.lanes[l.process.ID] = l
		e.order = append(e.order, l.process.ID)
		e.keepLane(l)
		// Cases that came before their deployment.
		early := e.unmatched
		e.unmatched = nil
		for _, w := range early {
			if e.route(&w.Case) {
				e.forget("w\x00" + w.Key)
			} else {
				e.unmatched = append(e.unmatched, w)
			}
		}
		return append(out, Effect{Note: fmt.Sprintf("release %s against %s is judged by policy %s (%s)", b.Release, b.Baseline, p.Title(), p.Hash())})
	}
	return append(out, Effect{Note: fmt.Sprintf("no policy matches release %s: no gate judges it", b.Release)})
}

// makeRoom forgets the oldest concluded gate when there are too many.
func (e *Engine) makeRoom() {
	if len(e.order) < maxLanes {
		return
	}
	at := slices.IndexFunc(e.order, func(id string) bool { return e.lanes[id].process.concluded() })
	if at < 0 {
		at = 0
	}
	id := e.order[at]
	e.empty(e.lanes[id])
	delete(e.lanes, id)
	e.order = slices.Delete(e.order, at, at+1)
	e.forget("l\x00" + id)
}

func announce(info *releaseInfo, b *event.Deployment) {
	if b.Stage != "" {
		info.Stage = b.Stage
	}
	if b.Propensity > 0 && b.Propensity < 1 {
		info.Propensity = b.Propensity
		if said := info.Announced[info.Stage]; !slices.Contains(said, b.Propensity) && len(said) < maxStages && len(info.Announced) < maxStages {
			if info.Announced == nil {
				info.Announced = map[string][]float64{}
			}
			info.Announced[info.Stage] = append(said, b.Propensity)
		}
	}
}

// move takes a new stage.
func (e *Engine) move(l *lane, b *event.Deployment) []Effect {
	if l.process.concluded() {
		return nil
	}
	r := &l.process.Release
	announce(r, b)
	if b.ReversibleUntil != nil {
		r.ReversibleUntil = b.ReversibleUntil
	}
	e.keepLane(l)
	return nil
}

// end takes the word of others that the deployment is over.
func (e *Engine) end(l *lane, outcome string, said time.Time) []Effect {
	pr := l.process
	if pr.State == event.GateRollingBack && outcome == "rolled_back" {
		pr.State = event.GateRolledBack
		l.meta.Actions = nil
		e.keepLane(l)
		return nil
	}
	if pr.concluded() {
		return nil
	}
	if outcome == "" {
		outcome = "abandoned"
	}
	at := e.clock.now()
	if at.IsZero() {
		at = e.clock.Max
	}
	if said.After(at) {
		at = said // it may end before any case of it came
	}
	l.meta.Actions = nil
	out := e.readout(l, at, ambience{Outside: outcome})
	e.empty(l)
	return out
}

// stepAck takes what became of an action.
func (e *Engine) stepAck(a *Ack) []Effect {
	l := e.lanes[a.Process]
	if l == nil {
		return nil
	}
	at := slices.IndexFunc(l.meta.Actions, func(o Action) bool { return o.Decision == a.Decision })
	if at < 0 {
		return nil // a newer decision has taken its place
	}
	act := l.meta.Actions[at]
	pr := l.process
	body := event.Acknowledgement{
		Release: act.Release, Deployment: act.Deployment, Decision: act.Decision, Action: act.Action, Actuator: a.Actuator,
		Outcome: "failed", Observed: a.Observed, Share: a.Share, Attempts: a.Attempts, Error: a.Error,
	}
	if a.Done {
		body.Outcome = "done"
		l.meta.Actions = slices.Delete(l.meta.Actions, at, at+1)
	}
	id := event.DeriveID(event.GateAcknowledged, pr.Tenant, act.Decision, a.Actuator, body.Outcome, fmt.Sprint(a.Attempts))
	out := []Effect{{Emit: e.emission(pr, event.GateAcknowledged, id, a.At, mustJSON(&body))}}
	if a.Done && act.Action == event.ActRollback && pr.State == event.GateRollingBack {
		pr.State = event.GateRolledBack
		gone := event.Deployment{
			Release: act.Release, Baseline: act.Baseline, App: act.App, Deployment: act.Deployment, Stage: act.Stage,
			Actor: "gate", Policy: pr.policy.Hash(), Reason: act.Reason, Outcome: "rolled_back",
		}
		em := e.emission(pr, event.DeploymentRolledBack, event.DeriveID(event.DeploymentRolledBack, pr.Tenant, act.Decision), a.At, mustJSON(&gone))
		em.Topic = event.TopicDeployment
		out = append(out, Effect{Emit: em})
	}
	e.keepLane(l)
	return out
}

// Unfinished lists the actions that are not yet acknowledged as done.
func (e *Engine) Unfinished() (out []Action) {
	for _, id := range e.order {
		out = append(out, e.lanes[id].meta.Actions...)
	}
	return out
}

// running reports whether any gate still waits for units.
func (e *Engine) running() bool {
	return slices.ContainsFunc(e.order, func(id string) bool { return !e.lanes[id].process.concluded() })
}
