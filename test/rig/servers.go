package rig

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A Service is a server that a suite stops, kills, pauses and starts again on the
// same ports and data.
type Service struct {
	*Process
	Dir     string // of its data
	t       testing.TB
	name    string
	args    []string
	answers func(context.Context) error // nil once it serves
}

// Start starts it, again after Kill or Stop, and waits until it serves.
func (s *Service) Start() {
	s.t.Helper()
	s.Launch()
	s.Ready()
}

// Launch is Start without the wait.
func (s *Service) Launch() {
	s.t.Helper()
	s.Process = Start(s.t, s.Dir, s.name, s.args...)
}

// Ready waits until it serves.
func (s *Service) Ready() {
	s.t.Helper()
	Until(s.t, 60*time.Second, func() error {
		select {
		case <-s.Done():
			s.t.Fatalf("%s ended: %v\n%s", filepath.Base(s.name), s.err, s.Output())
		default:
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		return s.answers(ctx)
	})
}

// Restart kills it and starts it again.
func (s *Service) Restart() {
	s.t.Helper()
	s.Kill()
	s.Start()
}

// Pause stops its clock: connections stay open and nothing is answered. It ends
// with Resume.
func (s *Service) Pause() { _ = syscall.Kill(-s.PID(), syscall.SIGSTOP) }

// Resume ends Pause.
func (s *Service) Resume() { _ = syscall.Kill(-s.PID(), syscall.SIGCONT) }

// server is a program that test/tools.sh builds.
func server(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(Root(), ".cache", "bin", name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: run `make tools` first", err)
	}
	return path
}

// Credentials of every S3 server that S3 starts. They are put into the
// environment, where this process and those it starts find them.
const (
	S3AccessKey = "looptape-test"
	S3SecretKey = "looptape-test-secret"
)

var s3Environment = sync.OnceValue(func() error {
	return errors.Join(os.Setenv("AWS_ACCESS_KEY_ID", S3AccessKey), os.Setenv("AWS_SECRET_ACCESS_KEY", S3SecretKey),
		os.Unsetenv("AWS_SESSION_TOKEN"), os.Unsetenv("AWS_REGION"))
})

// S3Server is a running versitygw on a directory. Dir holds a directory for each
// bucket, and in it a file for each object.
type S3Server struct {
	*Service
	Endpoint string // http://host:port
}

// S3 starts an S3 server with no bucket in it.
func S3(t testing.TB) *S3Server {
	t.Helper()
	if err := s3Environment(); err != nil {
		t.Fatal(err)
	}
	at := addr(Port(t))
	s := &S3Server{Endpoint: "http://" + at}
	s.Service = &Service{
		t: t, Dir: t.TempDir(), name: server(t, "versitygw"),
		answers: func(ctx context.Context) error { return answersHTTP(ctx, s.Endpoint) },
	}
	s.args = []string{"--access", S3AccessKey, "--secret", S3SecretKey, "--port", at, "--quiet", "posix", s.Dir}
	s.Start()
	return s
}

// URL makes the bucket, if it is not there, and returns the URL of a store in it,
// below prefix if that is not empty.
func (s *S3Server) URL(bucket, prefix string) string {
	s.t.Helper()
	if err := os.MkdirAll(filepath.Join(s.Dir, bucket), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if prefix != "" {
		prefix = "/" + prefix
	}
	return fmt.Sprintf("s3://%s%s?endpoint=%s&region=us-east-1&style=path", bucket, prefix, s.Endpoint)
}

// EtcdServer is a running etcd of one member.
type EtcdServer struct {
	*Service
	Addr string // host:port of its clients
}

// Etcd starts an empty etcd; args are further arguments of it.
func Etcd(t testing.TB, args ...string) *EtcdServer {
	t.Helper()
	client, peer := addr(Port(t)), addr(Port(t))
	s := &EtcdServer{Addr: client}
	s.Service = &Service{
		t: t, Dir: t.TempDir(), name: server(t, "etcd"),
		answers: func(ctx context.Context) error { return answersHTTP(ctx, "http://"+client+"/health") },
	}
	s.args = append([]string{
		"--name", "test", "--data-dir", filepath.Join(s.Dir, "data"), "--log-level", "warn",
		"--listen-client-urls", "http://" + client, "--advertise-client-urls", "http://" + client,
		"--listen-peer-urls", "http://" + peer, "--initial-advertise-peer-urls", "http://" + peer,
		"--initial-cluster", "test=http://" + peer,
	}, args...)
	s.Start()
	return s
}

// URL is that of a metadata store with all of its keys below prefix.
func (s *EtcdServer) URL(prefix string) string { return "etcd://" + s.Addr + "/" + prefix }

// answersHTTP says whether a server answers at all; that it refuses is an answer,
// that it fails is none.
func answersHTTP(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode >= 500 {
		return fmt.Errorf("%s: HTTP %d", url, res.StatusCode)
	}
	return nil
}
