package metamem

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/base/meta"
)

// Leases live by the test's clock, to the nanosecond.
func TestClock(t *testing.T) {
	now := time.Unix(1000, 0)
	s := NewAt(func() time.Time { return now })
	defer s.Close()
	one, err1 := s.Grant(t.Context(), 6*time.Second)
	two, err2 := s.Grant(t.Context(), 6*time.Second)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Txn(t.Context(), meta.Txn{Then: []meta.Op{meta.Put("one", nil).WithLease(one), meta.Put("two", nil).WithLease(two)}}); err != nil {
		t.Fatal(err)
	}
	w := s.Watch(t.Context(), "", 1)
	now = now.Add(5 * time.Second)
	if ttl, err := s.KeepAlive(t.Context(), two); err != nil || ttl != 6*time.Second {
		t.Errorf("%v, %v", ttl, err)
	}
	now = now.Add(time.Second - 1)
	if found, _, err := s.Get(t.Context(), "one", "two"); err != nil || len(found) != 2 {
		t.Errorf("%v, %v", found, err)
	}
	now = now.Add(1)
	s.Tick() // no call of the contract is needed
	if b := <-w; cmp.Diff(meta.Batch{Rev: 2, Events: []meta.Event{{Key: "one", ModRev: 2, Deleted: true}}}, b) != "" {
		t.Errorf("%+v", b)
	}
	if _, err := s.KeepAlive(t.Context(), one); !errors.Is(err, meta.ErrNoLease) {
		t.Errorf("expired: %v", err)
	}
	s.Expire(two)
	if b := <-w; b.Rev != 3 || b.Events[0].Key != "two" {
		t.Errorf("%+v", b)
	}
	if _, err := s.KeepAlive(t.Context(), two); !errors.Is(err, meta.ErrNoLease) {
		t.Errorf("expired by the test: %v", err)
	}
	s.Expire(0)
	if id, err := s.Grant(t.Context(), time.Second); err != nil || id == one || id == two {
		t.Errorf("%d again, %v", id, err)
	}
}

func TestLeaseFaults(t *testing.T) {
	now := time.Unix(1000, 0)
	s := NewAt(func() time.Time { return now })
	defer s.Close()
	id, err := s.Grant(t.Context(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	boom := errors.New("boom")
	fault := Fault{}
	s.SetFault(func(c Call) Fault {
		if c.Method == "KeepAlive" && c.Lease != id || c.Method == "Revoke" && c.Lease != id {
			t.Errorf("call %+v", c)
		}
		return fault
	})
	fault = Fault{After: boom}
	now = now.Add(time.Second - 1)
	if _, err := s.KeepAlive(t.Context(), id); !errors.Is(err, boom) {
		t.Errorf("refresh: %v", err)
	}
	fault = Fault{Before: boom}
	now = now.Add(time.Second - 1) // alive: the refresh took effect
	if _, err := s.KeepAlive(t.Context(), id); !errors.Is(err, boom) {
		t.Errorf("refresh: %v", err)
	}
	if err := s.Revoke(t.Context(), id); !errors.Is(err, boom) {
		t.Errorf("revoke: %v", err)
	}
	fault = Fault{}
	if _, err := s.KeepAlive(t.Context(), id); err != nil {
		t.Errorf("not revoked, but %v", err)
	}
	fault = Fault{After: boom}
	if err := s.Revoke(t.Context(), id); !errors.Is(err, boom) {
		t.Errorf("revoke: %v", err)
	}
	fault = Fault{}
	if _, err := s.KeepAlive(t.Context(), id); !errors.Is(err, meta.ErrNoLease) {
		t.Errorf("revoked, but %v", err)
	}
	fault = Fault{After: boom}
	if _, err := s.Grant(t.Context(), time.Second); !errors.Is(err, boom) {
		t.Errorf("grant: %v", err)
	}
}

// Watches lag and end as the test wants; nothing is lost by it.
func TestWatchFaults(t *testing.T) {
	synctest.Test(t, watchFaults)
}

func watchFaults(t *testing.T) {
	s := New()
	defer s.Close()
	put := func() {
		t.Helper()
		if _, err := s.Txn(t.Context(), meta.Txn{Then: []meta.Op{meta.Put("k", nil)}}); err != nil {
			t.Fatal(err)
		}
	}
	w := s.Watch(t.Context(), "", 0)
	put()
	if b := <-w; b.Rev != 1 {
		t.Errorf("%+v", b)
	}
	s.Hold(true)
	put()
	if err := s.Progress(t.Context()); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	lost := errors.New("lost")
	s.Break(lost)
	if b := <-w; !errors.Is(b.Err, lost) || b.Rev != 0 {
		t.Errorf("%+v", b)
	}
	w = s.Watch(t.Context(), "", 1)
	put()
	s.Hold(false)
	for rev := int64(2); rev <= 3; rev++ {
		if b := <-w; b.Rev != rev || len(b.Events) != 1 {
			t.Errorf("%+v, want %d", b, rev)
		}
	}
}
