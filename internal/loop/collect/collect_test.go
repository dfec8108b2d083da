package collect

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/looptape/looptape/contract"
	"github.com/looptape/looptape/internal/loop/event"
)

// tape is a producer that keeps what it is given.
type tape struct {
	mu   sync.Mutex
	recs []event.Record
	err  error
}

func (t *tape) Produce(_ context.Context, recs ...event.Record) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		return t.err
	}
	t.recs = append(t.recs, recs...)
	return nil
}

// take returns the events produced since the last take.
func (t *tape) take(tb testing.TB) []event.Event {
	tb.Helper()
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]event.Event, len(t.recs))
	for i := range t.recs {
		e, err := event.Decode(&t.recs[i])
		if err != nil {
			tb.Fatalf("record %d: %v", i, err)
		}
		out[i] = e
	}
	t.recs = nil
	return out
}

type claims struct {
	mu  sync.Mutex
	m   map[string][]byte
	err error
}

func (c *claims) Put(_ context.Context, tenant, id string, body []byte) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return "", c.err
	}
	ref := "claim:" + tenant + "/" + id
	c.m[ref] = bytes.Clone(body)
	return ref, nil
}

type pseudonyms struct{}

func (pseudonyms) Pseudonym(tenant, user string) string {
	if user == "" {
		return ""
	}
	return event.DeriveID("pseudonym", tenant, user)
}

var theContract = sync.OnceValues(func() (*contract.Contract, error) { return contract.Load() })

var testNow = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

type harness struct {
	c      *Collector
	tape   *tape
	claims *claims
	reg    *prometheus.Registry
	http   http.Handler
}

func newHarness(tb testing.TB, change ...func(*Config)) *harness {
	tb.Helper()
	ct, err := theContract()
	if err != nil {
		tb.Fatal(err)
	}
	h := &harness{tape: &tape{}, claims: &claims{m: map[string][]byte{}}, reg: prometheus.NewRegistry()}
	cfg := Config{Producer: h.tape, Contract: ct, Pseudonyms: pseudonyms{}, Claims: h.claims, Registerer: h.reg, Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return testNow }}
	for _, f := range change {
		f(&cfg)
	}
	if h.c, err = New(cfg); err != nil {
		tb.Fatal(err)
	}
	h.http = h.c.Handler()
	return h
}

func (h *harness) post(path, contentType string, body []byte, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.http.ServeHTTP(w, r)
	return w
}

// events posts and returns what came on the tape.
func (h *harness) events(tb testing.TB, path, body string) []event.Event {
	tb.Helper()
	w := h.post(path, typeJSON, []byte(body))
	if w.Code/100 != 2 {
		tb.Fatalf("POST %s: %d %s", path, w.Code, w.Body)
	}
	return h.tape.take(tb)
}

func (h *harness) value(kind, fate string) int {
	return count(h.c.metrics.items.WithLabelValues(kind, fate))
}

func (h *harness) received(kind string) int {
	return count(h.c.metrics.received.WithLabelValues(kind))
}

func count(c prometheus.Counter) int {
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		return -1
	}
	return int(m.GetCounter().GetValue())
}

// checkFates holds the collector to its promise.
func (h *harness) checkFates(tb testing.TB) {
	tb.Helper()
	for _, kind := range []string{kindSpan, kindLog, kindEvent} {
		sum := 0
		for _, f := range fateNames {
			sum += h.value(kind, f)
		}
		if got := h.received(kind); got != sum {
			tb.Errorf("%s: received %d, fates sum up to %d", kind, got, sum)
		}
	}
	if n := h.c.inFlight.used.Load(); n != 0 {
		tb.Errorf("%d bytes still in flight", n)
	}
}

func ofType(events []event.Event, typ string) []event.Event {
	var out []event.Event
	for _, e := range events {
		if e.Type == typ {
			out = append(out, e)
		}
	}
	return out
}

func one(tb testing.TB, events []event.Event, typ string) event.Event {
	tb.Helper()
	out := ofType(events, typ)
	if len(out) != 1 {
		var types []string
		for _, e := range events {
			types = append(types, e.Type)
		}
		tb.Fatalf("%d events of type %s among %v", len(out), typ, types)
	}
	return out[0]
}

func body[T any](tb testing.TB, e event.Event) T {
	tb.Helper()
	var v T
	if err := e.Body(&v); err != nil {
		tb.Fatal(err)
	}
	return v
}

func zip(b []byte) []byte {
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	_, _ = z.Write(b)
	_ = z.Close()
	return buf.Bytes()
}

// jsonAttrs writes attributes in OTLP JSON.
func jsonAttrs(m map[string]any) string {
	var list []any
	for k, v := range m {
		list = append(list, map[string]any{"key": k, "value": jsonValue(v)})
	}
	b, _ := json.Marshal(list)
	return string(b)
}

func jsonValue(v any) any {
	switch v := v.(type) {
	case string:
		return map[string]any{"stringValue": v}
	case int:
		return map[string]any{"intValue": v}
	case float64:
		return map[string]any{"doubleValue": v}
	case bool:
		return map[string]any{"boolValue": v}
	case []any:
		var list []any
		for _, e := range v {
			list = append(list, jsonValue(e))
		}
		return map[string]any{"arrayValue": map[string]any{"values": list}}
	case map[string]any:
		var list []any
		for k, e := range v {
			list = append(list, map[string]any{"key": k, "value": jsonValue(e)})
		}
		return map[string]any{"kvlistValue": map[string]any{"values": list}}
	}
	return map[string]any{}
}

const (
	testTrace = "0102030405060708090a0b0c0d0e0f10"
	testSpan  = "0102030405060708"
)

// spanJSON is an export of one span; more is further JSON fields of the span.
func spanJSON(root bool, resource, attrs map[string]any, more string) string {
	parent := `"parentSpanId":"1112131415161718",`
	if root {
		parent = ""
	}
	if more != "" {
		more = "," + more
	}
	return `{"resourceSpans":[{"resource":{"attributes":` + jsonAttrs(resource) + `},"scopeSpans":[{"scope":{"name":"test","version":"1"},"spans":[{` +
		`"traceId":"` + testTrace + `","spanId":"` + testSpan + `",` + parent + `"name":"the span","startTimeUnixNano":"1795407652000000000",` +
		`"endTimeUnixNano":"1795407652250000000","attributes":` + jsonAttrs(attrs) + more + `}]}]}]}`
}

func logJSON(attrs map[string]any, bodyValue any) string {
	b, _ := json.Marshal(jsonValue(bodyValue))
	return `{"resourceLogs":[{"resource":{"attributes":[]},"scopeLogs":[{"scope":{"name":"test"},"logRecords":[{` +
		`"traceId":"` + testTrace + `","spanId":"` + testSpan + `","timeUnixNano":"1795407652000000000","body":` + string(b) +
		`,"attributes":` + jsonAttrs(attrs) + `}]}]}]}`
}

func TestHostileBodies(t *testing.T) {
	good := spanJSON(true, nil, map[string]any{"a": "b"}, "")
	deepJSON := `{"resourceSpans":[{"scopeSpans":[{"spans":[{"attributes":[{"key":"k","value":` +
		strings.Repeat(`{"arrayValue":{"values":[`, 5000) + `{}` + strings.Repeat(`]}}`, 5000) + `}]}]}]}]}`
	deepProto := []byte{}
	for range 2000 {
		deepProto = protoField(1, deepProto) // value of an array
		deepProto = protoField(5, deepProto) // the array
	}
	deepProto = protoField(2, deepProto) // value of the attribute
	for _, n := range []int{9, 2, 2, 1} {
		deepProto = protoField(n, deepProto)
	}
	many := protoField(1, protoField(2, bytes.Repeat([]byte{0x12, 0}, 60_000)))
	values := protoField(1, protoField(2, protoField(2, bytes.Repeat([]byte{9<<3 | 2, 0}, 600_000))))
	bomb := zip(make([]byte, 64<<20))
	tests := []struct {
		name, path, contentType string
		body                    []byte
		header                  []string
		status                  int
		code                    string
	}{
		{"truncated gzip", "/v1/traces", typeJSON, zip([]byte(good))[:40], []string{"Content-Encoding", "gzip"}, 400, "truncated_body"},
		{"not gzip", "/v1/traces", typeJSON, []byte(good), []string{"Content-Encoding", "gzip"}, 400, "bad_compression"},
		{"not deflate", "/v1/traces", typeJSON, []byte(good), []string{"Content-Encoding", "deflate"}, 400, "bad_compression"},
		{"empty gzip", "/v1/traces", typeJSON, nil, []string{"Content-Encoding", "gzip"}, 400, "truncated_body"},
		{"unknown encoding", "/v1/traces", typeJSON, []byte(good), []string{"Content-Encoding", "br"}, 415, "unsupported_encoding"},
		{"gzip bomb", "/v1/traces", typeJSON, bomb, []string{"Content-Encoding", "gzip"}, 413, "too_large"},
		{"gzip bomb of events", "/v1/events", typeJSON, bomb, []string{"Content-Encoding", "gzip"}, 413, "too_large"},
		{"large", "/v1/traces", typeJSON, make([]byte, 33<<20), nil, 413, "too_large"},
		{"bad JSON", "/v1/traces", typeJSON, []byte(`{"resourceSpans":[`), nil, 400, "bad_json"},
		{"JSON of another kind", "/v1/traces", typeJSON, []byte(`[1,2]`), nil, 400, "bad_json"},
		{"wrong type", "/v1/traces", "text/plain", []byte(good), nil, 415, "unsupported_type"},
		{"deep JSON", "/v1/traces", typeJSON, []byte(deepJSON), nil, 400, "too_deep"},
		{"bad protobuf", "/v1/traces", typeProtobuf, []byte("hello"), nil, 400, "bad_protobuf"},
		{"truncated protobuf", "/v1/traces", typeProtobuf, []byte{0x0a, 0x7f, 1}, nil, 400, "bad_protobuf"},
		{"deep protobuf", "/v1/traces", typeProtobuf, deepProto, nil, 400, "too_deep"},
		{"many spans", "/v1/traces", typeProtobuf, many, nil, 413, "too_many"},
		{"many attributes", "/v1/traces", typeProtobuf, values, nil, 413, "too_many"},
		{"events: bad JSON", "/v1/events", typeJSON, []byte(`{"type":`), nil, 400, "invalid_json"},
		{"events: a number", "/v1/events", typeJSON, []byte(`1`), nil, 400, "invalid_json"},
		{"events: nothing", "/v1/events", typeJSON, nil, nil, 400, "invalid_json"},
		{"events: no items", "/v1/events", typeJSON, []byte(`[]`), nil, 400, "empty"},
		{"events: deep", "/v1/events", typeJSON, []byte(strings.Repeat("[", 1000)), nil, 400, "too_deep"},
		{"events: wrong type", "/v1/events", "text/html", []byte(`{}`), nil, 415, "unsupported_type"},
		{"events: form", "/v1/events", "", []byte(`{}`), nil, 415, "unsupported_type"},
	}
	h := newHarness(t)
	for _, tt := range tests {
		w := h.post(tt.path, tt.contentType, tt.body, tt.header...)
		if w.Code != tt.status {
			t.Errorf("%s: status %d, want %d: %.200s", tt.name, w.Code, tt.status, w.Body)
			continue
		}
		if tt.contentType == typeProtobuf {
			if got := w.Header().Get("Content-Type"); got != typeProtobuf || w.Body.Len() == 0 {
				t.Errorf("%s: answer of type %q, %d bytes", tt.name, got, w.Body.Len())
			}
			continue
		}
		var p struct{ Code, Reason any }
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
			t.Errorf("%s: %v in %s", tt.name, err, w.Body)
		}
		if p.Code != tt.code && p.Reason != tt.code {
			t.Errorf("%s: code %v %v, want %s", tt.name, p.Code, p.Reason, tt.code)
		}
	}
	if got := h.tape.take(t); len(got) != 0 {
		t.Errorf("%d events on the tape", len(got))
	}
	h.checkFates(t)
	r := httptest.NewRequest(http.MethodGet, "/v1/events", nil)
	w := httptest.NewRecorder()
	h.http.ServeHTTP(w, r)
	if w.Code != 405 || w.Header().Get("Allow") != "POST" {
		t.Errorf("GET: %d", w.Code)
	}
}

func protoField(n int, b []byte) []byte {
	out := []byte{byte(n<<3 | 2)}
	size := len(b)
	for size >= 0x80 {
		out = append(out, byte(size)|0x80)
		size >>= 7
	}
	return append(append(out, byte(size)), b...)
}

func TestPressure(t *testing.T) {
	h := newHarness(t, func(c *Config) { c.Limits.InFlightBytes = 100 })
	w := h.post("/v1/traces", typeJSON, []byte(spanJSON(true, nil, nil, "")))
	if w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("over the limit: %d %v", w.Code, w.Header())
	}
	h.checkFates(t)

	h = newHarness(t)
	h.tape.err = errors.New("broker is gone")
	for _, p := range []struct{ path, body string }{
		{"/v1/traces", spanJSON(true, nil, map[string]any{"app.request.ref": "r1"}, "")},
		{"/v1/feedback", `{"request":"r","thumbs":"up"}`},
	} {
		w = h.post(p.path, typeJSON, []byte(p.body))
		if w.Code != 503 || w.Header().Get("Retry-After") == "" || strings.Contains(w.Body.String(), "broker") {
			t.Errorf("%s without a tape: %d %s", p.path, w.Code, w.Body)
		}
	}
	h.checkFates(t)
	// The alias of the failed request must not be taken for stored.
	h.tape.err = nil
	got := h.events(t, "/v1/traces", spanJSON(true, nil, map[string]any{"app.request.ref": "r1"}, ""))
	one(t, got, event.AliasBound)
	h.claims.err = errors.New("store is gone")
	big := spanJSON(true, nil, map[string]any{"x": strings.Repeat("x", 300<<10)}, "")
	if w := h.post("/v1/traces", typeJSON, []byte(big)); w.Code != 503 {
		t.Errorf("without an object store: %d", w.Code)
	}
	h.checkFates(t)
}

func TestLargeSpan(t *testing.T) {
	h := newHarness(t)
	text := strings.Repeat("x", 20<<20)
	in := spanJSON(false, nil, map[string]any{"gen_ai.operation.name": "chat", "gen_ai.input.messages": `[{"role":"user","content":"` + text + `"}]`}, "")
	got := h.events(t, "/v1/traces", in)
	e := one(t, got, event.PromptRendered)
	if e.DataRef == "" || len(e.Data) > 0 {
		t.Fatalf("no claim: ref %q, %d bytes", e.DataRef, len(e.Data))
	}
	e.Data = h.claims.m[e.DataRef]
	if p := body[event.Prompt](t, e); len(p.Messages) != 1 || p.Messages[0].Content != text {
		t.Error("the content did not come back")
	}

	h = newHarness(t, func(c *Config) { c.Claims = nil })
	two := strings.Replace(spanJSON(true, nil, nil, ""), `"spans":[`, `"spans":[{"traceId":"`+testTrace+`","spanId":"aaaaaaaaaaaaaaaa","attributes":`+
		jsonAttrs(map[string]any{"x": strings.Repeat("x", 300<<10), "app.request.ref": "gone"})+`},`, 1)
	w := h.post("/v1/traces", typeJSON, []byte(two))
	if w.Code != 200 || !strings.Contains(w.Body.String(), `"rejectedSpans":"1"`) {
		t.Errorf("partial success: %d %s", w.Code, w.Body)
	}
	for _, e := range h.tape.take(t) {
		if e.Facts.Span != testSpan {
			t.Errorf("an event of the rejected span is on the tape: %s", e.Type)
		}
	}
	if h.value(kindSpan, "rejected") != 1 || h.value(kindSpan, "mapped") != 1 {
		t.Error("fates")
	}
	h.checkFates(t)
}

func TestTenants(t *testing.T) {
	h := newHarness(t, func(c *Config) {
		c.Tenant = func(header func(string) string) (string, error) {
			if header("Authorization") == "Bearer k1" {
				return "acme", nil
			}
			return "", ErrUnauthorized
		}
	})
	in := []byte(`{"request":"r","thumbs":"up"}`)
	if w := h.post("/v1/feedback", typeJSON, in); w.Code != 401 {
		t.Errorf("no credential: %d", w.Code)
	}
	if w := h.post("/v1/traces", typeJSON, []byte(`{}`)); w.Code != 401 {
		t.Errorf("no credential: %d", w.Code)
	}
	if w := h.post("/v1/feedback", typeJSON, in, "Authorization", "Bearer k1"); w.Code != 202 {
		t.Errorf("credential: %d", w.Code)
	}
	if e := one(t, h.tape.take(t), event.FeedbackRecorded); e.Facts.Tenant != "acme" {
		t.Errorf("tenant %q", e.Facts.Tenant)
	}
	w := h.post("/v1/feedback", typeJSON, []byte(`{"request":"r","thumbs":"up","tenant":"other"}`), "Authorization", "Bearer k1")
	if w.Code != 400 || !strings.Contains(w.Body.String(), "wrong_tenant") {
		t.Errorf("other tenant: %d %s", w.Code, w.Body)
	}
}
