package blobtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/base/blob"
)

// lazy is a body that exists nowhere: every byte follows from its place. It
// notices reads after the Put it was given to.
type lazy struct {
	seed   uint64
	before func(end int64) error // each read, which goes up to there
	done   atomic.Bool
	late   atomic.Bool
}

// ReadAt implements io.ReaderAt.
func (l *lazy) ReadAt(p []byte, off int64) (int, error) {
	if l.before != nil {
		if err := l.before(off + int64(len(p))); err != nil {
			return 0, err
		}
	}
	if l.done.Load() {
		l.late.Store(true)
	}
	fill(p, l.seed, off)
	return len(p), nil
}

// fill writes the bytes of a body from off on.
func fill(p []byte, seed uint64, off int64) {
	for i := range p {
		at := uint64(off) + uint64(i)
		x := (at/8 + seed) * 0x9e3779b97f4a7c15
		x ^= x >> 29
		p[i] = byte(x >> (8 * (at % 8)))
	}
}

// check compares an object with the body piece by piece.
func check(t *testing.T, s blob.Store, key string, seed uint64, size int64) {
	t.Helper()
	info, err := s.Stat(t.Context(), key)
	if err != nil || info.Size != size {
		t.Fatalf("stat: %+v, %v, want %d bytes", info, err, size)
	}
	const piece = 3<<20 + 17 // no border of anything
	got, want := make([]byte, piece), make([]byte, piece)
	for off := int64(0); off < size; off += piece {
		n := min(piece, size-off)
		if _, err := s.GetRange(t.Context(), key, off, got[:n]); err != nil {
			t.Fatal(err)
		}
		fill(want[:n], seed, off)
		if string(got[:n]) != string(want[:n]) {
			t.Fatalf("other bytes between %d and %d", off, off+n)
		}
	}
}

func putLazy(ctx context.Context, t *testing.T, s blob.Store, key string, l *lazy, size int64) error {
	err := s.Put(ctx, key, l, size)
	l.done.Store(true)
	t.Cleanup(func() {
		if l.late.Load() {
			t.Errorf("the body of %s was read after its Put", key)
		}
	})
	return err
}

func largeBody(t *testing.T, s blob.Store) {
	const size = 40 << 20
	if err := putLazy(t.Context(), t, s, "large", &lazy{seed: 1}, size); err != nil {
		t.Fatal(err)
	}
	check(t, s, "large", 1, size)
	// Others' bytes under the same key: refused, also for a body that takes long to send.
	if err := putLazy(t.Context(), t, s, "large", &lazy{seed: 2}, size); !errors.Is(err, blob.ErrExists) {
		t.Errorf("the second: %v", err)
	}
	check(t, s, "large", 1, size)
}

// A body that can't be read leaves nothing, and the key is free for the next
// attempt with the same bytes.
func brokenBody(t *testing.T, s blob.Store) {
	const size = 5 << 20
	boom := errors.New("boom")
	l := &lazy{seed: 3}
	l.before = func(end int64) error {
		if end > 2<<20 {
			return boom
		}
		return nil
	}
	if err := putLazy(t.Context(), t, s, "k", l, size); !errors.Is(err, boom) {
		t.Errorf("got %v", err)
	}
	if _, err := s.Stat(t.Context(), "k"); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("something was left: %v", err)
	}
	for i, want := range []error{nil, blob.ErrExists} { // the second is a repetition whose first answer was lost
		if err := putLazy(t.Context(), t, s, "k", &lazy{seed: 3}, size); !errors.Is(err, want) {
			t.Errorf("attempt %d: %v", i, err)
		}
	}
	check(t, s, "k", 3, size)
}

// A Put that is cancelled half way may have stored the object or not, but never
// half of it.
func cancelled(t *testing.T, s blob.Store) {
	const size = 8 << 20
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	l := &lazy{seed: 4}
	l.before = func(end int64) error {
		if end > 3<<20 {
			cancel()
		}
		return nil
	}
	if err := putLazy(ctx, t, s, "k", l, size); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := s.Stat(t.Context(), "k"); err == nil {
		check(t, s, "k", 4, size)
	} else if !errors.Is(err, blob.ErrNotFound) {
		t.Error(err)
	}
	if err := putLazy(t.Context(), t, s, "k", &lazy{seed: 4}, size); err != nil && !errors.Is(err, blob.ErrExists) {
		t.Errorf("the repetition: %v", err)
	}
	check(t, s, "k", 4, size)
}

func longList(t *testing.T, s blob.Store) {
	var want []string
	for i := range longKeys {
		want = append(want, fmt.Sprintf("long/%d/%05d", i/100%7, i))
	}
	work := make(chan string)
	var wg sync.WaitGroup
	for range racers {
		wg.Go(func() {
			for key := range work {
				if err := putLazy(t.Context(), t, s, key, &lazy{}, 1); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for _, key := range append([]string{"lon", "long-", "long0"}, want...) {
		work <- key
	}
	close(work)
	wg.Wait()
	slices.Sort(want)
	var got []string
	if err := s.List(t.Context(), "long/", func(i blob.Info) error { got = append(got, i.Key); return nil }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	stop, n := errors.New("stop"), 0
	err := s.List(t.Context(), "long/", func(i blob.Info) error {
		if i.Key != want[n] {
			t.Errorf("%d is %s, want %s", n, i.Key, want[n])
		}
		if n++; n == longKeys-50 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || n != longKeys-50 {
		t.Errorf("stopped listing: %v after %d", err, n)
	}
}
