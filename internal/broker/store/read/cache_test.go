package read

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func fill(v byte) func(*cached) error {
	return func(b *cached) error {
		for i := range b.bytes {
			b.bytes[i] = v
		}
		return nil
	}
}

func named(name string, size int) want {
	return want{key: chunkKey{object: name}, size: size, blocks: 1, must: true}
}

func mustGet(t *testing.T, c *cache, name string, size int) (*cached, bool) {
	t.Helper()
	b, hit, err := c.get(context.Background(), named(name, size), fill(name[0]))
	if err != nil || len(b.bytes) != size || b.bytes[0] != name[0] || b.bytes[size-1] != name[0] {
		t.Fatalf("%s: %v", name, err)
	}
	return b, hit
}

func TestCacheIsBounded(t *testing.T) {
	c := newCache(10 * bufferStep)
	for i := range 100 {
		b, hit := mustGet(t, c, fmt.Sprintf("%c%d", 'a'+i%20, i), bufferStep-i)
		if hit {
			t.Errorf("chunk %d was there", i)
		}
		c.touch(b, 0, int64(i))
		c.release(b)
		if c.size+c.free.size > c.max {
			t.Fatalf("%d and %d bytes of %d", c.size, c.free.size, c.max)
		}
	}
	if len(c.chunks) != 10 {
		t.Errorf("%d chunks", len(c.chunks))
	}
	// One chunk larger than everything is served, and nothing else is kept.
	b, _ := mustGet(t, c, "large", 20*bufferStep)
	c.release(b)
	if len(c.chunks) != 1 {
		t.Errorf("%d chunks beside the large one", len(c.chunks)-1)
	}
	// Small ones take what they need.
	for i := range 1000 {
		b, _ := mustGet(t, c, fmt.Sprint("small", i), 500)
		c.release(b)
	}
	if len(c.chunks) != 1000 || c.size != 500*1000 {
		t.Errorf("%d small chunks in %d bytes", len(c.chunks), c.size)
	}
}

// What is in use stays in use, and counts: only who must have something passes
// the bound.
func TestCacheCountsWhatIsUsed(t *testing.T) {
	c := newCache(4 * bufferStep)
	var held []*cached
	for i := range 4 {
		b, _ := mustGet(t, c, fmt.Sprint("x", i), bufferStep)
		held = append(held, b)
	}
	w := named("more", bufferStep)
	w.must = false
	if _, _, err := c.get(context.Background(), w, fill('m')); !errors.Is(err, errNoRoom) {
		t.Error(err)
	}
	b, _ := mustGet(t, c, "must", bufferStep)
	if !b.extra || c.size != 5*bufferStep {
		t.Errorf("extra %v, %d bytes", b.extra, c.size)
	}
	c.release(b)
	for _, b := range held {
		for _, v := range b.bytes {
			if v != 'x' {
				t.Fatal("bytes in use were used again")
			}
		}
		c.release(b)
	}
	if _, _, err := c.get(context.Background(), w, fill('m')); err != nil {
		t.Error(err)
	}
	if c.size+c.free.size > c.max {
		t.Errorf("%d bytes of %d", c.size+c.free.size, c.max)
	}
}

// What several readers use survives a scan, however long; read-ahead does not
// push it out either.
func TestCacheScan(t *testing.T) {
	c := newCache(10 * bufferStep)
	for range 2 { // two readers
		for i := range 4 {
			b, _ := mustGet(t, c, fmt.Sprint("hot", i), bufferStep)
			c.touch(b, 0, 5)
			c.release(b)
		}
	}
	held, _ := mustGet(t, c, "x-held", bufferStep)
	c.touch(held, 0, 1)
	for i := range 500 {
		w := named(fmt.Sprint("scan", i), bufferStep)
		if w.ahead = c.reserve(bufferStep); w.ahead < bufferStep { // read ahead first
			c.unreserve(w.ahead)
			w.ahead = 0
		}
		b, _, err := c.get(context.Background(), w, fill('s'))
		if err != nil {
			t.Fatal(err)
		}
		c.release(b)
		b, _ = mustGet(t, c, fmt.Sprint("scan", i), bufferStep)
		c.touch(b, 0, int64(10*i))
		c.touch(b, 0, int64(10*i+5)) // the same reader goes on
		c.release(b)
	}
	for i := range 4 {
		if _, hit := mustGet(t, c, fmt.Sprint("hot", i), bufferStep); !hit {
			t.Errorf("a scan pushed out %d, which two readers use", i)
		}
	}
	if c.ahead != 0 {
		t.Errorf("%d bytes still count as read ahead", c.ahead)
	}
	for _, v := range held.bytes {
		if v != 'x' {
			t.Fatal("bytes in use were used again")
		}
	}
	c.release(held)
}

// What is read ahead has a bound of its own.
func TestCacheAheadIsBounded(t *testing.T) {
	c := newCache(1 << 20)
	total := int64(0)
	for range 100 {
		total += c.reserve(1 << 20)
	}
	if total != c.max*3/8 {
		t.Errorf("%d bytes of %d", total, c.max)
	}
	c.unreserve(total / 2)
	if c.reserve(1<<20) == 0 {
		t.Error("nothing left for the next reader")
	}
}

func TestCacheLoadsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(1 << 20)
		var loads atomic.Int32
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				b, _, err := c.get(context.Background(), named("a", 100), func(*cached) error {
					loads.Add(1)
					time.Sleep(time.Second)
					return nil
				})
				if err != nil {
					t.Error(err)
					return
				}
				c.release(b)
			})
		}
		wg.Wait()
		if loads.Load() != 1 {
			t.Errorf("%d loads", loads.Load())
		}
	})
}

// The loader gives up because its own context ended; the others go on.
func TestCacheLoaderCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(1 << 20)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			_, _, err := c.get(ctx, named("a", 100), func(*cached) error { <-ctx.Done(); return ctx.Err() })
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			b, _, err := c.get(context.Background(), named("a", 100), fill('z'))
			if err != nil || b.bytes[0] != 'z' {
				t.Error(err)
				return
			}
			c.release(b)
		})
		wg.Wait()
		bad := errors.New("disk")
		if _, _, err := c.get(context.Background(), named("b", 100), func(*cached) error { return bad }); !errors.Is(err, bad) {
			t.Error(err)
		}
		if c.has(chunkKey{object: "b"}) || c.size != int64(roundUp(100)) {
			t.Errorf("a failure was cached; %d bytes", c.size)
		}
	})
}

func TestLRU(t *testing.T) {
	l := newLRU[int, string](10)
	for i := range 5 {
		l.put(i, fmt.Sprint(i), 4)
	}
	if _, ok := l.get(2); ok {
		t.Error("2 is still there")
	}
	if v, ok := l.get(3); !ok || v != "3" {
		t.Error("3 is gone")
	}
	l.put(9, "large", 100)
	if v, ok := l.get(9); !ok || v != "large" || l.order.Len() != 1 {
		t.Error("the newest has to stay")
	}
}
