package web

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/looptape/looptape/internal/loop/event"
	"github.com/looptape/looptape/internal/loop/stream"
	"github.com/looptape/looptape/internal/loop/view"
)

var base = time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)

// tape is a log in memory.
type tape struct {
	recs []event.Record
	more chan event.Record // given after recs, while it is not nil
	fail map[event.Position]error
}

func (l *tape) add(t testing.TB, topic, key string, body any, e event.Event) *event.Position {
	t.Helper()
	if body != nil {
		if err := e.SetBody(body); err != nil {
			t.Fatal(err)
		}
	}
	r := e.Record(topic, key, key)
	r.Partition, r.Offset, r.Time = 0, int64(len(l.recs)), e.Time
	l.recs = append(l.recs, r)
	return &event.Position{Topic: topic, Offset: r.Offset}
}

func (l *tape) ReadAt(_ context.Context, at event.Position) (event.Record, error) {
	if err := l.fail[at]; err != nil {
		return event.Record{}, err
	}
	if at.Offset >= int64(len(l.recs)) || l.recs[at.Offset].Topic != at.Topic {
		return event.Record{}, fmt.Errorf("read %v: %w", at, stream.ErrGone)
	}
	return l.recs[at.Offset], nil
}

func (l *tape) Tail(ctx context.Context, cfg stream.TailConfig) error {
	next := map[string]map[int32]int64{}
	give := func(r event.Record) error {
		next[r.Topic] = map[int32]int64{0: r.Offset + 1}
		return cfg.Batch(ctx, []event.Record{r}, map[string]map[int32]int64{r.Topic: {0: r.Offset + 1}})
	}
	for _, r := range l.recs {
		if err := give(r); err != nil {
			return err
		}
	}
	cfg.CaughtUp()
	if l.more == nil {
		return nil
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case r := <-l.more:
			if err := give(r); err != nil {
				return err
			}
		}
	}
}

func ptr[T any](v T) *T { return &v }

const (
	first  = "0af7651916cd43dd8448eb211c80319c"
	second = "1bf7651916cd43dd8448eb211c80319d"
)

// sample is a tape with two requests, a gate that rolled back, and more.
func sample(t testing.TB) *tape {
	l := &tape{fail: map[event.Position]error{}}
	for i, id := range []string{first, second} {
		at := base.Add(time.Duration(i) * time.Minute)
		facts := event.Facts{Tenant: "default", App: "chat", Request: id, Trace: id, Release: "r/2", Arm: "candidate", Model: "m"}
		var parts []event.Part
		put := func(topic, typ string, body any, after time.Duration) {
			e := event.Event{ID: id[:4] + typ, Type: typ, Time: at.Add(after), Facts: facts}
			parts = append(parts, event.Part{ID: e.ID, Type: typ, Time: e.Time, Position: l.add(t, topic, id, body, e)})
		}
		put(event.TopicPrompt, event.PromptRendered, event.Prompt{Messages: []event.Message{{Role: "user", Content: "What is <b>it</b>?"}}}, 0)
		put(event.TopicRetrieval, event.RetrievalCompleted, event.Retrieval{Documents: []event.Document{{ID: "d", Text: "It is a log."}}}, 1)
		put(event.TopicResponse, event.ModelCallCompleted, event.Response{Messages: []event.Message{{Role: "assistant", Content: "A log."}}}, 2)
		parts = append(parts, event.Part{ID: "lost", Type: event.FeedbackRecorded, Time: at.Add(3)})
		c := event.Case{Request: id, Tenant: "default", Revision: 4, App: "chat", Release: "r/2", Arm: "candidate", Start: at, Parts: parts, Aliases: []string{"alias" + id[:4]},
			Scores: []event.CaseScore{{Evaluator: "grounded@1#a", Metric: "grounded", Mode: "live", Status: "scored", Value: ptr(float64(i)), Good: "high"}}}
		l.add(t, event.TopicCase, "default/"+id, &c, event.Event{ID: "c" + id, Type: event.CaseRevised, Time: at, Facts: facts})
	}
	rf := event.Facts{Tenant: "default", Release: "r/2"}
	l.add(t, event.TopicDeployment, "r/2", event.Deployment{Release: "r/2", Baseline: "r/1"}, event.Event{ID: "d1", Type: event.DeploymentStarted, Time: base, Facts: rf})
	for seq := range int64(3) {
		l.add(t, event.TopicDecision, "r/2", event.Evidence{Release: "r/2", Baseline: "r/1", Seq: seq + 1, Time: base.Add(time.Duration(seq) * time.Second), State: event.GateComparing, Stage: "s",
			Guards: []event.GuardRead{{Metric: "grounded", Effect: -0.1}}, Thresholds: map[string]float64{"rollback": 4}}, event.Event{ID: fmt.Sprint("e", seq+1), Type: event.GateEvidence, Time: base, Facts: rf})
	}
	l.add(t, event.TopicDecision, "r/2", event.Decision{Release: "r/2", Baseline: "r/1", Seq: 1, EvidenceSeq: 3, Time: base.Add(3 * time.Second), Action: event.ActRollback, State: event.GateRollingBack, Reason: "It got worse."},
		event.Event{ID: "x1", Type: event.GateDecision, Time: base, Facts: rf})
	l.add(t, event.TopicQuarantine, "default", event.Quarantined{Reason: "unknown_span", Kind: "span"}, event.Event{ID: "q1", Type: event.EventQuarantined, Time: base, Facts: event.Facts{Tenant: "default"}})
	return l
}

// server folds the tape into a view and serves it.
func server(t testing.TB, l *tape, change func(*Config)) (*Server, http.Handler) {
	t.Helper()
	v, err := view.Open(t.Context(), view.Config{Path: filepath.Join(t.TempDir(), "view.db"), Source: l})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	if l.more == nil {
		if err := v.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	cfg := Config{View: v, Log: l, Version: "test", Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return base.Add(time.Hour) }}
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s, s.Handler()
}

func get(t testing.TB, h http.Handler, path string) (int, map[string]any) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	var body map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
		t.Fatalf("GET %s: %d, not a JSON object: %q", path, w.Code, w.Body)
	}
	return w.Code, body
}

// at walks a decoded JSON value by keys and indexes.
func at(v any, path ...any) any {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[p]
		case int:
			a, _ := v.([]any)
			if p >= len(a) {
				return nil
			}
			v = a[p]
		}
	}
	return v
}

func TestRoutes(t *testing.T) {
	_, h := server(t, sample(t), nil)
	for _, tt := range []struct {
		path   string
		status int
		where  []any
		want   any
	}{
		{"/healthz", 200, []any{"ok"}, true},
		{"/readyz", 200, []any{"ok"}, true},
		{"/v1/overview", 200, []any{"counts", "cases"}, 2.0},
		{"/v1/overview", 200, []any{"seen", "prompt", "n"}, 2.0},
		{"/v1/overview", 200, []any{"decisions", 0, "action"}, "rollback"},
		{"/v1/overview?x=1", 400, []any{"code"}, "bad_request"},
		{"/v1/cases", 200, []any{"cases", 0, "request"}, second},
		{"/v1/cases", 200, []any{"cases", 0, "parts"}, nil},
		{"/v1/cases?parts=true", 200, []any{"cases", 0, "parts", 0, "id"}, "1bf7" + event.PromptRendered},
		{"/v1/cases?limit=1", 200, []any{"cases", 1}, nil},
		{"/v1/cases?release=r%2F2&metric=grounded&sort=worst", 200, []any{"cases", 0, "request"}, first},
		{"/v1/cases?metric=grounded&max=0.5", 200, []any{"cases", 0, "request"}, first},
		{"/v1/cases?until=2026-11-20T09:00:30Z", 200, []any{"cases", 0, "request"}, first},
		{"/v1/cases?since=59m30s", 200, []any{"cases", 0, "request"}, second},
		{"/v1/cases?since=59m30s", 200, []any{"cases", 1}, nil},
		{"/v1/cases?prefix=0af", 200, []any{"cases", 0, "request"}, first},
		{"/v1/cases?relase=r", 400, []any{"code"}, "bad_request"},
		{"/v1/cases?limit=0", 400, []any{"code"}, "bad_request"},
		{"/v1/cases?limit=1000", 400, []any{"code"}, "bad_request"},
		{"/v1/cases?max=0.5", 400, []any{"code"}, "bad_request"},
		{"/v1/cases?metric=a&max=NaN", 400, []any{"code"}, "bad_request"},
		{"/v1/cases?sort=worst", 400, []any{"code"}, "bad_request"},
		{"/v1/cases?sort=best", 400, []any{"code"}, "bad_request"},
		{"/v1/cases?failed=perhaps", 400, []any{"code"}, "bad_request"},
		{"/v1/cases?since=yesterday", 400, []any{"code"}, "bad_request"},
		{"/v1/cases?arm=a&arm=b", 400, []any{"code"}, "bad_request"},
		{"/v1/cases?cursor=zzz", 400, []any{"code"}, "bad_cursor"},
		{"/v1/cases?a;b", 400, []any{"code"}, "bad_request"},
		{"/v1/cases?prefix=" + strings.Repeat("x", 600), 400, []any{"code"}, "bad_request"},
		{"/v1/cases/" + first, 200, []any{"request", "question"}, "What is <b>it</b>?"},
		{"/v1/cases/alias0af7", 200, []any{"case", "request"}, first},
		{"/v1/cases/" + strings.ToUpper(first), 200, []any{"case", "request"}, first},
		{"/v1/cases/none", 404, []any{"code"}, "case_not_found"},
		{"/v1/cases/" + strings.Repeat("x", 600), 400, []any{"code"}, "bad_request"},
		{"/v1/gates/r%2F2", 200, []any{"phase"}, "Failed"},
		{"/v1/gates/r%2F2", 200, []any{"ok"}, false},
		{"/v1/gates/r%2F2", 200, []any{"decision", "action"}, "rollback"},
		{"/v1/gates/r%2F2", 200, []any{"evidence", "seq"}, 3.0},
		{"/v1/gates/none", 404, []any{"code"}, "gate_not_found"},
		{"/v1/gates/r%2F2/series", 200, []any{"points", 2, "seq"}, 3.0},
		{"/v1/gates/none/series", 200, []any{"points", 0}, nil},
		{"/v1/gates/r%2F2/series?points=0", 400, []any{"code"}, "bad_request"},
		{"/v1/gates", 200, []any{"gates", 0, "release"}, "r/2"},
		{"/v1/decisions", 200, []any{"decisions", 0, "id"}, "x1"},
		{"/v1/decisions?release=other", 200, []any{"decisions", 0}, nil},
		{"/v1/releases", 200, []any{"releases", 0, "release"}, "r/2"},
		{"/v1/releases/r%2F2", 200, []any{"deployments", 0, "type"}, event.DeploymentStarted},
		{"/v1/releases/none", 404, []any{"code"}, "release_not_found"},
		{"/v1/stream/recent?limit=500", 200, []any{"events", 0, "position", "partition"}, 0.0},
		{"/v1/stream/recent?type=gate.decision", 200, []any{"events", 0, "summary", "action"}, "rollback"},
		{"/v1/quarantine", 200, []any{"quarantined", 0, "reason"}, "unknown_span"},
		{"/v1/nothing", 404, []any{"code"}, "no_route"},
		{"/assets/none.js", 404, []any{"code"}, "no_file"},
	} {
		code, body := get(t, h, tt.path)
		if got := at(body, tt.where...); code != tt.status || got != tt.want {
			t.Errorf("GET %.80s: %d, %v = %v; want %d, %v", tt.path, code, tt.where, got, tt.status, tt.want)
		}
		if code >= 400 && at(body, "message") == "" {
			t.Errorf("GET %.80s: no sentence", tt.path)
		}
	}
}

func TestTimeline(t *testing.T) {
	l := sample(t)
	l.fail[event.Position{Topic: event.TopicRetrieval, Offset: 1}] = errors.New("disk on fire at /secret/path")
	_, h := server(t, l, nil)
	l.recs[2].Headers[1].Value = []byte("another") // the record of the answer is of another log now
	_, body := get(t, h, "/v1/cases/"+first)
	var states []string
	for i := range 4 {
		states = append(states, fmt.Sprint(at(body, "timeline", i, "state")))
	}
	if got := strings.Join(states, " "); got != "read failed gone gone" {
		t.Errorf("states: %s", got)
	}
	if got := at(body, "timeline", 0, "body", "messages", 0, "content"); got != "What is <b>it</b>?" {
		t.Errorf("body: %v", got)
	}
	if got := at(body, "timeline", 0, "facts", "model"); got != "m" {
		t.Errorf("facts: %v", got)
	}
	if b, err := json.Marshal(body); err != nil || strings.Contains(string(b), "secret") {
		t.Errorf("the answer tells the error: %s, %v", b, err)
	}
}

// claims resolves every reference to one body.
type claims struct{ body string }

func (c claims) Resolve(_ context.Context, e *event.Event) error {
	if c.body == "" {
		return errors.New("gone")
	}
	e.Data = []byte(c.body)
	return nil
}

func TestClaimedBodies(t *testing.T) {
	for _, tt := range []struct {
		name, ref, body, want string
	}{
		{"resolved", "claim:sha256/00/300", `{"messages":[{"role":"user","content":"long"}]}`, "read"},
		{"too large to show", "claim:sha256/00/99999999", `{}`, "unread"},
		{"malformed reference", "claim:whatever", `{}`, "unread"},
		{"not there", "claim:sha256/00/300", "", "failed"},
		{"not JSON", "claim:sha256/00/300", "}{", "read"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := &tape{}
			e := event.Event{ID: "big", Type: event.PromptRendered, Time: base, DataRef: tt.ref, Facts: event.Facts{Tenant: "default", Request: "r"}}
			c := event.Case{Request: "r", Tenant: "default", Start: base, Parts: []event.Part{{ID: "big", Type: e.Type, Time: base, Position: l.add(t, event.TopicPrompt, "r", nil, e)}}}
			l.add(t, event.TopicCase, "default/r", &c, event.Event{ID: "c", Type: event.CaseRevised, Time: base})
			_, h := server(t, l, func(c *Config) { c.Claims = claims{tt.body} })
			code, body := get(t, h, "/v1/cases/r")
			if got := at(body, "timeline", 0, "state"); code != 200 || got != tt.want {
				t.Errorf("%d, state %v, want %s", code, got, tt.want)
			}
		})
	}
}

func TestPendingCase(t *testing.T) {
	l := &tape{}
	l.add(t, event.TopicPrompt, "r", event.Prompt{}, event.Event{ID: "p", Type: event.PromptRendered, Time: base, Facts: event.Facts{Request: "r"}})
	_, h := server(t, l, nil)
	if code, body := get(t, h, "/v1/cases/r"); code != 404 || body["code"] != "case_pending" {
		t.Errorf("%d %v", code, body)
	}
}

func TestTenantsAreApart(t *testing.T) {
	_, h := server(t, sample(t), func(c *Config) {
		c.Tenant = func(r *http.Request) (string, error) {
			if r.Header.Get("Authorization") == "" {
				return "", errors.New("no key")
			}
			return r.Header.Get("Authorization"), nil
		}
	})
	for _, path := range []string{"/v1/overview", "/v1/cases", "/v1/live"} {
		if code, body := get(t, h, path); code != 401 || body["code"] != "unauthorized" {
			t.Errorf("%s without a credential: %d %v", path, code, body)
		}
	}
	for _, path := range []string{"/v1/cases/" + first, "/v1/gates/r%2F2", "/v1/releases/r%2F2"} {
		w, r := httptest.NewRecorder(), httptest.NewRequest("GET", path, nil)
		r.Header.Set("Authorization", "other")
		h.ServeHTTP(w, r)
		if w.Code != 404 {
			t.Errorf("%s of another tenant: %d %s", path, w.Code, w.Body)
		}
	}
}

func TestGateStatus(t *testing.T) {
	ev := func(state, stage string, seq int64) *event.Evidence {
		return &event.Evidence{State: state, Stage: stage, Seq: seq}
	}
	dec := func(action, state, stage string, seq int64, acks ...string) []view.DecisionRow {
		d := view.DecisionRow{Decision: event.Decision{Action: action, State: state, Stage: stage, EvidenceSeq: seq}}
		for _, a := range acks {
			d.Acknowledgements = append(d.Acknowledgements, event.Acknowledgement{Outcome: a})
			if a == "done" {
				d.CarriedOut = &base
			}
		}
		return []view.DecisionRow{d}
	}
	for name, tt := range map[string]struct {
		g            view.Gate
		phase, state string
	}{
		"warming":                   {view.Gate{Evidence: ev(event.GateWarming, "a", 1)}, phaseInconclusive, event.GateWarming},
		"comparing":                 {view.Gate{Evidence: ev(event.GateComparing, "a", 9)}, phaseInconclusive, event.GateComparing},
		"rollback decided":          {view.Gate{Evidence: ev(event.GateComparing, "a", 9), Decisions: dec(event.ActRollback, event.GateRollingBack, "a", 9)}, phaseFailed, event.GateRollingBack},
		"rollback tried in vain":    {view.Gate{Evidence: ev(event.GateComparing, "a", 9), Decisions: dec(event.ActRollback, event.GateRollingBack, "a", 9, "failed")}, phaseFailed, event.GateRollingBack},
		"rollback carried out":      {view.Gate{Evidence: ev(event.GateComparing, "a", 9), Decisions: dec(event.ActRollback, event.GateRollingBack, "a", 9, "failed", "done")}, phaseFailed, event.GateRolledBack},
		"this stage passed":         {view.Gate{Evidence: ev(event.GateComparing, "a", 9), Decisions: dec(event.ActAdvance, event.GateComparing, "a", 7)}, phaseSuccessful, event.GateComparing},
		"an earlier stage passed":   {view.Gate{Evidence: ev(event.GateComparing, "b", 9), Decisions: dec(event.ActAdvance, event.GateComparing, "a", 7)}, phaseInconclusive, event.GateComparing},
		"promoted":                  {view.Gate{Evidence: ev(event.GateComparing, "a", 9), Decisions: dec(event.ActAdvance, event.GatePromoted, "a", 9)}, phaseSuccessful, event.GatePromoted},
		"hold, and left again":      {view.Gate{Evidence: ev(event.GateComparing, "a", 9), Decisions: dec(event.ActHold, event.GateHold, "a", 5)}, phaseInconclusive, event.GateComparing},
		"quarantined":               {view.Gate{Evidence: ev(event.GateComparing, "a", 9), Decisions: dec(event.ActQuarantine, event.GateQuarantined, "a", 9)}, phaseInconclusive, event.GateQuarantined},
		"a decision, evidence lost": {view.Gate{Decisions: dec(event.ActRollback, event.GateRollingBack, "a", 9)}, phaseFailed, event.GateRollingBack},
	} {
		got := gateStatus(tt.g)
		if got.Phase != tt.phase || got.State != tt.state || got.OK != (tt.phase == phaseSuccessful) || got.Message == "" {
			t.Errorf("%s: %s %s %q; want %s %s", name, got.Phase, got.State, got.Message, tt.phase, tt.state)
		}
	}
}

func TestPostsAndMethods(t *testing.T) {
	var got []string
	collect := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { got = append(got, r.Method+" "+r.URL.Path) })
	_, h := server(t, sample(t), func(c *Config) { c.Collect, c.Metrics = collect, collect })
	do := func(method, path string, header ...string) *httptest.ResponseRecorder {
		w, r := httptest.NewRecorder(), httptest.NewRequest(method, path, nil)
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		h.ServeHTTP(w, r)
		return w
	}
	for _, path := range collected {
		do("POST", path)
	}
	do("GET", "/metrics")
	if want := len(collected) + 1; len(got) != want {
		t.Errorf("handlers saw %v, want %d requests", got, want)
	}
	if w := do("POST", "/v1/feedback", "Origin", "https://elsewhere.example", "Sec-Fetch-Site", "cross-site"); w.Code != 403 || len(got) != len(collected)+1 {
		t.Errorf("a foreign page's request: %d %s", w.Code, w.Body)
	}
	if w := do("POST", "/v1/cases"); w.Code != 405 || w.Header().Get("Allow") == "" {
		t.Errorf("POST to a GET route: %d %s", w.Code, w.Body)
	}
	if w := do("DELETE", "/v1/none"); w.Code != 404 {
		t.Errorf("DELETE of nothing: %d %s", w.Code, w.Body)
	}
	w := do("GET", "/v1/cases", "Origin", "https://elsewhere.example")
	if w.Header().Get("Access-Control-Allow-Origin") != "" || !strings.Contains(w.Header().Get("Content-Security-Policy"), "default-src 'none'") || w.Header().Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("headers: %v", w.Header())
	}
	if w := do("GET", "/v1/cases", "Accept-Encoding", "gzip"); w.Header().Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(w.Body)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(z); err != nil || !json.Valid(b) {
			t.Errorf("compressed answer: %v", err)
		}
	}
}

func TestNotReady(t *testing.T) {
	_, h := server(t, sample(t), func(c *Config) { c.Ready = func() error { return errors.New("the tape is not open yet") } })
	if code, body := get(t, h, "/readyz"); code != 503 || body["message"] != "the tape is not open yet" {
		t.Errorf("%d %v", code, body)
	}
	if code, _ := get(t, h, "/healthz"); code != 200 {
		t.Errorf("healthz: %d", code)
	}
}

func TestPages(t *testing.T) {
	_, h := server(t, sample(t), nil)
	for _, path := range []string{"/", "/cases/0af7", "/releases/r%2F2", "/cases/name.with.dots"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") {
			t.Errorf("GET %s: %d %s", path, w.Code, w.Header())
		}
		again, r := httptest.NewRecorder(), httptest.NewRequest("GET", path, nil)
		r.Header.Set("If-None-Match", w.Header().Get("Etag"))
		h.ServeHTTP(again, r)
		if again.Code != 304 || again.Body.Len() != 0 {
			t.Errorf("GET %s again: %d", path, again.Code)
		}
	}
}

func TestUnknownPageIsNotFound(t *testing.T) {
	_, h := server(t, sample(t), nil)
	for _, path := range []string{"/debug/pprof/", "/favicon.ico", "/casesx"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != 404 {
			t.Errorf("GET %s: %d", path, w.Code)
		}
	}
}

func TestPanicIsOneRequests(t *testing.T) {
	s, _ := server(t, sample(t), nil)
	h := s.recovered(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("with content") }))
	if code, body := get(t, h, "/"); code != 500 || strings.Contains(fmt.Sprint(body), "content") {
		t.Errorf("%d %v", code, body)
	}
}

// The whole way of a live event: from the log through the view to the client.
func TestLiveOverHTTP(t *testing.T) {
	l := sample(t)
	l.more = make(chan event.Record)
	s, h := server(t, l, func(c *Config) { c.LiveClients = 1 })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.cfg.View.Run(ctx) }()
	srv := httptest.NewServer(h)
	defer srv.Close()
	res, err := http.Get(srv.URL + "/v1/live")
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, 1<<20)
	until := func(prefix string) string {
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), prefix) {
				lines.Scan()
				return lines.Text()
			}
		}
		t.Fatalf("the stream ended before %q: %v", prefix, lines.Err())
		return ""
	}
	if d := until("event: hello"); !strings.Contains(d, `"version":"test"`) {
		t.Errorf("hello: %s", d)
	}
	busy, err := http.Get(srv.URL + "/v1/live")
	if err != nil || busy.StatusCode != 503 {
		t.Errorf("one client too many: %v %v", busy.StatusCode, err)
	}
	busy.Body.Close()
	e := event.Event{ID: "new", Type: event.PromptRendered, Time: base, Facts: event.Facts{Tenant: "default", Request: url.PathEscape("r\n\nevent: forged")}}
	if err := e.SetBody(event.Prompt{Name: "a\nb"}); err != nil {
		t.Fatal(err)
	}
	r := e.Record(event.TopicPrompt, "r", "r")
	r.Partition, r.Offset = 0, 1000
	l.more <- r
	for {
		if d := until("event: events"); strings.Contains(d, `"id":"new"`) {
			break
		}
	}
	res.Body.Close()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A deployment that has only just started has left nothing on the log yet: the
// gate itself answers for it, since a ramp would take 404 for a failure.
func TestGateThatHasOnlyStarted(t *testing.T) {
	_, h := server(t, sample(t), func(cfg *Config) {
		cfg.Gate = func(_, release string) (event.GateStatus, bool, error) {
			return event.GateStatus{Release: release, State: event.GateWarming, Phase: phaseInconclusive}, release == "just-started", nil
		}
	})
	if code, a := get(t, h, "/v1/gates/just-started"); code != 200 || a["state"] != event.GateWarming || a["phase"] != phaseInconclusive {
		t.Errorf("a gate that has only started: %d %v", code, a)
	}
	if code, _ := get(t, h, "/v1/gates/never-heard-of"); code != 404 {
		t.Errorf("a release without a gate: %d, want 404", code)
	}
}
