// Package blobtest is the suite that every blob.Store passes.
//
// A store's test calls Run with a function that opens a new, empty store; each
// case of the suite gets one of its own. What only one store can do (survive a
// crash, fail on purpose) is tested beside it.
package blobtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/base/blob"
)

// Run runs the suite. open returns a new, empty store.
func Run(t *testing.T, open func(t *testing.T) blob.Store) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, blob.Store)
	}{
		{"put and read", putAndRead},
		{"put only if absent", putOnce},
		{"one of many puts wins", race},
		{"ranges", ranges},
		{"list", list},
		{"delete", remove},
		{"bad keys", badKeys},
		{"ended context", ended},
		{"body too short", shortBody},
		{"body fails once", brokenBody},
		{"large lazy body", largeBody},
		{"cancelled while the body is read", cancelled},
		{"long list", longList},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
}

const (
	races    = 5
	racers   = 16
	longKeys = 1205 // more than an S3 store lists in one answer
)

func put(t *testing.T, s blob.Store, key, body string) {
	t.Helper()
	if err := s.Put(t.Context(), key, strings.NewReader(body), int64(len(body))); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, s blob.Store, key string) string {
	t.Helper()
	info, err := s.Stat(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, info.Size)
	if n, err := s.GetRange(t.Context(), key, 0, b); err != nil || n != len(b) {
		t.Fatalf("get %s: %d, %v", key, n, err)
	}
	return string(b)
}

func putAndRead(t *testing.T, s blob.Store) {
	r := rand.New(rand.NewPCG(1, 2))
	for i, size := range []int{0, 1, 4095, 4096, 1<<20 - 1, 1<<20 + 1, 3 << 20} {
		body := make([]byte, size)
		for j := range body {
			body[j] = byte(r.Uint32())
		}
		key := fmt.Sprintf("data/%d/x=%d", i%3, i)
		put(t, s, key, string(body))
		if got := get(t, s, key); got != string(body) {
			t.Errorf("%s: %d bytes back of %d, or others", key, len(got), size)
		}
		info, err := s.Stat(t.Context(), key)
		if err != nil || info.Key != key || info.Size != int64(size) || info.Modified.IsZero() {
			t.Errorf("stat %+v, %v", info, err)
		}
	}
}

func putOnce(t *testing.T, s blob.Store) {
	put(t, s, "a/b", "first")
	err := s.Put(t.Context(), "a/b", strings.NewReader("second"), 6)
	if !errors.Is(err, blob.ErrExists) {
		t.Errorf("second put: %v", err)
	}
	if got := get(t, s, "a/b"); got != "first" {
		t.Errorf("got %q", got)
	}
}

func race(t *testing.T, s blob.Store) {
	for round := range races {
		key := fmt.Sprint("race/", round)
		var wg sync.WaitGroup
		errs := make([]error, racers)
		for i := range errs {
			wg.Go(func() {
				body := bytes.Repeat([]byte{byte('a' + i)}, 10_000)
				errs[i] = s.Put(t.Context(), key, bytes.NewReader(body), int64(len(body)))
			})
		}
		wg.Wait()
		winner := -1
		for i, err := range errs {
			switch {
			case err == nil && winner >= 0:
				t.Errorf("%d and %d both won", winner, i)
			case err == nil:
				winner = i
			case !errors.Is(err, blob.ErrExists):
				t.Errorf("put %d: %v", i, err)
			}
		}
		if winner < 0 {
			t.Fatal("nobody won")
		}
		if got := get(t, s, key); got != strings.Repeat(string(rune('a'+winner)), 10_000) {
			t.Errorf("not the winner's bytes")
		}
	}
}

func ranges(t *testing.T, s blob.Store) {
	put(t, s, "r", "0123456789")
	for _, c := range []struct {
		off  int64
		n    int
		want string
		err  error
	}{
		{0, 10, "0123456789", nil},
		{3, 4, "3456", nil},
		{10, 0, "", nil},
		{9, 1, "9", nil},
		{9, 2, "", blob.ErrRange},
		{11, 0, "", blob.ErrRange},
		{-1, 1, "", blob.ErrRange},
		{1 << 62, 1, "", blob.ErrRange},
	} {
		dst := make([]byte, c.n)
		n, err := s.GetRange(t.Context(), "r", c.off, dst)
		if !errors.Is(err, c.err) || err == nil && (n != c.n || string(dst) != c.want) {
			t.Errorf("%d bytes at %d: %q, %d, %v", c.n, c.off, dst, n, err)
		}
	}
	put(t, s, "empty", "")
	if n, err := s.GetRange(t.Context(), "empty", 0, nil); n != 0 || err != nil {
		t.Errorf("nothing of nothing: %d, %v", n, err)
	}
	if _, err := s.GetRange(t.Context(), "empty", 0, make([]byte, 1)); !errors.Is(err, blob.ErrRange) {
		t.Errorf("something of nothing: %v", err)
	}
	if _, err := s.GetRange(t.Context(), "none", 0, nil); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("nothing of a missing one: %v", err)
	}
	if _, err := s.GetRange(t.Context(), "none", 0, make([]byte, 1)); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("missing: %v", err)
	}
	if _, err := s.GetRange(t.Context(), "r/below", 0, make([]byte, 1)); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("below an object: %v", err)
	}
	if _, err := s.Stat(t.Context(), "none"); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("stat of a missing one: %v", err)
	}
}

func list(t *testing.T, s blob.Store) {
	keys := []string{"a/b/c", "a/b-c", "a/b0", "a/c", "a-x/y", "b", "a/b.x/1", "a/b+"}
	for _, k := range keys {
		put(t, s, k, k)
	}
	slices.Sort(keys)
	for _, prefix := range []string{"", "a", "a/", "a/b", "a/b/", "a/b/c", "b", "bb", "a/b-", "c/d/e", "b/x"} {
		var want, got []string
		for _, k := range keys {
			if strings.HasPrefix(k, prefix) {
				want = append(want, k)
			}
		}
		err := s.List(t.Context(), prefix, func(i blob.Info) error {
			got = append(got, i.Key)
			if i.Size != int64(len(i.Key)) {
				t.Errorf("%s has %d bytes", i.Key, i.Size)
			}
			return nil
		})
		if err != nil {
			t.Errorf("list %q: %v", prefix, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("list %q (-want +got):\n%s", prefix, d)
		}
	}
	stop := errors.New("stop")
	n := 0
	if err := s.List(t.Context(), "", func(blob.Info) error { n++; return stop }); !errors.Is(err, stop) || n != 1 {
		t.Errorf("stopped listing: %v after %d", err, n)
	}
}

func remove(t *testing.T, s blob.Store) {
	put(t, s, "d/1", "x")
	put(t, s, "d/2", "y")
	for range 2 { // the second finds nothing
		if err := s.Delete(t.Context(), "d/1"); err != nil {
			t.Fatal(err)
		}
	}
	for _, k := range []string{"d", "none/at/all", "d/2/below"} {
		if err := s.Delete(t.Context(), k); err != nil {
			t.Errorf("delete %s: %v", k, err)
		}
	}
	if _, err := s.Stat(t.Context(), "d/1"); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("stat: %v", err)
	}
	if got := get(t, s, "d/2"); got != "y" {
		t.Errorf("the other is %q", got)
	}
	put(t, s, "d/1", "again")
}

func badKeys(t *testing.T, s blob.Store) {
	for _, key := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "../x", "a/../b", "a/..", ".tmp/1", "a/.b", "a b", "a\\b",
		"a\x00b", "ä", "a:b", "a\nb", strings.Repeat("x", 256), strings.Repeat("x/", 512) + "x",
	} {
		for name, err := range map[string]error{
			"put":    s.Put(t.Context(), key, strings.NewReader(""), 0),
			"delete": s.Delete(t.Context(), key),
			"get":    func() error { _, err := s.GetRange(t.Context(), key, 0, nil); return err }(),
			"stat":   func() error { _, err := s.Stat(t.Context(), key); return err }(),
		} {
			if !errors.Is(err, blob.ErrBadKey) {
				t.Errorf("%s %q: %v", name, key, err)
			}
		}
	}
	for _, prefix := range []string{"../", "/", "a//", "a/.", "..", "."} {
		if err := s.List(t.Context(), prefix, func(blob.Info) error { return nil }); !errors.Is(err, blob.ErrBadKey) {
			t.Errorf("list %q: %v", prefix, err)
		}
	}
}

func ended(t *testing.T, s blob.Store) {
	put(t, s, "there", "x")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, err := range map[string]error{
		"put":    s.Put(ctx, "k", strings.NewReader("x"), 1),
		"get":    func() error { _, err := s.GetRange(ctx, "there", 0, make([]byte, 1)); return err }(),
		"list":   s.List(ctx, "", func(blob.Info) error { return nil }),
		"delete": s.Delete(ctx, "there"),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.Stat(t.Context(), "k"); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("a put with an ended context left something: %v", err)
	}
}

func shortBody(t *testing.T, s blob.Store) {
	if err := s.Put(t.Context(), "k", strings.NewReader("abc"), 4); err == nil {
		t.Error("no error")
	}
	if _, err := s.Stat(t.Context(), "k"); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("something was left: %v", err)
	}
}
