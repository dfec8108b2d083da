package catalog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/meta/metamem"
)

var update = flag.Bool("update", false, "write golden files")

// golden compares with a file of testdata/golden, which never changes once
// released.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", "golden", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, got) {
		t.Errorf("%s:\n got %x\nwant %x", name, got, want)
	}
}

func aSnapshot() Snapshot {
	id := [16]byte{1, 2, 3}
	return Snapshot{
		Cluster: base64.RawURLEncoding.EncodeToString(id[:]), Number: 77, Line: 0xfedcba9876543210, Taken: time.UnixMilli(1_700_000_000_123),
		Entries: []Entry{
			{keyCluster, encodeCluster(id)},
			{fenceKey(1, 2), encodeFence(aFence)},
			{topicKey(TopicID{9}), encodeTopic(aTopic)},
		},
	}
}

func TestGoldenSnapshot(t *testing.T) {
	want := aSnapshot()
	b, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "snapshot.v1", b)
	got, err := DecodeSnapshot(b)
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Error(err, d)
	}
}

// Any change of one bit, and any cut, is found.
func TestDamagedSnapshot(t *testing.T) {
	good, err := aSnapshot().Encode()
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		for bit := range 8 {
			b := bytes.Clone(good)
			b[i] ^= 1 << bit
			if _, err := DecodeSnapshot(b); err == nil {
				t.Errorf("bit %d of byte %d", bit, i)
			}
		}
		if _, err := DecodeSnapshot(good[:i]); !errors.Is(err, ErrCorrupt) {
			t.Errorf("cut at %d: %v", i, err)
		}
	}
	if _, err := DecodeSnapshot(append(bytes.Clone(good), 0)); err == nil {
		t.Error("a byte too many")
	}
	for name, change := range map[string]func(*Snapshot){
		"order":   func(s *Snapshot) { slices.Reverse(s.Entries) },
		"twice":   func(s *Snapshot) { s.Entries = append(s.Entries, s.Entries[2]) },
		"foreign": func(s *Snapshot) { s.Entries = append(s.Entries, Entry{Key: "/v2/x"}) },
		"live":    func(s *Snapshot) { s.Entries = append(s.Entries[:1:1], Entry{Key: liveKey(1)}) },
		"long key": func(s *Snapshot) {
			s.Entries = append(s.Entries, Entry{Key: root + string(bytes.Repeat([]byte("z"), meta.MaxKeyBytes))})
		},
		"value":  func(s *Snapshot) { s.Entries[2].Value = make([]byte, meta.MaxBytes+1) },
		"number": func(s *Snapshot) { s.Number = -1 },
	} {
		s := aSnapshot()
		change(&s)
		b, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeSnapshot(b); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := aSnapshot()
	s.Cluster = "?"
	if _, err := s.Encode(); err == nil {
		t.Error("a cluster id that is none")
	}
}

func FuzzSnapshot(f *testing.F) {
	for _, s := range []Snapshot{aSnapshot(), {Cluster: aSnapshot().Cluster}} {
		b, err := s.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = DecodeSnapshotHeader(b)
		if len(b) >= snapshotHeader+snapshotTrailer {
			seal(b) // what has no right sums is refused before anything is looked at
		}
		s, err := DecodeSnapshot(b)
		if err != nil {
			return
		}
		again, err := s.Encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%x became %x, %v", b, again, err)
		}
	})
}

// dump is everything in a store that a snapshot keeps.
func dump(t *testing.T, s meta.Store) map[string]string {
	t.Helper()
	all := map[string]string{}
	if _, err := s.Scan(t.Context(), "", func(kv meta.KV) error {
		if kept(kv.Key) {
			all[kv.Key] = string(kv.Value)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// filled is a store with a catalog of some hundred keys, some of which end with
// their process.
func filled(t *testing.T) (*metamem.Store, *Catalog) {
	t.Helper()
	store := metamem.New()
	c := open(t, store)
	for i := range 5 {
		if _, err := c.CreateTopic(t.Context(), Topic{Name: fmt.Sprint("t", i), Partitions: 60}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := store.Txn(t.Context(), meta.Txn{Then: []meta.Op{
		meta.Put(liveKey(1), encodeLive(Broker{ID: 1, Epoch: 1})), meta.Put(keyController, encodeLogID(LogID{1, 1})), meta.Put("/elsewhere", nil),
	}}); err != nil {
		t.Fatal(err)
	}
	return store, c
}

func TestSnapshotAndRestore(t *testing.T) {
	store, c := filled(t)
	s, err := c.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	outdated := func(c *Catalog, newest Snapshot, want bool) {
		t.Helper()
		if why, err := c.Outdated(t.Context(), newest); err != nil || (why != nil) != want {
			t.Errorf("by %d: %v, %v", newest.Number, why, err)
		}
	}
	outdated(c, s, false)
	outdated(c, Snapshot{Number: s.Number + 1}, true)      // an old copy of the store's files
	outdated(c, Snapshot{Number: s.Number, Line: 1}, true) // not restored at all
	b, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if s, err = DecodeSnapshot(b); err != nil {
		t.Fatal(err)
	}
	fresh := metamem.New()
	if err := Restore(t.Context(), fresh, s); err != nil {
		t.Fatal(err)
	}
	want := dump(t, store)
	if d := cmp.Diff(want, dump(t, fresh)); d != "" {
		t.Error(d)
	}
	if err := Restore(t.Context(), fresh, s); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("again: %v", err)
	}
	if err := Restore(t.Context(), store, s); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("over a living one: %v", err)
	}
	// Numbers go on from the one restored, though revisions began anew.
	r := open(t, fresh)
	if r.ClusterID() != c.ClusterID() || len(r.Topics()) != 5 {
		t.Errorf("cluster %s with %d topics", r.ClusterID(), len(r.Topics()))
	}
	later, err := r.Snapshot(t.Context())
	if err != nil || later.Number <= s.Number || later.Sum() != s.Sum() || later.Line == s.Line {
		t.Errorf("number %d of line %d after %d, %v", later.Number, later.Line, s.Number, err)
	}
	outdated(r, s, false)
	outdated(r, later, false)
	outdated(r, Snapshot{Number: s.Number + 1}, true) // the line before went further
	outdated(c, later, true)                          // the line before comes back
	if _, err := r.CreateTopic(t.Context(), Topic{Name: "new", Partitions: 1}); err != nil {
		t.Fatal(err)
	}
	changed, err := r.Snapshot(t.Context())
	if err != nil || changed.Sum() == s.Sum() || changed.Number <= later.Number {
		t.Errorf("a change is not seen: %v", err)
	}
}

// A restore that ends at any of its transactions leaves no catalog, and the next
// one completes it.
func TestRestoreEndsEarly(t *testing.T) {
	_, c := filled(t)
	s, err := c.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	down := errors.New("down")
	for _, applied := range []bool{false, true} {
		for at := 1; ; at++ {
			store := metamem.New()
			n := 0
			store.SetFault(func(c metamem.Call) metamem.Fault {
				if c.Method == "Txn" {
					if n++; n == at {
						if applied {
							return metamem.Fault{After: down}
						}
						return metamem.Fault{Before: down}
					}
				}
				return metamem.Fault{}
			})
			err := Restore(t.Context(), store, s)
			store.SetFault(nil)
			if err == nil {
				if at < 4 {
					t.Errorf("%d transactions only", n)
				}
				break
			}
			if !errors.Is(err, down) {
				t.Fatal(err)
			}
			found, _, err := store.Get(t.Context(), keyCluster)
			if err != nil {
				t.Fatal(err)
			}
			if len(found) == 0 {
				if err := Restore(t.Context(), store, s); err != nil {
					t.Errorf("second attempt after transaction %d: %v", at, err)
				}
			}
			got := slices.Sorted(maps.Keys(dump(t, store)))
			var want []string
			for _, e := range s.Entries {
				want = append(want, e.Key)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("ended at transaction %d: %s", at, d)
			}
		}
	}
	// Unknown outcomes are repeated.
	store := metamem.New()
	n := 0
	store.SetFault(func(c metamem.Call) (f metamem.Fault) {
		if c.Method == "Txn" {
			switch n++; n % 3 {
			case 1:
				f.Before = meta.ErrUnknown
			case 2:
				f.After = meta.ErrUnknown
			}
		}
		return f
	})
	if err := Restore(t.Context(), store, s); err != nil {
		t.Error(err)
	}
}

func TestRestoreRefuses(t *testing.T) {
	s := aSnapshot()
	s.Entries = s.Entries[1:]
	if err := Restore(t.Context(), metamem.New(), s); !errors.Is(err, ErrCorrupt) {
		t.Errorf("without a cluster id: %v", err)
	}
	s = aSnapshot()
	s.Entries[0].Value = encodeCluster([16]byte{7})
	if err := Restore(t.Context(), metamem.New(), s); !errors.Is(err, ErrCorrupt) {
		t.Errorf("another cluster id: %v", err)
	}
	store := metamem.New()
	if _, err := store.Txn(t.Context(), meta.Txn{Then: []meta.Op{meta.Put(root+"x", nil)}}); err != nil {
		t.Fatal(err)
	}
	if err := Restore(t.Context(), store, aSnapshot()); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("a key of another: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Restore(ctx, metamem.New(), aSnapshot()); !errors.Is(err, context.Canceled) {
		t.Errorf("ended context: %v", err)
	}
}

// seal puts the right sums into what is long enough to have them.
func seal(b []byte) {
	end := len(b) - snapshotTrailer
	sum := sha256.Sum256(b[snapshotHeader:end])
	copy(b[end:], sum[:])
	binary.BigEndian.PutUint32(b[len(b)-4:], crc32.Checksum(b[:len(b)-4], castagnoli))
}
