package metalocal

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/base/disk"
	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/meta/metatest"
)

func openIn(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(filepath.Join(dir, "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSuite(t *testing.T) {
	metatest.Suite{Open: func(t *testing.T) meta.Store { return openIn(t, t.TempDir()) }}.Run(t)
}

// Keys, both their revisions and the store's outlive a restart; a watch from
// before does not.
func TestReopen(t *testing.T) {
	dir := t.TempDir()
	s := openIn(t, dir)
	for _, ops := range [][]meta.Op{
		{meta.Put("a", []byte("1")), meta.Put("gone", nil)},
		{meta.Put("a", []byte("2")), meta.Delete("gone")},
	} {
		if _, err := s.Txn(t.Context(), meta.Txn{Then: ops}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(filepath.Join(dir, "meta.db")); !errors.Is(err, disk.ErrLocked) {
		t.Errorf("second open: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openIn(t, dir)
	defer s.Close()
	found, rev, err := s.Get(t.Context(), "a", "gone")
	want := map[string]meta.KV{"a": {Key: "a", Value: []byte("2"), CreateRev: 1, ModRev: 2}}
	if d := cmp.Diff(want, found); d != "" || rev != 2 || err != nil {
		t.Errorf("at %d, %v:\n%s", rev, err, d)
	}
	if b := <-s.Watch(t.Context(), "", 1); !errors.Is(b.Err, meta.ErrCompacted) {
		t.Errorf("watch from before: %+v", b)
	}
	w := s.Watch(t.Context(), "", rev)
	if r, err := s.Txn(t.Context(), meta.Txn{Then: []meta.Op{meta.Put("b", nil)}}); err != nil || r.Rev != 3 {
		t.Errorf("%+v, %v", r, err)
	}
	if b := <-w; b.Rev != 3 {
		t.Errorf("watch: %+v", b)
	}
}

// Leases end with the process that had the file open; keys without one stay.
func TestReopenEndsLeases(t *testing.T) {
	dir := t.TempDir()
	s := openIn(t, dir)
	id, err := s.Grant(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Txn(t.Context(), meta.Txn{Then: []meta.Op{
		meta.Put("a", nil).WithLease(id), meta.Put("b", nil).WithLease(id), meta.Put("c", nil),
	}}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = openIn(t, dir)
		found, rev, err := s.Get(t.Context(), "a", "b", "c")
		if _, ok := found["c"]; !ok || len(found) != 1 || rev != 2 || err != nil {
			t.Errorf("at %d: %v, %v", rev, found, err)
		}
		if _, err := s.KeepAlive(t.Context(), id); !errors.Is(err, meta.ErrNoLease) {
			t.Errorf("refresh: %v", err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestNotAMetadataFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "meta.db")
	if err := os.WriteFile(path, make([]byte, 1<<16), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil {
		t.Error("no error")
	}
}
