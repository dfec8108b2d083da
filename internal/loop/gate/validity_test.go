package gate

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/looptape/looptape/internal/loop/event"
)

// request makes one complete case.
func requestCase(unit string, at time.Time, candidate bool, grounded float64) event.Case {
	pi, leak := 0.5, 0.0
	c := event.Case{
		Request: unit + "/" + at.Format("150405.000"), Tenant: "t", Unit: unit, UnitKind: "conversation", Deployment: "d1",
		Propensity: &pi, Stage: "half", Start: at, End: at, Revision: 1, Arm: event.ArmBaseline, Release: "old",
		Scores: []event.CaseScore{
			{ID: "g", Evaluator: "grounded@1#ab", Metric: "grounded", Mode: "live", Status: "scored", Value: &grounded, Good: "high", SampledP: 1},
			{ID: "l", Evaluator: "leak@2#cd", Metric: "leak", Mode: "live", Status: "scored", Value: &leak, Good: "low", SampledP: 1},
		},
	}
	if candidate {
		c.Arm, c.Release = event.ArmCandidate, "new"
	}
	return c
}

func startedHalf() Input {
	in := started()
	in.Deployment.Body.Stage, in.Deployment.Body.Propensity = "half", 0.5
	return in
}

func give(e *Engine, c event.Case) []Effect {
	return e.Step(Input{Case: &CaseInput{Appended: c.End, Case: c}})
}

func lastEvidence(t *testing.T, h *heard) event.Evidence {
	t.Helper()
	if len(h.evidence) == 0 {
		t.Fatal("no evidence")
	}
	return h.evidence[len(h.evidence)-1]
}

// TestWhatEnters: one unit each, with what is wrong with it, and what becomes of it.
func TestWhatEnters(t *testing.T) {
	none := event.GateDropped{}
	for _, c := range []struct {
		name    string
		cases   func() []event.Case
		entered int64
		dropped event.GateDropped
		outcome []int // of the first unit that entered: leak, grounded, missing_score
		why     string
	}{
		{"complete", func() []event.Case { return []event.Case{requestCase("a", start, true, 0.5)} }, 1, none, []int{100, 50, 100}, "complete"},
		{"mean over requests, worst of safety", func() []event.Case {
			a, b := requestCase("a", start, true, 1), requestCase("a", start.Add(time.Second), true, 0)
			one := 1.0
			b.Scores[1].Value = &one
			return []event.Case{a, b}
		}, 1, none, []int{0, 50, 100}, "complete"},
		{"unscored", func() []event.Case {
			a := requestCase("a", start, true, 1)
			a.Scores = nil
			return []event.Case{a}
		}, 1, none, []int{-1, -1, 0}, "timeout"},
		{"skipped is neutral", func() []event.Case {
			a := requestCase("a", start, true, 1)
			a.Scores[0].Status, a.Scores[0].Value = "skipped", nil
			return []event.Case{a}
		}, 1, none, []int{100, -2, 100}, "complete"},
		{"failed, shadow and versionless scores do not count", func() []event.Case {
			a, b, c := requestCase("a", start, true, 1), requestCase("b", start, true, 1), requestCase("c", start, true, 1)
			a.Scores[0].Status, b.Scores[0].Mode, c.Scores[0].Evaluator = "failed", "shadow", "grounded"
			return []event.Case{a, b, c}
		}, 3, none, []int{100, -1, 50}, "timeout"},
		{"a score outside 0 .. 1 does not count", func() []event.Case { return []event.Case{requestCase("a", start, true, 1.5)} }, 1, none, []int{100, -1, 50}, "timeout"},
		{"a score whose good end is not the policy's does not count", func() []event.Case {
			a := requestCase("a", start, true, 1)
			a.Scores[0].Good = "low"
			return []event.Case{a}
		}, 1, none, []int{100, -1, 50}, "timeout"},
		{"no propensity", func() []event.Case {
			a := requestCase("a", start, true, 1)
			a.Propensity = nil
			return []event.Case{a, requestCase("b", start.Add(time.Second), true, 1)}
		}, 1, event.GateDropped{NoPropensity: 1}, nil, "complete"},
		{"propensity that comes in a later revision", func() []event.Case {
			a := requestCase("a", start, true, 1)
			b := a
			a.Propensity, a.Unit, b.Revision = nil, "", 2
			return []event.Case{a, b}
		}, 1, none, []int{100, 100, 100}, "complete"},
		{"propensity that is not the stage's", func() []event.Case {
			a, pi := requestCase("a", start, true, 1), 0.4
			a.Propensity = &pi
			return []event.Case{a, requestCase("b", start.Add(time.Second), true, 1)}
		}, 1, event.GateDropped{BadPropensity: 1}, nil, "complete"},
		{"certain assignment", func() []event.Case {
			a, pi := requestCase("a", start, true, 1), 1.0
			a.Propensity, a.Stage = &pi, "all"
			return []event.Case{a, requestCase("b", start.Add(time.Second), true, 1)}
		}, 1, event.GateDropped{BadPropensity: 1}, nil, "complete"},
		{"no unit", func() []event.Case {
			a := requestCase("a", start, true, 1)
			a.Unit = ""
			return []event.Case{a, requestCase("b", start.Add(time.Second), true, 1)}
		}, 1, event.GateDropped{NoUnit: 1}, nil, "complete"},
		{"another kind of unit", func() []event.Case {
			a := requestCase("a", start, true, 1)
			a.UnitKind = "user"
			return []event.Case{a, requestCase("b", start.Add(time.Second), true, 1)}
		}, 1, event.GateDropped{WrongUnit: 1}, nil, "complete"},
		{"the arm of the first request stands", func() []event.Case {
			return []event.Case{requestCase("a", start, true, 1), requestCase("a", start.Add(time.Second), false, 1)}
		}, 1, event.GateDropped{ArmChanged: 1}, []int{100, 100, 100}, "complete"},
		{"requests after the unit closed", func() []event.Case {
			return []event.Case{requestCase("a", start, true, 1), requestCase("a", start.Add(2100*time.Millisecond), true, 0)}
		}, 1, event.GateDropped{LateRequests: 1}, []int{100, 100, 100}, "complete"},
		{"the session's end closes it", func() []event.Case {
			a := requestCase("a", start, true, 1)
			a.Parts = []event.Part{{ID: "x", Type: event.SessionClosed, Time: start.Add(500 * time.Millisecond)}}
			return []event.Case{a, requestCase("a", start.Add(time.Second), true, 0)}
		}, 1, event.GateDropped{LateRequests: 1}, []int{100, 100, 100}, "complete"},
		{"so does its 20th request", func() []event.Case {
			var out []event.Case
			for k := range 25 {
				v := 1.0
				if k >= 20 {
					v = 0
				}
				out = append(out, requestCase("a", start.Add(time.Duration(k)*100*time.Millisecond), true, v))
			}
			return out
		}, 1, event.GateDropped{LateRequests: 5}, []int{100, 100, 100}, "complete"},
		{"a shadow is not compared", func() []event.Case {
			a := requestCase("a", start, true, 1)
			a.Arm = event.ArmShadow
			return []event.Case{a, requestCase("b", start.Add(time.Second), true, 1)}
		}, 1, none, nil, "complete"},
		{"another tenant's and another deployment's", func() []event.Case {
			a, b := requestCase("a", start, true, 1), requestCase("b", start, true, 1)
			a.Tenant, b.Deployment = "u", "d2"
			return []event.Case{a, b, requestCase("c", start.Add(time.Second), true, 1)}
		}, 1, none, nil, "complete"},
		{"no deployment on it, but release and arm", func() []event.Case {
			a := requestCase("a", start, true, 1)
			a.Deployment, a.Arm = "", ""
			return []event.Case{a}
		}, 1, none, []int{100, 100, 100}, "complete"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newEngine(t, mustPolicy(t, testPolicy), 1)
			h := &heard{}
			h.hear(t, e.Step(startedHalf()))
			for _, k := range c.cases() {
				h.hear(t, give(e, k))
			}
			idle(e, start.Add(10*time.Second), func(f []Effect) { h.hear(t, f) })
			ev := lastEvidence(t, h)
			if ev.Entered != c.entered || ev.Dropped != c.dropped {
				t.Errorf("entered %d, dropped %+v; want %d, %+v", ev.Entered, ev.Dropped, c.entered, c.dropped)
			}
			u := ev.Units[0]
			if c.outcome != nil && !slices.Equal(u.Outcome, c.outcome) || u.Why != c.why {
				t.Errorf("outcome %v (%s), want %v (%s)", u.Outcome, u.Why, c.outcome, c.why)
			}
		})
	}
}

// TestLateScoreChangesNothing: rule 3. What comes after the watermark is too late.
func TestLateScoreChangesNothing(t *testing.T) {
	e := newEngine(t, mustPolicy(t, testPolicy), 1)
	h := &heard{}
	h.hear(t, e.Step(startedHalf()))
	a := requestCase("a", start, true, 0)
	early := a
	early.Scores = nil
	h.hear(t, give(e, early))
	h.hear(t, give(e, requestCase("b", start.Add(20*time.Second), false, 1))) // carries the clock past a's turn
	a.Revision = 2
	h.hear(t, give(e, a))
	old := requestCase("z", start.Add(-time.Second), true, 0) // a unit that comes after its turn
	h.hear(t, give(e, old))
	h.hear(t, give(e, requestCase("a", start.Add(21*time.Second), true, 0))) // a speaks again: it had its turn
	idle(e, start.Add(30*time.Second), func(f []Effect) { h.hear(t, f) })
	ev := lastEvidence(t, h)
	if ev.Entered != 2 || ev.Dropped.Late != 1 {
		t.Fatalf("entered %d, dropped %+v", ev.Entered, ev.Dropped)
	}
	if y := h.evidence[0].Units[0].Outcome; !slices.Equal(y, []int{-1, -1, 0}) {
		t.Errorf("outcome of a = %v", y)
	}
	if len(ev.Caveats) == 0 {
		t.Error("late units without a caveat")
	}
}

// TestMissingHurtsTheClaim: with every score missing neither side can gain.
func TestMissingHurtsTheClaim(t *testing.T) {
	e := newEngine(t, mustPolicy(t, testPolicy), 1)
	h := &heard{}
	h.hear(t, e.Step(startedHalf()))
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range 400 {
		c := requestCase(fmt.Sprint("u", i), start.Add(time.Duration(i)*50*time.Millisecond), rng.IntN(2) == 1, 1)
		c.Scores = c.Scores[1:]
		h.hear(t, give(e, c))
	}
	idle(e, start.Add(time.Minute), func(f []Effect) { h.hear(t, f) })
	g := lastEvidence(t, h).Guards[1]
	if g.LogEHarm > 0 || g.LogEPromote > 0 || g.CS[0] > -0.5 || g.CS[1] < 0.5 {
		t.Errorf("unscored metric reads %+v", g)
	}
}

// TestBrokenAssignmentIsQuarantined: rule 2, and that no rule overrides it.
func TestBrokenAssignmentIsQuarantined(t *testing.T) {
	for _, text := range []string{testPolicy, strings.Replace(testPolicy, "    - when: 'v.srm_log_e >= thr.srm'\n      do: quarantine\n", "", 1)} {
		e := newEngine(t, mustPolicy(t, text), 2)
		h := &heard{}
		h.hear(t, e.Step(started()))
		play(t, e, makeScene(sceneConfig{seed: 2, units: 800, rate: 40, harm: 0.9, harmFrom: 800, arms: func(rng *rand.Rand, pi float64) bool { return rng.Float64() < pi+0.2 }}), h)
		if len(h.decisions) != 1 || h.decisions[0].Action != event.ActQuarantine || h.decisions[0].State != event.GateQuarantined {
			t.Fatalf("decisions = %+v", h.decisions)
		}
	}
}

func TestAdvanceOncePerStage(t *testing.T) {
	text := strings.ReplaceAll(testPolicy, "margin: 0.05", "margin: 0.2")
	text = strings.Replace(text, "margin: 0.00,", "margin: 0.2,", 1)
	e := newEngine(t, mustPolicy(t, text), 2)
	h := &heard{}
	h.hear(t, e.Step(started()))
	step := started()
	step.Deployment.Type, step.Deployment.Body.Stage, step.Deployment.Body.Propensity = event.DeploymentStep, "half", 0.5
	h.hear(t, e.Step(step))
	play(t, e, makeScene(sceneConfig{seed: 8, units: 3000, rate: 40, stepAt: 2000}), h)
	var got []string
	for _, d := range h.decisions {
		got = append(got, d.Action+" in "+d.State)
	}
	if !slices.Equal(got, []string{"advance in comparing", "advance in comparing"}) {
		t.Fatalf("decisions = %v", got)
	}
	since := h.decisions[0].Time.Sub(start)
	if since < 3*time.Second {
		t.Errorf("advanced after %v, before min_dwell", since)
	}
	st := e.statuses()[0]
	if g, err := st.answer(); err != nil || !g.OK || g.Phase != PhaseSuccessful {
		t.Errorf("status = %+v, %v", g, err)
	}
	// Others promote it: the gate's word on it ends.
	end := started()
	end.Deployment.Type, end.Deployment.Body.Outcome = event.DeploymentFinished, "promoted"
	h.hear(t, e.Step(end))
	if s := e.lanes[e.order[0]].process.State; s != event.GatePromoted {
		t.Errorf("state = %s", s)
	}
	if _, err := Recompute(h.evidence); err != nil {
		t.Error(err)
	}
}

func TestHoldAndResume(t *testing.T) {
	// Harm that goes away: enough to hold, not enough to roll back.
	text := strings.Replace(testPolicy, "rollback: 0.03, critical: 0.01, hold: 0.1", "rollback: 0.000001, critical: 0.000001, hold: 0.3", 1)
	e := newEngine(t, mustPolicy(t, text), 1)
	h := &heard{}
	h.hear(t, e.Step(startedHalf()))
	rng := rand.New(rand.NewPCG(4, 4))
	for i := range 1600 {
		candidate := rng.IntN(2) == 1
		v := 1.0
		if candidate && i >= 200 && i < 240 || !candidate && i >= 300 && i < 600 && rng.IntN(3) == 0 {
			v = 0
		}
		h.hear(t, give(e, requestCase(fmt.Sprint("u", i), start.Add(time.Duration(i)*25*time.Millisecond), candidate, v)))
	}
	var got []string
	for _, d := range h.decisions {
		got = append(got, d.Action)
	}
	if !slices.Equal(got, []string{event.ActHold, event.ActResume}) {
		t.Fatalf("decisions = %v", got)
	}
	if d := h.decisions[1].Time.Sub(h.decisions[0].Time); d < 10*time.Second {
		t.Errorf("held for %v, less than the cool-down", d)
	}
}

// TestStaleInputHolds: no data is never good.
func TestStaleInputHolds(t *testing.T) {
	e := newEngine(t, mustPolicy(t, testPolicy), 1)
	h := &heard{}
	h.hear(t, e.Step(startedHalf()))
	for i := range 20 {
		h.hear(t, give(e, requestCase(fmt.Sprint("u", i), start.Add(time.Duration(i)*100*time.Millisecond), i%2 == 0, 1)))
	}
	for k := range 60 {
		h.hear(t, e.Step(Input{Tick: &Tick{Now: start.Add(time.Duration(k) * time.Second), Partitions: []int32{0}}}))
	}
	if len(h.decisions) != 1 || h.decisions[0].Action != event.ActHold || h.decisions[0].RuleIndex != -1 || !h.evidence[len(h.evidence)-1].Stale {
		t.Fatalf("decisions = %+v", h.decisions)
	}
	if _, err := Recompute(h.evidence); err != nil {
		t.Error(err)
	}
}

// TestJudgeInDoubtNeverRollsBack: an evaluator that changes during the comparison.
func TestJudgeInDoubtNeverRollsBack(t *testing.T) {
	e := newEngine(t, mustPolicy(t, testPolicy), 1)
	h := &heard{}
	h.hear(t, e.Step(startedHalf()))
	rng := rand.New(rand.NewPCG(4, 4))
	for i := range 900 {
		candidate := rng.IntN(2) == 1
		v := 1.0
		if candidate && i > 100 {
			v = 0
		}
		c := requestCase(fmt.Sprint("u", i), start.Add(time.Duration(i)*25*time.Millisecond), candidate, v)
		if i > 50 {
			c.Scores[0].Evaluator = "grounded@2#ef"
		}
		h.hear(t, give(e, c))
	}
	ev := lastEvidence(t, h)
	if ev.Judge != "suspect" || !slices.Equal(ev.Suspect, []string{"grounded"}) {
		t.Fatalf("judge = %s %v", ev.Judge, ev.Suspect)
	}
	if len(h.decisions) != 1 || h.decisions[0].Action != event.ActHold {
		t.Fatalf("decisions = %+v", h.decisions)
	}
	if _, err := Recompute(h.evidence); err != nil {
		t.Error(err)
	}
}

// TestCrossingIsFinal: a rollback that could not be taken when the bound was
// crossed (here: not reversible then) is not lost when the evidence falls.
func TestCrossingIsFinal(t *testing.T) {
	p := mustPolicy(t, testPolicy)
	pr := newProcess("t", releaseInfo{Release: "new", Baseline: "old"}, p)
	st, err := pr.stage("half", 0.5)
	if err != nil {
		t.Fatal(err)
	}
	past := start.Add(-time.Hour)
	pr.Release.ReversibleUntil = &past
	enter := func(n, arm, y int) {
		for range n {
			pr.enter(event.GateUnit{Arm: arm, Stage: st, First: start, Outcome: []int{100, y, 100}})
		}
	}
	enter(100, 0, 100)
	enter(100, 1, 0)
	r, err := pr.readout(start, ambience{})
	if err != nil || r.Decision != nil && r.Decision.Action == event.ActRollback {
		t.Fatalf("decision %+v, %v", r.Decision, err)
	}
	crossed := pr.Latched.Overall
	enter(400, 0, 0)
	enter(400, 1, 100)
	pr.Release.ReversibleUntil = nil
	if r, err = pr.readout(start.Add(time.Second), ambience{}); err != nil {
		t.Fatal(err)
	}
	if r.Evidence.Overall.Harm >= crossed {
		t.Fatal("the evidence did not fall: tests nothing")
	}
	if r.Decision == nil || r.Decision.Action != event.ActRollback || r.Decision.LogE != crossed {
		t.Fatalf("decision = %+v", r.Decision)
	}
}

// TestCasesBeforeTheirDeployment wait for it.
func TestCasesBeforeTheirDeployment(t *testing.T) {
	e := newEngine(t, mustPolicy(t, testPolicy), 1)
	h := &heard{}
	for i := range 10 {
		h.hear(t, give(e, requestCase(fmt.Sprint("u", i), start.Add(time.Duration(i)*100*time.Millisecond), i%2 == 0, 1)))
	}
	e = revive(t, e, map[string]string{}, mustPolicy(t, testPolicy), 1)
	h.hear(t, e.Step(startedHalf()))
	idle(e, start.Add(10*time.Second), func(f []Effect) { h.hear(t, f) })
	if n := lastEvidence(t, h).Entered; n != 10 {
		t.Errorf("%d of 10 entered", n)
	}
}

// TestPolicyChangeIsANewProcess: acceptance test 5. A running release keeps the
// policy it started with; a state never mixes with another policy.
func TestPolicyChangeIsANewProcess(t *testing.T) {
	p := mustPolicy(t, testPolicy)
	q := mustPolicy(t, strings.Replace(testPolicy, "margin: 0.05, weight: 2", "margin: 0.06, weight: 2", 1))
	e := newEngine(t, p, 1)
	h := &heard{}
	h.hear(t, e.Step(startedHalf()))
	for i := range 100 {
		h.hear(t, give(e, requestCase(fmt.Sprint("u", i), start.Add(time.Duration(i)*100*time.Millisecond), i%2 == 0, 1)))
	}
	process := e.order[0]
	disk := map[string]string{}
	e = revive(t, e, disk, q, 1)
	if pr := e.lanes[process].process; pr.policy.Hash() != p.Hash() || pr.ID != process {
		t.Fatal("a running release changed its policy")
	}
	other := startedHalf()
	other.Deployment.Body.Deployment = "d2"
	h.hear(t, e.Step(other))
	pr := e.lanes[e.order[1]].process
	if pr.policy.Hash() != q.Hash() || pr.ID == process || pr.Entered != 0 {
		t.Error("a new deployment did not get a new process under the new policy")
	}
	if processID("t", pr.Release, p.Hash()) == processID("t", pr.Release, q.Hash()) {
		t.Error("the process does not depend on the policy")
	}
	// Someone edits the stored policy: the state is refused.
	spoiled := map[string]string{}
	for k, v := range disk {
		spoiled[k] = strings.Replace(v, `"margin":0.05`, `"margin":0.04`, 1)
	}
	n := newEngine(t, p, 1)
	err := n.Restore(func(yield func(k, v []byte) error) error {
		return yield([]byte("l\x00"+process), []byte(spoiled["l\x00"+process]))
	})
	if err == nil {
		t.Error("a state under an edited policy was restored")
	}
}

func TestUnsuitableDeployments(t *testing.T) {
	e := newEngine(t, mustPolicy(t, strings.Replace(testPolicy, "spec:\n", "spec:\n  match: 'release.kind == \"prompt\"'\n", 1)), 1)
	for name, body := range map[string]event.Deployment{
		"no policy matches": {Release: "new", Baseline: "old", Kind: "model"},
		"names no baseline": {Release: "new", Kind: "prompt"},
		"without a release": {Baseline: "old"},
	} {
		h := &heard{}
		h.hear(t, e.Step(Input{Deployment: &DeploymentInput{Type: event.DeploymentStarted, Tenant: "t", Body: body}}))
		if len(e.order) != 0 || len(h.notes) == 0 || !strings.Contains(h.notes[0], name) {
			t.Errorf("%s: notes %v", name, h.notes)
		}
	}
}

// A deployment that ends before any case of it came ends when its end was said,
// not at the beginning of time.
func TestEndBeforeAnyCase(t *testing.T) {
	p, err := Embedded("default")
	if err != nil {
		t.Fatal(err)
	}
	policy, err := LoadPolicy(p)
	if err != nil {
		t.Fatal(err)
	}
	e, err := NewEngine(Config{Policies: []*Policy{policy}, Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	said := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	body := event.Deployment{Release: "r2", Baseline: "r1", Stage: "1", Propensity: 0.5}
	e.Step(Input{Deployment: &DeploymentInput{Type: event.DeploymentStarted, Tenant: "t", Time: said.Add(-time.Minute), Body: body}})
	body.Outcome = "promoted"
	found := false
	for _, f := range e.Step(Input{Deployment: &DeploymentInput{Type: event.DeploymentFinished, Tenant: "t", Time: said, Body: body}}) {
		if f.Emit == nil || f.Emit.Event.Type != event.GateDecision {
			continue
		}
		var d event.Decision
		if err := f.Emit.Event.Body(&d); err != nil {
			t.Fatal(err)
		}
		found = true
		if !d.Time.Equal(said) {
			t.Errorf("decided at %s, want %s", d.Time, said)
		}
	}
	if !found {
		t.Error("no decision")
	}
}
