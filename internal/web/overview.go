package web

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/looptape/looptape/internal/loop/view"
)

// cached is an answer that stands for a moment: what many open pages ask for at
// once is worked out once.
type cached struct {
	at   time.Time
	body json.RawMessage
}

// overviewFor is how long an overview stands.
const overviewFor = time.Second

type overview struct {
	Version   string                `json:"version"`
	Time      time.Time             `json:"time"`
	Ready     bool                  `json:"ready"`
	CaughtUp  bool                  `json:"caught_up"`
	OTLP      string                `json:"otlp"` // where telemetry is taken
	Counts    view.Counts           `json:"counts"`
	Seen      map[string]view.Seen  `json:"seen"`
	Releases  []view.Release        `json:"releases"`
	Decisions []view.DecisionRow    `json:"decisions"`
	Bad       []view.QuarantinedRow `json:"quarantined"` // the newest few
}

// overview answers GET /v1/overview: what the front page shows before anything
// live has come.
func (s *Server) overview(q *query) (any, error) {
	if err := q.done(); err != nil {
		return nil, err
	}
	now := s.cfg.Now()
	s.mu.Lock()
	c, ok := s.overviews[q.tenant]
	s.mu.Unlock()
	if age := now.Sub(c.at); ok && age >= 0 && age < overviewFor {
		return c.body, nil
	}
	body, err := s.makeOverview(q, now)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.overviews) > 1000 {
		clear(s.overviews)
	}
	s.overviews[q.tenant] = cached{now, body}
	return body, nil
}

func (s *Server) makeOverview(q *query, now time.Time) (json.RawMessage, error) {
	v := s.cfg.View
	o := overview{Version: s.cfg.Version, Time: now.UTC(), Ready: s.ready() == nil, CaughtUp: v.CaughtUp(), OTLP: s.cfg.OTLP}
	var err error
	if o.Counts, err = v.Counts(q.ctx, q.tenant, now); err != nil {
		return nil, err
	}
	if o.Seen, err = v.Seen(q.ctx, q.tenant); err != nil {
		return nil, err
	}
	if o.Releases, err = v.Releases(q.ctx, q.tenant, 20); err != nil {
		return nil, err
	}
	if o.Decisions, err = v.Decisions(q.ctx, q.tenant, "", 10); err != nil {
		return nil, err
	}
	if o.Bad, err = v.Quarantined(q.ctx, q.tenant, 5); err != nil {
		return nil, err
	}
	body, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("encode overview: %w", err)
	}
	return body, nil
}

// recent answers GET /v1/stream/recent.
func (s *Server) recent(q *query) (any, error) {
	typ, err := q.text("type")
	if err != nil {
		return nil, err
	}
	request, err := q.text("request")
	if err != nil {
		return nil, err
	}
	n, err := q.whole("limit", 100, 500)
	if err != nil {
		return nil, err
	}
	if err := q.done(); err != nil {
		return nil, err
	}
	rows, err := s.cfg.View.Recent(q.ctx, q.tenant, typ, request, n)
	if err != nil {
		return nil, err
	}
	return map[string]any{"events": rows}, nil
}

// quarantine answers GET /v1/quarantine.
func (s *Server) quarantine(q *query) (any, error) {
	n, err := q.whole("limit", 100, 500)
	if err != nil {
		return nil, err
	}
	if err := q.done(); err != nil {
		return nil, err
	}
	rows, err := s.cfg.View.Quarantined(q.ctx, q.tenant, n)
	if err != nil {
		return nil, err
	}
	return map[string]any{"quarantined": rows}, nil
}
