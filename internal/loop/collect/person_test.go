package collect

import (
	"strings"
	"testing"
)

// A person's id is on no record, whichever way it comes and whatever becomes of
// the item.
func TestPeopleAreHidden(t *testing.T) {
	const who = "alice@example.com"
	h := newHarness(t)
	for _, tt := range []struct{ path, in string }{
		{"/v1/traces", spanJSON(false, map[string]any{"user.id": who}, map[string]any{"db.statement": "x", "enduser.id": who}, "")},
		{"/v1/traces", spanJSON(true, map[string]any{"enduser.id": who}, map[string]any{"user.id": "bob", "langfuse.user.id": who}, "")},
		{"/v1/traces", spanJSON(false, nil, map[string]any{"gen_ai.operation.name": "chat", "user.id": []any{who}, "enduser.id": who}, "")},
		{"/v1/logs", logJSON(map[string]any{"user.id": who}, "x")},
		{"/v1/logs", logJSON(map[string]any{"user.id": who, "event.name": "gen_ai.choice"}, map[string]any{"content": "x"})},
		{"/v1/events", `{"type":"made.up","user":"` + who + `","subject":"` + who + `","data":{"author":"` + who + `","user_id":["` + who + `"]}}`},
		{"/v1/events", `{"type":"prompt.rendered","request":"r","user":"` + who + `","data":{"user_id":"` + who + `"}}`},
		{"/v1/events", `{"specversion":"1.0","id":"x","source":"s","type":"feedback.recorded","request":"r","user":"` + who + `","data":{"kind":"label","author":"` + who + `"}}`},
		{"/v1/feedback", `{"request":"r","thumbs":"up","user":"` + who + `"}`},
		{"/v1/feedback", `{"request":"r","thumbs":"up","value":0.5,"author":"` + who + `"}`},
	} {
		if w := h.post(tt.path, typeJSON, []byte(tt.in)); w.Code/100 != 2 {
			t.Errorf("%s %s: %d %s", tt.path, tt.in, w.Code, w.Body)
		}
		for _, r := range h.tape.recs {
			if strings.Contains(string(r.Value), who) {
				t.Errorf("%s: body %s", r.Header("ce_type"), r.Value)
			}
			for _, header := range r.Headers {
				if strings.Contains(string(header.Value), who) {
					t.Errorf("%s: header %s", r.Header("ce_type"), header.Key)
				}
			}
		}
		h.tape.take(t)
	}
	h.checkFates(t)
}
