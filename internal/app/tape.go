package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/meta/metaurl"
	"github.com/looptape/looptape/internal/broker"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/inspect"
	"github.com/looptape/looptape/internal/broker/store/wal"
	"github.com/looptape/looptape/internal/broker/store/wal/slots"
)

// Tape is what a tape of several brokers is told. The zero value is one process.
type Tape struct {
	Meta string // URL of the metadata that the brokers share: etcd://host:port/prefix
	WAL  string // "file", "object", or the default: object with etcd, else file
	// WALBudget is what the puts of a log in the object store may cost, in dollars
	// a month at S3's price; it decides how long writes are gathered. 0: the
	// default, below 0: none.
	WALBudget  float64
	NodeID     int32  // this broker's number
	Advertised string // host:port that clients and other brokers are told; default: the listener's
	Rack       string // told to clients
}

// cluster says that other brokers may share the metadata.
func (t Tape) cluster() bool { return metaurl.Remote(t.Meta) }

// check finds options that do not go together. All problems are told at once.
func (c Config) check() error {
	var errs []error
	problem := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(c.Brokers) > 0 {
		if c.Tape != (Tape{}) {
			problem("--meta, --wal, --wal-budget, --node-id, --advertised and --rack are about the tape, which --brokers leaves out")
		}
		if c.NoLoop {
			problem("--no-loop and --brokers leave nothing to run")
		}
		return errors.Join(errs...)
	}
	switch c.Tape.WAL {
	case "", "file", "object":
	default:
		problem("--wal %q: there are \"file\" and \"object\"", c.Tape.WAL)
	}
	if math.IsNaN(c.Tape.WALBudget) {
		problem("--wal-budget: must be a number of dollars")
	}
	if c.Tape.NodeID < 0 {
		problem("--node-id %d: must be 0 or above", c.Tape.NodeID)
	}
	if strings.Contains(c.Tape.Meta, "://") && !c.Tape.cluster() && !strings.HasPrefix(c.Tape.Meta, "file://") {
		problem("--meta: want etcd://host:port,host:port/prefix, or a file")
	}
	if c.Tape.Advertised != "" {
		if host, port, err := net.SplitHostPort(c.Tape.Advertised); err != nil || host == "" || port == "" || port == "0" {
			problem("--advertised %q: want host:port", c.Tape.Advertised)
		}
	}
	if c.Tape.cluster() {
		if c.Tape.NodeID == 0 {
			problem("--node-id: brokers that share metadata need a number of their own each, 1 or above; two with the same would fence each other")
		}
		if c.Blob == "" {
			problem("--meta etcd://...: brokers that share metadata share their objects too; give all of them the same --blob, as s3://bucket/prefix")
		}
		if host, _, err := net.SplitHostPort(c.Kafka); c.Tape.Advertised == "" && err == nil && (host == "" || net.ParseIP(host).IsUnspecified()) {
			problem("--kafka %s is no address to give to others: add --advertised HOST:PORT", c.Kafka)
		}
	}
	return errors.Join(errs...)
}

// tape is the broker's configuration.
func (c Config) tape() broker.Config {
	cfg := broker.DefaultConfig(filepath.Join(c.Data, "tape"))
	cfg.Listen, cfg.Advertised, cfg.Rack = c.Kafka, c.Tape.Advertised, c.Tape.Rack
	cfg.Blob, cfg.Meta, cfg.WAL, cfg.NodeID = c.Blob, c.Tape.Meta, c.Tape.WAL, c.Tape.NodeID
	switch usd := c.Tape.WALBudget; {
	case usd < 0:
		cfg.Store.Slots.BudgetPerMonth = -1
	case usd > 0:
		cfg.Store.Slots.BudgetPerMonth = max(1, slots.RequestsFor(usd, inspect.S3Prices.PerMillionPuts))
	}
	return cfg
}

// claims is where large bodies are kept: beside the tape's objects.
func (c Config) claims() (string, error) {
	if c.Blob == "" {
		return filepath.Join(c.Data, "claims"), nil
	}
	if !strings.Contains(c.Blob, "://") {
		return filepath.Join(c.Blob, "claims"), nil
	}
	u, err := url.Parse(c.Blob)
	if err != nil {
		return "", errors.New("--blob: not a URL") // it may hold a password
	}
	return u.JoinPath("claims").String(), nil
}

// tapeError adds what helps to the errors that an operator can mend.
func tapeError(err error) error {
	hint := ""
	switch {
	case errors.Is(err, catalog.ErrTaken):
		hint = ": another broker runs under this --node-id; give each its own"
	case errors.Is(err, blob.ErrRefused):
		hint = ": check the bucket and the credentials of --blob"
	case errors.Is(err, meta.ErrDenied):
		hint = ": check the user and password of --meta"
	}
	return fmt.Errorf("tape: %w%s", err, hint)
}

// fencedError says what has happened to a broker that others took over.
func fencedError(err error) error {
	if errors.Is(err, catalog.ErrFenced) || errors.Is(err, wal.ErrFenced) {
		return fmt.Errorf("this broker was fenced: another one has taken over what it led, nothing that was acknowledged is lost; start it again to join with a new epoch (%w)", err)
	}
	return err
}

// buildTape is build without the loop: what can be asked over HTTP is how the
// tape is.
func (a *App) buildTape(context.Context) (*parts, error) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := a.readyErr(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Write([]byte("ok\n"))
	})
	mux.Handle("GET /metrics", a.metricsHandler())
	mux.HandleFunc("GET /v1/storage", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(a.tape.Storage())
	})
	mux.HandleFunc("GET /v1/storage/catalog", func(w http.ResponseWriter, r *http.Request) {
		body, err := a.tape.CatalogSnapshot(r.Context())
		if err != nil {
			a.log.Error("catalog was asked for", "error", err)
			http.Error(w, "the catalog cannot be read now", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Write(body)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "this server runs the tape alone (--no-loop)", http.StatusNotFound)
	})
	return &parts{handler: mux, close: func() error { return nil }}, nil
}
