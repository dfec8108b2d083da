// Package rig starts the processes that the heavier suites look at: the built
// bin/looptape and a real Apache Kafka, each on free loopback ports with its
// data in a directory of the test. A component that is missing is an error,
// never a skip.
package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Root is the repository's root.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}

// Binary is the built program.
func Binary(t testing.TB) string {
	t.Helper()
	path := filepath.Join(Root(), "bin", "looptape")
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: run `make build` first", err)
	}
	return path
}

// Shared is a file of the shared test data, which lies beside the repository.
func Shared(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("LOOPTAPE_SHARED")
	if dir == "" {
		dir = filepath.Join(Root(), "..", "shared")
	}
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: set LOOPTAPE_SHARED to the directory of the shared test data", err)
	}
	return path
}

// Port is a loopback port that was free a moment ago.
func Port(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// A Process is a started program whose output is kept for the failure message.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error
	out  tail
}

// Start starts a program in dir; it is killed at the end of the test.
func Start(t testing.TB, dir, name string, args ...string) *Process {
	t.Helper()
	p := &Process{cmd: exec.Command(name, args...), done: make(chan struct{})}
	p.cmd.Dir = dir
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("output of %s:\n%s", filepath.Base(name), p.Output())
		}
	})
	return p
}

// PID is the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Output is the last of what the process printed.
func (p *Process) Output() string { return p.out.String() }

// Kill sends SIGKILL and waits until the process is gone.
func (p *Process) Kill() {
	_ = syscall.Kill(-p.PID(), syscall.SIGKILL)
	<-p.done
}

// Stop sends SIGTERM and waits; an exit code other than 0 or a process that
// does not end in time is an error.
func (p *Process) Stop(within time.Duration) error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	return p.Wait(within)
}

// Interrupt sends SIGINT, as Ctrl-C does, and waits like Stop.
func (p *Process) Interrupt(within time.Duration) error {
	_ = p.cmd.Process.Signal(os.Interrupt)
	return p.Wait(within)
}

// Wait waits for the process to end by itself.
func (p *Process) Wait(within time.Duration) error {
	select {
	case <-p.done:
		return p.err
	case <-time.After(within):
		p.Kill()
		return fmt.Errorf("did not end within %s", within)
	}
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// tail keeps the last bytes written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const tailBytes = 64 << 10

func (w *tail) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.b = append(w.b, p...)
	if len(w.b) > 2*tailBytes {
		w.b = append([]byte(nil), w.b[len(w.b)-tailBytes:]...)
	}
	return len(p), nil
}

func (w *tail) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(w.b)
}

// A Server is a running `looptape serve` (or demo).
type Server struct {
	*Process
	t                          testing.TB
	Dir                        string
	Kafka, API, OTLP, OTLPGRPC string // host:port, URL, URL, host:port
	Program                    string // path of another build than Binary
	command                    []string
}

// Serve starts `looptape serve` on free ports and waits until it is ready.
func Serve(t testing.TB, extra ...string) *Server {
	t.Helper()
	s := Prepare(t, "serve", extra...)
	s.Start()
	s.Ready(60 * time.Second)
	return s
}

// Prepare chooses ports and a directory for a command of the program without
// starting it.
func Prepare(t testing.TB, command string, extra ...string) *Server {
	t.Helper()
	kafka, api, otlp, grpc := Port(t), Port(t), Port(t), Port(t)
	s := &Server{
		t: t, Dir: t.TempDir(), Kafka: addr(kafka), API: "http://" + addr(api), OTLP: "http://" + addr(otlp), OTLPGRPC: addr(grpc),
	}
	s.command = append([]string{
		command, "--data", filepath.Join(s.Dir, "data"), "--kafka", s.Kafka,
		"--http", addr(api), "--otlp-http", addr(otlp), "--otlp-grpc", addr(grpc),
	}, extra...)
	return s
}

func addr(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// Start starts the process, again after a Kill on the same data and ports.
func (s *Server) Start() {
	s.t.Helper()
	program := s.Program
	if program == "" {
		program = Binary(s.t)
	}
	s.Process = Start(s.t, s.Dir, program, s.command...)
}

// Ready waits until GET /readyz answers 200.
func (s *Server) Ready(within time.Duration) {
	s.t.Helper()
	last := "no answer yet"
	Until(s.t, within, func() error {
		select {
		case <-s.Done():
			s.t.Fatalf("looptape ended before it was ready: %v\n%s", s.err, s.Output())
		default:
		}
		res, err := http.Get(s.API + "/readyz")
		if err != nil {
			return errors.New(last)
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(io.LimitReader(res.Body, 4<<10))
		if res.StatusCode != http.StatusOK {
			last = string(b)
			return fmt.Errorf("readyz: %d %s", res.StatusCode, b)
		}
		return nil
	})
}

// Run runs another command of the program to its end and returns its output.
func Run(t testing.TB, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, Binary(t), args...).CombinedOutput()
	return string(out), err
}

// Until calls check until it returns nil; its last error fails the test when
// the time is over.
func Until(t testing.TB, within time.Duration, check func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %v", within, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// Kafka is a running Apache Kafka of one node in KRaft mode.
type Kafka struct {
	*Process
	Addr string
}

// KafkaOptions change a Kafka from its defaults.
type KafkaOptions struct {
	Properties map[string]string
	HeapMB     int // 512 unless given
}

// StartKafka formats and starts a Kafka and waits until it answers.
func StartKafka(t testing.TB, o KafkaOptions) *Kafka {
	t.Helper()
	classpath := Classpath(t, "broker")
	dir := t.TempDir()
	port, controller := Port(t), Port(t)
	props := map[string]string{
		"process.roles": "broker,controller", "node.id": "1",
		"controller.quorum.voters": "1@" + addr(controller),
		"listeners":                "PLAINTEXT://" + addr(port) + ",CONTROLLER://" + addr(controller),
		"advertised.listeners":     "PLAINTEXT://" + addr(port), "controller.listener.names": "CONTROLLER",
		"log.dirs":                                 filepath.Join(dir, "data"),
		"offsets.topic.replication.factor":         "1",
		"transaction.state.log.replication.factor": "1", "transaction.state.log.min.isr": "1",
		"share.coordinator.state.topic.replication.factor": "1", "share.coordinator.state.topic.min.isr": "1",
		"group.initial.rebalance.delay.ms": "0",
	}
	for k, v := range o.Properties {
		props[k] = v
	}
	var b strings.Builder
	for k, v := range props {
		fmt.Fprintf(&b, "%s=%s\n", k, v)
	}
	file := filepath.Join(dir, "server.properties")
	if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("java", "-cp", classpath, "kafka.tools.StorageTool", "format", "-t", "bG9vcHRhcGUtdGVzdC0xMg", "-c", file).CombinedOutput(); err != nil {
		t.Fatalf("format Kafka's storage: %v\n%s", err, out)
	}
	heap := max(o.HeapMB, 512)
	k := &Kafka{Addr: addr(port)}
	k.Process = Start(t, dir, "java", fmt.Sprintf("-Xmx%dm", heap), "-cp", classpath, "kafka.Kafka", file)
	Until(t, 90*time.Second, func() error {
		select {
		case <-k.Done():
			t.Fatalf("Kafka ended: %v\n%s", k.err, k.Output())
		default:
		}
		c, err := net.DialTimeout("tcp", k.Addr, time.Second)
		if err == nil {
			c.Close()
		}
		return err
	})
	return k
}

// Classpath is one of those that test/tools.sh resolves: broker or tools.
func Classpath(t testing.TB, profile string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(Root(), ".cache", "kafka", profile+".classpath"))
	if err != nil {
		t.Fatalf("%v: run `make tools` first", err)
	}
	return strings.TrimSpace(string(b))
}

// Tool is a program that test/tools.sh installs.
func Tool(t testing.TB, name string) string {
	t.Helper()
	if name == "python" {
		name = filepath.Join(Root(), ".cache", "python", "bin", "python")
	}
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v: run `make tools` first", err)
	}
	return path
}
