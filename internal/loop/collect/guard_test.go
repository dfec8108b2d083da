package collect

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/looptape/looptape/internal/loop/event"
)

func TestGuardJSON(t *testing.T) {
	h := newHarness(t)
	for _, tt := range []struct {
		name, text string
		want       error
	}{
		{"numbers", `[0,-1,3.25,1e308,-2.5E-308,12345678901234567890]`, nil},
		{"a number in a string", `["1e999999", "\\", "` + strings.Repeat("7", 1000) + `"]`, nil},
		{"a large exponent", `{"a":1e1000}`, errBadNumber},
		{"a small exponent", `{"a":1E-999999}`, errBadNumber},
		{"an exponent with zeros before it", `{"a":1e+0000308}`, nil},
		{"many digits", `[` + strings.Repeat("7", maxNumber+1) + `]`, errBadNumber},
		{"many values", `[1` + strings.Repeat(",1", 20) + `]`, errTooMany},
		{"many arrays", strings.Repeat("[],", 11), errTooMany},
		{"deep", strings.Repeat("[", 6), errTooDeep},
	} {
		g := h.c.guard()
		if err := g.json([]byte(tt.text), 5, 20); err != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
}

// An export after the first in one body must not vanish.
func TestTwoExportsInOneBody(t *testing.T) {
	h := newHarness(t)
	body := spanJSON(true, nil, map[string]any{"a": "b"}, "")
	for _, more := range []string{body, "{", "1", " \n x"} {
		if w := h.post("/v1/traces", typeJSON, []byte(body+more)); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "bad_json") {
			t.Errorf("%.10q after it: %d %s", more, w.Code, w.Body)
		}
	}
	if w := h.post("/v1/traces", typeJSON, []byte(" "+body+" \r\n\t")); w.Code != http.StatusOK {
		t.Errorf("blanks around it: %d %s", w.Code, w.Body)
	}
	h.checkFates(t)
}

// What a schema calculates with exactly must not take a minute.
func TestHugeNumbersAreRefused(t *testing.T) {
	h := newHarness(t)
	const number = `{"type":"response.delivered","request":"r","latency_ms":1e999999}`
	for _, path := range []string{"/v1/events", "/v1/feedback", "/v1/deployments"} {
		if w := h.post(path, typeJSON, []byte(number)); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "bad_number") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	hidden := fmt.Sprintf(`{"specversion":"1.0","id":"1","source":"s","type":"response.delivered","request":"r","data_base64":%q}`,
		base64.StdEncoding.EncodeToString([]byte(`{"latency_ms":1e999999}`)))
	if w := h.post("/v1/events", "application/cloudevents+json", []byte(hidden)); w.Code != http.StatusAccepted || !strings.Contains(w.Body.String(), "bad_data") {
		t.Errorf("hidden in base64: %d %s", w.Code, w.Body)
	}
	h.checkFates(t)
}

// Unknown fields become attributes in one go: the work grows with their number,
// not with its square.
func TestManyUnknownFields(t *testing.T) {
	h := newHarness(t)
	const n = 12_000
	var b strings.Builder
	b.WriteString(`{"type":"response.delivered","request":"r","answer":"a","attributes":{"f1":"kept"}`)
	for i := range n {
		fmt.Fprintf(&b, `,"f%d":%d`, i, i)
	}
	b.WriteString("}")
	began := time.Now()
	e := one(t, h.events(t, "/v1/events", b.String()), event.ResponseDelivered)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	got := body[struct{ Attributes map[string]any }](t, e)
	if len(got.Attributes) != n || got.Attributes["f1"] != "kept" || got.Attributes["f2"] != 2.0 {
		t.Errorf("%d attributes, f1 %v, f2 %v", len(got.Attributes), got.Attributes["f1"], got.Attributes["f2"])
	}
}
