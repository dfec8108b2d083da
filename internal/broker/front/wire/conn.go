package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/looptape/looptape/internal/base/run"
)

// A conn is one connection. Its goroutine reads and handles; replies that are
// ready by then are written there too. A second goroutine writes while replies
// are outstanding, and ends with the last of them.
type conn struct {
	srv     *Server
	nc      net.Conn
	frames  framer
	ctx     context.Context // ends with the connection
	cancel  context.CancelFunc
	waitCtx context.Context // ends with the connection or when it drains
	stopW   context.CancelFunc
	client  string // client id of the last request

	draining atomic.Bool
	wake     chan struct{} // the first request of the queue got its reply
	room     chan struct{} // the queue got shorter

	mu      sync.Mutex // guards the rest
	queue   []*Request // in request order
	bytes   int64      // charged by queue
	writing bool       // somebody writes: out is theirs
	waiting *Request   // a long poll that the writer is in
	closed  bool
	reason  string

	out  Out         // of who set writing
	bufs net.Buffers // scratch of out
	step net.Buffers // scratch of send
	sent []*Request  // in out, not yet on the wire
}

func newConn(s *Server, nc net.Conn) *conn {
	c := &conn{srv: s, nc: nc, wake: make(chan struct{}, 1), room: make(chan struct{}, 1)}
	c.frames = framer{src: countingReader{nc, s.obs}, mem: &s.frames, max: s.cfg.MaxFrame}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.waitCtx, c.stopW = context.WithCancel(c.ctx)
	return c
}

type countingReader struct {
	io.Reader
	obs Observer
}

func (r countingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if n > 0 {
		r.obs.Read(n)
	}
	return n, err
}

// serve reads and handles requests until the connection ends.
func (c *conn) serve(ctx context.Context, group *run.Group) {
	stop := context.AfterFunc(ctx, func() { c.close(reasonDrain) })
	defer stop()
	defer c.srv.remove(c)
	for {
		if err := c.waitRoom(); err != nil {
			break
		}
		frame, err := c.read()
		if err != nil {
			if c.draining.Load() && (errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.Canceled)) {
				c.finish()
				c.close(reasonDrain)
			} else {
				c.close(reasonOf(err))
			}
			break
		}
		r := &Request{conn: c, Arrived: time.Now(), frame: frame, size: int64(len(frame))}
		if err := r.parse(frame, c.client); err != nil {
			c.srv.room(r.size).free(r.size)
			c.close(reasonHeader)
			break
		}
		c.client = r.ClientID
		if !c.push(r) {
			break
		}
		c.srv.handler.Handle(r)
		c.settle(group)
	}
	c.close(reasonClient) // a no-op when a reason is known
	c.dropQueue()
}

// read returns the next frame; its bytes are charged to the budget.
func (c *conn) read() ([]byte, error) {
	n, err := c.header()
	if err != nil {
		return nil, err
	}
	held, room := int64(c.frames.first(n)), c.srv.room(int64(n))
	if err := room.enter(c.waitCtx, held); err != nil {
		return nil, err
	}
	// Who sends a little now and then stands still, too.
	last := time.Now().Add(c.srv.cfg.StallTimeout + time.Duration(n/minRate)*time.Second)
	frame, err := c.frames.body(n, func() { c.deadlineAt(earlier(last, time.Now().Add(c.srv.cfg.StallTimeout))) }, func(more int) error {
		ctx, cancel := context.WithTimeoutCause(c.waitCtx, c.srv.cfg.StallTimeout, errNoRoom)
		defer cancel()
		err := room.grow(ctx, c, int64(more))
		if err == nil {
			held += int64(more)
		}
		return err
	})
	room.read(c)
	if err != nil {
		room.free(held)
		if errors.Is(err, os.ErrDeadlineExceeded) && !c.draining.Load() {
			err = errStall
		}
		return nil, err
	}
	return frame, nil
}

// minRate is how fast a frame must come, in bytes a second, after StallTimeout.
const minRate = 256 << 10

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

var (
	errStall  = errors.New("frame stands still")
	errNoRoom = errors.New("no room for the frame")
)

// header waits for a frame to begin. While answers are outstanding the client
// may well be silent, so the idle time starts anew.
func (c *conn) header() (int, error) {
	for {
		c.deadline(c.srv.cfg.IdleTimeout)
		n, err := c.frames.begin()
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) || c.draining.Load() {
			return n, err
		}
		if c.frames.buffered() > 0 {
			return 0, errStall
		}
		c.mu.Lock()
		pending := len(c.queue)
		c.mu.Unlock()
		if pending == 0 {
			return 0, err
		}
	}
}

func (c *conn) deadline(d time.Duration) { c.deadlineAt(time.Now().Add(d)) }

func (c *conn) deadlineAt(at time.Time) {
	// An error means that the connection is closed; the read says so better.
	_ = c.nc.SetReadDeadline(at)
	if c.draining.Load() {
		_ = c.nc.SetReadDeadline(past)
	}
}

var past = time.Unix(1, 0)

// waitRoom waits while too much of this connection is unanswered.
func (c *conn) waitRoom() error {
	for {
		c.mu.Lock()
		full := len(c.queue) >= c.srv.cfg.MaxPending || c.bytes >= c.srv.cfg.MaxConnBytes
		c.mu.Unlock()
		if !full {
			return c.ctx.Err()
		}
		select {
		case <-c.room:
		case <-c.ctx.Done():
		}
		if err := c.ctx.Err(); err != nil {
			return err
		}
	}
}

func (c *conn) push(r *Request) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.srv.obs.InFlight(1, r.size)
	if c.closed {
		c.forget(r)
		return false
	}
	c.queue = append(c.queue, r)
	c.bytes += r.size
	return true
}

// forget gives back what r was charged. c.mu is held.
func (c *conn) forget(r *Request) {
	c.srv.room(r.size).free(r.size)
	c.srv.obs.InFlight(-1, -r.size)
}

// complete takes the answer of r.
func (c *conn) complete(r *Request, reply Reply) {
	c.mu.Lock()
	if r.done || c.closed {
		first := !r.done
		r.done = true
		c.mu.Unlock()
		if reply != nil && first {
			reply.Release()
		}
		return
	}
	r.done, r.reply = true, reply
	head := len(c.queue) > 0 && c.queue[0] == r
	c.mu.Unlock()
	if head {
		signal(c.wake)
	}
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// settle writes what is ready, and sees that a goroutine waits for the rest.
func (c *conn) settle(group *run.Group) {
	c.mu.Lock()
	if c.writing || c.closed || len(c.queue) == 0 {
		c.mu.Unlock()
		return
	}
	c.writing = true
	c.mu.Unlock()
	if c.write(false) {
		group.Go("writer", func(context.Context) error {
			c.write(true)
			return nil
		})
	}
}

// write sends replies in order until none is outstanding, and then gives up
// writing. With wait unset it stops before it would have to wait, keeps writing
// set and says true.
func (c *conn) write(wait bool) (more bool) {
	for {
		c.mu.Lock()
		if c.closed || len(c.queue) == 0 {
			if len(c.sent) > 0 {
				closed := c.closed
				c.mu.Unlock()
				if closed {
					c.dropSent()
				} else {
					c.flush()
				}
				continue
			}
			c.writing = false
			c.mu.Unlock()
			signal(c.room)
			return false
		}
		r := c.queue[0]
		if !r.done {
			c.mu.Unlock()
			c.flush()
			if !wait {
				return true
			}
			select {
			case <-c.wake:
			case <-c.ctx.Done():
			}
			continue
		}
		w, waits := r.reply.(Waiter)
		if waits && !wait {
			c.mu.Unlock()
			c.flush()
			return true
		}
		if waits {
			c.waiting = r // dropQueue leaves its release to us
			c.mu.Unlock()
			c.flush()
			w.Wait(c.waitCtx)
			if !c.pop(r) {
				w.Release()
				continue
			}
		} else {
			c.mu.Unlock()
			if !c.pop(r) {
				continue
			}
		}
		c.sent = append(c.sent, r)
		if r.reply != nil {
			mark, size := c.out.begin(r)
			r.reply.AppendTo(&c.out)
			c.out.end(mark, size)
		}
		if c.out.size() >= flushAt {
			c.flush()
		}
	}
}

// pop takes r off the head of the queue, unless the connection closed meanwhile
// and the queue has been dropped.
func (c *conn) pop(r *Request) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting == r {
		c.waiting = nil
	}
	if c.closed || len(c.queue) == 0 || c.queue[0] != r {
		return false
	}
	c.queue[0] = nil
	if c.queue = c.queue[1:]; len(c.queue) == 0 {
		c.queue = nil
	}
	c.bytes -= r.size
	c.forget(r)
	signal(c.room)
	return true
}

const (
	flushAt    = 256 << 10 // bytes collected before a write
	writeStep  = 256 << 10 // bytes written at a time; others have their turn between
	writeStall = 1 << 20   // bytes that must get away within StallTimeout
)

// flush writes out. The caller has set writing.
func (c *conn) flush() {
	if len(c.sent) == 0 {
		return
	}
	for _, r := range c.sent {
		if r.Gate != nil && !r.Gate() {
			c.dropSent()
			c.close(reasonStale)
			return
		}
	}
	c.bufs = c.out.segments(c.bufs[:0])
	err := c.send(c.bufs)
	clear(c.bufs)
	now := time.Now()
	size := c.out.size()
	c.srv.obs.Wrote(size)
	for _, r := range c.sent {
		c.srv.obs.Served(r.Key, r.Version, now.Sub(r.Arrived), r.size)
	}
	c.dropSent()
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			c.close(reasonStall)
		} else {
			c.close(reasonOf(err))
		}
	}
}

func (c *conn) dropSent() {
	for i, r := range c.sent {
		if r.reply != nil {
			r.reply.Release()
		}
		c.sent[i] = nil
	}
	c.sent = c.sent[:0]
	c.out.reset()
}

// send writes all of bufs in steps, so that a slow reader is told from one that
// does not read.
func (c *conn) send(bufs net.Buffers) error {
	for due := 0; len(bufs) > 0; {
		if due <= 0 {
			if err := c.nc.SetWriteDeadline(time.Now().Add(c.srv.cfg.StallTimeout)); err != nil {
				return err
			}
			due = writeStall
		}
		step, size := c.step[:0], 0
		for len(bufs) > 0 && size < writeStep {
			b := bufs[0]
			if room := writeStep - size; len(b) > room {
				b, bufs[0] = b[:room], b[room:]
			} else {
				bufs = bufs[1:]
			}
			step = append(step, b)
			size += len(b)
		}
		c.step = step
		var err error
		if len(step) == 1 {
			_, err = c.nc.Write(step[0])
		} else {
			_, err = step.WriteTo(c.nc)
		}
		clear(c.step)
		if err != nil {
			return err
		}
		if due -= size; len(bufs) > 0 {
			// A large reply must not keep the processor from a small one.
			runtime.Gosched()
		}
	}
	return nil
}

// drain stops reading; what is under way may finish.
func (c *conn) drain() {
	c.draining.Store(true)
	c.stopW()
	_ = c.nc.SetReadDeadline(past)
}

// finish waits until everything is answered. The reader calls it.
func (c *conn) finish() {
	for {
		c.mu.Lock()
		busy := !c.closed && (len(c.queue) > 0 || c.writing)
		c.mu.Unlock()
		if !busy {
			return
		}
		select {
		case <-c.room:
		case <-c.ctx.Done():
			return
		}
	}
}

// close ends the connection; the first reason counts.
func (c *conn) close(reason string) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.closed, c.reason = true, reason
	c.mu.Unlock()
	c.srv.obs.Closed(reason)
	c.cancel()
	c.nc.Close()
}

// dropQueue releases what was never written. Requests without an answer are
// released when it comes.
func (c *conn) dropQueue() {
	c.mu.Lock()
	queue := c.queue
	c.queue = nil
	for _, r := range queue {
		c.forget(r)
	}
	var replies []Reply
	for _, r := range queue {
		if r.done && r.reply != nil && r != c.waiting {
			replies = append(replies, r.reply)
		}
	}
	c.mu.Unlock()
	for _, reply := range replies {
		reply.Release()
	}
}

func reasonOf(err error) string {
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrClosedPipe):
		return reasonClient
	case errors.Is(err, errLength):
		return reasonLength
	case errors.Is(err, errStall), errors.Is(err, io.ErrUnexpectedEOF):
		return reasonStall
	case errors.Is(err, errNoRoom):
		return reasonNoRoom
	case errors.Is(err, os.ErrDeadlineExceeded):
		return reasonIdle
	case errors.Is(err, context.Canceled):
		return reasonDrain
	}
	return reasonIO
}
