// Package app builds every part from one Config and runs them in order. It is
// the only place that sees both halves; they still meet only through the Kafka
// protocol.
//
//	Open   listeners, data directory, the tape (recovered)
//	Run    tape → topics → stages of the loop → intake; and back in reverse
//
// The intake stops first, so that whoever sent something has an answer; then the
// stages finish the batch they are in; the tape stops last, so that all of them
// can still write. The first part that fails stops all, and Run returns its
// error. Everything that was acknowledged is durable whatever happens here.
package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/looptape/looptape/internal/base/disk"
	"github.com/looptape/looptape/internal/base/run"
	"github.com/looptape/looptape/internal/broker"
	"github.com/looptape/looptape/internal/loop/gate"
)

// Config is all that one process is told. See cmd/looptape for the defaults.
type Config struct {
	Data     string   // directory of everything that is kept, unless Blob and Meta say otherwise
	Kafka    string   // the tape's listener, host:port
	Brokers  []string // an existing cluster; then no tape is started
	Tape     Tape     // the tape beyond one machine
	NoLoop   bool     // run the tape alone
	HTTP     string   // API and pages, host:port
	OTLPHTTP string
	OTLPGRPC string
	Blob     string // URL of the object store, of the tape and for large bodies; default: folders of Data

	Policies      []PolicyFile // gate policies; none: the built-in default
	Webhook       string       // URL told of decisions
	WebhookSecret string

	Version string // shown to people
}

// Addresses are where a process listens: URLs, and Kafka's as host:port.
type Addresses struct {
	HTTP, OTLPHTTP, OTLPGRPC string // OTLP: empty without the loop
	Kafka                    []string
}

// An App is an opened process. Use Open, then Run once.
type App struct {
	cfg      Config
	log      *slog.Logger
	registry *prometheus.Registry

	policies                 []*gate.Policy
	http, otlpHTTP, otlpGRPC net.Listener
	lock                     io.Closer
	tape                     *broker.Broker // nil with Config.Brokers
	brokers                  []string

	handler atomic.Pointer[http.Handler] // of the API; nil until the loop is built
	ready   chan struct{}                // closed when everything runs
	phase   atomic.Pointer[string]       // what Run is at, for readyz
}

// Open takes the listeners and the data directory and recovers the tape. It
// starts nothing.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (*App, error) {
	a := &App{cfg: cfg, log: log, registry: prometheus.NewRegistry(), ready: make(chan struct{})}
	a.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	a.at("opening")
	if err := a.open(ctx); err != nil {
		a.release()
		return nil, err
	}
	return a, nil
}

func (a *App) open(ctx context.Context) (err error) {
	if a.policies, err = a.loadPolicies(); err != nil {
		return err
	}
	if err := a.cfg.check(); err != nil {
		return err
	}
	kafkaConns, otherConns := connections(openFiles())
	// All ports before the data: one that is taken is the commonest mistake, and nothing has been touched yet.
	for _, l := range []struct {
		what, flag, addr string
		to               *net.Listener
	}{
		{"API and pages", "--http", a.cfg.HTTP, &a.http},
		{"OTLP/HTTP", "--otlp-http", a.cfg.OTLPHTTP, &a.otlpHTTP},
		{"OTLP/gRPC", "--otlp-grpc", a.cfg.OTLPGRPC, &a.otlpGRPC},
	} {
		if a.cfg.NoLoop && l.to != &a.http {
			continue // nothing is taken in
		}
		ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", l.addr)
		if err != nil {
			return listenError(l.what, l.flag, l.addr, err)
		}
		*l.to = &crowd{TCPListener: ln.(*net.TCPListener), max: int64(otherConns)} // "tcp" gives no other
	}
	if err := os.MkdirAll(a.cfg.Data, 0o750); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	a.lock, err = disk.OS{}.Lock(filepath.Join(a.cfg.Data, "lock"))
	if err != nil {
		return fmt.Errorf("data directory %s is in use by another process: stop it, or give --data another directory (%w)", a.cfg.Data, err)
	}
	if len(a.cfg.Brokers) > 0 {
		a.brokers = a.cfg.Brokers
		return nil
	}
	cfg := a.cfg.tape()
	cfg.MaxConns = kafkaConns
	if a.tape, err = broker.Open(ctx, cfg, a.log.With("part", "tape"), a.registry); err != nil {
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "listen" {
			return listenError("the tape", "--kafka", a.cfg.Kafka, err)
		}
		return tapeError(err)
	}
	a.brokers = []string{a.tape.Addr()}
	return nil
}

func listenError(what, flag, addr string, err error) error {
	return fmt.Errorf("%s cannot listen on %s: is another server running there? choose another address with %s (%w)", what, addr, flag, err)
}

// release gives back what Open took, after a failure or at the end.
func (a *App) release() {
	for _, l := range []net.Listener{a.http, a.otlpHTTP, a.otlpGRPC} {
		if l != nil {
			l.Close()
		}
	}
	if a.lock != nil {
		a.lock.Close()
	}
}

// Addresses says where the process listens.
func (a *App) Addresses() Addresses {
	at := Addresses{HTTP: "http://" + a.http.Addr().String(), Kafka: a.brokers}
	if !a.cfg.NoLoop {
		at.OTLPHTTP, at.OTLPGRPC = "http://"+a.otlpHTTP.Addr().String(), a.otlpGRPC.Addr().String()
	}
	return at
}

func (a *App) at(phase string) { a.phase.Store(&phase) }

// readyErr is nil when everything runs, and says what is awaited otherwise.
func (a *App) readyErr() error {
	select {
	case <-a.ready:
		return nil
	default:
		return errors.New(*a.phase.Load())
	}
}

// WaitReady waits until everything runs.
func (a *App) WaitReady(ctx context.Context) error {
	select {
	case <-a.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// memoryLimit makes the collector give memory back, in bytes: far above what
// ordinary work needs, below what a burst of large requests may leave behind.
const memoryLimit = 512 << 20

// Run runs everything until ctx ends or a part fails. It returns nil after a
// clean stop.
func (a *App) Run(ctx context.Context) error {
	defer a.release()
	if debug.SetMemoryLimit(-1) == math.MaxInt64 { // GOMEMLIMIT says nothing
		debug.SetMemoryLimit(memoryLimit)
	}
	// Each floor has a group of its own, so that it can stop after those above it.
	floor := context.WithoutCancel(ctx)
	tape, loop, intake := run.New(floor), run.New(floor), run.New(floor)
	all, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	watched := func(name string, fn func(context.Context) error) func(context.Context) error {
		return func(ctx context.Context) error {
			err := fn(ctx)
			if ctx.Err() == nil {
				if err == nil {
					err = errors.New("ended unasked")
				}
				stop(fmt.Errorf("%s: %w", name, err)) // a part that ended by itself takes all with it
			}
			return err
		}
	}

	if a.tape != nil {
		a.at("starting the tape")
		tape.Go("tape", watched("tape", func(ctx context.Context) error { return fencedError(a.tape.Run(ctx)) }))
	}
	// The API answers from now on, with 503 until the loop stands.
	servers := a.servers()
	for name, s := range servers {
		intake.Go(name, watched(name, s.run))
	}
	var parts *parts
	var buildErr error
	build := a.build
	if a.cfg.NoLoop {
		build = a.buildTape
	}
	if parts, buildErr = build(all); buildErr == nil {
		for _, s := range parts.stages {
			loop.Go(s.name, watched(s.name, s.run))
		}
		if parts.grpc != nil {
			intake.Go("otlp/grpc", watched("otlp/grpc", parts.grpc.run))
		}
		a.handler.Store(&parts.handler)
		a.at("")
		close(a.ready)
		a.log.Info("ready", "http", a.Addresses().HTTP, "kafka", strings.Join(a.brokers, ","))
		<-all.Done()
	}

	if cause := context.Cause(all); cause != nil && ctx.Err() == nil {
		// Said now, since stopping in order may take a while; Run returns it too.
		a.log.Error("a part failed, stopping", "error", cause)
	} else {
		a.log.Info("stopping")
	}
	intake.Stop()
	errs := []error{intake.Wait()}
	loop.Stop()
	errs = append(errs, loop.Wait())
	if parts != nil {
		errs = append(errs, parts.close())
	}
	tape.Stop()
	errs = append(errs, tape.Wait())
	if buildErr != nil && ctx.Err() == nil {
		errs = append([]error{buildErr}, errs...)
	}
	return errors.Join(errs...)
}

// metricsHandler serves the registry.
func (a *App) metricsHandler() http.Handler {
	return promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(a.log.Handler(), slog.LevelWarn)})
}

// drain is how long requests under way may take when the process stops.
const drain = 10 * time.Second
