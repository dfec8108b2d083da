package read

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/looptape/looptape/internal/base/pages"
)

// cache keeps chunks up to a bound in bytes: what it holds, what it no longer
// holds but answers still use, and what lies ready to be used again. Only a
// reader that has nothing yet may pass the bound, by one chunk (get's must).
//
// It is two lists: a chunk enters the first and moves to the second when a second
// reader wants it, that is, when a block of it is read again from an offset that
// was already served. So one pass over a large partition pushes out only other
// single passes. The second list is bounded to one half; what it pushes out goes
// back to the front of the first.
//
// Chunks lie outside of the heap. Whoever has one pinned may use its bytes, and
// nobody may after release.
//
// Guarded by one mutex, which is not held while a chunk loads.
type cache struct {
	mu     sync.Mutex
	max    int64
	size   int64 // of chunks, in the lists or in use
	hotMax int64
	hot    int64
	ahead  int64 // of chunks read for a reader that has not come yet, or asked for
	pinned int64 // of chunks that readers or answers use
	once   ring  // newest at the front
	many   ring
	chunks map[chunkKey]*cached
	free   buffers
}

type chunkKey struct {
	object string
	pos    int64
}

// cached is a chunk in the cache or in use.
type cached struct {
	key    chunkKey
	bytes  []byte // of memory
	memory *pages.Run
	ready  chan struct{} // closed when bytes or err are set
	err    error
	bad    []error // of its blocks, nil when all are well
	extra  bool    // beyond the bound: give it back soon

	// guarded by cache.mu
	users      int // readers and answers
	weight     int64
	ahead      int64 // bytes counted in cache.ahead: it is still waited for
	loaded     time.Time
	listed     bool
	hot        bool
	served     []int64 // of each block the highest offset a reader started from, plus 1
	prev, next *cached
}

// errNoRoom says that everything in the cache is in use.
var errNoRoom = errors.New("memory for blocks is in use")

func newCache(max int64) *cache {
	c := &cache{max: max, hotMax: max / 2, chunks: map[chunkKey]*cached{}}
	c.once.init()
	c.many.init()
	c.free.max = max / 4
	return c
}

// want is what get is asked for.
type want struct {
	key    chunkKey
	size   int
	blocks int
	must   bool  // rather pass the bound than fail with errNoRoom
	ahead  int64 // for a reader that comes later: bytes already counted in cache.ahead
}

// get returns the chunk, pinned until release, and whether it was there. If it
// is not, load fills it; others that want it meanwhile wait for the same load,
// and load themselves if the loader gave up because its own context ended.
func (c *cache) get(ctx context.Context, w want, load func(*cached) error) (*cached, bool, error) {
	for {
		c.mu.Lock()
		b, ok := c.chunks[w.key]
		if !ok {
			return c.load(w, load)
		}
		c.pin(b)
		c.ahead -= w.ahead // it is there, so nothing was read ahead
		if w.ahead == 0 {
			c.arrived(b)
		}
		w.ahead = 0
		c.mu.Unlock()
		hit := true
		select {
		case <-b.ready:
		default:
			hit = false
			select {
			case <-b.ready:
			case <-ctx.Done():
				c.release(b)
				return nil, false, ctx.Err()
			}
		}
		if b.err == nil {
			return b, hit, nil
		}
		err := b.err
		c.release(b)
		if !givenUp(err) {
			return nil, false, err
		}
		if ctx.Err() != nil {
			return nil, false, ctx.Err()
		}
	}
}

// arrived says that a reader got to a chunk that was read ahead. c.mu is held.
func (c *cache) arrived(b *cached) {
	c.ahead -= b.ahead
	b.ahead = 0
}

// load is called with c.mu held and gives it back.
func (c *cache) load(w want, load func(*cached) error) (*cached, bool, error) {
	buf, ok := c.room(w.size)
	if !ok && !w.must {
		c.ahead -= w.ahead
		c.mu.Unlock()
		return nil, false, errNoRoom
	}
	b := &cached{key: w.key, ready: make(chan struct{}), listed: true, ahead: w.ahead, extra: !ok, loaded: time.Now(), served: make([]int64, w.blocks)}
	b.weight = int64(roundUp(w.size))
	if buf != nil {
		b.weight = int64(len(buf.Bytes))
	}
	c.chunks[w.key] = b
	c.once.pushFront(b)
	c.size += b.weight
	c.pin(b)
	c.mu.Unlock()
	if buf == nil {
		buf = pages.New(roundUp(w.size))
	}
	b.memory, b.bytes = buf, buf.Bytes[:w.size]
	if b.err = load(b); b.err != nil {
		c.forget(b)
	}
	close(b.ready)
	if b.err != nil {
		c.release(b)
		return nil, false, b.err
	}
	return b, false, nil
}

// forget takes a chunk out of the cache, if it is there.
func (c *cache) forget(b *cached) {
	c.mu.Lock()
	if b.listed {
		c.drop(b)
	}
	c.mu.Unlock()
}

// has says whether the chunk is there or being loaded.
func (c *cache) has(key chunkKey) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.chunks[key]
	return ok
}

// peek returns the chunk, pinned, if it is there and loaded.
func (c *cache) peek(key chunkKey) *cached {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.chunks[key]
	if b == nil {
		return nil
	}
	select {
	case <-b.ready:
	default:
		return nil
	}
	if b.err != nil {
		return nil
	}
	c.arrived(b)
	c.pin(b)
	return b
}

// crowded says that answers use so much that each should be content with little.
func (c *cache) crowded() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pinned > c.max/2
}

// mostAhead is what may be read ahead for all readers together.
func (c *cache) mostAhead() int64 { return c.max * 3 / 8 }

// reserve takes up to n bytes of it.
func (c *cache) reserve(n int64) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	most := c.mostAhead()
	for b := c.once.root.prev; b != &c.once.root && c.ahead+n > most; {
		old := b
		if b = b.prev; old.ahead > 0 && old.users == 0 && time.Since(old.loaded) > stale {
			c.drop(old) // its reader went away
		}
	}
	n = min(n, most-c.ahead)
	if n <= 0 {
		return 0
	}
	c.ahead += n
	return n
}

func (c *cache) unreserve(n int64) {
	c.mu.Lock()
	c.ahead -= n
	c.mu.Unlock()
}

// touch notes that a reader at offset uses a block of the chunk.
func (c *cache) touch(b *cached, block int, offset int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	again := offset < b.served[block]
	b.served[block] = max(b.served[block], offset+1)
	if !b.listed {
		return
	}
	b.unlink()
	if again && !b.hot {
		b.hot = true
		c.hot += b.weight
	}
	if !b.hot {
		c.once.pushFront(b)
		return
	}
	c.many.pushFront(b)
	for c.hot > c.hotMax {
		old := c.many.back()
		old.unlink()
		old.hot = false
		c.hot -= old.weight
		c.once.pushFront(old)
	}
}

// room makes room for n bytes and may return memory to be used again. It gives
// up chunks that nobody uses, oldest first. c.mu is held.
func (c *cache) room(n int) (buf *pages.Run, ok bool) {
	need := int64(roundUp(n))
	for {
		if buf := c.free.take(n); buf != nil {
			return buf, true
		}
		if c.size+c.free.size+need <= c.max {
			return nil, true
		}
		if c.free.shrink() {
			continue // of no use for this one
		}
		victim := c.victim()
		if victim == nil {
			return nil, false
		}
		c.drop(victim)
	}
}

// stale is how long a chunk that was read for somebody is kept for him.
const stale = 5 * time.Second

// victim is the chunk to give up next: the oldest that no answer uses, those that
// were read for somebody who has not come yet after all others.
func (c *cache) victim() *cached {
	var waited *cached
	for b := c.once.root.prev; b != &c.once.root; b = b.prev {
		switch {
		case b.users > 0:
		case b.ahead == 0 || time.Since(b.loaded) > stale:
			return b
		case waited == nil:
			waited = b
		}
	}
	for b := c.many.root.prev; b != &c.many.root; b = b.prev {
		if b.users == 0 {
			return b
		}
	}
	return waited
}

// drop takes a chunk out of the lists.
func (c *cache) drop(b *cached) {
	b.unlink()
	b.listed = false
	delete(c.chunks, b.key)
	c.arrived(b)
	if b.hot {
		c.hot -= b.weight
	}
	c.reuse(b)
}

// pin keeps a chunk's memory until release. c.mu is held.
func (c *cache) pin(b *cached) {
	if b.users++; b.users == 1 {
		c.pinned += b.weight
	}
}

// release gives back a pin.
func (c *cache) release(b *cached) {
	c.mu.Lock()
	if b.users--; b.users == 0 {
		c.pinned -= b.weight
		c.reuse(b)
	}
	c.mu.Unlock()
}

// reuse takes a chunk's memory for the next one if nobody has it any more.
func (c *cache) reuse(b *cached) {
	if b.listed || b.users > 0 {
		return
	}
	c.size -= b.weight
	if b.memory != nil && (c.size+c.free.size+b.weight > c.max || !c.free.put(b.memory)) {
		b.memory.Free()
	}
	b.bytes, b.memory = nil, nil
}

// ring is a list with a sentinel.
type ring struct{ root cached }

func (l *ring) init() { l.root.prev, l.root.next = &l.root, &l.root }
func (l *ring) pushFront(b *cached) {
	b.prev, b.next = &l.root, l.root.next
	b.prev.next, b.next.prev = b, b
}
func (l *ring) back() *cached {
	if b := l.root.prev; b != &l.root {
		return b
	}
	return nil
}

func (b *cached) unlink() {
	b.prev.next, b.next.prev = b.next, b.prev
	b.prev, b.next = nil, nil
}

// buffers keeps memory for the next chunks: touching fresh pages costs more than
// reading into used ones.
type buffers struct {
	max, size int64
	free      []*pages.Run // oldest first
}

// bufferStep is the unit of memory of all but small chunks, which are not kept.
const bufferStep = 64 << 10

// small says that a buffer of n bytes is not worth keeping.
func small(n int) bool { return n <= bufferStep/2 }

func roundUp(n int) int {
	if small(n) {
		return n
	}
	return (n + bufferStep - 1) / bufferStep * bufferStep
}

// take returns a buffer for n bytes that wastes at most half, or nil.
func (f *buffers) take(n int) *pages.Run {
	if small(n) {
		return nil
	}
	for i := len(f.free) - 1; i >= 0; i-- {
		if b := f.free[i]; len(b.Bytes) >= n && len(b.Bytes) <= 2*roundUp(n) {
			f.free = append(f.free[:i], f.free[i+1:]...)
			f.size -= int64(len(b.Bytes))
			return b
		}
	}
	return nil
}

// put keeps a buffer if there is room.
func (f *buffers) put(b *pages.Run) bool {
	n := int64(len(b.Bytes))
	if small(int(n)) || f.size+n > f.max {
		return false
	}
	f.size += n
	f.free = append(f.free, b)
	return true
}

// shrink lets the oldest buffer go, if there is one.
func (f *buffers) shrink() bool {
	if len(f.free) == 0 {
		return false
	}
	f.size -= int64(len(f.free[0].Bytes))
	f.free[0].Free()
	f.free[0] = nil
	f.free = f.free[1:]
	return true
}
