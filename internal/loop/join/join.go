// Package join puts together what belongs to one request, however late it comes.
//
// It reads every request-scoped topic and llm.alias, holds one state per tenant
// and request, and writes the request's case (event.Case) to llm.case whenever
// the case has changed: the newest record of a case stands for all before it.
//
//	llm.{prompt,retrieval,response,action,safety} --> parts, facts, totals \
//	llm.feedback --------------------------------> labels                   > llm.case
//	llm.score -----------------------------------> scores                  /
//	llm.alias -----------------------------------> what lies under an alias goes to its request
//
// A case is a function of the set of events and nothing else. The order in which
// they come, how often each comes and how the topics interleave do not show; nor
// does time, as there are no windows: feedback that comes before the response or
// a year after it joins the same case. An event that comes again changes nothing
// and writes no revision. Of two bodies under one id one stands for good: of
// scores the one with the larger (InputCount, InputsHash), of everything else the
// later by event time.
//
// Aliases. An event lies under its request, or under the id it came with when it
// has no request yet. alias.bound K -> R makes K an alias: what lies under K and
// is not of K's own trace is produced once more, to its own topic, under R, with
// the same id and the fact via = K, at once or when it comes. A K left with no
// parts of its own trace has no case; one that was published is withdrawn by a
// tombstone. What was re-keyed is never re-keyed again: where R is an alias itself,
// of S, join binds K to S too. Scores that Looptape made
// of what lay under K are not carried over: evaluate makes them anew under R.
//
// Bounds. A case lists the first 1,000 parts in (root events first, time, id),
// 256 scores and 256 labels, within a size that fits a record; what lies beyond
// is counted (Has, cost, usage, start and end are of all) and not listed. Strings
// are cut (limits.go). An alias leads to at most 16 requests.
//
// Failures: join never drops an event silently (metrics count every fate) and
// never stops for a bad one: records that are no events are passed over, bodies
// that can't be read leave a part without numbers. It stops, and Run returns an
// error, when the cluster or its local store fails.
package join

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/looptape/looptape/internal/loop/event"
	"github.com/looptape/looptape/internal/loop/stream"
)

// Name is the processor's; its consumer group is stream.GroupPrefix + Name.
const Name = "join"

// Inputs are the topics that join reads; all must have one number of partitions,
// which llm.case should share.
func Inputs() []string {
	return []string{
		event.TopicPrompt, event.TopicRetrieval, event.TopicResponse, event.TopicAction,
		event.TopicSafety, event.TopicFeedback, event.TopicScore, event.TopicAlias,
	}
}

// DefaultChangelog is the topic from which another process restores join's state.
const DefaultChangelog = "looptape-join-changelog"

// Config says where join keeps its state.
type Config struct {
	StateDir  string
	Changelog string // default DefaultChangelog; "-": none, a lost state is built again from the log

	// Resolve, if set, reads the body of an event that lies in the object store
	// (govern.Claims). One that can't be read leaves a part without numbers.
	Resolve func(context.Context, *event.Event) error

	Logger     *slog.Logger          // default: discard
	Registerer prometheus.Registerer // default: the metrics are not registered
	CaughtUp   func()                // see stream.ProcessorConfig

	Hook func(stream.Step, int32) error // see stream.ProcessorConfig
}

// Run joins until ctx ends (nil) or something fails.
func Run(ctx context.Context, c *stream.Client, cfg Config) error {
	if cfg.Changelog == "" {
		cfg.Changelog = DefaultChangelog
	}
	if cfg.Changelog == "-" {
		cfg.Changelog = ""
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return fmt.Errorf("join: register metrics: %w", err)
	}
	return stream.Run(ctx, c, stream.ProcessorConfig{
		Name: Name, Inputs: Inputs(), StateDir: cfg.StateDir, Changelog: cfg.Changelog,
		New:      func() stream.Handler { return newHandler(c, cfg, m) },
		CaughtUp: cfg.CaughtUp, Hook: cfg.Hook,
	})
}

// reader reads events that wait on the tape for a binding of their alias.
type reader interface {
	ReadAt(context.Context, event.Position) (event.Record, error)
}

// task is what join uses of stream.Task.
type task interface {
	Context() context.Context
	Partition() int32
	Partitions() int32
	Get(key []byte) ([]byte, error)
	Put(key, value []byte) error
	Delete(key []byte) error
	Scan(prefix []byte, fn func(key, value []byte) error) error
	Emit(event.Record)
}

// maxOpen bounds the states that a handler keeps decoded.
const maxOpen = 4096

// A handler joins the events of one partition number.
type handler struct {
	reader  reader
	resolve func(context.Context, *event.Event) error
	log     *slog.Logger
	metrics *metrics
	open    map[string]*state // by key; what the store holds, or newer
	dirty   []*state          // changed in this batch, in the order of the first change
}

func newHandler(r reader, cfg Config, m *metrics) *handler {
	return &handler{reader: r, resolve: cfg.Resolve, log: cfg.Logger, metrics: m, open: map[string]*state{}}
}

func (h *handler) Process(t *stream.Task, r *event.Record) error { return h.process(t, r) }
func (h *handler) Tick(*stream.Task, time.Time) error            { return nil }
func (h *handler) Flush(t *stream.Task) error                    { return h.flush(t) }

// process takes one record into the states.
func (h *handler) process(t task, r *event.Record) error {
	if len(r.Value) == 0 && r.Header("ce_id") == "" {
		h.metrics.events.WithLabelValues(r.Topic, fateTombstone).Inc()
		return nil
	}
	e, err := event.Decode(r)
	if e.ID == "" || e.Type == "" {
		h.metrics.events.WithLabelValues(r.Topic, fateNoEvent).Inc()
		return nil
	}
	if err != nil {
		h.metrics.malformed.WithLabelValues(r.Topic).Inc()
	}
	if r.Topic == event.TopicAlias {
		return h.alias(t, r, &e)
	}
	under := e.Facts.Request
	if under == "" {
		under = string(r.Key)
	}
	if under == "" {
		h.metrics.events.WithLabelValues(r.Topic, fateNoKey).Inc()
		return nil
	}
	if h.misplaced(t, r, under) {
		return nil
	}
	s, err := h.state(t, e.Facts.Tenant, under)
	if err != nil {
		return err
	}
	fate, err := h.take(t, s, r, &e)
	if err != nil {
		return err
	}
	h.metrics.events.WithLabelValues(r.Topic, fate).Inc()
	return nil
}

// misplaced sends a record that lies in another partition than its key's (written
// by a client with another partitioner) to where everything else of its request
// is.
func (h *handler) misplaced(t task, r *event.Record, under string) bool {
	if event.PartitionOf(under, t.Partitions()) == t.Partition() {
		return false
	}
	moved := *r
	moved.Partition = -1
	moved.Headers = nil
	for _, hd := range r.Headers {
		if hd.Key != "ce_partitionkey" {
			moved.Headers = append(moved.Headers, hd)
		}
	}
	moved.Headers = append(moved.Headers, event.Header{Key: "ce_partitionkey", Value: []byte(under)})
	t.Emit(moved)
	h.metrics.events.WithLabelValues(r.Topic, fateMisplaced).Inc()
	return true
}

// take puts an event where it belongs: into the case, into the line of those that
// wait for a binding, or under the requests that its alias is bound to.
func (h *handler) take(t task, s *state, r *event.Record, e *event.Event) (fate string, err error) {
	own := e.Facts.Via != "" || e.Facts.Trace != "" && e.Facts.Trace == s.request
	if own {
		h.via(t, s, e.Facts.Via)
		return h.join(t, s, &s.own, e)
	}
	again, err := h.wait(t, s, e)
	if err != nil || again {
		return fateDuplicate, err
	}
	if e.Facts.Request == "" && len(s.bound) == 0 {
		return fateWaiting, nil
	}
	if e.Facts.Request != "" {
		s.seen = addUp(s.seen, weight(e))
		s.revised = s.revised || len(s.bound) == 0 // the revision, if nothing else
		h.touch(s)
	}
	if len(s.bound) == 0 {
		return h.join(t, s, &s.loose, e)
	}
	if e.Facts.Request != "" {
		h.outlived(s)
	}
	if ofLooptape(e) {
		return fateSuperseded, nil
	}
	for _, request := range s.bound {
		h.rekey(t, s, e, request)
	}
	return fateRekeyed, nil
}

// outlived notes that a case with what has followed an alias may stand on
// llm.case: published, or published by a batch that was lost after it had
// emitted. Whatever the truth, where the state has a case it is written again with
// a revision above that one, and where it has none a tombstone is, once.
func (h *handler) outlived(s *state) {
	if own := s.ownTrace(); own || !s.withdrawn {
		s.stands, s.revised = true, true
		h.touch(s)
	}
}

// weight is what an event adds to the revision of a case: see set.size.
func weight(e *event.Event) int64 {
	switch sc, ok := newScore(e); {
	case e.Position.Topic == event.TopicScore && ok:
		return 1 + int64(sc.InputCount)
	case e.Position.Topic == event.TopicFeedback:
		return 2 // a part and a label
	}
	return 1
}

// join merges an event into one of a state's sets.
func (h *handler) join(t task, s *state, into *set, e *event.Event) (string, error) {
	h.body(t.Context(), e)
	changed, err := into.add(t, s, e)
	if err != nil {
		return "", err
	}
	if !changed {
		return fateDuplicate, nil
	}
	h.touch(s)
	s.revised = true
	return fateJoined, nil
}

// body resolves a body that lies in the object store.
func (h *handler) body(ctx context.Context, e *event.Event) {
	if e.DataRef == "" || len(e.Data) > 0 || h.resolve == nil {
		return
	}
	if err := h.resolve(ctx, e); err != nil {
		h.metrics.unresolved.Inc()
		h.log.Warn("the body of an event could not be read: its part has no numbers", "event", e.ID, "position", e.Position.String())
	}
}

// state is the state of a request, or of an alias.
func (h *handler) state(t task, tenant, request string) (*state, error) {
	k := stateKey(tenant, request)
	if s := h.open[k]; s != nil {
		return s, nil
	}
	v, err := t.Get([]byte(prefixState + k))
	if err != nil {
		return nil, err
	}
	s := &state{own: set{name: ownSet}, loose: set{name: looseSet}}
	if v != nil {
		if err := s.decode(v); err != nil {
			return nil, fmt.Errorf("state of a request: %w", err)
		}
	}
	s.key, s.tenant, s.request = k, tenant, request
	h.open[k] = s
	return s, nil
}

func (h *handler) touch(s *state) {
	if !s.dirty {
		s.dirty = true
		h.dirty = append(h.dirty, s)
	}
}

// flush writes what the batch has changed: states, and one revision of each case.
func (h *handler) flush(t task) error {
	for _, s := range h.dirty {
		if s.revised {
			if err := h.publish(t, s); err != nil {
				return err
			}
		}
		s.dirty, s.revised = false, false
		if err := t.Put([]byte(prefixState+s.key), s.encode()); err != nil {
			return err
		}
	}
	h.dirty = h.dirty[:0]
	if len(h.open) > maxOpen {
		clear(h.open)
	}
	return nil
}

// publish emits the case as it is now, or withdraws it.
func (h *handler) publish(t task, s *state) error {
	c := s.fold()
	if c == nil {
		rekeyed := len(s.own.parts.items)+len(s.own.scores.items) > 0
		if s.stands || rekeyed && !s.withdrawn { // see outlived
			s.stands, s.withdrawn = false, true
			t.Emit(withdrawal(s))
			h.metrics.cases.WithLabelValues(caseWithdrawn).Inc()
		}
		return nil
	}
	e, err := caseEvent(c)
	if err != nil {
		return err
	}
	s.stands, s.withdrawn = true, false
	t.Emit(e.Record(event.TopicCase, caseKey(s.tenant, s.request), s.request))
	h.metrics.cases.WithLabelValues(caseRevised).Inc()
	return nil
}
