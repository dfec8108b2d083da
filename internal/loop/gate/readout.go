package gate

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/looptape/looptape/internal/loop/event"
)

// guarantee is printed with every decision.
const guarantee = "With probability at least 1 - alpha this release will never be rolled back by this gate while its true average effect on the compared traffic, in every guarded metric and segment, is better than the stated margins, however often the gate was evaluated and whenever it was stopped, provided arms were assigned with the logged probabilities."

// A readout is one evidence event and the decision taken on it, if any.
type readout struct {
	EvidenceID string
	Evidence   event.Evidence
	Data       []byte // of the evidence, as hashed into the chain
	DecisionID string
	Decision   *event.Decision
	Note       string // for the operator's log: why a rule could not be asked
}

// readout takes the evidence at now and asks the rules.
func (pr *process) readout(now time.Time, amb ambience) (readout, error) {
	p := pr.policy
	pr.Seq++
	all := pr.read()
	guards := all[:len(p.Guards)]
	logs, weights := make([]float64, len(all)), p.weights
	for i := range all {
		logs[i] = all[i].LogEHarm
	}
	// A metric whose evaluator is in doubt keeps only its declared fallback
	// weight. The weights are not scaled up again: the average can only fall, so
	// it costs no error of its own.
	overall := event.GateLogE{Promote: math.Inf(1)}
	if len(amb.Suspect) > 0 {
		weights = slices.Clone(p.weights)
		for i := range weights {
			if slices.Contains(amb.Suspect, all[i].Metric) {
				weights[i] = p.fallback[i]
			}
		}
	}
	overall.Harm = logSum(logs, weights)
	for _, g := range guards {
		overall.Promote = math.Min(overall.Promote, g.LogEPromote)
	}
	srm := pr.srm()
	judge := judgeOK
	if len(amb.Suspect) > 0 {
		judge = judgeSuspect
	} else {
		pr.Latched.Overall = math.Max(pr.Latched.Overall, overall.Harm)
	}
	pr.Latched.SRM = math.Max(pr.Latched.SRM, srm)
	for i, g := range guards {
		if !slices.Contains(amb.Suspect, g.Metric) {
			pr.Latched.Guards[i] = math.Max(pr.Latched.Guards[i], g.LogEHarm)
		}
	}

	thr := p.thresholds()
	ev := event.Evidence{
		Release: pr.Release.Release, Baseline: pr.Release.Baseline, Deployment: pr.Release.Deployment, App: pr.Release.App,
		Kind: pr.Release.Kind, Layer: pr.Release.Layer, Process: pr.ID, Seq: pr.Seq, Previous: pr.Previous, Time: now.UTC(),
		Stage: pr.Release.Stage, Propensity: pr.Release.Propensity, ReversibleUntil: pr.Release.ReversibleUntil,
		Units: pr.Pending, Entered: pr.Entered, N: pr.n(), Open: amb.Open, Dropped: amb.Dropped,
		Overall: overall, Guards: guards, Others: all[len(p.Guards):], SRMLogE: srm, Judge: judge, Suspect: amb.Suspect,
		Stale: amb.Stale, Outside: amb.Outside,
		Thresholds: map[string]float64{"rollback": thr.Rollback, "critical": thr.Critical, "hold": thr.Hold, "promote": thr.Promote, "srm": thr.SRM},
		Watermark:  amb.Watermark.UTC(), LagS: amb.LagS, Offsets: amb.Offsets,
		StateHash: pr.stateHash(), TableHash: pr.tableHash(), PolicyHash: p.Hash(), PolicyName: p.Title(),
	}
	ev.Caveats = caveats(&ev)
	for _, g := range p.Guards {
		ev.Metrics = append(ev.Metrics, g.Metric)
	}
	for _, s := range pr.Stages {
		g := make(map[string]float64, len(s.Guess))
		for i, v := range s.Guess {
			g[p.Guards[i].Metric] = v
		}
		ev.Stages = append(ev.Stages, event.GateStage{Name: s.Name, Propensity: s.Propensity, Guess: g, N: s.N})
	}
	if pr.Seq == 1 {
		ev.Policy = p.Canonical()
	}
	pr.Pending = nil

	out := readout{EvidenceID: event.DeriveID(event.GateEvidence, pr.Tenant, pr.ID, fmt.Sprint(pr.Seq))}
	before := pr.State
	d, note := pr.decide(&ev)
	out.Note = note
	ev.State = pr.State

	data, err := json.Marshal(&ev)
	if err != nil {
		return out, fmt.Errorf("encode evidence %d of release %s: %w", pr.Seq, pr.Release.Release, err)
	}
	sum := sha256.Sum256(append([]byte(pr.Chain+"\n"), data...))
	pr.Chain = hex.EncodeToString(sum[:])
	pr.Previous = out.EvidenceID
	out.Evidence, out.Data = ev, data
	if d != nil {
		pr.Decided++
		d.Seq, d.Before, d.State = pr.Decided, before, pr.State
		d.Evidence, d.EvidenceSeq, d.EvidenceHash = out.EvidenceID, pr.Seq, "sha256:"+pr.Chain
		out.DecisionID = event.DeriveID(event.GateDecision, pr.Tenant, pr.ID, fmt.Sprint(d.Seq))
		out.Decision = d
	}
	return out, nil
}

// logSum is the log of the weighted sum of e-values; the weights sum to at most one.
func logSum(logs, weights []float64) float64 {
	top := math.Inf(-1)
	for i, l := range logs {
		if weights[i] > 0 {
			top = math.Max(top, l)
		}
	}
	if math.IsInf(top, -1) {
		return -math.MaxFloat64 // every weight is zero: no evidence can come; JSON has no infinity
	}
	var s float64
	for i, l := range logs {
		s += weights[i] * math.Exp(l-top)
	}
	return top + math.Log(s)
}

func caveats(ev *event.Evidence) (out []string) {
	d := ev.Dropped
	say := func(n int64, text string) {
		if n > 0 {
			out = append(out, fmt.Sprintf("%d %s", n, text))
		}
	}
	say(d.NoPropensity, "request(s) carried no assignment probability and were not compared")
	say(d.BadPropensity, "unit(s) carried a probability that is not their stage's and were not compared")
	say(d.WrongUnit, "unit(s) were drawn by another kind of unit than the policy compares")
	say(d.NoUnit, "request(s) named no unit of randomisation and were not compared")
	say(d.Late, "unit(s) came after their turn and were not compared")
	say(d.Ambiguous, "request(s) fit more than one running gate; name the deployment on them")
	say(d.OverCap, "unit(s) were beyond the gate's memory and were not compared")
	if len(ev.Suspect) > 0 {
		out = append(out, "the evaluator of "+strings.Join(ev.Suspect, ", ")+" changed during the comparison")
	}
	return out
}

// decide asks the rules and moves the state.
func (pr *process) decide(ev *event.Evidence) (d *event.Decision, note string) {
	p, now := pr.policy, ev.Time
	if pr.concluded() {
		return nil, ""
	}
	if ev.Outside != "" {
		switch ev.Outside {
		case "promoted":
			pr.State = event.GatePromoted
		case "rolled_back":
			pr.State = event.GateRolledBack
		default:
			pr.State = event.GateExpired
		}
		d = pr.decision(ev, event.ActExpire, -1)
		d.Reason = "The deployment was ended from outside: " + ev.Outside + "."
		return d, ""
	}

	current := pr.facts(ev)
	high := pr.facts(ev)
	high.Overall.LogE = pr.Latched.Overall
	if ev.Judge != judgeOK {
		high.Overall.LogE = ev.Overall.Harm
	}
	high.Validity.SRMLogE = pr.Latched.SRM
	for i := range high.Guards {
		if !slices.Contains(ev.Suspect, high.Guards[i].Metric) {
			high.Guards[i].LogE = pr.Latched.Guards[i]
		}
	}
	stage := len(pr.Stages)
	settled := !pr.StageSince.IsZero() && now.Sub(pr.StageSince) >= p.Hysteresis.MinDwell
	hour := now.Add(-time.Hour)
	pr.Acted = slices.DeleteFunc(pr.Acted, func(t time.Time) bool { return t.Before(hour) })
	free := len(pr.Acted) < p.Hysteresis.MaxActionsPerHour
	holding := pr.State == event.GateHold
	skip := func(do string) bool {
		switch do {
		case doHold:
			return holding || !settled || !free
		case doAdvance:
			return holding || !settled || !free || pr.Advanced >= stage
		}
		return false
	}
	at, err := p.conditions.fire(p, current, high, skip)
	if err != nil {
		note = err.Error()
		at = -1
	}
	do := ""
	if at >= 0 {
		do = p.Rules[at].Do
	}
	if pr.Latched.SRM >= -math.Log(p.Alpha.SRM) && do != doQuarantine {
		// Whatever the rules say: with a broken assignment no comparison means anything.
		at, do = -1, doQuarantine
	}
	switch do {
	case doQuarantine:
		pr.State = event.GateQuarantined
		d = pr.decision(ev, event.ActQuarantine, at)
		d.Reason = fmt.Sprintf("The arms were not drawn with the logged probabilities: %d baseline and %d candidate units. No comparison can be trusted.", ev.N[0], ev.N[1])
	case doRollback:
		pr.Before = pr.State
		pr.State = event.GateRollingBack
		d = pr.decision(ev, event.ActRollback, at)
	case doHold:
		pr.State, pr.HoldSince = event.GateHold, now
		pr.Acted = append(pr.Acted, now)
		d = pr.decision(ev, event.ActHold, at)
	case doAdvance:
		pr.Advanced = stage
		pr.Acted = append(pr.Acted, now)
		d = pr.decision(ev, event.ActAdvance, at)
	}
	if d != nil {
		return d, note
	}
	switch {
	case ev.Stale && pr.State == event.GateComparing:
		pr.State, pr.HoldSince = event.GateHold, now
		d = pr.decision(ev, event.ActHold, -1)
		d.Reason = "No unit has entered the comparison for " + p.StaleAfter.String() + ". No data is never good."
	case holding && !ev.Stale && free && now.Sub(pr.HoldSince) >= p.Hysteresis.CoolDown && ev.Overall.Harm < resumeBelow:
		pr.State, pr.HoldSince = event.GateComparing, time.Time{}
		pr.Acted = append(pr.Acted, now)
		d = pr.decision(ev, event.ActResume, -1)
		d.Reason = "The cool-down is over and the evidence of harm has gone."
	}
	return d, note
}

// facts are what the conditions see of an evidence, unlatched.
func (pr *process) facts(ev *event.Evidence) *Facts {
	f := &Facts{
		Release: ReleaseFacts{
			ID: ev.Release, Baseline: ev.Baseline, Deployment: ev.Deployment, App: ev.App, Kind: ev.Kind, Layer: ev.Layer,
			Stage: ev.Stage, Propensity: ev.Propensity, ReversibleUntil: farFuture,
		},
		Overall:  OverallFacts{LogE: ev.Overall.Harm, LogEPromote: ev.Overall.Promote},
		Validity: ValidityFacts{SRMLogE: ev.SRMLogE, Judge: ev.Judge, NCandidate: ev.N[1], NBaseline: ev.N[0]},
		Now:      ev.Time,
	}
	if ev.ReversibleUntil != nil {
		f.Release.ReversibleUntil = *ev.ReversibleUntil
	}
	for _, g := range ev.Guards {
		f.Guards = append(f.Guards, GuardFacts{
			Metric: g.Metric, LogE: g.LogEHarm, LogEPromote: g.LogEPromote, ClosedLogE: g.ClosedLogE,
			Effect: g.Effect, Critical: g.Critical, NCandidate: g.N[1], NBaseline: g.N[0],
		})
	}
	return f
}

// decision fills in what follows from the evidence.
func (pr *process) decision(ev *event.Evidence, action string, rule int) *event.Decision {
	p := pr.policy
	d := &event.Decision{
		Release: ev.Release, Baseline: ev.Baseline, Deployment: ev.Deployment, App: ev.App, Time: ev.Time,
		Action: action, RuleIndex: rule, AlphaTotal: p.AlphaTotal(), LogE: ev.Overall.Harm, Confidence: confidence,
		Overall: ev.Overall, SRMLogE: ev.SRMLogE, N: ev.N, Exposure: ev.N[1], Entered: ev.Entered,
		Stage: ev.Stage, Propensity: ev.Propensity, ReversibleUntil: ev.ReversibleUntil, Offsets: ev.Offsets,
		StateHash: ev.StateHash, TableHash: ev.TableHash, PolicyHash: ev.PolicyHash, PolicyName: ev.PolicyName,
		Guarantee: guarantee, Caveats: ev.Caveats,
	}
	top := slices.Concat(ev.Guards, ev.Others)
	slices.SortStableFunc(top, func(a, b event.GuardRead) int {
		switch {
		case a.LogEHarm > b.LogEHarm:
			return -1
		case a.LogEHarm < b.LogEHarm:
			return 1
		}
		return 0
	})
	d.Top = top[:min(5, len(top))]
	d.Effect, d.CS = d.Top[0].Effect, d.Top[0].CS
	if rule >= 0 {
		d.Rule = p.Rules[rule].When
	}
	switch action {
	case event.ActQuarantine:
		d.LogE, d.Threshold, d.Alpha = pr.Latched.SRM, -math.Log(p.Alpha.SRM), p.Alpha.SRM
		return d
	case event.ActAdvance:
		d.LogE, d.Threshold, d.Alpha = ev.Overall.Promote, -math.Log(p.Alpha.Promote), p.Alpha.Promote
		d.Reason = fmt.Sprintf("Every guarded metric is shown to be no worse than its margin, after %d candidate units.", ev.N[1])
		return d
	}
	if rule < 0 {
		return d
	}
	// The claim the rule acts on: the metric it names, or the average.
	bare := stripQuoted(d.Rule)
	if m := useMetric.FindStringSubmatch(d.Rule); m != nil && !useOverall.MatchString(bare) {
		for i, g := range ev.Guards {
			if g.Metric == m[1] {
				d.LogE = math.Max(g.LogEHarm, pr.Latched.Guards[i])
			}
		}
	} else if action == event.ActRollback && ev.Judge == judgeOK {
		d.LogE = pr.Latched.Overall
	}
	switch {
	case strings.Contains(bare, "thr.critical"):
		d.Threshold, d.Alpha = -math.Log(p.Alpha.Critical), p.Alpha.Critical
	case strings.Contains(bare, "thr.rollback"):
		d.Threshold, d.Alpha = -math.Log(p.Alpha.Rollback), p.Alpha.Rollback
	case strings.Contains(bare, "thr.hold"):
		d.Threshold, d.Alpha = -math.Log(p.Alpha.Hold), p.Alpha.Hold
	}
	worst := d.Top[0]
	d.Reason = fmt.Sprintf("The candidate is worse than the baseline beyond the margins: %s changed by %+.3f (95 %% sequence %+.3f to %+.3f) over %d candidate and %d baseline units.",
		worst.Metric, worst.Effect, worst.CS[0], worst.CS[1], worst.N[1], worst.N[0])
	return d
}
