// Package collect takes what applications say about their LLM requests and puts
// it on the tape as events of the contract.
//
//	POST /v1/traces /v1/logs   OTLP over HTTP: protobuf or JSON, gzip or deflate
//	gRPC TraceService, LogsService
//	POST /v1/events            CloudEvents (structured, binary, batch) or the short form
//	POST /v1/feedback          thumbs, rating, label, comment by request, response or trace
//	POST /v1/deployments       releases and their rollouts
//
// Promises. An answer of success means that every event of the request was
// acknowledged by the tape. Nothing is dropped: each span, log record and event
// has exactly one fate, mapped (it became events), quarantined (kept as it came,
// with the reason) or rejected (its sender was told so), and the counters say so:
// received is their sum. An item that is wrong never takes its neighbours down.
// Ids are derived from what came, so an export that is sent again changes
// nothing. What a span says and is not understood stays in the body of its event.
//
// Failure. When the tape or the object store does not answer, or too many bytes
// are in flight, the whole request is refused as retryable (503 with Retry-After,
// UNAVAILABLE) and may have been appended in part: a retry writes the same ids.
// Bodies are checked for size, depth and number of items before they are decoded.
// Content never reaches logs, metrics or error sentences.
package collect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/looptape/looptape/contract"
	"github.com/looptape/looptape/internal/loop/event"
)

// A Producer appends records. Produce returns nil when every record was
// acknowledged; on an error some may have been. stream.Client is one.
type Producer interface {
	Produce(ctx context.Context, recs ...event.Record) error
}

// Claims keeps bodies that are too large for a record. govern.Claims is one.
type Claims interface {
	Put(ctx context.Context, tenant, event string, body []byte) (ref string, err error)
}

// Pseudonyms turns a user's id into his pseudonym. govern.Pseudonyms is one.
type Pseudonyms interface {
	Pseudonym(tenant, user string) string
}

// DefaultTenant is the tenant of a listener that asks for no credential.
const DefaultTenant = "default"

// ErrUnauthorized is what Config.Tenant returns for a missing or wrong credential.
var ErrUnauthorized = errors.New("missing or unknown credential")

// Config says what a Collector works with.
type Config struct {
	Producer   Producer           // required
	Contract   *contract.Contract // required
	Pseudonyms Pseudonyms         // required: raw user ids are never stored
	Claims     Claims             // nil: a body above ClaimBytes is rejected
	Limits     Limits             // zero fields take their defaults

	// Tenant tells the tenant of a caller from its headers (or gRPC metadata).
	// nil: everybody is DefaultTenant.
	Tenant func(header func(name string) string) (string, error)

	AckTimeout time.Duration         // how long an append may take; default 30 s
	Registerer prometheus.Registerer // nil: no metrics
	Logger     *slog.Logger          // nil: slog.Default()
	Now        func() time.Time      // nil: time.Now; stamps receivedtime, never an id
}

// A Collector takes events in. Use New; it starts nothing and may be used from
// many goroutines.
type Collector struct {
	cfg      Config
	metrics  *metrics
	inFlight inFlight
	bound    *recent    // aliases that are on the tape
	order    *spanOrder // places of messages in their spans
	types    map[string]typeFacts
}

// typeFacts is what every event of a type carries.
type typeFacts struct {
	typ                                    *contract.Type
	topic, key, schema, privacy, retention string
}

// New returns a collector.
func New(cfg Config) (*Collector, error) {
	switch {
	case cfg.Producer == nil:
		return nil, errors.New("collect: no producer")
	case cfg.Contract == nil:
		return nil, errors.New("collect: no contract")
	case cfg.Pseudonyms == nil:
		return nil, errors.New("collect: no pseudonyms")
	}
	cfg.Limits = cfg.Limits.withDefaults()
	if cfg.AckTimeout <= 0 {
		cfg.AckTimeout = 30 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	c := &Collector{
		cfg:      cfg,
		inFlight: inFlight{max: cfg.Limits.InFlightBytes},
		bound:    newRecent(1 << 16),
		order:    newSpanOrder(1 << 15),
		types:    map[string]typeFacts{},
	}
	for _, t := range cfg.Contract.Types() {
		c.types[t.Name] = typeFacts{t, t.Topic, t.Key, t.SchemaID(), t.Privacy, t.Retention}
	}
	for _, name := range emitted {
		if _, ok := c.types[name]; !ok {
			return nil, fmt.Errorf("collect: the contract has no type %s", name)
		}
	}
	m, err := newMetrics(cfg.Registerer, func() float64 { return float64(c.inFlight.used.Load()) })
	if err != nil {
		return nil, fmt.Errorf("collect: %w", err)
	}
	c.metrics = m
	return c, nil
}

// emitted lists the types that the mapping of OTLP makes.
var emitted = []string{
	event.RequestStarted, event.PromptRendered, event.UnitAssigned, event.RetrievalCompleted, event.ModelCallCompleted,
	event.ResponseDelivered, event.RequestClosed, event.ActionExecuted, event.GuardrailResult, event.FeedbackRecorded,
	event.EvaluationResult, event.AliasBound, event.EventQuarantined,
}

// Handler serves the POST endpoints.
func (c *Collector) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/traces", c.serveOTLP(traces))
	mux.HandleFunc("/v1/logs", c.serveOTLP(logs))
	mux.HandleFunc("/v1/events", c.serveJSON(readEvent))
	mux.HandleFunc("/v1/feedback", c.serveJSON(readFeedback))
	mux.HandleFunc("/v1/deployments", c.serveJSON(readDeployment))
	return mux
}

// tenant tells whose request it is.
func (c *Collector) tenant(header func(string) string) (string, error) {
	if c.cfg.Tenant == nil {
		return DefaultTenant, nil
	}
	tenant, err := c.cfg.Tenant(header)
	if err == nil && (tenant == "" || len(tenant) > c.cfg.Limits.FactBytes || strings.ContainsFunc(tenant, isControl)) {
		err = ErrUnauthorized
	}
	return tenant, err
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }
