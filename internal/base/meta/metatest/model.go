package metatest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/base/meta"
)

// model says what a store holds after each transaction, with revisions as the
// store gave them.
type model struct {
	keys   map[string]meta.KV
	leases map[meta.LeaseID][]string // living ones
	rev    int64
}

func (m *model) holds(c meta.Cmp) bool {
	kv, ok := m.keys[c.Key]
	return c.Holds(kv, ok)
}

// remove takes the keys away and returns the events of it, in order.
func (m *model) remove(rev int64, keys ...string) (events []meta.Event) {
	slices.Sort(keys)
	for _, k := range keys {
		if _, ok := m.keys[k]; ok {
			delete(m.keys, k)
			m.detach(k)
			events = append(events, meta.Event{Key: k, ModRev: rev, Deleted: true})
		}
	}
	return events
}

func (m *model) detach(key string) {
	for id, keys := range m.leases {
		m.leases[id] = slices.DeleteFunc(keys, func(k string) bool { return k == key })
	}
}

// apply does what a transaction that was answered at rev did.
func (m *model) apply(t meta.Txn, rev int64) (events []meta.Event) {
	for _, o := range t.Then {
		switch o.Kind {
		case meta.OpPut:
			kv := meta.KV{Key: o.Key, Value: append([]byte{}, o.Value...), CreateRev: rev, ModRev: rev}
			if old, ok := m.keys[o.Key]; ok {
				kv.CreateRev = old.CreateRev
			}
			m.keys[o.Key] = kv
			m.detach(o.Key)
			if o.Lease != 0 {
				m.leases[o.Lease] = append(m.leases[o.Lease], o.Key)
			}
			events = append(events, meta.Event{Key: o.Key, Value: kv.Value, ModRev: rev})
		case meta.OpDelete:
			events = append(events, m.remove(rev, o.Key)...)
		case meta.OpDeletePrefix:
			keys := slices.Collect(maps.Keys(m.keys))
			events = append(events, m.remove(rev, slices.DeleteFunc(keys, func(k string) bool { return !strings.HasPrefix(k, o.Key) })...)...)
		}
	}
	return events
}

// draw makes a transaction of few keys, so that they meet.
func (m *model) draw(r *rand.Rand) meta.Txn {
	key := func() string {
		return []string{"a", "a/1", "a/2", "a/2/3", "b", "b/\xff", "c"}[r.IntN(7)]
	}
	var t meta.Txn
	for range r.IntN(3) {
		k := key()
		kv := m.keys[k]
		t.If = append(t.If, []meta.Cmp{
			meta.Absent(k), meta.Exists(k), meta.ModRevIs(k, kv.ModRev), meta.ModRevIs(k, kv.ModRev+1),
			meta.CreateRevIs(k, kv.CreateRev), meta.CreateRevIs(k, m.rev), meta.ValueIs(k, kv.Value), meta.ValueIs(k, []byte{1}),
		}[r.IntN(8)])
	}
	for range r.IntN(4) {
		var o meta.Op
		switch r.IntN(5) {
		case 0:
			o = meta.Delete(key())
		case 1:
			o = meta.DeletePrefix(key())
		default:
			o = meta.Put(key(), []byte{byte(r.IntN(3))})
			if ids := slices.Sorted(maps.Keys(m.leases)); len(ids) > 0 && r.IntN(2) == 0 {
				o = o.WithLease(ids[r.IntN(len(ids))])
			}
		}
		t.Then = append(t.Then, o)
		if t.Check() != nil { // it meets another one
			t.Then = t.Then[:len(t.Then)-1]
		}
	}
	for range r.IntN(3) {
		t.ElseGet = append(t.ElseGet, key())
	}
	return t
}

// random runs transactions that chance draws, and holds every answer, what is
// stored in the end and what a watch of everything saw against a model.
func random(t *testing.T, s meta.Store) {
	for seed := range uint64(3) {
		r := rand.New(rand.NewPCG(seed, 1))
		_, rev := get(t, s)
		m := &model{keys: map[string]meta.KV{}, leases: map[meta.LeaseID][]string{}, rev: rev}
		if _, err := s.Scan(t.Context(), "", func(kv meta.KV) error { m.keys[kv.Key] = kv; return nil }); err != nil {
			t.Fatal(err)
		}
		w := s.Watch(t.Context(), "", rev)
		var want []meta.Batch
		changed := func(rev int64, events []meta.Event) {
			if len(events) > 0 {
				want = append(want, meta.Batch{Rev: rev, Events: events})
			}
		}
		for step := range 100 {
			switch n := r.IntN(20); {
			case n == 0:
				m.leases[grant(t, s, time.Hour)] = nil
				continue
			case n == 1 && len(m.leases) > 0:
				id := slices.Min(slices.Collect(maps.Keys(m.leases)))
				keys := m.leases[id]
				if err := s.Revoke(t.Context(), id); err != nil {
					t.Fatal(err)
				}
				delete(m.leases, id)
				if len(keys) > 0 {
					_, m.rev = get(t, s)
					changed(m.rev, m.remove(m.rev, keys...))
				}
				continue
			}
			txn := m.draw(r)
			ok := !slices.ContainsFunc(txn.If, func(c meta.Cmp) bool { return !m.holds(c) })
			var other []meta.KV
			for _, k := range txn.ElseGet {
				if kv, there := m.keys[k]; !ok && there {
					other = append(other, kv)
				}
			}
			got, err := s.Txn(t.Context(), txn)
			if err != nil || got.OK != ok || got.Rev < m.rev {
				t.Fatalf("seed %d, step %d: %+v: %+v, %v; want %v above %d", seed, step, txn, got, err, ok, m.rev)
			}
			if d := cmp.Diff(other, got.Else); d != "" {
				t.Fatalf("seed %d, step %d: %+v:\n%s", seed, step, txn, d)
			}
			if ok {
				changed(got.Rev, m.apply(txn, got.Rev))
			}
			m.rev = got.Rev
		}
		stored := map[string]meta.KV{}
		if _, err := s.Scan(t.Context(), "", func(kv meta.KV) error { stored[kv.Key] = kv; return nil }); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(m.keys, stored); d != "" {
			t.Fatalf("seed %d:\n%s", seed, d)
		}
		for i, b := range want {
			if d := cmp.Diff(b, next(t, w)); d != "" {
				t.Fatalf("seed %d, batch %d: %s", seed, i, d)
			}
		}
		last := do(t, s, meta.Put("z", []byte(fmt.Sprint(seed))))
		if b := next(t, w); b.Rev != last {
			t.Fatalf("seed %d: the watch has %+v after its end", seed, b)
		}
	}
}
