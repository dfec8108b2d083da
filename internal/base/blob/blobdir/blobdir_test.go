package blobdir

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/blob/blobtest"
	"github.com/looptape/looptape/internal/base/disk/diskmem"
)

func TestSuite(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Store {
		s, err := Open(filepath.Join(t.TempDir(), "objects"))
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

func TestSuiteInMemory(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Store {
		s, err := OpenFS(diskmem.New(0), "/objects")
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

func TestObjectIsNoDirectory(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	put := func(key string) error { return s.Put(t.Context(), key, strings.NewReader("x"), 1) }
	if err := errors.Join(put("a"), put("b/c")); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"a/b", "a/b/c", "b"} {
		if err := put(key); !errors.Is(err, blob.ErrBadKey) {
			t.Errorf("put %s: %v", key, err)
		}
	}
}

func TestLeftoversAreSwept(t *testing.T) {
	root := t.TempDir()
	tmp := filepath.Join(root, tmpDir)
	if err := os.MkdirAll(tmp, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tmp, "17"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(root); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(tmp)
	if err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// A crash at every call: an object that was answered is there, whole; one that was
// not is there whole or not at all; a deleted one stays deleted.
func TestCrashAtEveryCall(t *testing.T) {
	bodies := map[string]string{
		"data/1": strings.Repeat("a", 3000),
		"data/2": strings.Repeat("b", 5),
		"wal/x":  strings.Repeat("c", 1500),
	}
	// script returns what was answered: true there, false deleted.
	script := func(fs *diskmem.FS) (map[string]bool, error) {
		answered := map[string]bool{}
		s, err := OpenFS(fs, "/objects")
		if err != nil {
			return answered, err
		}
		for _, key := range []string{"data/1", "data/2", "wal/x"} {
			err := s.Put(t.Context(), key, strings.NewReader(bodies[key]), int64(len(bodies[key])))
			if err != nil {
				return answered, err
			}
			answered[key] = true
			// A repeated put is told that it exists, durably.
			if err := s.Put(t.Context(), key, strings.NewReader("x"), 1); !errors.Is(err, blob.ErrExists) {
				return answered, err
			}
		}
		delete(answered, "data/1")
		if err := s.Delete(t.Context(), "data/1"); err != nil {
			return answered, err
		}
		answered["data/1"] = false
		return answered, nil
	}
	clean := diskmem.New(0)
	if _, err := script(clean); err != nil {
		t.Fatal(err)
	}
	for k := 1; k <= clean.Calls()+1; k++ {
		fs := diskmem.New(0)
		fs.StopAt(k)
		answered, _ := script(fs)
		for seed := range uint64(8) {
			left := fs.Crash(rand.New(rand.NewPCG(seed, uint64(k))))
			if err := look(t, left, bodies, answered); err != nil {
				t.Fatalf("k=%d seed=%d: %v", k, seed, err)
			}
		}
	}
}

func look(t *testing.T, fs *diskmem.FS, bodies map[string]string, answered map[string]bool) error {
	s, err := OpenFS(fs, "/objects")
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	err = s.List(t.Context(), "", func(i blob.Info) error {
		b := make([]byte, i.Size)
		if _, err := s.GetRange(t.Context(), i.Key, 0, b); err != nil {
			return err
		}
		if string(b) != bodies[i.Key] {
			return fmt.Errorf("%s has other bytes", i.Key)
		}
		seen[i.Key] = true
		return nil
	})
	if err != nil {
		return err
	}
	for key, there := range answered {
		if seen[key] != there {
			return fmt.Errorf("%s: answered %v, seen %v", key, there, seen[key])
		}
	}
	entries, err := fs.ReadDir("/objects/" + tmpDir)
	if err == nil && len(entries) > 0 {
		err = fmt.Errorf("left in %s: %v", tmpDir, entries)
	}
	return err
}
