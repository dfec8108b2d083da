package metamem

import (
	"errors"
	"testing"
	"testing/synctest"

	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/meta/metatest"
)

func TestSuite(t *testing.T) {
	metatest.Suite{Open: func(*testing.T) meta.Store { return New() }}.Run(t)
}

func TestIdleWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New()
		metatest.Idle(t, s)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestFaults(t *testing.T) {
	s := New()
	defer s.Close()
	put := meta.Txn{Then: []meta.Op{meta.Put("k", nil)}}
	boom := errors.New("boom")
	s.SetFault(func(c Call) Fault {
		if c.Method != "Txn" || c.Txn == nil {
			t.Errorf("call %+v", c)
		}
		return Fault{Before: boom}
	})
	_, err := s.Txn(t.Context(), put)
	s.SetFault(nil)
	if found, _, _ := s.Get(t.Context(), "k"); !errors.Is(err, boom) || len(found) != 0 {
		t.Errorf("failed before: %v, found %v", err, found)
	}
	s.SetFault(func(Call) Fault { return Fault{After: meta.ErrUnknown} })
	_, err = s.Txn(t.Context(), put)
	s.SetFault(nil)
	if found, _, _ := s.Get(t.Context(), "k"); !errors.Is(err, meta.ErrUnknown) || len(found) != 1 {
		t.Errorf("failed after: %v, found %v", err, found)
	}
	s.Compact()
	if b := <-s.Watch(t.Context(), "", 0); !errors.Is(b.Err, meta.ErrCompacted) {
		t.Errorf("watch after compaction: %+v", b)
	}
}
