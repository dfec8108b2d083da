// Package broker is the tape: a Kafka-compatible broker in this process. It puts
// the parts together and runs them in order; what they do is told in their own
// packages, and how they fit in ARCHITECTURE.md.
//
//	listener → wire → api ─┬→ partition → wal, objects, catalog   (the store)
//	                       └→ coord  → partition of __consumer_offsets
//
// What it promises: a record is acknowledged after it is durable and never lost
// or moved after that, whatever moment the process dies at. Open recovers what an
// earlier process left in the data directory. When Run's context ends, requests
// under way are answered, groups stop, the store is flushed and closed; nothing
// is left behind.
//
// How it fails: a log that cannot be written, a lost lock or a fenced epoch end
// Run with an error, and the process must end; opening the directory again
// recovers.
package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/looptape/looptape/internal/base/run"
	"github.com/looptape/looptape/internal/broker/front/api"
	"github.com/looptape/looptape/internal/broker/front/coord"
	"github.com/looptape/looptape/internal/broker/front/wire"
	"github.com/looptape/looptape/internal/broker/partition"
)

// A Broker is one open broker.
type Broker struct {
	cfg    Config
	log    *slog.Logger
	engine *Store
	coord  *coord.Coordinator
	server *wire.Server
	ln     net.Listener
	host   string // advertised; empty: as the client came
	port   int32
}

// Open opens the store, recovers it, and listens; connections are accepted from
// Run on.
func Open(ctx context.Context, cfg Config, log *slog.Logger, reg prometheus.Registerer) (*Broker, error) {
	b := &Broker{cfg: cfg, log: log}
	if cfg.Advertised != "" {
		host, port, err := splitAddress(cfg.Advertised)
		if err != nil {
			return nil, fmt.Errorf("advertised address %q: %w", cfg.Advertised, err)
		}
		b.host, b.port = host, port
	}
	m, err := newMetrics(reg)
	if err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	// Listen first: a port that is taken is the commonest mistake, and nothing
	// has been touched yet.
	if b.ln, err = (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.Listen); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	cfg.Advertised = b.address() // as other brokers tell it to clients
	if b.engine, err = openStore(ctx, cfg, log, reg); err != nil {
		b.ln.Close()
		return nil, fmt.Errorf("open store: %w", err)
	}
	b.coord = coord.New(cfg.Groups, &coord.StoredLogs{Catalog: b.engine.Catalog(), Partitions: b.engine.Partitions()}, log)
	logs := func(id partition.ID) (api.Log, error) {
		p, err := b.engine.Partitions().Get(id)
		if err != nil {
			return nil, err // not p: a nil pointer is no nil interface
		}
		return p, nil
	}
	handler := api.New(api.Config{
		NodeID: cfg.NodeID, Rack: cfg.Rack, AutoCreate: cfg.AutoCreate, DefaultPartitions: cfg.DefaultPartitions,
		Advertise: b.advertise, MaxFetchBytes: cfg.MaxFetchBytes,
		Cluster: b.engine.Catalog(), Serving: b.engine.Serving, Acking: b.engine.Acking,
	}, logs, b.engine.Catalog(), b.coord, m, log)
	b.server = wire.NewServer(wire.Config{
		MaxFrame: cfg.MaxFrameBytes, MaxBytes: cfg.MaxInFlight, MaxConns: cfg.MaxConns,
		IdleTimeout: cfg.IdleTimeout, DrainTimeout: cfg.DrainTimeout, TLS: cfg.TLS,
	}, handler, m, log)
	if err := registerDepths(reg, b.coord, handler); err != nil {
		b.ln.Close()
		return nil, errors.Join(fmt.Errorf("register metrics: %w", err), b.engine.Close())
	}
	return b, nil
}

func registerDepths(reg prometheus.Registerer, c *coord.Coordinator, h *api.Server) error {
	return errors.Join(
		reg.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "looptape_group_inputs", Help: "Inputs that wait for their group."},
			func() float64 { return float64(c.Depth()) })),
		reg.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "looptape_fetch_sessions", Help: "Fetch sessions kept."},
			func() float64 { return float64(h.Sessions()) })),
		reg.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "looptape_fetch_bytes_in_flight", Help: "Record bytes in fetch replies not yet written."},
			func() float64 { return float64(h.FetchBytes()) })),
	)
}

// address is where other brokers send clients.
func (b *Broker) address() string {
	if b.host != "" {
		return net.JoinHostPort(b.host, strconv.Itoa(int(b.port)))
	}
	return b.Addr()
}

// Addr is where the broker listens, as host:port.
func (b *Broker) Addr() string { return b.ln.Addr().String() }

// Run serves until ctx ends, then stops in order. It returns nil after a clean
// stop.
func (b *Broker) Run(ctx context.Context) error {
	b.log.Info("kafka listener is up", "addr", b.Addr())
	// Each part outlasts those that use it, so each has a context of its own.
	// The failure of one stops all.
	store, stopStore := context.WithCancel(context.WithoutCancel(ctx))
	defer stopStore()
	groups, stopGroups := context.WithCancel(context.WithoutCancel(ctx))
	defer stopGroups()
	front, stopFront := context.WithCancel(ctx)
	defer stopFront()

	g := run.New(context.WithoutCancel(ctx))
	part := func(name string, done chan<- struct{}, fn func() error) {
		g.Go(name, func(context.Context) error {
			defer close(done)
			defer stopFront() // whatever ends first ends the front, and so all
			return fn()
		})
	}
	storeDone, groupsDone, frontDone := make(chan struct{}), make(chan struct{}), make(chan struct{})
	part("store", storeDone, func() error { return b.engine.Run(store) })
	part("groups", groupsDone, func() error { return b.coord.Run(groups) })
	part("front", frontDone, func() error {
		listeners := []net.Listener{b.ln}
		if b.cfg.Listener != nil {
			listeners = append(listeners, b.cfg.Listener)
		}
		return b.server.Run(front, listeners...)
	})

	<-front.Done()
	stopGroups() // members that wait are told to come again
	<-frontDone
	<-groupsDone
	stopStore()
	<-storeDone
	return g.Wait()
}

// Close gives up a broker whose Run was never called.
func (b *Broker) Close() error { return errors.Join(b.ln.Close(), b.engine.Close()) }

// advertise names this broker to a client that reached it at local.
func (b *Broker) advertise(local net.Addr) (string, int32) {
	if b.host != "" {
		return b.host, b.port
	}
	if host, port, err := splitAddress(local.String()); err == nil {
		return host, port
	}
	// Not by TCP: the listener's port on this machine.
	_, port, err := splitAddress(b.Addr())
	if err != nil {
		port = 9092
	}
	return "localhost", port
}

func splitAddress(addr string) (string, int32, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || host == "" {
		return "", 0, errors.New("want host:port")
	}
	return host, int32(n), nil
}
