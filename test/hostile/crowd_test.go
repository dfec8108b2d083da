//go:build e2e

package hostile

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/looptape/looptape/test/e2e"
	"github.com/looptape/looptape/test/rig"
)

const (
	// crowdSize is how many connections come at once.
	crowdSize = 10_000
	// perConnection bounds the server's memory for one that does little, in bytes.
	perConnection = 24 << 10
	// newcomer bounds how long a new client waits while the crowd is there.
	newcomer = 2 * time.Second
)

// open opens n connections and writes begin to each.
func open(t *testing.T, addr string, n int, begin string) []net.Conn {
	t.Helper()
	conns := make([]net.Conn, n)
	errs := make([]error, 16)
	var wg sync.WaitGroup
	for k := range errs {
		// Each worker from an address of its own, so that ports do not run out.
		from := &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+k))}
		wg.Go(func() {
			d := net.Dialer{Timeout: 20 * time.Second, LocalAddr: from}
			for i := k; i < n; i += len(errs) {
				c, err := d.Dial("tcp", addr)
				if err == nil && begin != "" {
					_, err = io.WriteString(c, begin)
				}
				if err != nil {
					errs[k] = fmt.Errorf("connection %d: %w", i, err)
					return
				}
				conns[i] = c
			}
		})
	}
	wg.Wait()
	t.Cleanup(func() { hangUp(conns) })
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	return conns
}

func hangUp(conns []net.Conn) {
	for _, c := range conns {
		if c != nil {
			c.Close()
		}
	}
}

// served wants a new client of each port to be served in time.
func (w *world) served(t *testing.T) {
	t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.s.Kafka), kgo.DefaultProduceTopic(victim))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.ProduceSync(ctx, kgo.StringRecord("newcomer")).FirstErr(); err != nil {
		t.Errorf("a new Kafka client: %v", err)
	}
	kafka := time.Since(began)
	began = time.Now()
	if a := w.post(post{url: w.s.OTLP + "/v1/traces", contentType: typeJSON, body: text(oneSpan(""))}); a.status != http.StatusOK {
		t.Errorf("a new exporter: %s", a)
	}
	w.spans.Add(1)
	otlp := time.Since(began)
	if kafka > newcomer || otlp > newcomer {
		t.Errorf("a new Kafka client waited %s, a new exporter %s", kafka, otlp)
	}
	t.Logf("a new Kafka client was served within %s, a new exporter within %s", kafka.Round(time.Millisecond), otlp.Round(time.Millisecond))
}

// gone waits until the tape has let go of the crowd.
func (w *world) gone(t *testing.T, before float64) {
	t.Helper()
	rig.Until(t, 20*time.Second, func() error {
		if n := e2e.Metrics(t, w.s.API)["go_goroutines"]; n > before+100 {
			return fmt.Errorf("%.0f goroutines, %.0f before the crowd", n, before)
		}
		return nil
	})
}

// TestMemoryOfAnIdleConnection measures on a fresh server, whose heap has no room
// left from earlier work.
func TestMemoryOfAnIdleConnection(t *testing.T) {
	raiseFiles(t)
	w := &world{s: rig.Serve(t)}
	w.pid = w.s.PID()
	before := w.memory(t)
	open(t, w.s.Kafka, crowdSize, "")
	rig.Until(t, 20*time.Second, func() error {
		if n := e2e.Metrics(t, w.s.API)["go_goroutines"]; n < crowdSize {
			return fmt.Errorf("%.0f goroutines", n)
		}
		return nil
	})
	each := (w.memory(t) - before) / crowdSize
	t.Logf("%d idle connections take %d bytes of resident memory each", crowdSize, each)
	if each > perConnection {
		t.Errorf("an idle connection takes %d bytes, at most %d are allowed", each, perConnection)
	}
	if err := w.s.Stop(30 * time.Second); err != nil {
		t.Errorf("stop with a crowd: %v", err)
	}
}

// crowd: ten thousand connections that do nothing, and as many that begin
// something and leave it at that.
func (w *world) crowd(t *testing.T) {
	addr := func(url string) string { return strings.TrimPrefix(url, "http://") }
	for _, k := range []struct {
		name, addr, begin string
		n                 int
		each              int64 // bytes of memory
	}{
		{"idle on the Kafka port", w.s.Kafka, "", crowdSize, perConnection},
		{"half a frame each", w.s.Kafka, "\x00\x00\x01\x00\x00\x03\x00\x00", crowdSize, perConnection},
		// Together they announce 900 GiB. Nobody else may have to wait for bytes
		// that never come.
		{"a frame of 90 MiB begun by each", w.s.Kafka, "\x05\xa0\x00\x00\x00\x00\x00\x03", crowdSize, perConnection},
		{"idle on the OTLP port", addr(w.s.OTLP), "", 1500, 2 * perConnection},
		{"half a body each on the OTLP port", addr(w.s.OTLP), "POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 30000000\r\n\r\n{", 1000, 128 << 10},
	} {
		w.attack(t, fmt.Sprintf("crowd: %d %s", k.n, k.name), func(t *testing.T) {
			goroutines := e2e.Metrics(t, w.s.API)["go_goroutines"]
			before, began := w.memory(t), time.Now()
			conns := open(t, k.addr, k.n, k.begin)
			took := time.Since(began)
			rig.Until(t, 20*time.Second, func() error { // the last ones may still be in the backlog
				if n := e2e.Metrics(t, w.s.API)["go_goroutines"]; n < goroutines+float64(k.n)-200 {
					return fmt.Errorf("%.0f goroutines for %d connections", n, k.n)
				}
				return nil
			})
			w.served(t)
			each := (w.memory(t) - before) / int64(k.n)
			t.Logf("%d connections in %s, %d bytes of memory each", k.n, took.Round(time.Millisecond), each)
			if each > k.each {
				t.Errorf("a connection costs %d bytes, at most %d are allowed", each, k.each)
			}
			w.unhurt(t)
			hangUp(conns)
			w.gone(t, goroutines)
		})
	}
}
