package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"text/tabwriter"
	"time"

	"github.com/looptape/looptape/internal/loop/event"
	"github.com/looptape/looptape/internal/loop/gate"
)

type gateCmd struct {
	Show     gateShowCmd     `cmd:"" help:"Show what the gate says of a release."`
	Check    gateCheckCmd    `cmd:"" help:"Check a policy file: types, tests, and the total probability of a false rollback."`
	Simulate gateSimulateCmd `cmd:"" help:"Run a policy on seeded traffic without (or with) a defect and count rollbacks."`
}

func (gateCmd) Help() string {
	return `Examples:
  looptape gate show r42
  looptape gate show r42 --json | jq .phase
  looptape gate check gates/support.yaml
  looptape gate simulate gates/support.yaml --runs 200 --units 5000
  looptape gate simulate demo --defect 0.1        how soon a ten-point drop is found`
}

type gateShowCmd struct {
	apiFlags
	Release string `arg:"" help:"Release id of the candidate."`
	JSON    bool   `name:"json" help:"The API's answer as it is."`
}

func (c *gateShowCmd) Run(ctx context.Context, s *streams) error {
	b, err := c.call(ctx, "GET", "/v1/gates/"+url.PathEscape(c.Release), nil)
	if err != nil {
		return err
	}
	if c.JSON {
		fmt.Fprintf(s.out, "%s\n", b)
		return nil
	}
	var g event.GateStatus
	if err := json.Unmarshal(b, &g); err != nil {
		return fmt.Errorf("the server's answer is not a gate's status: %w", err)
	}
	fmt.Fprintf(s.out, "release %s: %s (%s)\n%s\n", g.Release, g.State, g.Phase, g.Message)
	if e := g.Evidence; e != nil {
		fmt.Fprintf(s.out, "\ncompared with %s: %d units of the baseline, %d of the candidate, %d open\n", e.Baseline, e.N[0], e.N[1], e.Open)
		fmt.Fprintf(s.out, "log E %.2f, rollback at %.2f; sample ratio log E %.2f, quarantine at %.2f\n\n", e.Overall.Harm, e.Thresholds["rollback"], e.SRMLogE, e.Thresholds["srm"])
		w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "METRIC\tBASELINE\tCANDIDATE\tEFFECT\t95 % SEQUENCE\tMARGIN\tLOG E HARM\tLOG E PROMOTE")
		for _, r := range e.Guards {
			fmt.Fprintf(w, "%s\t%.3f\t%.3f\t%+.3f\t[%+.3f, %+.3f]\t%.3f\t%.2f\t%.2f\n", r.Metric, r.Mean[0], r.Mean[1], r.Effect, r.CS[0], r.CS[1], r.Margin, r.LogEHarm, r.LogEPromote)
		}
		if err := w.Flush(); err != nil {
			return err
		}
		if u := e.ReversibleUntil; u != nil {
			fmt.Fprintf(s.out, "\nreversible until %s\n", u.Local().Format(time.RFC1123))
		}
	}
	if d := g.Decision; d != nil {
		fmt.Fprintf(s.out, "\n%s at %s: %s\n%s\n", d.Action, d.Time.Local().Format(time.RFC1123), d.Reason, d.Guarantee)
	}
	return nil
}

// loadPolicy reads a policy file, or a built-in one by its name.
func loadPolicy(name string) (*gate.Policy, error) {
	b, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		if built, e := gate.Embedded(name); e == nil {
			b, err = built, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w (the built-in policies are default and demo)", err)
	}
	p, err := gate.LoadPolicy(b)
	if err != nil {
		return nil, fmt.Errorf("%s:\n%w", name, err)
	}
	return p, nil
}

type gateCheckCmd struct {
	Policy string `arg:"" help:"Policy file, or default or demo." placeholder:"FILE"`
}

func (c *gateCheckCmd) Run(s *streams) error {
	p, err := loadPolicy(c.Policy)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.out, "%s is sound; %s\n", p.Title(), p.Hash())
	for _, l := range p.Lint() {
		fmt.Fprintln(s.out, l)
	}
	return nil
}

type gateSimulateCmd struct {
	Policy string  `arg:"" help:"Policy file, or default or demo." placeholder:"FILE"`
	Runs   int     `help:"Number of runs." default:"200"`
	Units  int     `help:"Units in each run." default:"5000"`
	Seed   uint64  `help:"Seed; run r uses (seed, r)." default:"1"`
	Share  float64 `help:"Share of units that draw the candidate." default:"0.5"`
	Defect float64 `help:"By how much every guarded mean falls in the candidate." default:"0"`
}

func (c *gateSimulateCmd) Run(ctx context.Context, s *streams) error {
	if !(c.Share > 0 && c.Share < 1) {
		return errors.New("--share must lie between 0 and 1: a comparison needs both arms")
	}
	if !(c.Defect >= 0 && c.Defect <= 1) {
		return errors.New("--defect must lie between 0 and 1")
	}
	p, err := loadPolicy(c.Policy)
	if err != nil {
		return err
	}
	began := time.Now()
	r, err := gate.Simulate(ctx, gate.SimulateConfig{Policy: p, Runs: c.Runs, Units: c.Units, Seed: c.Seed, Share: c.Share, Defect: c.Defect})
	if err != nil {
		return err
	}
	fmt.Fprintf(s.out, "%s, %d runs of %d units, defect %g: %d rolled back (%.4f)", p.Title(), r.Runs, r.Units, c.Defect, r.Rollbacks, r.Rate)
	if r.Median > 0 {
		fmt.Fprintf(s.out, ", median after %d units", r.Median)
	}
	fmt.Fprintf(s.out, "; %.1f s\n", time.Since(began).Seconds())
	if c.Defect == 0 {
		fmt.Fprintf(s.out, "alpha %.4f, alpha + 3 standard errors %.4f: ", r.Alpha, r.Bound())
		if r.Rate > r.Bound() {
			fmt.Fprintln(s.out, "EXCEEDED")
			return exitError{1}
		}
		fmt.Fprintln(s.out, "kept")
	}
	return nil
}
