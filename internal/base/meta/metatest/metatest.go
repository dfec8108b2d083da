// Package metatest is the suite that every meta.Store passes.
//
// A store's test calls Run with a function that opens a new, empty store; each
// case of the suite gets one of its own and closes it. What only one store can do
// (outlive a restart, fail on purpose) is tested beside it. Idle is for stores
// that run in a synctest bubble.
package metatest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/base/meta"
)

// Run runs the suite. open returns a new, empty store; the suite closes it.
func Run(t *testing.T, open func(t *testing.T) meta.Store) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, meta.Store)
	}{
		{"revisions", revisions},
		{"comparisons", comparisons},
		{"all or nothing", allOrNothing},
		{"delete", remove},
		{"scan", scan},
		{"limits", limits},
		{"values are copied", copied},
		{"counters do not lose", counters},
		{"watch", watch},
		{"watch from the past", watchPast},
		{"watch too late", watchLate},
		{"close", closed},
		{"ended context", ended},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t)
			c.run(t, s)
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func do(t *testing.T, s meta.Store, ops ...meta.Op) int64 {
	t.Helper()
	r, err := s.Txn(t.Context(), meta.Txn{Then: ops})
	if err != nil || !r.OK {
		t.Fatalf("transaction: %+v, %v", r, err)
	}
	return r.Rev
}

func get(t *testing.T, s meta.Store, keys ...string) (map[string]meta.KV, int64) {
	t.Helper()
	found, rev, err := s.Get(t.Context(), keys...)
	if err != nil {
		t.Fatal(err)
	}
	return found, rev
}

func kv(key, value string, create, mod int64) meta.KV {
	return meta.KV{Key: key, Value: []byte(value), CreateRev: create, ModRev: mod}
}

func revisions(t *testing.T, s meta.Store) {
	if _, rev := get(t, s, "a"); rev != 0 {
		t.Errorf("empty store at %d", rev)
	}
	for i, ops := range [][]meta.Op{
		{meta.Put("a", []byte("1")), meta.Put("b", nil)}, // 1
		{meta.Put("a", []byte("2"))},                     // 2
		{meta.Put("a", []byte("2"))},                     // 3: a change, if to the same
		{meta.Delete("b")},                               // 4
		{meta.Put("b", []byte("3"))},                     // 5
	} {
		if rev := do(t, s, ops...); rev != int64(i+1) {
			t.Errorf("transaction %d at %d", i, rev)
		}
	}
	if rev := do(t, s, meta.Delete("none"), meta.DeletePrefix("nowhere")); rev != 5 {
		t.Errorf("nothing changed, revision %d", rev)
	}
	if rev := do(t, s); rev != 5 {
		t.Errorf("empty transaction, revision %d", rev)
	}
	found, rev := get(t, s, "a", "b", "c")
	want := map[string]meta.KV{"a": kv("a", "2", 1, 3), "b": kv("b", "3", 5, 5)}
	if d := cmp.Diff(want, found); d != "" || rev != 5 {
		t.Errorf("at %d:\n%s", rev, d)
	}
}

func comparisons(t *testing.T, s meta.Store) {
	do(t, s, meta.Put("a", []byte("x"))) // 1
	do(t, s, meta.Put("a", []byte("y"))) // 2
	do(t, s, meta.Put("empty", nil))     // 3
	for _, c := range []struct {
		cmp  meta.Cmp
		want bool
	}{
		{meta.Absent("a"), false},
		{meta.Absent("b"), true},
		{meta.Exists("a"), true},
		{meta.Exists("empty"), true},
		{meta.Exists("b"), false},
		{meta.ModRevIs("a", 2), true},
		{meta.ModRevIs("a", 1), false},
		{meta.ModRevIs("a", 0), false},
		{meta.ModRevIs("b", 0), true},
		{meta.CreateRevIs("a", 1), true},
		{meta.CreateRevIs("a", 2), false},
		{meta.CreateRevIs("b", 0), true},
		{meta.ValueIs("a", []byte("y")), true},
		{meta.ValueIs("a", []byte("x")), false},
		{meta.ValueIs("empty", nil), true},
		{meta.ValueIs("b", nil), false},
	} {
		r, err := s.Txn(t.Context(), meta.Txn{If: []meta.Cmp{c.cmp}, ElseGet: []string{"b", "a"}})
		if err != nil || r.OK != c.want {
			t.Errorf("%+v: %v, %v", c.cmp, r.OK, err)
		}
		var want []meta.KV
		if !c.want {
			want = []meta.KV{kv("a", "y", 1, 2)}
		}
		if d := cmp.Diff(want, r.Else); d != "" || r.Rev != 3 {
			t.Errorf("%+v at %d:\n%s", c.cmp, r.Rev, d)
		}
	}
}

func allOrNothing(t *testing.T, s meta.Store) {
	do(t, s, meta.Put("a", []byte("1")))
	r, err := s.Txn(t.Context(), meta.Txn{
		If:   []meta.Cmp{meta.Exists("a"), meta.Exists("b")},
		Then: []meta.Op{meta.Put("c", nil), meta.Delete("a")},
	})
	if err != nil || r.OK || r.Rev != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	if found, _ := get(t, s, "a", "c"); len(found) != 1 {
		t.Errorf("found %v", found)
	}
}

func remove(t *testing.T, s meta.Store) {
	do(t, s, meta.Put("p/1", nil), meta.Put("p/2", nil), meta.Put("p", nil), meta.Put("q/1", nil))
	do(t, s, meta.DeletePrefix("p/"), meta.Delete("q/1"), meta.Put("q/2", nil))
	found, _ := get(t, s, "p/1", "p/2", "p", "q/1", "q/2")
	want := map[string]meta.KV{"p": kv("p", "", 1, 1), "q/2": kv("q/2", "", 2, 2)}
	if d := cmp.Diff(want, found); d != "" {
		t.Error(d)
	}
}

func scan(t *testing.T, s meta.Store) {
	do(t, s, meta.Put("b/2", []byte("2")), meta.Put("b/1", []byte("1")), meta.Put("a", nil), meta.Put("c", nil), meta.Put("b/\xff", nil))
	var got []meta.KV
	rev, err := s.Scan(t.Context(), "b/", func(kv meta.KV) error { got = append(got, kv); return nil })
	want := []meta.KV{kv("b/1", "1", 1, 1), kv("b/2", "2", 1, 1), kv("b/\xff", "", 1, 1)}
	if d := cmp.Diff(want, got); d != "" || rev != 1 || err != nil {
		t.Errorf("at %d, %v:\n%s", rev, err, d)
	}
	n := 0
	if _, err := s.Scan(t.Context(), "", func(meta.KV) error { n++; return nil }); err != nil || n != 5 {
		t.Errorf("all: %d, %v", n, err)
	}
	stop := errors.New("stop")
	if _, err := s.Scan(t.Context(), "", func(meta.KV) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("stopped scan: %v", err)
	}
}

func limits(t *testing.T, s meta.Store) {
	many := make([]meta.Op, meta.MaxOps+1)
	for i := range many {
		many[i] = meta.Put(fmt.Sprint(i), nil)
	}
	long := strings.Repeat("k", meta.MaxKeyBytes+1)
	for name, c := range map[string]struct {
		txn  meta.Txn
		want error
	}{
		"most ops":       {meta.Txn{Then: many[1:]}, nil},
		"too many ops":   {meta.Txn{Then: many}, meta.ErrTooLarge},
		"all count":      {meta.Txn{Then: many[1:], ElseGet: []string{"x"}}, meta.ErrTooLarge},
		"most bytes":     {meta.Txn{Then: []meta.Op{meta.Put("k", make([]byte, meta.MaxBytes-1))}}, nil},
		"too many bytes": {meta.Txn{Then: []meta.Op{meta.Put("k", make([]byte, meta.MaxBytes))}}, meta.ErrTooLarge},
		"long key":       {meta.Txn{Then: []meta.Op{meta.Put(long, nil)}}, meta.ErrInvalid},
		"empty key":      {meta.Txn{Then: []meta.Op{meta.Put("", nil)}}, meta.ErrInvalid},
		"empty prefix":   {meta.Txn{Then: []meta.Op{meta.DeletePrefix("")}}, meta.ErrInvalid},
		"no kind":        {meta.Txn{Then: []meta.Op{{Key: "k"}}}, meta.ErrInvalid},
		"no comparison":  {meta.Txn{If: []meta.Cmp{{Key: "k"}}}, meta.ErrInvalid},
		"twice":          {meta.Txn{Then: []meta.Op{meta.Put("k", nil), meta.Delete("k")}}, meta.ErrInvalid},
		"prefix and key": {meta.Txn{Then: []meta.Op{meta.Put("k1", nil), meta.DeletePrefix("k")}}, meta.ErrInvalid},
		"two prefixes":   {meta.Txn{Then: []meta.Op{meta.DeletePrefix("k1"), meta.DeletePrefix("k")}}, meta.ErrInvalid},
	} {
		if _, err := s.Txn(t.Context(), c.txn); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func copied(t *testing.T, s meta.Store) {
	v := []byte("abc")
	do(t, s, meta.Put("k", v))
	v[0] = 'X'
	found, _ := get(t, s, "k")
	found["k"].Value[1] = 'X'
	if found, _ := get(t, s, "k"); string(found["k"].Value) != "abc" {
		t.Errorf("got %q", found["k"].Value)
	}
}

func counters(t *testing.T, s meta.Store) {
	var wg sync.WaitGroup
	const each = 10
	for range 4 {
		wg.Go(func() {
			for n := 0; n < each; {
				found, _, err := s.Get(t.Context(), "n")
				if err != nil {
					t.Error(err)
					return
				}
				old := found["n"]
				r, err := s.Txn(t.Context(), meta.Txn{
					If:   []meta.Cmp{meta.ModRevIs("n", old.ModRev)},
					Then: []meta.Op{meta.Put("n", append(old.Value, '.'))},
				})
				if err != nil {
					t.Error(err)
					return
				}
				if r.OK {
					n++
				}
			}
		})
	}
	wg.Wait()
	if found, rev := get(t, s, "n"); len(found["n"].Value) != 4*each || rev != 4*each {
		t.Errorf("%d at %d", len(found["n"].Value), rev)
	}
}

// next is the watch's next batch.
func next(t *testing.T, w <-chan meta.Batch) meta.Batch {
	t.Helper()
	b, ok := <-w
	if !ok {
		t.Fatal("the watch's channel is closed")
	}
	return b
}

func watch(t *testing.T, s meta.Store) {
	w := s.Watch(t.Context(), "a/", 0)
	do(t, s, meta.Put("a/1", []byte("x")), meta.Put("b", nil), meta.Put("a/2", nil)) // 1
	do(t, s, meta.Put("b", nil))                                                     // 2: not ours
	do(t, s, meta.DeletePrefix("a/"))                                                // 3
	if _, err := s.Txn(t.Context(), meta.Txn{If: []meta.Cmp{meta.Exists("z")}, Then: []meta.Op{meta.Put("a/3", nil)}}); err != nil {
		t.Fatal(err)
	}
	do(t, s, meta.Put("a/4", nil)) // 4
	want := []meta.Batch{
		{Rev: 1, Events: []meta.Event{{Key: "a/1", Value: []byte("x"), ModRev: 1}, {Key: "a/2", Value: []byte{}, ModRev: 1}}},
		{Rev: 3, Events: []meta.Event{{Key: "a/1", ModRev: 3, Deleted: true}, {Key: "a/2", ModRev: 3, Deleted: true}}},
		{Rev: 4, Events: []meta.Event{{Key: "a/4", Value: []byte{}, ModRev: 4}}},
	}
	for _, b := range want {
		if d := cmp.Diff(b, next(t, w)); d != "" {
			t.Errorf("rev %d:\n%s", b.Rev, d)
		}
	}
}

func watchPast(t *testing.T, s meta.Store) {
	for i := range 5 {
		do(t, s, meta.Put("k", []byte{byte(i)}))
	}
	ctx, cancel := context.WithCancel(t.Context())
	w := s.Watch(ctx, "k", 3)
	for rev := int64(4); rev <= 5; rev++ {
		if b := next(t, w); b.Rev != rev || b.Err != nil {
			t.Errorf("got %+v, want %d", b, rev)
		}
	}
	later := s.Watch(t.Context(), "", 6) // not reached yet
	do(t, s, meta.Put("k", nil))
	do(t, s, meta.Put("k", nil))
	if b := next(t, later); b.Rev != 7 {
		t.Errorf("got %+v, want 7", b)
	}
	cancel()
	for {
		b := next(t, w)
		if b.Err == nil {
			continue // what came before the end
		}
		if !errors.Is(b.Err, context.Canceled) {
			t.Errorf("end of the watch: %v", b.Err)
		}
		break
	}
	if _, ok := <-w; ok {
		t.Error("more after the end")
	}
}

// A watcher that does not read is told so, rather than kept for.
func watchLate(t *testing.T, s meta.Store) {
	slow := s.Watch(t.Context(), "", 0)
	const txns = 130 // of 100 events
	for i := range txns {
		ops := make([]meta.Op, meta.MaxOps)
		for j := range ops {
			ops[j] = meta.Put(fmt.Sprintf("%d", j), []byte{byte(i)})
		}
		do(t, s, ops...)
	}
	if b := next(t, s.Watch(t.Context(), "", 0)); !errors.Is(b.Err, meta.ErrCompacted) {
		t.Errorf("watch from the beginning: %+v", b.Rev)
	}
	last := int64(0)
	for {
		b := next(t, slow)
		if b.Err != nil {
			if !errors.Is(b.Err, meta.ErrCompacted) {
				t.Errorf("slow watch: %v", b.Err)
			}
			break
		}
		if b.Rev != last+1 {
			t.Errorf("slow watch jumps from %d to %d", last, b.Rev)
		}
		if last = b.Rev; last == txns {
			break // it was not that slow
		}
	}
}

func closed(t *testing.T, s meta.Store) {
	do(t, s, meta.Put("k", nil))
	w := s.Watch(t.Context(), "", 1)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if b := next(t, w); !errors.Is(b.Err, meta.ErrClosed) {
		t.Errorf("watch: %+v", b)
	}
	if b := next(t, s.Watch(t.Context(), "", 1)); !errors.Is(b.Err, meta.ErrClosed) {
		t.Errorf("new watch: %+v", b)
	}
	for name, err := range map[string]error{
		"get":  func() error { _, _, err := s.Get(t.Context(), "k"); return err }(),
		"scan": func() error { _, err := s.Scan(t.Context(), "", nil); return err }(),
		"txn":  func() error { _, err := s.Txn(t.Context(), meta.Txn{Then: []meta.Op{meta.Put("k", nil)}}); return err }(),
	} {
		if !errors.Is(err, meta.ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func ended(t *testing.T, s meta.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Txn(ctx, meta.Txn{Then: []meta.Op{meta.Put("k", nil)}}); !errors.Is(err, context.Canceled) {
		t.Errorf("txn: %v", err)
	}
	if _, _, err := s.Get(ctx, "k"); !errors.Is(err, context.Canceled) {
		t.Errorf("get: %v", err)
	}
	if found, rev := get(t, s, "k"); len(found) != 0 || rev != 0 {
		t.Errorf("found %v at %d", found, rev)
	}
}

// Idle runs in a synctest bubble and fails if a watch with nothing to do does
// anything but wait.
func Idle(t *testing.T, s meta.Store) {
	w := s.Watch(t.Context(), "", 0)
	synctest.Wait()
	select {
	case b := <-w:
		t.Errorf("got %+v", b)
	default:
	}
}
