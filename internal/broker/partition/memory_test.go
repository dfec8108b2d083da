package partition

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

// Room is given in the order of asking and never above the bound; who gives up
// lets the next one through.
func TestRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r room
		r.init(10)
		poked := 0
		poke := func() { poked++ }
		if err := r.wait(t.Context(), 25, poke); err != nil || poked != 0 {
			t.Fatalf("a large one alone: %v, poked %d", err, poked)
		}
		ctx, cancel := context.WithCancel(t.Context())
		order := make(chan int64, 4)
		for _, n := range []int64{9, 2, 3} {
			go func() {
				if err := r.wait(ctx, n, poke); err == nil {
					order <- n
				} else if !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			}()
			synctest.Wait()
		}
		if used, waiting := r.state(); used != 25 || waiting != 3 || len(order) != 0 || poked != 3 {
			t.Fatalf("used %d, %d wait, poked %d", used, waiting, poked)
		}
		r.give(25)
		synctest.Wait()
		if used, waiting := r.state(); used != 9 || waiting != 2 || <-order != 9 {
			t.Fatalf("used %d, %d wait", used, waiting)
		}
		cancel()
		synctest.Wait()
		if used, waiting := r.state(); used != 9 || waiting != 0 {
			t.Fatalf("after giving up: used %d, %d wait", used, waiting)
		}
		drained := make(chan error, 1)
		go func() { drained <- r.empty(context.Background()) }()
		synctest.Wait()
		r.give(9)
		if err := <-drained; err != nil {
			t.Fatal(err)
		}
	})
}

// A chunk is used again when nobody has it any more, and not before.
func TestArena(t *testing.T) {
	a := arena{bytes: 100}
	b1, c1 := a.take(40)
	_, c2 := a.take(50)
	if c1 != c2 || len(b1) != 40 || cap(b1) != 40 {
		t.Fatalf("two small appends lie in different chunks, or share bytes")
	}
	if _, large := a.take(51); large.arena != nil {
		t.Error("a large append takes a chunk")
	}
	_, c3 := a.take(40) // the first chunk is full
	var reader, tail pin
	tail.adopt(c1)
	tail.adopt(c2)
	reader.hold(c1)
	reader.hold(c1)
	tail.release()
	if len(a.free) != 0 {
		t.Fatal("a reader's chunk is free")
	}
	reader.release()
	if len(a.free) != 1 || a.free[0] != c1 {
		t.Fatal("the chunk is not free")
	}
	if _, c4 := a.take(50); c4 != c3 {
		t.Error("the open chunk has room")
	}
	if _, c5 := a.take(50); c5 != c1 {
		t.Error("the free chunk is not used")
	}
	c3.unref(2)
	a.trim()
	a.trim()
	if a.spare() {
		t.Error("free memory stays")
	}
}
