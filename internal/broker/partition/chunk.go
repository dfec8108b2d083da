package partition

import (
	"sync"
	"sync/atomic"

	"github.com/looptape/looptape/internal/base/pages"
)

// A chunk is a piece of the memory in which the newest batches lie, one after
// the other as they came, whatever their partition. Whoever uses bytes in it
// holds a reference; with the last one the chunk is used again.
type chunk struct {
	mem   []byte
	run   *pages.Run // whose bytes mem is; nil: of its own
	used  int        // guarded by arena.mu while the chunk is open
	refs  atomic.Int32
	arena *arena // nil: made for one append, and not used again
}

func (c *chunk) ref() { c.refs.Add(1) }

// unref gives n references back.
func (c *chunk) unref(n int32) {
	if c.refs.Add(-n) == 0 && c.arena != nil {
		c.arena.put(c)
	}
}

// An arena hands out chunk memory. Fresh memory is dear (its first touch costs
// more than a copy), so chunks are kept and used again, and they lie outside of
// the heap, whose size the collector would double for them. What may be in use at
// a time is bounded by the room that callers have passed before.
type arena struct {
	bytes int // of a chunk

	mu   sync.Mutex
	open *chunk // takes appends; the arena's own reference is in its refs
	free []*chunk
	used int // chunks in use
	peak int // of used, since the last trim
}

// take returns n bytes of a chunk, with a reference to it.
func (a *arena) take(n int) ([]byte, *chunk) {
	if n > a.bytes/2 {
		c := &chunk{mem: make([]byte, n)}
		c.ref()
		return c.mem, c
	}
	a.mu.Lock()
	c := a.open
	var full *chunk
	if c == nil || c.used+n > len(c.mem) {
		full = c
		c = a.next()
	}
	b := c.mem[c.used : c.used+n : c.used+n]
	c.used += n
	c.ref()
	a.mu.Unlock()
	if full != nil {
		full.unref(1)
	}
	return b, c
}

// next opens another chunk. a.mu is held.
func (a *arena) next() *chunk {
	if n := len(a.free); n > 0 { // the last one used may still be in a cache
		a.open, a.free[n-1] = a.free[n-1], nil
		a.free = a.free[:n-1]
	} else {
		run := pages.New(a.bytes)
		a.open = &chunk{mem: run.Bytes, run: run, arena: a}
	}
	a.open.used = 0
	a.open.ref()
	a.used++
	a.peak = max(a.peak, a.used)
	return a.open
}

func (a *arena) put(c *chunk) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.used--
	a.free = append(a.free, c)
}

// trim lets go of free chunks that were not needed since the last trim.
func (a *arena) trim() {
	a.mu.Lock()
	defer a.mu.Unlock()
	keep := min(len(a.free), max(0, a.peak-a.used))
	for _, c := range a.free[keep:] {
		c.mem = nil
		c.run.Free()
	}
	clear(a.free[keep:])
	a.free = a.free[:keep]
	a.peak = a.used
}

// spare tells whether a trim, or two, would let go of something.
func (a *arena) spare() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.free) > 0
}

// A pin is references to chunks, in the order of use; a chunk that comes several
// times in a row is held once.
type pin []*chunk

// hold adds a reference to c; nil is memory of its own.
func (p *pin) hold(c *chunk) {
	if n := len(*p); c == nil || n > 0 && (*p)[n-1] == c {
		return
	}
	c.ref()
	*p = append(*p, c)
}

// adopt takes over a reference to c.
func (p *pin) adopt(c *chunk) {
	if n := len(*p); c == nil {
		return
	} else if n > 0 && (*p)[n-1] == c {
		c.unref(1) // never the last: p has one
		return
	}
	*p = append(*p, c)
}

func (p *pin) release() {
	for _, c := range *p {
		c.unref(1)
	}
	*p = nil
}
