//go:build bench

package load

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/looptape/looptape/test/e2e"
	"github.com/looptape/looptape/test/rig"
)

// TestOTLP sends recorded exports, each time under new trace ids, and reads
// from the server's own counters and its CPU time how many events a second and
// a core it took from the socket to the acknowledged append, with evaluation,
// join, gate and view running beside.
func TestOTLP(t *testing.T) {
	bodies := exports(t)
	s := rig.Serve(t)
	const dur = 10 * time.Second
	fmt.Printf("\nOTLP over HTTP, protobuf, recorded exports under new trace ids, evaluation on (%d runs)\n%-6s %12s %14s %14s %12s\n",
		repeats, "run", "events/s", "events/s/core", "server cores", "spans+logs/s")
	next := new(atomic.Int64)
	for run := range repeats {
		m0, cpu0, t0 := e2e.Metrics(t, s.API), cpu(t, s.PID()), time.Now()
		var wg sync.WaitGroup
		var failed atomic.Int64
		stop := time.Now().Add(dur)
		for range 2 {
			wg.Go(func() {
				client := &http.Client{Timeout: time.Minute}
				for time.Now().Before(stop) {
					i := int(next.Add(1) - 1)
					b := bodies[i%len(bodies)]
					res, err := client.Post(s.OTLP+b.path, "application/x-protobuf", bytes.NewReader(b.renew(i)))
					if err != nil {
						failed.Add(1)
						continue
					}
					io.Copy(io.Discard, res.Body)
					res.Body.Close()
					if res.StatusCode == http.StatusServiceUnavailable {
						time.Sleep(50 * time.Millisecond) // as an exporter would
					} else if res.StatusCode != http.StatusOK {
						failed.Add(1)
					}
				}
			})
		}
		wg.Wait()
		wall := time.Since(t0).Seconds()
		cores := (cpu(t, s.PID()) - cpu0) / wall
		m1 := e2e.Metrics(t, s.API)
		events, items := grown(m0, m1, "looptape_collect_events_total"), grown(m0, m1, "looptape_collect_received_total")
		fmt.Printf("%-6d %12.0f %14.0f %14.2f %12.0f\n", run+1, events/wall, events/wall/cores, cores, items/wall)
		if failed.Load() > 0 {
			t.Errorf("%d requests failed", failed.Load())
		}
	}
}

func grown(before, after map[string]float64, prefix string) (sum float64) {
	for k, v := range after {
		if strings.HasPrefix(k, prefix+"{") {
			sum += v - before[k]
		}
	}
	return sum
}

// cpu is the CPU time that a process has used, in seconds.
func cpu(t *testing.T, pid int) float64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	user, _ := strconv.ParseFloat(f[11], 64)
	sys, _ := strconv.ParseFloat(f[12], 64)
	return (user + sys) / 100
}

// A body is one export in protobuf with the places of its trace ids.
type body struct {
	path string
	raw  []byte
	at   []int // offsets of trace ids in raw
}

// renew gives the body's requests new trace ids, the same for all spans and
// logs that shared one.
func (b *body) renew(n int) []byte {
	out := bytes.Clone(b.raw)
	for _, i := range b.at {
		binary.BigEndian.PutUint64(out[i:], binary.BigEndian.Uint64(out[i:])^uint64(n)*0x9e3779b97f4a7c15)
	}
	return out
}

// exports reads the recording as protobuf bodies.
func exports(t *testing.T) []*body {
	t.Helper()
	var out []*body
	add := func(path string, marshal func() ([]byte, error), ids map[pcommon.TraceID]bool) {
		raw, err := marshal()
		if err != nil {
			t.Fatal(err)
		}
		b := &body{path: path, raw: raw}
		for id := range ids {
			if id.IsEmpty() {
				continue
			}
			for i := 0; ; {
				j := bytes.Index(raw[i:], id[:])
				if j < 0 {
					break
				}
				b.at = append(b.at, i+j)
				i += j + len(id)
			}
		}
		out = append(out, b)
	}
	e2e.Exports(t, func(req ptraceotlp.ExportRequest) {
		ids := map[pcommon.TraceID]bool{}
		for _, rs := range req.Traces().ResourceSpans().All() {
			for _, ss := range rs.ScopeSpans().All() {
				for _, span := range ss.Spans().All() {
					ids[span.TraceID()] = true
				}
			}
		}
		add("/v1/traces", req.MarshalProto, ids)
	}, func(req plogotlp.ExportRequest) {
		ids := map[pcommon.TraceID]bool{}
		for _, rl := range req.Logs().ResourceLogs().All() {
			for _, sl := range rl.ScopeLogs().All() {
				for _, r := range sl.LogRecords().All() {
					ids[r.TraceID()] = true
				}
			}
		}
		add("/v1/logs", req.MarshalProto, ids)
	})
	return out
}
