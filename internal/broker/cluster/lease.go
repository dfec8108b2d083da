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

// A Clock says how much time has passed since some moment, the time that the
// machine was suspended included.
type Clock func() time.Duration

// Lease is a lease of the metadata store with the deadline of what it allows.
// Until the deadline nobody else can have taken over; after it somebody may. It
// is the moment of the last answered refresh, as of its sending, plus the time to
// live less a margin (P18). It only gates what this broker answers of reads: what
// is written is guarded by seals.
type Lease struct {
	store  meta.Store
	ttl    time.Duration
	margin time.Duration
	clock  Clock
	log    *slog.Logger

	hurry chan struct{} // holds one

	mu       sync.Mutex
	id       meta.LeaseID
	deadline time.Duration
}

// Acquire grants a lease. It starts nothing: Keep refreshes it. A nil clock is
// BootClock.
func Acquire(ctx context.Context, store meta.Store, ttl time.Duration, clock Clock, log *slog.Logger) (*Lease, error) {
	if clock == nil {
		clock = BootClock
	}
	l := &Lease{store: store, ttl: ttl, margin: min(time.Second, ttl/6), clock: clock, log: log, hurry: make(chan struct{}, 1)}
	if err := l.grant(ctx, func(context.Context, meta.LeaseID) error { return nil }); err != nil {
		return nil, err
	}
	return l, nil
}

// grant asks for a new lease and lets it be used when ready has agreed.
func (l *Lease) grant(ctx context.Context, ready func(context.Context, meta.LeaseID) error) error {
	sent := l.clock()
	id, err := l.store.Grant(ctx, l.ttl)
	if err != nil {
		return fmt.Errorf("grant lease: %w", err)
	}
	if err := ready(ctx, id); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.id, l.deadline = id, sent+l.ttl-l.margin
	return nil
}

// ID is the lease's id; it changes when a lost lease is replaced.
func (l *Lease) ID() meta.LeaseID {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.id
}

// Alive says that the deadline has not passed.
func (l *Lease) Alive() bool {
	l.mu.Lock()
	deadline := l.deadline
	l.mu.Unlock()
	return l.clock() < deadline
}

// Keep refreshes the lease three times in its life until ctx ends. A lease that
// is gone is replaced when renew, which is told of the new one, agrees; until then
// nothing is served. An error of renew that waiting does not mend ends Keep.
func (l *Lease) Keep(ctx context.Context, renew func(context.Context, meta.LeaseID) error) error {
	for {
		err := l.refresh(ctx)
		if errors.Is(err, meta.ErrNoLease) {
			l.log.Warn("lease is gone, asking for another")
			err = l.grant(ctx, renew)
		}
		pause := l.ttl / 3
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, catalog.ErrFenced), errors.Is(err, errLost), errors.Is(err, meta.ErrClosed):
			return fmt.Errorf("keep lease: %w", err)
		default:
			l.log.Warn("lease was not refreshed", "error", err)
			pause = l.ttl / 12
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-l.hurry:
		case <-ctx.Done():
		}
		t.Stop()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// Hurry makes Keep look at once: the lease may be gone.
func (l *Lease) Hurry() {
	select {
	case l.hurry <- struct{}{}:
	default:
	}
}

func (l *Lease) refresh(ctx context.Context) error {
	id := l.ID()
	ctx, cancel := context.WithTimeout(ctx, max(l.ttl/3, 10*time.Millisecond))
	defer cancel()
	sent := l.clock()
	ttl, err := l.store.KeepAlive(ctx, id)
	if err != nil {
		return fmt.Errorf("refresh lease: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deadline = max(l.deadline, sent+min(ttl, l.ttl)-l.margin)
	return nil
}

// During keeps the lease while fn runs, before there is anybody to run Keep.
func (l *Lease) During(ctx context.Context, fn func(context.Context) error) error {
	g := run.New(ctx)
	g.Go("lease", func(ctx context.Context) error {
		return l.Keep(ctx, func(context.Context, meta.LeaseID) error { return errLost })
	})
	err := fn(g.Context())
	g.Stop()
	if werr := g.Wait(); werr != nil {
		return werr
	}
	return err
}

// errLost ends an opening whose lease was lost: somebody may have taken over.
var errLost = errors.New("lease was lost while the broker opened; start it again")

// Release ends the lease: others need not wait for its time to pass.
func (l *Lease) Release(ctx context.Context) error {
	l.mu.Lock()
	l.deadline = 0
	l.mu.Unlock()
	if err := l.store.Revoke(ctx, l.ID()); err != nil && !errors.Is(err, meta.ErrNoLease) {
		return fmt.Errorf("release lease: %w", err)
	}
	return nil
}
