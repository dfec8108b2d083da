package collect

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/loop/event"
)

func result1(t *testing.T, h *harness, path, in string, header ...string) (int, result) {
	t.Helper()
	w := h.post(path, typeJSON, []byte(in), header...)
	var r result
	if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil {
		t.Fatalf("%s: %v", w.Body, err)
	}
	return w.Code, r
}

func TestShortForm(t *testing.T) {
	h := newHarness(t)
	code, r := result1(t, h, "/v1/events", `{"type":"prompt.rendered","request":"r1","release":"v2","arm":"candidate","propensity":0.25,"unit":"u1","unit_kind":"user","segments":{"region":"eu"},
		"segment.tier":"gold","user":"alice","model":"m","prompt":"hi","params":{"temperature":1},"colour":"red","time":"2026-01-02T03:04:05.000000006+01:00"}`)
	if code != 202 || r.Status != "accepted" || r.Request != "r1" {
		t.Fatalf("%d %+v", code, r)
	}
	e := one(t, h.tape.take(t), event.PromptRendered)
	quarter := 0.25
	want := event.Event{
		ID: r.ID, Type: event.PromptRendered, Source: "http", Time: time.Date(2026, 1, 2, 2, 4, 5, 6, time.UTC), DataSchema: "urn:looptape:schema:prompt:1",
		Facts: event.Facts{Tenant: "default", Request: "r1", Release: "v2", Arm: "candidate", Propensity: &quarter, Unit: "u1", UnitKind: "user", Model: "m",
			Subject: pseudonyms{}.Pseudonym("default", "alice"), Segments: map[string]string{"region": "eu", "tier": "gold"}, Privacy: "P3", Retention: "hot", ReceivedTime: testNow},
		Data:     []byte(`{"attributes":{"colour":"red"},"messages":[{"role":"user","content":"hi"}],"params":{"temperature":1}}`),
		Position: event.Position{Topic: "llm.prompt", Partition: -1},
	}
	if d := cmp.Diff(want, e); d != "" {
		t.Error(d)
	}
	// The same again has the same id; another time makes it another event.
	_, again := result1(t, h, "/v1/events", `{"time":"2026-01-02T02:04:05.000000006Z","type":"prompt.rendered","request":"r1","release":"v2","arm":"candidate","propensity":0.25,"unit":"u1","unit_kind":"user","segments":{"region":"eu","tier":"gold"},
		"user":"alice","model":"m","messages":[{"role":"user","content":"hi"}],"params":{"temperature":1},"attributes":{"colour":"red"}}`)
	if again.ID != r.ID {
		t.Error("the same event has another id")
	}
	h.checkFates(t)
}

func TestKeys(t *testing.T) {
	trace := strings.ToUpper(testTrace)
	tests := []struct {
		in               string
		topic, key, pkey string
		request          string
	}{
		{`{"type":"feedback.recorded","request":"r1","kind":"label","label":"x"}`, "llm.feedback", "r1", "r1", "r1"},
		{`{"type":"feedback.recorded","response":"resp","kind":"label"}`, "llm.feedback", "resp", "resp", ""},
		{`{"type":"feedback.recorded","trace":"` + trace + `","kind":"label"}`, "llm.feedback", testTrace, testTrace, ""},
		{`{"type":"feedback.recorded","alias":"order 7","kind":"label"}`, "llm.feedback", "order 7", "order 7", ""},
		{`{"type":"alias.bound","alias":"a","request":"r1"}`, "llm.alias", "a\x1fr1", "a", "r1"},
		{`{"type":"deployment.started","release":"v2","baseline":"v1","propensity":0.1}`, "llm.deployment", "v2", "v2", ""},
		{`{"type":"action.executed","request":"r1","tool":"f"}`, "llm.action", "r1", "r1", "r1"},
		{`{"type":"retrieval.completed","request":"r1","source":"kb","documents":["a passage",{"id":"d"}]}`, "llm.retrieval", "r1", "r1", "r1"},
	}
	for _, tt := range tests {
		h := newHarness(t)
		if code, r := result1(t, h, "/v1/events", tt.in); code != 202 || r.Status != "accepted" {
			t.Errorf("%s: %d %+v", tt.in, code, r)
			continue
		}
		rec := h.tape.recs[0]
		if rec.Topic != tt.topic || string(rec.Key) != tt.key || rec.Header("ce_partitionkey") != tt.pkey || rec.Header("request") != tt.request || rec.Partition != -1 {
			t.Errorf("%s: topic %s key %q partition key %q request %q", tt.in, rec.Topic, rec.Key, rec.Header("ce_partitionkey"), rec.Header("request"))
		}
		if tt.topic == "llm.retrieval" && string(rec.Value) != `{"documents":[{"rank":1,"text":"a passage"},{"id":"d"}],"source":"kb"}` {
			t.Errorf("%s", rec.Value)
		}
		if tt.topic == "llm.deployment" && string(rec.Value) != `{"baseline":"v1","propensity":0.1,"release":"v2"}` {
			t.Errorf("%s", rec.Value)
		}
	}
}

func TestAliasesOfEvents(t *testing.T) {
	h := newHarness(t)
	got := h.events(t, "/v1/events", `[{"type":"model.call.completed","request":"r1","response":"resp-1","answer":"ho"},{"type":"model.call.completed","request":"r1","response":"resp-1"},
		{"type":"request.started","request":"r1","trace":"`+testTrace+`"}]`)
	var bound []event.Alias
	for _, e := range ofType(got, event.AliasBound) {
		bound = append(bound, body[event.Alias](t, e))
	}
	want := []event.Alias{{Alias: "resp-1", Kind: "response", Request: "r1"}, {Alias: testTrace, Kind: "trace", Request: "r1"}}
	if d := cmp.Diff(want, bound); d != "" {
		t.Error(d)
	}
}

func TestNeighbours(t *testing.T) {
	h := newHarness(t)
	in := `[{"type":"prompt.rendered","request":"r1","prompt":"hi"},
		{"type":"made.up","request":"r1","x":"secret"},
		{"type":"feedback.recorded","request":"r1","kind":"thumbs","value":7},
		{"type":"feedback.recorded","kind":"thumbs"},
		"text", {"request":"r1"}, {"type":"gate.decision","release":"v1"}, {"type":"prompt.rendered","request":"r1","time":"never"},
		{"type":"prompt.rendered","request":"r1","prompt":"hi"}]`
	w := h.post("/v1/events", typeJSON, []byte(in))
	var a answer
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil || w.Code != 202 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	var got []string
	for _, r := range a.Results {
		got = append(got, strings.TrimSpace(r.Status+" "+r.Code+" "+r.Pointer))
		if r.Status != "accepted" && !strings.HasSuffix(r.Message, ".") {
			t.Errorf("not a sentence: %q", r.Message)
		}
		if (r.Status == "rejected") != (r.ID == "") {
			t.Errorf("id of %+v", r)
		}
	}
	want := []string{"accepted", "quarantined unknown_type /type", "quarantined invalid_body /value", "rejected no_request /request", "rejected not_an_object",
		"rejected no_type /type", "rejected reserved_type /type", "rejected bad_time /time", "accepted"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if a.Accepted != 2 || a.Quarantined != 2 || a.Rejected != 5 {
		t.Errorf("%+v", a)
	}
	if a.Results[0].ID == a.Results[8].ID {
		t.Error("two alike events of one request share an id")
	}
	events := h.tape.take(t)
	if len(events) != 4 || len(ofType(events, event.EventQuarantined)) != 2 {
		t.Errorf("%d events", len(events))
	}
	q := body[event.Quarantined](t, ofType(events, event.EventQuarantined)[0])
	if q.Reason != "unknown_type" || q.Pointer != "/type" || !strings.Contains(string(q.Raw), "secret") || strings.Contains(q.Detail, "made.up") {
		t.Errorf("%+v", q)
	}
	h.checkFates(t)
}

func TestCloudEvents(t *testing.T) {
	h := newHarness(t)
	structured := `{"specversion":"1.0","id":"e-1","source":"/app","type":"prompt.rendered","time":"2026-01-02T03:04:05Z","subject":"about","request":"r1","unitkind":"user","oddext":"x",
		"datacontenttype":"application/json","data":{"messages":[{"role":"user","content":"hi"}],"unit":"in the body"}}`
	for name, w := range map[string]func() int{
		"structured": func() int {
			return h.post("/v1/events", "application/cloudevents+json; charset=utf-8", []byte(structured)).Code
		},
		"batch": func() int {
			return h.post("/v1/events", "application/cloudevents-batch+json", []byte("["+structured+"]")).Code
		},
		"binary": func() int {
			return h.post("/v1/events", typeJSON, []byte(`{"messages":[{"role":"user","content":"hi"}],"unit":"in the body"}`), "ce-specversion", "1.0", "ce-id", "e-1", "ce-source", "/app",
				"ce-type", "prompt.rendered", "ce-time", "2026-01-02T03:04:05Z", "ce-subject", "about", "ce-request", "r1", "ce-unitkind", "user", "ce-oddext", "x").Code
		},
		"base64": func() int {
			return h.post("/v1/events", typeJSON, []byte(`{"specversion":"1.0","id":"e-1","source":"/app","type":"prompt.rendered","time":"2026-01-02T03:04:05Z","subject":"about","request":"r1","unitkind":"user",
				"oddext":"x","data_base64":"eyJtZXNzYWdlcyI6W3sicm9sZSI6InVzZXIiLCJjb250ZW50IjoiaGkifV0sInVuaXQiOiJpbiB0aGUgYm9keSJ9"}`)).Code
		},
	} {
		if code := w(); code != 202 {
			t.Errorf("%s: %d", name, code)
			continue
		}
		e := one(t, h.tape.take(t), event.PromptRendered)
		if e.ID != "e-1" || e.Source != "/app" || e.About != "about" || e.Facts.UnitKind != "user" || e.Facts.Request != "r1" || e.Facts.Unit != "" || e.Facts.Subject != "" {
			t.Errorf("%s: %+v", name, e)
		}
		p := body[event.Prompt](t, e)
		if cmp.Diff(askHi, p.Messages) != "" || p.Attrs["oddext"] != "x" {
			t.Errorf("%s: %s", name, e.Data)
		}
	}
	for _, bad := range []string{
		`{"specversion":"0.3","type":"prompt.rendered","id":"x","source":"y","request":"r"}`,
		`{"specversion":"1.0","type":"prompt.rendered","id":{},"source":"y","request":"r"}`,
	} {
		if code, r := result1(t, h, "/v1/events", bad); code != 400 || r.Status != "rejected" {
			t.Errorf("%s: %d %+v", bad, code, r)
		}
	}
	if code, r := result1(t, h, "/v1/events", `{"specversion":"1.0","type":"prompt.rendered","id":"x","source":"y","request":"r","data":"text"}`); code != 202 || r.Status != "quarantined" {
		t.Errorf("%d %+v", code, r)
	}
	h.checkFates(t)
}

func TestJSONLines(t *testing.T) {
	h := newHarness(t)
	w := h.post("/v1/events", "application/x-ndjson", []byte(`{"type":"prompt.rendered","request":"r1"}`+"\n\n"+`{"type":`+"\n"+`{"type":"request.closed","request":"r1","latency_ms":5}`))
	var a answer
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil || a.Accepted != 2 || a.Rejected != 1 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	h.checkFates(t)
}

func TestFeedback(t *testing.T) {
	me := pseudonyms{}.Pseudonym("default", "me")
	f := func(v float64) *float64 { return &v }
	tests := []struct {
		in   string
		want event.Feedback
		typ  string
		code string
	}{
		{in: `{"request":"r","thumbs":"up"}`, want: event.Feedback{Kind: "thumbs", Value: f(1)}},
		{in: `{"request":"r","thumbs":"DOWN","comment":"wrong","user":"me"}`, want: event.Feedback{Kind: "thumbs", Value: f(0), Comment: "wrong", Author: me}},
		{in: `{"request":"r","thumbs":true}`, want: event.Feedback{Kind: "thumbs", Value: f(1)}},
		{in: `{"response":"x","rating":4}`, want: event.Feedback{Kind: "rating", Value: f(0.75)}},
		{in: `{"trace":"` + testTrace + `","rating":10,"scale":10}`, want: event.Feedback{Kind: "rating", Value: f(1)}},
		{in: `{"request":"r","value":0.5,"kind":"relevance"}`, want: event.Feedback{Kind: "relevance", Value: f(0.5)}},
		{in: `{"request":"r","label":"supported","author":"me","author_role":"expert"}`, want: event.Feedback{Kind: "label", Label: "supported", Author: me, AuthorRole: "expert"}},
		{in: `{"request":"r","correction":"Paris","target":"response"}`, want: event.Feedback{Kind: "correction", Correction: "Paris", Target: "response"}},
		{in: `{"request":"r","comment":"hm"}`, want: event.Feedback{Kind: "comment", Comment: "hm"}},
		{in: `{"request":"r","outcome":true}`, want: event.Feedback{Kind: "outcome", Value: f(1)}, typ: event.OutcomeRecorded},
		{in: `{"request":"r","outcome":"refunded"}`, want: event.Feedback{Kind: "outcome", Label: "refunded"}, typ: event.OutcomeRecorded},
		{in: `{"request":"r"}`, code: "bad_feedback"},
		{in: `{"thumbs":"up"}`, code: "no_request"},
		{in: `{"request":"r","thumbs":"sideways"}`, code: "bad_feedback"},
		{in: `{"request":"r","rating":6}`, code: "bad_feedback"},
		{in: `{"request":"r","score":4}`, code: "bad_feedback"},
		{in: `{"trace":"xyz","thumbs":"up"}`, code: "bad_field"},
		{in: `{"request":"r","thumbs":"up","type":"prompt.rendered"}`, code: "wrong_type"},
		{in: `{"request":"` + strings.Repeat("r", 600) + `","thumbs":"up"}`, code: "too_long"},
		{in: `{"request":"a\u0000b","thumbs":"up"}`, code: "bad_field"},
	}
	for _, tt := range tests {
		h := newHarness(t)
		code, r := result1(t, h, "/v1/feedback", tt.in)
		if tt.code != "" {
			if code != 400 || r.Code != tt.code {
				t.Errorf("%s: %d %+v", tt.in, code, r)
			}
			continue
		}
		if code != 202 {
			t.Errorf("%s: %d %+v", tt.in, code, r)
			continue
		}
		if tt.typ == "" {
			tt.typ = event.FeedbackRecorded
		}
		e := one(t, h.tape.take(t), tt.typ)
		if tt.want.AuthorRole == "" {
			tt.want.AuthorRole = "end_user"
		}
		if d := cmp.Diff(tt.want, body[event.Feedback](t, e)); d != "" {
			t.Errorf("%s: %s", tt.in, d)
		}
		if strings.Contains(tt.in, `"me"`) && strings.Contains(string(e.Data), `"me"`) {
			t.Errorf("raw id: %s", e.Data)
		}
		h.checkFates(t)
	}
}

func TestDeployments(t *testing.T) {
	h := newHarness(t)
	e := one(t, h.events(t, "/v1/deployments", `{"release":"v2","baseline":"v1","deployment":"d1","propensity":0.5,"stage":"canary","salt":"s","manifest":{"prompt":"p2"},"actor":"ci"}`), event.DeploymentStarted)
	d := body[event.Deployment](t, e)
	if d.Release != "v2" || d.Baseline != "v1" || d.Propensity != 0.5 || d.Stage != "canary" || d.Manifest["prompt"] != "p2" || e.Facts.Release != "v2" || e.Facts.Deployment != "d1" {
		t.Errorf("%s %+v", e.Data, e.Facts)
	}
	one(t, h.events(t, "/v1/deployments", `{"type":"rolled_back","release":"v2"}`), event.DeploymentRolledBack)
	one(t, h.events(t, "/v1/deployments", `{"status":"finished","release":"v2"}`), event.DeploymentFinished)
	for in, want := range map[string]string{`{"baseline":"v1"}`: "no_release", `{"release":"v","type":"exploded"}`: "wrong_type",
		`{"release":"v"}`: "no_baseline", `{"release":"v","baseline":"v"}`: "same_release", `{"release":"v","type":"finished","outcome":"exploded"}`: "bad_outcome"} {
		if code, r := result1(t, h, "/v1/deployments", in); code != 400 || r.Code != want {
			t.Errorf("%s: %d %+v", in, code, r)
		}
	}
	h.checkFates(t)
}

func TestReservedFactsStayInTheBody(t *testing.T) {
	h := newHarness(t)
	e := one(t, h.events(t, "/v1/events", `{"type":"prompt.rendered","request":"r1","via":"x","privacy":"P0","retention":"none","receivedtime":"2020-01-01T00:00:00Z"}`), event.PromptRendered)
	if e.Facts.Via != "" || e.Facts.Privacy != "P3" || e.Facts.Retention != "hot" || !e.Facts.ReceivedTime.Equal(testNow) {
		t.Errorf("%+v", e.Facts)
	}
	if !strings.Contains(string(e.Data), `"via":"x"`) {
		t.Errorf("%s", e.Data)
	}
}

func FuzzEvent(f *testing.F) {
	for _, s := range []string{
		`{"type":"prompt.rendered","request":"r1","prompt":"hi","segments":{"a":"b"},"segment.c":"d"}`,
		`{"specversion":"1.0","id":"e-1","source":"/app","type":"prompt.rendered","request":"r1","data":{"messages":[]}}`,
		`{"specversion":"1.0","type":"x","data_base64":"e30="}`, `{"request":"r","thumbs":"up","rating":3,"scale":7}`, `{"release":"v2","manifest":{"a":"b"}}`,
		`{"type":"alias.bound","alias":"a","request":"b"}`, `{"type":"retrieval.completed","trace":"0102030405060708090A0b0c0d0e0f10","documents":["x",null,{}]}`,
		`{"data":{"type":"x"},"type":null,"time":1e9,"attributes":[],"error":"x"}`, `[`, `null`, `{"":{}}`,
	} {
		f.Add([]byte(s))
	}
	h := newHarness(f)
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, read := range []reader{readEvent, readFeedback, readDeployment} {
			e, under, err := read(h.c, "default", in)
			var p *itemProblem
			if err != nil {
				if !errors.As(err, &p) {
					t.Fatalf("%T %v", err, err)
				}
				continue
			}
			// Whatever is accepted fits the contract, decodes, and has a key.
			if err := h.c.cfg.Contract.Validate(e.Type, e.Data); err != nil {
				t.Fatalf("%s: %v", e.Data, err)
			}
			b := h.c.newBatch(t.Context(), "default")
			if e.ID == "" {
				e.ID = derivedID("default", &e, under)
			}
			if err := b.take(&e, under); err != nil {
				t.Fatal(err)
			}
			for i := range b.records {
				if len(b.records[i].Key) == 0 {
					t.Fatalf("no key: %s", in)
				}
				if _, err := event.Decode(&b.records[i]); err != nil {
					t.Fatalf("%s: %v", in, err)
				}
			}
		}
	})
}
