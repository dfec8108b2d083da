package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/looptape/looptape/docs"
	"github.com/looptape/looptape/internal/app"
	"github.com/looptape/looptape/internal/base/run"
	"github.com/looptape/looptape/internal/demo"
)

type demoCmd struct {
	serverFlags
	NoDefect    bool          `help:"Leave the candidate release as good as the baseline: nothing may be rolled back."`
	DefectAfter time.Duration `help:"When the candidate goes wrong." default:"15s"`
	Rate        float64       `help:"Conversations a second." default:"30"`
	Share       float64       `help:"Share of conversations that the candidate gets." default:"0.5"`
	Documents   string        `help:"Directory of Markdown files to answer from; by default the project's own pages." type:"existingdir" placeholder:"DIR"`
	Seed        uint64        `help:"Of everything the application draws." default:"1"`
	For         time.Duration `help:"Stop after this long; 0 runs until Ctrl-C." default:"0"`
}

func (demoCmd) Help() string {
	return `One process with the tape, the loop and the pages, and a small application beside it that answers questions about the project's own documentation. Its candidate release is later pointed at a stale index; watch what happens.

Examples:
  looptape demo
  looptape demo --no-defect --for 3m      no rollback may come`
}

func (c *demoCmd) Run(ctx context.Context, s *streams) error {
	if !(c.Rate > 0 && c.Rate <= 500) {
		return errors.New("--rate must lie above 0 and at most 500 conversations a second")
	}
	if !(c.Share > 0 && c.Share < 1) {
		return errors.New("--share must lie between 0 and 1: a comparison needs both arms")
	}
	var pages fs.FS = docs.Pages
	if c.Documents != "" {
		pages = os.DirFS(c.Documents)
	}
	cfg := c.config()
	policy, err := app.DemoPolicy()
	if err != nil {
		return err
	}
	cfg.Policies = []app.PolicyFile{policy}
	log := c.logger(s)
	server, err := app.Open(ctx, cfg, log)
	if err != nil {
		return err
	}
	at := server.Addresses()
	fmt.Fprint(s.out, listening(at))
	fmt.Fprintf(s.out, "\n%s\n", policy.About)

	show := &screen{out: s.out, page: at.HTTP, noDefect: c.NoDefect, live: isTerminal(s.out)}
	application, err := demo.New(ctx, demo.Config{
		Documents: pages, OTLP: at.OTLPHTTP, API: at.HTTP, Rate: c.Rate, Share: c.Share, Defect: !c.NoDefect, DefectAfter: c.DefectAfter,
		Feedback: 0.15, Seed: c.Seed, Logger: log, Progress: show.progress,
	})
	if err != nil {
		return err
	}

	// The application stops before the server does, so that nothing it sends is lost.
	appCtx, stopApp := context.WithCancel(ctx)
	defer stopApp()
	if c.For > 0 {
		time.AfterFunc(c.For, stopApp)
	}
	serverCtx, stopServer := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServer()
	g := run.New(serverCtx)
	g.Go("server", server.Run)
	g.Go("application", func(ctx context.Context) error {
		defer stopServer()
		both, stop := context.WithCancel(appCtx)
		defer stop()
		defer context.AfterFunc(ctx, stop)()
		if err := server.WaitReady(both); err != nil {
			return err
		}
		err := application.Run(both)
		if both.Err() != nil && errors.Is(err, context.Canceled) {
			err = nil
		}
		return err
	})
	err = g.Wait()
	show.end()
	if err != nil {
		return err
	}
	if c.NoDefect && show.rolledBack {
		return errors.New("a release without a defect was rolled back: a false alarm")
	}
	return nil
}

// screen prints what happens for people.
type screen struct {
	out      io.Writer
	page     string
	noDefect bool
	live     bool // a terminal: the progress line is overwritten

	mu         sync.Mutex
	started    bool
	defect     bool
	rolledBack bool
	dirty      bool // a progress line is standing
	n          int
}

func (s *screen) progress(p demo.Progress) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.started {
		s.started = true
		s.line("\n%s is compared with %s: each conversation draws its release, %.0f %% get the candidate.\nWatch it at %s\n\n", p.Release, p.Baseline, 100*p.Share, s.page)
	}
	if p.Defective && !s.defect {
		s.defect = true
		s.line("The candidate's retriever now reads an index that is 200 days old.\n")
	}
	if p.Gate != nil && p.Gate.Phase == "Failed" && !s.rolledBack {
		s.rolledBack = true
		s.line("%s", decision(p, s.page))
	}
	s.n++
	if s.live || s.n%10 == 1 {
		s.status(p)
	}
}

// status is the progress line.
func (s *screen) status(p demo.Progress) {
	share := func(part, whole int64) float64 { return 100 * float64(part) / float64(max(whole, 1)) }
	text := fmt.Sprintf("%d conversations, %d answers; refused: baseline %.0f %%, candidate %.0f %%", p.Conversations, p.Requests[0]+p.Requests[1],
		share(p.Refused[0], p.Requests[0]), share(p.Refused[1], p.Requests[1]))
	if e := evidence(p.Gate); e != nil {
		text += fmt.Sprintf("; gate %s: %d + %d units, log E %.2f of %.2f", p.Gate.State, e.N[0], e.N[1], e.Overall.Harm, e.Thresholds["rollback"])
	}
	if s.live {
		fmt.Fprintf(s.out, "\r\x1b[2K%s", text)
		s.dirty = true
		return
	}
	fmt.Fprintln(s.out, text)
}

// line prints whole lines, after the progress line if one stands.
func (s *screen) line(format string, args ...any) {
	if s.dirty {
		fmt.Fprint(s.out, "\r\x1b[2K")
		s.dirty = false
	}
	fmt.Fprintf(s.out, format, args...)
}

func (s *screen) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.started {
		return
	}
	if s.rolledBack {
		s.line("\nStopped. The decision and its evidence are kept on llm.decision.\n")
	} else {
		s.line("\nStopped: no rollback.\n")
	}
}

// gateEvidence is what the screen shows of the gate's evidence.
type gateEvidence struct {
	N          [2]int64               `json:"n"`
	Overall    struct{ Harm float64 } `json:"overall"`
	Thresholds map[string]float64     `json:"thresholds"`
}

func evidence(g *demo.Gate) *gateEvidence {
	if g == nil {
		return nil
	}
	var a struct {
		Evidence *gateEvidence `json:"evidence"`
	}
	if json.Unmarshal(g.Raw, &a) != nil {
		return nil
	}
	return a.Evidence
}

// decision is the evidence card in text.
func decision(p demo.Progress, page string) string {
	var a struct {
		Decision *struct {
			Time       time.Time `json:"time"`
			Reason     string    `json:"reason"`
			Rule       string    `json:"rule"`
			LogE       float64   `json:"log_e"`
			Threshold  float64   `json:"threshold"`
			Alpha      float64   `json:"alpha"`
			AlphaTotal float64   `json:"alpha_total"`
			N          [2]int64  `json:"n"`
			PolicyHash string    `json:"policy_hash"`
			Top        []struct {
				Metric string     `json:"metric"`
				Mean   [2]float64 `json:"mean"`
				Effect float64    `json:"effect"`
				CS     [2]float64 `json:"cs"`
				Margin float64    `json:"margin"`
			} `json:"top"`
		} `json:"decision"`
	}
	if err := json.Unmarshal(p.Gate.Raw, &a); err != nil || a.Decision == nil {
		return fmt.Sprintf("\nROLLBACK of %s: %s\n%s\n\n", p.Release, p.Gate.Message, page)
	}
	d := a.Decision
	var b strings.Builder
	bar := strings.Repeat("─", 78)
	fmt.Fprintf(&b, "\n%s\nROLLBACK of %s\n%s\n%s\n", bar, p.Release, d.Reason, bar)
	fmt.Fprintf(&b, "  evidence     log E = %.2f, threshold %.2f = ln(1/%.3g); false with probability at most %.3g in all\n", d.LogE, d.Threshold, d.Alpha, d.AlphaTotal)
	fmt.Fprintf(&b, "  compared     %d conversations of the baseline, %d of the candidate\n", d.N[0], d.N[1])
	for i, t := range d.Top {
		if i == 3 {
			break
		}
		fmt.Fprintf(&b, "  %-16s baseline %.3f, candidate %.3f; effect %+.3f, 95 %% sequence [%+.3f, %+.3f], margin %.3f\n", t.Metric, t.Mean[0], t.Mean[1], t.Effect, t.CS[0], t.CS[1], t.Margin)
	}
	fmt.Fprintf(&b, "  rule         %s\n  policy       %s\n", d.Rule, short(d.PolicyHash))
	fmt.Fprintf(&b, "  page         %s\n%s\n", page, bar)
	fmt.Fprintf(&b, "All new conversations go to the baseline. Ctrl-C stops; the page stays up until then.\n\n")
	return b.String()
}

func short(hash string) string {
	if len(hash) > 23 {
		return hash[:23] + "…"
	}
	return hash
}

// isTerminal reports whether w is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
