//go:build e2e

package hostile

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// json: bodies on the endpoints for events, feedback and deployments.
func (w *world) json(t *testing.T) {
	events, feedback, deployments := w.s.API+"/v1/events", w.s.API+"/v1/feedback", w.s.API+"/v1/deployments"
	const response = `{"type":"response.delivered","request":"r","answer":"` + secret + `"`
	for _, p := range []post{
		{"events: invalid JSON", events, typeJSON, text(`{"type":"` + secret), nil, 400, "invalid_json"},
		{"events: a number", events, typeJSON, text(`17`), nil, 400, "invalid_json"},
		{"events: an empty array", events, typeJSON, text(`[]`), nil, 400, "empty"},
		{"events: nothing", events, typeJSON, text(``), nil, 400, "invalid_json"},
		{"events: wrong content type", events, "multipart/form-data; boundary=x", text(response + "}"), nil, 415, "unsupported_type"},
		{"events: nested 100,000 deep", events, typeJSON, text(response + `,"a":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`), nil, 400, "too_deep"},
		{"events: an array of 16 million numbers", events, typeJSON, text("[1" + strings.Repeat(",1", 15<<20) + "]"), nil, 413, "too_many"},
		{"events: an array of 10 million arrays", events, typeJSON, text("[[]" + strings.Repeat(",[]", 10<<20) + "]"), nil, 413, "too_many"},
		{"events: one with 16 million numbers", events, typeJSON, text(response + `,"a":[1` + strings.Repeat(",1", 15<<20) + "]}"), nil, 413, "too_many"},
		{"events: 60,000 of them", events, typeJSON, text("[{}" + strings.Repeat(",{}", 60_000) + "]"), nil, 413, "too_many"},
		{"events: gzip bomb", events, typeJSON, bombBody, []string{"Content-Encoding", "gzip"}, 413, "too_large"},
		{"feedback: gzip bomb", feedback, typeJSON, bombBody, []string{"Content-Encoding", "gzip"}, 413, "too_large"},
		{"deployments: larger than the limit", deployments, typeJSON, raw(make([]byte, 33<<20)), nil, 413, "too_large"},
		{"deployments: invalid JSON", deployments, typeJSON, text("\x00\x01" + secret), nil, 400, "invalid_json"},
		{"feedback: invalid JSON", feedback, typeJSON, text(`{"kind":`), nil, 400, "invalid_json"},
		// A number is text until somebody calculates with it: 10^999,999 has a
		// million digits.
		{"events: a huge exponent", events, typeJSON, text(response + `,"latency_ms":1e999999}`), nil, 400, "bad_number"},
		{"events: a hundred thousand huge exponents", events, typeJSON,
			text(`{"type":"retrieval.completed","request":"r","documents":[{"rank":1e999999}` + strings.Repeat(`,{"rank":1e999999}`, 100_000) + `]}`), nil, 400, "bad_number"},
		{"events: a number of 10 million digits", events, typeJSON, text(response + `,"latency_ms":` + strings.Repeat("7", 10<<20) + `}`), nil, 400, "bad_number"},
		{"feedback: a huge exponent", feedback, typeJSON, text(`{"request":"r","value":1e-999999}`), nil, 400, "bad_number"},
	} {
		w.refuse(t, p)
	}

	// One item of a request is answered by itself.
	for _, p := range []struct {
		name, url, body string
		status          int
		state, code     string
	}{
		{"events: unknown type", events, `{"type":"` + secret + `","request":"r"}`, 202, "quarantined", "unknown_type"},
		{"events: a body that breaks the schema", events, `{"type":"response.delivered","request":"r","usage":"` + secret + `"}`, 202, "quarantined", "invalid_body"},
		{"events: a type that only Looptape writes", events, `{"type":"gate.decision","release":"r"}`, 400, "rejected", "reserved_type"},
		{"events: no type", events, `{"request":"r"}`, 400, "rejected", "no_type"},
		{"events: an object for an id", events, `{"type":"response.delivered","request":{"a":1}}`, 400, "rejected", "bad_field"},
		{"events: another tenant", events, `{"type":"response.delivered","request":"r","tenant":"` + secret + `"}`, 400, "rejected", "wrong_tenant"},
		{"events: a time in another era", events, `{"type":"response.delivered","request":"r","time":"0000-01-01T00:00:00Z"}`, 400, "rejected", "bad_time"},
		{"events: a key twice", events, `{"type":"response.delivered","type":"` + secret + `","request":"r"}`, 202, "quarantined", "unknown_type"},
		{"events: CloudEvents of another version", events, `{"specversion":"9.9","type":"response.delivered","id":"1","source":"s"}`, 400, "rejected", "bad_specversion"},
		{"feedback: no request", feedback, `{"thumbs":"up"}`, 400, "rejected", "no_request"},
		{"feedback: a rating of a thousand stars", feedback, `{"request":"r","rating":1000}`, 400, "rejected", "bad_feedback"},
		{"deployments: no release", deployments, `{}`, 400, "rejected", ""},
	} {
		w.attack(t, p.name, func(t *testing.T) {
			a := w.post(post{url: p.url, contentType: typeJSON, body: text(p.body)})
			var got struct{ Status, Code, Message string }
			if err := json.Unmarshal(a.body, &got); err != nil || a.status != p.status {
				t.Fatalf("%s, want %d", a, p.status)
			}
			w.events.Add(1)
			if got.Status != p.state || p.code != "" && got.Code != p.code || len(got.Message) < 10 {
				t.Errorf("%s, want %s with code %s and a message", a, p.state, p.code)
			}
			if strings.Contains(got.Message, secret) {
				t.Errorf("the message repeats content: %s", got.Message)
			}
		})
	}

	w.attack(t, "events: good ones between bad ones", func(t *testing.T) {
		a := w.post(post{url: events, contentType: typeJSON, body: text(`[
			{"type":"request.started","request":"between","question":"a"}, 17, null, "x", {"type":"nobody.knows"},
			{"type":"response.delivered","request":"between","answer":"b"}, [], {"type":"response.delivered"}]`)})
		var got struct {
			Accepted, Quarantined, Rejected int
			Results                         []struct{ Status string }
		}
		if err := json.Unmarshal(a.body, &got); err != nil || a.status != http.StatusAccepted {
			t.Fatalf("%s", a)
		}
		w.events.Add(8)
		if got.Accepted != 2 || got.Quarantined != 1 || got.Rejected != 5 || len(got.Results) != 8 {
			t.Errorf("%s", a)
		}
		w.hasCase(t, "between")
	})
	w.attack(t, "events: 100,000 unknown fields", func(t *testing.T) {
		var b strings.Builder
		b.WriteString(response)
		for i := range 100_000 {
			fmt.Fprintf(&b, `,"f%d":%d`, i, i)
		}
		b.WriteString("}")
		began := time.Now()
		a := w.post(post{url: events, contentType: typeJSON, body: text(b.String())})
		if took := time.Since(began); took > slowestAnswer {
			t.Errorf("the answer took %s", took)
		}
		switch a.status {
		case http.StatusAccepted:
			w.events.Add(1)
		case http.StatusRequestEntityTooLarge:
		default:
			t.Errorf("%s", a)
		}
	})
	w.attack(t, "events: binary mode with hostile headers", func(t *testing.T) {
		a := w.post(post{url: events, contentType: typeJSON, body: text(`{}`), header: []string{
			"Ce-Specversion", "1.0", "Ce-Type", "response.delivered", "Ce-Id", "%0d%0aX-Evil:%201", "Ce-Source", "%00", "Ce-Request", "%ff%fe",
		}})
		if a.status != http.StatusBadRequest || !json.Valid(a.body) || a.header.Get("X-Evil") != "" {
			t.Errorf("%s", a)
		}
		w.events.Add(1)
	})
}

func bombBody() io.Reader { return bomb(160) }
