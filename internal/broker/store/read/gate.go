package read

import (
	"context"
	"sync"
)

// A Class says who wants something of the object store. Lower ones go first, and
// each has a share of the places that the classes above it do not fill for it.
type Class int

const (
	Tail       Class = iota // a reader near the end of its partition
	CatchUp                 // one far behind it
	ahead                   // what a reader may want next
	Background              // merging, compaction: nobody waits for it
	classes
)

// A gate bounds the requests to the object store that are under way. Of n places
// catch-up and everything below it hold at most three quarters, what is read
// ahead and everything below it one half, background jobs one quarter; so a
// reader at the tail finds a place whatever the others do. Who has to wait
// enters in the order of classes, within a class in the order of coming.
type gate struct {
	mu      sync.Mutex
	most    [classes]int // that a class and those below it may hold together
	held    [classes]int
	waiting [classes][]chan struct{} // closed to let one in
}

func newGate(n int) *gate {
	return &gate{most: [classes]int{n, max(1, n*3/4), max(1, n/2), max(1, n/4)}}
}

// enter waits for a place. leave gives it back.
func (g *gate) enter(ctx context.Context, c Class) error {
	g.mu.Lock()
	if len(g.waiting[c]) == 0 && g.free(c) {
		g.held[c]++
		g.mu.Unlock()
		return nil
	}
	ch := make(chan struct{})
	g.waiting[c] = append(g.waiting[c], ch)
	g.mu.Unlock()
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, x := range g.waiting[c] {
		if x == ch {
			g.waiting[c] = append(g.waiting[c][:i], g.waiting[c][i+1:]...)
			return ctx.Err()
		}
	}
	g.held[c]-- // let in and given up at the same moment
	g.admit()
	return ctx.Err()
}

func (g *gate) leave(c Class) {
	g.mu.Lock()
	g.held[c]--
	g.admit()
	g.mu.Unlock()
}

// free says whether one more of class c fits. g.mu is held.
func (g *gate) free(c Class) bool {
	all := 0
	for below := classes - 1; below >= 0; below-- {
		all += g.held[below]
		if below <= c && all >= g.most[below] {
			return false
		}
	}
	return true
}

func (g *gate) admit() {
	for c := range classes {
		for len(g.waiting[c]) > 0 && g.free(c) {
			ch := g.waiting[c][0]
			g.waiting[c][0] = nil
			g.waiting[c] = g.waiting[c][1:]
			g.held[c]++
			close(ch)
		}
	}
}
