package metatest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/base/meta"
)

// next is the watch's next batch that is not mere progress.
func next(t *testing.T, w <-chan meta.Batch) meta.Batch {
	t.Helper()
	for {
		b, ok := <-w
		if !ok {
			t.Fatal("the watch's channel is closed")
		}
		if len(b.Events) > 0 || b.Err != nil {
			return b
		}
	}
}

func watch(t *testing.T, s meta.Store) {
	_, before := get(t, s)
	w := s.Watch(t.Context(), "a/", before)
	one := do(t, s, meta.Put("a/1", []byte("x")), meta.Put("b", nil), meta.Put("a/2", nil))
	do(t, s, meta.Put("b", nil)) // not ours
	two := do(t, s, meta.DeletePrefix("a/"))
	if _, err := s.Txn(t.Context(), meta.Txn{If: []meta.Cmp{meta.Exists("z")}, Then: []meta.Op{meta.Put("a/3", nil)}}); err != nil {
		t.Fatal(err)
	}
	do(t, s, meta.Delete("a/none"))
	three := do(t, s, meta.Put("a/4", nil))
	want := []meta.Batch{
		{Rev: one, Events: []meta.Event{{Key: "a/1", Value: []byte("x"), ModRev: one}, {Key: "a/2", Value: []byte{}, ModRev: one}}},
		{Rev: two, Events: []meta.Event{{Key: "a/1", ModRev: two, Deleted: true}, {Key: "a/2", ModRev: two, Deleted: true}}},
		{Rev: three, Events: []meta.Event{{Key: "a/4", Value: []byte{}, ModRev: three}}},
	}
	for _, b := range want {
		if d := cmp.Diff(b, next(t, w)); d != "" {
			t.Errorf("rev %d:\n%s", b.Rev, d)
		}
	}
}

func watchPast(t *testing.T, s meta.Store) {
	var revs []int64
	for i := range 5 {
		revs = append(revs, do(t, s, meta.Put("k", []byte{byte(i)})))
	}
	ctx, cancel := context.WithCancel(t.Context())
	w := s.Watch(ctx, "k", revs[2])
	for _, rev := range revs[3:] {
		if b := next(t, w); b.Rev != rev || b.Err != nil {
			t.Errorf("got %+v, want %d", b, rev)
		}
	}
	later := s.Watch(t.Context(), "", revs[4]+1) // not reached yet
	do(t, s, meta.Put("k", nil))
	last := do(t, s, meta.Put("k", nil))
	if b := next(t, later); b.Rev != last {
		t.Errorf("got %+v, want %d", b, last)
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

// A watcher that ends anywhere and watches again from its last revision sees
// every change once.
func watchResume(t *testing.T, s meta.Store) {
	_, at := get(t, s)
	var want []int64
	for i := range 20 {
		want = append(want, do(t, s, meta.Put("a", []byte{byte(i)}), meta.Put("b", nil)))
	}
	var got []int64
	for n := 1; len(got) < len(want); n++ {
		ctx, cancel := context.WithCancel(t.Context())
		w := s.Watch(ctx, "", at)
		for range min(n, len(want)-len(got)) {
			b := next(t, w)
			if b.Err != nil || len(b.Events) != 2 {
				t.Fatalf("after %d: %+v", at, b)
			}
			got, at = append(got, b.Rev), b.Rev
		}
		cancel()
		for range w { // whatever is under way
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// Batches are whole however large.
func watchLarge(t *testing.T, s meta.Store) {
	keys := fill(t, s, 3000)
	_, at := get(t, s)
	w := s.Watch(t.Context(), "", at)
	var ops []meta.Op
	for _, k := range keys[:meta.MaxOps] {
		ops = append(ops, meta.Put(k, make([]byte, meta.MaxBytes/meta.MaxOps-len(k))))
	}
	large, all := do(t, s, ops...), do(t, s, meta.DeletePrefix("k/"))
	if b := next(t, w); b.Rev != large || len(b.Events) != len(ops) {
		t.Errorf("%d events at %d, want %d at %d: %v", len(b.Events), b.Rev, len(ops), large, b.Err)
	}
	if b := next(t, w); b.Rev != all || len(b.Events) != len(keys) {
		t.Errorf("%d events at %d, want %d at %d: %v", len(b.Events), b.Rev, len(keys), all, b.Err)
	}
}

// A watcher that does not read is told so, rather than kept for.
func watchLate(t *testing.T, s meta.Store, compact func(*testing.T, meta.Store)) {
	_, before := get(t, s)
	slow := s.Watch(t.Context(), "", before)
	var revs []int64
	for i := range 130 {
		ops := make([]meta.Op, meta.MaxOps)
		for j := range ops {
			ops[j] = meta.Put(fmt.Sprintf("%d", j), []byte{byte(i)})
		}
		revs = append(revs, do(t, s, ops...))
	}
	compact(t, s)
	if b := next(t, s.Watch(t.Context(), "", before)); !errors.Is(b.Err, meta.ErrCompacted) {
		t.Errorf("watch from the beginning: %+v", b.Rev)
	}
	for _, rev := range revs {
		b := next(t, slow)
		if b.Err != nil {
			if !errors.Is(b.Err, meta.ErrCompacted) {
				t.Errorf("slow watch: %v", b.Err)
			}
			break
		}
		if b.Rev != rev || len(b.Events) != meta.MaxOps {
			t.Fatalf("slow watch has %d events at %d, want those of %d", len(b.Events), b.Rev, rev)
		}
	}
}

// A watch of one prefix learns that it has everything though only others change.
func progress(t *testing.T, s meta.Store) {
	_, before := get(t, s)
	w := s.Watch(t.Context(), "a/", before)
	mine := do(t, s, meta.Put("a/1", nil))
	if b := next(t, w); b.Rev != mine {
		t.Fatalf("%+v, want %d", b, mine)
	}
	other := do(t, s, meta.Put("b/1", nil))
	for at := int64(0); at < other; {
		// The request may be lost, or be answered for an earlier revision.
		if err := s.Progress(t.Context()); err != nil {
			t.Fatal(err)
		}
		b := <-w
		if b.Err != nil || len(b.Events) > 0 || b.Rev < mine {
			t.Fatalf("%+v", b)
		}
		at = b.Rev
	}
	last := do(t, s, meta.Put("a/2", nil))
	if b := next(t, w); b.Rev != last || b.Err != nil {
		t.Errorf("after progress: %+v, want %d", b, last)
	}
}
