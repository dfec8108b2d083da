package slots

import (
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/blob/blobmem"
	"github.com/looptape/looptape/internal/broker/store/wal"
)

// numbers are the slots of epoch 7 that are there.
func numbers(store *blobmem.Store) (all []int64) {
	for _, k := range store.Keys() {
		if seq, ok := (series{testPrefix, 1, 7}).seq(k); ok {
			all = append(all, seq)
		}
	}
	return all
}

// six is a log with six slots of two records each.
func six(t *testing.T, cfg Config) *running {
	l := start(t, cfg)
	for i := 1; i <= 12; i += 2 {
		r := l.record(text(i))
		if _, err := l.Append(r); err != nil {
			t.Fatal(err)
		}
		l.add(text(i + 1))
		time.Sleep(time.Second)
	}
	return l
}

func sixConfig(store *blobmem.Store) Config {
	cfg := testConfig(&lateStore{Store: store, hook: slow(time.Millisecond)})
	cfg.MaxSlotBytes = headerBytes + 1 // always one record
	return cfg
}

func TestTrimAndPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := blobmem.New()
		l := six(t, sixConfig(store))
		for lsn, want := range []int64{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 12} {
			if got := l.Place(wal.LSN(lsn)); got != want {
				t.Errorf("place of LSN %d: %d, want %d", lsn, got, want)
			}
		}
		before := l.Stats().UncommittedBytes
		if err := l.Trim(13); err == nil {
			t.Error("trimmed beyond what is durable")
		}
		if err := errors.Join(l.Trim(3), l.Trim(5), l.Trim(2), l.TrimEpoch(7, 5)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if diff := cmp.Diff([]int64{6, 7, 8, 9, 10, 11, 12}, numbers(store)); diff != "" {
			t.Error(diff)
		}
		if got := []int64{l.Place(5), l.Place(6), l.Place(12)}; !slices.Equal(got, []int64{5, 6, 12}) {
			t.Errorf("places %v", got)
		}
		if got := l.Stats().UncommittedBytes; got >= before || got <= 0 {
			t.Errorf("%d bytes uncommitted, %d before", got, before)
		}
		if err := l.Trim(12); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if diff := cmp.Diff([]int64{12}, numbers(store)); diff != "" {
			t.Error("the newest has to stay:", diff)
		}
		if l.Stats().UncommittedBytes != 0 || l.Requests().Deletes != 11 || l.Requests().ToDelete != 0 {
			t.Errorf("%+v", l.Requests())
		}
		l.add("next") // slot 13
		time.Sleep(time.Second)
		if err := l.Trim(13); err != nil || l.Place(12) != 12 || l.Place(13) != 13 {
			t.Error(err, l.Place(12), l.Place(13))
		}
		time.Sleep(time.Minute)
		if diff := cmp.Diff([]int64{13}, numbers(store)); diff != "" {
			t.Error(diff)
		}
		if err := l.end(); err != nil {
			t.Error(err)
		}
	})
}

// Deletions that fail are repeated, and nothing waits for them.
func TestTrimRepeatsFailedDeletions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := blobmem.New()
		l := six(t, sixConfig(store))
		var asked atomic.Int64
		store.SetFault(func(c blobmem.Call) (f blobmem.Fault) {
			if c.Method == "Delete" {
				if c.Key == l.epoch.key(2) {
					asked.Add(1)
					f.Before = errors.New("503 SlowDown")
				}
			}
			return f
		})
		if err := l.Trim(12); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if diff := cmp.Diff([]int64{2, 6, 7, 8, 9, 10, 11, 12}, numbers(store)); diff != "" {
			t.Error(diff)
		}
		if n := asked.Load(); n < 10 || n > 60 {
			t.Errorf("the deletion was tried %d times in a minute", n)
		}
		l.add("goes on")
		time.Sleep(time.Second)
		if l.Durable() != 13 {
			t.Error("the log waits for a deletion")
		}
		store.SetFault(nil)
		time.Sleep(time.Minute)
		if diff := cmp.Diff([]int64{12, 13}, numbers(store)); diff != "" {
			t.Error(diff)
		}
		if s := l.Requests(); s.Deletes != 11 || s.DeleteFail == 0 {
			t.Errorf("%+v", s)
		}
		if err := l.end(); err != nil {
			t.Error(err)
		}
	})
}

func TestTrimIsRateLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := blobmem.New()
		cfg := sixConfig(store)
		cfg.DeletesPerSecond = 2
		l := six(t, cfg)
		if err := l.Trim(12); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1900 * time.Millisecond)
		if n := len(numbers(store)); n != 12-4 {
			t.Errorf("%d slots after 2 s", n)
		}
		time.Sleep(10 * time.Second)
		if n := len(numbers(store)); n != 1 {
			t.Errorf("%d slots after 12 s", n)
		}
		if err := l.end(); err != nil {
			t.Error(err)
		}
	})
}

// An adopted epoch is trimmed by the next epoch's log, from any point on.
func TestTrimAdopted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := blobmem.New()
		l := six(t, sixConfig(store))
		if err := l.Trim(3); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if err := l.end(); err != nil {
			t.Fatal(err)
		}
		slot := l.Place(4)
		end, err := Seal(t.Context(), store, testPrefix, 1, 7, slot, taker)
		if err != nil {
			t.Fatal(err)
		}
		_, r, err := readAll(store, slot+1, end)
		if err != nil || r.First != 5 || r.Last != 12 || r.End != 13 {
			t.Fatalf("%+v, %v", r, err)
		}
		if got := []int64{r.Place(4), r.Place(5), r.Place(12)}; !slices.Equal(got, []int64{4, 5, 12}) {
			t.Errorf("places %v", got)
		}
		cfg := sixConfig(store)
		cfg.Epoch, cfg.Adopted = 8, []*Recovered{r}
		l = start(t, cfg)
		if got := l.Stats().UncommittedBytes; got != r.Bytes {
			t.Errorf("%d bytes uncommitted, %d adopted", got, r.Bytes)
		}
		if got := []int64{l.PlaceEpoch(7, 5), l.PlaceEpoch(6, 5), l.PlaceEpoch(8, 5)}; !slices.Equal(got, []int64{5, 0, 0}) {
			t.Errorf("places %v", got)
		}
		if err := l.TrimEpoch(6, 1); !errors.Is(err, wal.ErrEpoch) {
			t.Errorf("got %v", err)
		}
		if err := errors.Join(l.TrimEpoch(7, 4), l.TrimEpoch(7, 6), l.TrimEpoch(7, 5)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if diff := cmp.Diff([]int64{4, 7, 8, 9, 10, 11, 12, 13}, numbers(store)); diff != "" {
			t.Error(diff) // 4 was committed before, a sweep takes it
		}
		if err := errors.Join(l.TrimEpoch(7, 12), l.TrimEpoch(7, 12)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if diff := cmp.Diff([]int64{13}, numbers(store)); diff != "" || l.Stats().UncommittedBytes != 0 {
			t.Error(diff, l.Stats())
		}
		if err := l.end(); err != nil {
			t.Error(err)
		}
	})
}

func TestHeld(t *testing.T) {
	store := blobmem.New()
	data, seal := make([]byte, headerBytes+1), make([]byte, headerBytes)
	for key, b := range map[string][]byte{
		series{testPrefix, 1, 7}.key(1):                   data,
		series{testPrefix, 1, 7}.key(2):                   data,
		series{testPrefix, 1, 7}.key(3):                   seal,
		series{testPrefix, 1, 8}.key(1):                   data,
		series{testPrefix, 12, 3}.key(5):                  seal,
		series{testPrefix + "0", 1, 7}.key(1):             data, // another cluster's
		testPrefix + "/1/7/readme":                        data,
		testPrefix + "/1/7/x/00000000000000000001":        data,
		testPrefix + "/one/7/00000000000000000001":        data,
		testPrefix + "/01/7/00000000000000000001":         data,
		testPrefix + "/9999999999/7/00000000000000000001": data,
	} {
		put(t, store, key, b)
	}
	got, err := Held(t.Context(), store, testPrefix)
	if diff := cmp.Diff(map[Epoch]int{{1, 7}: 2, {1, 8}: 1}, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	store.SetFault(func(blobmem.Call) blobmem.Fault { return blobmem.Fault{Before: blob.ErrUnknown} })
	if _, err := Held(t.Context(), store, testPrefix); !errors.Is(err, blob.ErrUnknown) {
		t.Error(err)
	}
}
