package wire

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/base/run"
)

// counts is an Observer that remembers.
type counts struct {
	mu       sync.Mutex
	opened   int
	gone     int
	reasons  map[string]int
	inFlight int64
	requests int
	served   int
}

func (c *counts) locked(fn func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fn()
}
func (c *counts) Opened()         { c.locked(func() { c.opened++ }) }
func (c *counts) Closed(r string) { c.locked(func() { c.reasons[r]++ }) }
func (c *counts) Gone()           { c.locked(func() { c.gone++ }) }
func (c *counts) Read(int)        {}
func (c *counts) Wrote(int)       {}
func (c *counts) InFlight(n int, b int64) {
	c.locked(func() { c.requests += n; c.inFlight += b })
}
func (c *counts) Served(int16, int16, time.Duration, int64) { c.locked(func() { c.served++ }) }

// text is a reply of bytes; it counts its releases.
type text struct {
	b        string
	ref      []byte
	released *sync.Map
	wait     <-chan struct{}
}

func (t *text) AppendTo(out *Out) {
	out.Buf = append(out.Buf, t.b...)
	if t.ref != nil {
		out.Ref(t.ref)
	}
}
func (t *text) Release() {
	if t.released != nil {
		if _, twice := t.released.LoadOrStore(t, true); twice {
			panic("released twice")
		}
	}
}

type slow struct{ *text }

func (s slow) Wait(ctx context.Context) {
	select {
	case <-s.wait:
	case <-ctx.Done():
	}
}

type handlerFunc func(*Request)

func (f handlerFunc) Handle(r *Request) { f(r) }

type server struct {
	*PipeListener
	obs  *counts
	srv  *Server
	stop func() error
}

func serve(t testing.TB, cfg Config, h handlerFunc) *server {
	s := &server{PipeListener: NewPipeListener(), obs: &counts{reasons: map[string]int{}}}
	s.srv = NewServer(cfg, h, s.obs, slog.New(slog.DiscardHandler))
	g := run.New(context.Background())
	g.Go("server", func(ctx context.Context) error { return s.srv.Run(ctx, s.PipeListener) })
	s.stop = sync.OnceValue(func() error { g.Stop(); return g.Wait() })
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Errorf("run: %v", err)
		}
		if s.srv.budget.used != 0 || s.obs.inFlight != 0 || s.obs.requests != 0 {
			t.Errorf("left in flight: budget %d, bytes %d, requests %d", s.srv.budget.used, s.obs.inFlight, s.obs.requests)
		}
		if s.obs.opened != s.obs.gone {
			t.Errorf("%d opened, %d gone", s.obs.opened, s.obs.gone)
		}
	})
	return s
}

func (s *server) dial(t testing.TB) net.Conn {
	c, err := s.Dial(context.Background(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// frame is a Metadata v1 request with a body of n bytes.
func frame(correlation int32, n int) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(8+2+n))
	b = append(b, 0, 3, 0, 1)
	b = binary.BigEndian.AppendUint32(b, uint32(correlation))
	b = append(b, 0xff, 0xff)
	return append(b, bytes.Repeat([]byte{'x'}, n)...)
}

func readReply(c net.Conn) (correlation int32, body string, err error) {
	var size [4]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return 0, "", err
	}
	b := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(c, b); err != nil {
		return 0, "", err
	}
	return int32(binary.BigEndian.Uint32(b)), string(b[4:]), nil
}

func TestRepliesKeepOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var released sync.Map
		s := serve(t, Config{}, func(r *Request) {
			reply := &text{b: fmt.Sprint(r.CorrelationID), released: &released}
			switch r.CorrelationID % 4 {
			case 0:
				r.Respond(reply)
			case 1: // later, from elsewhere
				go func() {
					time.Sleep(time.Duration(20-r.CorrelationID) * time.Millisecond)
					r.Respond(reply)
				}()
			case 2: // a long poll
				ch := make(chan struct{})
				time.AfterFunc(5*time.Millisecond, func() { close(ch) })
				reply.wait = ch
				reply.ref = bytes.Repeat([]byte{'r'}, 1000)
				r.Respond(slow{reply})
			case 3:
				r.Discard()
			}
		})
		c := s.dial(t)
		go func() {
			for i := range int32(20) {
				c.Write(frame(i, int(i)))
			}
		}()
		for i := range int32(20) {
			if i%4 == 3 {
				continue
			}
			got, body, err := readReply(c)
			if err != nil || got != i || !strings.HasPrefix(body, fmt.Sprint(i)) || (i%4 == 2) != (len(body) > 1000) {
				t.Fatalf("reply %d: correlation %d, %d bytes, %v", i, got, len(body), err)
			}
		}
		synctest.Wait()
		n := 0
		released.Range(func(any, any) bool { n++; return true })
		if n != 15 {
			t.Errorf("%d replies released, want 15", n)
		}
	})
}

func TestBadFramesCloseTheirConnectionOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serve(t, Config{MaxFrame: 1 << 20, StallTimeout: 3 * time.Second, IdleTimeout: time.Minute}, func(r *Request) {
			if len(r.Body) == 13 {
				r.Abort()
				return
			}
			r.Respond(&text{b: "ok"})
		})
		witness := s.dial(t)
		for _, test := range []struct {
			reason string
			bytes  []byte
			after  time.Duration
			hangUp bool
		}{
			{reason: reasonLength, bytes: []byte{0xff, 0xff, 0xff, 0xff}},
			{reason: reasonLength, bytes: []byte{0, 0, 0, 7}},
			{reason: reasonLength, bytes: []byte{0, 0x10, 0, 1}},
			{reason: reasonLength, bytes: []byte("GET / HTTP/1.1\r\n\r\n")},
			{reason: reasonHeader, bytes: []byte{0, 0, 0, 8, 0, 120, 0, 0, 0, 0, 0, 0}},
			{reason: reasonHeader, bytes: []byte{0, 0, 0, 10, 0, 3, 0, 0, 0, 0, 0, 0, 0, 9}},
			{reason: reasonHeader, bytes: []byte{0, 0, 0, 14, 0, 3, 0, 9, 0, 0, 0, 0, 0xff, 0xff, 5, 1, 200, 1}},
			{reason: reasonRequest, bytes: frame(1, 13)},
			{reason: reasonStall, bytes: frame(1, 100)[:50], after: 4 * time.Second},
			{reason: reasonStall, bytes: frame(1, 100)[:50], hangUp: true},
			{reason: reasonStall, bytes: []byte{0, 0}, after: 2 * time.Minute},
			{reason: reasonIdle, after: 2 * time.Minute},
			{reason: reasonClient, hangUp: true},
		} {
			before := s.obs.reasons[test.reason]
			c := s.dial(t)
			if len(test.bytes) > 0 {
				go c.Write(test.bytes)
			}
			synctest.Wait()
			for d := time.Duration(0); d < test.after; d += 10 * time.Second {
				time.Sleep(min(test.after, 10*time.Second))
				witness.Write(frame(7, 0)) // it stays awake
				if got, _, err := readReply(witness); err != nil || got != 7 {
					t.Fatalf("the other connection: %d, %v", got, err)
				}
			}
			if test.hangUp {
				c.Close()
			}
			synctest.Wait()
			if got := s.obs.reasons[test.reason]; got != before+1 {
				t.Errorf("%x: reasons %v, want one more %q", test.bytes, s.obs.reasons, test.reason)
			}
			c.Close()
		}
	})
}

func TestLyingLengthAllocatesLittle(t *testing.T) {
	f := framer{src: io.MultiReader(bytes.NewReader([]byte{6, 0, 0, 0, 1, 2, 3})), mem: new(frames), max: 100 << 20}
	n, err := f.begin()
	if err != nil || n != 100<<20-0 && n != 6<<24 {
		t.Fatalf("length %d, %v", n, err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := f.body(n, func() {}, func(int) error { return nil }); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 1<<20 {
		t.Errorf("%d bytes allocated for 3 that came", got)
	}
}

func TestFramesOfAllSizes(t *testing.T) {
	var stream []byte
	sizes := []int{0, 1, 100, 1000, 1023, 1024, 1025, 5000, 64 << 10, 200 << 10, 3, 0, 1 << 20}
	for i, n := range sizes {
		stream = append(stream, frame(int32(i), n)...)
	}
	for _, chunk := range []int{1, 7, 1024, 1 << 20} {
		f := framer{src: &chunked{bytes.NewReader(stream), chunk}, mem: new(frames), max: 2 << 20}
		for i, n := range sizes {
			size, err := f.begin()
			if err != nil {
				t.Fatalf("chunks of %d, frame %d: %v", chunk, i, err)
			}
			b, err := f.body(size, func() {}, func(int) error { return nil })
			if err != nil || !bytes.Equal(b, frame(int32(i), n)[4:]) {
				t.Fatalf("chunks of %d, frame %d: %d bytes, %v", chunk, i, len(b), err)
			}
		}
		if _, err := f.begin(); err != io.EOF {
			t.Fatalf("end: %v", err)
		}
	}
}

type chunked struct {
	io.Reader
	n int
}

func (c *chunked) Read(p []byte) (int, error) { return c.Reader.Read(p[:min(len(p), c.n)]) }

func TestBackPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var held []*Request
		s := serve(t, Config{MaxBytes: 5000, MaxPending: 3}, func(r *Request) {
			mu.Lock()
			held = append(held, r)
			mu.Unlock()
		})
		count := func() int {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return len(held)
		}
		free := func() {
			mu.Lock()
			defer mu.Unlock()
			held[0].Respond(&text{b: "ok"})
			held = held[1:]
		}
		a, b := s.dial(t), s.dial(t)
		for _, c := range []net.Conn{a, b} {
			go io.Copy(io.Discard, c)
		}
		go func() {
			for i := range int32(5) {
				a.Write(frame(i, 10))
			}
		}()
		if got := count(); got != 3 {
			t.Fatalf("%d requests of one connection under way, want 3", got)
		}
		free()
		if got := count(); got != 3 {
			t.Fatalf("%d after one answer, want 3", got)
		}
		go func() {
			b.Write(frame(0, 6000)) // begins below the limit, so it is let in
			b.Write(frame(1, 1000))
		}()
		if got := count(); got != 4 {
			t.Fatalf("%d, want the large one too", got)
		}
		for count() > 0 {
			free()
		}
		if got := count(); got != 0 {
			t.Fatal(got)
		}
		a.Close()
		b.Close()
	})
}

func TestDrainAnswersWhatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var late *Request
		s := serve(t, Config{DrainTimeout: 5 * time.Second}, func(r *Request) {
			switch r.CorrelationID {
			case 1:
				go func() {
					time.Sleep(time.Second)
					r.Respond(&text{b: "late"})
				}()
			case 2:
				r.Respond(slow{&text{b: "poll", wait: make(chan struct{})}})
			case 3:
				late = r // never answered
			}
		})
		idle, c, stuck := s.dial(t), s.dial(t), s.dial(t)
		c.Write(frame(1, 0))
		c.Write(frame(2, 0))
		stuck.Write(frame(3, 0))
		synctest.Wait()
		start := time.Now()
		done := make(chan error, 1)
		go func() { done <- s.stop() }()
		for _, want := range []string{"late", "poll"} {
			if _, body, err := readReply(c); err != nil || body != want {
				t.Fatalf("got %q, %v, want %q", body, err, want)
			}
		}
		if _, err := idle.Read(make([]byte, 1)); err == nil {
			t.Error("an idle connection lives on")
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d != 5*time.Second {
			t.Errorf("stop took %v, want the drain timeout", d)
		}
		late.Respond(&text{b: "too late"})
	})
}

func TestConnectionLimitAndManyIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 10_000
		s := serve(t, Config{MaxConns: n}, func(r *Request) { r.Respond(&text{b: "ok"}) })
		first := s.dial(t)
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for range n - 1 {
			s.dial(t)
		}
		synctest.Wait()
		runtime.GC()
		runtime.ReadMemStats(&after)
		per := int64(after.HeapAlloc+after.StackInuse-before.HeapAlloc-before.StackInuse) / n
		if per > 20<<10 {
			t.Errorf("an idle connection takes %d bytes", per)
		}
		over := s.dial(t)
		if _, err := over.Read(make([]byte, 1)); err == nil {
			t.Error("a connection above the limit was served")
		}
		if s.obs.reasons[reasonLimit] != 1 {
			t.Errorf("reasons: %v", s.obs.reasons)
		}
		first.Write(frame(1, 0))
		if _, body, err := readReply(first); err != nil || body != "ok" {
			t.Errorf("got %q, %v", body, err)
		}
	})
}

func TestOverTCPWithLargeReplies(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	big := bytes.Repeat([]byte("0123456789abcdef"), 300_000) // 4.8 MB
	obs := &counts{reasons: map[string]int{}}
	srv := NewServer(Config{}, handlerFunc(func(r *Request) {
		r.Respond(&text{b: "head", ref: big})
	}), obs, slog.New(slog.DiscardHandler))
	g := run.New(context.Background())
	g.Go("server", func(ctx context.Context) error { return srv.Run(ctx, ln) })
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() {
		for i := range int32(5) {
			c.Write(frame(i, 100))
		}
	}()
	for i := range int32(5) {
		got, body, err := readReply(c)
		if err != nil || got != i || body != "head"+string(big) {
			t.Fatalf("reply %d: %d, %d bytes, %v", i, got, len(body), err)
		}
	}
	g.Stop()
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

func TestHeaders(t *testing.T) {
	for key := range int16(keys) {
		req := kmsg.RequestForKey(key)
		if req == nil {
			continue
		}
		for v := int16(0); v <= req.MaxVersion(); v++ {
			req.SetVersion(v)
			if got := flexible(key, v); got != req.IsFlexible() {
				t.Errorf("%s v%d: flexible %v", kmsg.NameForKey(key), v, got)
			}
			if key == 7 && v == 0 {
				continue // has a header of its own, and is not served
			}
			b := kmsg.NewRequestFormatter(kmsg.FormatterClientID("me")).AppendRequest(nil, req, 99)
			var r Request
			if err := r.parse(b[4:], ""); err != nil || r.Key != key || r.Version != v || r.CorrelationID != 99 || r.ClientID != "me" {
				t.Fatalf("%s v%d: %+v, %v", kmsg.NameForKey(key), v, r, err)
			}
			if body := req.AppendTo(nil); !bytes.Equal(body, r.Body) {
				t.Errorf("%s v%d: body %x, want %x", kmsg.NameForKey(key), v, r.Body, body)
			}
		}
	}
}

// FuzzFrames feeds a stream to the framer and the header decoder.
func FuzzFrames(f *testing.F) {
	f.Add(frame(1, 10), 3)
	f.Add([]byte{0, 0, 0, 14, 0, 3, 0, 9, 0, 0, 0, 0, 0xff, 0xff, 5, 1, 200, 1}, 100)
	f.Fuzz(func(t *testing.T, stream []byte, chunk int) {
		fr := framer{src: &chunked{bytes.NewReader(stream), max(1, chunk%5000)}, mem: new(frames), max: 1 << 20}
		for {
			n, err := fr.begin()
			if err != nil {
				return
			}
			b, err := fr.body(n, func() {}, func(int) error { return nil })
			if err != nil {
				return
			}
			if len(b) != n {
				t.Fatalf("%d bytes of %d", len(b), n)
			}
			var r Request
			if err := r.parse(b, "x"); err == nil && len(r.Body) > len(b) {
				t.Fatal("body larger than its frame")
			}
		}
	})
}
