package gate

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/looptape/looptape/internal/loop/event"
	"github.com/looptape/looptape/internal/loop/measure"
)

// farFuture stands for "no end declared".
var farFuture = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

// resumeBelow is the log e-value below which a hold may be left.
var resumeBelow = math.Log(5)

// maxStages bounds the ramp stages of one release.
const maxStages = 64

// A process is the e-process of one release under one policy: units go in one
// by one in their order, read-outs come out. Everything in it follows from the
// units, the read-out times and the ambience, so that Recompute can run the very
// same code over recorded evidence. It owns no clock.
type process struct {
	ID       string          `json:"id"` // names (tenant, deployment, release, policy hash)
	Tenant   string          `json:"tenant"`
	Release  releaseInfo     `json:"release"`
	Policy   json.RawMessage `json:"policy"` // canonical; frozen for the release's life
	State    string          `json:"state"`
	Before   string          `json:"before,omitempty"` // the state before a rollback began
	Seq      int64           `json:"seq"`              // of the last evidence
	Previous string          `json:"previous"`         // its id
	Chain    string          `json:"chain"`            // hash over all evidence
	Decided  int64           `json:"decided"`          // decisions made

	Stages  []stageState     `json:"stages"`
	Wealth  []measure.Wealth `json:"wealth"` // per (segment, guard)
	Entered int64            `json:"entered"`
	Pins    []string         `json:"pins"`    // per guard: the evaluator its first score came from
	Suspect []bool           `json:"suspect"` // per guard: another one came later
	Latched latched          `json:"latched"`

	StageSince time.Time   `json:"stage_since"`
	HoldSince  time.Time   `json:"hold_since,omitzero"`
	Acted      []time.Time `json:"acted,omitempty"` // actions that count against the hourly bound
	Advanced   int         `json:"advanced"`        // stages for which advance was decided

	Pending []event.GateUnit `json:"pending,omitempty"` // entered since the last evidence

	policy *Policy
	tables [][]*measure.Table // per stage and guard
	bands  bool               // compute confidence sequences and estimates
}

// releaseInfo is what deployment events say of the release.
type releaseInfo struct {
	Release         string               `json:"release"`
	Baseline        string               `json:"baseline"`
	Deployment      string               `json:"deployment,omitempty"`
	App             string               `json:"app,omitempty"`
	Kind            string               `json:"kind,omitempty"`
	Layer           string               `json:"layer,omitempty"`
	Stage           string               `json:"stage,omitempty"`
	Propensity      float64              `json:"propensity,omitempty"`
	ReversibleUntil *time.Time           `json:"reversible_until,omitempty"`
	Announced       map[string][]float64 `json:"announced,omitempty"` // propensities by stage name
}

// A stageState is one stage: what is frozen in it and what was counted.
type stageState struct {
	Name       string           `json:"name"`
	Propensity float64          `json:"propensity"`
	Guess      []float64        `json:"g"`
	Counts     []measure.Counts `json:"counts"` // per (segment, guard)
	N          [2]int64         `json:"n"`
	TableHash  string           `json:"table_hash"`
}

// latched are the highest log e-values read so far: a crossing is final.
type latched struct {
	Overall float64   `json:"overall"`
	Guards  []float64 `json:"guards"`
	SRM     float64   `json:"srm"`
}

// ambience is what a read-out records besides what the units determine.
type ambience struct {
	Open      int
	Dropped   event.GateDropped
	Watermark time.Time
	LagS      float64
	Offsets   map[string]map[int32]int64
	Stale     bool
	Outside   string
	Suspect   []string
}

func newProcess(tenant string, info releaseInfo, p *Policy) *process {
	n := len(p.Guards) * (1 + len(p.Segments.Of))
	pr := &process{
		ID:     processID(tenant, info, p.Hash()),
		Tenant: tenant, Release: info, Policy: p.Canonical(), State: event.GateWarming,
		Wealth: make([]measure.Wealth, n), Pins: make([]string, len(p.Guards)), Suspect: make([]bool, len(p.Guards)),
		Latched: latched{Guards: make([]float64, len(p.Guards))},
		policy:  p, bands: true,
	}
	for i := range pr.Wealth {
		pr.Wealth[i] = measure.NewWealth(len(p.Grid))
	}
	return pr
}

func processID(tenant string, info releaseInfo, policy string) string {
	return event.DeriveID("gate.process", tenant, info.Deployment, info.Release, info.Baseline, policy)
}

// thaw rebuilds what a stored process does not carry. The policy is the one that
// was frozen into it, which need not be among those configured now.
func (pr *process) thaw(known []*Policy) error {
	var p *Policy
	if i := slices.IndexFunc(known, func(k *Policy) bool { return bytes.Equal(k.canonical, pr.Policy) }); i >= 0 {
		p = known[i]
	} else {
		var err error
		if p, err = ParseCanonical(pr.Policy); err != nil {
			return fmt.Errorf("process of release %s: %w", pr.Release.Release, err)
		}
	}
	n := len(p.Guards) * (1 + len(p.Segments.Of))
	if pr.ID != processID(pr.Tenant, pr.Release, p.Hash()) || len(pr.Wealth) != n || len(pr.Pins) != len(p.Guards) || len(pr.Suspect) != len(p.Guards) || len(pr.Latched.Guards) != len(p.Guards) {
		return fmt.Errorf("process of release %s: its state is not of its policy %s", pr.Release.Release, p.Hash())
	}
	for _, w := range pr.Wealth {
		if len(w.Harm) != len(p.Grid) || len(w.Promote) != len(p.Grid) {
			return fmt.Errorf("process of release %s: its state is not of its policy's grid", pr.Release.Release)
		}
	}
	pr.policy, pr.bands = p, true
	for i := range pr.Stages {
		s := &pr.Stages[i]
		tables, hash, err := makeTables(p, s.Propensity, s.Guess)
		if err != nil {
			return fmt.Errorf("process of release %s, stage %q: %w", pr.Release.Release, s.Name, err)
		}
		if len(s.Counts) != n {
			return fmt.Errorf("process of release %s, stage %q: counts of %d processes, want %d", pr.Release.Release, s.Name, len(s.Counts), n)
		}
		if hash != s.TableHash {
			return fmt.Errorf("process of release %s, stage %q: its increments were computed as %s and are now %s: this program or machine computes them differently", pr.Release.Release, s.Name, s.TableHash, hash)
		}
		pr.tables = append(pr.tables, tables)
	}
	return nil
}

func makeTables(p *Policy, propensity float64, guess []float64) ([]*measure.Table, string, error) {
	if len(guess) != len(p.Guards) {
		return nil, "", fmt.Errorf("%d guesses for %d guards", len(guess), len(p.Guards))
	}
	h := sha256.New()
	tables := make([]*measure.Table, len(p.Guards))
	for i, g := range p.Guards {
		t, err := measure.NewTable(p.Grid, measure.Setting{Propensity: propensity, Guess: guess[i], Margin: g.Margin})
		if err != nil {
			return nil, "", fmt.Errorf("metric %s: %w", g.Metric, err)
		}
		sum := t.Hash()
		h.Write(sum[:])
		tables[i] = t
	}
	return tables, "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}

// stage finds or opens the stage of a unit. What it freezes follows from the
// policy and the units before.
func (pr *process) stage(name string, propensity float64) (int, error) {
	for i := range pr.Stages {
		if pr.Stages[i].Name == name && pr.Stages[i].Propensity == propensity {
			return i, nil
		}
	}
	if len(pr.Stages) >= maxStages {
		return 0, fmt.Errorf("more than %d stages", maxStages)
	}
	p := pr.policy
	guess := make([]float64, len(p.Guards))
	for i, g := range p.Guards {
		guess[i] = g.Guess
		if !g.Refit {
			continue
		}
		// The declared guess weighs as much as 100 baseline units.
		n, sum := 100.0, 100*g.Guess
		for s := range pr.Stages {
			k, y := pr.Stages[s].Counts[i].Scored(measure.Baseline)
			n, sum = n+float64(k), sum+y
		}
		guess[i] = math.Min(math.Max(sum/n, measure.MinGuess), measure.MaxGuess)
	}
	tables, hash, err := makeTables(p, propensity, guess)
	if err != nil {
		return 0, err
	}
	pr.Stages = append(pr.Stages, stageState{
		Name: name, Propensity: propensity, Guess: guess, Counts: make([]measure.Counts, len(pr.Wealth)), TableHash: hash,
	})
	pr.tables = append(pr.tables, tables)
	return len(pr.Stages) - 1, nil
}

// enter adds one unit: the only way in which wealth changes.
func (pr *process) enter(u event.GateUnit) {
	p := pr.policy
	s := &pr.Stages[u.Stage]
	if s.N == [2]int64{} {
		pr.StageSince = u.First
	}
	s.N[u.Arm]++
	pr.Entered++
	for g, y := range u.Outcome {
		o := outcomeIndex(y)
		add := func(at int) {
			s.Counts[at].Add(u.Arm, o)
			pr.Wealth[at].Add(pr.tables[u.Stage][g], u.Arm, o)
		}
		add(g)
		for k, seg := range p.Segments.Of {
			if u.Segments[seg.Dim] == seg.Value {
				add((k+1)*len(p.Guards) + g)
			}
		}
	}
	if pr.State == event.GateWarming {
		pr.State = event.GateComparing
	}
	pr.Pending = append(pr.Pending, u)
}

func outcomeIndex(y int) int {
	switch y {
	case event.OutcomeMissing:
		return measure.Missing
	case event.OutcomeNotApplicable:
		return measure.NotApplicable
	}
	return y
}

// concluded reports whether nothing can change any more.
func (pr *process) concluded() bool {
	switch pr.State {
	case event.GateRollingBack, event.GateRolledBack, event.GatePromoted, event.GateQuarantined, event.GateExpired:
		return true
	}
	return false
}

func (pr *process) n() (n [2]int64) {
	for _, s := range pr.Stages {
		n[0] += s.N[0]
		n[1] += s.N[1]
	}
	return n
}

func (pr *process) srm() float64 {
	var log float64
	for _, s := range pr.Stages {
		log += measure.RatioLogE(s.N[:], []float64{1 - s.Propensity, s.Propensity})
	}
	return log
}

// stateHash names the integers and what they were counted under.
func (pr *process) stateHash() string {
	b, err := json.Marshal(struct {
		ID      string
		Stages  []stageState
		Wealth  []measure.Wealth
		Entered int64
	}{pr.ID, pr.Stages, pr.Wealth, pr.Entered})
	if err != nil { // numbers and texts only
		panic(err)
	}
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func (pr *process) tableHash() string {
	h := sha256.New()
	for _, s := range pr.Stages {
		h.Write([]byte(s.TableHash))
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// read is the read-out of every process, in order of weight.
func (pr *process) read() (all []event.GuardRead) {
	p := pr.policy
	logs := make([]float64, len(pr.Wealth))
	for i, w := range pr.Wealth {
		logs[i] = w.LogE(measure.Harm)
	}
	closed := measure.LogClosed(logs, p.weights)
	for i, w := range pr.Wealth {
		g := p.Guards[i%len(p.Guards)]
		r := event.GuardRead{
			Metric: g.Metric, Segment: "all", Good: g.Good, Margin: g.Margin, Weight: p.weights[i], Critical: g.Critical,
			LogEHarm: logs[i], LogEPromote: w.LogE(measure.Promote), ClosedLogE: closed[i],
			Harm: slices.Clone(w.Harm), Promote: slices.Clone(w.Promote),
		}
		if k := i / len(p.Guards); k > 0 {
			r.Segment = p.Segments.Of[k-1].String()
		}
		stages := make([]measure.StageCounts, len(pr.Stages))
		for s := range pr.Stages {
			stages[s] = measure.StageCounts{Setting: pr.tables[s][i%len(p.Guards)].Setting, Counts: &pr.Stages[s].Counts[i]}
		}
		for arm := range r.N {
			var scored int64
			var sum float64
			for _, st := range stages {
				r.N[arm] += st.Counts.N(arm)
				r.Missing[arm] += st.Counts[arm][measure.Missing]
				n, y := st.Counts.Scored(arm)
				scored, sum = scored+n, sum+y
			}
			if scored > 0 {
				r.Mean[arm] = sum / float64(scored)
			}
		}
		r.CS = [2]float64{-1, 1}
		if pr.bands {
			r.Effect = measure.Estimate(stages)
			if pr.Entered > 0 {
				r.CS[0], r.CS[1] = measure.EffectSequence(p.Grid, stages, 1-confidence)
			}
		}
		all = append(all, r)
	}
	return all
}

// confidence of the sequences shown.
const confidence = 0.95
