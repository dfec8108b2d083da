// Package demo is a small LLM application to look at Looptape with: it answers
// questions about a document collection, in conversations, from passages that
// it retrieves, and sends its telemetry as OTLP through the OpenTelemetry SDK
// like any instrumented application. It knows Looptape only by its HTTP ports.
//
// Two releases serve at once: a conversation draws its arm with a logged
// propensity. Both are the same program; after a while the candidate's
// retriever is pointed at an index built long ago, when the collection was
// smaller: a genuine defect, seen in what it answers. The package also plays
// the ramp controller: it reads GET /v1/gates/{release}, as Argo Rollouts
// would, and takes the candidate's traffic away when the gate says so.
package demo

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/looptape/looptape/internal/base/run"
)

const (
	appName   = "docs-assistant"
	stageName = "half"
	passages  = 4
)

// Config says how to run the application.
type Config struct {
	Documents   fs.FS         // the collection: Markdown files
	OTLP        string        // OTLP/HTTP endpoint, http://127.0.0.1:4318
	API         string        // Looptape's API, http://127.0.0.1:8080
	Rate        float64       // conversations a second
	Share       float64       // of conversations that the candidate gets
	Defect      bool          // whether the candidate goes wrong
	DefectAfter time.Duration // and when
	Feedback    float64       // share of answers that get a thumb
	Seed        uint64        // of everything drawn
	Key         string        // API key when the server asks for one
	Logger      *slog.Logger
	Progress    func(Progress) // called once a second and on every change; may be nil
}

// Progress is where the run stands.
type Progress struct {
	Release, Baseline string
	Conversations     int64
	Requests          [2]int64 // answered: baseline, candidate
	Refused           [2]int64 // of these, refused
	Feedback          int64
	Share             float64 // candidate's share of new conversations now
	Defective         bool    // the candidate's retriever reads the old index
	Gate              *Gate   // last answer of the gate; nil before the first
}

// An App is the running application.
type App struct {
	cfg        Config
	sections   []section
	fresh      *library
	stale      *library
	releases   [2]string // baseline, candidate
	deployment string
	telemetry  [2]*telemetry
	api        *apiClient

	share     atomic.Uint64 // candidate's share in millionths
	defective atomic.Bool
	convs     atomic.Int64
	answered  [2]atomic.Int64
	refused   [2]atomic.Int64
	feedback  atomic.Int64
	gate      atomic.Pointer[Gate]
}

// New reads the collection, builds both indexes and sets up telemetry. Call Run
// next.
func New(ctx context.Context, cfg Config) (*App, error) {
	sections, err := readSections(cfg.Documents)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	a := &App{
		cfg:      cfg,
		sections: sections,
		fresh:    index("docs-"+now.UTC().Format("20060102T150405"), now, sections),
		stale:    index("docs-snapshot-200d", now.Add(-200*24*time.Hour), asOf(sections, 0.4)),
		api:      newAPIClient(cfg.API, cfg.Key),
	}
	// A release is what it is made of; the run's start makes each run's bundle new, since a rolled-back release never comes back.
	run := now.UTC().Format(time.RFC3339Nano)
	a.releases[0] = releaseID("assistant-r1", "prompt-v1", "extractive-1", run)
	a.releases[1] = releaseID("assistant-r2", "prompt-v1", "extractive-1", run)
	a.deployment = "ramp-" + a.releases[1]
	a.setShare(cfg.Share)
	for i := range a.telemetry {
		if a.telemetry[i], err = newTelemetry(ctx, cfg.OTLP, a.releases[i]); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// releaseID hashes the parts of a release, so that equal bundles compare equal.
func releaseID(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return parts[0] + "-" + hex.EncodeToString(h.Sum(nil)[:4])
}

// Release is the candidate's release id, the one the gate decides about.
func (a *App) Release() string { return a.releases[1] }

// Run registers both releases, starts the deployment, and serves conversations
// until ctx ends; then it flushes its telemetry.
func (a *App) Run(ctx context.Context) error {
	if err := a.announce(ctx); err != nil {
		return err
	}
	g := run.New(ctx)
	g.Go("traffic", a.traffic)
	g.Go("ramp", a.ramp)
	g.Go("progress", a.report)
	err := g.Wait()
	flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	for _, t := range a.telemetry {
		if e := t.provider.Shutdown(flush); e != nil && err == nil && ctx.Err() == nil {
			err = fmt.Errorf("flush telemetry: %w", e)
		}
	}
	return err
}

func (a *App) setShare(p float64) { a.share.Store(uint64(p * 1e6)) }
func (a *App) shareNow() float64  { return float64(a.share.Load()) / 1e6 }

// draw gives a conversation its arm: a hash of the deployment's salt and the
// conversation's id, so that anyone can draw it again.
func draw(salt, conversation string, share float64) int {
	h := sha256.Sum256([]byte(salt + "\x00" + conversation))
	if float64(binary.BigEndian.Uint64(h[:8])>>11)/(1<<53) < share {
		return 1
	}
	return 0
}

// traffic starts conversations at the configured rate, each in its own
// goroutine, bounded so that a slow server slows the application down instead
// of filling memory.
func (a *App) traffic(ctx context.Context) error {
	rng := rand.New(rand.NewPCG(a.cfg.Seed, 1))
	start := time.Now()
	tick := time.NewTicker(time.Duration(float64(time.Second) / a.cfg.Rate))
	defer tick.Stop()
	slots := make(chan struct{}, 1000)
	var open sync.WaitGroup
	defer open.Wait()
	runID := hex.EncodeToString(binary.BigEndian.AppendUint64(nil, uint64(start.UnixNano())))[4:]
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if a.cfg.Defect && !a.defective.Load() && time.Since(start) >= a.cfg.DefectAfter {
			a.defective.Store(true)
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		seed := rng.Uint64()
		open.Go(func() {
			defer func() { <-slots }()
			a.converse(ctx, fmt.Sprintf("c-%s-%d", runID, n), rand.New(rand.NewPCG(a.cfg.Seed, seed)))
		})
	}
}

// converse is one user's conversation: one to three questions with pauses.
func (a *App) converse(ctx context.Context, id string, rng *rand.Rand) {
	share := a.shareNow()
	arm := draw(a.deployment, id, share)
	a.convs.Add(1)
	user := fmt.Sprintf("user-%d", rng.IntN(500))
	for n := range 1 + rng.IntN(3) {
		if n > 0 && !pause(ctx, time.Duration(100+rng.IntN(400))*time.Millisecond) {
			return
		}
		lib := a.fresh
		if arm == 1 && a.defective.Load() {
			lib = a.stale
		}
		q := &turn{
			conversation: id, user: user, number: n, arm: [2]string{"baseline", "candidate"}[arm],
			share: share, question: ask(rng, a.sections), lib: lib,
		}
		a.telemetry[arm].request(ctx, a.deployment, q)
		a.answered[arm].Add(1)
		if q.cited == nil {
			a.refused[arm].Add(1)
		}
		if rng.Float64() < a.cfg.Feedback {
			if !pause(ctx, time.Duration(300+rng.IntN(1500))*time.Millisecond) {
				return
			}
			a.thumb(ctx, q)
		}
	}
}

// thumb is the user's opinion: up when the answer cites the section that they
// had in mind.
func (a *App) thumb(ctx context.Context, q *turn) {
	v := 0.0
	for _, id := range q.cited {
		if id == q.question.want {
			v = 1
		}
	}
	err := a.api.post(ctx, "/v1/feedback", map[string]any{
		"response": q.response, "kind": "thumbs", "value": v, "author_role": "end_user", "session": q.conversation,
	})
	if err != nil {
		if ctx.Err() == nil {
			a.cfg.Logger.Warn("feedback was not taken", "error", err)
		}
		return
	}
	a.feedback.Add(1)
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// report calls Progress once a second.
func (a *App) report(ctx context.Context) error {
	if a.cfg.Progress == nil {
		return nil
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			a.cfg.Progress(a.progress())
		}
	}
}

func (a *App) progress() Progress {
	p := Progress{
		Release: a.releases[1], Baseline: a.releases[0], Conversations: a.convs.Load(), Feedback: a.feedback.Load(),
		Share: a.shareNow(), Defective: a.defective.Load(), Gate: a.gate.Load(),
	}
	for i := range 2 {
		p.Requests[i], p.Refused[i] = a.answered[i].Load(), a.refused[i].Load()
	}
	return p
}

// ErrRefused says that the server did not take a request of the application.
var ErrRefused = errors.New("the server did not take it")
