// Package wire speaks the framing of the Kafka protocol: connections, frames,
// request and response headers, reply order and back-pressure. It knows no
// topic and no partition.
//
// A frame is
//
//	length int32 | api key int16 | version int16 | correlation id int32 |
//	client id nullable string | tagged fields (flexible versions) | body
//
// What it promises:
//
//   - The Handler sees the requests of one connection one at a time and in the
//     order in which they were sent; it may answer later and from anywhere.
//     Replies leave in request order whatever the order of the answers.
//   - A request body belongs to the Handler for good, so that it may be kept
//     without a copy, unless the Handler gives it back with Recycle.
//   - A frame's length is checked before anything is allocated, and memory
//     grows with the bytes that really came, so a length that lies costs
//     nothing, neither its own connection nor others. The bytes of requests
//     that wait for an answer are bounded per connection and over all
//     connections; past the bound nobody reads, and TCP slows the sender down.
//   - An idle connection costs one parked goroutine and a buffer of 1 KiB.
//   - Replies may hold references to foreign memory, which goes out by writev.
//
// How it fails: a frame that cannot be understood closes its own connection and
// nothing else. Every close is counted with its reason. When Run's context ends
// no new request is read, answers under way get DrainTimeout, then the
// connections are closed; Run returns when every goroutine has ended.
package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/looptape/looptape/internal/base/run"
)

// A Handler answers requests.
type Handler interface {
	// Handle runs in the connection's own goroutine. It must see to it that
	// exactly one of r.Respond, r.Discard and r.Abort is called, before or
	// after it returns. While it runs no further request of the connection is
	// read, which is how the order of writes is kept.
	Handle(r *Request)
}

// An Observer is told what happens, for metrics. Its methods are called from
// many goroutines and must not block.
type Observer interface {
	Opened()
	Closed(reason string)                                         // reason is one of a few fixed words; also of those never opened
	Gone()                                                        // an opened one has ended
	Read(bytes int)                                               // from sockets
	Wrote(bytes int)                                              // to sockets
	InFlight(requests int, bytes int64)                           // changes, also negative
	Served(key, version int16, latency time.Duration, size int64) // from the frame's last byte to the reply's last byte
}

// Config of a Server. Zero values take the defaults.
type Config struct {
	MaxFrame     int           // largest frame, bytes; default 100 MiB
	MaxConnBytes int64         // request bytes waiting for an answer per connection; default 64 MiB
	MaxBytes     int64         // the same over all connections, and an eighth more for small frames; default 256 MiB
	MaxPending   int           // requests waiting for an answer per connection; default 128
	MaxConns     int           // connections; default 20,000
	IdleTimeout  time.Duration // a connection with nothing under way is closed after it; default 10 min
	StallTimeout time.Duration // half a frame, or a reply nobody takes, may stand still as long; default 30 s
	// A frame has StallTimeout and a second for each 256 KiB to come whole.
	DrainTimeout time.Duration // for answers under way when the server stops; default 5 s
	TLS          *tls.Config   // nil: plain
}

func (c *Config) defaults() {
	def(&c.MaxFrame, 100<<20)
	def(&c.MaxConnBytes, 64<<20)
	def(&c.MaxBytes, 256<<20)
	def(&c.MaxPending, 128)
	def(&c.MaxConns, 20_000)
	def(&c.IdleTimeout, 10*time.Minute)
	def(&c.StallTimeout, 30*time.Second)
	def(&c.DrainTimeout, 5*time.Second)
}

func def[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

// A Server reads requests from the connections of its listeners, hands them to
// its Handler and writes the replies.
type Server struct {
	cfg     Config
	handler Handler
	obs     Observer
	log     *slog.Logger
	budget  *budget
	small   *budget // of frames up to smallFrame
	frames  frames

	mu    sync.Mutex // guards conns
	conns map[*conn]struct{}
}

// NewServer returns a server that does nothing until Run.
func NewServer(cfg Config, h Handler, obs Observer, log *slog.Logger) *Server {
	cfg.defaults()
	return &Server{cfg: cfg, handler: h, obs: obs, log: log, budget: newBudget(cfg.MaxBytes), small: newBudget(cfg.MaxBytes / 8), frames: frames{limit: keptBytes}, conns: map[*conn]struct{}{}}
}

// Run serves the listeners until ctx ends, then drains and closes them all. It
// returns nil after an orderly stop.
func (s *Server) Run(ctx context.Context, listeners ...net.Listener) error {
	// Connections live in a group of their own: they outlast ctx by the drain.
	conns := run.New(context.WithoutCancel(ctx))
	accept := run.New(ctx)
	for _, ln := range listeners {
		accept.Go("accept "+ln.Addr().String(), func(ctx context.Context) error {
			stop := context.AfterFunc(ctx, func() { ln.Close() })
			defer stop()
			return s.accept(ctx, ln, conns)
		})
	}
	err := accept.Wait()

	s.each(func(c *conn) { c.drain() })
	timer := time.AfterFunc(s.cfg.DrainTimeout, func() { s.each(func(c *conn) { c.close(reasonDrain) }) })
	werr := conns.Wait()
	timer.Stop()
	return errors.Join(err, werr)
}

func (s *Server) each(fn func(*conn)) {
	s.mu.Lock()
	all := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		all = append(all, c)
	}
	s.mu.Unlock()
	for _, c := range all {
		fn(c)
	}
}

func (s *Server) accept(ctx context.Context, ln net.Listener, conns *run.Group) error {
	wait := 5 * time.Millisecond
	for {
		nc, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("listener %s closed: %w", ln.Addr(), err)
			}
			// Out of file descriptors and the like pass; an accept loop that
			// ends would take the broker with it.
			s.log.Warn("accept failed", "listener", ln.Addr().String(), "err", err)
			select {
			case <-time.After(wait):
				wait = min(2*wait, time.Second)
			case <-ctx.Done():
				return nil
			}
			continue
		}
		wait = 5 * time.Millisecond
		if s.cfg.TLS != nil {
			nc = tls.Server(nc, s.cfg.TLS)
		}
		c := newConn(s, nc)
		if !s.add(c) {
			s.obs.Closed(reasonLimit)
			nc.Close()
			continue
		}
		s.obs.Opened()
		conns.Go("connection", func(ctx context.Context) error {
			defer s.obs.Gone()
			c.serve(ctx, conns)
			return nil
		})
	}
}

func (s *Server) add(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) >= s.cfg.MaxConns {
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *Server) remove(c *conn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
}

// Why a connection ended: the values of the metric's label.
const (
	reasonClient  = "client"       // the client closed it
	reasonIdle    = "idle"         // nothing for IdleTimeout
	reasonStall   = "stall"        // half a frame, or a reply nobody took
	reasonNoRoom  = "no-room"      // half a frame, and MaxBytes taken by others for too long
	reasonLength  = "frame-length" // a length below the header's or above MaxFrame
	reasonHeader  = "header"       // a header that cannot be read
	reasonRequest = "request"      // the Handler could make nothing of it
	reasonLimit   = "limit"        // MaxConns
	reasonStale   = "stale"        // a reply may not be given any more
	reasonDrain   = "drain"        // the server stops
	reasonIO      = "io"           // everything else the socket reports
)
