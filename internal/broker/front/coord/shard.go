package coord

import (
	"context"
	"errors"
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
	terms   int // leaderships so far

	mu    sync.Mutex // guards the rest
	inbox []input
	first []input // completions of appends: taken before inbox, also while quiet
	phase phase
	led   bool // by this broker
	wake  chan struct{}
}

type phase int

const (
	loading phase = iota
	serving
	elsewhere // another broker leads the partition
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
	case elsewhere:
		s.mu.Unlock()
		fail(ErrNotCoordinator)
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

// lead says whether this broker leads the partition.
func (s *shard) lead(led bool) {
	s.mu.Lock()
	changed := s.led != led
	s.led = led
	if !led && s.phase == loading {
		s.phase = elsewhere
	}
	s.mu.Unlock()
	if changed {
		s.signal()
	}
}

func (s *shard) leads() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.led
}

// shut answers everybody who waits; no input is taken in the phase that begins.
func (s *shard) shut(p phase, why error) {
	s.mu.Lock()
	s.phase = p
	inbox := s.inbox
	s.inbox = nil
	s.mu.Unlock()
	for _, in := range inbox {
		in.fail(why)
	}
	var x effects
	for _, g := range s.groups {
		for _, m := range g.members {
			m.answerJoin(&x, JoinResult{Err: why, MemberID: m.id, Generation: -1})
			m.answerSync(&x, SyncResult{Err: why})
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

// run serves whenever this broker leads the partition.
func (s *shard) run(ctx context.Context, logs Logs, loading chan struct{}) error {
	for {
		for !s.leads() {
			s.enter(elsewhere)
			select {
			case <-s.wake:
			case <-ctx.Done():
				s.shut(stopped, ErrNotAvailable)
				return nil
			}
		}
		if err := s.term(ctx, logs, loading); err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// term is one leadership: it reads the log and serves until the leadership or ctx
// ends.
func (s *shard) term(ctx context.Context, logs Logs, loads chan struct{}) error {
	s.tasks = run.New(context.WithoutCancel(ctx))
	s.terms++
	s.groups, s.trimmed = map[string]*group{}, make(chan error, 1)
	s.pending, s.written, s.kept, s.quiet, s.busy = 0, 0, 0, false, false
	s.enter(loading)
	defer func() {
		if ctx.Err() == nil {
			s.finish(elsewhere, ErrNotCoordinator)
		} else {
			s.finish(stopped, ErrNotAvailable)
		}
		s.tasks.Stop()
		_ = s.tasks.Wait()
	}()
	select {
	case loads <- struct{}{}:
	case <-ctx.Done():
		return nil
	}
	var err error
	if s.log, err = logs.Open(ctx, s.index); err == nil {
		err = s.read(ctx)
	}
	<-loads
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return nil
	case errors.Is(err, ErrNotCoordinator), !s.leads():
		// It went as it came. Whoever says so next says it soon.
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
		}
		return nil
	default:
		return fmt.Errorf("load groups of %s/%d: %w", Topic, s.index, err)
	}
	s.enter(serving)
	return s.serve(ctx)
}

// finish shuts the shard and waits for appends under way, whose completions
// still have answers to give.
func (s *shard) finish(p phase, why error) {
	s.shut(p, why)
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
			s.slog.Warn("appends of groups not confirmed when the coordinator stopped", "partition", s.index, "pending", s.pending)
			return
		}
	}
	// Answers of steps taken since may have left new waiters behind.
	s.shut(p, why)
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

// serve takes inputs and timers until the leadership or ctx ends.
func (s *shard) serve(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	expire := time.Now().Add(s.cfg.ExpireEvery)
	for s.leads() {
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
	return nil
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
	term := s.terms
	s.log.Append(ctx, b, func(base int64, err error) {
		if err != nil {
			err = fmt.Errorf("%w: %w", ErrNotAvailable, err)
		}
		s.complete(func(s *shard, now time.Time, x *effects) {
			if term == s.terms {
				s.pending--
			}
			then(now, x, base, err)
		})
	})
}
