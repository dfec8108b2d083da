package main

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/looptape/looptape/internal/loop/event"
)

const (
	oldRelease = "docs-assistant@a41f09c"
	newRelease = "docs-assistant@c7d2e51"
	app        = "docs-assistant"
)

// A metric of the made-up comparison.
type metric struct {
	name     string
	good     string
	margin   float64
	weight   float64
	critical bool
	mean     [2]float64 // 1 is good: baseline, candidate
	sum      [2]float64
}

// world makes events.
type world struct {
	l       *log
	at      time.Time
	rng     *rand.Rand
	metrics []*metric
	n       [2]int64
	seq     int64
	last    string // id of the newest evidence
	started time.Time
	done    bool
	count   int
}

func newWorld(l *log, at time.Time) *world {
	return &world{l: l, at: at, started: at, rng: rand.New(rand.NewPCG(7, 11)), metrics: []*metric{
		{name: "pii_output", good: "low", margin: 0.005, weight: 0.1, critical: true, mean: [2]float64{0.995, 0.995}},
		{name: "grounded", good: "high", margin: 0.02, weight: 0.3, mean: [2]float64{0.93, 0.84}},
		{name: "citation", good: "high", margin: 0.02, weight: 0.2, mean: [2]float64{0.91, 0.88}},
		{name: "retrieval_fresh", good: "high", margin: 0.02, weight: 0.3, mean: [2]float64{0.97, 0.71}},
		{name: "over_slo", good: "low", margin: 0.02, weight: 0.1, mean: [2]float64{0.96, 0.965}},
	}}
}

var questions = []struct{ q, a, doc, text string }{
	{"How long are acknowledged records kept after a crash?", "An acknowledged record is in the write-ahead log and survives a crash; recovery replays the log before the partition accepts writes again [wal].", "wal", "A write is acknowledged after its bytes are in the write-ahead log and the log has been synced. After a crash the log is replayed before the partition accepts new writes."},
	{"Which port does the OTLP receiver listen on?", "The OTLP receiver listens on 4317 for gRPC and on 4318 for HTTP [receivers].", "receivers", "Telemetry is taken over OTLP: gRPC on 4317 and HTTP on 4318. Both accept traces and logs."},
	{"Can I replay an hour of traffic with another evaluator?", "Yes. A replay starts the same processors on old offsets into shadow topics, with one thing changed, and shows the difference [replay].", "replay", "A replay starts the same processors on old offsets and writes to shadow topics. One thing is changed; everything else is as it was."},
	{"What happens to feedback that comes weeks later?", "It waits under its own id without limit and is joined to its request when both are known [lateness].", "lateness", "Feedback may come before the response or ninety days after it. It waits under its own id and is joined when its request is known."},
}

// open announces the releases.
func (w *world) open() {
	until := w.at.Add(2 * time.Hour)
	for _, d := range []struct {
		typ string
		d   event.Deployment
	}{
		{event.ReleaseRegistered, event.Deployment{Release: oldRelease, App: app, Kind: "retriever", Manifest: map[string]string{"index": "docs-2026-11-20", "prompt": "answer@7", "model": "extractive-2"}}},
		{event.ReleaseRegistered, event.Deployment{Release: newRelease, App: app, Kind: "retriever", Manifest: map[string]string{"index": "docs-2026-08-02", "prompt": "answer@7", "model": "extractive-2"}}},
		{event.DeploymentStarted, event.Deployment{Release: newRelease, Baseline: oldRelease, App: app, Kind: "retriever", Deployment: "roll-118", Stage: "half", Propensity: 0.5, Actor: "release-bot", ReversibleUntil: &until}},
	} {
		w.l.append(event.Event{ID: event.DeriveID("dep", d.typ, d.d.Release), Type: d.typ, Source: "preview", Time: w.at,
			Facts: event.Facts{Tenant: "default", Release: d.d.Release, App: app}}, event.TopicDeployment, d.d.Release, d.d.Release, d.d)
	}
}

// conversation makes one conversation of one to three requests.
func (w *world) conversation() {
	w.count++
	arm, release := 0, oldRelease
	if !w.done && w.rng.Float64() < 0.5 {
		arm, release = 1, newRelease
	}
	session := fmt.Sprintf("conv-%05d", w.count)
	for i := range 1 + w.rng.IntN(3) {
		w.request(session, release, arm, i)
	}
	w.at = w.at.Add(400 * time.Millisecond)
	if w.done {
		return
	}
	w.n[arm]++
	if w.count%5 == 0 {
		w.evidence()
	}
	if w.logE() > 4.9 && w.seq > 40 {
		w.decide()
	}
}

func (w *world) request(session, release string, arm, turn int) {
	id := fmt.Sprintf("%016x%016x", w.rng.Uint64(), w.rng.Uint64())
	half := 0.5
	armName := []string{event.ArmBaseline, event.ArmCandidate}[arm]
	facts := event.Facts{Tenant: "default", App: app, Environment: "production", Request: id, Trace: id, Session: session, Release: release,
		Arm: armName, Unit: session, UnitKind: "conversation", Propensity: &half, Stage: "half", Model: "extractive-2"}
	x := questions[w.rng.IntN(len(questions))]
	start := w.at.Add(time.Duration(turn) * 3 * time.Second)
	var parts []event.Part
	put := func(typ, topic string, after time.Duration, body any) {
		e := event.Event{ID: event.DeriveID(id, typ, fmt.Sprint(after)), Type: typ, Source: "preview", Time: start.Add(after), Facts: facts}
		p := w.l.append(e, topic, id, id, body)
		parts = append(parts, event.Part{ID: e.ID, Type: typ, Time: e.Time, Position: &p})
	}
	stale := arm == 1 && w.rng.Float64() < 0.35
	updated := start.Add(-26 * time.Hour)
	if stale {
		updated = start.Add(-112 * 24 * time.Hour)
	}
	top, second := 0.87-0.1*w.rng.Float64(), 0.52-0.1*w.rng.Float64()
	retrieve := time.Duration(18+w.rng.IntN(40)) * time.Millisecond
	generate := time.Duration(140+w.rng.IntN(420)) * time.Millisecond
	put(event.RequestStarted, event.TopicPrompt, 0, event.Prompt{Name: "POST /ask", Messages: []event.Message{{Role: "user", Content: x.q}}})
	put(event.RetrievalCompleted, event.TopicRetrieval, retrieve, event.Retrieval{Source: "docs", IndexVersion: "docs-2026-11-20", K: 2, Query: x.q, LatencyMs: float64(retrieve.Milliseconds()),
		Documents: []event.Document{{ID: x.doc, Version: "14", Rank: 1, Score: &top, Updated: &updated, Text: x.text}, {ID: "overview", Rank: 2, Score: &second, Updated: &updated, Text: "Looptape keeps every prompt, retrieval, output, score and action in one log."}}})
	put(event.PromptRendered, event.TopicPrompt, retrieve+2*time.Millisecond, event.Prompt{Template: "answer", Version: "7", Tokens: 212, Messages: []event.Message{
		{Role: "system", Content: "Answer from the passages only and cite the passage you used."}, {Role: "user", Content: x.q}}})
	answer, failed := x.a, w.rng.Float64() < 0.01
	if stale {
		answer = "The documentation does not say. It may depend on the configuration of the cluster."
	}
	call := event.Response{Provider: "local", Operation: "chat", ModelAsked: "extractive-2", ModelGiven: "extractive-2", Finish: []string{"stop"}, LatencyMs: float64(generate.Milliseconds()),
		CostUSD: 0.00031, Usage: &event.Usage{Input: 212, Output: 48, Total: 260}, Messages: []event.Message{{Role: "assistant", Content: answer}}}
	if failed {
		call.Error, call.Messages = &event.Failure{Type: "upstream_timeout", Status: 504}, nil
	}
	put(event.ModelCallCompleted, event.TopicResponse, retrieve+generate, call)
	put(event.ResponseDelivered, event.TopicResponse, retrieve+generate+3*time.Millisecond, event.Response{Messages: call.Messages, Error: call.Error, Citations: []string{x.doc}, LatencyMs: float64((retrieve + generate).Milliseconds()) + 3})
	c := event.Case{Request: id, Tenant: "default", Revision: 3, App: app, Environment: "production", Session: session, Release: release, Deployment: "roll-118", Arm: armName, Unit: session,
		UnitKind: "conversation", Propensity: &half, Stage: "half", Model: "extractive-2", Start: start, End: start.Add(retrieve + generate), Closed: true, Failed: failed,
		LatencyMs: float64((retrieve + generate).Milliseconds()) + 3, CostUSD: call.CostUSD, Usage: call.Usage, Aliases: []string{"ref-" + id[:10]}}
	for i, m := range w.metrics {
		p := m.mean[arm]
		good := w.rng.Float64() < p
		if m.name == "retrieval_fresh" {
			good = !stale
		}
		if m.name == "grounded" && stale {
			good = false
		}
		value := map[bool]float64{true: 1, false: 0}[good]
		if m.name == "grounded" {
			value = math.Round((value*0.8+w.rng.Float64()*0.2)*100) / 100
		}
		m.sum[arm] += value
		if m.good == "low" {
			value = 1 - value
		}
		evaluator := m.name + "@1#9f31c2d7"
		pass := good
		put(event.EvaluationResult, event.TopicScore, retrieve+generate+time.Duration(30+4*i)*time.Millisecond,
			event.Score{Evaluator: evaluator, Metric: m.name, Mode: "live", Value: &value, Good: m.good, Pass: &pass, LatencyMs: 0.4 + w.rng.Float64(), InputCount: 4, InputsHash: "b1", SampledP: 1})
		c.Scores = append(c.Scores, event.CaseScore{ID: parts[len(parts)-1].ID, Evaluator: evaluator, Metric: m.name, Mode: "live", Status: "scored", Value: &value, Good: m.good, Pass: &pass, InputCount: 4, SampledP: 1})
	}
	if w.rng.Float64() < 0.12 {
		v, label := 1.0, "up"
		if stale {
			v, label = 0, "down"
		}
		put(event.FeedbackRecorded, event.TopicFeedback, 9*time.Second, event.Feedback{Kind: "thumbs", Value: &v, Label: label, AuthorRole: "end_user", Comment: map[bool]string{true: "That is out of date.", false: ""}[stale]})
		c.Labels = []event.Label{{ID: parts[len(parts)-1].ID, Kind: "thumbs", Value: &v, Label: label, AuthorRole: "end_user", Time: start.Add(9 * time.Second)}}
	}
	c.Parts = parts
	c.Has = event.Completeness{Prompt: 2, Retrieval: 1, Response: 2, Score: len(c.Scores), Feedback: len(c.Labels)}
	c.Sort()
	w.l.append(event.Event{ID: event.DeriveID(id, "case"), Type: event.CaseRevised, Source: "preview", Time: start, Facts: facts}, event.TopicCase, "default/"+id, id, &c)
	if w.rng.Float64() < 0.004 {
		w.l.append(event.Event{ID: event.DeriveID(id, "q"), Type: event.EventQuarantined, Source: "preview", Time: start, Facts: event.Facts{Tenant: "default"}}, event.TopicQuarantine, "default", "default",
			event.Quarantined{Reason: "unknown_span", Kind: "span", Detail: "the span has no attribute that tells what it is", Raw: json.RawMessage(`{}`)})
	}
}

// effect of metric m so far, and half the width of its interval.
func (w *world) effect(m *metric) (effect, half float64) {
	n := float64(w.n[0] + w.n[1])
	if n == 0 {
		return 0, 1
	}
	noise := 0.5 * math.Sin(float64(w.seq)/7+float64(len(m.name))) / math.Sqrt(n)
	return (m.mean[1] - m.mean[0]) + 0.35*noise, min(1, 3.4*math.Sqrt(m.mean[0]*(1-m.mean[0])+0.02)/math.Sqrt(n)*math.Sqrt(math.Log(n+2)))
}

func (w *world) logE() float64 {
	e, _ := w.effect(w.metrics[3])
	n := float64(w.n[0] + w.n[1])
	return -1.2 + n*0.19*e*e*4 + 0.4*math.Sin(float64(w.seq)/5)
}

func (w *world) guards() []event.GuardRead {
	var out []event.GuardRead
	for _, m := range w.metrics {
		e, half := w.effect(m)
		harm := -0.5 - 2*m.margin*float64(w.n[0]+w.n[1])/40
		if e+half < 0.05 {
			harm = w.logE() + (m.mean[0]-m.mean[1]-0.2)*6
		}
		out = append(out, event.GuardRead{Metric: m.name, Segment: "all", Good: m.good, Margin: m.margin, Weight: m.weight, Critical: m.critical, N: w.n,
			Mean: [2]float64{m.mean[0], m.mean[0] + e}, LogEHarm: harm, LogEPromote: -harm / 2, ClosedLogE: harm - 0.6, Effect: e,
			CS: [2]float64{max(-1, e-half), min(1, e+half)}, Harm: make([]int64, 8), Promote: make([]int64, 8)})
	}
	return out
}

var thresholds = map[string]float64{"rollback": math.Log(1 / 0.016), "critical": math.Log(1 / 0.004), "hold": math.Log(20), "promote": math.Log(20), "srm": math.Log(1000)}

func (w *world) evidence() {
	w.seq++
	until := w.started.Add(2 * time.Hour)
	e := event.Evidence{Release: newRelease, Baseline: oldRelease, Deployment: "roll-118", App: app, Seq: w.seq, Previous: w.last, Time: w.at, State: event.GateComparing, Stage: "half", Propensity: 0.5,
		ReversibleUntil: &until, Entered: w.n[0] + w.n[1], N: w.n, Open: 11, Overall: event.GateLogE{Harm: w.logE(), Promote: -2}, Guards: w.guards(), SRMLogE: -2.4, Judge: "ok",
		Thresholds: thresholds, Watermark: w.at.Add(-4 * time.Second), LagS: 4.2, StateHash: "sha256:51ac", TableHash: "sha256:88d0", PolicyHash: "sha256:3c0f6a91d2", PolicyName: "demo@1"}
	for _, m := range w.metrics {
		e.Metrics = append(e.Metrics, m.name)
	}
	w.last = event.DeriveID("evidence", fmt.Sprint(w.seq))
	w.l.append(event.Event{ID: w.last, Type: event.GateEvidence, Source: event.Source, Time: w.at, Facts: event.Facts{Tenant: "default", Release: newRelease}}, event.TopicDecision, newRelease, newRelease, e)
}

// decide rolls the candidate back.
func (w *world) decide() {
	if w.done {
		return
	}
	w.done = true
	w.evidence()
	g := w.guards()
	until := w.started.Add(2 * time.Hour)
	top := []event.GuardRead{g[3], g[1], g[2]}
	d := event.Decision{Release: newRelease, Baseline: oldRelease, Deployment: "roll-118", App: app, Seq: 1, Time: w.at, Action: event.ActRollback, State: event.GateRollingBack, Before: event.GateComparing,
		Rule: `g.log_e >= thr.rollback && v.judge == "ok" && now < release.reversible_until`, RuleIndex: 2,
		Reason: fmt.Sprintf("The candidate is worse than the baseline beyond the margins: retrieval_fresh changed by %+.3f (95 %% sequence %+.3f to %+.3f) over %d candidate and %d baseline units.", top[0].Effect, top[0].CS[0], top[0].CS[1], w.n[1], w.n[0]),
		LogE:   max(w.logE(), thresholds["rollback"]+0.31), Threshold: thresholds["rollback"], Alpha: 0.016, AlphaTotal: 0.02, Effect: top[0].Effect, CS: top[0].CS, Confidence: 0.95, Top: top,
		Overall: event.GateLogE{Harm: w.logE(), Promote: -2}, SRMLogE: -2.4, N: w.n, Exposure: w.n[1], Entered: w.n[0] + w.n[1], Stage: "half", Propensity: 0.5, ReversibleUntil: &until,
		Evidence: w.last, EvidenceSeq: w.seq, EvidenceHash: "sha256:a9e1f0c4b7", StateHash: "sha256:51ac", TableHash: "sha256:88d0", PolicyHash: "sha256:3c0f6a91d2", PolicyName: "demo@1",
		Guarantee: "With probability at least 0.98 this release is never rolled back by this gate while its true average effect on the compared traffic is better than the stated margins in every guarded metric, however often the gate was evaluated and whenever it was stopped, provided arms were assigned with the logged probabilities."}
	id := event.DeriveID("decision", "1")
	facts := event.Facts{Tenant: "default", Release: newRelease}
	w.l.append(event.Event{ID: id, Type: event.GateDecision, Source: event.Source, Time: w.at, Facts: facts}, event.TopicDecision, newRelease, newRelease, d)
	zero := 0.0
	w.l.append(event.Event{ID: event.DeriveID("ack", "1"), Type: event.GateAcknowledged, Source: event.Source, Time: w.at.Add(time.Second), Facts: facts}, event.TopicDecision, newRelease, newRelease,
		event.Acknowledgement{Release: newRelease, Deployment: "roll-118", Decision: id, Action: event.ActRollback, Actuator: "ramp", Outcome: "done", Observed: "share 0", Share: &zero, Attempts: 1})
	w.l.append(event.Event{ID: event.DeriveID("dep", "back"), Type: event.DeploymentRolledBack, Source: event.Source, Time: w.at.Add(time.Second), Facts: facts}, event.TopicDeployment, newRelease, newRelease,
		event.Deployment{Release: newRelease, Baseline: oldRelease, Deployment: "roll-118", Outcome: "rolled_back"})
}
