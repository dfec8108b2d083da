package view

import (
	"encoding/json"

	"github.com/looptape/looptape/internal/loop/event"
)

// decision folds a record of llm.decision.
func (f *fold) decision(e *event.Event) error {
	switch e.Type {
	case event.GateEvidence:
		return f.evidence(e)
	case event.GateDecision:
		return f.gateDecision(e)
	case event.GateAcknowledged:
		var a event.Acknowledgement
		if e.Body(&a) != nil || a.Decision == "" {
			return f.skip(e.Position.Topic)
		}
		doc, err := json.Marshal(&a)
		if err != nil {
			return f.skip(e.Position.Topic)
		}
		return f.exec("INSERT OR REPLACE INTO acknowledgements (tenant, id, decision, time, doc) VALUES (?,?,?,?,?)",
			e.Facts.Tenant, e.ID, a.Decision, e.Time.UnixNano(), string(doc))
	}
	return nil
}

// evidence keeps what a plot and a card need. The units, the integers and the
// policy stay on the tape, where the position of the event tells.
func (f *fold) evidence(e *event.Event) error {
	var ev event.Evidence
	if e.Body(&ev) != nil || ev.Release == "" {
		return f.skip(e.Position.Topic)
	}
	ev.Units, ev.Policy = nil, nil
	for _, reads := range [][]event.GuardRead{ev.Guards, ev.Others} {
		for i := range reads {
			reads[i].Harm, reads[i].Promote = nil, nil
		}
	}
	doc, err := json.Marshal(&ev)
	if err != nil {
		return f.skip(e.Position.Topic)
	}
	if err := f.exec("INSERT OR REPLACE INTO evidence (tenant, id, release, process, seq, time, doc) VALUES (?,?,?,?,?,?,?)",
		e.Facts.Tenant, e.ID, ev.Release, processOf(&ev), ev.Seq, ev.Time.UnixNano(), string(doc)); err != nil {
		return err
	}
	c, p := f.change(e.Facts.Tenant), pointOf(e.ID, &ev)
	for i := range c.Points {
		if c.Points[i].Release == p.Release {
			c.Points[i] = p
			return nil
		}
	}
	c.Points = append(c.Points, p)
	return nil
}

func (f *fold) gateDecision(e *event.Event) error {
	var d event.Decision
	if e.Body(&d) != nil || d.Release == "" {
		return f.skip(e.Position.Topic)
	}
	for i := range d.Top {
		d.Top[i].Harm, d.Top[i].Promote = nil, nil
	}
	doc, err := json.Marshal(&d)
	if err != nil {
		return f.skip(e.Position.Topic)
	}
	if err := f.exec("INSERT OR REPLACE INTO decisions (tenant, id, release, time, seq, action, doc) VALUES (?,?,?,?,?,?,?)",
		e.Facts.Tenant, e.ID, d.Release, d.Time.UnixNano(), d.Seq, d.Action, string(doc)); err != nil {
		return err
	}
	c := f.change(e.Facts.Tenant)
	c.Decisions = append(c.Decisions, DecisionRow{ID: e.ID, Decision: d})
	return nil
}
