// Package cluster makes several brokers on one bucket and one metadata store into
// one: who lives, who takes over what a dead one left, and which partitions this
// broker serves.
//
//	lease      a broker lives while it keeps its lease; when it is gone, so is its
//	           live key, and everybody's watch says so
//	controller one broker, by an election key under the same lease: it hands the
//	           epochs of a dead broker to a recoverer (seal) and, when their logs
//	           are in objects, gives their partitions to live brokers (assign)
//	recoverer  any broker: it puts what is in a sealed log into objects
//	owner      every broker: it opens what it has been given and closes what it lost
//
// What it promises. All three act on the catalog's index, and every change is a
// transaction that compares what it was decided on, so a stale index costs a
// repetition and nothing else (P3, P17). A partition gets a new leader only when
// all logs that its old one could have written to are sealed and in objects. All
// steps can be repeated by the same broker or another after a crash at any moment.
// Time decides only when a broker is given up and when one that can't reach the
// metadata stops to answer reads (P18); nothing is acknowledged or committed by it.
//
// How it fails. ErrFenced from Run says that another broker has taken this one's
// epoch over: the process has to end. Errors of the metadata or the object store
// are waited out.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/run"
	"github.com/looptape/looptape/internal/broker/store/catalog"
)

// A Host is the broker's store as the cluster sees it.
type Host interface {
	// Recover puts everything that the sealed logs of a dead broker hold into
	// objects and marks them done. It is repeated until it returns nil.
	Recover(ctx context.Context, broker int32) error
	// Open makes a partition ready to be served.
	Open(ctx context.Context, p catalog.Partition) error
	// Leave closes a partition that another broker leads.
	Leave(p catalog.Partition)
	// Opened returns the partitions that are open.
	Opened() []catalog.Partition
	// Missing says whether a partition has data that Open has to read before it
	// can be served. The others open themselves at first use.
	Missing(p catalog.Partition) bool
}

// Config tunes a Member. The zero value is the default.
type Config struct {
	// Repeat is how often the controller compares everything anew. Default 30 s.
	Repeat time.Duration
	// Openers bounds the partitions opened at the same time. Default 16.
	Openers int
	// Grace is how long a new controller waits before it seals: a store that was
	// away may have ended everybody's lease, and the living come back at once.
	// Default 300 ms.
	Grace time.Duration
	// RetryMin and RetryMax bound the pause after a failure. Default 50 ms, 2 s.
	RetryMin, RetryMax time.Duration
}

func (c Config) withDefaults() Config {
	if c.Repeat <= 0 {
		c.Repeat = 30 * time.Second
	}
	if c.Openers <= 0 {
		c.Openers = 16
	}
	if c.Grace <= 0 {
		c.Grace = 300 * time.Millisecond
	}
	if c.RetryMin <= 0 {
		c.RetryMin = 50 * time.Millisecond
	}
	if c.RetryMax <= 0 {
		c.RetryMax = 2 * time.Second
	}
	return c
}

// Member is one broker of the cluster. Use New.
type Member struct {
	cfg     Config
	catalog *catalog.Catalog
	writer  *catalog.Writer
	lease   *Lease
	as      catalog.Registration
	host    Host
	log     *slog.Logger

	mu    sync.Mutex
	stuck map[int32]bool // brokers said to be stuck
}

// New returns a member that does nothing until Run. as is what the broker
// registered with.
func New(cat *catalog.Catalog, writer *catalog.Writer, lease *Lease, as catalog.Registration, host Host, cfg Config, log *slog.Logger) *Member {
	return &Member{
		cfg: cfg.withDefaults(), catalog: cat, writer: writer, lease: lease, as: as, host: host, log: log, stuck: map[int32]bool{},
	}
}

// Run takes part until ctx ends. catalog.ErrFenced: another broker took over.
func (m *Member) Run(ctx context.Context) error {
	g := run.New(ctx)
	g.Go("lease", func(ctx context.Context) error { return m.lease.Keep(ctx, m.renew) })
	g.Go("controller", m.control)
	g.Go("recoverer", m.recover)
	g.Go("owner", m.own)
	return g.Wait()
}

// renew puts the live key under a new lease. What was sealed meanwhile stays so.
func (m *Member) renew(ctx context.Context, id meta.LeaseID) error {
	as := m.as
	as.Lease = id
	return m.writer.Renew(ctx, as)
}

// own opens the partitions that this broker has been given and closes those it
// lost, and ends the broker when its epoch is sealed.
func (m *Member) own(ctx context.Context) error {
	var seen catalog.Moment
	for {
		var err error
		if seen, err = m.catalog.AwaitMove(ctx, seen); err != nil {
			return err
		}
		if by, ok := m.catalog.SealedBy(m.writer.ID()); ok {
			return fmt.Errorf("%w: broker %d has taken over epoch %d", catalog.ErrFenced, by.Broker, m.writer.Epoch())
		}
		if !m.catalog.Alive(m.writer.ID()) {
			// Leases end together when the metadata store was away for long. Whoever
			// is back before the next controller acts goes on.
			m.lease.Hurry()
		}
		for _, p := range m.host.Opened() {
			if _, exists := m.catalog.TopicByID(p.Topic); exists && !m.catalog.Owns(p) {
				m.host.Leave(p)
			}
		}
		if err := m.open(ctx); err != nil {
			return err
		}
	}
}

// open opens what is not open yet, a bounded number at a time.
func (m *Member) open(ctx context.Context) error {
	var missing []catalog.Partition
	for _, p := range m.catalog.Owned() {
		if m.host.Missing(p) {
			missing = append(missing, p)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	began := time.Now()
	next := make(chan catalog.Partition, len(missing))
	for _, p := range missing {
		next <- p
	}
	close(next)
	g := run.New(ctx)
	for range min(m.cfg.Openers, len(missing)) {
		g.Go("open partitions", func(ctx context.Context) error {
			for p := range next {
				err := m.patiently(ctx, "open partition "+p.String(), func() error {
					if !m.catalog.Owns(p) || !m.host.Missing(p) {
						return nil // gone meanwhile
					}
					return m.host.Open(ctx, p)
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	m.log.Info("partitions taken over", "partitions", len(missing), "took", time.Since(began))
	return ctx.Err()
}

// recover runs the recoveries this broker was given, those of different brokers
// at the same time.
func (m *Member) recover(ctx context.Context) error {
	g := run.New(ctx)
	var mu sync.Mutex // guards busy
	busy := map[int32]bool{}
	var seen catalog.Moment
	var err error
	for err == nil {
		if seen, err = m.catalog.AwaitMove(g.Context(), seen); err != nil {
			break
		}
		for _, broker := range m.catalog.Recovering() {
			mu.Lock()
			started := busy[broker]
			busy[broker] = true
			mu.Unlock()
			if started {
				continue
			}
			g.Go(fmt.Sprintf("recover broker %d", broker), func(ctx context.Context) error {
				defer func() {
					mu.Lock()
					delete(busy, broker)
					mu.Unlock()
				}()
				began := time.Now()
				m.log.Warn("recovering the log of a dead broker", "broker", broker)
				err := m.patiently(ctx, fmt.Sprintf("recover broker %d", broker), func() error { return m.host.Recover(ctx, broker) })
				if err == nil {
					m.log.Info("log of a dead broker is in objects", "broker", broker, "took", time.Since(began))
				}
				return err
			})
		}
	}
	return errors.Join(g.Wait(), ctx.Err())
}

// patiently repeats fn until it succeeds, ctx ends or this broker is fenced.
func (m *Member) patiently(ctx context.Context, what string, fn func() error) error {
	for pause := m.cfg.RetryMin; ; pause = min(2*pause, m.cfg.RetryMax) {
		err := fn()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, catalog.ErrFenced), errors.Is(err, meta.ErrClosed):
			return fmt.Errorf("%s: %w", what, err)
		}
		m.log.Warn("step of a take-over failed and is repeated", "step", what, "error", err, "pause", pause)
		if err := run.Sleep(ctx, pause); err != nil {
			return err
		}
	}
}
