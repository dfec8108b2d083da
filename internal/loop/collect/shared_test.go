package collect

import (
	"bufio"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/looptape/looptape/internal/loop/event"
)

// shared opens a file of the shared test data, which lies beside the repository
// (or where LOOPTAPE_SHARED says). Without it the real traces are not replayed;
// the small fixtures of dialect_test.go are.
func shared[T any](t testing.TB, name string) []T {
	t.Helper()
	dir := os.Getenv("LOOPTAPE_SHARED")
	if dir == "" {
		root, err := filepath.Abs(filepath.Join("..", "..", ".."))
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(root, "..", "shared")
	}
	f, err := os.Open(filepath.Join(dir, "data", name))
	if err != nil && os.Getenv("CI") == "" {
		t.Skipf("no shared data: %v", err)
	}
	if err != nil {
		t.Fatal(err) // in CI a missing component is a failure
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var out []T
	s := bufio.NewScanner(z)
	s.Buffer(nil, 64<<20)
	for s.Scan() {
		var v T
		if err := json.Unmarshal(s.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		out = append(out, v)
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

type wireRequest struct {
	ID          string          `json:"id"`
	Path        string          `json:"path"`
	ContentType string          `json:"content_type"`
	Encoding    string          `json:"content_encoding"`
	Spans       int             `json:"n_spans"`
	Logs        int             `json:"n_logs"`
	Body        json.RawMessage `json:"body"`
	BodyB64     string          `json:"body_b64"`
}

func (r *wireRequest) bytes(t testing.TB) []byte {
	if r.BodyB64 == "" {
		return r.Body
	}
	b, err := base64.StdEncoding.DecodeString(r.BodyB64)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// send replays the requests and returns the events in order.
func send(t testing.TB, h *harness, reqs []wireRequest) []event.Event {
	var all []event.Event
	for i := range reqs {
		r := &reqs[i]
		body, header := r.bytes(t), []string{}
		if r.Encoding == "gzip" {
			body, header = zip(body), []string{"Content-Encoding", "gzip"}
		}
		if w := h.post(r.Path, r.ContentType, body, header...); w.Code != 200 {
			t.Fatalf("%s: %d %s", r.ID, w.Code, w.Body)
		}
		all = append(all, h.tape.take(t)...)
	}
	return all
}

func TestWireRequests(t *testing.T) {
	reqs := shared[wireRequest](t, "otlp_wire_dev.jsonl.gz")
	h := newHarness(t)
	first := send(t, h, reqs)
	h.checkFates(t)
	if len(reqs) != 85 || h.received(kindSpan) != 3177 || h.received(kindLog) != 4443 {
		t.Errorf("%d requests, %d spans, %d log records; want 85, 3177, 4443", len(reqs), h.received(kindSpan), h.received(kindLog))
	}
	for _, kind := range []string{kindSpan, kindLog} {
		if n := h.value(kind, "mapped"); n != h.received(kind) {
			t.Errorf("%s: %d of %d mapped", kind, n, h.received(kind))
		}
	}

	ids := map[string]string{}
	types := map[string]int{}
	aliases := map[string]string{} // reference -> request
	started := map[string]bool{}
	closed := map[string]bool{}
	order := map[string][]int64{}
	limits := 0
	for _, e := range first {
		types[e.Type]++
		if other, taken := ids[e.ID]; taken {
			t.Errorf("id %s twice: %s and %s", e.ID, other, e.Type)
		}
		ids[e.ID] = e.Type
		if err := h.c.cfg.Contract.Validate(e.Type, e.Data); err != nil {
			t.Errorf("%v", err)
		}
		switch e.Type {
		case event.AliasBound:
			a := body[event.Alias](t, e)
			if a.Kind == "reference" {
				aliases[a.Request] = a.Alias
			}
		case event.RequestStarted:
			started[e.Facts.Request] = true
			if e.Facts.Session == "" || e.Facts.Subject == "" || e.Facts.Release == "" || e.Facts.App != "support-assistant" || e.Facts.Environment != "capture" {
				t.Errorf("facts %+v", e.Facts)
			}
		case event.RequestClosed:
			closed[e.Facts.Request] = true
			if r := body[event.Response](t, e); r.Error != nil && r.Error.Status == 429 {
				limits++
			} else if r.LatencyMs <= 0 {
				t.Errorf("no latency: %s", e.Data)
			}
		case event.PromptRendered:
			if strings.Contains(string(e.Data), "gen_ai.system.message") || strings.Contains(string(e.Data), "otel.event") {
				order[e.Facts.Span] = append(order[e.Facts.Span], body[event.Prompt](t, e).Order)
			}
		}
	}
	for request := range started {
		if aliases[request] == "" || !closed[request] {
			t.Errorf("request %s: alias %q, closed %v", request, aliases[request], closed[request])
		}
	}
	if len(started) == 0 || types[event.RequestStarted] != len(started) || len(closed) != len(started) {
		t.Errorf("%d started, %d requests, %d closed", types[event.RequestStarted], len(started), len(closed))
	}
	if limits == 0 {
		t.Error("no rate limit became a fact")
	}
	for span, places := range order {
		slices.Sort(places)
		for i, n := range places {
			if int64(i) != n {
				t.Errorf("span %s: places %v", span, places)
				break
			}
		}
	}
	t.Logf("%d events: %v", len(first), types)

	// Sent again to the same collector, and to one that knows nothing.
	for name, h := range map[string]*harness{"again": h, "another collector": newHarness(t)} {
		second := send(t, h, reqs)
		for _, e := range second {
			if typ, ok := ids[e.ID]; !ok || typ != e.Type {
				t.Errorf("%s: new id %s of type %s", name, e.ID, e.Type)
			}
		}
		if name != "again" && len(second) != len(first) {
			t.Errorf("%s: %d events, first %d", name, len(second), len(first))
		}
		for i, j := 0, 0; name != "again" && i < len(first) && j < len(second); i, j = i+1, j+1 {
			if !slices.Equal(first[i].Data, second[j].Data) {
				t.Errorf("%s: bodies differ:\n%s\n%s", name, first[i].Data, second[j].Data)
			}
		}
	}
}

type dialectRequest struct {
	ID      string          `json:"id"`
	Request json.RawMessage `json:"request"`
}

// TestDialects replays traces of many frameworks and looks for every attribute
// of every span: it must be a field, a fact, or an attribute.
func TestDialects(t *testing.T) {
	for _, file := range []string{"otlp_framework_traces.jsonl.gz", "otlp_dialect_fixtures.jsonl.gz"} {
		h := newHarness(t)
		kinds := map[string]int{}
		for _, r := range shared[dialectRequest](t, file) {
			w := h.post("/v1/traces", typeJSON, r.Request)
			if w.Code != 200 {
				t.Fatalf("%s: %d %s", r.ID, w.Code, w.Body)
			}
			events := h.tape.take(t)
			for _, e := range events {
				kinds[e.Type]++
				if err := h.c.cfg.Contract.Validate(e.Type, e.Data); err != nil {
					t.Errorf("%s: %v", r.ID, err)
				}
			}
			for _, s := range texts(t, r.Request) {
				if lost(events, s) {
					t.Errorf("%s: lost %.120q", r.ID, s)
				}
			}
		}
		h.checkFates(t)
		t.Logf("%s: %d spans, %d quarantined; %v", file, h.received(kindSpan), h.value(kindSpan, "quarantined"), kinds)
	}
}

// texts returns the string values of all attributes, span events included.
func texts(t *testing.T, request json.RawMessage) []string {
	var v any
	if err := json.Unmarshal(request, &v); err != nil {
		t.Fatal(err)
	}
	var out []string
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if key, ok := v["key"].(string); ok {
				value, _ := v["value"].(map[string]any)
				if s, ok := value["stringValue"].(string); ok && !consumed(key) {
					out = append(out, s)
				}
			}
			for _, k := range slices.Sorted(maps.Keys(v)) {
				walk(v[k])
			}
		case []any:
			for _, e := range v {
				walk(e)
			}
		}
	}
	walk(v)
	return out
}

// consumed lists attributes whose value is not kept as text by design: people
// become pseudonyms, kinds become the type of the event, JSON becomes fields.
func consumed(key string) bool {
	switch key {
	case "user.id", "langfuse.user.id", "ai.telemetry.metadata.userId", "langfuse.trace.metadata.langfuse_user_id", "langfuse.observation.metadata.langfuse_user_id",
		"openinference.span.kind", "langfuse.observation.type", "ai.operationId", "llm.request.type", "langfuse.observation.usage_details":
		return true
	}
	return strings.HasSuffix(key, "message_content.type")
}

// lost reports whether a text is nowhere in the events. Text that is JSON has
// become fields: then its longer strings must be there, but for the names of
// events, which have become roles.
func lost(events []event.Event, s string) bool {
	var all strings.Builder
	for _, e := range events {
		var v any
		_ = json.Unmarshal(e.Data, &v)
		flatten(&all, v)
		e.Facts.Each(func(_, value string) { all.WriteString(value + "\n") })
	}
	have := all.String()
	if strings.Contains(have, s) {
		return false
	}
	var v any
	if json.Unmarshal([]byte(s), &v) != nil {
		return true
	}
	var parts strings.Builder
	flatten(&parts, v)
	for part := range strings.Lines(parts.String()) {
		if part = strings.TrimSuffix(part, "\n"); len(part) > 12 && !strings.HasPrefix(part, "gen_ai.") && !strings.Contains(have, part) {
			return true
		}
	}
	return false
}

// flatten writes every text in v, and the texts in texts that are JSON.
func flatten(b *strings.Builder, v any) {
	switch v := v.(type) {
	case map[string]any:
		for _, e := range v {
			flatten(b, e)
		}
	case []any:
		for _, e := range v {
			flatten(b, e)
		}
	case string:
		b.WriteString(v + "\n")
		var inner any
		if looksLikeJSON(v) && json.Unmarshal([]byte(v), &inner) == nil {
			flatten(b, inner)
		}
	case float64:
		fmt.Fprintln(b, v)
	}
}
