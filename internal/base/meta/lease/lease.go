// Package lease keeps the time of leases in memory. It is the part of a
// meta.Store's leases that does not depend on where the keys are kept.
//
// A Book knows which leases live and when each ends. A lease whose time has
// passed is gone for its keeper at once, even if the store has not yet deleted
// its keys; Run tells the store of each. A process that ends forgets its book, so
// a store that outlives it ends all leases when it is opened.
package lease

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/looptape/looptape/internal/base/meta"
)

// A Book is the leases of one store. Use New.
type Book struct {
	now func() time.Time

	mu      sync.Mutex
	leases  map[meta.LeaseID]entry
	changed chan struct{} // closed and replaced when an end may come earlier
}

type entry struct {
	ttl time.Duration
	end time.Time
}

// New returns an empty book on the clock.
func New(now func() time.Time) *Book {
	return &Book{now: now, leases: map[meta.LeaseID]entry{}, changed: make(chan struct{})}
}

// Grant enters a lease. meta.ErrInvalid: it would not live.
func (b *Book) Grant(id meta.LeaseID, ttl time.Duration) error {
	if ttl <= 0 {
		return fmt.Errorf("%w: a lease of %v", meta.ErrInvalid, ttl)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.leases[id] = entry{ttl, b.now().Add(ttl)}
	close(b.changed)
	b.changed = make(chan struct{})
	return nil
}

// Refresh begins the lease's time anew and returns it; false: it is gone.
func (b *Book) Refresh(id meta.LeaseID) (time.Duration, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.alive(id) {
		return 0, false
	}
	e := b.leases[id]
	e.end = b.now().Add(e.ttl)
	b.leases[id] = e
	return e.ttl, true
}

// Alive tells whether the lease's time has not passed.
func (b *Book) Alive(id meta.LeaseID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.alive(id)
}

func (b *Book) alive(id meta.LeaseID) bool {
	e, ok := b.leases[id]
	return ok && b.now().Before(e.end)
}

// End makes the lease's time pass now; false: there is none or it has.
func (b *Book) End(id meta.LeaseID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.alive(id) {
		return false
	}
	e := b.leases[id]
	e.end = b.now()
	b.leases[id] = e
	close(b.changed)
	b.changed = make(chan struct{})
	return true
}

// EndAll makes every lease's time pass now.
func (b *Book) EndAll() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, e := range b.leases {
		e.end = b.now()
		b.leases[id] = e
	}
	close(b.changed)
	b.changed = make(chan struct{})
}

// Due returns the leases whose time has passed and that were not forgotten, in no
// order.
func (b *Book) Due() []meta.LeaseID {
	b.mu.Lock()
	defer b.mu.Unlock()
	var ids []meta.LeaseID
	for id := range b.leases {
		if !b.alive(id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// Forget removes a lease whose keys are deleted.
func (b *Book) Forget(id meta.LeaseID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.leases, id)
}

// Run calls end, which deletes a lease's keys and forgets it, for each lease soon
// after its time has passed, until ctx ends or end fails. The clock has to be the
// real one.
func (b *Book) Run(ctx context.Context, end func(context.Context, meta.LeaseID) error) error {
	for {
		for _, id := range b.Due() {
			if err := end(ctx, id); err != nil {
				return err
			}
		}
		wait, changed := b.next()
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-changed:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		timer.Stop()
	}
}

// idle is how long Run waits when there is no lease; Grant wakes it.
const idle = 24 * time.Hour

func (b *Book) next() (time.Duration, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	wait, now := idle, b.now()
	for _, e := range b.leases {
		wait = min(wait, e.end.Sub(now))
	}
	return max(wait, 0), b.changed
}
