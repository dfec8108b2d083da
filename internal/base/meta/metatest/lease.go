package metatest

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/base/meta"
)

func grant(t *testing.T, s meta.Store, ttl time.Duration) meta.LeaseID {
	t.Helper()
	id, err := s.Grant(t.Context(), ttl)
	if err != nil || id == 0 {
		t.Fatalf("lease %d, %v", id, err)
	}
	return id
}

// exist wants exactly these of the keys to be there.
func exist(t *testing.T, s meta.Store, keys []string, want ...string) {
	t.Helper()
	found, _ := get(t, s, keys...)
	var got []string
	for _, k := range keys {
		if _, ok := found[k]; ok {
			got = append(got, k)
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// The keys of a lease end with it, at one revision that watchers see; those that
// left it before stay.
func leases(t *testing.T, s meta.Store) {
	one, two := grant(t, s, time.Hour), grant(t, s, time.Hour)
	if one == two {
		t.Error("one id for two leases")
	}
	put := func(k string, l meta.LeaseID) meta.Op { return meta.Put(k, []byte(k)).WithLease(l) }
	do(t, s, put("b", one), put("a", one), put("detached", one), put("moved", one), put("again", one), meta.Put("free", nil))
	do(t, s, put("detached", 0), put("moved", two), meta.Delete("again"), put("late", one))
	at := do(t, s, meta.Put("again", nil))
	for range 2 {
		if ttl, err := s.KeepAlive(t.Context(), one); err != nil || ttl <= 0 || ttl > 2*time.Hour {
			t.Errorf("refresh: %v, %v", ttl, err)
		}
	}
	w := s.Watch(t.Context(), "", at)
	if err := s.Revoke(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	all := []string{"a", "b", "detached", "moved", "again", "free", "late"}
	exist(t, s, all, "detached", "moved", "again", "free")
	b := next(t, w)
	want := []meta.Event{{Key: "a", ModRev: b.Rev, Deleted: true}, {Key: "b", ModRev: b.Rev, Deleted: true}, {Key: "late", ModRev: b.Rev, Deleted: true}}
	if d := cmp.Diff(want, b.Events); d != "" || b.Rev <= at {
		t.Errorf("at %d:\n%s", b.Rev, d)
	}
	if err := s.Revoke(t.Context(), two); err != nil {
		t.Fatal(err)
	}
	exist(t, s, all, "detached", "again", "free")
}

func leaseGone(t *testing.T, s meta.Store) {
	id := grant(t, s, time.Hour)
	if err := s.Revoke(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"refresh": func() error { _, err := s.KeepAlive(t.Context(), id); return err }(),
		"revoke":  s.Revoke(t.Context(), id),
		"put": func() error {
			_, err := s.Txn(t.Context(), meta.Txn{Then: []meta.Op{meta.Put("other", nil), meta.Put("k", nil).WithLease(id)}})
			return err
		}(),
	} {
		if !errors.Is(err, meta.ErrNoLease) || errors.Is(err, meta.ErrUnknown) {
			t.Errorf("%s: %v", what, err)
		}
	}
	exist(t, s, []string{"k", "other"})
	// What isn't done needs no lease.
	r, err := s.Txn(t.Context(), meta.Txn{If: []meta.Cmp{meta.Exists("none")}, Then: []meta.Op{meta.Put("k", nil).WithLease(id)}})
	if err != nil || r.OK {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := s.Grant(t.Context(), 0); !errors.Is(err, meta.ErrInvalid) {
		t.Errorf("a lease of no time: %v", err)
	}
}

// A lease that nobody refreshes ends by itself.
func leaseExpires(t *testing.T, s meta.Store) {
	short, long := grant(t, s, 500*time.Millisecond), grant(t, s, time.Hour)
	at := do(t, s, meta.Put("short", nil).WithLease(short), meta.Put("long", nil).WithLease(long))
	b := next(t, s.Watch(t.Context(), "", at))
	if len(b.Events) != 1 || b.Events[0].Key != "short" || !b.Events[0].Deleted {
		t.Errorf("%+v", b)
	}
	exist(t, s, []string{"long", "short"}, "long")
	if _, err := s.KeepAlive(t.Context(), short); !errors.Is(err, meta.ErrNoLease) {
		t.Errorf("refresh: %v", err)
	}
}
