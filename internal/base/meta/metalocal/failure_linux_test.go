package metalocal

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/looptape/looptape/internal/base/meta"
)

// A commit that fails is unknown, and so is every later transaction, until the
// file is opened anew. The failure is real: the file descriptor under the open
// database becomes read-only.
func TestCommitFailureIsFinal(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "meta.db")
	s := openIn(t, dir)
	txn := func(key string) error {
		_, err := s.Txn(t.Context(), meta.Txn{Then: []meta.Op{meta.Put(key, nil)}})
		return err
	}
	if err := txn("before"); err != nil {
		t.Fatal(err)
	}
	fd := descriptor(t, path)
	good, err := unix.Dup(fd)
	if err != nil {
		t.Fatal(err)
	}
	readOnly, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer readOnly.Close()
	if err := unix.Dup2(int(readOnly.Fd()), fd); err != nil {
		t.Fatal(err)
	}
	w := s.Watch(t.Context(), "", 1)
	if err := txn("unknown"); !errors.Is(err, meta.ErrUnknown) {
		t.Errorf("failed commit: %v", err)
	}
	if err := unix.Dup2(good, fd); err != nil {
		t.Fatal(err)
	}
	if err := txn("after"); !errors.Is(err, meta.ErrUnknown) {
		t.Errorf("after a failed commit: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Close(good); err != nil { // it holds the lock, too
		t.Fatal(err)
	}
	if b := <-w; !errors.Is(b.Err, meta.ErrClosed) {
		t.Errorf("a watcher was told of what is unknown: %+v", b)
	}
	s = openIn(t, dir)
	defer s.Close()
	found, _, err := s.Get(t.Context(), "before", "after")
	if _, ok := found["before"]; err != nil || !ok || len(found) != 1 {
		t.Errorf("found %v, %v", found, err)
	}
}

// descriptor is the one under which the process has path open.
func descriptor(t *testing.T, path string) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && to == path {
			fd, err := strconv.Atoi(e.Name())
			if err != nil {
				t.Fatal(err)
			}
			return fd
		}
	}
	t.Fatalf("%s is not open", path)
	return -1
}
