package gate

import (
	"fmt"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/ext"
)

// What the conditions of a policy see. The CEL names are in the tags; a name
// that does not exist is a problem when the policy is loaded.

// ReleaseFacts is `release`.
type ReleaseFacts struct {
	ID              string    `cel:"id"`
	Baseline        string    `cel:"baseline"`
	Deployment      string    `cel:"deployment"`
	App             string    `cel:"app"`
	Kind            string    `cel:"kind"`
	Layer           string    `cel:"layer"`
	Stage           string    `cel:"stage"`
	Propensity      float64   `cel:"propensity"`
	ReversibleUntil time.Time `cel:"reversible_until"` // far in the future when not declared
}

// OverallFacts is `g`: the weighted average over guards and segments.
type OverallFacts struct {
	LogE        float64 `cel:"log_e"` // in rules that roll back or quarantine: the highest so far
	LogEPromote float64 `cel:"log_e_promote"`
}

// GuardFacts is an entry of `m` and of `guards`.
type GuardFacts struct {
	Metric      string  `cel:"metric"`
	LogE        float64 `cel:"log_e"` // harm; latched like g.log_e
	LogEPromote float64 `cel:"log_e_promote"`
	ClosedLogE  float64 `cel:"closed_log_e"`
	Effect      float64 `cel:"effect"`
	Critical    bool    `cel:"critical"`
	NCandidate  int64   `cel:"n_candidate"`
	NBaseline   int64   `cel:"n_baseline"`
}

// ValidityFacts is `v`.
type ValidityFacts struct {
	SRMLogE    float64 `cel:"srm_log_e"` // latched
	Judge      string  `cel:"judge"`     // ok, suspect
	GSTCrossed bool    `cel:"gst_crossed"`
	NCandidate int64   `cel:"n_candidate"`
	NBaseline  int64   `cel:"n_baseline"`
}

// ThresholdFacts is `thr`: ln(1/alpha) of every claim.
type ThresholdFacts struct {
	Rollback float64 `cel:"rollback"`
	Critical float64 `cel:"critical"`
	Hold     float64 `cel:"hold"`
	Promote  float64 `cel:"promote"`
	SRM      float64 `cel:"srm"`
}

// Facts is everything a condition sees.
type Facts struct {
	Release  ReleaseFacts
	Overall  OverallFacts
	Guards   []GuardFacts // in policy order
	Validity ValidityFacts
	Now      time.Time
}

func (p *Policy) thresholds() ThresholdFacts {
	return ThresholdFacts{
		Rollback: -math.Log(p.Alpha.Rollback), Critical: -math.Log(p.Alpha.Critical),
		Hold: -math.Log(p.Alpha.Hold), Promote: -math.Log(p.Alpha.Promote), SRM: -math.Log(p.Alpha.SRM),
	}
}

type conditions struct {
	match cel.Program
	rules []cel.Program
	spent []Spend
	total float64
}

// A Spend is one way in which the policy can roll back by mistake, and how often.
type Spend struct {
	Rule      int // first that uses it
	Statistic string
	Claim     string // rollback, critical
	Alpha     float64
}

// environment is what conditions are compiled in; building it costs more than
// compiling in it.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	t := func(v any) *cel.Type {
		rt := reflect.TypeOf(v)
		return cel.ObjectType(rt.String())
	}
	guard := t(GuardFacts{})
	return cel.NewEnv(
		ext.NativeTypes(ext.ParseStructTags(true),
			reflect.TypeFor[ReleaseFacts](), reflect.TypeFor[OverallFacts](), reflect.TypeFor[GuardFacts](),
			reflect.TypeFor[ValidityFacts](), reflect.TypeFor[ThresholdFacts]()),
		cel.Variable("release", t(ReleaseFacts{})),
		cel.Variable("g", t(OverallFacts{})),
		cel.Variable("m", cel.MapType(cel.StringType, guard)),
		cel.Variable("guards", cel.ListType(guard)),
		cel.Variable("v", t(ValidityFacts{})),
		cel.Variable("thr", t(ThresholdFacts{})),
		cel.Variable("now", cel.TimestampType),
	)
})

// costLimit bounds one evaluation; conditions over 32 guards need a few hundred.
const costLimit = 100_000

var (
	useMetric    = regexp.MustCompile(`\bm\[\s*["']([^"']*)["']\s*\]`)
	useThreshold = regexp.MustCompile(`\bthr\.(\w+)`)
	useOverall   = regexp.MustCompile(`\bg\.log_e\b`)
	useEach      = regexp.MustCompile(`\bguards\.`)
	useRelease   = regexp.MustCompile(`\b(g|m|guards|v|thr|now)\b`)
)

func compile(p *Policy) (*conditions, problems) {
	var ps problems
	env, err := environment()
	if err != nil {
		ps.add("spec", 0, "set up conditions: %v", err)
		return nil, ps
	}
	program := func(path, text string) cel.Program {
		if len(text) > 4096 {
			ps.add(path, 0, "condition of %d bytes: limit is 4096", len(text))
			return nil
		}
		ast, iss := env.Compile(text)
		if err := iss.Err(); err != nil {
			for _, e := range iss.Errors() {
				ps.add(path, 0, "column %d: %s", e.Location.Column()+1, e.Message)
			}
			return nil
		}
		if !ast.OutputType().IsExactType(cel.BoolType) {
			ps.add(path, 0, "must be true or false, not a %s", ast.OutputType())
			return nil
		}
		prg, err := env.Program(ast, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(costLimit))
		if err != nil {
			ps.add(path, 0, "%v", err)
			return nil
		}
		return prg
	}
	c := &conditions{match: program("spec.match", p.Match)}
	if m := useRelease.FindString(stripQuoted(p.Match)); m != "" {
		ps.add("spec.match", 0, "may only look at release, not at %s", m)
	}
	guarded := func(m string) bool {
		return slices.ContainsFunc(p.Guards, func(g Guard) bool { return g.Metric == m })
	}
	for i, r := range p.Rules {
		path := fmt.Sprintf("spec.rules[%d].when", i)
		c.rules = append(c.rules, program(path, r.When))
		for _, m := range useMetric.FindAllStringSubmatch(r.When, -1) {
			if !guarded(m[1]) {
				ps.add(path, 0, "metric %q is not guarded", m[1])
			}
		}
		if r.Do == doRollback {
			c.count(p, i, r.When, path, &ps)
		}
	}
	return c, ps
}

// count finds what a rollback rule spends: every statistic it looks at, at every
// level it names. The same statistic at the same level is spent once, whatever
// the number of rules. A rule that names no level has no guarantee.
func (c *conditions) count(p *Policy, rule int, when, path string, ps *problems) {
	bare := stripQuoted(when)
	if strings.Contains(bare, "v.gst_crossed") {
		// Asymptotic window test: never true in this version, so it spends nothing.
		return
	}
	var stats []string
	if useOverall.MatchString(bare) {
		stats = append(stats, "g")
	}
	for _, m := range useMetric.FindAllStringSubmatch(when, -1) {
		stats = append(stats, m[1])
	}
	if useEach.MatchString(bare) {
		for _, g := range p.Guards {
			stats = append(stats, g.Metric)
		}
	}
	levels := map[string]float64{"rollback": p.Alpha.Rollback, "critical": p.Alpha.Critical}
	found := false
	for _, l := range useThreshold.FindAllStringSubmatch(bare, -1) {
		a, ok := levels[l[1]]
		if !ok {
			ps.add(path, 0, "a rollback may be decided at thr.rollback or thr.critical, not at thr.%s", l[1])
			found = true
			continue
		}
		for _, s := range stats {
			found = true
			if !slices.ContainsFunc(c.spent, func(o Spend) bool { return o.Statistic == s && o.Claim == l[1] }) {
				c.spent = append(c.spent, Spend{rule, s, l[1], a})
				c.total += a
			}
		}
	}
	if !found {
		ps.add(path, 0, "a rollback rule must compare g.log_e or a metric's log_e with thr.rollback or thr.critical: without it nothing bounds how often it is wrong")
	}
	if c.total > 0.2 {
		ps.add(path, 0, "the rollback rules up to here spend %.3g together: at most 0.2", c.total)
	}
}

// Lint describes what the policy promises, one line a fact.
func (p *Policy) Lint() []string {
	out := []string{fmt.Sprintf("a rollback by mistake happens with probability at most %.4g per release", p.AlphaTotal())}
	for _, s := range p.conditions.spent {
		what := "the average over all guards"
		if s.Statistic != "g" {
			what = "metric " + s.Statistic
		}
		out = append(out, fmt.Sprintf("  rule %d spends %.4g (%s) on %s", s.Rule+1, s.Alpha, s.Claim, what))
	}
	out = append(out,
		fmt.Sprintf("a decision looks back: units close after %v without a request and wait %v (or for %d units) for their scores", p.UnitClose, p.Watermark.Time, p.Watermark.Units),
		fmt.Sprintf("the ramp moves at most %d times an hour, not before %v in a stage; a hold lasts at least %v", p.Hysteresis.MaxActionsPerHour, p.Hysteresis.MinDwell, p.Hysteresis.CoolDown),
	)
	return out
}

// AlphaTotal is what all automatic rollback rules spend together.
func (p *Policy) AlphaTotal() float64 { return p.conditions.total }

// stripQuoted removes string literals, so that words in them are not mistaken
// for names.
func stripQuoted(s string) string {
	return quoted.ReplaceAllString(s, `""`)
}

var quoted = regexp.MustCompile(`"[^"]*"|'[^']*'`)

func (c *conditions) matches(r ReleaseFacts) (bool, error) {
	out, _, err := c.match.Eval(map[string]any{"release": r})
	if err != nil {
		return false, fmt.Errorf("policy match: %w", err)
	}
	b, ok := out.Value().(bool)
	return ok && b, nil
}

// fire is the first rule that holds, or -1. Rules that roll back or quarantine
// see latched facts: a crossing is final. A condition that fails to evaluate is
// an error and decides nothing.
func (c *conditions) fire(p *Policy, now, latched *Facts, skip func(do string) bool) (int, error) {
	a, b := p.activation(now), p.activation(latched)
	for i, prg := range c.rules {
		if skip(p.Rules[i].Do) {
			continue
		}
		vars := a
		if d := p.Rules[i].Do; d == doRollback || d == doQuarantine {
			vars = b
		}
		out, _, err := prg.Eval(vars)
		if err != nil {
			return -1, fmt.Errorf("rule %d: %w", i+1, err)
		}
		if v, ok := out.Value().(bool); ok && v {
			return i, nil
		}
	}
	return -1, nil
}

func (p *Policy) activation(f *Facts) map[string]any {
	m := make(map[string]GuardFacts, len(f.Guards))
	for _, g := range f.Guards {
		m[g.Metric] = g
	}
	return map[string]any{
		"release": f.Release, "g": f.Overall, "m": m, "guards": f.Guards, "v": f.Validity,
		"thr": p.thresholds(), "now": f.Now,
	}
}
