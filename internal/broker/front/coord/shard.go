package coord

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/looptape/looptape/internal/base/run"
	"github.com/looptape/looptape/internal/broker/batch"
)

// A shard owns the groups of one partition of the log. Its goroutine takes
// inputs one after the other; nobody else touches the groups.
type shard struct {
	index int32
	cfg   *Config
	slog  *slog.Logger

	// Of the goroutine.
	groups  map[string]*group
	log     Log
	pending int   // batches appended and not yet durable
	written int64 // bytes since the last checkpoint
	kept    int64 // bytes the last checkpoint had
	quiet   bool  // a checkpoint waits for pending to reach 0
	busy    bool  // a checkpoint is being written
	trimmed chan error
	tasks   *run.Group

	mu    sync.Mutex // guards the rest
	inbox []input
	first []input // completions of appends: taken before inbox, also while quiet
	phase phase
	wake  chan struct{}
}

type phase int

const (
	loading phase = iota
	serving
	stopped
)

// An input is a step to take; fail is called instead when it can't be.
type input struct {
	step func(s *shard, now time.Time, x *effects)
	fail func(error)
}

func newShard(index int32, cfg *Config, log *slog.Logger) *shard {
	return &shard{index: index, cfg: cfg, slog: log, groups: map[string]*group{}, wake: make(chan struct{}, 1), trimmed: make(chan error, 1)}
}

// post queues an input. It never blocks: the queue holds at most one input for
// each request in flight, which the connections bound.
func (s *shard) post(step func(*shard, time.Time, *effects), fail func(error)) {
	s.mu.Lock()
	switch s.phase {
	case loading:
		s.mu.Unlock()
		fail(ErrLoading)
		return
	case stopped:
		s.mu.Unlock()
		fail(ErrNotAvailable)
		return
	}
	s.inbox = append(s.inbox, input{step, fail})
	s.mu.Unlock()
	s.signal()
}

// complete queues what follows an append, which goes before other inputs.
func (s *shard) complete(step func(*shard, time.Time, *effects)) {
	s.mu.Lock()
	s.first = append(s.first, input{step: step})
	s.mu.Unlock()
	s.signal()
}

func (s *shard) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *shard) depth() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.inbox) + len(s.first)
}

func (s *shard) enter(p phase) {
	s.mu.Lock()
	s.phase = p
	s.mu.Unlock()
}

// shut answers everybody who waits; no input is taken any more.
func (s *shard) shut() {
	s.mu.Lock()
	s.phase = stopped
	inbox := s.inbox
	s.inbox = nil
	s.mu.Unlock()
	for _, in := range inbox {
		in.fail(ErrNotAvailable)
	}
	var x effects
	for _, g := range s.groups {
		for _, m := range g.members {
			m.answerJoin(&x, JoinResult{Err: ErrNotAvailable, MemberID: m.id, Generation: -1})
			m.answerSync(&x, SyncResult{Err: ErrNotAvailable})
		}
	}
	for _, fn := range x.answers {
		fn()
	}
}

// group finds a group; with create it makes an empty one.
func (s *shard) group(id string, create bool) *group {
	g := s.groups[id]
	if g != nil && g.state == Dead {
		delete(s.groups, id)
		g = nil
	}
	if g == nil && create {
		g = newGroup(s.cfg, id, time.Now())
		s.groups[id] = g
	}
	return g
}

func (s *shard) run(ctx context.Context, log Log, loading chan struct{}) error {
	tasks := run.New(context.WithoutCancel(ctx))
	s.tasks = tasks
	defer func() { s.finish(); tasks.Stop(); _ = tasks.Wait() }()
	select {
	case loading <- struct{}{}:
	case <-ctx.Done():
		return nil
	}
	s.log = log
	err := s.read(ctx)
	<-loading
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("load groups of %s/%d: %w", Topic, s.index, err)
	}
	s.enter(serving)
	return s.serve(ctx)
}

// finish shuts the shard and waits for appends under way, whose completions
// still have answers to give.
func (s *shard) finish() {
	s.shut()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	for s.pending > 0 {
		s.steps(context.Background(), s.takeFirst())
		if s.pending == 0 {
			break
		}
		select {
		case <-s.wake:
		case <-deadline.C:
			s.slog.Warn("appends of groups not confirmed at shutdown", "partition", s.index, "pending", s.pending)
			return
		}
	}
	// Answers of steps taken since may have left new waiters behind.
	s.shut()
}

// read rebuilds the groups from the log.
func (s *shard) read(ctx context.Context) error {
	now := time.Now()
	at, end := s.log.Bounds()
	for at < end {
		batches, release, err := s.log.Read(ctx, at, 1<<20)
		if err != nil {
			return fmt.Errorf("read at %d: %w", at, err)
		}
		before := at
		for _, records := range batches {
			for b := range batch.Split(records) {
				if at, err = s.readBatch(b, at, now); err != nil {
					release()
					return err
				}
			}
		}
		release()
		if at == before {
			return fmt.Errorf("read at %d: nothing before the end %d", at, end)
		}
	}
	for id, g := range s.groups {
		if g.idle() {
			delete(s.groups, id)
		}
	}
	return nil
}

func (s *shard) readBatch(b batch.Batch, at int64, now time.Time) (int64, error) {
	if b.LastOffset() < at {
		return at, nil
	}
	s.written += int64(len(b))
	if b.IsControl() {
		return b.LastOffset() + 1, nil
	}
	var bad error
	err := b.Records(func(r batch.Record) bool {
		if o := b.BaseOffset() + int64(r.OffsetDelta); o >= at {
			bad = s.load(r, o, now)
		}
		return bad == nil
	})
	if bad != nil {
		err = bad
	}
	if err != nil {
		return at, fmt.Errorf("batch at %d: %w", b.BaseOffset(), err)
	}
	return b.LastOffset() + 1, nil
}

// serve takes inputs and timers until ctx ends.
func (s *shard) serve(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	expire := time.Now().Add(s.cfg.ExpireEvery)
	for {
		s.steps(ctx, s.take())
		now := time.Now()
		next := expire
		if !now.Before(expire) {
			expire = now.Add(s.cfg.ExpireEvery)
			next = expire
			s.step(ctx, now, func(s *shard, now time.Time, x *effects) {
				for _, g := range s.groups {
					g.expire(now, x)
				}
			})
		}
		if !s.quiet { // no timer may write while a checkpoint waits for silence
			s.step(ctx, now, func(s *shard, now time.Time, x *effects) {
				for _, g := range s.groups {
					g.tick(now, x)
				}
			})
			for id, g := range s.groups {
				if g.idle() || g.state == Dead {
					delete(s.groups, id)
				} else if !g.wake.IsZero() && g.wake.Before(next) {
					next = g.wake
				}
			}
		}
		s.checkpoint(ctx)
		timer.Reset(time.Until(next))
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-timer.C:
		case err := <-s.trimmed:
			s.busy = false
			if err != nil && ctx.Err() == nil {
				s.slog.Warn("trim of group log failed", "partition", s.index, "err", err)
			}
		}
	}
}

// take empties the queue; while a checkpoint waits only completions are taken.
func (s *shard) take() []input {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := s.first
	s.first = nil
	if !s.quiet {
		in = append(in, s.inbox...)
		s.inbox = nil
	}
	return in
}

func (s *shard) takeFirst() []input {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := s.first
	s.first = nil
	return in
}

func (s *shard) steps(ctx context.Context, in []input) {
	for _, i := range in {
		s.step(ctx, time.Now(), i.step)
	}
}

// step takes one step and carries out its effects.
func (s *shard) step(ctx context.Context, now time.Time, fn func(*shard, time.Time, *effects)) {
	var x effects
	fn(s, now, &x)
	s.perform(ctx, now, &x)
}

func (s *shard) perform(ctx context.Context, now time.Time, x *effects) {
	for _, w := range x.writes {
		if len(w.records) == 0 {
			var y effects
			w.then(now, &y, 0, nil)
			s.perform(ctx, now, &y)
			continue
		}
		b := batch.Build(batch.Plain, w.records...)
		s.written += int64(len(b))
		s.append(ctx, b, w.then)
	}
	for _, fn := range x.answers {
		fn()
	}
}

func (s *shard) append(ctx context.Context, b []byte, then func(time.Time, *effects, int64, error)) {
	s.pending++
	s.log.Append(ctx, b, func(base int64, err error) {
		if err != nil {
			err = fmt.Errorf("%w: %w", ErrNotAvailable, err)
		}
		s.complete(func(s *shard, now time.Time, x *effects) {
			s.pending--
			then(now, x, base, err)
		})
	})
}
