package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/run"
	"github.com/looptape/looptape/internal/broker/store/catalog"
)

// control stands for election whenever there is no controller, and acts while
// this broker is it: first on a full read at one revision, then on every change,
// and again on a full read from time to time (P16).
func (m *Member) control(ctx context.Context) error {
	var seen catalog.Moment
	var elected *catalog.Controller
	var compared time.Time
	pause := m.cfg.RetryMin
	for {
		err := m.turn(ctx, &elected, &compared)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, catalog.ErrFenced), errors.Is(err, meta.ErrClosed):
			return err
		case errors.Is(err, catalog.ErrDeposed), errors.Is(err, meta.ErrNoLease), errors.Is(err, errAgain):
			if !errors.Is(err, errAgain) {
				elected = nil
			}
			if err := run.Sleep(ctx, m.cfg.RetryMin); err != nil {
				return err
			}
			continue
		case err != nil:
			m.log.Warn("controller's turn failed and is repeated", "error", err, "pause", pause)
			if err := run.Sleep(ctx, pause); err != nil {
				return err
			}
			pause = min(2*pause, m.cfg.RetryMax)
			continue
		}
		pause = m.cfg.RetryMin
		wait, stop := context.WithTimeout(ctx, m.cfg.Repeat)
		next, err := m.catalog.AwaitMove(wait, seen)
		stop()
		if err == nil {
			seen = next
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// errAgain says that something changed under the controller's decision.
var errAgain = errors.New("the catalog has changed, decide again")

// turn does all there is to do now.
func (m *Member) turn(ctx context.Context, elected **catalog.Controller, compared *time.Time) error {
	if c := m.catalog.Controller(); c != m.writer.ID() {
		*elected = nil
		if c != (catalog.LogID{}) {
			return nil // another one is
		}
	}
	if *elected == nil {
		k, err := m.writer.Campaign(ctx, m.lease.ID())
		if err != nil || k == nil {
			return err
		}
		m.log.Info("elected as controller")
		*elected, *compared = k, time.Time{}
		if err := run.Sleep(ctx, m.cfg.Grace); err != nil {
			return err
		}
	}
	if time.Since(*compared) >= m.cfg.Repeat {
		if err := m.catalog.Refresh(ctx); err != nil {
			return err
		}
		*compared = time.Now()
	}
	if err := m.sealDead(ctx, *elected); err != nil {
		return err
	}
	return m.assignOrphans(ctx, *elected)
}

// sealDead hands every epoch that nobody keeps to a recoverer.
func (m *Member) sealDead(ctx context.Context, k *catalog.Controller) error {
	for _, d := range m.catalog.DeadBrokers() {
		if d.Stuck {
			m.stuckOnce(d)
			continue
		}
		by := m.writer.ID() // any live broker would do
		m.log.Warn("broker is dead, its epochs are taken over", "broker", d.Broker, "epochs", d.Epochs, "by", by.Broker)
		ok, err := k.Seal(ctx, d, by)
		if err != nil {
			return err
		}
		if !ok {
			return errAgain
		}
	}
	return nil
}

// stuckOnce says that partitions stay offline since their log is on a volume.
func (m *Member) stuckOnce(d catalog.DeadBroker) {
	m.mu.Lock()
	said := m.stuck[d.Broker]
	m.stuck[d.Broker] = true
	m.mu.Unlock()
	if !said {
		m.log.Error("broker is dead and its log is in files: its partitions are offline until it is started again on its volume", "broker", d.Broker)
	}
}

// assignOrphans gives partitions without a leader to who recovered them, or to
// this broker.
func (m *Member) assignOrphans(ctx context.Context, k *catalog.Controller) error {
	targets := map[catalog.LogID][]catalog.Partition{}
	for _, o := range m.catalog.Orphans() {
		to := o.By
		if to == (catalog.LogID{}) {
			to = m.writer.ID()
		}
		targets[to] = append(targets[to], o.Partition)
	}
	for to, all := range targets {
		began := time.Now()
		ok, err := k.Assign(ctx, all, to)
		if err != nil {
			return fmt.Errorf("assign partitions: %w", err)
		}
		if !ok {
			return errAgain
		}
		m.log.Info("partitions have a new leader", "partitions", len(all), "leader", to.Broker, "took", time.Since(began))
	}
	return nil
}
