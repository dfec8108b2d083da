package gate

import (
	"math/rand/v2"
	"testing"

	"github.com/looptape/looptape/internal/loop/event"
)

// harnessPolicy has one metric without a margin and spends the usual 5 %.
const harnessPolicy = `
apiVersion: looptape/v1
kind: ReleaseGate
metadata: {name: harness}
spec:
  unit_close: 2s
  alpha: {rollback: 0.05}
  guards: [{metric: grounded, good: high, margin: 0, guess: 0.95}]
  watermark: {time: 5s}
  rules: [{when: 'g.log_e >= thr.rollback', do: rollback}]
`

// TestHarnessSeesWrongWays runs the shortcuts that the rules forbid, without any
// true difference, through the same engine: they must break the bound that the
// right way keeps, or the harness could not see a broken gate.
func TestHarnessSeesWrongWays(t *testing.T) {
	p := mustPolicy(t, harnessPolicy)
	for name, c := range map[string]struct {
		wrong  wrongWay
		breaks bool
	}{
		"right way":                  {rightWay, false},
		"requests of sticky users":   {stickyAsUnit, true},
		"scores in order of arrival": {arrivalOrder, true},
	} {
		s, err := Simulate(t.Context(), SimulateConfig{Policy: p, Runs: 60, Units: 5000, Seed: 4, Sigma: 0.5, wrong: c.wrong})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d of %d rolled back, bound %.3f", name, s.Rollbacks, s.Runs, s.Bound())
		if broke := s.Rate > s.Bound(); broke != c.breaks {
			t.Errorf("%s: rate %.3f against the bound %.3f", name, s.Rate, s.Bound())
		}
	}
}

// TestRampWithCommonDrift: quality falls in both arms while the ramp widens. With
// the stage's own probability nothing is rolled back beyond alpha; with one
// average probability nearly every run is.
func TestRampWithCommonDrift(t *testing.T) {
	p := mustPolicy(t, harnessPolicy)
	rolledBack := func(seed uint64, logged func(pi float64) float64) bool {
		pr := newProcess("t", releaseInfo{Release: "new", Baseline: "old"}, p)
		pr.bands = false
		rng := rand.New(rand.NewPCG(seed, 3))
		for i := range 8000 {
			pi, mean := 0.05, 0.95
			if i >= 4000 {
				pi, mean = 0.5, 0.85
			}
			u := event.GateUnit{First: start, Outcome: []int{0}}
			if rng.Float64() < pi {
				u.Arm = 1
			}
			if rng.Float64() < mean {
				u.Outcome[0] = 100
			}
			st, err := pr.stage("ramp", logged(pi))
			if err != nil {
				t.Fatal(err)
			}
			u.Stage = st
			pr.enter(u)
			if i%50 == 49 && pr.Wealth[0].LogE(0) >= p.thresholds().Rollback {
				return true
			}
		}
		return false
	}
	const runs = 100
	right, wrong := 0, 0
	for seed := range uint64(runs) {
		if rolledBack(seed, func(pi float64) float64 { return pi }) {
			right++
		}
		if rolledBack(seed, func(float64) float64 { return 0.275 }) {
			wrong++
		}
	}
	t.Logf("of %d runs: %d with the stage's probability, %d with an average one", runs, right, wrong)
	if right > 11 || wrong < 90 { // alpha + 3 standard errors; nearly all
		t.Errorf("of %d runs without a difference %d were rolled back (right way), %d (wrong way)", runs, right, wrong)
	}
}

// TestDetection holds the medians published for the default grid to 15 %: number
// of units until harm is shown at 5 %, looking every 10.
func TestDetection(t *testing.T) {
	p := mustPolicy(t, harnessPolicy)
	for _, c := range []struct {
		candidate, pi float64
		max, runs     int
		want          float64
	}{
		{0.90, 0.5, 6000, 300, 900},
		{0.85, 0.5, 3000, 300, 300},
		{0.80, 0.05, 6000, 2000, 670},
	} {
		var at []float64
		for seed := range c.runs {
			rng := rand.New(rand.NewPCG(uint64(seed), 77))
			pr := newProcess("t", releaseInfo{Release: "new", Baseline: "old"}, p)
			st, err := pr.stage("s", c.pi)
			if err != nil {
				t.Fatal(err)
			}
			n := c.max
			for i := range c.max {
				u := event.GateUnit{First: start, Stage: st, Outcome: []int{0}}
				mean := 0.95
				if rng.Float64() < c.pi {
					u.Arm, mean = 1, c.candidate
				}
				if rng.Float64() < mean {
					u.Outcome[0] = 100
				}
				pr.enter(u)
				if i%10 == 9 && pr.Wealth[0].LogE(0) >= p.thresholds().Rollback {
					n = i + 1
					break
				}
			}
			at = append(at, float64(n))
		}
		got := median(at)
		t.Logf("%.2f against 0.95 at %.2f: %.0f units", c.candidate, c.pi, got)
		if got < 0.85*c.want || got > 1.15*c.want {
			t.Errorf("%.2f against 0.95 at %.2f: median %.0f units, published %.0f", c.candidate, c.pi, got, c.want)
		}
	}
}
