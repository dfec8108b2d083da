package app

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"time"

	"google.golang.org/grpc"
)

// A server runs until its context ends, then lets what is under way finish.
type server interface {
	run(ctx context.Context) error
}

// servers are the HTTP listeners: the API with the pages, and OTLP.
func (a *App) servers() map[string]server {
	h := http.HandlerFunc(a.serveHTTP)
	all := map[string]server{"http": newHTTPServer(a.http, h)}
	if a.otlpHTTP != nil {
		all["otlp/http"] = newHTTPServer(a.otlpHTTP, h)
	}
	return all
}

// serveHTTP passes requests to the loop's handler once it stands. Until then it
// answers for itself: alive, and not ready.
func (a *App) serveHTTP(w http.ResponseWriter, r *http.Request) {
	if h := a.handler.Load(); h != nil {
		(*h).ServeHTTP(w, r)
		return
	}
	if r.URL.Path == "/healthz" {
		w.Write([]byte("ok\n"))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Retry-After", "1")
	w.WriteHeader(http.StatusServiceUnavailable)
	message := "Looptape is starting; try again in a second."
	if err := a.readyErr(); err != nil {
		message = "Looptape is starting (" + err.Error() + "); try again in a second."
	}
	_ = json.NewEncoder(w).Encode(map[string]string{"code": "starting", "message": message})
}

type httpServer struct {
	l net.Listener
	s *http.Server
}

func newHTTPServer(l net.Listener, h http.Handler) *httpServer {
	return &httpServer{l, &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       2 * time.Minute, // a 32 MiB export over a slow line
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
	}}
}

func (h *httpServer) run(ctx context.Context) error {
	base, stopLong := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLong()
	h.s.BaseContext = func(net.Listener) context.Context { return base }
	done := make(chan error, 1)
	go func() { done <- h.s.Serve(h.l) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	// Answers under way get their time; streams of live updates would take for ever,
	// so contexts end soon after.
	deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	defer time.AfterFunc(drainLive, stopLong).Stop()
	err := h.s.Shutdown(deadline)
	if errors.Is(err, context.DeadlineExceeded) {
		err = h.s.Close()
	}
	<-done
	return err
}

// drainLive is when a request that still runs is told to end.
const drainLive = 2 * time.Second

type grpcServer struct {
	l net.Listener
	s *grpc.Server
}

func (g *grpcServer) run(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- g.s.Serve(g.l) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	hard := time.AfterFunc(drain, g.s.Stop)
	defer hard.Stop()
	g.s.GracefulStop()
	<-done
	return nil
}
