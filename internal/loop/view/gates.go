package view

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/looptape/looptape/internal/loop/event"
)

// A Point is one moment of a gate: what a plot draws of one gate.evidence.
type Point struct {
	ID         string             `json:"id"`
	Release    string             `json:"release"`
	Baseline   string             `json:"baseline"`
	Deployment string             `json:"deployment,omitempty"`
	Process    string             `json:"process"` // of one process, seq counts from 1 without gaps
	Seq        int64              `json:"seq"`
	Time       time.Time          `json:"time"`
	State      string             `json:"state"`
	Stage      string             `json:"stage"`
	Propensity float64            `json:"propensity"`
	Entered    int64              `json:"entered"`
	N          [2]int64           `json:"n"`
	Open       int                `json:"open"`
	Overall    event.GateLogE     `json:"overall"`
	SRMLogE    float64            `json:"srm_log_e"`
	Thresholds map[string]float64 `json:"thresholds"`
	Guards     []PointGuard       `json:"guards"`
	LagS       float64            `json:"watermark_lag_s"`
}

// A PointGuard is one metric of a Point.
type PointGuard struct {
	Metric      string     `json:"metric"`
	Margin      float64    `json:"margin"`
	Mean        [2]float64 `json:"mean"` // baseline, candidate; 1 is good
	Effect      float64    `json:"effect"`
	CS          [2]float64 `json:"cs"`
	LogEHarm    float64    `json:"log_e_harm"`
	LogEPromote float64    `json:"log_e_promote"`
}

func pointOf(id string, e *event.Evidence) Point {
	p := Point{
		ID: id, Release: e.Release, Baseline: e.Baseline, Deployment: e.Deployment, Process: processOf(e), Seq: e.Seq, Time: e.Time, State: e.State,
		Stage: e.Stage, Propensity: e.Propensity, Entered: e.Entered, N: e.N, Open: e.Open, Overall: e.Overall,
		SRMLogE: e.SRMLogE, Thresholds: e.Thresholds, Guards: make([]PointGuard, 0, len(e.Guards)), LagS: e.LagS,
	}
	for _, g := range e.Guards {
		p.Guards = append(p.Guards, PointGuard{g.Metric, g.Margin, g.Mean, g.Effect, g.CS, g.LogEHarm, g.LogEPromote})
	}
	return p
}

// processOf names the run that a piece of evidence belongs to.
func processOf(e *event.Evidence) string {
	if e.Process != "" {
		return e.Process
	}
	return e.Deployment + "/" + e.PolicyHash
}

// A DecisionRow is a decision and its event id.
type DecisionRow struct {
	ID string `json:"id"`
	event.Decision
	Acknowledgements []event.Acknowledgement `json:"acknowledgements,omitempty"`
	CarriedOut       *time.Time              `json:"carried_out,omitempty"` // when an actuator, or the ramp itself, said that it is done
}

// A Gate is what a release's gate has seen and decided.
type Gate struct {
	Release    string          `json:"release"`
	EvidenceID string          `json:"evidence_id,omitempty"`
	Evidence   *event.Evidence `json:"evidence,omitempty"`  // the newest, without units, integers and policy
	Decisions  []DecisionRow   `json:"decisions,omitempty"` // newest first, at most 50
}

// Gate is the state of a release's gate: ErrNotFound when the release has
// neither evidence nor a decision.
func (v *View) Gate(ctx context.Context, tenant, release string) (Gate, error) {
	g := Gate{Release: release}
	var doc string
	err := v.read.QueryRowContext(ctx, "SELECT id, doc FROM evidence WHERE tenant = ? AND release = ? ORDER BY time DESC, seq DESC LIMIT 1", tenant, release).
		Scan(&g.EvidenceID, &doc)
	if err == nil {
		g.Evidence = new(event.Evidence)
		err = json.Unmarshal([]byte(doc), g.Evidence)
	}
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return g, fmt.Errorf("read gate: %w", err)
	}
	if g.Decisions, err = v.Decisions(ctx, tenant, release, 50); err != nil {
		return g, err
	}
	if g.Evidence == nil && len(g.Decisions) == 0 {
		return g, fmt.Errorf("gate: %w", ErrNotFound)
	}
	return g, nil
}

// Gates lists the gates that have evidence or decisions, newest first.
func (v *View) Gates(ctx context.Context, tenant string, limit int) ([]Gate, error) {
	names, err := v.strings(ctx, `SELECT release FROM (SELECT release, max(time) AS t FROM evidence WHERE tenant = ? GROUP BY release
		UNION ALL SELECT release, max(time) FROM decisions WHERE tenant = ? GROUP BY release) GROUP BY release ORDER BY max(t) DESC, release LIMIT ?`,
		tenant, tenant, limit)
	if err != nil {
		return nil, fmt.Errorf("list gates: %w", err)
	}
	out := make([]Gate, 0, len(names))
	for _, name := range names {
		g, err := v.Gate(ctx, tenant, name)
		if err != nil {
			return nil, err
		}
		out = append(out, g)
	}
	return out, nil
}

// Series is the newest run of a release's gate as at most limit points, oldest
// first: its first and its newest evidence and what lies evenly between.
func (v *View) Series(ctx context.Context, tenant, release string, limit int) ([]Point, error) {
	limit = min(max(limit, 2), 2000)
	var (
		process        string
		first, last, n int64
	)
	err := v.read.QueryRowContext(ctx, "SELECT process FROM evidence WHERE tenant = ? AND release = ? ORDER BY time DESC, seq DESC LIMIT 1", tenant, release).
		Scan(&process)
	if errors.Is(err, sql.ErrNoRows) {
		return []Point{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read series: %w", err)
	}
	const run = " FROM evidence WHERE tenant = ? AND release = ? AND process = ?"
	args := []any{tenant, release, process}
	if err := v.read.QueryRowContext(ctx, "SELECT min(seq), max(seq), count(*)"+run, args...).Scan(&first, &last, &n); err != nil {
		return nil, fmt.Errorf("read series: %w", err)
	}
	stride := int64(1)
	if n > int64(limit) {
		stride = (last - first + int64(limit) - 2) / int64(limit-1)
	}
	rows, err := v.read.QueryContext(ctx, "SELECT id, doc"+run+" AND ((seq - ?) % ? = 0 OR seq = ?) ORDER BY seq LIMIT ?",
		append(args, first, max(stride, 1), last, limit+1)...)
	if err != nil {
		return nil, fmt.Errorf("read series: %w", err)
	}
	defer rows.Close()
	out := make([]Point, 0, min(n, int64(limit)))
	for rows.Next() {
		var id, doc string
		if err := rows.Scan(&id, &doc); err != nil {
			return nil, fmt.Errorf("read series: %w", err)
		}
		var e event.Evidence
		if err := json.Unmarshal([]byte(doc), &e); err != nil {
			return nil, fmt.Errorf("stored evidence: %w", err)
		}
		out = append(out, pointOf(id, &e))
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read series: %w", err)
	}
	return out, nil
}

// Decisions lists decisions, newest first; of all releases when release is "".
func (v *View) Decisions(ctx context.Context, tenant, release string, limit int) ([]DecisionRow, error) {
	query, args := "SELECT id, doc FROM decisions WHERE tenant = ?", []any{tenant}
	if release != "" {
		query, args = query+" AND release = ?", append(args, release)
	}
	out, err := v.decisionRows(ctx, query+" ORDER BY time DESC, seq DESC, id DESC LIMIT ?", append(args, min(max(limit, 1), 500))...)
	if err != nil {
		return nil, fmt.Errorf("list decisions: %w", err)
	}
	for i := range out {
		if err := v.followUp(ctx, tenant, &out[i]); err != nil {
			return nil, fmt.Errorf("list decisions: %w", err)
		}
	}
	return out, nil
}

// followUp adds what became of a decision.
func (v *View) followUp(ctx context.Context, tenant string, d *DecisionRow) (err error) {
	if d.Acknowledgements, err = v.acknowledgements(ctx, tenant, d.ID); err != nil {
		return err
	}
	var acked, rolledBack, at sql.NullInt64
	if err := v.read.QueryRowContext(ctx, "SELECT min(time) FROM acknowledgements WHERE tenant = ? AND decision = ? AND json_extract(doc, '$.outcome') = 'done'",
		tenant, d.ID).Scan(&acked); err != nil {
		return err
	}
	if d.Action == event.ActRollback {
		if err := v.read.QueryRowContext(ctx, "SELECT min(time) FROM deployments WHERE tenant = ? AND release = ? AND type = ? AND time >= ?",
			tenant, d.Release, event.DeploymentRolledBack, d.Time.UnixNano()).Scan(&rolledBack); err != nil {
			return err
		}
	}
	for _, t := range []sql.NullInt64{acked, rolledBack} {
		if t.Valid && (!at.Valid || t.Int64 < at.Int64) {
			at = t
		}
	}
	if at.Valid {
		t := time.Unix(0, at.Int64).UTC()
		d.CarriedOut = &t
	}
	return nil
}

func (v *View) decisionRows(ctx context.Context, query string, args ...any) ([]DecisionRow, error) {
	rows, err := v.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []DecisionRow{}
	for rows.Next() {
		var (
			d   DecisionRow
			doc string
		)
		if err := rows.Scan(&d.ID, &doc); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(doc), &d.Decision); err != nil {
			return nil, fmt.Errorf("stored decision: %w", err)
		}
		out = append(out, d)
	}
	return out, rows.Err()
}

func (v *View) acknowledgements(ctx context.Context, tenant, decision string) ([]event.Acknowledgement, error) {
	docs, err := v.strings(ctx, "SELECT doc FROM acknowledgements WHERE tenant = ? AND decision = ? ORDER BY time, id LIMIT 20", tenant, decision)
	if err != nil {
		return nil, err
	}
	var out []event.Acknowledgement
	for _, doc := range docs {
		var a event.Acknowledgement
		if err := json.Unmarshal([]byte(doc), &a); err != nil {
			return nil, fmt.Errorf("stored acknowledgement: %w", err)
		}
		out = append(out, a)
	}
	return out, nil
}

// strings reads one text column.
func (v *View) strings(ctx context.Context, query string, args ...any) ([]string, error) {
	rows, err := v.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, rows.Err()
}
