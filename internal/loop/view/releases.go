package view

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/looptape/looptape/internal/loop/event"
)

// A Release is one release as the log knows it.
type Release struct {
	Release    string            `json:"release"`
	Deployment *DeploymentRow    `json:"deployment,omitempty"` // the newest event of its roll-out
	Manifest   map[string]string `json:"manifest,omitempty"`
	App        string            `json:"app,omitempty"`
	Kind       string            `json:"kind,omitempty"`
	Baseline   string            `json:"baseline,omitempty"`
	Arms       []ReleaseArm      `json:"arms"`
	Requests   int64             `json:"requests"`
	Failed     int64             `json:"failed"`
	First      time.Time         `json:"first,omitzero"` // minutes of its first and last request, or of its deployment events
	Last       time.Time         `json:"last,omitzero"`
	State      string            `json:"state,omitempty"` // of its gate
	Entered    int64             `json:"entered,omitempty"`
	Decision   *DecisionRow      `json:"decision,omitempty"` // the newest
}

// A ReleaseArm is the traffic of a release in one arm.
type ReleaseArm struct {
	Arm       string          `json:"arm"`
	Requests  int64           `json:"requests"`
	Failed    int64           `json:"failed"`
	LatencyMs float64         `json:"latency_ms,omitempty"` // mean
	Metrics   []MetricAverage `json:"metrics"`
}

// A MetricAverage is the mean of a metric turned so that 1 is good.
type MetricAverage struct {
	Metric string  `json:"metric"`
	N      int64   `json:"n"`
	Mean   float64 `json:"mean"`
}

// A DeploymentRow is an event of llm.deployment.
type DeploymentRow struct {
	ID   string    `json:"id"`
	Type string    `json:"type"`
	Time time.Time `json:"time"`
	event.Deployment
}

// Releases lists the releases with requests or roll-outs, the last active first.
func (v *View) Releases(ctx context.Context, tenant string, limit int) ([]Release, error) {
	byName := map[string]*Release{}
	get := func(name string) *Release {
		r := byName[name]
		if r == nil {
			r = &Release{Release: name, Arms: []ReleaseArm{}}
			byName[name] = r
		}
		return r
	}
	if err := v.releaseTraffic(ctx, tenant, get); err != nil {
		return nil, fmt.Errorf("list releases: %w", err)
	}
	if err := v.releaseDeployments(ctx, tenant, get); err != nil {
		return nil, fmt.Errorf("list releases: %w", err)
	}
	out := make([]Release, 0, len(byName))
	for _, r := range byName {
		out = append(out, *r)
	}
	slices.SortFunc(out, func(a, b Release) int {
		return cmp.Or(b.Last.Compare(a.Last), cmp.Compare(b.Requests, a.Requests), cmp.Compare(a.Release, b.Release))
	})
	if limit > 0 && len(out) > limit {
		out = out[:limit]
	}
	for i := range out {
		if err := v.releaseGate(ctx, tenant, &out[i]); err != nil {
			return nil, fmt.Errorf("list releases: %w", err)
		}
	}
	return out, nil
}

func (v *View) releaseTraffic(ctx context.Context, tenant string, get func(string) *Release) error {
	rows, err := v.read.QueryContext(ctx, `SELECT release, arm, metric, sum(n), sum(sum_micro), min(minute), max(minute) FROM quality
		WHERE tenant = ? AND release != '' GROUP BY release, arm, metric ORDER BY release, arm, metric`, tenant)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var (
			release, arm, metric  string
			n, micro, first, last int64
		)
		if err := rows.Scan(&release, &arm, &metric, &n, &micro, &first, &last); err != nil {
			return err
		}
		if n <= 0 {
			continue
		}
		r := get(release)
		if len(r.Arms) == 0 || r.Arms[len(r.Arms)-1].Arm != arm {
			r.Arms = append(r.Arms, ReleaseArm{Arm: arm, Metrics: []MetricAverage{}})
		}
		a := &r.Arms[len(r.Arms)-1]
		switch metric {
		case metricRequests:
			a.Requests, a.Failed = n, micro/1e6
			r.Requests += a.Requests
			r.Failed += a.Failed
			r.seen(time.Unix(first*60, 0), time.Unix(last*60, 0))
		case metricLatency:
			a.LatencyMs = float64(micro) / 1e6 / float64(n)
		default:
			a.Metrics = append(a.Metrics, MetricAverage{metric, n, float64(micro) / 1e6 / float64(n)})
		}
	}
	return rows.Err()
}

func (r *Release) seen(first, last time.Time) {
	if r.First.IsZero() || first.Before(r.First) {
		r.First = first.UTC()
	}
	if last.After(r.Last) {
		r.Last = last.UTC()
	}
}

// releaseDeployments reads the newest deployment events. What one event leaves
// out, the newest that says it tells.
func (v *View) releaseDeployments(ctx context.Context, tenant string, get func(string) *Release) error {
	rows, err := v.read.QueryContext(ctx, "SELECT id, type, time, doc FROM deployments WHERE tenant = ? ORDER BY time DESC, id LIMIT 2000", tenant)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		d, err := scanDeployment(rows.Scan)
		if err != nil {
			return err
		}
		r := get(d.Release)
		if r.Deployment == nil {
			r.Deployment = &d
		}
		if r.Manifest == nil {
			r.Manifest = d.Manifest
		}
		r.App, r.Kind, r.Baseline = firstOf(r.App, d.App), firstOf(r.Kind, d.Kind), firstOf(r.Baseline, d.Baseline)
		r.seen(d.Time, d.Time)
	}
	return rows.Err()
}

func scanDeployment(scan func(...any) error) (d DeploymentRow, err error) {
	var (
		at  int64
		doc string
	)
	if err := scan(&d.ID, &d.Type, &at, &doc); err != nil {
		return d, err
	}
	d.Time = time.Unix(0, at).UTC()
	if err := json.Unmarshal([]byte(doc), &d.Deployment); err != nil {
		return d, fmt.Errorf("stored deployment: %w", err)
	}
	return d, nil
}

// Deployments lists a release's roll-out, newest first.
func (v *View) Deployments(ctx context.Context, tenant, release string, limit int) ([]DeploymentRow, error) {
	rows, err := v.read.QueryContext(ctx, "SELECT id, type, time, doc FROM deployments WHERE tenant = ? AND release = ? ORDER BY time DESC, id LIMIT ?", tenant, release, limit)
	if err != nil {
		return nil, fmt.Errorf("list deployments: %w", err)
	}
	defer rows.Close()
	out := []DeploymentRow{}
	for rows.Next() {
		d, err := scanDeployment(rows.Scan)
		if err != nil {
			return nil, fmt.Errorf("list deployments: %w", err)
		}
		out = append(out, d)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list deployments: %w", err)
	}
	return out, nil
}

// releaseGate adds the state of the gate.
func (v *View) releaseGate(ctx context.Context, tenant string, r *Release) error {
	var (
		baseline, app sql.NullString
		seq           sql.NullInt64
	)
	err := v.read.QueryRowContext(ctx, `SELECT json_extract(doc, '$.state'), json_extract(doc, '$.entered'), json_extract(doc, '$.baseline'), json_extract(doc, '$.app'), seq
		FROM evidence WHERE tenant = ? AND release = ? ORDER BY time DESC, seq DESC LIMIT 1`, tenant, r.Release).Scan(&r.State, &r.Entered, &baseline, &app, &seq)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	r.Baseline, r.App = firstOf(r.Baseline, baseline.String), firstOf(r.App, app.String)
	ds, err := v.decisionRows(ctx, "SELECT id, doc FROM decisions WHERE tenant = ? AND release = ? ORDER BY time DESC, seq DESC, id DESC LIMIT 1", tenant, r.Release)
	if err != nil {
		return err
	}
	if len(ds) == 0 {
		return nil
	}
	d := &ds[0]
	if err := v.followUp(ctx, tenant, d); err != nil {
		return err
	}
	r.Decision = d
	if d.EvidenceSeq >= seq.Int64 {
		r.State = d.State
	}
	if r.State == event.GateRollingBack && d.CarriedOut != nil {
		r.State = event.GateRolledBack
	}
	return nil
}

// A QualityMinute is one metric of one arm in one minute.
type QualityMinute struct {
	Minute time.Time `json:"minute"`
	Arm    string    `json:"arm"`
	Metric string    `json:"metric"`
	N      int64     `json:"n"`
	Mean   float64   `json:"mean"`
}

// Quality is a release's metrics per minute since a time, oldest first, at most
// 5,000 rows.
func (v *View) Quality(ctx context.Context, tenant, release string, since time.Time) ([]QualityMinute, error) {
	rows, err := v.read.QueryContext(ctx, `SELECT minute, arm, metric, n, sum_micro FROM quality WHERE tenant = ? AND release = ? AND minute >= ?
		AND substr(metric, 1, 1) NOT IN ('', ' ') AND n > 0 ORDER BY minute, arm, metric LIMIT 5000`, tenant, release, minute(since.UnixNano()))
	if err != nil {
		return nil, fmt.Errorf("read quality: %w", err)
	}
	defer rows.Close()
	out := []QualityMinute{}
	for rows.Next() {
		var (
			q         QualityMinute
			at, micro int64
		)
		if err := rows.Scan(&at, &q.Arm, &q.Metric, &q.N, &micro); err != nil {
			return nil, fmt.Errorf("read quality: %w", err)
		}
		q.Minute, q.Mean = time.Unix(at*60, 0).UTC(), float64(micro)/1e6/float64(q.N)
		out = append(out, q)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read quality: %w", err)
	}
	return out, nil
}
