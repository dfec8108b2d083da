package blobdir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/disk"
	"github.com/looptape/looptape/internal/base/disk/diskmem"
)

// Ranges come right wherever they lie: at the ends of blocks, of pieces and of
// the object, with direct I/O and without, from many readers at once.
func TestRanges(t *testing.T) {
	for name, fs := range map[string]disk.FS{"os": disk.OS{}, "direct": diskmem.New(512), "cached": diskmem.New(0)} {
		t.Run(name, func(t *testing.T) {
			s, err := OpenFS(fs, filepath.Join(t.TempDir(), "objects"))
			if err != nil {
				t.Fatal(err)
			}
			var bodies [][]byte
			for i, size := range []int{0, 1, 511, 512, 4097, bounceBytes, 2*bounceBytes + 77} {
				b := make([]byte, size)
				for k := range b {
					b[k] = byte(rand.Uint32())
				}
				bodies = append(bodies, b)
				if err := s.Put(t.Context(), fmt.Sprint(i), bytes.NewReader(b), int64(size)); err != nil {
					t.Fatal(err)
				}
			}
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					for range 300 {
						i := rand.IntN(len(bodies))
						from := rand.IntN(len(bodies[i]) + 1)
						if rand.IntN(2) == 0 {
							from = from / 512 * 512
						}
						dst := make([]byte, rand.IntN(len(bodies[i])-from+1))
						if rand.IntN(3) == 0 {
							dst = make([]byte, len(bodies[i])-from)
						}
						if n, err := s.GetRange(context.Background(), fmt.Sprint(i), int64(from), dst); err != nil || n != len(dst) || !bytes.Equal(dst, bodies[i][from:from+n]) {
							t.Errorf("object %d, %d bytes at %d: %d, %v", i, len(dst), from, n, err)
							return
						}
					}
				})
			}
			wg.Wait()
			if _, err := s.GetRange(t.Context(), "4", 4000, make([]byte, 98)); !errors.Is(err, blob.ErrRange) {
				t.Error(err)
			}
		})
	}
}

// Files are kept open for the next read, not all of them, and none of a deleted
// object.
func TestKeptOpen(t *testing.T) {
	s, err := OpenFS(diskmem.New(512), "/objects")
	if err != nil {
		t.Fatal(err)
	}
	get := func(key, want string) {
		t.Helper()
		b := make([]byte, len(want))
		if _, err := s.GetRange(t.Context(), key, 0, b); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", key, b, err)
		}
	}
	for i := range 2 * keptOpen {
		key := fmt.Sprint("k", i)
		if err := s.Put(t.Context(), key, bytes.NewReader([]byte(key)), int64(len(key))); err != nil {
			t.Fatal(err)
		}
		get(key, key)
		get(key, key)
	}
	if n := len(s.load.files); n != keptOpen || s.load.order.Len() != n {
		t.Errorf("%d files are open", n)
	}
	last := fmt.Sprint("k", 2*keptOpen-1)
	if err := s.Delete(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	if len(s.load.files) != keptOpen-1 {
		t.Error("the deleted object is still open")
	}
	if _, err := s.GetRange(t.Context(), last, 0, make([]byte, 1)); !errors.Is(err, blob.ErrNotFound) {
		t.Error(err)
	}
	if err := s.Put(t.Context(), last, bytes.NewReader([]byte("other")), 5); err != nil {
		t.Fatal(err)
	}
	get(last, "other")
}

// Who gives up waiting for his turn leaves it to the others.
func TestReadCanceled(t *testing.T) {
	s, err := OpenFS(diskmem.New(512), "/objects")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "a", bytes.NewReader([]byte("body")), 4); err != nil {
		t.Fatal(err)
	}
	var held [][]byte
	for range bounces {
		held = append(held, <-s.load.bounce)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { _, err := s.GetRange(ctx, "a", 0, make([]byte, 4)); done <- err }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	for _, b := range held {
		s.load.bounce <- b
	}
	if _, err := s.GetRange(t.Context(), "a", 0, make([]byte, 4)); err != nil {
		t.Error(err)
	}
}
