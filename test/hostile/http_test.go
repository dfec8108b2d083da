//go:build e2e

package hostile

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/looptape/looptape/test/rig"
)

const (
	typeJSON  = "application/json"
	typeProto = "application/x-protobuf"
)

// maxGrowth is how much resident memory one bad body may cost, for a while. A
// body of the largest size is taken twice (as bytes and decoded), and the
// collector of garbage lets the heap double.
const maxGrowth = 512 << 20

// A post is one bad request and what it must be told.
type post struct {
	name, url, contentType string
	body                   func() io.Reader
	header                 []string
	status                 int
	code                   string // in JSON answers
}

func text(s string) func() io.Reader { return func() io.Reader { return strings.NewReader(s) } }

func raw(b []byte) func() io.Reader { return func() io.Reader { return bytes.NewReader(b) } }

// endless hides the length, so that the body goes out in chunks.
func endless(r io.Reader) func() io.Reader {
	return func() io.Reader { return struct{ io.Reader }{r} }
}

func gzipped(b []byte) []byte {
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	_, _ = z.Write(b)
	_ = z.Close()
	return buf.Bytes()
}

// bomb is a gzip stream of n × 64 MiB zeros. Compressed zeros that begin and end
// on a byte can be repeated as they are.
func bomb(n int) io.Reader {
	var head, block bytes.Buffer
	z := gzip.NewWriter(&head)
	_ = z.Flush()
	f, _ := flate.NewWriter(&block, flate.BestCompression)
	zeros := make([]byte, 1<<20)
	for range 64 {
		_, _ = f.Write(zeros)
	}
	_ = f.Flush()
	parts := []io.Reader{bytes.NewReader(head.Bytes())}
	for range n {
		parts = append(parts, bytes.NewReader(block.Bytes()))
	}
	return io.MultiReader(parts...)
}

// http: bodies on the OTLP endpoints, in both encodings.
func (w *world) http(t *testing.T) {
	traces, logs := w.s.OTLP+"/v1/traces", w.s.OTLP+"/v1/logs"
	span := oneSpan(`{"key":"note","value":{"stringValue":"` + secret + `"}}`)
	good := gzipped([]byte(span))
	deepJSON := oneSpan(`{"key":"k","value":` + strings.Repeat(`{"arrayValue":{"values":[`, 100_000) + `{}` + strings.Repeat(`]}}`, 100_000) + `}`)
	for _, p := range []post{
		{"truncated gzip", traces, typeJSON, raw(good[:len(good)/2]), []string{"Content-Encoding", "gzip"}, 400, "truncated_body"},
		{"gzip with a wrong checksum", traces, typeJSON, raw(spoiled(good)), []string{"Content-Encoding", "gzip"}, 400, "bad_compression"},
		{"not gzip at all", logs, typeProto, text(secret), []string{"Content-Encoding", "gzip"}, 400, ""},
		{"gzip bomb of 10 GiB", traces, typeJSON, func() io.Reader { return bomb(160) }, []string{"Content-Encoding", "gzip"}, 413, "too_large"},
		{"gzip bomb of 10 GiB in protobuf", logs, typeProto, func() io.Reader { return bomb(160) }, []string{"Content-Encoding", "gzip"}, 413, ""},
		{"gzip in gzip", traces, typeJSON, raw(gzipped(good)), []string{"Content-Encoding", "gzip"}, 400, "bad_json"},
		{"two codings", traces, typeJSON, raw(good), []string{"Content-Encoding", "gzip, gzip"}, 415, "unsupported_encoding"},
		{"unknown coding", traces, typeJSON, raw(good), []string{"Content-Encoding", "zstd"}, 415, "unsupported_encoding"},
		{"wrong content type", traces, "text/html", text(span), nil, 415, "unsupported_type"},
		{"no content type", traces, "", text(span), nil, 415, "unsupported_type"},
		{"JSON said to be protobuf", traces, typeProto, text(span), nil, 400, ""},
		{"protobuf said to be JSON", traces, typeJSON, raw([]byte{0x0a, 0x02, 0x12, 0x00}), nil, 400, "bad_json"},
		{"invalid JSON", traces, typeJSON, text(`{"resourceSpans":[{"` + secret), nil, 400, "bad_json"},
		{"JSON of another kind", traces, typeJSON, text(`[[["` + secret + `"]]]`), nil, 400, "bad_json"},
		{"two JSON documents", traces, typeJSON, text(span + span), nil, 400, "bad_json"},
		{"bad ids in JSON", traces, typeJSON, text(strings.Replace(span, hostileTrace, "zz"+hostileTrace[2:], 1)), nil, 400, "bad_json"},
		{"deeply nested JSON", traces, typeJSON, text(deepJSON), nil, 400, "too_deep"},
		{"a million brackets", traces, typeJSON, text(strings.Repeat("[", 1<<20)), nil, 400, "too_deep"},
		{"random protobuf", traces, typeProto, raw(noise(64 << 10)), nil, 400, ""},
		{"protobuf with a length beyond the end", traces, typeProto, raw([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x07, 1, 2, 3}), nil, 400, ""},
		{"protobuf with a length of 2^63", logs, typeProto, raw([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}), nil, 400, ""},
		{"protobuf with an endless varint", logs, typeProto, raw(bytes.Repeat([]byte{0xff}, 1000)), nil, 400, ""},
		{"deeply nested protobuf", traces, typeProto, raw(deepProtobuf(5000)), nil, 400, ""},
		{"protobuf of 60,000 empty spans", traces, typeProto, raw(field(1, field(2, bytes.Repeat([]byte{0x12, 0}, 60_000)))), nil, 413, ""},
		{"protobuf of 15 million empty attributes", traces, typeProto, raw(field(1, field(2, field(2, bytes.Repeat([]byte{9<<3 | 2, 0}, 15<<20))))), nil, 413, ""},
		{"JSON of 10 million empty spans", traces, typeJSON, text(`{"resourceSpans":[{"scopeSpans":[{"spans":[{}` + strings.Repeat(",{}", 10<<20) + `]}]}]}`), nil, 413, "too_many"},
		{"larger than the limit, as it says", traces, typeJSON, raw(make([]byte, 33<<20)), nil, 413, "too_large"},
		{"larger than the limit, in chunks", traces, typeProto, endless(io.LimitReader(zeros{}, 1<<30)), nil, 413, ""},
		{"empty JSON", traces, typeJSON, text(""), nil, 400, "bad_json"},
	} {
		w.refuse(t, p)
	}
	w.attack(t, "GET instead of POST", func(t *testing.T) {
		a := w.get(traces)
		if a.status != http.StatusMethodNotAllowed || a.header.Get("Allow") != http.MethodPost {
			t.Errorf("%s", a)
		}
	})
	w.attack(t, "empty protobuf is an empty export", func(t *testing.T) {
		if a := w.post(post{url: traces, contentType: typeProto, body: text("")}); a.status != http.StatusOK {
			t.Errorf("%s", a)
		}
	})
	w.attack(t, "a span of 20 MiB", func(t *testing.T) { w.largeSpan(t) })
	w.attack(t, "spans that are not UTF-8", func(t *testing.T) { w.notUTF8(t) })
}

// refuse sends p as an attack of its own and wants its clear answer.
func (w *world) refuse(t *testing.T, p post) {
	t.Helper()
	w.attack(t, p.name, func(t *testing.T) {
		before, began := w.memory(t), time.Now()
		a := w.post(p)
		took := time.Since(began)
		clear(t, a, p)
		if took > slowestAnswer {
			t.Errorf("the answer took %s", took)
		}
		if grown := w.memory(t) - before; grown > maxGrowth {
			t.Errorf("the server grew by %d MiB", grown>>20)
		}
	})
}

func (w *world) post(p post) answer {
	req, err := http.NewRequest(http.MethodPost, p.url, p.body())
	if err != nil {
		return answer{err: err}
	}
	req.Header.Set("Content-Type", p.contentType)
	if p.contentType == "" {
		req.Header.Del("Content-Type")
	}
	for i := 0; i+1 < len(p.header); i += 2 {
		req.Header.Set(p.header[i], p.header[i+1])
	}
	return w.do(req)
}

// clear wants the status, the machine's word and a sentence for people, and
// nothing of the content.
func clear(t *testing.T, a answer, p post) {
	t.Helper()
	if a.err != nil {
		t.Fatalf("no answer: %v", a.err)
	}
	if a.status != p.status {
		t.Fatalf("%s, want %d", a, p.status)
	}
	if bytes.Contains(a.body, []byte(secret)) {
		t.Errorf("the answer repeats content: %s", a)
	}
	media, _, err := mime.ParseMediaType(a.header.Get("Content-Type"))
	if err != nil {
		t.Errorf("content type: %v", err)
	}
	message, code := "", ""
	switch media {
	case typeJSON:
		var m struct {
			Code    any    `json:"code"`
			Reason  string `json:"reason"`
			Message string `json:"message"`
		}
		if err := json.Unmarshal(a.body, &m); err != nil {
			t.Fatalf("%v: %s", err, a)
		}
		message, code = m.Message, m.Reason
		if s, ok := m.Code.(string); ok {
			code = s
		}
	case typeProto:
		var s statuspb.Status
		if err := proto.Unmarshal(a.body, &s); err != nil {
			t.Fatalf("the answer is not google.rpc.Status: %v", err)
		}
		message = s.Message
	default:
		t.Errorf("the answer's content type is %q", media)
	}
	if len(message) < 10 {
		t.Errorf("the message says little: %q", message)
	}
	if code != p.code {
		t.Errorf("code %q, want %q (%s)", code, p.code, message)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 0
	}
	return len(p), nil
}

func spoiled(b []byte) []byte {
	b = bytes.Clone(b)
	b[len(b)-8] ^= 0xff
	return b
}

// noise is fixed random bytes.
func noise(n int) []byte {
	b := make([]byte, n)
	state := uint64(0x9e3779b97f4a7c15)
	for i := range b {
		state ^= state << 13
		state ^= state >> 7
		state ^= state << 17
		b[i] = byte(state >> 32)
	}
	return b
}

// field is a length-delimited protobuf field.
func field(number int, value []byte) []byte {
	b := []byte{byte(number<<3 | 2)}
	n := len(value)
	for ; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(append(b, byte(n)), value...)
}

func deepProtobuf(levels int) []byte {
	var b []byte
	for range levels {
		b = field(5, field(1, b))
	}
	b = field(2, b)
	for _, n := range []int{9, 2, 2, 1} {
		b = field(n, b)
	}
	return b
}

const hostileTrace = "66000000000000000000000000000001"

// oneSpan is an export of one root span in JSON.
func oneSpan(attributes string) string {
	return `{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"` + hostileTrace + `","spanId":"6600000000000001","name":"hostile",` +
		`"startTimeUnixNano":"1795407652000000000","endTimeUnixNano":"1795407652250000000","attributes":[` + attributes + `]}]}]}]}`
}

// largeSpan: 20 MiB in one attribute are taken, and the case opens.
func (w *world) largeSpan(t *testing.T) {
	const trace = "66000000000000000000000000000020"
	td := ptrace.NewTraces()
	span := td.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans().AppendEmpty()
	span.SetTraceID([16]byte{0: 0x66, 15: 0x20})
	span.SetSpanID([8]byte{0x66})
	span.SetName("chat")
	span.Attributes().PutStr("app.request.ref", "large-span")
	span.Attributes().PutStr("gen_ai.operation.name", "chat")
	large := strings.Repeat("a large answer ", 20<<20/15)
	span.Attributes().PutStr("gen_ai.output.messages", `[{"role":"assistant","parts":[{"type":"text","content":"`+large+`"}]}]`)
	body, err := ptraceotlp.NewExportRequestFromTraces(td).MarshalProto()
	if err != nil {
		t.Fatal(err)
	}
	a := w.post(post{url: w.s.OTLP + "/v1/traces", contentType: typeProto, body: raw(body)})
	if a.err != nil || a.status != http.StatusOK {
		t.Fatalf("%s", a)
	}
	res := ptraceotlp.NewExportResponse()
	if err := res.UnmarshalProto(a.body); err != nil || res.PartialSuccess().RejectedSpans() != 0 {
		t.Fatalf("%v: %d spans rejected, %s", err, res.PartialSuccess().RejectedSpans(), res.PartialSuccess().ErrorMessage())
	}
	w.spans.Add(1)
	rig.Until(t, 30*time.Second, func() error {
		a := w.get(w.s.API + "/v1/cases/large-span")
		if a.err != nil || a.status != http.StatusOK {
			return fmt.Errorf("%s", a)
		}
		if !bytes.Contains(a.body, []byte(trace)) {
			return fmt.Errorf("the reference leads to another case: %s", a)
		}
		// The body is too large to show: the timeline must say so instead.
		if !bytes.Contains(a.body, []byte("too large to show")) {
			return fmt.Errorf("the case says nothing of its large body: %s", a)
		}
		return nil
	})
	// What was claimed can be read back by whoever reads the topic.
	out, err := rig.Run(t, "topic", "read", "llm.response", "--brokers", w.s.Kafka)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.Contains(out, "claim:sha256/") {
		t.Errorf("no event of llm.response refers to a claimed body")
	}
}

// notUTF8: bytes that are no text in a name, a key and a value.
func (w *world) notUTF8(t *testing.T) {
	str := func(b string) []byte { return field(1, []byte(b)) }
	attr := func(key, value string) []byte {
		return field(9, append(field(1, []byte(key)), field(2, str(value))...))
	}
	trace := append([]byte{0x66}, make([]byte, 15)...)
	trace[15] = 0x33
	var span []byte
	span = append(span, field(1, trace)...)
	span = append(span, field(2, []byte{0x66, 1, 2, 3, 4, 5, 6, 7})...)
	span = append(span, field(5, []byte("na\xff\xfeme"))...)
	span = append(span, attr("app.request.ref", "not-\xc3\x28-text")...)
	span = append(span, attr("k\x80ey", "v\xed\xa0\x80alue\x00")...)
	a := w.post(post{url: w.s.OTLP + "/v1/traces", contentType: typeProto, body: raw(field(1, field(2, field(2, span))))})
	switch a.status {
	case http.StatusOK:
		w.spans.Add(1)
		rig.Until(t, 20*time.Second, func() error {
			a := w.get(w.s.API + "/v1/cases/66000000000000000000000000000033")
			if a.status != http.StatusOK || !json.Valid(a.body) {
				return fmt.Errorf("%s", a)
			}
			return nil
		})
	case http.StatusBadRequest:
	default:
		t.Errorf("%s", a)
	}
}
