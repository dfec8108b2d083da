package gate

import (
	"encoding/json"
	"fmt"

	"github.com/looptape/looptape/internal/loop/event"
)

// Phases as the web metric provider of Argo Rollouts reads them.
const (
	PhaseSuccessful   = "Successful"
	PhaseFailed       = "Failed"
	PhaseInconclusive = "Inconclusive"
)

// status is a lane as the last step left it.
type status struct {
	tenant, release, deployment string
	state                       string
	advanced                    bool
	ids                         [2]string
	evidence, decision          json.RawMessage
}

// statuses is a snapshot of all lanes, oldest first.
func (e *Engine) statuses() []status {
	out := make([]status, 0, len(e.order))
	for _, id := range e.order {
		l := e.lanes[id]
		pr := l.process
		out = append(out, status{
			tenant: pr.Tenant, release: pr.Release.Release, deployment: pr.Release.Deployment, state: pr.State,
			advanced: pr.Advanced > 0 && pr.Advanced == len(pr.Stages) && pr.State == event.GateComparing,
			ids:      l.meta.LastIDs, evidence: l.meta.Evidence, decision: l.meta.Decision,
		})
	}
	return out
}

// answer is the body of GET /v1/gates/{release}.
func (s *status) answer() (event.GateStatus, error) {
	g := event.GateStatus{State: s.state, Release: s.release, EvidenceID: s.ids[0], DecisionID: s.ids[1], Phase: PhaseInconclusive}
	if len(s.evidence) > 0 {
		g.Evidence = new(event.Evidence)
		if err := json.Unmarshal(s.evidence, g.Evidence); err != nil {
			return g, fmt.Errorf("gate of release %s: %w", s.release, err)
		}
		g.LagS = g.Evidence.LagS
	}
	if len(s.decision) > 0 {
		g.Decision = new(event.Decision)
		if err := json.Unmarshal(s.decision, g.Decision); err != nil {
			return g, fmt.Errorf("gate of release %s: %w", s.release, err)
		}
	}
	switch {
	case s.state == event.GateRollingBack || s.state == event.GateRolledBack:
		g.Phase, g.Message = PhaseFailed, "the release is rolled back"
	case s.state == event.GatePromoted:
		g.Phase, g.Message = PhaseSuccessful, "the release is promoted"
	case s.advanced:
		g.Phase, g.Message = PhaseSuccessful, "every guard passed in this stage: the ramp may advance"
	case s.state == event.GateQuarantined:
		g.Message = "the arms were not drawn with the logged probabilities: nothing can be said"
	case s.state == event.GateExpired:
		g.Message = "the deployment was ended from outside"
	case s.state == event.GateHold:
		g.Message = "the ramp holds"
	case s.state == event.GateWarming:
		g.Message = "no unit has entered the comparison yet"
	default:
		g.Message = "the comparison goes on"
	}
	if g.Decision != nil && g.Decision.Reason != "" && (s.state == g.Decision.State || g.Phase == PhaseFailed) {
		g.Message = g.Decision.Reason
	}
	g.OK = g.Phase == PhaseSuccessful
	return g, nil
}
