// Package e2e is the loop's end-to-end test: recorded OTLP of real exporters
// into a running server, and what must have become of it. The same function
// runs on the tape (-tags e2e) and on a real Apache Kafka (test/compat), which
// is how we know that the loop is a plain Kafka client.
package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/looptape/looptape/test/rig"
)

// What the recording's own README says it holds.
const (
	wantSpans = 3177
	wantLogs  = 4443
)

// Loop sends the recording twice and holds the server's ledger and cases
// against it.
func Loop(t *testing.T, s *rig.Server) {
	t.Helper()
	file := rig.Shared(t, Recording)
	rec := read(t)
	if rec.spans != wantSpans || rec.logs != wantLogs {
		t.Fatalf("the recording holds %d spans and %d log records, want %d and %d", rec.spans, rec.logs, wantSpans, wantLogs)
	}

	send(t, s, file)
	first := settle(t, s, rec)
	account(t, s, rec, 1)
	t.Logf("first pass: %d spans and %d log records accounted for, %d cases", rec.spans, rec.logs, len(first))

	send(t, s, file)
	account(t, s, rec, 2)
	second := settle(t, s, rec)
	changed := 0
	for trace, before := range first {
		if after := second[trace]; after != before {
			if changed++; changed <= 3 {
				t.Errorf("case %s changed when the recording was sent again:\n%s\n%s", trace, before, after)
			}
		}
	}
	if changed > 0 {
		t.Errorf("%d of %d cases changed", changed, len(first))
	}
	t.Logf("second pass: %d cases, none changed", len(second))
}

type recording struct {
	spans, logs int
	roots       map[string]string // trace id of each root span with app.request.ref -> the reference
}

// read counts what the recording holds.
func read(t *testing.T) recording {
	t.Helper()
	r := recording{roots: map[string]string{}}
	Exports(t, func(req ptraceotlp.ExportRequest) {
		r.spans += req.Traces().SpanCount()
		for _, rs := range req.Traces().ResourceSpans().All() {
			for _, ss := range rs.ScopeSpans().All() {
				for _, span := range ss.Spans().All() {
					if ref, ok := span.Attributes().Get("app.request.ref"); ok && span.ParentSpanID().IsEmpty() {
						r.roots[span.TraceID().String()] = ref.AsString()
					}
				}
			}
		}
	}, func(req plogotlp.ExportRequest) {
		r.logs += req.Logs().LogRecordCount()
	})
	return r
}

func send(t *testing.T, s *rig.Server, file string) {
	t.Helper()
	out, err := rig.Run(t, "send", "--quiet", "--api", s.API, "--otlp-http", s.OTLP, file)
	if err != nil {
		t.Fatalf("looptape send: %v\n%s", err, out)
	}
}

// account wants received = mapped + quarantined + rejected for spans and log
// records, and nothing rejected, after the recording was sent n times.
func account(t *testing.T, s *rig.Server, rec recording, n int) {
	t.Helper()
	m := Metrics(t, s.API)
	for kind, want := range map[string]int{"span": rec.spans * n, "log": rec.logs * n} {
		received := m[`looptape_collect_received_total{kind="`+kind+`"}`]
		mapped := m[`looptape_collect_items_total{fate="mapped",kind="`+kind+`"}`]
		quarantined := m[`looptape_collect_items_total{fate="quarantined",kind="`+kind+`"}`]
		rejected := m[`looptape_collect_items_total{fate="rejected",kind="`+kind+`"}`]
		t.Logf("%s: received %.0f = mapped %.0f + quarantined %.0f + rejected %.0f", kind, received, mapped, quarantined, rejected)
		if received != float64(want) || mapped+quarantined+rejected != received || rejected != 0 {
			t.Errorf("%s: received %.0f (want %d), fates add up to %.0f, %.0f rejected", kind, received, want, mapped+quarantined+rejected, rejected)
		}
	}
}

// Metrics reads the server's metrics by their full name with labels.
func Metrics(t testing.TB, api string) map[string]float64 {
	t.Helper()
	res, err := http.Get(api + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	out := map[string]float64{}
	sc := bufio.NewScanner(res.Body)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		name, value, ok := cutLast(sc.Text(), " ")
		if !ok || strings.HasPrefix(name, "#") {
			continue
		}
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			out[name] = v
		}
	}
	return out
}

func cutLast(s, sep string) (before, after string, ok bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// settle waits until every root span's case is there and nothing moves any
// more, and returns each case without what only says when it was computed.
func settle(t *testing.T, s *rig.Server, rec recording) map[string]string {
	t.Helper()
	var cases map[string]string
	last, same := "", 0
	rig.Until(t, 3*time.Minute, func() error {
		lag := quiet(t, s.API)
		if lag != last || lag == "" {
			last, same = lag, 0
			return fmt.Errorf("the loop is still working: %s", lag)
		}
		if same++; same < 20 {
			return fmt.Errorf("the loop has only just become quiet")
		}
		cases = map[string]string{}
		for trace, ref := range rec.roots {
			c, err := oneCase(s.API, trace)
			if err != nil {
				return err
			}
			if err := known(s.API, ref); err != nil {
				return err
			}
			cases[trace] = c
		}
		return nil
	})
	return cases
}

// quiet is a fingerprint of the ends of the loop's topics: it stands still when
// the loop has nothing left to do.
func quiet(t *testing.T, api string) string {
	t.Helper()
	var parts []string
	for name, v := range Metrics(t, api) {
		if strings.HasPrefix(name, "looptape_stream_") && (strings.Contains(name, "produced") || strings.Contains(name, "processed") || strings.Contains(name, "records")) {
			parts = append(parts, fmt.Sprintf("%s=%g", name, v))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	sum := 0.0
	for _, p := range parts {
		_, v, _ := cutLast(p, "=")
		f, _ := strconv.ParseFloat(v, 64)
		sum += f
	}
	return strconv.FormatFloat(sum, 'f', -1, 64)
}

// known wants a case to be found by its reference. Several traces share one, so
// it need not be the same case.
func known(api, ref string) error {
	res, err := http.Get(api + "/v1/cases/" + url.PathEscape(ref))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); err != nil || res.StatusCode != http.StatusOK {
		return fmt.Errorf("reference %s: %d %s %v", ref, res.StatusCode, bytes.TrimSpace(b), err)
	}
	return nil
}

// oneCase reads a case by its trace id and wants its root span in it.
func oneCase(api, trace string) (string, error) {
	res, err := http.Get(api + "/v1/cases/" + url.PathEscape(trace))
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return "", err
	}
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("case %s: %d %s", trace, res.StatusCode, bytes.TrimSpace(b))
	}
	var a struct {
		Case map[string]any `json:"case"`
	}
	if err := json.Unmarshal(b, &a); err != nil {
		return "", fmt.Errorf("case %s: %w", trace, err)
	}
	started := false
	parts, _ := a.Case["parts"].([]any)
	for _, p := range parts {
		if p, ok := p.(map[string]any); ok {
			started = started || p["type"] == "request.started"
			delete(p, "position")
		}
	}
	if !started {
		return "", fmt.Errorf("case %s: its root span is not among its parts", trace)
	}
	if a.Case["request"] != trace {
		return "", fmt.Errorf("case %s: it is the case of %v", trace, a.Case["request"])
	}
	canonical, err := json.Marshal(a.Case)
	return string(canonical), err
}
