package metamem

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/looptape/looptape/internal/base/meta"
)

// Grant implements meta.Store.
func (s *Store) Grant(ctx context.Context, ttl time.Duration) (meta.LeaseID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	after, err := s.begin(ctx, Call{Method: "Grant"})
	if err == nil {
		err = s.book.Grant(s.lease+1, ttl)
	}
	if err != nil {
		return 0, fmt.Errorf("grant lease: %w", err)
	}
	s.lease++
	if s.group != nil && !s.running {
		s.running = true
		s.group.Go("meta-leases", func(ctx context.Context) error { return s.book.Run(ctx, s.end) })
	}
	if after != nil {
		return 0, fmt.Errorf("grant lease: %w", after)
	}
	return s.lease, nil
}

// KeepAlive implements meta.Store.
func (s *Store) KeepAlive(ctx context.Context, id meta.LeaseID) (time.Duration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	after, err := s.begin(ctx, Call{Method: "KeepAlive", Lease: id})
	if err != nil {
		return 0, fmt.Errorf("refresh lease: %w", err)
	}
	ttl, ok := s.book.Refresh(id)
	if !ok {
		err = meta.ErrNoLease
	} else if after != nil {
		err = after
	}
	if err != nil {
		return 0, fmt.Errorf("refresh lease: %w", err)
	}
	return ttl, nil
}

// Revoke implements meta.Store.
func (s *Store) Revoke(ctx context.Context, id meta.LeaseID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	after, err := s.begin(ctx, Call{Method: "Revoke", Lease: id})
	if err == nil && !s.book.End(id) {
		err = meta.ErrNoLease
	}
	if err != nil {
		return fmt.Errorf("revoke lease: %w", err)
	}
	s.expire()
	if after != nil {
		return fmt.Errorf("revoke lease: %w", after)
	}
	return nil
}

// Expire ends the lease now, as if nobody had refreshed it; 0: all leases.
func (s *Store) Expire(id meta.LeaseID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id == 0 {
		s.book.EndAll()
	} else {
		s.book.End(id)
	}
	s.expire()
}

// Tick ends the leases whose time has passed by the clock of NewAt. Every call
// does so first; Tick is for when there is none and watchers are to know.
func (s *Store) Tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
}

// end is expire for the goroutine that follows the real clock.
func (s *Store) end(context.Context, meta.LeaseID) error {
	s.Tick()
	return nil
}

// expire deletes the keys of leases whose time has passed, one revision a lease.
// Call with s.mu held.
func (s *Store) expire() {
	if s.closed {
		return
	}
	due := s.book.Due()
	slices.Sort(due)
	for _, id := range due {
		var events []meta.Event
		for key, l := range s.leased {
			if l == id {
				events = append(events, meta.Event{Key: key, ModRev: s.rev + 1, Deleted: true})
			}
		}
		slices.SortFunc(events, func(a, b meta.Event) int {
			if a.Key < b.Key {
				return -1
			}
			return 1
		})
		for _, e := range events {
			delete(s.keys, e.Key)
			delete(s.leased, e.Key)
		}
		if len(events) > 0 {
			s.rev++
			s.feed.Publish(s.rev, events)
		}
		s.book.Forget(id)
	}
}

// Progress implements meta.Store.
func (s *Store) Progress(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	after, err := s.begin(ctx, Call{Method: "Progress"})
	if err != nil {
		return fmt.Errorf("ask for progress: %w", err)
	}
	s.feed.Progress()
	if after != nil {
		return fmt.Errorf("ask for progress: %w", after)
	}
	return nil
}

// Hold makes watches lag: they get nothing until Hold(false).
func (s *Store) Hold(held bool) { s.feed.Hold(held) }

// Break ends the watches there are with err, as a lost connection would.
func (s *Store) Break(err error) { s.feed.Break(err) }
