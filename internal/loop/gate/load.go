package gate

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/looptape/looptape/internal/loop/measure"
)

// MaxPolicyBytes bounds a policy file.
const MaxPolicyBytes = 256 << 10

// A Problem is one thing that is wrong with a policy.
type Problem struct {
	Path string
	Line int // 0 when it is not of one line
	Text string
}

func (p Problem) String() string {
	if p.Line > 0 {
		return fmt.Sprintf("line %d: %s: %s", p.Line, p.Path, p.Text)
	}
	return p.Path + ": " + p.Text
}

// problems are reported all at once.
type problems []Problem

func (ps *problems) add(path string, line int, format string, args ...any) {
	*ps = append(*ps, Problem{path, line, fmt.Sprintf(format, args...)})
}

func (ps problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return fmt.Sprintf("gate policy has %d problem(s):\n  %s", len(ps), strings.Join(lines, "\n  "))
}

// LoadPolicy parses, checks, compiles and tests a policy. The error lists every
// problem found, each with its path and line.
func LoadPolicy(text []byte) (*Policy, error) {
	if len(text) > MaxPolicyBytes {
		return nil, fmt.Errorf("gate policy of %d bytes: limit is %d", len(text), MaxPolicyBytes)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("gate policy: %w", err)
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		return nil, fmt.Errorf("gate policy: not one YAML document")
	}
	r := &reader{lines: map[string]int{}}
	p := r.policy(doc.Content[0])
	if err := p.finish(); err != nil {
		ps, ok := err.(problems)
		if !ok {
			return nil, err
		}
		for _, q := range ps {
			if q.Line == 0 {
				q.Line = r.lineOf(q.Path)
			}
			// A value that could not be read has been reported already.
			if !slices.ContainsFunc(r.problems, func(o Problem) bool { return o.Path == q.Path }) {
				r.problems = append(r.problems, q)
			}
		}
	}
	if len(r.problems) == 0 {
		for i, c := range p.Cases {
			if text := p.conditions.runCase(p, c); text != "" {
				at := fmt.Sprintf("spec.cases[%d]", i)
				r.add(at, r.lineOf(at), "%s: %s", c.Name, text)
			}
		}
	}
	if len(r.problems) > 0 {
		slices.SortStableFunc(r.problems, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
		return nil, r.problems
	}
	return p, nil
}

// reader walks the document, taking what it knows and reporting the rest.
type reader struct {
	problems
	lines map[string]int
}

// lineOf is the line of a path or of its nearest parent that has one.
func (r *reader) lineOf(path string) int {
	for path != "" {
		if n, ok := r.lines[path]; ok {
			return n
		}
		if i := strings.LastIndexAny(path, ".["); i >= 0 {
			path = path[:i]
		} else {
			path = ""
		}
	}
	return 0
}

type field = func(n *yaml.Node, path string)

func (r *reader) object(n *yaml.Node, path string, fields map[string]field) {
	r.lines[path] = n.Line
	if n.Kind != yaml.MappingNode {
		r.add(path, n.Line, "must be a mapping")
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		at := k.Value
		if path != "" {
			at = path + "." + k.Value
		}
		r.lines[at] = k.Line
		f := fields[k.Value]
		switch {
		case f == nil:
			r.add(at, k.Line, "unknown key")
		case seen[k.Value]:
			r.add(at, k.Line, "given twice")
		case v.Kind == yaml.AliasNode:
			r.add(at, v.Line, "aliases are not taken")
		default:
			seen[k.Value] = true
			f(v, at)
		}
	}
}

func (r *reader) list(n *yaml.Node, path string, item field) {
	r.lines[path] = n.Line
	if n.Kind != yaml.SequenceNode {
		r.add(path, n.Line, "must be a list")
		return
	}
	for i, v := range n.Content {
		at := fmt.Sprintf("%s[%d]", path, i)
		r.lines[at] = v.Line
		if v.Kind == yaml.AliasNode {
			r.add(at, v.Line, "aliases are not taken")
			continue
		}
		item(v, at)
	}
}

func (r *reader) scalar(n *yaml.Node, path, want string) (string, bool) {
	r.lines[path] = n.Line
	if n.Kind != yaml.ScalarNode {
		r.add(path, n.Line, "must be %s", want)
		return "", false
	}
	return n.Value, true
}

func (r *reader) text(to *string) field {
	return func(n *yaml.Node, path string) {
		if s, ok := r.scalar(n, path, "a text"); ok {
			*to = s
		}
	}
}

func (r *reader) number(to *float64) field {
	return func(n *yaml.Node, path string) {
		if s, ok := r.scalar(n, path, "a number"); ok {
			v, err := strconv.ParseFloat(s, 64)
			if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
				r.add(path, n.Line, "%q is not a number", s)
				return
			}
			*to = v
		}
	}
}

func (r *reader) whole(to *int) field {
	return func(n *yaml.Node, path string) {
		if s, ok := r.scalar(n, path, "a whole number"); ok {
			v, err := strconv.Atoi(s)
			if err != nil {
				r.add(path, n.Line, "%q is not a whole number", s)
				return
			}
			*to = v
		}
	}
}

func (r *reader) truth(to *bool) field {
	return func(n *yaml.Node, path string) {
		if s, ok := r.scalar(n, path, "true or false"); ok {
			if s != "true" && s != "false" {
				r.add(path, n.Line, "%q: must be true or false", s)
			}
			*to = s == "true"
		}
	}
}

func (r *reader) duration(to *time.Duration) field {
	return func(n *yaml.Node, path string) {
		if s, ok := r.scalar(n, path, "a duration such as 10m"); ok {
			v, err := time.ParseDuration(s)
			if err != nil {
				r.add(path, n.Line, "%q is not a duration such as 90s or 10m", s)
				return
			}
			*to = v
		}
	}
}

// only accepts the values that this version can honour.
func (r *reader) only(why string, values ...string) field {
	return func(n *yaml.Node, path string) {
		if s, ok := r.scalar(n, path, "a value"); ok && !slices.Contains(values, s) {
			r.add(path, n.Line, "%q: %s", s, why)
		}
	}
}

func (r *reader) policy(root *yaml.Node) *Policy {
	p := &Policy{
		Format: policyFormat, Version: 1, Match: "true", Unit: "conversation",
		UnitClose: time.Minute, MaxRequest: 20,
		Alpha:      Alpha{Rollback: 0.011, Critical: 0.004, Hold: 0.05, Promote: 0.05, SRM: 0.001},
		Watermark:  Watermark{Units: 2000, Time: 10 * time.Minute},
		Hysteresis: Hysteresis{MinDwell: 2 * time.Minute, CoolDown: 30 * time.Minute, MaxActionsPerHour: 6},
		Readout:    Readout{Every: time.Second, Units: 200},
		StaleAfter: time.Hour,
		Grid:       measure.DefaultGrid(),
	}
	spec := func(n *yaml.Node, path string) { r.spec(p, n, path) }
	var api, kind string
	r.object(root, "", map[string]field{
		"apiVersion": r.text(&api),
		"kind":       r.text(&kind),
		"metadata": func(n *yaml.Node, path string) {
			r.object(n, path, map[string]field{"name": r.text(&p.Name), "version": r.whole(&p.Version)})
		},
		"spec": spec,
	})
	if api != "looptape/v1" {
		r.add("apiVersion", r.lineOf("apiVersion"), "%q: must be looptape/v1", api)
	}
	if kind != "ReleaseGate" {
		r.add("kind", r.lineOf("kind"), "%q: must be ReleaseGate", kind)
	}
	return p
}

func (r *reader) spec(p *Policy, n *yaml.Node, path string) {
	r.object(n, path, map[string]field{
		"match":        r.text(&p.Match),
		"unit":         r.text(&p.Unit),
		"unit_close":   r.duration(&p.UnitClose),
		"max_requests": r.whole(&p.MaxRequest),
		"stale_after":  r.duration(&p.StaleAfter),
		"alpha": func(n *yaml.Node, path string) {
			r.object(n, path, map[string]field{
				"rollback": r.number(&p.Alpha.Rollback), "critical": r.number(&p.Alpha.Critical),
				"hold": r.number(&p.Alpha.Hold), "promote": r.number(&p.Alpha.Promote), "srm": r.number(&p.Alpha.SRM),
				"window_gst": r.only("this version has no window test; leave it 0", "0", "0.0"),
			})
		},
		"guards": func(n *yaml.Node, path string) {
			r.list(n, path, func(n *yaml.Node, path string) {
				g := Guard{Good: "high", Weight: 1, Fallback: -1, Guess: 0.95}
				r.object(n, path, map[string]field{
					"metric": r.text(&g.Metric), "good": r.text(&g.Good), "margin": r.number(&g.Margin),
					"weight": r.number(&g.Weight), "fallback_weight": r.number(&g.Fallback), "critical": r.truth(&g.Critical),
					"guess": r.number(&g.Guess), "refit": r.truth(&g.Refit), "aggregate": r.text(&g.Aggregate),
					"evaluator": r.text(&g.Evaluator),
				})
				if g.Aggregate == "" {
					g.Aggregate = "mean"
					if g.Critical {
						g.Aggregate = "worst"
					}
				}
				if g.Fallback == -1 {
					g.Fallback = g.Weight
				}
				p.Guards = append(p.Guards, g)
			})
		},
		"segments": func(n *yaml.Node, path string) {
			p.Segments.Share = 0.5
			r.object(n, path, map[string]field{
				"share": r.number(&p.Segments.Share),
				"of": func(n *yaml.Node, path string) {
					r.list(n, path, func(n *yaml.Node, path string) {
						s, of := SegmentValue{Weight: 1}, ""
						if n.Kind == yaml.ScalarNode {
							of = n.Value
						} else {
							r.object(n, path, map[string]field{"is": r.text(&of), "weight": r.number(&s.Weight)})
						}
						s.Dim, s.Value, _ = strings.Cut(of, "=")
						p.Segments.Of = append(p.Segments.Of, s)
					})
				},
			})
		},
		"evaluate": func(n *yaml.Node, path string) {
			why := "this version judges every evaluated unit; leave it 1"
			r.object(n, path, map[string]field{"candidate": r.only(why, "1", "1.0"), "baseline_eta": r.only(why, "1", "1.0")})
		},
		"watermark": func(n *yaml.Node, path string) {
			r.object(n, path, map[string]field{
				"units": r.whole(&p.Watermark.Units), "time": r.duration(&p.Watermark.Time),
				"missing": r.only("must be worst_case, or the guarantee would not hold", "worst_case"),
			})
		},
		"readout": func(n *yaml.Node, path string) {
			r.object(n, path, map[string]field{"every": r.duration(&p.Readout.Every), "units": r.whole(&p.Readout.Units)})
		},
		"rules": func(n *yaml.Node, path string) {
			r.list(n, path, func(n *yaml.Node, path string) {
				var u Rule
				r.object(n, path, map[string]field{"when": r.text(&u.When), "do": r.text(&u.Do)})
				p.Rules = append(p.Rules, u)
			})
		},
		"hysteresis": func(n *yaml.Node, path string) {
			r.object(n, path, map[string]field{
				"min_dwell": r.duration(&p.Hysteresis.MinDwell), "cool_down": r.duration(&p.Hysteresis.CoolDown),
				"max_actions_per_hour": r.whole(&p.Hysteresis.MaxActionsPerHour),
			})
		},
		"on_stale_input": r.only("must be hold: no data is never good", "hold"),
		"grid": func(n *yaml.Node, path string) {
			p.Grid = nil
			r.list(n, path, func(n *yaml.Node, path string) {
				var c float64
				r.number(&c)(n, path)
				p.Grid = append(p.Grid, c)
			})
		},
		"cases": func(n *yaml.Node, path string) {
			r.list(n, path, func(n *yaml.Node, path string) { p.Cases = append(p.Cases, r.checkCase(n, path)) })
		},
	})
}
