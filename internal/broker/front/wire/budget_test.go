package wire

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Connections that announce more than there is, send a little and stop, must not
// take the room of those that really send.
func TestLyingLengthsTakeNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serve(t, Config{MaxBytes: 1 << 20, StallTimeout: 30 * time.Second}, func(r *Request) { r.Respond(&text{b: "ok"}) })
		for range 100 {
			c := s.dial(t)
			go c.Write(frame(1, 50<<20)[:100])
		}
		synctest.Wait()
		honest := s.dial(t)
		began := time.Now()
		go honest.Write(frame(7, 100_000))
		if got, _, err := readReply(honest); err != nil || got != 7 {
			t.Fatalf("the honest one: %d, %v", got, err)
		}
		if waited := time.Since(began); waited != 0 {
			t.Errorf("the honest one waited %s", waited)
		}
		time.Sleep(31 * time.Second)
		synctest.Wait()
		if s.obs.reasons[reasonStall] != 100 {
			t.Errorf("reasons: %v", s.obs.reasons)
		}
	})
}

// Large frames that are sent by half hold their room until they are given up;
// small requests go on meanwhile.
func TestSmallFramesPassHalfSentOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serve(t, Config{MaxBytes: 8 << 20, StallTimeout: 30 * time.Second}, func(r *Request) { r.Respond(&text{b: "ok"}) })
		for range 20 {
			c := s.dial(t)
			go c.Write(frame(1, 4<<20)[:2<<20])
		}
		synctest.Wait()
		honest := s.dial(t)
		began := time.Now()
		go honest.Write(frame(7, 1000))
		if got, _, err := readReply(honest); err != nil || got != 7 {
			t.Fatalf("the small one: %d, %v", got, err)
		}
		if waited := time.Since(began); waited != 0 {
			t.Errorf("the small one waited %s", waited)
		}
	})
}

// Frames that are larger together than the budget all come through, one after
// the other, and never does more than one pass the limit.
func TestHalfReadFramesNeverBlockEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit, size, n = 64 << 10, 60 << 10, 10
		var most atomic.Int64
		var s *server
		s = serve(t, Config{MaxBytes: limit, StallTimeout: time.Hour}, func(r *Request) {
			s.srv.budget.mu.Lock()
			most.Store(max(most.Load(), s.srv.budget.used))
			s.srv.budget.mu.Unlock()
			r.Respond(&text{b: "ok"})
		})
		var wg sync.WaitGroup
		for i := range int32(n) {
			c := s.dial(t)
			wg.Go(func() {
				b := frame(i, size)
				wg.Go(func() {
					for len(b) > 0 { // all of them side by side
						k, err := c.Write(b[:min(len(b), 1000)])
						if err != nil {
							return
						}
						b = b[k:]
						time.Sleep(time.Millisecond)
					}
				})
				if got, _, err := readReply(c); err != nil || got != i {
					t.Errorf("frame %d: %d, %v", i, got, err)
				}
			})
		}
		wg.Wait()
		// Whoever was let in below the limit may take one step across it, at most
		// half a frame; and the elder its whole frame.
		if most.Load() > limit+size+size/2 {
			t.Errorf("%d bytes at most, the limit is %d and a frame has %d", most.Load(), limit, size)
		}
	})
}

// A frame that trickles in while others wait for its room loses its connection,
// and so do those that waited too long; then there is room again.
func TestTricklingFramesEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serve(t, Config{MaxBytes: 64 << 10, StallTimeout: 10 * time.Second}, func(r *Request) { r.Respond(&text{b: "ok"}) })
		for i := range int32(20) {
			c := s.dial(t)
			go io.Copy(io.Discard, c)
			go trickle(c, frame(i, 1<<20))
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := s.obs.reasons[reasonStall] + s.obs.reasons[reasonNoRoom]; got != 20 {
			t.Errorf("reasons %v, want 20 of stall and no-room", s.obs.reasons)
		}
		c := s.dial(t)
		go c.Write(frame(7, 100))
		if got, _, err := readReply(c); err != nil || got != 7 {
			t.Errorf("after them: %d, %v", got, err)
		}
	})
}

// trickle writes the beginning at once and then a byte now and then.
func trickle(c net.Conn, b []byte) {
	k, err := c.Write(b[:10_000])
	for err == nil {
		time.Sleep(5 * time.Second)
		_, err = c.Write(b[k : k+1])
		k++
	}
}
