package write

import (
	"context"
	"sync"
	"time"

	"github.com/looptape/looptape/internal/base/run"
)

// Limiter bounds the bytes that background jobs read and write, all together, so
// that they stay below what writers and readers need. While those wait (Busy) it
// gives a quarter.
type Limiter struct {
	rate int64       // bytes a second, 0 unlimited
	busy func() bool // may be nil

	mu   sync.Mutex
	next time.Time // when what was given out so far is used up
}

// limiterBurst is how far ahead of the rate a job may be.
const limiterBurst = 200 * time.Millisecond

// NewLimiter returns a limiter of bytesPerSecond, 0 or less for none. busy may
// be nil.
func NewLimiter(bytesPerSecond int64, busy func() bool) *Limiter {
	return &Limiter{rate: max(0, bytesPerSecond), busy: busy}
}

// Wait takes n bytes from the budget and returns when they may be moved.
func (l *Limiter) Wait(ctx context.Context, n int64) error {
	if l == nil || l.rate == 0 {
		return ctx.Err()
	}
	cost := time.Duration(float64(n) / float64(l.rate) * float64(time.Second))
	if l.busy != nil && l.busy() {
		cost *= 4
	}
	now := time.Now()
	l.mu.Lock()
	if l.next.Before(now.Add(-limiterBurst)) {
		l.next = now.Add(-limiterBurst)
	}
	l.next = l.next.Add(cost)
	wait := l.next.Sub(now)
	l.mu.Unlock()
	if wait <= 0 {
		return ctx.Err()
	}
	return run.Sleep(ctx, wait)
}
