package gate

import (
	"fmt"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"
)

// A CheckCase is a unit test of a policy's rules: given these facts, this is
// done. Facts not given are neutral: no evidence, 1000 units an arm, a judge that
// is ok, now well before reversible_until.
type CheckCase struct {
	Name  string
	Facts func(*Facts)
	Want  string // an action, or nothing

	metrics []string // that it gives facts of
}

// caseTime is now in a case that does not say.
var caseTime = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func (r *reader) checkCase(n *yaml.Node, path string) CheckCase {
	var set []func(*Facts)
	number := func(to func(f *Facts) *float64) field {
		return func(n *yaml.Node, path string) {
			var v float64
			r.number(&v)(n, path)
			set = append(set, func(f *Facts) { *to(f) = v })
		}
	}
	count := func(to func(f *Facts) *int64) field {
		return func(n *yaml.Node, path string) {
			var v int
			r.whole(&v)(n, path)
			set = append(set, func(f *Facts) { *to(f) = int64(v) })
		}
	}
	word := func(to func(f *Facts) *string) field {
		return func(n *yaml.Node, path string) {
			var v string
			r.text(&v)(n, path)
			set = append(set, func(f *Facts) { *to(f) = v })
		}
	}
	instant := func(to func(f *Facts) *time.Time) field {
		return func(n *yaml.Node, path string) {
			var s string
			r.text(&s)(n, path)
			t, err := time.Parse(time.RFC3339, s)
			if err != nil {
				r.add(path, n.Line, "%q is not an RFC 3339 time", s)
			}
			set = append(set, func(f *Facts) { *to(f) = t.UTC() })
		}
	}
	c := CheckCase{Want: "nothing"}
	given := func(n *yaml.Node, path string) {
		r.object(n, path, map[string]field{
			"now": instant(func(f *Facts) *time.Time { return &f.Now }),
			"g": func(n *yaml.Node, path string) {
				r.object(n, path, map[string]field{
					"log_e":         number(func(f *Facts) *float64 { return &f.Overall.LogE }),
					"log_e_promote": number(func(f *Facts) *float64 { return &f.Overall.LogEPromote }),
				})
			},
			"v": func(n *yaml.Node, path string) {
				r.object(n, path, map[string]field{
					"srm_log_e":   number(func(f *Facts) *float64 { return &f.Validity.SRMLogE }),
					"judge":       word(func(f *Facts) *string { return &f.Validity.Judge }),
					"n_candidate": count(func(f *Facts) *int64 { return &f.Validity.NCandidate }),
					"n_baseline":  count(func(f *Facts) *int64 { return &f.Validity.NBaseline }),
				})
			},
			"release": func(n *yaml.Node, path string) {
				r.object(n, path, map[string]field{
					"app":              word(func(f *Facts) *string { return &f.Release.App }),
					"kind":             word(func(f *Facts) *string { return &f.Release.Kind }),
					"stage":            word(func(f *Facts) *string { return &f.Release.Stage }),
					"propensity":       number(func(f *Facts) *float64 { return &f.Release.Propensity }),
					"reversible_until": instant(func(f *Facts) *time.Time { return &f.Release.ReversibleUntil }),
				})
			},
			"m": func(n *yaml.Node, path string) {
				if n.Kind != yaml.MappingNode {
					r.add(path, n.Line, "must be a mapping from metric to facts")
					return
				}
				for i := 0; i+1 < len(n.Content); i += 2 {
					metric := n.Content[i].Value
					c.metrics = append(c.metrics, metric)
					at := func(pick func(g *GuardFacts) *float64) func(f *Facts) *float64 {
						return func(f *Facts) *float64 {
							for i := range f.Guards {
								if f.Guards[i].Metric == metric {
									return pick(&f.Guards[i])
								}
							}
							return new(float64)
						}
					}
					r.object(n.Content[i+1], path+"."+metric, map[string]field{
						"log_e":         number(at(func(g *GuardFacts) *float64 { return &g.LogE })),
						"log_e_promote": number(at(func(g *GuardFacts) *float64 { return &g.LogEPromote })),
						"effect":        number(at(func(g *GuardFacts) *float64 { return &g.Effect })),
					})
				}
			},
			"every": func(n *yaml.Node, path string) { // all guards alike
				var e, q float64
				r.object(n, path, map[string]field{"log_e": r.number(&e), "log_e_promote": r.number(&q)})
				set = append(set, func(f *Facts) {
					for i := range f.Guards {
						f.Guards[i].LogE, f.Guards[i].LogEPromote = e, q
					}
				})
			},
		})
	}
	r.object(n, path, map[string]field{"name": r.text(&c.Name), "given": given, "want": r.text(&c.Want)})
	c.Facts = func(f *Facts) {
		for _, s := range set {
			s(f)
		}
	}
	return c
}

// runCase returns what went wrong, or "".
func (c *conditions) runCase(p *Policy, k CheckCase) string {
	f := Facts{
		Now:      caseTime,
		Release:  ReleaseFacts{Stage: "1", Propensity: 0.5, ReversibleUntil: caseTime.Add(24 * time.Hour)},
		Validity: ValidityFacts{Judge: judgeOK, NCandidate: 1000, NBaseline: 1000},
	}
	for _, g := range p.Guards {
		f.Guards = append(f.Guards, GuardFacts{Metric: g.Metric, Critical: g.Critical, NCandidate: 1000, NBaseline: 1000})
	}
	for _, m := range k.metrics {
		if !slices.ContainsFunc(p.Guards, func(g Guard) bool { return g.Metric == m }) {
			return fmt.Sprintf("metric %q is not guarded", m)
		}
	}
	k.Facts(&f)
	at, err := c.fire(p, &f, &f, func(string) bool { return false })
	got := "nothing"
	if err != nil {
		return err.Error()
	}
	if at >= 0 {
		got = p.Rules[at].Do
	}
	if got != k.Want {
		return fmt.Sprintf("the rules do %s, the case wants %s", got, k.Want)
	}
	return ""
}

const (
	judgeOK      = "ok"
	judgeSuspect = "suspect"
)
