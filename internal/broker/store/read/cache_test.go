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

func fill(b byte) func([]byte) error {
	return func(dst []byte) error {
		for i := range dst {
			dst[i] = b
		}
		return nil
	}
}

func mustGet(t *testing.T, c *cache, name string, size int) (*block, bool) {
	t.Helper()
	b, hit, err := c.get(context.Background(), blockKey{object: name}, size, fill(name[0]))
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
			t.Errorf("block %d was there", i)
		}
		c.touch(b, int64(i))
		c.release(b)
		if c.size > c.max {
			t.Fatalf("%d bytes of %d", c.size, c.max)
		}
	}
	if len(c.blocks) != 10 || c.free.size == 0 {
		t.Errorf("%d blocks, %d bytes to use again", len(c.blocks), c.free.size)
	}
	// One block larger than everything is served, and nothing else is kept.
	b, _ := mustGet(t, c, "large", 20*bufferStep)
	c.release(b)
	if len(c.blocks) != 1 {
		t.Errorf("%d blocks beside the large one", len(c.blocks)-1)
	}
}

// What several readers use survives a scan; evicted bytes stay with who has them.
func TestCacheScan(t *testing.T) {
	c := newCache(10 * bufferStep)
	for range 2 { // two readers
		b, _ := mustGet(t, c, "hot", bufferStep)
		c.touch(b, 5)
		c.release(b)
	}
	held, _ := mustGet(t, c, "x-held", bufferStep)
	c.touch(held, 1)
	for i := range 50 {
		b, _ := mustGet(t, c, fmt.Sprint("scan", i), bufferStep)
		c.touch(b, int64(10*i))
		c.touch(b, int64(10*i+5)) // the same reader goes on
		c.release(b)
	}
	if _, hit := mustGet(t, c, "hot", bufferStep); !hit {
		t.Error("a scan pushed out what two readers use")
	}
	if c.has(held.key) {
		t.Error("the scan did not push out what one reader used")
	}
	for _, v := range held.bytes {
		if v != 'x' {
			t.Fatal("bytes in use were used again")
		}
	}
	c.release(held)
}

func TestCacheLoadsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(1 << 20)
		var loads atomic.Int32
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				b, _, err := c.get(context.Background(), blockKey{object: "a"}, 100, func(dst []byte) error {
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
			_, _, err := c.get(ctx, blockKey{object: "a"}, 100, func([]byte) error { <-ctx.Done(); return ctx.Err() })
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			b, _, err := c.get(context.Background(), blockKey{object: "a"}, 100, fill('z'))
			if err != nil || b.bytes[0] != 'z' {
				t.Error(err)
				return
			}
			c.release(b)
		})
		wg.Wait()
		bad := errors.New("disk")
		if _, _, err := c.get(context.Background(), blockKey{object: "b"}, 100, func([]byte) error { return bad }); !errors.Is(err, bad) {
			t.Error(err)
		}
		if c.has(blockKey{object: "b"}) {
			t.Error("a failure was cached")
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
