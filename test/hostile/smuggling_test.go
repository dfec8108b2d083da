//go:build e2e

package hostile

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// wire writes bytes to a fresh connection and reads every answer until the
// server closes it or stays silent for two seconds.
func (w *world) wire(t *testing.T, url, request string) []answer {
	t.Helper()
	c, err := net.DialTimeout("tcp", strings.TrimPrefix(url, "http://"), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// A server that has seen enough closes before the last byte was written.
	_, _ = io.WriteString(c, request)
	r := bufio.NewReader(c)
	var all []answer
	for {
		if err := c.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			var timeout net.Error
			if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, syscall.ECONNRESET) && !errors.As(err, &timeout) {
				t.Errorf("after %d answers: %v", len(all), err)
			}
			return all
		}
		body, err := io.ReadAll(res.Body)
		all = append(all, answer{res.StatusCode, res.Header, body, err})
	}
}

// smuggling: requests that two parsers could read in two ways. None may make the
// server take bytes of a body for a request when their length was given, and
// what has no single meaning must be refused.
func (w *world) smuggling(t *testing.T) {
	const smuggled = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
	body := `{"type":"nobody.knows"}`
	for _, s := range []struct {
		name, request string
		statuses      []int // of all answers; an empty list is a clean close
	}{
		{"two lengths", "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n" + smuggled, []int{400}},
		{"a length with a sign", "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\n" + smuggled, []int{400}},
		{"a negative length", "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n" + smuggled, []int{400}},
		{"a length of 2^64", "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551617\r\n\r\n" + smuggled, []int{400}},
		{"a coding nobody knows", "POST /v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n" + smuggled, []int{501}},
		{"two codings", "POST /v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + smuggled, []int{501}},
		{"a blank before the colon", "POST /v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + smuggled, []int{400}},
		{"a folded line", "GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: b\r\n\tTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n", []int{200}},
		{"a NUL in a value", "GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: b\x00c\r\n\r\n", []int{400}},
		{"a line break in a name", "GET /healthz HTTP/1.1\r\nHost: x\r\nX-A\n: b\r\n\r\n", []int{400}},
		{"no host", "GET /healthz HTTP/1.1\r\n\r\n", []int{400}},
		{"two hosts", "GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", []int{400}},
		{"a bad chunk length", "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n" + smuggled, []int{400}},
		{"a chunk of 2^63 bytes", "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nhello", []int{400}},
		{"an unfinished chunk", "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n" + smuggled, []int{400}},
		// The length counts: what it covers is a body, however it looks.
		{"a request inside a body", "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: 35\r\n\r\n" + smuggled, []int{400}},
		{"HTTP/0.9", "GET /healthz\r\n", []int{400}},
		{"HTTP/3 over TCP", "GET /healthz HTTP/3.0\r\nHost: x\r\n\r\n", []int{505}},
		{"HTTP/2 without asking", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", []int{400}},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + string(noise(200)), []int{400}},
		{"a Kafka frame", "\x00\x00\x00\x10\x00\x12\x00\x03\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\r\n\r\n", []int{400}},
		{"random bytes", string(noise(64)) + "\r\n\r\n", []int{400}},
		{"a megabyte of headers", "GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: " + strings.Repeat("a", 1<<20) + "\r\n\r\n", []int{431}},
		{"20,000 headers", "GET /healthz HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X-A: b\r\n", 20_000) + "\r\n", []int{431}},
		{"a proxy's request", "GET http://169.254.169.254/latest/ HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n\r\n", nil},
		{"CONNECT", "CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", nil},
		{"an unknown method", "BREW /v1/cases HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", []int{405}},
	} {
		for port, url := range map[string]string{"API": w.s.API, "OTLP": w.s.OTLP} {
			w.attack(t, "header: "+s.name+" on "+port, func(t *testing.T) {
				answers := w.wire(t, url, s.request)
				var got []int
				for _, a := range answers {
					got = append(got, a.status)
					if a.err != nil && !errors.Is(a.err, io.ErrUnexpectedEOF) {
						t.Errorf("%s", a)
					}
				}
				if s.statuses == nil { // anything but doing what was asked
					if len(got) != 1 || got[0]/100 == 5 && got[0] != 501 {
						t.Errorf("answers %v", got)
					}
					return
				}
				if len(got) != len(s.statuses) || got[0] != s.statuses[0] {
					t.Errorf("answers %v, want %v", got, s.statuses)
				}
			})
		}
	}
	w.attack(t, "header: both length and chunks", func(t *testing.T) {
		// RFC 9112, 6.3: the coding counts. What follows it is a request, never a
		// part of the body; net/http answers it.
		answers := w.wire(t, w.s.API, "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n"+
			"17\r\n"+body+"\r\n0\r\n\r\n"+smuggled)
		if len(answers) < 1 || answers[0].status != http.StatusAccepted {
			t.Fatalf("%v", answers)
		}
		w.events.Add(1)
		if len(answers) > 2 || len(answers) == 2 && answers[1].status/100 == 5 {
			t.Errorf("%v", answers)
		}
	})
}
