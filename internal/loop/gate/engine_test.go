package gate

import (
	"math/rand/v2"
	"slices"
	"sort"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/looptape/looptape/internal/loop/event"
)

// play runs a scene in order of arrival and returns what was heard.
func play(t testing.TB, e *Engine, s *scene, h *heard) {
	t.Helper()
	order := slices.Clone(s.arrivals)
	sort.SliceStable(order, func(i, j int) bool { return order[i].at.Before(order[j].at) })
	for _, a := range order {
		h.hear(t, e.Step(Input{Case: &CaseInput{Partition: partitionOf(a.c.Request, len(e.clock.Data)), Appended: a.at, Case: a.c}}))
	}
	idle(e, order[len(order)-1].at, func(f []Effect) { h.hear(t, f) })
}

func TestHarmRollsBack(t *testing.T) {
	e := newEngine(t, mustPolicy(t, testPolicy), 4)
	h := &heard{}
	h.hear(t, e.Step(started()))
	play(t, e, makeScene(sceneConfig{seed: 5, units: 1500, rate: 40, harm: 0.4, harmFrom: 300, stepAt: 600, jitter: 2 * time.Second}), h)
	if len(h.decisions) == 0 {
		t.Fatalf("no decision; last evidence %+v", h.evidence[len(h.evidence)-1].Overall)
	}
	last := h.decisions[len(h.decisions)-1]
	if last.Action != event.ActRollback || last.State != event.GateRollingBack || last.LogE < last.Threshold || last.Top[0].Metric != "grounded" {
		t.Fatalf("decision = %+v", last)
	}
	if len(e.Unfinished()) != 1 || e.Unfinished()[0].Action != "rollback" {
		t.Fatalf("unfinished = %+v", e.Unfinished())
	}
	l := e.lanes[e.order[0]]
	if len(l.units) != 0 || len(l.done) != 0 {
		t.Error("a concluded gate keeps units")
	}
	// The release is over when the actuator has seen it, and only then.
	a := e.Unfinished()[0]
	h.hear(t, e.Step(Input{Ack: &Ack{Process: a.Process, Decision: a.Decision, Actuator: "x", Attempts: 1, Error: "down", At: start}}))
	if l.process.State != event.GateRollingBack || len(e.Unfinished()) != 1 {
		t.Fatal("a failed action ended the rollback")
	}
	h.hear(t, e.Step(Input{Ack: &Ack{Process: a.Process, Decision: a.Decision, Actuator: "x", Attempts: 2, Done: true, At: start}}))
	if l.process.State != event.GateRolledBack || len(e.Unfinished()) != 0 || !slices.Equal(h.other, []string{event.DeploymentRolledBack}) || len(h.acks) != 2 {
		t.Fatalf("state %s, unfinished %v, other %v", l.process.State, e.Unfinished(), h.other)
	}
	// Nothing leaves rolled_back.
	h.hear(t, e.Step(started()))
	if l.process.State != event.GateRolledBack || len(e.order) != 1 {
		t.Error("a repeated start revived the release")
	}
}

// TestOrderOfArrivalDoesNotMatter is acceptance test 4 and invariant I8: shuffled
// within the watermark, spread over other partitions and with duplicates, the
// same units enter with the same values in the same order and the same is decided.
func TestOrderOfArrivalDoesNotMatter(t *testing.T) {
	p := mustPolicy(t, testPolicy)
	cfg := sceneConfig{seed: 11, units: 1000, rate: 40, harm: 0.5, harmFrom: 200, stepAt: 450}
	e := newEngine(t, p, 1)
	h := &heard{}
	h.hear(t, e.Step(started()))
	base := makeScene(cfg)
	play(t, e, base, h)
	want := h.canonical(t)
	if len(h.decisions) == 0 {
		t.Fatal("a scene without a decision tests little")
	}
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 9))
		s := &scene{}
		for _, a := range base.arrivals {
			// Revisions of one case keep their order, as in one partition of the log.
			a.at = a.c.End.Add(time.Duration(float64(a.c.Revision) * 500 * float64(time.Millisecond))).Add(time.Duration(rng.IntN(450)) * time.Millisecond)
			s.arrivals = append(s.arrivals, a)
			if rng.IntN(3) == 0 { // told twice, once much later: the gate has it already
				a.at = a.at.Add(time.Duration(rng.IntN(8000)) * time.Millisecond)
				s.arrivals = append(s.arrivals, a)
			}
		}
		e := newEngine(t, p, 1+int(seed)*2)
		h := &heard{}
		h.hear(t, e.Step(started()))
		play(t, e, s, h)
		if d := cmp.Diff(want, h.canonical(t)); d != "" {
			t.Fatalf("seed %d: %.2000s", seed, d)
		}
	}
}

// TestCrashResume stops an engine at arbitrary points and goes on with one that
// was restored from what was flushed: the same bytes come out.
func TestCrashResume(t *testing.T) {
	p := mustPolicy(t, testPolicy)
	s := makeScene(sceneConfig{seed: 3, units: 800, rate: 40, harm: 0.5, harmFrom: 100, stepAt: 350, jitter: 2 * time.Second})
	run := func(crashEvery int) *heard {
		e := newEngine(t, p, 4)
		disk := map[string]string{}
		h := &heard{}
		n := 0
		step := func(f []Effect) {
			h.hear(t, f)
			if n++; crashEvery > 0 && n%crashEvery == 0 {
				e = revive(t, e, disk, p, 4)
			}
		}
		step(e.Step(started()))
		order := slices.Clone(s.arrivals)
		sort.SliceStable(order, func(i, j int) bool { return order[i].at.Before(order[j].at) })
		for _, a := range order {
			step(e.Step(Input{Case: &CaseInput{Partition: partitionOf(a.c.Request, 4), Appended: a.at, Case: a.c}}))
		}
		return h
	}
	want := run(0)
	if len(want.decisions) == 0 || len(want.evidence) < 5 {
		t.Fatalf("%d decisions, %d evidence: tests little", len(want.decisions), len(want.evidence))
	}
	for _, every := range []int{17, 211} {
		if d := cmp.Diff(want.raw, run(every).raw); d != "" {
			t.Fatalf("crash every %d steps: %.3000s", every, d)
		}
	}
}

// revive flushes into disk and restores a new engine from it.
func revive(t testing.TB, e *Engine, disk map[string]string, p *Policy, partitions int) *Engine {
	t.Helper()
	err := e.Flush(func(k, v []byte) error {
		if v == nil {
			delete(disk, string(k))
		} else {
			disk[string(k)] = string(v)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	n := newEngine(t, p, partitions)
	err = n.Restore(func(yield func(k, v []byte) error) error {
		keys := make([]string, 0, len(disk))
		for k := range disk {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		for _, k := range keys {
			if err := yield([]byte(k), []byte(disk[k])); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestRecompute(t *testing.T) {
	e := newEngine(t, mustPolicy(t, testPolicy), 4)
	h := &heard{}
	h.hear(t, e.Step(started()))
	play(t, e, makeScene(sceneConfig{seed: 21, units: 1400, rate: 40, harm: 0.5, harmFrom: 400, stepAt: 700, jitter: 6 * time.Second}), h)
	got, err := Recompute(h.evidence)
	if err != nil {
		t.Fatal(err)
	}
	pr := e.lanes[e.order[0]].process
	if got.Units != pr.Entered || got.State != pr.State || got.Chain != pr.Chain {
		t.Errorf("recomputed %d units, state %s; the gate has %d, %s", got.Units, got.State, pr.Entered, pr.State)
	}
	// Decisions name the evidence event, whose id depends on the tenant.
	blind := func(ds []event.Decision) []event.Decision {
		out := slices.Clone(ds)
		for i := range out {
			out[i].Evidence = ""
		}
		return out
	}
	if d := cmp.Diff(blind(h.decisions), blind(got.Decisions)); d != "" {
		t.Errorf("decisions differ: %s", d)
	}
	if len(got.Decisions) == 0 {
		t.Error("nothing decided: tests little")
	}

	shuffled := slices.Clone(h.evidence)
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	if _, err := Recompute(append(shuffled, shuffled[3])); err != nil {
		t.Errorf("shuffled and repeated: %v", err)
	}
	for name, spoil := range map[string]func(ev []event.Evidence) []event.Evidence{
		"an outcome":  func(ev []event.Evidence) []event.Evidence { ev[2].Units[0].Outcome[1] ^= 1; return ev },
		"an arm":      func(ev []event.Evidence) []event.Evidence { ev[2].Units[1].Arm ^= 1; return ev },
		"an integer":  func(ev []event.Evidence) []event.Evidence { ev[3].Guards[0].Harm[2]++; return ev },
		"a unit gone": func(ev []event.Evidence) []event.Evidence { ev[2].Units = ev[2].Units[1:]; return ev },
		"a gap":       func(ev []event.Evidence) []event.Evidence { return slices.Delete(ev, 4, 5) },
		"a state":     func(ev []event.Evidence) []event.Evidence { ev[len(ev)-1].State = event.GatePromoted; return ev },
		"a stage":     func(ev []event.Evidence) []event.Evidence { ev[1].Stages[0].Propensity = 0.31; return ev },
		"the policy": func(ev []event.Evidence) []event.Evidence {
			ev[0].Policy = slices.Concat(ev[0].Policy[:len(ev[0].Policy)-1], []byte(" }"))
			ev[0].PolicyHash = "sha256:00"
			return ev
		},
	} {
		var h2 heard
		for _, ev := range h.evidence { // a deep copy
			h2.hear(t, []Effect{{Emit: &Emission{Event: event.Event{Type: event.GateEvidence, Data: mustJSON(&ev)}}}})
		}
		if _, err := Recompute(spoil(h2.evidence)); err == nil {
			t.Errorf("%s was changed and nobody noticed", name)
		} else {
			t.Logf("%s: %.200v", name, err)
		}
	}
}

// TestWealthFollowsCounts: the integers of a process are those of its counts,
// whatever the units were.
func TestWealthFollowsCounts(t *testing.T) {
	p := mustPolicy(t, testPolicy)
	rapid.Check(t, func(t *rapid.T) {
		pr := newProcess("t", releaseInfo{Release: "new", Baseline: "old"}, p)
		pr.bands = false
		for range rapid.IntRange(1, 60).Draw(t, "units") {
			pi := rapid.SampledFrom([]float64{0.05, 0.5}).Draw(t, "pi")
			st, err := pr.stage("s", pi)
			if err != nil {
				t.Fatal(err)
			}
			u := event.GateUnit{Stage: st, Arm: rapid.IntRange(0, 1).Draw(t, "arm"), Segments: map[string]string{"lang": rapid.SampledFrom([]string{"de", "fr", "en"}).Draw(t, "lang")}}
			for range p.Guards {
				u.Outcome = append(u.Outcome, rapid.IntRange(-2, 100).Draw(t, "y"))
			}
			pr.enter(u)
		}
		for i, w := range pr.Wealth {
			harm := make([]int64, len(w.Harm))
			for s := range pr.Stages {
				c := pr.Stages[s].Counts[i].Wealth(pr.tables[s][i%len(p.Guards)])
				for k := range harm {
					harm[k] += c.Harm[k]
				}
			}
			if !slices.Equal(harm, w.Harm) {
				t.Fatalf("process %d: %v, counts say %v", i, w.Harm, harm)
			}
		}
		r, err := pr.readout(start, ambience{})
		if err != nil {
			t.Fatal(err)
		}
		top := -1e300
		for _, g := range slices.Concat(r.Evidence.Guards, r.Evidence.Others) {
			top = max(top, g.LogEHarm)
			if g.ClosedLogE > g.LogEHarm+1e-12 {
				t.Fatalf("closed %v above %v", g.ClosedLogE, g.LogEHarm)
			}
		}
		if r.Evidence.Overall.Harm > top+1e-9 {
			t.Fatalf("average %v above the largest %v", r.Evidence.Overall.Harm, top)
		}
	})
}
