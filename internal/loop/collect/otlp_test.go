package collect

import (
	"bytes"
	"compress/flate"
	"compress/zlib"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/looptape/looptape/internal/loop/event"
)

var update = flag.Bool("update", false, "write the golden files anew")

var chat = map[string]any{
	"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "m", "gen_ai.response.id": "resp-1",
	"gen_ai.input.messages": `[{"role":"user","content":"hi"}]`, "gen_ai.output.messages": `[{"role":"assistant","content":"ho"}]`,
}

func chatTraces(tb testing.TB) ptrace.Traces {
	tb.Helper()
	td, err := (&ptrace.JSONUnmarshaler{}).UnmarshalTraces([]byte(spanJSON(false, map[string]any{"service.name": "shop"}, chat, "")))
	if err != nil {
		tb.Fatal(err)
	}
	return td
}

func ids(events []event.Event) (out []string) {
	for _, e := range events {
		out = append(out, e.Type+" "+e.ID)
	}
	return out
}

// The same export in every encoding gives the same events.
func TestEncodings(t *testing.T) {
	asJSON := []byte(spanJSON(false, map[string]any{"service.name": "shop"}, chat, ""))
	asProto, err := ptraceotlp.NewExportRequestFromTraces(chatTraces(t)).MarshalProto()
	if err != nil {
		t.Fatal(err)
	}
	var z, bare bytes.Buffer
	zw := zlib.NewWriter(&z)
	_, _ = zw.Write(asProto)
	_ = zw.Close()
	fw, _ := flate.NewWriter(&bare, 6)
	_, _ = fw.Write(asProto)
	_ = fw.Close()
	var want []string
	for _, tt := range []struct {
		name, contentType, encoding string
		body                        []byte
	}{
		{"JSON", typeJSON, "", asJSON}, {"JSON, charset", "application/json; charset=utf-8", "identity", asJSON}, {"JSON, gzip", typeJSON, "gzip", zip(asJSON)},
		{"protobuf", typeProtobuf, "", asProto}, {"protobuf, gzip", typeProtobuf, "gzip", zip(asProto)},
		{"protobuf, zlib", typeProtobuf, "deflate", z.Bytes()}, {"protobuf, bare deflate", typeProtobuf, "deflate", bare.Bytes()},
	} {
		h := newHarness(t)
		w := h.post("/v1/traces", tt.contentType, tt.body, "Content-Encoding", tt.encoding)
		if w.Code != 200 {
			t.Errorf("%s: %d %s", tt.name, w.Code, w.Body)
			continue
		}
		resp := ptraceotlp.NewExportResponse()
		if strings.HasPrefix(tt.contentType, typeJSON) {
			err = resp.UnmarshalJSON(w.Body.Bytes())
		} else {
			err = resp.UnmarshalProto(w.Body.Bytes())
		}
		if err != nil || resp.PartialSuccess().RejectedSpans() != 0 {
			t.Errorf("%s: answer %v", tt.name, err)
		}
		got := ids(h.tape.take(t))
		if want == nil {
			want = got
		}
		if d := cmp.Diff(want, got); d != "" || len(got) != 3 {
			t.Errorf("%s: %s", tt.name, d)
		}
	}
	h := newHarness(t)
	w := h.post("/v1/traces", typeProtobuf, []byte("hello"))
	var st statuspb.Status
	if err := proto.Unmarshal(w.Body.Bytes(), &st); err != nil || codes.Code(st.Code) != codes.InvalidArgument || st.Message == "" {
		t.Errorf("status %v %v", &st, err)
	}
}

func TestGRPC(t *testing.T) {
	h := newHarness(t)
	l := bufconn.Listen(1 << 20)
	srv := grpc.NewServer(h.c.GRPCOptions()...)
	h.c.RegisterGRPC(srv)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	defer func() {
		srv.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	conn, err := grpc.NewClient("passthrough:///x", grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx := t.Context()
	spans := ptraceotlp.NewGRPCClient(conn)
	if _, err := spans.Export(ctx, ptraceotlp.NewExportRequestFromTraces(chatTraces(t)), grpc.UseCompressor(gzip.Name)); err != nil {
		t.Fatal(err)
	}
	viaHTTP := newHarness(t)
	want := ids(viaHTTP.events(t, "/v1/traces", spanJSON(false, map[string]any{"service.name": "shop"}, chat, "")))
	if d := cmp.Diff(want, ids(h.tape.take(t))); d != "" {
		t.Errorf("not the events of HTTP: %s", d)
	}
	ld, err := (&plog.JSONUnmarshaler{}).UnmarshalLogs([]byte(logJSON(map[string]any{"event.name": "gen_ai.user.message"}, map[string]any{"content": "hi"})))
	if err != nil {
		t.Fatal(err)
	}
	records := plogotlp.NewGRPCClient(conn)
	if _, err := records.Export(ctx, plogotlp.NewExportRequestFromLogs(ld)); err != nil {
		t.Fatal(err)
	}
	one(t, h.tape.take(t), event.PromptRendered)

	// Too deep: the codec stops it before it is decoded.
	td := ptrace.NewTraces()
	v := td.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans().AppendEmpty().Attributes().PutEmpty("deep")
	for range 500 {
		v = v.SetEmptySlice().AppendEmpty()
	}
	if _, err := spans.Export(ctx, ptraceotlp.NewExportRequestFromTraces(td)); err == nil {
		t.Error("a deep value was taken")
	}
	w := ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Body()
	for range 500 {
		w = w.SetEmptySlice().AppendEmpty()
	}
	if _, err := records.Export(ctx, plogotlp.NewExportRequestFromLogs(ld)); err == nil {
		t.Error("a deep body was taken")
	}
	h.tape.err = errors.New("broker is gone")
	_, err = spans.Export(ctx, ptraceotlp.NewExportRequestFromTraces(chatTraces(t)))
	if st := status.Convert(err); st.Code() != codes.Unavailable || len(st.Details()) != 1 || strings.Contains(st.Message(), "broker") {
		t.Errorf("without a tape: %v", err)
	}
	h.checkFates(t)
}

// golden is what is compared of a record.
type golden struct {
	Topic   string            `json:"topic"`
	Key     string            `json:"key"`
	Headers map[string]string `json:"headers"`
	Value   json.RawMessage   `json:"value"`
}

// The records of a handful of exports, byte for byte. They are a format: who
// changes them changes ids or bodies that are on tapes.
func TestGolden(t *testing.T) {
	inputs, err := filepath.Glob(filepath.Join("testdata", "*.in.json"))
	if err != nil || len(inputs) == 0 {
		t.Fatalf("no golden inputs: %v", err)
	}
	for _, file := range inputs {
		in, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		path := "/v1/traces"
		switch name := filepath.Base(file); {
		case strings.HasPrefix(name, "logs"):
			path = "/v1/logs"
		case strings.HasPrefix(name, "events"):
			path = "/v1/events"
		}
		h := newHarness(t)
		if w := h.post(path, typeJSON, in); w.Code/100 != 2 {
			t.Errorf("%s: %d %s", file, w.Code, w.Body)
			continue
		}
		var got []golden
		for _, r := range h.tape.recs {
			g := golden{Topic: r.Topic, Key: string(r.Key), Value: r.Value, Headers: map[string]string{}}
			for _, header := range r.Headers {
				g.Headers[header.Key] = string(header.Value)
			}
			got = append(got, g)
		}
		b, err := json.MarshalIndent(got, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, '\n')
		out := strings.TrimSuffix(file, ".in.json") + ".golden.json"
		if *update {
			if err := os.WriteFile(out, b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), string(b)); d != "" {
			t.Errorf("%s: %s", file, d)
		}
	}
}

// Whatever bytes come, the answer is one of the protocol and nothing is half
// done.
func FuzzOTLP(f *testing.F) {
	asProto, err := ptraceotlp.NewExportRequestFromTraces(chatTraces(f)).MarshalProto()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(asProto, false, false)
	f.Add([]byte(spanJSON(true, nil, chat, `"events":[{"name":"gen_ai.choice"}]`)), true, false)
	f.Add([]byte(logJSON(map[string]any{"event.name": "gen_ai.choice"}, map[string]any{"message": map[string]any{"content": []any{"x"}}})), true, true)
	h := newHarness(f)
	f.Fuzz(func(t *testing.T, in []byte, isJSON, isLog bool) {
		path := "/v1/traces"
		if isLog {
			path = "/v1/logs"
		}
		w := h.post(path, contentType(isJSON), in)
		if w.Code != 200 && w.Code != 400 && w.Code != 413 {
			t.Fatalf("status %d %s", w.Code, w.Body)
		}
		for _, e := range h.tape.take(t) {
			if !json.Valid(e.Data) {
				t.Fatalf("%s: %q", e.Type, e.Data)
			}
			if err := h.c.cfg.Contract.Validate(e.Type, e.Data); err != nil {
				t.Fatalf("%v: %s", err, e.Data)
			}
		}
		h.checkFates(t)
	})
}

// FuzzMessages: no text that calls itself messages may panic or grow.
func FuzzMessages(f *testing.F) {
	for _, s := range []string{`[{"role":"user","parts":[{"type":"text","content":"hi"}]}]`, `{"messages":[{"content":[{"text":"x"}]}]}`, `"x"`, `[["a"],null,1]`,
		`[{"type":"tool-call","toolCallId":"1","toolName":"f","input":{"a":1}}]`, `{"message":{"message":{"content":"x"}}}`, `[{"event.name":"gen_ai.choice","message":{"content":"x"}}]`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var td = ptrace.NewSpan()
		td.Attributes().PutStr("x", s)
		v, _ := td.Attributes().Get("x")
		var m messages
		m.read(v, "user")
		n := 0
		for _, msg := range append(m.list, m.out...) {
			n += len(msg.Content)
			for _, c := range msg.ToolCalls {
				n += len(c.Arguments)
			}
		}
		if n > 8*len(s)+16 {
			t.Errorf("%d bytes became %d", len(s), n)
		}
	})
}

func BenchmarkTraces(b *testing.B) {
	resource := map[string]any{"service.name": "shop", "service.version": "v1", "deployment.environment.name": "prod", "telemetry.sdk.name": "opentelemetry"}
	text := strings.Repeat("lorem ipsum ", 60)
	attrs := map[string]any{
		"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "m", "gen_ai.response.model": "m", "gen_ai.request.temperature": 0.5,
		"gen_ai.usage.input_tokens": 80, "gen_ai.usage.output_tokens": 160, "gen_ai.response.finish_reasons": []any{"stop"},
		"gen_ai.input.messages":  `[{"role":"system","parts":[{"type":"text","content":"be kind"}]},{"role":"user","parts":[{"type":"text","content":"` + text + `"}]}]`,
		"gen_ai.output.messages": `[{"role":"assistant","finish_reason":"stop","parts":[{"type":"text","content":"` + text + `"}]}]`,
	}
	td, err := (&ptrace.JSONUnmarshaler{}).UnmarshalTraces([]byte(spanJSON(false, resource, attrs, "")))
	if err != nil {
		b.Fatal(err)
	}
	spans := td.ResourceSpans().At(0).ScopeSpans().At(0).Spans()
	for i := range 255 {
		s := spans.AppendEmpty()
		spans.At(0).CopyTo(s)
		id := s.SpanID()
		id[0], id[1] = byte(i+2), 9
		s.SetSpanID(id)
	}
	in, err := ptraceotlp.NewExportRequestFromTraces(td).MarshalProto()
	if err != nil {
		b.Fatal(err)
	}
	h := newHarness(b)
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	events := 0
	for b.Loop() {
		if w := h.post("/v1/traces", typeProtobuf, in); w.Code != 200 {
			b.Fatal(w.Code)
		}
		events += len(h.tape.recs)
		h.tape.recs = h.tape.recs[:0]
	}
	b.ReportMetric(float64(events)/b.Elapsed().Seconds(), "events/s")
}

func BenchmarkFeedback(b *testing.B) {
	h := newHarness(b)
	in := []byte(`{"request":"r1","thumbs":"up","comment":"good","user":"me"}`)
	b.ReportAllocs()
	for b.Loop() {
		if w := h.post("/v1/feedback", typeJSON, in); w.Code != 202 {
			b.Fatal(w.Code)
		}
		h.tape.recs = h.tape.recs[:0]
	}
}
