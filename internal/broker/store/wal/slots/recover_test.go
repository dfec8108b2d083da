package slots

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/blob/blobmem"
	"github.com/looptape/looptape/internal/broker/store/wal"
)

// Open, Seal, Read and Sweep against a store whose every call fails once, before or
// after it took effect, at each place: the first three wait it out, and nothing
// comes out differently.
func TestRecoveryWaitsOutFailures(t *testing.T) {
	for _, after := range []bool{false, true} {
		for k := range 25 {
			synctest.Test(t, func(t *testing.T) {
				store := blobmem.New()
				l := six(t, sixConfig(store))
				if err := l.end(); err != nil {
					t.Fatal(err)
				}
				var calls atomic.Int64
				store.SetFault(func(c blobmem.Call) (f blobmem.Fault) {
					if n := calls.Add(1) - 1; n < int64(k) || n > int64(k)+2 || c.Method == "Delete" {
						return f
					}
					if after {
						f.After = fmt.Errorf("503: %w", blob.ErrUnknown)
					} else {
						f.Before = errors.New("connection refused")
					}
					return f
				})
				cfg := testConfig(store)
				cfg.Epoch = 8
				if _, err := Open(t.Context(), cfg); err != nil {
					t.Fatalf("failure %d: %v", k, err)
				}
				end, err := Seal(t.Context(), store, testPrefix, 1, 7, 0, taker)
				if err != nil || end != 13 {
					t.Fatalf("failure %d: sealed at %d, %v", k, end, err)
				}
				got, r, err := readAll(store, 1, end)
				if err != nil || len(got) != 12 || r.First != 1 || r.Last != 12 {
					t.Fatalf("failure %d: %q, %v", k, got, err)
				}
			})
		}
	}
}

// A store that stays away ends the wait with the context.
func TestRecoveryGivesUpWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := blobmem.New()
		away := errors.New("no route to host")
		store.SetFault(func(blobmem.Call) blobmem.Fault { return blobmem.Fault{Before: away} })
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		began := time.Now()
		if _, err := Seal(ctx, store, testPrefix, 1, 7, 0, taker); !errors.Is(err, away) || time.Since(began) != time.Hour {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if _, err := Open(ctx, testConfig(store)); !errors.Is(err, away) {
			t.Error(err)
		}
		if _, err := Read(ctx, store, testPrefix, 1, 7, 1, 9, nil); err == nil {
			t.Error("read from a store that is away")
		}
	})
}

// A store that refuses is not asked again.
func TestRecoveryRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := blobmem.New()
		store.SetFault(func(blobmem.Call) blobmem.Fault { return blobmem.Fault{Before: blob.ErrRefused} })
		began := time.Now()
		if _, err := Seal(t.Context(), store, testPrefix, 1, 7, 0, taker); !errors.Is(err, blob.ErrRefused) || time.Since(began) != 0 {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// A slot that is missing below the end is damage, with its key; so is one that is
// too large to be one. What lies beyond the end is not looked at.
func TestReadMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := blobmem.New()
		l := six(t, sixConfig(store))
		if err := l.end(); err != nil {
			t.Fatal(err)
		}
		of := series{testPrefix, 1, 7}
		put(t, store, of.key(14), []byte("whatever"))
		if got, _, err := readAll(store, 1, 13); err != nil || len(got) != 12 {
			t.Fatalf("%q, %v", got, err)
		}
		if err := store.Delete(t.Context(), of.key(7)); err != nil {
			t.Fatal(err)
		}
		var damage *wal.CorruptError
		if got, _, err := readAll(store, 1, 13); !errors.As(err, &damage) || damage.File != of.key(7) || len(got) != 6 {
			t.Errorf("%q, %v", got, err)
		}
		if got, r, err := readAll(store, 8, 13); err != nil || len(got) != 5 || r.First != 8 {
			t.Errorf("%q, %v", got, err)
		}
		if got, r, err := readAll(store, 13, 13); err != nil || len(got) != 0 || r.First != 0 || r.Last != 0 || r.Place(12) != 12 {
			t.Errorf("%q, %+v, %v", got, r, err)
		}
		if _, _, err := readAll(store, 14, 13); err == nil {
			t.Error("read from beyond the end")
		}
		if _, err := Read(t.Context(), hugeStore{store}, testPrefix, 1, 7, 8, 13, nil); !errors.As(err, &damage) || damage.File != of.key(8) {
			t.Error(err)
		}
		stop := errors.New("enough")
		if _, err := Read(t.Context(), store, testPrefix, 1, 7, 8, 13, func(wal.LSN, []byte) error { return stop }); !errors.Is(err, stop) {
			t.Error(err)
		}
	})
}

// hugeStore says of every object that it is larger than memory.
type hugeStore struct{ *blobmem.Store }

func (s hugeStore) Stat(ctx context.Context, key string) (blob.Info, error) {
	i, err := s.Store.Stat(ctx, key)
	i.Size = 1 << 50
	return i, err
}

// What stands in the way of a seal and is neither data of the epoch nor a seal
// stops it: nobody can say where the log ends.
func TestSealRefusesForeignSlots(t *testing.T) {
	of := series{testPrefix, 1, 7}
	other := &slot{first: 1, seq: 1}
	other.add(&wal.Record{})
	for what, b := range map[string][]byte{
		"not a slot": []byte(strings.Repeat("x", headerBytes)),
		"too short":  []byte("x"),
		"cut off":    sampleSealAt(1)[:headerBytes-1],
		"empty":      {},
	} {
		synctest.Test(t, func(t *testing.T) {
			store := blobmem.New()
			put(t, store, of.key(1), b)
			var damage *wal.CorruptError
			if _, err := Seal(t.Context(), store, testPrefix, 1, 7, 0, taker); !errors.As(err, &damage) || damage.File != of.key(1) {
				t.Errorf("%s: %v", what, err)
			}
		})
	}
	// A data slot of another writer, met by a put since the listing was behind.
	store := blindStore{blobmem.New()}
	put(t, store.Store, of.key(1), flatten(other.freeze(of, Writer{3, 1, testNonce})))
	var damage *wal.CorruptError
	if _, err := Seal(t.Context(), store, testPrefix, 1, 7, 0, taker); !errors.As(err, &damage) || damage.File != of.key(1) {
		t.Error(err)
	}
	// One of the right writer is passed.
	store = blindStore{blobmem.New()}
	put(t, store.Store, of.key(1), flatten(other.freeze(of, Writer{1, 7, testNonce})))
	if end, err := Seal(t.Context(), store, testPrefix, 1, 7, 0, taker); err != nil || end != 2 {
		t.Error(end, err)
	}
}

// blindStore lists nothing.
type blindStore struct{ *blobmem.Store }

func (blindStore) List(context.Context, string, func(blob.Info) error) error { return nil }
