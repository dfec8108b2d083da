// Package web is what people and programs see of the loop: the JSON API, live
// updates over server-sent events, and the pages, embedded in the binary.
//
//	GET  /healthz /readyz /metrics
//	GET  /v1/overview                  numbers, checklist and releases at a glance
//	GET  /v1/cases/{request}           one case with its timeline; request, trace or any bound id
//	GET  /v1/cases?release=...         a page of cases, newest or worst first
//	GET  /v1/gates/{release}           {"ok":..,"phase":..}: Argo Rollouts' web metric provider reads it
//	GET  /v1/gates/{release}/series    the points of its plot
//	GET  /v1/gates /v1/decisions /v1/releases /v1/releases/{release} /v1/stream/recent /v1/quarantine
//	GET  /v1/live                      server-sent events: events, evidence, decision, resync
//	POST /v1/traces /v1/logs /v1/events /v1/feedback /v1/deployments    collect's
//
// Answers come from the view; only the bodies of one case are read from the log,
// when it is opened, within bounds of number, bytes and time. Every error is JSON
// {code, message} with a sentence that says what to do. Nothing is served to
// other origins: no CORS headers, state-changing requests from foreign pages are
// refused, and the pages run under a policy that allows their own files only.
//
// A live client that does not keep up loses changes, is told so (resync) and
// reads anew; it never holds up others. A client that does not read at all is
// disconnected.
package web

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/looptape/looptape/internal/loop/event"
	"github.com/looptape/looptape/internal/loop/view"
)

// A Log reads single records. stream.Client is one.
type Log interface {
	ReadAt(ctx context.Context, at event.Position) (event.Record, error)
}

// Claims fetches bodies that are too large for a record. govern.Claims is one.
type Claims interface {
	Resolve(ctx context.Context, e *event.Event) error
}

// Config says what the API works with.
type Config struct {
	View    *view.View   // required
	Log     Log          // nil: timelines come without bodies
	Claims  Claims       // nil: claimed bodies are not shown
	Collect http.Handler // serves the POST routes; nil: there are none
	Metrics http.Handler // serves /metrics; nil: there is none
	Ready   func() error // why the process cannot serve yet; nil: it always can
	Version string

	// Storage describes the tape's store as this process sees it, and Catalog is
	// a snapshot of what the store holds, for the storage commands. nil: this
	// process has no tape.
	Storage func() any
	Catalog func(ctx context.Context) ([]byte, error)

	// Gate is the running gate's own word on a release, for one that has left no
	// evidence on the log yet. nil: such a release is not known.
	Gate func(tenant, release string) (event.GateStatus, bool, error)
	OTLP string // URL of the OTLP/HTTP receiver, for the page that waits for the first event; default http://127.0.0.1:4318

	// Tenant tells whose data a request may see. nil: everybody sees
	// view.DefaultTenant. Its error is answered with 401.
	Tenant func(r *http.Request) (string, error)

	QueryTimeout time.Duration    // of one API request; default 10 s
	LiveClients  int              // connections to /v1/live; default 100
	Logger       *slog.Logger     // nil: slog.Default()
	Now          func() time.Time // nil: time.Now
}

// A Server answers HTTP requests. Use New; it starts nothing.
type Server struct {
	cfg   Config
	log   *slog.Logger
	pages *pages
	live  atomic.Int64 // open connections to /v1/live

	mu        sync.Mutex // guards overviews
	overviews map[string]cached
}

// collected are the routes of collect.
var collected = []string{"/v1/traces", "/v1/logs", "/v1/events", "/v1/feedback", "/v1/deployments"}

// New returns a server.
func New(cfg Config) (*Server, error) {
	if cfg.View == nil {
		return nil, errors.New("web: no view")
	}
	if cfg.Tenant == nil {
		cfg.Tenant = func(*http.Request) (string, error) { return view.DefaultTenant, nil }
	}
	if cfg.QueryTimeout <= 0 {
		cfg.QueryTimeout = 10 * time.Second
	}
	if cfg.OTLP == "" {
		cfg.OTLP = "http://127.0.0.1:4318"
	}
	if cfg.LiveClients <= 0 {
		cfg.LiveClients = 100
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	p, err := loadPages()
	if err != nil {
		return nil, fmt.Errorf("web: %w", err)
	}
	return &Server{cfg: cfg, log: cfg.Logger, pages: p, overviews: map[string]cached{}}, nil
}

// HasPages tells whether the binary was built with its pages.
func (s *Server) HasPages() bool { return s.pages.built }

// Handler serves everything.
func (s *Server) Handler() http.Handler {
	api := http.NewServeMux()
	get := func(path string, fn func(q *query) (any, error)) { api.Handle("GET "+path, s.json(fn)) }
	get("/v1/overview", s.overview)
	get("/v1/cases", s.listCases)
	get("/v1/cases/{request}", s.openCase)
	get("/v1/gates", s.listGates)
	get("/v1/gates/{release}", s.gate)
	get("/v1/gates/{release}/series", s.series)
	get("/v1/decisions", s.listDecisions)
	get("/v1/releases", s.listReleases)
	get("/v1/releases/{release}", s.release)
	get("/v1/stream/recent", s.recent)
	get("/v1/quarantine", s.quarantine)
	get("/v1/storage", s.storage)
	api.HandleFunc("GET /v1/storage/catalog", s.storageCatalog)
	api.HandleFunc("GET /v1/live", s.serveLive)
	api.HandleFunc("/v1/", func(w http.ResponseWriter, r *http.Request) { s.noRoute(w, r, api) })

	mux := http.NewServeMux()
	mux.Handle("/v1/", api)
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	if s.cfg.Metrics != nil {
		mux.Handle("GET /metrics", s.cfg.Metrics)
	}
	if s.cfg.Collect != nil {
		for _, path := range collected {
			mux.Handle(path, s.cfg.Collect)
		}
	}
	mux.Handle("/", s.pages)

	guard := http.NewCrossOriginProtection()
	guard.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		writeProblem(w, &problem{http.StatusForbidden, "cross_origin", "pages of other origins may not send data here; send it from a server or from this origin"})
	}))
	return s.recovered(secured(guard.Handler(mux)))
}

// secured sets the headers that every answer carries.
func secured(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		next.ServeHTTP(w, r)
	})
}

// recovered turns a panic of one request into an error of that request.
func (s *Server) recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if p == http.ErrAbortHandler {
				panic(p)
			}
			s.log.Error("request panicked", "method", r.Method, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			writeProblem(w, &problem{http.StatusInternalServerError, "internal", "the server failed at this request; its log says why"})
		}()
		next.ServeHTTP(w, r)
	})
}

// noRoute answers a path of the API that is not there, or not for this method.
func (s *Server) noRoute(w http.ResponseWriter, r *http.Request, api *http.ServeMux) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		probe := r.Clone(r.Context())
		probe.Method = http.MethodGet
		if _, pattern := api.Handler(probe); pattern != "/v1/" {
			w.Header().Set("Allow", "GET, HEAD")
			writeProblem(w, &problem{http.StatusMethodNotAllowed, "method_not_allowed", "this address answers GET only"})
			return
		}
	}
	writeProblem(w, &problem{http.StatusNotFound, "no_route",
		"the API has no such address; it has /v1/overview, /v1/cases, /v1/gates, /v1/decisions, /v1/releases, /v1/stream/recent, /v1/quarantine and /v1/live"})
}

func (s *Server) healthz(w http.ResponseWriter, r *http.Request) {
	writeJSON(w, r, http.StatusOK, map[string]any{"ok": true, "version": s.cfg.Version})
}

func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	if err := s.ready(); err != nil {
		w.Header().Set("Retry-After", "1")
		writeProblem(w, &problem{http.StatusServiceUnavailable, "not_ready", err.Error()})
		return
	}
	writeJSON(w, r, http.StatusOK, map[string]any{"ok": true, "caught_up": s.cfg.View.CaughtUp()})
}

func (s *Server) ready() error {
	if s.cfg.Ready == nil {
		return nil
	}
	return s.cfg.Ready()
}
