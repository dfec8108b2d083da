package write

import (
	"context"
	"sync"
	"time"

	"github.com/looptape/looptape/internal/base/blob"
)

// clockSkew is how far the wall clock may be from the store's, or may move
// against the monotonic one between two rounds, before nothing is deleted by it.
const clockSkew = 5 * time.Minute

// clockGuard says whether the wall clock may decide what is old (P18).
type clockGuard struct {
	store blob.Clock // nil: the store has none
	now   func() time.Time

	mu   sync.Mutex
	wall time.Time // at the last look
	mono time.Time // at the same moment, of the runtime's monotonic clock
}

func newClockGuard(store blob.Store, now func() time.Time) *clockGuard {
	g := &clockGuard{now: now}
	if c, ok := blob.As[blob.Clock](store); ok {
		g.store = c
	}
	return g
}

// trusted says that the clock agrees with the store's and has not jumped since
// the last call. The first call of a process only looks.
func (g *clockGuard) trusted(ctx context.Context) (bool, error) {
	wall, mono := g.now(), time.Now()
	g.mu.Lock()
	last, lastMono := g.wall, g.mono
	g.wall, g.mono = wall, mono
	g.mu.Unlock()
	if !last.IsZero() {
		// Round(0) drops the monotonic reading: the wall clock is what is judged.
		if jump := wall.Round(0).Sub(last.Round(0)) - mono.Sub(lastMono); jump > clockSkew || jump < -clockSkew {
			return false, nil
		}
	}
	if g.store == nil {
		return true, nil
	}
	theirs, err := g.store.Now(ctx)
	if err != nil {
		return false, err
	}
	off := wall.Sub(theirs)
	return off <= clockSkew && off >= -clockSkew, nil
}
