//go:build e2e

package hostile

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/looptape/looptape/test/rig"
)

// A command is one run of the program that must fail in a way that helps.
type command struct {
	name  string
	args  []string
	code  int
	says  []string // all of them in the output
	lines int      // of output at most; 0: one
}

func (w *world) commands(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	span := func(trace string) string {
		return `{"path":"/v1/traces","content_type":"application/json","body":` + strings.Replace(oneSpan(`{"key":"app.request.ref","value":{"stringValue":"sent-`+trace+`"}}`), hostileTrace, trace, 1) + "}\n"
	}
	const one, two, three = "66000000000000000000000000000101", "66000000000000000000000000000102", "66000000000000000000000000000103"
	to := []string{"send", "--quiet", "--api", w.s.API, "--otlp-http", w.s.OTLP}
	send := func(args ...string) []string { return append(append([]string(nil), to...), args...) }
	whole := gzipped([]byte(span(one) + strings.Repeat(span(two), 50)))
	nowhere := fmt.Sprintf("http://127.0.0.1:%d", rig.Port(t))

	for _, c := range []command{
		{"send: no such file", send(filepath.Join(dir, "missing.jsonl")), 1, []string{"missing.jsonl", "no such file"}, 0},
		{"send: a directory", send(dir), 1, []string{dir, "is a directory"}, 0},
		{"send: no server", []string{"send", "--quiet", "--otlp-http", nowhere, file("span.jsonl", span(one))}, 1, []string{nowhere, "looptape serve", "--otlp-http"}, 0},
		{"send: no server for events", []string{"send", "--quiet", "--api", nowhere, file("event.jsonl", `{"type":"response.delivered","request":"r"}`)}, 1, []string{nowhere, "looptape serve", "--api"}, 0},
		{"send: not an address", []string{"send", "--quiet", "--otlp-http", "127.0.0.1", file("span2.jsonl", span(one))}, 1, []string{"--otlp-http"}, 0},
		{"send: an endless line", send(file("long.jsonl", `{"path":"`+strings.Repeat("x", 65<<20))), 1, []string{"long.jsonl", "a line is longer"}, 0},
		{"send: a negative rate", send("--rate=-1", dir), 1, []string{"--rate"}, 0},
		{"topic: no broker", []string{"topic", "list", "--brokers", strings.TrimPrefix(nowhere, "http://")}, 1, []string{"looptape serve", "--brokers"}, 0},
		{"topic: not there", []string{"topic", "describe", "hostile.nobody", "--brokers", w.s.Kafka}, 1, []string{"hostile.nobody", "looptape topic list"}, 0},
		{"topic: a name that is none", []string{"topic", "create", "../evil", "--brokers", w.s.Kafka}, 1, []string{"../evil"}, 0},
		{"topic: no partitions", []string{"topic", "create", "hostile.none", "--partitions", "0", "--brokers", w.s.Kafka}, 1, []string{"--partitions"}, 0},
		{"topic: a configuration that is none", []string{"topic", "create", "hostile.none", "--config", "retention.ms=soon", "--brokers", w.s.Kafka}, 1, []string{"hostile.none"}, 0},
	} {
		w.fails(t, c)
	}

	w.attack(t, "send: truncated gzip", func(t *testing.T) {
		out, err := rig.Run(t, send(file("cut.jsonl.gz", string(whole[:len(whole)-20])))...)
		wantExit(t, out, err, 1)
		for _, s := range []string{"cut.jsonl.gz", "unexpected EOF", "lines were sent"} {
			if !strings.Contains(out, s) {
				t.Errorf("%q is missing: %s", s, out)
			}
		}
		// How many lines came through before the cut, only the compressor knows.
		// The server's counters must say the same in the end.
		var sent int64
		if at := strings.LastIndex(out, "("); at < 0 {
			t.Errorf("it does not say how far it came: %s", out)
		} else if _, err := fmt.Sscanf(out[at:], "(%d lines were sent", &sent); err != nil || sent < 1 || sent > 51 {
			t.Errorf("it does not say how far it came: %s", out)
		}
		w.spans.Add(sent)
	})
	w.attack(t, "send: a file that is not gzip behind its magic", func(t *testing.T) {
		out, err := rig.Run(t, send(file("bad.gz", "\x1f\x8b"+secret))...)
		wantExit(t, out, err, 1)
		if !strings.Contains(out, "bad.gz") || strings.Contains(out, secret) {
			t.Error(out)
		}
	})
	w.attack(t, "send: bad lines between good ones", func(t *testing.T) {
		name := file("mixed.jsonl", span(one)+"not JSON "+secret+"\n"+span(two)+"\n"+`{"path":"/v1/nothing"}`+"\n"+
			`{"path":"/v1/traces","body_b64":"%%%"}`+"\n"+`{"path":"/v1/traces","content_type":"application/x-protobuf","body_b64":"/////w=="}`+"\n"+
			`{"type":"response.delivered","request":"sent-event","answer":"a"}`+"\n"+`{"type":"response.delivered"}`+"\n"+`{"type":"nobody.knows"}`+"\n"+span(three))
		out, err := rig.Run(t, send(name)...)
		wantExit(t, out, err, 1)
		for _, line := range []string{":2: ", ":5: ", ":6: ", ":7: ", ":9: "} {
			if !strings.Contains(out, name+line) {
				t.Errorf("line %s is not named:\n%s", line, out)
			}
		}
		if !strings.Contains(out, "sent 5 of 10 lines, 1 of them quarantined") {
			t.Errorf("the sum is wrong:\n%s", out)
		}
		if strings.Contains(out, secret) {
			t.Errorf("content came up:\n%s", out)
		}
		w.spans.Add(3)
		w.events.Add(3)
		for _, trace := range []string{one, two, three} {
			w.hasCase(t, trace)
		}
		w.hasCase(t, "sent-event")
	})
	w.attack(t, "topic: created twice", func(t *testing.T) {
		args := []string{"topic", "create", "hostile.twice", "--brokers", w.s.Kafka, "--partitions", "2"}
		if out, err := rig.Run(t, args...); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		w.failing(t, command{args: args, code: 1, says: []string{"hostile.twice", "exists already", "looptape topic describe"}})
	})

	// A second server must not disturb the first, nor start half.
	serve := func(change map[string]string) []string {
		free := func() string { return fmt.Sprintf("127.0.0.1:%d", rig.Port(t)) }
		flags := map[string]string{"--data": filepath.Join(dir, "second"), "--kafka": free(), "--http": free(), "--otlp-http": free(), "--otlp-grpc": free()}
		for k, v := range change {
			flags[k] = v
		}
		args := []string{"serve"}
		for k, v := range flags {
			args = append(args, k, v)
		}
		return args
	}
	addr := func(url string) string { return strings.TrimPrefix(url, "http://") }
	foreign, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	for flag, taken := range map[string]string{"--kafka": w.s.Kafka, "--http": addr(w.s.API), "--otlp-http": addr(w.s.OTLP), "--otlp-grpc": w.s.OTLPGRPC} {
		w.fails(t, command{"serve: taken " + flag, serve(map[string]string{flag: taken}), 1, []string{taken, flag, "address already in use"}, 0})
		w.fails(t, command{"serve: foreign " + flag, serve(map[string]string{flag: foreign.Addr().String()}), 1, []string{flag, "address already in use"}, 0})
	}
	data := filepath.Join(w.s.Dir, "data")
	for _, c := range []command{
		{"serve: data in use", serve(map[string]string{"--data": data}), 1, []string{data, "in use", "--data"}, 0},
		{"serve: data is a file", serve(map[string]string{"--data": file("plain", "x")}), 1, []string{"plain"}, 0},
		{"serve: data cannot be made", serve(map[string]string{"--data": "/proc/looptape"}), 1, []string{"/proc/looptape"}, 0},
		{"serve: not an address", serve(map[string]string{"--http": "nonsense"}), 1, []string{"--http", "nonsense"}, 0},
		{"serve: a policy that is none", append(serve(nil), "--policy", file("policy.yaml", "}{")), 1, []string{"policy.yaml"}, 0},
	} {
		w.fails(t, c)
	}
}

// fails runs a command as an attack of its own.
func (w *world) fails(t *testing.T, c command) {
	t.Helper()
	w.attack(t, c.name, func(t *testing.T) { w.failing(t, c) })
}

func (w *world) failing(t *testing.T, c command) {
	t.Helper()
	began := time.Now()
	out, err := rig.Run(t, c.args...)
	wantExit(t, out, err, c.code)
	for _, s := range c.says {
		if !strings.Contains(out, s) {
			t.Errorf("%q is missing: %s", s, out)
		}
	}
	if n := strings.Count(strings.TrimSpace(out), "\n") + 1; n > max(c.lines, 1) {
		t.Errorf("%d lines where one would do:\n%s", n, out)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %s to say so", took)
	}
}

func wantExit(t *testing.T, out string, err error, code int) {
	t.Helper()
	got := 0
	if exit, ok := err.(interface{ ExitCode() int }); ok {
		got = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	if got != code {
		t.Errorf("exit code %d, want %d:\n%s", got, code, out)
	}
}
