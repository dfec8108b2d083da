package cluster

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/meta/metamem"
	"github.com/looptape/looptape/internal/base/run"
	"github.com/looptape/looptape/internal/broker/store/catalog"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// bubbleClock is the time of the synctest bubble.
func bubbleClock() Clock {
	start := time.Now()
	return func() time.Duration { return time.Since(start) }
}

func keep(t *testing.T, l *Lease, renew func(context.Context, meta.LeaseID) error) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Keep(ctx, renew) }()
	return func() error { cancel(); return <-done }
}

func refuse(context.Context, meta.LeaseID) error { return catalog.ErrFenced }

// The deadline lies before the lease's end, whatever a refresh is told and
// however long its answer takes.
func TestDeadlineIsBeforeTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := metamem.New()
		defer store.Close()
		l, err := Acquire(context.Background(), store, 6*time.Second, bubbleClock(), quiet())
		if err != nil {
			t.Fatal(err)
		}
		stop := keep(t, l, refuse)
		time.Sleep(time.Minute)
		if !l.Alive() {
			t.Error("not alive while it is kept")
		}
		// The store answers no more: from the last answer on 5 s are left.
		store.SetFault(func(c metamem.Call) metamem.Fault {
			if c.Method == "KeepAlive" {
				return metamem.Fault{Before: errors.New("unreachable")}
			}
			return metamem.Fault{}
		})
		was := time.Now()
		for l.Alive() {
			time.Sleep(10 * time.Millisecond)
		}
		if since := time.Since(was); since < 2900*time.Millisecond || since > 5*time.Second {
			t.Errorf("alive for %s after the store went away", since)
		}
		// At the deadline the lease still lives in the store.
		store.SetFault(nil)
		if _, err := store.KeepAlive(context.Background(), l.ID()); err != nil {
			t.Errorf("the lease ended before the deadline: %v", err)
		}
		time.Sleep(2 * time.Second)
		if !l.Alive() {
			t.Error("not alive again")
		}
		_ = stop()
		if err := l.Release(context.Background()); err != nil || l.Alive() {
			t.Error("released", err)
		}
	})
}

// A lost lease is replaced only if nobody has taken over.
func TestLostLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := metamem.New()
		defer store.Close()
		l, err := Acquire(context.Background(), store, 6*time.Second, bubbleClock(), quiet())
		if err != nil {
			t.Fatal(err)
		}
		first := l.ID()
		var renewed atomic.Int64
		var taken atomic.Bool
		stop := keep(t, l, func(_ context.Context, id meta.LeaseID) error {
			if taken.Load() {
				return catalog.ErrFenced
			}
			if l.ID() != first {
				t.Error("the new lease is used before it is agreed to")
			}
			renewed.Store(int64(id))
			return nil
		})
		time.Sleep(time.Second)
		store.Expire(first)
		time.Sleep(3 * time.Second)
		if renewed.Load() == 0 || int64(l.ID()) != renewed.Load() || !l.Alive() {
			t.Errorf("lease %d, renewed %d", l.ID(), renewed.Load())
		}
		taken.Store(true)
		store.Expire(meta.LeaseID(renewed.Load()))
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if err := stop(); !errors.Is(err, catalog.ErrFenced) {
			t.Errorf("kept on after a take-over: %v", err)
		}
	})
}

// A lease is kept while a broker opens, and the opening ends when it is lost.
func TestDuring(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := metamem.New()
		defer store.Close()
		l, err := Acquire(context.Background(), store, 6*time.Second, bubbleClock(), quiet())
		if err != nil {
			t.Fatal(err)
		}
		if err := l.During(context.Background(), func(ctx context.Context) error {
			return run.Sleep(ctx, time.Minute)
		}); err != nil || !l.Alive() {
			t.Errorf("during: %v", err)
		}
		err = l.During(context.Background(), func(ctx context.Context) error {
			store.Expire(l.ID())
			return run.Sleep(ctx, time.Minute)
		})
		if !errors.Is(err, errLost) {
			t.Errorf("lost during: %v", err)
		}
		if got := l.During(context.Background(), func(context.Context) error { return errors.New("no") }); got == nil || got.Error() != "no" {
			t.Errorf("error of the opening: %v", got)
		}
	})
}

// The boot clock goes on.
func TestBootClock(t *testing.T) {
	a := BootClock()
	if b := BootClock(); a <= 0 || b < a {
		t.Error(a, b)
	}
}
