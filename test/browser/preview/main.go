// Preview serves the pages over a made-up log, so that they can be looked at and
// tested without a tape, a gate or a model:
//
//	go run ./test/browser/preview -addr 127.0.0.1:8090 -units 400
//
// It writes real events of the contract into a log in memory, from a fixed seed:
// conversations drawn to two releases, their scores and feedback, evidence that
// grows, and a rollback. The numbers only look right; nothing here decides
// anything. -empty serves a log without events.
package main

import (
	"context"
	"flag"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/looptape/looptape/internal/base/run"
	"github.com/looptape/looptape/internal/loop/view"
	"github.com/looptape/looptape/internal/web"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8090", "address to serve on")
	units := flag.Int("units", 400, "conversations that are there at the start")
	every := flag.Duration("every", 400*time.Millisecond, "time between two more conversations; 0 for none")
	decided := flag.Bool("decided", true, "the rollback has happened")
	empty := flag.Bool("empty", false, "serve a log without events")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := serve(ctx, *addr, *units, *every, *decided, *empty); err != nil {
		slog.Error("preview", "error", err)
		os.Exit(1)
	}
}

func serve(ctx context.Context, addr string, units int, every time.Duration, decided, empty bool) error {
	dir, err := os.MkdirTemp("", "looptape-preview-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	l := newLog()
	reg := prometheus.NewRegistry()
	v, err := view.Open(ctx, view.Config{Path: filepath.Join(dir, "view.db"), Source: l, Registerer: reg})
	if err != nil {
		return err
	}
	defer v.Close()
	s, err := web.New(web.Config{View: v, Log: l, Metrics: promhttp.HandlerFor(reg, promhttp.HandlerOpts{}), Version: "preview"})
	if err != nil {
		return err
	}
	w := newWorld(l, time.Now().Add(-time.Duration(units)*400*time.Millisecond))
	if !empty {
		w.open()
		for range units {
			w.conversation()
		}
		if decided {
			w.decide()
		}
	}
	server := &http.Server{Addr: addr, Handler: s.Handler(), ReadHeaderTimeout: 5 * time.Second}
	g := run.New(ctx)
	g.Go("view", v.Run)
	g.Go("listen", func(context.Context) error {
		if err := server.ListenAndServe(); err != http.ErrServerClosed {
			return err
		}
		return nil
	})
	g.Go("stop", func(ctx context.Context) error {
		<-ctx.Done()
		return server.Close()
	})
	if every > 0 && !empty {
		g.Go("traffic", func(ctx context.Context) error {
			t := time.NewTicker(every)
			defer t.Stop()
			for {
				select {
				case <-ctx.Done():
					return nil
				case now := <-t.C:
					w.at = now
					w.conversation()
				}
			}
		})
	}
	return g.Wait()
}
