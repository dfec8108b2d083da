package blobmem

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/blob/blobtest"
)

func TestSuite(t *testing.T) {
	blobtest.Run(t, func(*testing.T) blob.Store { return New() })
}

func TestFaults(t *testing.T) {
	s := New()
	put := func() error { return s.Put(t.Context(), "k", strings.NewReader("x"), 1) }
	boom := errors.New("boom")
	s.SetFault(func(c Call) Fault {
		if c.Method != "Put" || c.Key != "k" {
			t.Errorf("call %+v", c)
		}
		return Fault{Before: boom}
	})
	if err := put(); !errors.Is(err, boom) || len(s.Keys()) != 0 {
		t.Errorf("failed before: %v, keys %v", err, s.Keys())
	}
	s.SetFault(func(Call) Fault { return Fault{After: blob.ErrUnknown} })
	if err := put(); !errors.Is(err, blob.ErrUnknown) || len(s.Keys()) != 1 {
		t.Errorf("failed after: %v, keys %v", err, s.Keys())
	}
	s.SetFault(nil)
	if err := put(); !errors.Is(err, blob.ErrExists) {
		t.Errorf("retry of one's own: %v", err)
	}
}

func TestDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New()
		s.SetFault(func(Call) Fault { return Fault{Delay: time.Minute} })
		start := time.Now()
		if err := s.Delete(t.Context(), "k"); err != nil || time.Since(start) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Delete(ctx, "k"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}
