//go:build e2e

package hostile

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// slow are connections that begin something and go on too slowly. They run while
// the other attacks do.
type slow struct {
	conns []*slowConn
}

type slowConn struct {
	name   string
	within time.Duration // the server must have closed it by then; 0: it may stay
	closed chan time.Duration
	stop   chan struct{}
	err    error // valid once closed
}

// perKind is how many connections each slow attack opens.
const perKind = 100

// startSlow opens the slow connections: each sends its beginning, then one of
// its drops a second.
func (w *world) startSlow(t *testing.T) *slow {
	t.Helper()
	host := func(url string) string { return strings.TrimPrefix(url, "http://") }
	s := &slow{}
	for _, k := range []struct {
		name, addr, begin, drop string
		within                  time.Duration
	}{
		// Longer than the server's own limits (10 s for headers, 30 s for half a
		// frame) by what a busy machine may need.
		{"slow headers on the API", host(w.s.API), "GET /healthz HTTP/1.1\r\nHost: x\r\n", "X-A: b\r\n", 20 * time.Second},
		{"slow headers on OTLP", host(w.s.OTLP), "POST /v1/traces HTTP/1.1\r\nHost: x\r\n", "X-A: b\r\n", 20 * time.Second},
		{"silent headers on OTLP", host(w.s.OTLP), "POST /v1/traces HTTP/1.1\r\n", "", 20 * time.Second},
		{"slow body on the API", host(w.s.API), "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 30000000\r\n\r\n[", " ", 0},
		{"slow body on OTLP", host(w.s.OTLP), "POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 30000000\r\n\r\n{", " ", 0},
		{"slow gzip on OTLP", host(w.s.OTLP), "POST /v1/logs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: 30000000\r\n\r\n\x1f\x8b\x08", "", 0},
		{"a silent gRPC client", w.s.OTLPGRPC, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "", 0},
		{"half a frame, then silence", w.s.Kafka, "\x00\x00\x01\x00\x00\x03", "", 45 * time.Second},
		{"half a length, then silence", w.s.Kafka, "\x00\x00", "", 0},
		{"a length of 90 MiB, then silence", w.s.Kafka, "\x05\xa0\x00\x00\x00\x00\x00\x03", "", 45 * time.Second},
	} {
		for range perKind {
			c, err := net.Dial("tcp", k.addr)
			if err != nil {
				t.Fatal(err)
			}
			sc := &slowConn{name: k.name, within: k.within, closed: make(chan time.Duration, 1), stop: make(chan struct{})}
			s.conns = append(s.conns, sc)
			go sc.run(c, k.begin, k.drop)
		}
	}
	t.Cleanup(func() {
		for _, c := range s.conns {
			select {
			case <-c.stop:
			default:
				close(c.stop)
			}
		}
	})
	return s
}

func (s *slowConn) run(c net.Conn, begin, drop string) {
	defer c.Close()
	began := time.Now()
	if _, err := io.WriteString(c, begin); err != nil {
		s.err = err
	}
	b := make([]byte, 4096)
	for {
		select {
		case <-s.stop:
			return
		default:
		}
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := c.Read(b); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			s.closed <- time.Since(began)
			return
		}
		_, _ = io.WriteString(c, drop) // the read sees what becomes of it
	}
}

// judge wants those closed that the server is to lose patience with.
func (s *slow) judge(t *testing.T, w *world) {
	w.attack(t, "slow connections", func(t *testing.T) {
		waited := map[string]time.Duration{}
		late := map[string]int{}
		for _, c := range s.conns {
			if c.within == 0 {
				close(c.stop)
				continue
			}
			select {
			case took := <-c.closed:
				waited[c.name] = max(waited[c.name], took)
				if took > c.within {
					late[c.name]++
				}
			case <-time.After(c.within):
				late[c.name]++
				close(c.stop)
			}
		}
		for name, n := range late {
			t.Errorf("%s: %d of %d were not closed in time", name, n, perKind)
		}
		var lines []string
		for name, d := range waited {
			lines = append(lines, fmt.Sprintf("%s: closed after %s", name, d.Round(time.Second)))
		}
		t.Log(strings.Join(lines, "; "))
	})
}
