package run

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestFirstErrorEndsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		boom := errors.New("boom")
		g := New(t.Context())
		for range 3 {
			g.Go("waits", func(ctx context.Context) error {
				<-ctx.Done()
				return ctx.Err()
			})
			synctest.Wait()
		}
		g.Go("fails", func(context.Context) error { return boom })
		err := g.Wait()
		if !errors.Is(err, boom) || err.Error() != "fails: boom" {
			t.Errorf("got %v", err)
		}
	})
}

func TestPanicIsAnError(t *testing.T) {
	g := New(t.Context())
	g.Go("falls", func(context.Context) error { panic("over") })
	if err := g.Wait(); err == nil || !strings.HasPrefix(err.Error(), "falls: panic: over\n") {
		t.Errorf("got %v", err)
	}
}

func TestStopIsNoError(t *testing.T) {
	for name, end := range map[string]func(*Group, context.CancelFunc){
		"Stop":   func(g *Group, _ context.CancelFunc) { g.Stop() },
		"parent": func(_ *Group, cancel context.CancelFunc) { cancel() },
	} {
		ctx, cancel := context.WithCancel(t.Context())
		g := New(ctx)
		g.Go("waits", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		end(g, cancel)
		if err := g.Wait(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if g.Context().Err() == nil {
			t.Errorf("%s: context still open", name)
		}
		cancel()
	}
	g := New(t.Context())
	g.Go("ends", func(context.Context) error { return nil })
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

// A goroutine that fails while it is stopped says so.
func TestErrorDuringStop(t *testing.T) {
	boom := errors.New("boom")
	g := New(t.Context())
	g.Go("closes", func(ctx context.Context) error { <-ctx.Done(); return boom })
	g.Stop()
	if err := g.Wait(); !errors.Is(err, boom) {
		t.Errorf("got %v", err)
	}
}

func TestSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		if err := Sleep(t.Context(), time.Hour); err != nil || time.Since(began) != time.Hour {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := Sleep(ctx, time.Hour); err != context.DeadlineExceeded || time.Since(began) != time.Hour+time.Minute {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
}
