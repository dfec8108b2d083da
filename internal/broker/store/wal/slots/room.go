package slots

import (
	"context"
	"fmt"
	"slices"
)

// A waiter is a Reserve call that waits for room.
type waiter struct {
	n  int64
	in chan struct{} // closed when the room is its own, or the log has ended
}

// Reserve implements wal.Log. First come, first served.
func (l *Log) Reserve(ctx context.Context, n int) error {
	w, err := l.enter(int64(n))
	if w == nil {
		return err
	}
	select {
	case <-w.in:
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.refusal()
	case <-ctx.Done():
		l.leave(w)
		return fmt.Errorf("wait for room in the log: %w", ctx.Err())
	}
}

// Return implements wal.Log.
func (l *Log) Return(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.promised -= int64(n)
	l.letIn()
}

// enter lets the caller in (nil, nil), refuses it, or makes it wait.
func (l *Log) enter(n int64) (*waiter, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.refusal(); err != nil {
		return nil, err
	}
	if len(l.waiters) == 0 && l.hasRoom(n) {
		l.promised += n
		return nil, nil
	}
	w := &waiter{n, make(chan struct{})}
	l.waiters = append(l.waiters, w)
	l.stats.ReserveWaits++
	return w, nil
}

// leave takes back a waiter that gave up. It may have been let in meanwhile.
func (l *Log) leave(w *waiter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.waiters, w); i >= 0 {
		l.waiters = slices.Delete(l.waiters, i, i+1)
	} else {
		l.promised -= w.n
	}
	l.letIn()
}

// hasRoom tells whether n more bytes may come. One record always may when nothing
// else is there. After failures there is less room, in proportion to the slots
// that may be in flight. Call with l.mu held.
func (l *Log) hasRoom(n int64) bool {
	queued := l.stats.QueuedBytes + l.promised
	limit := l.cfg.MaxQueued * int64(l.window) / int64(l.cfg.InFlight)
	if queued > 0 && queued+n > limit {
		return false
	}
	held := queued + l.stats.UncommittedBytes
	return held == 0 || held+n <= l.cfg.MaxUncommitted
}

// letIn lets in who has room now. Call with l.mu held.
func (l *Log) letIn() {
	for len(l.waiters) > 0 && l.hasRoom(l.waiters[0].n) {
		l.promised += l.waiters[0].n
		close(l.waiters[0].in)
		l.waiters[0] = nil
		l.waiters = l.waiters[1:]
	}
}

// letAllIn makes all look: the log has ended. Call with l.mu held.
func (l *Log) letAllIn() {
	for _, w := range l.waiters {
		l.promised += w.n // as if let in: they may leave at the same time
		close(w.in)
	}
	l.waiters = nil
}
