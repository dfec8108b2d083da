//go:build e2e

package hostile

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// rawCodec sends and receives bytes as they are.
type rawCodec struct{}

func (rawCodec) Name() string                    { return "proto" }
func (rawCodec) Marshal(v any) ([]byte, error)   { return v.([]byte), nil }
func (rawCodec) Unmarshal(b []byte, v any) error { *v.(*[]byte) = bytes.Clone(b); return nil }

// bombCompressor says gzip and sends what it was given, which is gzip already.
type bombCompressor struct{}

func (bombCompressor) Do(w io.Writer, p []byte) error { _, err := w.Write(p); return err }
func (bombCompressor) Type() string                   { return "gzip" }

const (
	exportTraces = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
	exportLogs   = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
)

func (w *world) grpc(t *testing.T) {
	for _, g := range []struct {
		name, method string
		message      []byte
		options      []grpc.DialOption
		codes        []codes.Code
	}{
		{"a message above the limit", exportTraces, make([]byte, 40<<20), nil, []codes.Code{codes.ResourceExhausted}},
		{"a bomb", exportTraces, wholeBomb(), []grpc.DialOption{grpc.WithCompressor(bombCompressor{})}, []codes.Code{codes.ResourceExhausted}},
		{"truncated gzip", exportLogs, gzipped(noise(4096))[:2000], []grpc.DialOption{grpc.WithCompressor(bombCompressor{})}, []codes.Code{codes.Internal, codes.InvalidArgument}},
		{"no protobuf", exportTraces, noise(4096), nil, []codes.Code{codes.Internal, codes.InvalidArgument}},
		{"a length beyond the end", exportLogs, []byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x07, 1, 2, 3}, nil, []codes.Code{codes.Internal, codes.InvalidArgument}},
		{"deep nesting", exportTraces, deepProtobuf(5000), nil, []codes.Code{codes.Internal, codes.InvalidArgument}},
		{"15 million empty attributes", exportTraces, field(1, field(2, field(2, bytes.Repeat([]byte{9<<3 | 2, 0}, 15<<20)))), nil, []codes.Code{codes.Internal, codes.ResourceExhausted, codes.InvalidArgument}},
		{"a method nobody has", "/opentelemetry.proto.collector.trace.v1.TraceService/Import", nil, nil, []codes.Code{codes.Unimplemented}},
		{"a service nobody has", "/../../Export", nil, nil, []codes.Code{codes.Unimplemented}},
	} {
		w.attack(t, "gRPC: "+g.name, func(t *testing.T) {
			before := w.memory(t)
			conn, err := grpc.NewClient(w.s.OTLPGRPC, append(g.options, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			var reply []byte
			err = conn.Invoke(ctx, g.method, g.message, &reply, grpc.ForceCodec(rawCodec{}), grpc.MaxCallSendMsgSize(1<<30))
			st, ok := status.FromError(err)
			if err == nil || !ok {
				t.Fatalf("%v", err)
			}
			good := false
			for _, c := range g.codes {
				good = good || st.Code() == c
			}
			if !good || len(st.Message()) < 10 {
				t.Errorf("%v: %s, want %v", st.Code(), st.Message(), g.codes)
			}
			if grown := w.memory(t) - before; grown > maxGrowth {
				t.Errorf("the server grew by %d MiB", grown>>20)
			}
		})
	}

	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	frame := func(length int, kind, flags byte, stream uint32, payload string) string {
		return string([]byte{byte(length >> 16), byte(length >> 8), byte(length), kind, flags, byte(stream >> 24), byte(stream >> 16), byte(stream >> 8), byte(stream)}) + payload
	}
	settings := frame(0, 4, 0, 0, "")
	for name, bytes := range map[string]string{
		"random bytes":                  string(noise(4096)),
		"an HTTP/1 request":             "POST " + exportTraces + " HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
		"a Kafka frame":                 "\x00\x00\x00\x10\x00\x12\x00\x03\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00",
		"random frames":                 preface + settings + string(noise(4096)),
		"a frame of 16 MiB":             preface + settings + frame(1<<24-1, 0, 0, 1, strings.Repeat("x", 1<<16)),
		"data on no stream":             preface + settings + frame(4, 0, 0, 0, "abcd"),
		"headers that can't be decoded": preface + settings + frame(8, 1, 4, 1, "\xff\xff\xff\xff\xff\xff\xff\xff"),
		"settings on a stream":          preface + frame(6, 4, 0, 7, "\x00\x04\xff\xff\xff\xff"),
		"a window beyond its bounds":    preface + settings + frame(4, 8, 0, 0, "\x7f\xff\xff\xff"),
	} {
		w.attack(t, "gRPC port: "+name, func(t *testing.T) { closes(t, w.s.OTLPGRPC, bytes) })
	}
	w.attack(t, "gRPC port: endless continuation of headers", func(t *testing.T) {
		c, err := net.Dial("tcp", w.s.OTLPGRPC)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		go io.Copy(io.Discard, c)
		_ = c.SetWriteDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.WriteString(c, preface+settings+frame(1, 1, 0, 1, "\x82")); err != nil {
			t.Fatal(err)
		}
		more := frame(16000, 9, 0, 1, strings.Repeat("\x00\x01a\x01b", 3200))
		for range 20_000 { // 320 MB: the server must have had enough long before
			if _, err := io.WriteString(c, more); err != nil {
				return
			}
		}
		t.Error("the server read 320 MB of headers")
	})
	w.attack(t, "gRPC port: ten thousand resets", func(t *testing.T) {
		c, err := net.Dial("tcp", w.s.OTLPGRPC)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		go io.Copy(io.Discard, c)
		_ = c.SetWriteDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.WriteString(c, preface+settings); err != nil {
			t.Fatal(err)
		}
		for i := range uint32(10_000) { // each opens a stream and takes it back
			headers := "\x83\x86\x44\x01/\x41\x01x"
			if _, err := io.WriteString(c, frame(len(headers), 1, 4, 2*i+1, headers)+frame(4, 3, 0, 2*i+1, "\x00\x00\x00\x08")); err != nil {
				return // it may hang up
			}
		}
	})
}

func wholeBomb() []byte {
	b, err := io.ReadAll(bomb(160))
	if err != nil {
		panic(err) // it comes from memory
	}
	return b
}

// closes sends bytes and wants the server to end the connection, after whatever
// it says in its own protocol.
func closes(t *testing.T, addr, bytes string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(c, bytes)
	_ = c.(*net.TCPConn).CloseWrite()
	n, err := io.Copy(io.Discard, c)
	var op *net.OpError
	if err != nil && (!errors.As(err, &op) || op.Timeout()) {
		t.Errorf("the connection did not end: %v", err)
	}
	if n > 64<<10 {
		t.Errorf("it answered with %d bytes", n)
	}
}
