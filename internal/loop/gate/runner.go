package gate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/looptape/looptape/internal/base/run"
	"github.com/looptape/looptape/internal/loop/event"
	"github.com/looptape/looptape/internal/loop/stream"
)

// Log is what a Runner needs of the stream; *stream.Client is one.
type Log interface {
	Produce(ctx context.Context, recs ...event.Record) error
	Offsets(ctx context.Context, topics ...string) (start, end map[string]map[int32]int64, err error)
	Tail(ctx context.Context, cfg stream.TailConfig) error
}

// RunnerConfig is what a Runner is built with.
type RunnerConfig struct {
	Log        Log
	Policies   []*Policy
	StateDir   string                                    // of its own
	Actuators  []Actuator                                // none: a rollback stays rolling_back until a deployment event says that it is done
	Resolve    func(context.Context, *event.Event) error // fetches a body that lies in the object store; optional
	OnDecision func(d event.Decision)                    // for the terminal; called once per decision, quickly; optional
	OnEvidence func(ev event.Evidence)                   // likewise
	Logger     *slog.Logger                              // default slog.Default
	Registerer prometheus.Registerer                     // optional
	TickEvery  time.Duration                             // default 500 ms
	Now        func() time.Time                          // default time.Now
}

// A Runner keeps the gates running on the stream. Every replica of it would
// decide on its own: run one. It keeps its state under StateDir and works in
// three steps for each batch of records:
//
//  1. the engine takes them in memory,
//  2. state, next offsets and the events to be sent are committed in one write
//     (when there are events to be sent, and with every tick),
//  3. the events are sent.
//
// A crash before 2 leaves nothing and the records are read again; after 2 the
// events are sent again, with the same ids and bytes.
type Runner struct {
	cfg     RunnerConfig
	log     *slog.Logger
	metrics *metrics

	work    chan work
	acks    chan Ack
	actions chan Action
	status  atomic.Pointer[[]status]

	// Owned by the loop goroutine.
	engine   *Engine
	store    *store
	next     positions
	dirty    bool            // the engine and next are ahead of the store
	inFlight map[string]bool // decisions given to the actuators
	attempts map[string]int
	retryAt  map[string]time.Time
}

// work is a batch on its way to the loop.
type work struct {
	recs []event.Record
	next positions
	done chan error
}

// NewRunner checks the configuration. Run works.
func NewRunner(cfg RunnerConfig) (*Runner, error) {
	if cfg.Log == nil || cfg.StateDir == "" || len(cfg.Policies) == 0 {
		return nil, errors.New("gate: needs a log, a state directory and a policy")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.TickEvery <= 0 {
		cfg.TickEvery = 500 * time.Millisecond
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, fmt.Errorf("gate: %w", err)
	}
	return &Runner{
		cfg: cfg, log: cfg.Logger, metrics: m,
		work: make(chan work), acks: make(chan Ack, 64), actions: make(chan Action, 64),
		inFlight: map[string]bool{}, attempts: map[string]int{}, retryAt: map[string]time.Time{},
	}, nil
}

// Status is the gate of a release (or of a deployment of that name), the newest
// where there are several.
func (r *Runner) Status(tenant, release string) (event.GateStatus, bool, error) {
	all := r.status.Load()
	if all == nil {
		return event.GateStatus{}, false, nil
	}
	for i := len(*all) - 1; i >= 0; i-- {
		s := &(*all)[i]
		if s.tenant == tenant && (s.release == release || s.deployment == release) {
			g, err := s.answer()
			return g, true, err
		}
	}
	return event.GateStatus{}, false, nil
}

// Run works until ctx ends (nil) or something fails that it cannot repair.
func (r *Runner) Run(ctx context.Context) (err error) {
	_, end, err := r.cfg.Log.Offsets(ctx, event.TopicCase, event.TopicDeployment)
	if err != nil {
		return fmt.Errorf("gate: %w", err)
	}
	if r.engine, err = NewEngine(Config{Policies: r.cfg.Policies, Partitions: len(end[event.TopicCase])}); err != nil {
		return err
	}
	if r.store, err = openStore(r.cfg.StateDir, r.log); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.store.close()) }()
	var unsent []event.Record
	if r.next, unsent, err = r.store.load(r.engine); err != nil {
		return err
	}
	if err := r.send(ctx, unsent); err != nil {
		return stopped(ctx, err)
	}
	r.publish()

	from := r.next // the loop replaces r.next and never changes the map
	group := run.New(ctx)
	group.Go("gate loop", r.loop)
	if len(r.cfg.Actuators) > 0 {
		group.Go("gate actuators", r.actuate)
	}
	// Deployments first, so that a backlog of cases meets the gates it belongs to.
	caughtUp := make(chan struct{})
	group.Go("gate deployments", func(ctx context.Context) error {
		return r.tail(ctx, "looptape-gate-deployment", event.TopicDeployment, from, func() { close(caughtUp) })
	})
	group.Go("gate cases", func(ctx context.Context) error {
		select {
		case <-caughtUp:
		case <-ctx.Done():
			return nil
		}
		return r.tail(ctx, "looptape-gate", event.TopicCase, from, nil)
	})
	return stopped(ctx, group.Wait())
}

// stopped is nil for an error that is only the echo of the end of ctx.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.Cause(ctx))) {
		return nil
	}
	return err
}

func (r *Runner) tail(ctx context.Context, name, topic string, from positions, caughtUp func()) error {
	return r.cfg.Log.Tail(ctx, stream.TailConfig{
		Name: name, Topics: []string{topic}, From: positions{topic: from[topic]}, CaughtUp: caughtUp, MaxRecords: 500,
		Batch: func(ctx context.Context, recs []event.Record, next map[string]map[int32]int64) error {
			w := work{recs, next, make(chan error, 1)}
			select {
			case r.work <- w:
			case <-ctx.Done():
				return ctx.Err()
			}
			select {
			case err := <-w.done:
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		},
	})
}

// loop owns the engine.
func (r *Runner) loop(ctx context.Context) error {
	tick := time.NewTicker(r.cfg.TickEvery)
	defer tick.Stop()
	for {
		r.hand()
		select {
		case <-ctx.Done():
			return nil
		case w := <-r.work:
			err := r.take(ctx, w)
			w.done <- err
			if err != nil {
				return err
			}
		case a := <-r.acks:
			if err := r.acknowledge(ctx, a); err != nil {
				return err
			}
		case <-tick.C:
			if err := r.tick(ctx); err != nil {
				return err
			}
		}
	}
}

// take gives a batch to the engine and makes what follows from it durable.
func (r *Runner) take(ctx context.Context, w work) error {
	next := maps.Clone(r.next)
	maps.Copy(next, w.next)
	r.next = next
	r.engine.SetOffsets(next)
	var effects []Effect
	for i := range w.recs {
		in, ok := r.input(ctx, &w.recs[i])
		if !ok {
			continue
		}
		effects = append(effects, r.engine.Step(in)...)
	}
	r.dirty = true
	if len(effects) == 0 {
		// Nothing follows yet: the next commit takes it along. Until then a crash
		// only means that these records are read again.
		return nil
	}
	return r.commit(ctx, effects)
}

// input reads a record. What cannot be read is counted and passed over: one bad
// record must not stop every gate.
func (r *Runner) input(ctx context.Context, rec *event.Record) (Input, bool) {
	if rec.Topic == event.TopicCase && rec.Value == nil {
		tenant, request, ok := strings.Cut(string(rec.Key), "/")
		return Input{Case: &CaseInput{Partition: rec.Partition, Withdrawn: true, Case: event.Case{Tenant: tenant, Request: request}}}, ok
	}
	ev, err := event.Decode(rec)
	if err == nil && ev.DataRef != "" && len(ev.Data) == 0 && r.cfg.Resolve != nil {
		err = r.cfg.Resolve(ctx, &ev)
	}
	var in Input
	if err == nil {
		switch rec.Topic {
		case event.TopicCase:
			c := &CaseInput{Partition: rec.Partition, Appended: rec.Time.UTC()}
			if rec.Time.IsZero() {
				c.Appended = time.Time{}
			}
			err = ev.Body(&c.Case)
			in.Case = c
		case event.TopicDeployment:
			d := &DeploymentInput{Type: ev.Type, Tenant: ev.Facts.Tenant, Time: ev.Time}
			err = ev.Body(&d.Body)
			if d.Body.Release == "" {
				d.Body.Release = ev.Facts.Release
			}
			if d.Body.Deployment == "" {
				d.Body.Deployment = ev.Facts.Deployment
			}
			if d.Body.App == "" {
				d.Body.App = ev.Facts.App
			}
			in.Deployment = d
		default:
			return Input{}, false
		}
	}
	if err != nil {
		r.metrics.unread.Inc()
		r.log.Warn("gate cannot read a record", "topic", rec.Topic, "partition", rec.Partition, "offset", rec.Offset, "error", err)
		return Input{}, false
	}
	return in, true
}

// tick carries the engine's clock on and commits what has come since.
func (r *Runner) tick(ctx context.Context) error {
	effects := r.elapse(ctx)
	if len(effects) == 0 && !r.dirty {
		return nil
	}
	return r.commit(ctx, effects)
}

// elapse tells the engine the time where everything has been read.
func (r *Runner) elapse(ctx context.Context) []Effect {
	if !r.engine.running() {
		return nil
	}
	// The clock is read before the ends: whatever was appended before it is then
	// known to have been read.
	now := r.cfg.Now()
	asking, cancel := context.WithTimeout(ctx, 5*time.Second)
	start, end, err := r.cfg.Log.Offsets(asking, event.TopicCase)
	cancel()
	if err != nil {
		if ctx.Err() == nil {
			r.log.Warn("gate cannot tell whether it has read everything: idle streams wait", "error", err)
		}
		return nil
	}
	t := &Tick{Now: now.UTC()}
	for p, last := range end[event.TopicCase] {
		if max(r.next[event.TopicCase][p], start[event.TopicCase][p]) >= last {
			t.Partitions = append(t.Partitions, p)
		}
	}
	if len(t.Partitions) == 0 {
		return nil
	}
	return r.engine.Step(Input{Tick: t})
}

func (r *Runner) acknowledge(ctx context.Context, a Ack) error {
	delete(r.inFlight, a.Decision)
	r.attempts[a.Decision]++
	a.Attempts = r.attempts[a.Decision]
	if a.Done {
		delete(r.attempts, a.Decision)
		delete(r.retryAt, a.Decision)
	} else {
		r.retryAt[a.Decision] = r.cfg.Now().Add(betweenRounds)
		r.log.Error("a decision could not be carried out: people must look at it; it is tried again",
			"decision", a.Decision, "actuator", a.Actuator, "error", a.Error, "round", a.Attempts)
	}
	return r.commit(ctx, r.engine.Step(Input{Ack: &a}))
}

// commit makes what was taken durable and sends what follows from it.
func (r *Runner) commit(ctx context.Context, effects []Effect) error {
	var recs []event.Record
	for _, f := range effects {
		if f.Note != "" {
			r.log.Info("gate: " + f.Note)
		}
		if f.Emit != nil {
			recs = append(recs, f.Emit.Event.Record(f.Emit.Topic, f.Emit.Key, f.Emit.Key))
		}
	}
	if err := r.store.commit(r.engine, r.next, recs); err != nil {
		return err
	}
	// Durable from here: state, offsets and outbox.
	r.dirty = false
	r.publish()
	if err := r.send(ctx, recs); err != nil {
		return err
	}
	r.tell(effects)
	return nil
}

// send appends the records, for as long as it takes, and empties the outbox.
func (r *Runner) send(ctx context.Context, recs []event.Record) error {
	if len(recs) == 0 {
		return nil
	}
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 10*time.Second) {
		err := r.cfg.Log.Produce(ctx, recs...)
		if err == nil {
			return r.store.sent()
		}
		r.log.Warn("gate cannot append its evidence: it is kept and tried again", "records", len(recs), "error", err)
		if !sleep(ctx, wait) {
			return ctx.Err()
		}
	}
}

// tell counts and shows what was sent.
func (r *Runner) tell(effects []Effect) {
	for _, f := range effects {
		if f.Emit == nil {
			continue
		}
		switch f.Emit.Event.Type {
		case event.GateEvidence:
			var ev event.Evidence
			if f.Emit.Event.Body(&ev) == nil {
				r.metrics.read(&ev)
				if r.cfg.OnEvidence != nil {
					r.cfg.OnEvidence(ev)
				}
			}
		case event.GateDecision:
			var d event.Decision
			if f.Emit.Event.Body(&d) == nil {
				r.metrics.decisions.WithLabelValues(d.Action).Inc()
				r.log.Info("gate decided", "release", d.Release, "action", d.Action, "state", d.State, "log_e", d.LogE, "threshold", d.Threshold, "reason", d.Reason)
				if r.cfg.OnDecision != nil {
					r.cfg.OnDecision(d)
				}
			}
		}
	}
}

func (r *Runner) publish() {
	s := r.engine.statuses()
	r.status.Store(&s)
}

// hand gives unfinished actions to the actuators, each at most once at a time.
func (r *Runner) hand() {
	if len(r.cfg.Actuators) == 0 {
		return
	}
	for _, a := range r.engine.Unfinished() {
		if r.inFlight[a.Decision] || r.cfg.Now().Before(r.retryAt[a.Decision]) {
			continue
		}
		select {
		case r.actions <- a:
			r.inFlight[a.Decision] = true
		default:
			return // all hands are full: the next turn of the loop
		}
	}
}

// actuate carries actions out, one after another.
func (r *Runner) actuate(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case a := <-r.actions:
			ack := carryOut(ctx, r.cfg.Actuators, a, r.cfg.Now)
			if ctx.Err() != nil {
				return nil // not known: it is done again after the restart, under the same key
			}
			select {
			case r.acks <- ack:
			case <-ctx.Done():
				return nil
			}
		}
	}
}
