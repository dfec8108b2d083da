package blobdir

import (
	"bytes"
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
	for _, align := range []int{0, 512} {
		t.Run(fmt.Sprint("align=", align), func(t *testing.T) {
			blobtest.Run(t, func(t *testing.T) blob.Store {
				s, err := OpenFS(diskmem.New(align), "/objects")
				if err != nil {
					t.Fatal(err)
				}
				return s
			})
		})
	}
}

// Sizes around those where another way of writing begins, on a real disk and on
// one that wants direct I/O at a larger alignment.
func TestSizes(t *testing.T) {
	dir, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	mem, err := OpenFS(diskmem.New(8192), "/objects")
	if err != nil {
		t.Fatal(err)
	}
	body := make([]byte, 2*pieceBytes+1)
	for i := range body {
		body[i] = byte(i * 31 >> 3)
	}
	for _, s := range []*Store{dir, mem} {
		for _, size := range []int{0, 1, directFrom - 1, directFrom, directFrom + 1, pieceBytes - 1, pieceBytes, pieceBytes + 511, 2 * pieceBytes, 2*pieceBytes + 1} {
			key := fmt.Sprint("n/", size)
			if err := s.Put(t.Context(), key, bytes.NewReader(body[:size]), int64(size)); err != nil {
				t.Fatal(err)
			}
			info, err := s.Stat(t.Context(), key)
			if err != nil || info.Size != int64(size) {
				t.Fatalf("%d bytes: stat says %d, %v", size, info.Size, err)
			}
			got := make([]byte, size)
			if _, err := s.GetRange(t.Context(), key, 0, got); err != nil || !bytes.Equal(got, body[:size]) {
				t.Fatalf("%d bytes come back changed, %v", size, err)
			}
		}
	}
}

// Pieces are given back whatever happens, so that later puts do not wait for ever.
func TestPiecesAreReturned(t *testing.T) {
	fs := diskmem.New(512)
	s, err := OpenFS(fs, "/objects")
	if err != nil {
		t.Fatal(err)
	}
	body := strings.NewReader(strings.Repeat("x", directFrom))
	for i := range 3 * pieces {
		if i%2 == 0 {
			fs.FailAt(2, errors.New("no space")) // the write; the file's creation is the first
			err = s.Put(t.Context(), fmt.Sprint("a/", i), body, directFrom)
		} else {
			err = s.Put(t.Context(), fmt.Sprint("a/", i), body, directFrom+1)
		}
		if err == nil {
			t.Fatal("no error")
		}
	}
	if err := s.Put(t.Context(), "a/b", body, directFrom); err != nil {
		t.Fatal(err)
	}
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
		"wal/x":  strings.Repeat("c", directFrom+700), // past the page cache
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
	const align = 4096
	clean := diskmem.New(align)
	if _, err := script(clean); err != nil {
		t.Fatal(err)
	}
	for k := 1; k <= clean.Calls()+1; k++ {
		fs := diskmem.New(align)
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
