package partition

import (
	"context"
	"sync"
)

// room is the gate before the memory for what is not in objects. It is passed
// while less than max is used, so it can be overshot by what passes together;
// passing it reserves nothing.
type room struct {
	mu      sync.Mutex
	max     int64
	used    int64
	waiting int64
	changed chan struct{} // closed and replaced when used falls
}

func (r *room) init(max int64) { r.max, r.changed = max, make(chan struct{}) }

func (r *room) take(n int) {
	r.mu.Lock()
	r.used += int64(n)
	r.mu.Unlock()
}

func (r *room) give(n int64) (used int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used -= n
	if r.waiting > 0 {
		close(r.changed)
		r.changed = make(chan struct{})
	}
	return r.used
}

func (r *room) waited() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.waiting > 0
}

func (r *room) state() (used, waiting int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.used, r.waiting
}

// wait passes the gate; poke is called before each wait.
func (r *room) wait(ctx context.Context, poke func()) error {
	r.mu.Lock()
	for r.used >= r.max {
		r.waiting++
		changed := r.changed
		r.mu.Unlock()
		poke()
		var err error
		select {
		case <-changed:
		case <-ctx.Done():
			err = ctx.Err()
		}
		r.mu.Lock()
		r.waiting--
		if err != nil {
			r.mu.Unlock()
			return err
		}
	}
	r.mu.Unlock()
	return nil
}

// empty waits until nothing is used.
func (r *room) empty(ctx context.Context) error {
	for {
		r.mu.Lock()
		used, changed := r.used, r.changed
		if used > 0 {
			r.waiting++
		}
		r.mu.Unlock()
		if used <= 0 {
			return nil
		}
		var err error
		select {
		case <-changed:
		case <-ctx.Done():
			err = ctx.Err()
		}
		r.mu.Lock()
		r.waiting--
		r.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// reserve waits for room in memory and in the log.
func (s *Set) reserve(ctx context.Context, n int) error {
	if err := s.room.wait(ctx, s.poke); err != nil {
		return err
	}
	return s.log.Reserve(ctx, n+recordHeader)
}
