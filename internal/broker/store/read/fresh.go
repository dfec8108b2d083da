package read

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/looptape/looptape/internal/base/blob"
)

// errHole says that no object has the records at an offset.
var errHole = errors.New("no object holds the records")

// retries is how often a read looks again after the index was stale, and
// refreshPause the least time between two readings of the whole catalog, so that
// many readers of something lost cost no more than one.
const (
	retries      = 3
	refreshPause = 100 * time.Millisecond
)

// freshness counts the readings of the catalog, so that readers that all found
// the index stale share one.
type freshness struct {
	count atomic.Int64
	busy  chan struct{} // holds a token while nobody refreshes
	last  time.Time     // of who has the token
}

func (f *freshness) init() {
	f.busy = make(chan struct{}, 1)
	f.busy <- struct{}{}
}

// look calls fn, and again at a newer revision of the catalog as long as fn finds
// an object gone or a range without one (trap 13). fn must begin with a look into
// the catalog.
func (r *Reader) look(ctx context.Context, fn func() error) error {
	for try := 0; ; try++ {
		seen := r.fresh.count.Load()
		err := fn()
		if !errors.Is(err, blob.ErrNotFound) && !errors.Is(err, errHole) {
			return err
		}
		if try == retries || try > 0 && errors.Is(err, errHole) {
			return fmt.Errorf("%w: %w", ErrLost, err) // a hole in a fresh index is one
		}
		// Merged or retired since the index was read: what holds the range now?
		r.stats.stale.Add(1)
		if err := r.refresh(ctx, seen); err != nil {
			return err
		}
	}
}

// refresh reads the catalog anew unless that was done since seen.
func (r *Reader) refresh(ctx context.Context, seen int64) error {
	select {
	case <-r.fresh.busy:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { r.fresh.busy <- struct{}{} }()
	if r.fresh.count.Load() != seen {
		return nil
	}
	if pause := refreshPause - time.Since(r.fresh.last); pause > 0 {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := r.catalog.Refresh(ctx); err != nil {
		return err
	}
	r.fresh.last = time.Now()
	r.fresh.count.Add(1)
	return nil
}
