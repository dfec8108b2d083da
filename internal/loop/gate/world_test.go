package gate

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/looptape/looptape/internal/loop/event"
)

// testPolicy is short and has one guard of each kind.
const testPolicy = `
apiVersion: looptape/v1
kind: ReleaseGate
metadata: {name: test, version: 3}
spec:
  unit_close: 2s
  alpha: {rollback: 0.03, critical: 0.01, hold: 0.1, promote: 0.05, srm: 0.001}
  guards:
    - {metric: leak,          good: low,  margin: 0.00, weight: 1, critical: true, guess: 0.97}
    - {metric: grounded,      good: high, margin: 0.05, weight: 2, guess: 0.90, refit: true}
    - {metric: missing_score, good: low,  margin: 0.05, weight: 1, guess: 0.95}
  segments: {share: 0.3, of: [lang=de, {is: lang=fr, weight: 2}]}
  watermark: {units: 2000, time: 5s}
  readout: {every: 1s, units: 50}
  rules:
    - when: 'v.srm_log_e >= thr.srm'
      do: quarantine
    - when: 'm["leak"].log_e >= thr.critical'
      do: rollback
    - when: 'g.log_e >= thr.rollback && v.judge == "ok" && now < release.reversible_until'
      do: rollback
    - when: 'g.log_e >= thr.hold'
      do: hold
    - when: 'guards.all(x, x.log_e_promote >= thr.promote) && v.n_candidate >= 100'
      do: advance
  hysteresis: {min_dwell: 3s, cool_down: 10s, max_actions_per_hour: 100}
  stale_after: 30s
`

func mustPolicy(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := LoadPolicy([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var start = time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)

// A scene is made-up traffic: revisions of cases with the time at which each
// arrives at the gate.
type scene struct {
	arrivals []arrival
}

type arrival struct {
	at time.Time
	c  event.Case
}

type sceneConfig struct {
	seed       uint64
	units      int
	rate       float64 // units a second
	harm       float64 // from unit harmFrom on
	harmFrom   int
	jitter     time.Duration // of arrival, below the watermark
	stepAt     int           // unit at which the second stage begins; 0: none
	arms       func(rng *rand.Rand, pi float64) bool
	unmodified bool
}

func makeScene(cfg sceneConfig) *scene {
	rng := rand.New(rand.NewPCG(cfg.seed, 1))
	s := &scene{}
	for i := range cfg.units {
		at := start.Add(time.Duration(float64(i)/cfg.rate*1e9) * time.Nanosecond)
		stage, pi := "canary", 0.3
		if cfg.stepAt > 0 && i >= cfg.stepAt {
			stage, pi = "half", 0.5
		}
		candidate := rng.Float64() < pi
		if cfg.arms != nil {
			candidate = cfg.arms(rng, pi)
		}
		lang := []string{"de", "fr", "en"}[rng.IntN(3)]
		for k := range 1 + rng.IntN(3) {
			c := event.Case{
				Request: fmt.Sprintf("r%d-%d", i, k), Tenant: "t", Unit: fmt.Sprintf("c%d", i), UnitKind: "conversation", Deployment: "d1",
				Propensity: &pi, Stage: stage, Start: at.Add(time.Duration(k) * 700 * time.Millisecond), Revision: 1,
				Arm: event.ArmBaseline, Release: "old", Segments: map[string]string{"lang": lang},
			}
			c.End = c.Start.Add(300 * time.Millisecond)
			mean := 0.9
			if candidate {
				c.Arm, c.Release = event.ArmCandidate, "new"
				if i >= cfg.harmFrom {
					mean -= cfg.harm
				}
			}
			wait := func() time.Duration {
				if cfg.jitter == 0 {
					return 100 * time.Millisecond
				}
				return time.Duration(rng.Int64N(int64(cfg.jitter)))
			}
			first := c.End.Add(wait())
			s.arrivals = append(s.arrivals, arrival{first, c})
			scored := c
			scored.Revision = 2
			g, leak := 0.0, 0.0
			if rng.Float64() < mean {
				g = 1
			} else if rng.Float64() < 0.5 {
				g = 0.33
			}
			if rng.Float64() < 0.02 {
				leak = 1
			}
			scored.Scores = []event.CaseScore{
				{ID: "g" + c.Request, Evaluator: "grounded@1#ab", Metric: "grounded", Mode: "live", Status: "scored", Value: &g, Good: "high", SampledP: 1},
				{ID: "l" + c.Request, Evaluator: "leak@2#cd", Metric: "leak", Mode: "live", Status: "scored", Value: &leak, Good: "low", SampledP: 1},
			}
			switch {
			case rng.Float64() < 0.05:
				scored.Scores[0].Status, scored.Scores[0].Value = "skipped", nil
			case rng.Float64() < 0.03:
				scored.Scores = scored.Scores[1:] // never scored
			}
			s.arrivals = append(s.arrivals, arrival{first.Add(wait()), scored})
		}
	}
	return s
}

// started is the deployment event of every scene.
func started() Input {
	return Input{Deployment: &DeploymentInput{Type: event.DeploymentStarted, Tenant: "t", Body: event.Deployment{
		Release: "new", Baseline: "old", Deployment: "d1", App: "shop", Stage: "canary", Propensity: 0.3,
	}}}
}

func newEngine(t testing.TB, p *Policy, partitions int) *Engine {
	t.Helper()
	e, err := NewEngine(Config{Policies: []*Policy{p}, Partitions: partitions})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// heard is what an engine said.
type heard struct {
	evidence  []event.Evidence
	decisions []event.Decision
	acks      []event.Acknowledgement
	other     []string // types
	ids       []string
	raw       []string // id and bytes, in order
	notes     []string
}

func (h *heard) hear(t testing.TB, effects []Effect) {
	t.Helper()
	for _, f := range effects {
		if f.Emit == nil {
			h.notes = append(h.notes, f.Note)
			continue
		}
		ev := &f.Emit.Event
		h.ids = append(h.ids, ev.ID)
		h.raw = append(h.raw, ev.ID+" "+string(ev.Data))
		var err error
		switch ev.Type {
		case event.GateEvidence:
			var b event.Evidence
			err = ev.Body(&b)
			h.evidence = append(h.evidence, b)
		case event.GateDecision:
			var b event.Decision
			err = ev.Body(&b)
			h.decisions = append(h.decisions, b)
		case event.GateAcknowledged:
			var b event.Acknowledgement
			err = ev.Body(&b)
			h.acks = append(h.acks, b)
		default:
			h.other = append(h.other, ev.Type)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// canonical is what must not depend on the order of arrival: everything but what
// surrounds the statistics.
func (h *heard) canonical(t testing.TB) string {
	t.Helper()
	var out strings.Builder
	for _, e := range h.evidence {
		e.Open, e.LagS, e.Watermark, e.Offsets = 0, 0, time.Time{}, nil
		e.Dropped = event.GateDropped{}
		e.Caveats = nil
		b, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(b)
		out.WriteByte('\n')
	}
	for _, d := range h.decisions {
		d.EvidenceHash, d.Offsets, d.Caveats = "", nil, nil
		b, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(b)
		out.WriteByte('\n')
	}
	return out.String()
}

// partitionOf spreads requests like the stream does.
func partitionOf(request string, n int) int32 { return event.PartitionOf(request, int32(n)) }

// idle ends a scene: ticks until everything had its turn.
func idle(e *Engine, from time.Time, hear func([]Effect)) {
	parts := make([]int32, len(e.clock.Data))
	for i := range parts {
		parts[i] = int32(i)
	}
	for k := range 12 {
		hear(e.Step(Input{Tick: &Tick{Now: from.Add(time.Duration(k) * 2 * time.Second), Partitions: parts}}))
	}
}
