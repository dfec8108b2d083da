package wire

import (
	"context"
	"sync"
)

// A budget bounds the memory of requests over all connections. A frame is
// charged for what has come of it, never for the length it announces: it waits
// before it begins, and again before each step in which its buffer grows. Frames
// begun go before new ones, and one of them, the elder, may always go on, so
// that half-read frames never all wait for each other. The limit is passed by at
// most one step of somebody and the elder's frame.
type budget struct {
	limit int64

	mu       sync.Mutex // guards the rest
	used     int64
	elder    *conn     // grows although nothing is free; nil: nobody had to
	growing  []*waiter // frames begun, first come first served
	entering []*waiter
}

type waiter struct {
	ch chan struct{} // closed once n is charged
	n  int64
	c  *conn // of a frame that grows
}

func newBudget(limit int64) *budget { return &budget{limit: limit} }

// enter waits until something is free, then charges n.
func (b *budget) enter(ctx context.Context, n int64) error {
	b.mu.Lock()
	if b.used < b.limit && len(b.growing) == 0 && len(b.entering) == 0 {
		b.used += n
		b.mu.Unlock()
		return nil
	}
	w := &waiter{ch: make(chan struct{}), n: n}
	b.entering = append(b.entering, w)
	b.mu.Unlock()
	return b.await(ctx, &b.entering, w)
}

// grow waits until something is free or c is the elder, then charges n more to
// the frame that c reads.
func (b *budget) grow(ctx context.Context, c *conn, n int64) error {
	b.mu.Lock()
	w := &waiter{ch: make(chan struct{}), n: n, c: c}
	if b.elder == c {
		b.used += n
		b.mu.Unlock()
		return nil
	}
	b.growing = append(b.growing, w)
	b.wake()
	b.mu.Unlock()
	return b.await(ctx, &b.growing, w)
}

func (b *budget) await(ctx context.Context, list *[]*waiter, w *waiter) error {
	select {
	case <-w.ch:
		return nil
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, x := range *list {
		if x == w {
			*list = append((*list)[:i], (*list)[i+1:]...)
			return context.Cause(ctx)
		}
	}
	// Let through and given up at once: give back what was charged.
	b.used -= w.n
	b.wake()
	return context.Cause(ctx)
}

// read says that the frame of c has come, or that it never will.
func (b *budget) read(c *conn) {
	b.mu.Lock()
	if b.elder == c {
		b.elder = nil
		b.wake()
	}
	b.mu.Unlock()
}

// free gives n back.
func (b *budget) free(n int64) {
	b.mu.Lock()
	b.used -= n
	b.wake()
	b.mu.Unlock()
}

// wake lets through whoever may go on. b.mu is held.
func (b *budget) wake() {
	for len(b.growing) > 0 && (b.used < b.limit || b.elder == nil) {
		w := b.growing[0]
		b.growing = b.growing[1:]
		if b.used >= b.limit {
			b.elder = w.c
		}
		b.used += w.n
		close(w.ch)
	}
	for len(b.growing) == 0 && len(b.entering) > 0 && b.used < b.limit {
		w := b.entering[0]
		b.entering = b.entering[1:]
		b.used += w.n
		close(w.ch)
	}
}

// smallFrame is the largest frame, in bytes, that has a budget of its own:
// requests that ask for little, heartbeats and metadata among them, go on while
// others hold all the room with large frames that they half sent.
const smallFrame = 64 << 10

// room is the budget that a frame of size bytes is charged to.
func (s *Server) room(size int64) *budget {
	if size <= min(smallFrame, s.cfg.MaxBytes/16) {
		return s.small
	}
	return s.budget
}
