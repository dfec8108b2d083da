package wire

import (
	"context"
	"sync"
)

// A budget bounds the request bytes in flight over all connections. A frame
// waits before it begins; once begun it is charged without waiting, so that
// half-read frames can never wait for each other.
type budget struct {
	limit int64

	mu      sync.Mutex // guards used, waiters
	used    int64
	waiters []chan struct{} // first come first served
}

func newBudget(limit int64) *budget { return &budget{limit: limit} }

// enter waits until something is free, then charges n.
func (b *budget) enter(ctx context.Context, n int64) error {
	b.mu.Lock()
	if b.used < b.limit && len(b.waiters) == 0 {
		b.used += n
		b.mu.Unlock()
		return nil
	}
	w := make(chan struct{})
	b.waiters = append(b.waiters, w)
	b.mu.Unlock()
	select {
	case <-w:
		b.charge(n)
		return nil
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, x := range b.waiters {
		if x == w {
			b.waiters = append(b.waiters[:i], b.waiters[i+1:]...)
			return context.Cause(ctx)
		}
	}
	// Woken and given up at once: hand the turn on.
	b.wake()
	return context.Cause(ctx)
}

// charge adds n without waiting; a negative n gives back.
func (b *budget) charge(n int64) {
	b.mu.Lock()
	b.used += n
	b.wake()
	b.mu.Unlock()
}

// wake lets the first waiter through. It charges itself and wakes the next.
func (b *budget) wake() {
	if b.used < b.limit && len(b.waiters) > 0 {
		close(b.waiters[0])
		b.waiters = b.waiters[1:]
	}
}
