package web

import (
	"errors"
	"time"

	"github.com/looptape/looptape/internal/loop/event"
	"github.com/looptape/looptape/internal/loop/stream"
	"github.com/looptape/looptape/internal/loop/view"
)

// Phases of a gate as Argo Rollouts' web metric provider reads them.
const (
	phaseSuccessful   = "Successful"
	phaseFailed       = "Failed"
	phaseInconclusive = "Inconclusive"
)

func isGone(err error) bool { return errors.Is(err, stream.ErrGone) }

// gateStatus says what a gate's newest evidence and decision mean to a ramp.
func gateStatus(g view.Gate) event.GateStatus {
	st := event.GateStatus{Phase: phaseInconclusive, Release: g.Release, Evidence: g.Evidence, EvidenceID: g.EvidenceID}
	if g.Evidence != nil {
		st.State, st.LagS = g.Evidence.State, g.Evidence.LagS
	}
	var d *event.Decision
	if len(g.Decisions) > 0 {
		row := &g.Decisions[0]
		d, st.DecisionID = &row.Decision, row.ID
		st.Decision = d
		// Evidence taken after the decision knows the state better.
		if g.Evidence == nil || d.EvidenceSeq >= g.Evidence.Seq || g.Evidence.Deployment != d.Deployment {
			st.State = d.State
		}
	}
	if st.State == event.GateRollingBack && len(g.Decisions) > 0 && g.Decisions[0].CarriedOut != nil {
		st.State = event.GateRolledBack
	}
	passed := d != nil && d.Action == event.ActAdvance && (g.Evidence == nil || d.Stage == g.Evidence.Stage)
	switch st.State {
	case event.GateRollingBack, event.GateRolledBack:
		st.Phase, st.Message = phaseFailed, "the release is rolled back"
	case event.GatePromoted:
		st.Phase, st.Message = phaseSuccessful, "the release is promoted"
	case event.GateQuarantined:
		st.Message = "the arms were not drawn with the logged probabilities: nothing can be said"
	case event.GateExpired:
		st.Message = "the deployment was ended from outside"
	case event.GateHold:
		st.Message = "the ramp holds"
	case event.GateWarming:
		st.Message = "no unit has entered the comparison yet"
	default:
		st.Message = "the comparison goes on"
		if passed {
			st.Phase, st.Message = phaseSuccessful, "every guard passed in this stage: the ramp may advance"
		}
	}
	if d != nil && d.Reason != "" && (st.State == d.State || st.Phase == phaseFailed) {
		st.Message = d.Reason
	}
	st.OK = st.Phase == phaseSuccessful
	return st
}

// gate answers GET /v1/gates/{release}.
func (s *Server) gate(q *query) (any, error) {
	release, err := q.path("release")
	if err != nil {
		return nil, err
	}
	if err := q.done(); err != nil {
		return nil, err
	}
	g, err := s.cfg.View.Gate(q.ctx, q.tenant, release)
	if errors.Is(err, view.ErrNotFound) {
		if s.cfg.Gate != nil { // a deployment that has only just started is warming, not unknown
			if st, ok, err := s.cfg.Gate(q.tenant, release); ok || err != nil {
				return st, err
			}
		}
		return nil, notFound("gate_not_found", "this release has no gate: it is not the candidate of a deployment that has started, or no gate policy matches it")
	}
	if err != nil {
		return nil, err
	}
	return gateStatus(g), nil
}

// series answers GET /v1/gates/{release}/series.
func (s *Server) series(q *query) (any, error) {
	release, err := q.path("release")
	if err != nil {
		return nil, err
	}
	n, err := q.whole("points", 300, 2000)
	if err != nil {
		return nil, err
	}
	if err := q.done(); err != nil {
		return nil, err
	}
	points, err := s.cfg.View.Series(q.ctx, q.tenant, release, n)
	if err != nil {
		return nil, err
	}
	return map[string]any{"release": release, "points": points}, nil
}

// listGates answers GET /v1/gates.
func (s *Server) listGates(q *query) (any, error) {
	n, err := q.whole("limit", 20, 100)
	if err != nil {
		return nil, err
	}
	if err := q.done(); err != nil {
		return nil, err
	}
	gates, err := s.cfg.View.Gates(q.ctx, q.tenant, n)
	if err != nil {
		return nil, err
	}
	out := make([]event.GateStatus, 0, len(gates))
	for _, g := range gates {
		out = append(out, gateStatus(g))
	}
	return map[string]any{"gates": out}, nil
}

// listDecisions answers GET /v1/decisions.
func (s *Server) listDecisions(q *query) (any, error) {
	release, err := q.text("release")
	if err != nil {
		return nil, err
	}
	n, err := q.whole("limit", 50, 500)
	if err != nil {
		return nil, err
	}
	if err := q.done(); err != nil {
		return nil, err
	}
	ds, err := s.cfg.View.Decisions(q.ctx, q.tenant, release, n)
	if err != nil {
		return nil, err
	}
	return map[string]any{"decisions": ds}, nil
}

// listReleases answers GET /v1/releases.
func (s *Server) listReleases(q *query) (any, error) {
	n, err := q.whole("limit", 50, 500)
	if err != nil {
		return nil, err
	}
	if err := q.done(); err != nil {
		return nil, err
	}
	rs, err := s.cfg.View.Releases(q.ctx, q.tenant, n)
	if err != nil {
		return nil, err
	}
	return map[string]any{"releases": rs}, nil
}

// release answers GET /v1/releases/{release}: its roll-out and its quality per
// minute.
func (s *Server) release(q *query) (any, error) {
	name, err := q.path("release")
	if err != nil {
		return nil, err
	}
	since, err := q.when("since", s.cfg.Now())
	if err != nil {
		return nil, err
	}
	if err := q.done(); err != nil {
		return nil, err
	}
	if since.IsZero() {
		since = s.cfg.Now().Add(-6 * time.Hour)
	}
	rs, err := s.cfg.View.Releases(q.ctx, q.tenant, 0)
	if err != nil {
		return nil, err
	}
	for _, r := range rs {
		if r.Release != name {
			continue
		}
		ds, err := s.cfg.View.Deployments(q.ctx, q.tenant, name, 100)
		if err != nil {
			return nil, err
		}
		quality, err := s.cfg.View.Quality(q.ctx, q.tenant, name, since)
		if err != nil {
			return nil, err
		}
		return map[string]any{"release": r, "deployments": ds, "quality": quality}, nil
	}
	return nil, notFound("release_not_found", "no request and no deployment has named this release")
}
