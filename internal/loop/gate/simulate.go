package gate

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/looptape/looptape/internal/base/run"
	"github.com/looptape/looptape/internal/loop/event"
)

// SimulateConfig describes seeded runs of made-up traffic through the very same
// engine and policy, in virtual time.
type SimulateConfig struct {
	Policy     *Policy
	Runs       int
	Units      int                // per run
	Seed       uint64             // run r uses (Seed, r)
	Share      float64            // of the candidate; default 0.5
	Rate       float64            // units a second of event time; default 40
	Defect     float64            // by how much the guarded means fall in the candidate; 0 is no difference
	DefectIn   string             // the one metric that it is in; "": in all
	DefectFrom int                // first unit with the defect
	Means      map[string]float64 // true baseline means by metric (1 good), where they are not the policy's guesses
	Sigma      float64            // spread of quality between units, 0 .. 1; default 0.2

	// Wrong ways to do it, to check that the harness sees them fail.
	wrong wrongWay
}

type wrongWay int

const (
	rightWay     wrongWay = iota
	stickyAsUnit          // users keep their arm and their quality, yet each request is counted as a unit
	arrivalOrder          // scores count in the order in which they come, and the candidate's failures come first
)

// Simulated is the outcome of the runs.
type Simulated struct {
	Runs        int     `json:"runs"`
	Units       int     `json:"units"`
	Rollbacks   int     `json:"rollbacks"`
	Advances    int     `json:"advances"`
	Quarantines int     `json:"quarantines"`
	Rate        float64 `json:"rollback_rate"`
	Alpha       float64 `json:"alpha"` // what the policy promises of runs without a defect
	StdErr      float64 `json:"standard_error"`
	Median      int     `json:"median_units_to_rollback"` // entered; 0 without any
}

// Bound is the rate that runs without a defect may reach: alpha and three
// standard errors.
func (s Simulated) Bound() float64 { return s.Alpha + 3*s.StdErr }

// Simulate runs the gate. It neither sleeps nor reads a clock, and the same
// configuration gives the same result.
func Simulate(ctx context.Context, cfg SimulateConfig) (Simulated, error) {
	if cfg.Share == 0 {
		cfg.Share = 0.5
	}
	if cfg.Rate == 0 {
		cfg.Rate = 40
	}
	if cfg.Sigma == 0 {
		cfg.Sigma = 0.2
	}
	if cfg.Policy == nil || cfg.Runs < 1 || cfg.Units < 1 {
		return Simulated{}, fmt.Errorf("simulate: needs a policy, runs and units")
	}
	out := Simulated{Runs: cfg.Runs, Units: cfg.Units, Alpha: cfg.Policy.AlphaTotal()}
	var when []int
	runs := make([]simulatedRun, cfg.Runs)
	var next atomic.Int64
	group := run.New(ctx)
	for range min(runtime.GOMAXPROCS(0), cfg.Runs) {
		group.Go("simulate", func(ctx context.Context) error {
			for ctx.Err() == nil {
				r := int(next.Add(1)) - 1
				if r >= cfg.Runs {
					return nil
				}
				var err error
				if runs[r], err = simulateRun(&cfg, rand.New(rand.NewPCG(cfg.Seed, uint64(r)))); err != nil {
					return err
				}
			}
			return ctx.Err()
		})
	}
	if err := group.Wait(); err != nil {
		return out, err
	}
	for _, o := range runs {
		switch {
		case o.rolledBack:
			out.Rollbacks++
			when = append(when, int(o.entered))
		case o.quarantined:
			out.Quarantines++
		}
		if o.advanced {
			out.Advances++
		}
	}
	slices.Sort(when)
	if len(when) > 0 {
		out.Median = when[len(when)/2]
	}
	out.Rate = float64(out.Rollbacks) / float64(cfg.Runs)
	out.StdErr = math.Sqrt(out.Alpha * (1 - out.Alpha) / float64(cfg.Runs))
	return out, nil
}

type simulatedRun struct {
	rolledBack, advanced, quarantined bool
	entered                           int64
}

// simulatedStart is when virtual time begins.
var simulatedStart = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func simulateRun(cfg *SimulateConfig, rng *rand.Rand) (simulatedRun, error) {
	p := cfg.Policy
	e, err := NewEngine(Config{Policies: []*Policy{p}, Partitions: 1, quiet: true})
	if err != nil {
		return simulatedRun{}, err
	}
	e.Step(Input{Deployment: &DeploymentInput{
		Type: event.DeploymentStarted, Tenant: "default",
		Body: event.Deployment{Release: "candidate", Baseline: "baseline", Stage: "1", Propensity: cfg.Share},
	}})
	if len(e.order) != 1 {
		return simulatedRun{}, fmt.Errorf("simulate: policy %s does not match the simulated release", p.Title())
	}
	traffic := newTraffic(cfg, rng)
	pr := e.lanes[e.order[0]].process
	for i := range cfg.Units {
		if pr.concluded() {
			break // a crossing is final
		}
		for _, c := range traffic.unit(i) {
			e.Step(Input{Case: &CaseInput{Appended: c.End, Case: *c}})
		}
	}
	end := e.clock.Max.Add(time.Hour)
	for range 2 { // idle: everything left has its turn
		e.Step(Input{Tick: &Tick{Now: end, Partitions: []int32{0}}})
		end = end.Add(2 * e.cfg.IdleAfter)
	}
	return simulatedRun{
		rolledBack:  pr.State == event.GateRollingBack,
		quarantined: pr.State == event.GateQuarantined,
		advanced:    pr.Advanced > 0,
		entered:     pr.Entered,
	}, nil
}

// traffic makes cases.
type traffic struct {
	cfg   *SimulateConfig
	rng   *rand.Rand
	users []simulatedUser
	late  []delayed // wrong way arrivalOrder
	good  []float64 // mean per guard
	names []string  // evaluator per guard
	cases []event.Case
}

// blank is a case to fill in. The engine keeps nothing of a case, so that one
// can serve again, unless it is held back.
func (t *traffic) blank(k int) *event.Case {
	if t.cfg.wrong == arrivalOrder {
		return new(event.Case)
	}
	if t.cases == nil {
		t.cases = make([]event.Case, 3)
	}
	return &t.cases[k]
}

type simulatedUser struct {
	candidate bool
	quality   float64
}

type delayed struct {
	at int
	c  *event.Case
}

func newTraffic(cfg *SimulateConfig, rng *rand.Rand) *traffic {
	t := &traffic{cfg: cfg, rng: rng}
	for _, g := range cfg.Policy.Guards {
		mean, ok := cfg.Means[g.Metric]
		if !ok {
			mean = g.Guess
		}
		t.good = append(t.good, mean)
		name := g.Evaluator
		if name == "" {
			name = g.Metric
		}
		if !strings.Contains(name, "@") {
			name += "@1#0"
		}
		t.names = append(t.names, name)
	}
	if cfg.wrong == stickyAsUnit {
		// Few users of very different quality, each many times.
		for range max(1, cfg.Units/40) {
			q := 1.0
			if rng.Float64() < 0.2 {
				q = rng.Float64() * 0.6
			}
			t.users = append(t.users, simulatedUser{rng.Float64() < cfg.Share, q})
		}
	}
	return t
}

// unit makes the requests of one unit, in order.
func (t *traffic) unit(i int) []*event.Case {
	cfg, rng := t.cfg, t.rng
	start := simulatedStart.Add(time.Duration(float64(i) / cfg.Rate * float64(time.Second)))
	candidate := rng.Float64() < cfg.Share
	shift := (rng.Float64()*2 - 1) * cfg.Sigma // of this unit's quality, alike for all its metrics
	requests := 1 + rng.IntN(3)
	if cfg.wrong != rightWay {
		requests = 1
	}
	if t.users != nil {
		u := t.users[rng.IntN(len(t.users))]
		candidate, shift = u.candidate, u.quality-1
	}
	out := make([]*event.Case, 0, requests)
	id := "u" + strconv.Itoa(i)
	for k := range requests {
		at := start.Add(time.Duration(k) * cfg.Policy.UnitClose / 4)
		c := t.blank(k)
		*c = event.Case{
			Request: id + "." + strconv.Itoa(k), Tenant: "default", Revision: 1, Unit: id, UnitKind: cfg.Policy.Unit,
			Propensity: &cfg.Share, Stage: "1", Start: at, End: at, Arm: event.ArmBaseline, Release: "baseline",
			Scores: c.Scores[:0],
		}
		if candidate {
			c.Arm, c.Release = event.ArmCandidate, "candidate"
		}
		failed := false
		for g := range cfg.Policy.Guards {
			guard := &cfg.Policy.Guards[g]
			mean := t.good[g] + shift*(1-t.good[g])
			if t.users != nil {
				mean = t.good[g] + shift
			}
			if candidate && i >= cfg.DefectFrom && (cfg.DefectIn == "" || cfg.DefectIn == guard.Metric) {
				mean -= cfg.Defect
			}
			v := 0.0
			if rng.Float64() < mean {
				v = 1
			} else {
				failed = true
			}
			t.score(c, guard, t.names[g], v)
		}
		if cfg.wrong == arrivalOrder {
			// What comes later is passed off as if it had been asked later.
			if !(candidate && failed) {
				t.late = append(t.late, delayed{i + int(rng.ExpFloat64()*400), c})
				continue
			}
		}
		out = append(out, c)
	}
	if cfg.wrong == arrivalOrder {
		keep := t.late[:0]
		for _, d := range t.late {
			if d.at > i {
				keep = append(keep, d)
				continue
			}
			d.c.Start, d.c.End = start, start
			out = append(out, d.c)
		}
		t.late = keep
	}
	return out
}

// zeroOne are the values of made-up scores.
var zeroOne = [2]float64{0, 1}

// score writes a value (1 good) the way the guard's metric is read.
func (t *traffic) score(c *event.Case, g *Guard, evaluator string, v float64) {
	switch g.Metric {
	case MetricMissingScore:
		return // scores are all there
	case MetricRequestFailed:
		c.Failed = v == 0
		return
	case MetricThumbsDown:
		if v == 0 {
			bad := 0.0
			c.Labels = append(c.Labels, event.Label{ID: c.Request, Kind: "thumbs", Value: &bad, Time: c.Start})
		}
		return
	}
	if g.Good == "low" {
		v = 1 - v
	}
	c.Scores = append(c.Scores, event.CaseScore{
		ID: g.Metric, Evaluator: evaluator, Metric: g.Metric, Mode: "live", Status: "scored", Value: &zeroOne[int(v)], Good: g.Good, SampledP: 1,
	})
}
