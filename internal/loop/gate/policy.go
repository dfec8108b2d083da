package gate

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/looptape/looptape/internal/loop/measure"
)

//go:embed policies/*.yaml
var embedded embed.FS

// Names of the embedded policies.
const (
	PolicyDefault = "default"
	PolicyDemo    = "demo"
)

// Embedded returns the text of an embedded policy.
func Embedded(name string) ([]byte, error) {
	b, err := embedded.ReadFile("policies/" + name + ".yaml")
	if err != nil {
		return nil, fmt.Errorf("embedded gate policy %q: %w", name, err)
	}
	return b, nil
}

// A Policy says what is guarded, by which margins, at which error rates, and
// what is done when. It is immutable once loaded; Hash names everything that the
// guarantee depends on. The JSON form is canonical: fields in this order, no
// blanks, durations in nanoseconds.
type Policy struct {
	Format     int         `json:"format"` // of the canonical form and of the increment tables
	Name       string      `json:"name"`
	Version    int         `json:"version"`
	Match      string      `json:"match"` // CEL over release: which releases it judges
	Unit       string      `json:"unit"`  // unit_kind it takes: conversation, user, request
	UnitClose  Duration    `json:"unit_close"`
	MaxRequest int         `json:"max_requests"` // a unit closes at this many
	Alpha      Alpha       `json:"alpha"`
	Guards     []Guard     `json:"guards"`
	Segments   Segments    `json:"segments"`
	Watermark  Watermark   `json:"watermark"`
	Rules      []Rule      `json:"rules"`
	Hysteresis Hysteresis  `json:"hysteresis"`
	Readout    Readout     `json:"readout"`
	StaleAfter Duration    `json:"stale_after"` // no unit for so long while comparing: hold
	Grid       []float64   `json:"grid"`
	Cases      []CheckCase `json:"-"` // unit tests are not part of what is judged

	conditions *conditions
	hash       string
	canonical  []byte
	weights    []float64 // of the processes, in order guards x (all, segments...), summing to 1
	fallback   []float64
}

// policyFormat changes when the canonical form or the tables change.
const policyFormat = 1

// Duration is a time.Duration in nanoseconds of event time.
type Duration = time.Duration

// Alpha is the error spent by each claim.
type Alpha struct {
	Rollback float64 `json:"rollback"`
	Critical float64 `json:"critical"`
	Hold     float64 `json:"hold"`
	Promote  float64 `json:"promote"`
	SRM      float64 `json:"srm"`
}

// A Guard is one metric that must not get worse than its margin.
type Guard struct {
	Metric    string  `json:"metric"`
	Good      string  `json:"good"` // high, low: which end of the score is good
	Margin    float64 `json:"margin"`
	Weight    float64 `json:"weight"`
	Fallback  float64 `json:"fallback_weight"` // while its evaluator is in doubt; at most Weight, so that it costs no error
	Critical  bool    `json:"critical"`
	Guess     float64 `json:"guess"`     // g of the first stage: the expected mean, 1 is good
	Refit     bool    `json:"refit"`     // later stages take g from the baseline units entered before them
	Aggregate string  `json:"aggregate"` // mean, worst: of a unit's requests
	Evaluator string  `json:"evaluator"` // id or id@version whose scores count; "" is the metric's name
}

// Segments are judged beside the whole. Their values are declared beforehand,
// since weights chosen after the data would break the guarantee.
type Segments struct {
	Share float64        `json:"share"` // of the weight
	Of    []SegmentValue `json:"of"`
}

// A SegmentValue is one declared slice.
type SegmentValue struct {
	Dim    string  `json:"dim"`
	Value  string  `json:"value"`
	Weight float64 `json:"weight"`
}

func (s SegmentValue) String() string { return s.Dim + "=" + s.Value }

// Watermark says how long a unit's turn waits for its scores: until Time after
// it closed, or until Units later ones wait behind it.
type Watermark struct {
	Units int      `json:"units"`
	Time  Duration `json:"time"`
}

// A Rule is a condition and what is done when it holds; the first that holds wins.
type Rule struct {
	When string `json:"when"`
	Do   string `json:"do"` // quarantine, rollback, hold, advance
}

// Hysteresis keeps the ramp from flapping. Rollback and quarantine never wait.
type Hysteresis struct {
	MinDwell          Duration `json:"min_dwell"` // in a stage before it may advance or hold
	CoolDown          Duration `json:"cool_down"` // before a hold may be left
	MaxActionsPerHour int      `json:"max_actions_per_hour"`
}

// Readout says how often the evidence is read and the rules are asked, in the
// units' own order: whichever comes first.
type Readout struct {
	Every Duration `json:"every"`
	Units int      `json:"units"`
}

// Hash names the policy: "sha256:" and the digest of its canonical form.
func (p *Policy) Hash() string { return p.hash }

// Canonical is the canonical JSON form.
func (p *Policy) Canonical() []byte { return slices.Clone(p.canonical) }

// Title is name@version.
func (p *Policy) Title() string { return fmt.Sprintf("%s@%d", p.Name, p.Version) }

// Matches reports whether the policy judges the release.
func (p *Policy) Matches(r ReleaseFacts) (bool, error) { return p.conditions.matches(r) }

// ParseCanonical compiles a policy from its canonical form, as evidence carries it.
func ParseCanonical(canonical []byte) (*Policy, error) {
	if len(canonical) > MaxPolicyBytes {
		return nil, fmt.Errorf("canonical policy of %d bytes: limit is %d", len(canonical), MaxPolicyBytes)
	}
	p := new(Policy)
	d := json.NewDecoder(bytes.NewReader(canonical))
	d.DisallowUnknownFields()
	if err := d.Decode(p); err != nil {
		return nil, fmt.Errorf("canonical policy: %w", err)
	}
	if p.Format != policyFormat {
		return nil, fmt.Errorf("canonical policy of format %d: this program knows %d", p.Format, policyFormat)
	}
	if err := p.finish(); err != nil {
		return nil, err
	}
	return p, nil
}

// finish checks the values, compiles the conditions and freezes the policy.
func (p *Policy) finish() error {
	var ps problems
	p.check(&ps)
	c, cps := compile(p)
	ps = append(ps, cps...)
	if len(ps) > 0 {
		return ps
	}
	p.conditions = c
	b, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("canonical form of policy %s: %w", p.Name, err)
	}
	sum := sha256.Sum256(b)
	p.canonical, p.hash = b, "sha256:"+hex.EncodeToString(sum[:])
	p.weigh()
	return nil
}

// weigh spreads the error over the processes: guards by weight on the whole,
// and the segments' share of it by segment weight.
func (p *Policy) weigh() {
	var guards, segments float64
	for _, g := range p.Guards {
		guards += g.Weight
	}
	for _, s := range p.Segments.Of {
		segments += s.Weight
	}
	whole := 1.0
	if len(p.Segments.Of) > 0 {
		whole = 1 - p.Segments.Share
	}
	add := func(share float64) {
		for _, g := range p.Guards {
			p.weights = append(p.weights, share*g.Weight/guards)
			p.fallback = append(p.fallback, share*g.Fallback/guards)
		}
	}
	add(whole)
	for _, s := range p.Segments.Of {
		add(p.Segments.Share * s.Weight / segments)
	}
}

func (p *Policy) check(ps *problems) {
	span := func(path string, d, lo, hi time.Duration) {
		if d < lo || d > hi {
			ps.add(path, 0, "%v: must lie between %v and %v", d, lo, hi)
		}
	}
	level := func(path string, a, hi float64) {
		if !(a > 0 && a <= hi) {
			ps.add(path, 0, "%v: must lie above 0 and be at most %v", a, hi)
		}
	}
	whole := func(path string, n, lo, hi int) {
		if n < lo || n > hi {
			ps.add(path, 0, "%d: must lie between %d and %d", n, lo, hi)
		}
	}
	if p.Name == "" {
		ps.add("metadata.name", 0, "missing")
	}
	whole("metadata.version", p.Version, 1, math.MaxInt32)
	if !slices.Contains([]string{"conversation", "user", "request"}, p.Unit) {
		ps.add("spec.unit", 0, "%q: must be conversation, user or request", p.Unit)
	}
	span("spec.unit_close", p.UnitClose, 100*time.Millisecond, 24*time.Hour)
	whole("spec.max_requests", p.MaxRequest, 1, 1000)
	level("spec.alpha.rollback", p.Alpha.Rollback, 0.2)
	level("spec.alpha.critical", p.Alpha.Critical, 0.2)
	level("spec.alpha.hold", p.Alpha.Hold, 0.5)
	level("spec.alpha.promote", p.Alpha.Promote, 0.2)
	level("spec.alpha.srm", p.Alpha.SRM, 0.05)
	whole("spec.watermark.units", p.Watermark.Units, 10, 100_000)
	span("spec.watermark.time", p.Watermark.Time, 100*time.Millisecond, 24*time.Hour)
	span("spec.hysteresis.min_dwell", p.Hysteresis.MinDwell, 0, 30*24*time.Hour)
	span("spec.hysteresis.cool_down", p.Hysteresis.CoolDown, 0, 30*24*time.Hour)
	whole("spec.hysteresis.max_actions_per_hour", p.Hysteresis.MaxActionsPerHour, 1, 1000)
	span("spec.readout.every", p.Readout.Every, 100*time.Millisecond, time.Hour)
	whole("spec.readout.units", p.Readout.Units, 1, 500) // an evidence event must stay a small record
	span("spec.stale_after", p.StaleAfter, p.UnitClose+p.Watermark.Time, 30*24*time.Hour)
	if len(p.Guards) == 0 || len(p.Guards) > 32 {
		ps.add("spec.guards", 0, "%d guards: must be 1 to 32", len(p.Guards))
	}
	names := map[string]bool{}
	for i, g := range p.Guards {
		at := fmt.Sprintf("spec.guards[%d]", i)
		if g.Metric == "" {
			ps.add(at+".metric", 0, "missing")
		} else if names[g.Metric] {
			ps.add(at+".metric", 0, "%q is guarded twice", g.Metric)
		}
		names[g.Metric] = true
		if g.Good != "high" && g.Good != "low" {
			ps.add(at+".good", 0, "%q: must be high or low", g.Good)
		}
		if g.Aggregate != "mean" && g.Aggregate != "worst" {
			ps.add(at+".aggregate", 0, "%q: must be mean or worst", g.Aggregate)
		}
		if !(g.Weight > 0 && g.Weight <= 1000) {
			ps.add(at+".weight", 0, "%v: must lie above 0 and be at most 1000", g.Weight)
		}
		if !(g.Fallback >= 0 && g.Fallback <= g.Weight) {
			ps.add(at+".fallback_weight", 0, "%v: must lie between 0 and the weight, or it would cost error of its own", g.Fallback)
		}
		if err := (measure.Setting{Propensity: 0.5, Guess: g.Guess, Margin: g.Margin}).Check(); err != nil {
			ps.add(at, 0, "%v", err)
		} else if g.Margin > 0.5 {
			ps.add(at+".margin", 0, "%v: must be at most 0.5", g.Margin)
		}
	}
	if len(p.Segments.Of) > 32 {
		ps.add("spec.segments.of", 0, "%d values: at most 32", len(p.Segments.Of))
	}
	if n := len(p.Segments.Of); n > 0 && !(p.Segments.Share > 0 && p.Segments.Share < 1) {
		ps.add("spec.segments.share", 0, "%v: must lie between 0 and 1", p.Segments.Share)
	}
	values := map[string]bool{}
	for i, s := range p.Segments.Of {
		at := fmt.Sprintf("spec.segments.of[%d]", i)
		if s.Dim == "" || s.Value == "" {
			ps.add(at, 0, "needs the form dim=value")
		}
		if values[s.String()] {
			ps.add(at, 0, "%q is declared twice", s.String())
		}
		values[s.String()] = true
		if !(s.Weight > 0 && s.Weight <= 1000) {
			ps.add(at+".weight", 0, "%v: must lie above 0 and be at most 1000", s.Weight)
		}
	}
	if len(p.Rules) == 0 || len(p.Rules) > 64 {
		ps.add("spec.rules", 0, "%d rules: must be 1 to 64", len(p.Rules))
	}
	for i, r := range p.Rules {
		if !slices.Contains([]string{doQuarantine, doRollback, doHold, doAdvance}, r.Do) {
			ps.add(fmt.Sprintf("spec.rules[%d].do", i), 0, "%q: must be quarantine, rollback, hold or advance", r.Do)
		}
	}
	if len(p.Grid) == 0 || len(p.Grid) > 16 {
		ps.add("spec.grid", 0, "%d bets: must be 1 to 16", len(p.Grid))
	}
	for _, c := range p.Grid {
		if !(c > 0 && c < 1) {
			ps.add("spec.grid", 0, "%v: must lie between 0 and 1", c)
		}
	}
}

// What a rule can do.
const (
	doQuarantine = "quarantine"
	doRollback   = "rollback"
	doHold       = "hold"
	doAdvance    = "advance"
)
