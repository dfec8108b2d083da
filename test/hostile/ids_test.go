//go:build e2e

package hostile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/looptape/looptape/test/rig"
)

// hasCase waits for the case of a request.
func (w *world) hasCase(t *testing.T, request string) {
	t.Helper()
	rig.Until(t, 20*time.Second, func() error {
		a := w.get(w.s.API + "/v1/cases/" + url.PathEscape(request))
		if a.err != nil || a.status != http.StatusOK {
			return fmt.Errorf("case %q: %s", request, a)
		}
		return w.inert(a)
	})
}

// inert wants an answer that no browser takes for a page.
func (w *world) inert(a answer) error {
	switch {
	case !strings.HasPrefix(a.header.Get("Content-Type"), typeJSON):
		return fmt.Errorf("content type %q", a.header.Get("Content-Type"))
	case a.header.Get("X-Content-Type-Options") != "nosniff":
		return fmt.Errorf("a browser may guess its type: %v", a.header)
	case !json.Valid(a.body):
		return fmt.Errorf("not JSON: %s", a)
	case !strings.Contains(a.header.Get("Content-Security-Policy"), "default-src 'none'"):
		return fmt.Errorf("it could load something: %v", a.header)
	}
	return nil
}

// ids: names that would be a path, a page, a query or a control sequence
// elsewhere are plain names here, or are refused.
func (w *world) ids(t *testing.T) {
	large := strings.Repeat("x", 300<<10) // its body goes to the object store
	for name, id := range map[string]string{
		"a path":               "../../../../etc/passwd",
		"a path in disguise":   "..%2f..%2fetc%2fpasswd",
		"a device":             `\\.\COM1`,
		"a page":               `<script>alert(1)</script>`,
		"a query":              `'; DROP TABLE cases; --`,
		"a pattern":            `%_*?[a-z]`,
		"a template":           `{{.}}${jndi:ldap://x}`,
		"a NUL's name":         `%00`,
		"a slash":              "/",
		"dots":                 "..",
		"right to left":        "\u202egnp.exe",
		"many scripts":         "☃ текст 文字 🎉",
		"500 bytes":            strings.Repeat("ab", 250),
		"a number as a name":   "-0",
		"a separator of ours?": "a=b&c=d;e|f,g",
	} {
		w.attack(t, "request id: "+name, func(t *testing.T) {
			for _, typ := range []string{"request.started", "response.delivered"} {
				b, err := json.Marshal(map[string]string{"type": typ, "request": id, "id": typ + id, "question": large, "answer": large, "source": id, "release": id, "session": id})
				if err != nil {
					t.Fatal(err)
				}
				a := w.post(post{url: w.s.API + "/v1/events", contentType: typeJSON, body: raw(b)})
				w.events.Add(1)
				if a.status != http.StatusAccepted && !(len(id) > 490 && a.status == http.StatusBadRequest) {
					t.Fatalf("%s", a)
				}
				if a.status == http.StatusBadRequest {
					return
				}
				if err := w.inert(a); err != nil {
					t.Error(err)
				}
			}
			if id != "/" && id != ".." { // these are steps of a path to every client: the filters below find them
				w.hasCase(t, id)
			}
			for _, q := range []string{"/v1/cases?session=", "/v1/cases?release=", "/v1/cases?prefix="} {
				rig.Until(t, 20*time.Second, func() error {
					a := w.get(w.s.API + q + url.QueryEscape(id))
					if a.status != http.StatusOK || !bytes.Contains(a.body, []byte(`"request"`)) {
						return fmt.Errorf("%s: %s", q, a)
					}
					return w.inert(a)
				})
			}
			if a := w.get(w.s.API + "/v1/gates/" + url.PathEscape(id)); a.err != nil || a.status/100 == 5 {
				t.Errorf("gate: %s", a)
			}
		})
	}
	for name, id := range map[string]string{"a line break": "a\r\nSet-Cookie: b", "a NUL": "a\x00b", "an escape": "\x1b[2J", "a kilobyte": strings.Repeat("k", 1024)} {
		w.attack(t, "request id: "+name, func(t *testing.T) {
			b, err := json.Marshal(map[string]string{"type": "response.delivered", "request": id, "answer": "x"})
			if err != nil {
				t.Fatal(err)
			}
			a := w.post(post{url: w.s.API + "/v1/events", contentType: typeJSON, body: raw(b)})
			w.events.Add(1)
			if a.status != http.StatusBadRequest || a.header.Get("Set-Cookie") != "" {
				t.Errorf("%s", a)
			}
			if err := w.inert(a); err != nil {
				t.Error(err)
			}
		})
	}
	w.attack(t, "ids that are not UTF-8", func(t *testing.T) {
		a := w.post(post{url: w.s.API + "/v1/events", contentType: typeJSON, body: text("{\"type\":\"response.delivered\",\"request\":\"a\xff\xc3\x28b\",\"answer\":\"\xed\xa0\x80\"}")})
		w.events.Add(1)
		if a.status != http.StatusAccepted && a.status != http.StatusBadRequest {
			t.Errorf("%s", a)
		}
		if err := w.inert(a); err != nil {
			t.Error(err)
		}
	})

	// Paths as an attacker writes them, not as a library would clean them.
	for _, path := range []string{
		"/v1/cases/..%2f..%2f..%2fetc%2fpasswd", "/v1/cases/%2e%2e/%2e%2e/etc/passwd", "/v1/cases/../../../etc/passwd", "/v1/cases/%00",
		"/v1/cases/%0d%0aSet-Cookie:%20a=b", "/v1/cases/%3Cscript%3Ealert(1)%3C/script%3E", "/v1/cases/%ff%fe", "/v1/cases/" + strings.Repeat("a", 9000),
		"/v1/cases/%27%20OR%201=1%20--", "/v1/gates/%3Cscript%3E", "/v1/gates/..%2f", "/v1/cases?limit=99999999999999999999", "/v1/cases?limit=-1",
		"/v1/cases?release[]=a", "/v1/cases?cursor=" + strings.Repeat("A", 400), "/v1/cases?%zz", "/v1/nothing", "//v1//cases//x",
		"/assets/..%2f..%2f..%2f..%2fetc/passwd", "/..%2f..%2fetc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/.git/config",
	} {
		w.attack(t, "GET "+path[:min(len(path), 60)], func(t *testing.T) {
			answers := w.wire(t, w.s.API, "GET "+path+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
			if len(answers) != 1 {
				t.Fatalf("%d answers", len(answers))
			}
			a := answers[0]
			if a.status/100 == 5 || a.header.Get("Set-Cookie") != "" || bytes.Contains(a.body, []byte("root:")) {
				t.Errorf("%s", a)
			}
			// A path that is not of the API may get the page itself.
			if strings.HasPrefix(path, "/v1/") && a.status/100 != 3 {
				if err := w.inert(a); err != nil {
					t.Error(err)
				}
			}
		})
	}
	w.attack(t, "requests from a foreign page", func(t *testing.T) {
		a := w.post(post{url: w.s.API + "/v1/events", contentType: typeJSON, body: text(`{"type":"response.delivered","request":"r"}`),
			header: []string{"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"}})
		clear(t, a, post{status: http.StatusForbidden, code: "cross_origin"})
	})
}
