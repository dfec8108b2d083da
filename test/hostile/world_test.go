//go:build e2e

package hostile

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/looptape/looptape/test/e2e"
	"github.com/looptape/looptape/test/rig"
)

// secret stands in every hostile body. It must never come up in a log line or
// in an answer's sentence.
const secret = "S3CRET-C0NTENT"

// slowestAnswer is how long a well-behaved client may wait while others attack.
// It is generous: the machines that run this are small and shared.
const slowestAnswer = 10 * time.Second

// A world is one server under attack, with well-behaved clients beside it.
type world struct {
	s     *rig.Server
	pid   int
	kafka *kafkaLoad
	otlp  *otlpLoad

	spans, logs, events atomic.Int64 // of attacks that were received, whatever their fate
}

// TestHostile runs every attack against one server.
func TestHostile(t *testing.T) {
	raiseFiles(t)
	w := &world{s: rig.Serve(t)}
	w.pid = w.s.PID()
	w.kafka = startKafkaLoad(t, w.s)
	w.otlp = startOTLPLoad(t, w.s)
	goroutines := e2e.Metrics(t, w.s.API)["go_goroutines"]
	slow := w.startSlow(t) // takes as long as the server's patience: judged at the end

	w.http(t)
	w.json(t)
	w.ids(t)
	w.smuggling(t)
	w.grpc(t)
	w.frames(t)
	w.requests(t)
	w.batches(t)
	w.commands(t)
	w.crowd(t)
	slow.judge(t, w)
	w.settle(t, goroutines)
}

// attack runs one attack and then looks whether anything else was hurt.
func (w *world) attack(t *testing.T, name string, fn func(t *testing.T)) {
	t.Helper()
	if t.Run(name, func(t *testing.T) {
		fn(t)
		w.unhurt(t)
	}) {
		return
	}
	if a := w.get(w.s.API + "/readyz"); a.err != nil || a.status != http.StatusOK {
		select { // what it says last says why
		case <-w.s.Done():
		case <-time.After(30 * time.Second):
		}
		t.Fatalf("the server is gone after %q, the other attacks are pointless: %s", name, a)
	}
}

// unhurt checks what must hold after each attack.
func (w *world) unhurt(t *testing.T) {
	t.Helper()
	select {
	case <-w.s.Done():
		t.Fatalf("the process ended\n%s", w.s.Output())
	default:
	}
	if err := syscall.Kill(w.pid, 0); err != nil || w.s.PID() != w.pid {
		t.Fatalf("process %d: %v", w.pid, err)
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if a := w.get(w.s.API + path); a.err != nil || a.status != http.StatusOK {
			t.Errorf("GET %s: %s", path, a)
		}
	}
	w.kafka.unhurt(t)
	w.otlp.unhurt(t)
	rig.Until(t, 5*time.Second, func() error { // a scrape may fall between two counters
		m := e2e.Metrics(t, w.s.API)
		for _, kind := range []string{"span", "log", "event"} {
			if received, fates := received(m, kind), fates(m, kind); received != fates {
				return fmt.Errorf("%s: received %.0f, fates add up to %.0f", kind, received, fates)
			}
		}
		return nil
	})
}

func received(m map[string]float64, kind string) float64 {
	return m[`looptape_collect_received_total{kind="`+kind+`"}`]
}

func fates(m map[string]float64, kind string) (sum float64) {
	for _, fate := range []string{"mapped", "quarantined", "rejected"} {
		sum += m[`looptape_collect_items_total{fate="`+fate+`",kind="`+kind+`"}`]
	}
	return sum
}

// settle stops the background, and holds what the server has against what it
// was given.
func (w *world) settle(t *testing.T, goroutines float64) {
	t.Helper()
	w.otlp.stop()
	w.kafka.stop()
	t.Run("nothing lost", func(t *testing.T) {
		w.unhurt(t)
		w.kafka.verify(t)
		w.otlp.verify(t, w)
		m := e2e.Metrics(t, w.s.API)
		for kind, want := range map[string]int64{
			"span": w.otlp.sent.Load() + w.spans.Load(), "log": w.logs.Load(), "event": w.events.Load(),
		} {
			if got := received(m, kind); got != float64(want) {
				t.Errorf("%s: the server received %.0f, %d were sent", kind, got, want)
			}
		}
	})
	t.Run("nothing kept", func(t *testing.T) {
		rig.Until(t, 20*time.Second, func() error {
			m := e2e.Metrics(t, w.s.API)
			if n := m["looptape_collect_in_flight_bytes"]; n != 0 {
				return fmt.Errorf("%.0f bytes of bodies still count as in flight", n)
			}
			// The background's own connections are gone too, so fewer is normal.
			if n := m["go_goroutines"]; n > goroutines+50 {
				return fmt.Errorf("%.0f goroutines, %.0f before the attacks", n, goroutines)
			}
			return nil
		})
		if out := w.s.Output(); strings.Contains(out, secret) {
			t.Errorf("content came up in the log:\n%s", out)
		}
		entries, err := os.ReadDir(w.s.Dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.Name() != "data" {
				t.Errorf("%s was written outside the data directory", filepath.Join(w.s.Dir, e.Name()))
			}
		}
	})
	t.Run("clean stop", func(t *testing.T) {
		if err := w.s.Stop(30 * time.Second); err != nil {
			t.Errorf("stop: %v", err)
		}
		for _, bad := range []string{"panic", "goroutine ", "fatal error", "DATA RACE"} {
			if strings.Contains(w.s.Output(), bad) {
				t.Errorf("the log speaks of %q:\n%s", bad, w.s.Output())
			}
		}
	})
}

// raiseFiles lifts the limit of open files as far as it goes: the crowd needs
// one for each connection. Go programs do so for themselves at start, so the
// server has as many.
func raiseFiles(t *testing.T) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur < 2*crowdSize {
		t.Fatalf("the hard limit of open files is %d, %d are needed: raise it (ulimit -Hn)", limit.Cur, 2*crowdSize)
	}
}

// memory is the server's resident memory in bytes.
func (w *world) memory(t *testing.T) int64 {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Fatal("resident memory is read from /proc: run this suite on Linux")
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmRSS:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// An answer is what came back over HTTP.
type answer struct {
	status int
	header http.Header
	body   []byte
	err    error
}

func (a answer) String() string {
	if a.err != nil {
		return a.err.Error()
	}
	return fmt.Sprintf("%d %s", a.status, a.body[:min(len(a.body), 500)])
}

// get asks on a connection of its own, so that an attack's connections say
// nothing about new clients.
func (w *world) get(url string) answer {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return answer{err: err}
	}
	return w.do(req)
}

func (w *world) do(req *http.Request) answer {
	client := &http.Client{Timeout: 60 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 64<<20))
	if err != nil {
		err = errors.Join(errors.New("the answer's body"), err)
	}
	return answer{res.StatusCode, res.Header, body, err}
}
