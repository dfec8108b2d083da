package read

import (
	"context"
	"errors"
	"sync"
)

// cache keeps blocks up to a bound in bytes. It is two lists: a block enters the
// first and moves to the second when a second reader wants it, that is, when it
// is read again from an offset that was already served. So one pass over a large
// partition pushes out only other single passes. The second list is bounded to
// four fifths; what it pushes out goes back to the front of the first.
//
// A block's memory is used again once it is out of the cache and every reader
// has released it. Guarded by one mutex, which is not held while a block loads.
type cache struct {
	mu     sync.Mutex
	max    int64
	size   int64
	hotMax int64
	hot    int64
	once   ring // newest at the front
	many   ring
	blocks map[blockKey]*block
	free   buffers
}

type blockKey struct {
	object string
	pos    int64
}

type block struct {
	key   blockKey
	bytes []byte
	ready chan struct{} // closed when bytes or err are set
	err   error

	// guarded by cache.mu
	refs       int // readers, plus one for the cache
	cached     bool
	hot        bool
	served     int64 // highest offset a reader started from
	touched    bool
	prev, next *block
}

func newCache(max int64) *cache {
	c := &cache{max: max, hotMax: max / 5 * 4, blocks: map[blockKey]*block{}}
	c.once.init()
	c.many.init()
	c.free.max = max / 4
	return c
}

// get returns the block, pinned until release, and whether it was there. If it
// is not, load fills it; others that want it meanwhile wait for the same load,
// and load themselves if the loader gave up because its own context ended.
func (c *cache) get(ctx context.Context, key blockKey, size int, load func([]byte) error) (*block, bool, error) {
	for {
		c.mu.Lock()
		b, ok := c.blocks[key]
		if !ok {
			return c.load(key, size, load)
		}
		b.refs++
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
		if !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
			return nil, false, err
		}
		if ctx.Err() != nil {
			return nil, false, ctx.Err()
		}
	}
}

// load is called with c.mu held and gives it back.
func (c *cache) load(key blockKey, size int, load func([]byte) error) (*block, bool, error) {
	b := &block{key: key, ready: make(chan struct{}), refs: 2, cached: true, served: -1}
	b.bytes = c.free.take(size)
	c.blocks[key] = b
	c.once.pushFront(b)
	c.size += int64(cap(b.bytes))
	c.shrink(b)
	c.mu.Unlock()
	if b.bytes == nil {
		fresh := make([]byte, size, roundUp(size))
		c.mu.Lock()
		b.bytes = fresh
		if b.cached {
			c.size += int64(cap(b.bytes))
			c.shrink(b)
		}
		c.mu.Unlock()
	}
	b.err = load(b.bytes)
	if b.err != nil {
		c.mu.Lock()
		if b.cached {
			c.drop(b)
			c.unref(b)
		}
		c.mu.Unlock()
	}
	close(b.ready)
	if b.err != nil {
		c.release(b)
		return nil, false, b.err
	}
	return b, false, nil
}

// has says whether the block is cached or loading.
func (c *cache) has(key blockKey) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.blocks[key]
	return ok
}

// touch notes that a reader at offset uses the block.
func (c *cache) touch(b *block, offset int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	again := b.touched && offset <= b.served
	b.touched, b.served = true, max(b.served, offset)
	if !b.cached {
		return
	}
	b.unlink()
	if again && !b.hot {
		b.hot = true
		c.hot += int64(cap(b.bytes))
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
		c.hot -= int64(cap(old.bytes))
		c.once.pushFront(old)
	}
}

// shrink evicts down to the bound, but never keep itself.
func (c *cache) shrink(keep *block) {
	for c.size > c.max {
		old := c.once.back()
		if old == nil || old == keep && c.once.front() == keep {
			old = c.many.back()
		} else if old == keep {
			old = keep.prev
		}
		if old == nil || old == keep {
			return
		}
		c.drop(old)
		c.unref(old)
	}
}

// drop takes the block out of the cache; its reference is the caller's to give back.
func (c *cache) drop(b *block) {
	b.unlink()
	b.cached = false
	delete(c.blocks, b.key)
	c.size -= int64(cap(b.bytes))
	if b.hot {
		c.hot -= int64(cap(b.bytes))
	}
}

func (c *cache) unref(b *block) {
	b.refs--
	if b.refs == 0 {
		c.free.put(b.bytes)
		b.bytes = nil
	}
}

// release gives back a pin.
func (c *cache) release(b *block) {
	c.mu.Lock()
	c.unref(b)
	c.mu.Unlock()
}

// ring is a list with a sentinel.
type ring struct{ root block }

func (l *ring) init() { l.root.prev, l.root.next = &l.root, &l.root }
func (l *ring) pushFront(b *block) {
	b.prev, b.next = &l.root, l.root.next
	b.prev.next, b.next.prev = b, b
}
func (l *ring) front() *block { return l.at(l.root.next) }
func (l *ring) back() *block  { return l.at(l.root.prev) }
func (l *ring) at(b *block) *block {
	if b == &l.root {
		return nil
	}
	return b
}
func (b *block) unlink() {
	b.prev.next, b.next.prev = b.next, b.prev
	b.prev, b.next = nil, nil
}

// buffers keeps memory for the next blocks: touching fresh pages costs more than
// reading into used ones.
type buffers struct {
	max, size int64
	free      [][]byte
}

const bufferStep = 64 << 10

func roundUp(n int) int { return (n + bufferStep - 1) / bufferStep * bufferStep }

// take returns a buffer of n bytes that wastes at most half, or nil.
func (f *buffers) take(n int) []byte {
	for i := len(f.free) - 1; i >= 0; i-- {
		if b := f.free[i]; cap(b) >= n && cap(b) <= 2*roundUp(n) {
			last := len(f.free) - 1
			f.free[i], f.free[last] = f.free[last], nil
			f.free = f.free[:last]
			f.size -= int64(cap(b))
			return b[:n]
		}
	}
	return nil
}

func (f *buffers) put(b []byte) {
	if cap(b) == 0 || f.size+int64(cap(b)) > f.max {
		return
	}
	f.size += int64(cap(b))
	f.free = append(f.free, b)
}
