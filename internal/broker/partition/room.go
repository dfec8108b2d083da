package partition

import (
	"context"
	"slices"
	"sync"
)

// room is the bound of the memory for what is not in objects. Who wants to append
// takes its bytes first, in the order of asking, so that the bound is never passed
// and large appends get their turn. A single append above the bound gets through
// when nothing else is there.
type room struct {
	mu      sync.Mutex
	max     int64
	used    int64
	queue   []*seat         // first come first served
	drained []chan struct{} // closed when used comes to 0
}

// seat is one that waits.
type seat struct {
	n       int64
	granted chan struct{}
}

func (r *room) init(max int64) { r.max = max }

// take takes n bytes whatever the bound: they are there already.
func (r *room) take(n int) {
	r.mu.Lock()
	r.used += int64(n)
	r.mu.Unlock()
}

// give gives n bytes back.
func (r *room) give(n int64) (used int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used -= n
	r.admit()
	return r.used
}

// admit lets in whom there is room for. r.mu is held.
func (r *room) admit() {
	for len(r.queue) > 0 && r.fits(r.queue[0].n) {
		s := r.queue[0]
		r.queue[0] = nil
		r.queue = r.queue[1:]
		r.used += s.n
		close(s.granted)
	}
	if r.used <= 0 {
		for _, c := range r.drained {
			close(c)
		}
		r.drained = nil
	}
}

func (r *room) fits(n int64) bool { return r.used <= 0 || r.used+n <= r.max }

// waited tells whether somebody waits for less to be used.
func (r *room) waited() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.queue)+len(r.drained) > 0
}

func (r *room) state() (used, waiting int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.used, int64(len(r.queue))
}

// wait takes n bytes when there is room; poke is called if it has to wait.
func (r *room) wait(ctx context.Context, n int64, poke func()) error {
	r.mu.Lock()
	if len(r.queue) == 0 && r.fits(n) {
		r.used += n
		r.mu.Unlock()
		return nil
	}
	s := &seat{n, make(chan struct{})}
	r.queue = append(r.queue, s)
	r.mu.Unlock()
	poke()
	select {
	case <-s.granted:
		return nil
	case <-ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if at := slices.Index(r.queue, s); at >= 0 {
		r.queue = slices.Delete(r.queue, at, at+1)
	} else {
		r.used -= n // granted and given up at once
	}
	r.admit() // it may have stood before somebody smaller
	return ctx.Err()
}

// empty waits until nothing is used.
func (r *room) empty(ctx context.Context) error {
	r.mu.Lock()
	if r.used <= 0 {
		r.mu.Unlock()
		return nil
	}
	c := make(chan struct{})
	r.drained = append(r.drained, c)
	r.mu.Unlock()
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// reserve takes room for n bytes of batches in memory and in the log.
func (s *Set) reserve(ctx context.Context, n int) error {
	if err := s.room.wait(ctx, int64(n), s.poke); err != nil {
		return err
	}
	if err := s.log.Reserve(ctx, n+recordHeader); err != nil {
		s.room.give(int64(n))
		return err
	}
	return nil
}

// giveBack returns what reserve took.
func (s *Set) giveBack(n int) {
	s.room.give(int64(n))
	s.log.Return(n + recordHeader)
}
