// Package metatest is the suite that every meta.Store passes.
//
// A store's test runs a Suite with a function that opens a new, empty store; each
// case gets one of its own and closes it. Revisions are only compared with each
// other, as a store may be shared with others. What only one store can do
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
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/base/meta"
)

// A Suite says how to test a store.
type Suite struct {
	// Open returns a new, empty store; the suite closes it.
	Open func(t *testing.T) meta.Store
	// Compact, if set, makes the store forget old changes; one without forgets
	// them by itself after some 10,000.
	Compact func(t *testing.T, s meta.Store)
}

// Run runs the suite.
func (suite Suite) Run(t *testing.T) {
	if suite.Compact == nil {
		suite.Compact = func(*testing.T, meta.Store) {}
	}
	for _, c := range []struct {
		name string
		run  func(*testing.T, meta.Store)
	}{
		{"revisions", revisions},
		{"comparisons", comparisons},
		{"all or nothing", allOrNothing},
		{"delete", remove},
		{"get many", getMany},
		{"scan", scan},
		{"scan many at one revision", scanMany},
		{"limits", limits},
		{"values are copied", copied},
		{"counters do not lose", counters},
		{"watch", watch},
		{"watch from the past", watchPast},
		{"watch goes on where another ended", watchResume},
		{"watch of large changes", watchLarge},
		{"watch too late", func(t *testing.T, s meta.Store) { watchLate(t, s, suite.Compact) }},
		{"progress", progress},
		{"against a model", random},
		{"lease", leases},
		{"lease that is gone", leaseGone},
		{"lease expires", leaseExpires},
		{"close", closed},
		{"ended context", ended},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := suite.Open(t)
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
	_, before := get(t, s, "a")
	var rev []int64
	for i, ops := range [][]meta.Op{
		{meta.Put("a", []byte("1")), meta.Put("b", nil)}, // 0
		{meta.Put("a", []byte("2"))},                     // 1
		{meta.Put("a", []byte("2"))},                     // 2: a change, if to the same
		{meta.Delete("b")},                               // 3
		{meta.Put("b", []byte("3"))},                     // 4
	} {
		rev = append(rev, do(t, s, ops...))
		if rev[i] <= before {
			t.Errorf("transaction %d at %d, before it %d", i, rev[i], before)
		}
		before = rev[i]
	}
	// Nothing is changed, so nobody needs a revision: a watcher gets none.
	if at := do(t, s, meta.Delete("none"), meta.DeletePrefix("nowhere")); at < before {
		t.Errorf("nothing changed, revision %d", at)
	}
	if at := do(t, s); at < before {
		t.Errorf("empty transaction, revision %d", at)
	}
	found, at := get(t, s, "a", "b", "c")
	want := map[string]meta.KV{"a": kv("a", "2", rev[0], rev[2]), "b": kv("b", "3", rev[4], rev[4])}
	if d := cmp.Diff(want, found); d != "" || at < before {
		t.Errorf("at %d:\n%s", at, d)
	}
	if found, at := get(t, s); len(found) != 0 || at < before {
		t.Errorf("no keys: %v at %d", found, at)
	}
}

func comparisons(t *testing.T, s meta.Store) {
	created := do(t, s, meta.Put("a", []byte("x")))
	changed := do(t, s, meta.Put("a", []byte("y")))
	last := do(t, s, meta.Put("empty", nil))
	for _, c := range []struct {
		cmp  meta.Cmp
		want bool
	}{
		{meta.Absent("a"), false},
		{meta.Absent("b"), true},
		{meta.Exists("a"), true},
		{meta.Exists("empty"), true},
		{meta.Exists("b"), false},
		{meta.ModRevIs("a", changed), true},
		{meta.ModRevIs("a", created), false},
		{meta.ModRevIs("a", 0), false},
		{meta.ModRevIs("b", 0), true},
		{meta.ModRevIs("b", changed), false},
		{meta.CreateRevIs("a", created), true},
		{meta.CreateRevIs("a", changed), false},
		{meta.CreateRevIs("b", 0), true},
		{meta.ValueIs("a", []byte("y")), true},
		{meta.ValueIs("a", []byte("x")), false},
		{meta.ValueIs("a", []byte("y\x00")), false},
		{meta.ValueIs("empty", nil), true},
		{meta.ValueIs("b", nil), false},
	} {
		r, err := s.Txn(t.Context(), meta.Txn{If: []meta.Cmp{c.cmp}, ElseGet: []string{"b", "a"}})
		if err != nil || r.OK != c.want {
			t.Errorf("%+v: %v, %v", c.cmp, r.OK, err)
		}
		var want []meta.KV
		if !c.want {
			want = []meta.KV{kv("a", "y", created, changed)}
		}
		if d := cmp.Diff(want, r.Else); d != "" || r.Rev < last {
			t.Errorf("%+v at %d:\n%s", c.cmp, r.Rev, d)
		}
	}
}

func allOrNothing(t *testing.T, s meta.Store) {
	rev := do(t, s, meta.Put("a", []byte("1")))
	r, err := s.Txn(t.Context(), meta.Txn{
		If:   []meta.Cmp{meta.Exists("a"), meta.Exists("b")},
		Then: []meta.Op{meta.Put("c", nil), meta.Delete("a")},
	})
	if err != nil || r.OK || r.Rev < rev {
		t.Errorf("%+v, %v", r, err)
	}
	found, _ := get(t, s, "a", "c")
	if d := cmp.Diff(map[string]meta.KV{"a": kv("a", "1", rev, rev)}, found); d != "" {
		t.Error(d)
	}
}

func remove(t *testing.T, s meta.Store) {
	first := do(t, s, meta.Put("p/1", nil), meta.Put("p/2", nil), meta.Put("p", nil), meta.Put("p0", nil), meta.Put("q/1", nil))
	second := do(t, s, meta.DeletePrefix("p/"), meta.Delete("q/1"), meta.Put("q/2", nil))
	found, _ := get(t, s, "p/1", "p/2", "p", "p0", "q/1", "q/2")
	want := map[string]meta.KV{"p": kv("p", "", first, first), "p0": kv("p0", "", first, first), "q/2": kv("q/2", "", second, second)}
	if d := cmp.Diff(want, found); d != "" {
		t.Error(d)
	}
}

// fill puts n keys k/00000 and so on, and returns their names.
func fill(t *testing.T, s meta.Store, n int) (keys []string) {
	t.Helper()
	var ops []meta.Op
	for i := range n {
		keys = append(keys, fmt.Sprintf("k/%05d", i))
		ops = append(ops, meta.Put(keys[i], []byte{'0'}))
		if len(ops) == meta.MaxOps || i == n-1 {
			do(t, s, ops...)
			ops = nil
		}
	}
	return keys
}

func getMany(t *testing.T, s meta.Store) {
	keys := fill(t, s, 350)
	pairs(t, s, keys[0], keys[len(keys)-1], func() (map[string]meta.KV, error) {
		found, _, err := s.Get(t.Context(), append(keys, "absent")...)
		if err == nil && len(found) != len(keys) {
			err = fmt.Errorf("found %d", len(found))
		}
		return found, err
	})
}

// pairs runs read again and again while both keys are changed together, and wants
// it to see them equal.
func pairs(t *testing.T, s meta.Store, one, other string, read func() (map[string]meta.KV, error)) {
	t.Helper()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := byte(0); ; i++ {
			select {
			case <-stop:
				return
			default:
				do(t, s, meta.Put(one, []byte{i}), meta.Put(other, []byte{i}))
			}
		}
	})
	for range 5 {
		found, err := read()
		if err != nil {
			t.Error(err)
			break
		}
		if a, b := found[one], found[other]; a.ModRev != b.ModRev && (a.ModRev == 0 || string(a.Value) != string(b.Value)) {
			t.Errorf("%q at %d and %q at %d were changed together", a.Value, a.ModRev, b.Value, b.ModRev)
		}
	}
	close(stop)
	wg.Wait()
}

func scan(t *testing.T, s meta.Store) {
	at := do(t, s, meta.Put("b/2", []byte("2")), meta.Put("b/1", []byte("1")), meta.Put("a", nil), meta.Put("c", nil), meta.Put("b/\xff", nil))
	var got []meta.KV
	rev, err := s.Scan(t.Context(), "b/", func(kv meta.KV) error { got = append(got, kv); return nil })
	want := []meta.KV{kv("b/1", "1", at, at), kv("b/2", "2", at, at), kv("b/\xff", "", at, at)}
	if d := cmp.Diff(want, got); d != "" || rev < at || err != nil {
		t.Errorf("at %d, %v:\n%s", rev, err, d)
	}
	n := 0
	if _, err := s.Scan(t.Context(), "", func(meta.KV) error { n++; return nil }); err != nil || n != 5 {
		t.Errorf("all: %d, %v", n, err)
	}
	if rev, err := s.Scan(t.Context(), "none", func(meta.KV) error { return errors.New("called") }); err != nil || rev < at {
		t.Errorf("nothing: %d, %v", rev, err)
	}
	stop := errors.New("stop")
	if _, err := s.Scan(t.Context(), "", func(meta.KV) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("stopped scan: %v", err)
	}
}

func scanMany(t *testing.T, s meta.Store) {
	keys := fill(t, s, 5000)
	pairs(t, s, keys[0], keys[len(keys)-1], func() (map[string]meta.KV, error) {
		found := map[string]meta.KV{}
		last := ""
		_, err := s.Scan(t.Context(), "k/", func(kv meta.KV) error {
			if kv.Key <= last {
				return fmt.Errorf("%q after %q", kv.Key, last)
			}
			found[kv.Key], last = kv, kv.Key
			return nil
		})
		if err == nil && len(found) != len(keys) {
			err = fmt.Errorf("found %d", len(found))
		}
		return found, err
	})
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
		"lease of none":  {meta.Txn{Then: []meta.Op{meta.Delete("k").WithLease(1)}}, meta.ErrInvalid},
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
	if found, _ := get(t, s, "n"); len(found["n"].Value) != 4*each {
		t.Errorf("%d, want %d", len(found["n"].Value), 4*each)
	}
}

func closed(t *testing.T, s meta.Store) {
	at := do(t, s, meta.Put("k", nil))
	w := s.Watch(t.Context(), "", at)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if b := next(t, w); !errors.Is(b.Err, meta.ErrClosed) {
		t.Errorf("watch: %+v", b)
	}
	if b := next(t, s.Watch(t.Context(), "", at)); !errors.Is(b.Err, meta.ErrClosed) {
		t.Errorf("new watch: %+v", b)
	}
	for name, err := range map[string]error{
		"progress": s.Progress(t.Context()),
		"revoke":   s.Revoke(t.Context(), 1),
		"grant":    func() error { _, err := s.Grant(t.Context(), time.Minute); return err }(),
		"refresh":  func() error { _, err := s.KeepAlive(t.Context(), 1); return err }(),
		"get":      func() error { _, _, err := s.Get(t.Context(), "k"); return err }(),
		"scan":     func() error { _, err := s.Scan(t.Context(), "", nil); return err }(),
		"txn":      func() error { _, err := s.Txn(t.Context(), meta.Txn{Then: []meta.Op{meta.Put("k", nil)}}); return err }(),
	} {
		if !errors.Is(err, meta.ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func ended(t *testing.T, s meta.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Txn(ctx, meta.Txn{Then: []meta.Op{meta.Put("k", nil)}}); !errors.Is(err, context.Canceled) || errors.Is(err, meta.ErrUnknown) {
		t.Errorf("txn: %v", err)
	}
	if _, _, err := s.Get(ctx, "k"); !errors.Is(err, context.Canceled) {
		t.Errorf("get: %v", err)
	}
	if _, err := s.Scan(ctx, "", func(meta.KV) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("scan: %v", err)
	}
	if _, err := s.Grant(ctx, time.Minute); !errors.Is(err, context.Canceled) {
		t.Errorf("grant: %v", err)
	}
	if found, _ := get(t, s, "k"); len(found) != 0 {
		t.Errorf("found %v", found)
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
