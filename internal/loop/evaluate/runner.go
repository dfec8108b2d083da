package evaluate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/looptape/looptape/internal/loop/event"
	"github.com/looptape/looptape/internal/loop/govern"
	"github.com/looptape/looptape/internal/loop/stream"
)

// Inputs are the topics that evaluators read.
var Inputs = []string{event.TopicPrompt, event.TopicRetrieval, event.TopicResponse, event.TopicAction, event.TopicSafety}

// Name is the processor's; its consumer group is stream.GroupPrefix + Name.
const Name = "evaluate"

// Claims fetches bodies that lie in the object store (govern.Claims).
type Claims interface {
	// Resolve fills in the event's body. govern.ErrBadClaim, govern.ErrCorruptClaim
	// and fs.ErrNotExist are final; any other error may pass.
	Resolve(ctx context.Context, e *event.Event) error
}

// Log reads one record again (stream.Client). stream.ErrGone is final.
type Log interface {
	ReadAt(ctx context.Context, at event.Position) (event.Record, error)
}

// Options are what a Runner works with.
type Options struct {
	Config     Config
	Evaluators []Evaluator           // default: Builtin(Config)
	Claims     Claims                // nil: bodies elsewhere are not available
	Registerer prometheus.Registerer // nil: the metrics are not registered
	StateDir   string
	Changelog  string // compacted topic for the state; empty: none
	CaughtUp   func() // called once when the backlog of the start is evaluated
}

// A Runner evaluates what comes in on Inputs and writes llm.score.
type Runner struct {
	opts    Options
	cfg     Config
	suite   *suite
	metrics *metrics
}

// New checks the options. It starts nothing.
func New(opts Options) (*Runner, error) {
	cfg, err := opts.Config.WithDefaults()
	if err != nil {
		return nil, fmt.Errorf("evaluate: %w", err)
	}
	if opts.Evaluators == nil {
		opts.Evaluators = Builtin(cfg)
	}
	s, err := newSuite(cfg.Mode, opts.Evaluators)
	if err != nil {
		return nil, fmt.Errorf("evaluate: %w", err)
	}
	m, err := newMetrics(opts.Registerer)
	if err != nil {
		return nil, fmt.Errorf("evaluate: register metrics: %w", err)
	}
	return &Runner{opts: opts, cfg: cfg, suite: s, metrics: m}, nil
}

// Manifests are those of the evaluators that run.
func (r *Runner) Manifests() []Manifest { return Manifests(r.opts.Evaluators) }

// Run evaluates until ctx ends (nil, after draining) or the stream fails.
func (r *Runner) Run(ctx context.Context, c *stream.Client) error {
	return stream.Run(ctx, c, stream.ProcessorConfig{
		Name: Name, Inputs: Inputs, StateDir: r.opts.StateDir, Changelog: r.opts.Changelog,
		New:      func() stream.Handler { return r.handler(c) },
		LookBack: r.cfg.Idle, CaughtUp: r.opts.CaughtUp,
	})
}

func (r *Runner) handler(log Log) *handler {
	return &handler{r: r, log: log, open: newOpenSet(r.cfg.CacheBytes)}
}

// task is what a handler uses of stream.Task.
type task interface {
	Context() context.Context
	Partition() int32
	Now() time.Time
	Get(key []byte) ([]byte, error)
	Put(key, value []byte) error
	Delete(key []byte) error
	Scan(prefix []byte, fn func(key, value []byte) error) error
	Emit(r event.Record)
	SetTimer(at time.Time, key []byte) error
}

// A handler evaluates one partition number. The store is the truth; what it
// keeps in memory (open) can be built from it at any time.
type handler struct {
	r      *Runner
	log    Log
	open   *openSet
	loaded bool
}

var _ stream.TimerHandler = (*handler)(nil)

// Process takes one record. Bad input is counted and passed over: it would come
// again for ever.
func (h *handler) Process(t *stream.Task, rec *event.Record) error { return h.process(t, rec) }

// Timer settles, folds or forgets the request of the key.
func (h *handler) Timer(t *stream.Task, _ time.Time, key []byte) error {
	return h.timer(t, string(key))
}

// Tick keeps the number of open requests within its limit.
func (h *handler) Tick(t *stream.Task, _ time.Time) error { return h.tick(t) }

func (h *handler) process(t task, rec *event.Record) error {
	if err := h.load(t); err != nil {
		return err
	}
	e, err := event.Decode(rec)
	if errors.Is(err, event.ErrNotEvent) {
		h.r.metrics.events.WithLabelValues("not_event").Inc()
		return nil
	} // a malformed fact is missing, the rest is good
	if !isPart(e.Type) || e.Facts.Request == "" {
		// Without a request it waits under its alias for join to re-key it.
		h.r.metrics.events.WithLabelValues("passed_over").Inc()
		return nil
	}
	key := stateKey(e.Facts.Tenant, e.Facts.Request)
	if !h.open.has(key) {
		// A folded request is not opened for what it has already.
		if b, err := t.Get(storeKey(prefixPart, key, e.ID)); err != nil || b != nil {
			h.r.metrics.events.WithLabelValues("duplicate").Inc()
			return err
		}
	}
	s, err := h.state(t, key)
	if err != nil {
		return err
	}
	if s == nil {
		return nil // what it belongs to is gone
	}
	if s.req.ids[e.ID] || s.req.oversize {
		h.r.metrics.events.WithLabelValues("duplicate").Inc()
		h.close(s)
		return nil
	}
	lost, err := h.resolve(t.Context(), &e)
	if err != nil {
		return err
	}
	size := len(e.Data)
	p := newPart(e, lost)
	fresh := len(s.req.parts) == 0
	s.req.add(p, size, &h.r.cfg)
	h.r.metrics.events.WithLabelValues("taken").Inc()
	now := t.Now()
	s.meta.Last = now.UnixNano()
	if !s.req.oversize {
		if err := t.Put(storeKey(prefixPart, key, e.ID), encodePart(rec, kindRecord, p.carries != 0)); err != nil {
			return err
		}
	}
	if fresh {
		if err := t.SetTimer(now.Add(h.r.cfg.Quiet), []byte(key)); err != nil {
			return err
		}
	}
	if e.Type == event.RequestClosed && !s.meta.Closed {
		s.meta.Closed = true
		if h.r.cfg.Grace < 0 {
			s.req.settled = true
		} else if err := t.SetTimer(now.Add(h.r.cfg.Grace), []byte(key)); err != nil {
			return err
		}
	}
	h.speak(t, s, rec.Time)
	return h.save(t, s)
}

// resolve fetches a body that lies elsewhere. It returns why it is not to be
// had, or an error when it might be later: then the batch is given up.
func (h *handler) resolve(ctx context.Context, e *event.Event) (lost string, err error) {
	if e.DataRef == "" || len(e.Data) > 0 {
		return "", nil
	}
	if h.r.opts.Claims == nil {
		return "input_unavailable", nil
	}
	for wait := 50 * time.Millisecond; ; wait *= 2 {
		err := h.r.opts.Claims.Resolve(ctx, e)
		switch {
		case err == nil:
			return "", nil
		case errors.Is(err, govern.ErrBadClaim), errors.Is(err, govern.ErrCorruptClaim), errors.Is(err, fs.ErrNotExist):
			return "input_unavailable", nil
		case ctx.Err() != nil || wait > 2*time.Second:
			return "", err
		}
		pause := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			pause.Stop()
			return "", ctx.Err()
		case <-pause.C:
		}
	}
}

// speak runs the evaluators that are due and emits what they say. appended is
// when the event that made them due was appended; zero for a timer.
func (h *handler) speak(t task, s *openState, appended time.Time) {
	for _, o := range h.r.suite.run(s.req, time.Now) {
		t.Emit(o.event.Record(event.TopicScore, s.req.id, s.req.id))
		h.r.metrics.results.WithLabelValues(o.metric, string(o.status)).Inc()
		h.r.metrics.seconds.WithLabelValues(o.metric).Observe(o.took.Seconds())
		if !appended.IsZero() {
			h.r.metrics.delay.Observe(time.Since(appended).Seconds())
		}
	}
}

// timer is called when a request has a deadline: closed and its grace over,
// quiet, idle or to be forgotten. Deadlines are set early and checked here.
func (h *handler) timer(t task, key string) error {
	if err := h.load(t); err != nil {
		return err
	}
	now := t.Now()
	if f, err := h.folded(t, key); err != nil || f != nil {
		if err != nil {
			return err
		}
		if at := time.Unix(0, f.Last).Add(h.r.cfg.Remember); at.After(now) {
			return t.SetTimer(at, []byte(key))
		}
		return h.forget(t, key)
	}
	if !h.open.has(key) {
		return nil
	}
	s, err := h.state(t, key)
	if err != nil || s == nil {
		return err
	}
	last := time.Unix(0, s.meta.Last)
	if !s.req.settled {
		due := last.Add(h.r.cfg.Quiet)
		if s.meta.Closed {
			due = last.Add(max(0, h.r.cfg.Grace))
		}
		if due.After(now) {
			h.close(s)
			return t.SetTimer(due, []byte(key))
		}
		s.req.settled = true
		h.speak(t, s, time.Time{})
	}
	if at := last.Add(h.r.cfg.Idle); at.After(now) {
		if err := h.save(t, s); err != nil {
			return err
		}
		return t.SetTimer(at, []byte(key))
	}
	return h.fold(t, s)
}

// tick folds the longest idle requests while there are more than the limit.
func (h *handler) tick(t task) error {
	if err := h.load(t); err != nil {
		return err
	}
	for range 1000 {
		if h.open.len() <= h.r.cfg.MaxOpen {
			break
		}
		s, err := h.state(t, h.open.oldest())
		if err != nil {
			return err
		}
		if s == nil {
			continue
		}
		if !s.req.settled {
			s.req.settled = true
			h.speak(t, s, time.Time{})
		}
		if err := h.fold(t, s); err != nil {
			return err
		}
		h.r.metrics.events.WithLabelValues("crowded_out").Inc()
	}
	h.r.metrics.open.WithLabelValues(strconv.Itoa(int(t.Partition()))).Set(float64(h.open.len()))
	return nil
}
