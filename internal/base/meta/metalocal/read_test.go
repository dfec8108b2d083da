package metalocal

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/base/disk"
	"github.com/looptape/looptape/internal/base/meta"
)

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "meta.db")
	if _, _, err := Read(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("reading made the file")
	}
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{"b", "a"} {
		if _, err := s.Txn(t.Context(), meta.Txn{Then: []meta.Op{meta.Put(k, []byte(k+k))}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := Read(path); !errors.Is(err, disk.ErrLocked) {
		t.Errorf("open elsewhere: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	got, rev, err := Read(path)
	want := []meta.KV{{Key: "a", Value: []byte("aa"), CreateRev: 2, ModRev: 2}, {Key: "b", Value: []byte("bb"), CreateRev: 1, ModRev: 1}}
	if diff := cmp.Diff(want, got); err != nil || rev != 2 || diff != "" {
		t.Error(rev, err, diff)
	}
}
