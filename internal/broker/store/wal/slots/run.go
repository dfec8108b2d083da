package slots

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/looptape/looptape/internal/base/run"
	"github.com/looptape/looptape/internal/broker/store/wal"
)

// Run implements wal.Log. After ctx ended it goes on for DrainTimeout at most; what
// is not stored by then is answered with an error, which Run returns.
func (l *Log) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, l.end)
	defer stop()
	// The parts outlive ctx: what was appended until then is still to be stored.
	g := run.New(context.WithoutCancel(ctx))
	g.Go("wal-trim", l.deleteTrimmed)
	g.Go("wal-slots", func(ctx context.Context) error {
		defer g.Stop()
		return l.loop(ctx, g)
	})
	err := g.Wait()
	if err != nil {
		l.fail(err) // if the loop itself did not
	}
	return err
}

// loop starts puts and acknowledges what is stored, until the log has ended and
// everything is.
func (l *Log) loop(ctx context.Context, g *run.Group) error {
	var timer, drain *time.Timer
	defer func() {
		for _, t := range []*time.Timer{timer, drain} {
			if t != nil {
				t.Stop()
			}
		}
	}()
	for {
		at, state := l.start(g)
		if state == stateEnded {
			return nil
		}
		if state == stateEnding && drain == nil {
			drain = time.NewTimer(l.cfg.DrainTimeout)
		}
		if timer != nil {
			timer.Stop()
			timer = nil
		}
		if !at.IsZero() {
			timer = time.NewTimer(time.Until(at))
		}
		var err error
		select {
		case <-l.wake:
		case <-ticks(timer):
		case s := <-l.finished:
			if err = s.err; err == nil {
				s.done = true
				l.settle(g)
			}
		case err = <-l.checked:
			if err == nil {
				n := l.checking
				l.checking = 0
				l.publish(n, g)
				l.settle(g)
			}
		case <-ticks(drain):
			err = fmt.Errorf("stopped after %v with records that are not stored", l.cfg.DrainTimeout)
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		if err != nil {
			l.fail(err)
			return err
		}
	}
}

// ticks is the timer's channel; no timer never ticks.
func ticks(t *time.Timer) <-chan time.Time {
	if t == nil {
		return nil
	}
	return t.C
}

type state uint8

const (
	stateRunning state = iota
	stateEnding        // no more appends come
	stateEnded         // and all that came is acknowledged
)

// start starts the puts that are due and says when to look again at the latest;
// zero: when something happens.
func (l *Log) start(g *run.Group) (at time.Time, _ state) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for len(l.flight) < l.window {
		var s *slot
		switch {
		case len(l.full) > 0:
			s = l.full[0]
			l.full[0] = nil
			l.full = l.full[1:]
		case l.fill != nil:
			if at = l.due(now); at.After(now) {
				return at, l.state()
			}
			s, l.fill = l.fill, nil
		default:
			return time.Time{}, l.state()
		}
		// From here on the slot's number and bytes are fixed (P11).
		l.seq++
		s.seq, s.trimmed = l.seq, l.trimmed
		l.started = now
		l.flight = append(l.flight, s)
		l.stats.InFlight = len(l.flight)
		l.stats.Segments++
		g.Go("wal-put", func(ctx context.Context) error {
			s.err = l.put(ctx, s)
			l.finished <- s
			return nil // the loop ends the log
		})
	}
	return time.Time{}, l.state()
}

func (l *Log) state() state {
	switch {
	case !l.ending:
		return stateRunning
	case len(l.flight) > 0 || len(l.full) > 0 || l.fill != nil:
		return stateEnding
	default:
		return stateEnded
	}
}

// due is when the slot that fills is to be started. Call with l.mu held.
func (l *Log) due(now time.Time) time.Time {
	linger, spent := l.budget.linger(now)
	// While slots get full, waiting for the next one as long as a put takes costs
	// little and saves the requests for what those in flight left over. When puts
	// take long, the store is the limit, and more of them do not help it.
	bulk := now.Sub(l.filled) < 2*(l.cfg.MaxLinger+l.putTime)
	if bulk {
		linger = max(linger, min(l.putTime, 4*l.cfg.MaxLinger))
	}
	var at time.Time
	if (len(l.flight) > 0 || bulk) && !l.ending {
		at = l.fill.since.Add(linger)
	}
	if next := l.started.Add(linger); spent && !l.ending && next.After(at) {
		at = next
	}
	return at
}

// settle acknowledges the slots that are stored and have no other before them. In
// a store that can't tell who was first, the fence is asked before that (P11): a
// recoverer that has sealed the epoch before it looked at the slots would not have
// seen them.
func (l *Log) settle(g *run.Group) {
	n := 0
	for n < len(l.flight) && l.flight[n].done {
		n++
	}
	switch {
	case n == 0 || l.checking > 0:
	case l.cfg.Conditional && conditional(l.cfg.Store):
		l.publish(n, g)
	default:
		l.checking = n
		g.Go("wal-check", func(ctx context.Context) error {
			l.checked <- l.stillMine(ctx)
			return nil
		})
	}
}

// stillMine asks until the answer is definite.
func (l *Log) stillMine(ctx context.Context) error {
	if l.cfg.StillMine == nil {
		return errors.New("the store has no conditional puts any more, and nobody can say whose the log is")
	}
	for p := l.pauses(); ; {
		err := l.cfg.StillMine(ctx)
		if err == nil || errors.Is(err, wal.ErrFenced) {
			return err
		}
		l.cfg.Logger.Warn("log waits for the fence to be read", "error", err)
		if err := p.wait(ctx); err != nil {
			return err
		}
	}
}

// publish tells everybody that the first n slots in flight are durable. What waits
// is put before the callers are told: the one takes longer than the other.
func (l *Log) publish(n int, g *run.Group) {
	ready := l.flight[:n:n]
	l.flight = l.flight[n:]
	l.mu.Lock()
	for _, s := range ready {
		l.durable = s.last()
		l.written = append(l.written, placed{s.seq, s.last(), s.bytes()})
		l.stats.Records += int64(len(s.recs))
		l.stats.RecordBytes += s.data
		l.stats.QueuedBytes -= s.bytes()
		l.stats.UncommittedBytes += s.bytes()
		l.stats.Commits++
		l.stats.WrittenBytes += s.bytes()
	}
	l.stats.InFlight = len(l.flight)
	l.letIn()
	l.mu.Unlock()
	l.start(g)
	// True now: whoever recovers this epoch reads every record of these slots.
	for _, s := range ready {
		for i, r := range s.recs {
			if r.Done != nil {
				r.Done(s.first+wal.LSN(i), nil)
			}
		}
		l.recycle(s)
	}
}

// recycle keeps the memory of a few ordinary slots' lists.
func (l *Log) recycle(s *slot) {
	const spares, records = 4, 1 << 13
	s.frozen = nil
	clear(s.recs)
	if cap(s.recs) > records {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.spare) < spares {
		l.spare = append(l.spare, s.recs[:0])
	}
}

// fail makes err the end of the log: everything not acknowledged is answered with
// it, in order. Only the first failure counts. It runs on the loop's goroutine, or
// after that has ended. A put that is still under way can't read the records any
// more once they are answered; what it may already have sent is stored or not.
func (l *Log) fail(err error) {
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return
	}
	l.err = fmt.Errorf("%w: %w", wal.ErrFailed, err)
	lost := append(l.flight[:len(l.flight):len(l.flight)], l.full...)
	if l.fill != nil {
		lost = append(lost, l.fill)
	}
	l.full, l.fill = nil, nil
	l.stats.QueuedBytes = 0
	l.stats.InFlight = 0
	l.letAllIn()
	l.mu.Unlock()
	l.flight = nil
	for _, s := range lost {
		s.revoke()
	}
	for _, s := range lost {
		for i, r := range s.recs {
			if r.Done != nil {
				r.Done(s.first+wal.LSN(i), l.err)
			}
		}
	}
}
