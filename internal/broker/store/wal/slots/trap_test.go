package slots

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/blob/blobmem"
	"github.com/looptape/looptape/internal/broker/store/wal"
)

// Trap 1. A writer was paused with puts under way. Another took its log over. The
// late puts succeed, since create-only says nothing against free numbers beyond the
// seal; none of their records may be acknowledged.
func TestTrap01ZombieIsNotAcknowledged(t *testing.T) {
	// Which of the five slots under way arrive before the seal, and in which order
	// the others arrive after it.
	for _, before := range [][]int{{}, {0}, {0, 1, 2}, {1, 3}, {4}, {0, 1, 2, 3, 4}} {
		t.Run(fmt.Sprint(before), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const slots = 5
				store := newLate(func(n int, key string) outcome {
					switch {
					case n >= slots || strings.HasSuffix(key, fmt.Sprintf("%020d", 99)):
						return outcome{}
					case slices.Contains(before, n):
						// It arrives, but the paused writer has not heard of it.
						return outcome{delay: time.Second, answer: time.Hour}
					default:
						return outcome{delay: time.Hour + time.Duration(slots-n)*time.Minute}
					}
				})
				cfg := testConfig(store)
				cfg.PutTimeout = 24 * time.Hour // the request hangs in a proxy
				l := start(t, cfg)
				for i := 1; i <= slots; i++ {
					l.add(text(i))
					time.Sleep(60 * time.Millisecond)
				}
				time.Sleep(time.Minute)
				// The takeover.
				end, err := Seal(t.Context(), store, testPrefix, 1, 7, 0, taker)
				if err != nil {
					t.Fatal(err)
				}
				got, _, err := readAll(store, 1, end)
				if err != nil {
					t.Fatal(err)
				}
				again, err := Seal(t.Context(), store, testPrefix, 1, 7, 0, Writer{Broker: 3})
				if err != nil || again != end {
					t.Fatalf("sealed again at %d, %v; first at %d", again, err, end)
				}
				if _, err := Sweep(t.Context(), store, testPrefix, 1, 7); err != nil {
					t.Fatal(err)
				}
				// The zombie wakes up.
				l.tryAdd("more")
				err = <-l.ended
				acked := len(l.acked)
				if acked > len(got) {
					t.Errorf("%d records acknowledged, %d recovered", acked, len(got))
				}
				if int(end) <= slots && !errors.Is(err, wal.ErrFenced) {
					t.Errorf("the writer ended with %v", err)
				}
				store.wg.Wait()
				if again, err := Seal(t.Context(), store, testPrefix, 1, 7, 0, Writer{Broker: 3}); err != nil || again > end {
					t.Errorf("after the zombie: sealed at %d, %v; first at %d", again, err, end)
				}
			})
		})
	}
}

// tryAdd appends if the log takes it.
func (r *running) tryAdd(data string) bool {
	_, err := r.Append(r.record(data))
	return err == nil
}

// Trap 1. Nothing deletes a seal: not the trim of an adopted epoch, not a sweep. A
// slot of a late writer beyond the seal goes, the seal stays.
func TestTrap01SealsAreForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newLate(slow(time.Millisecond))
		l := start(t, testConfig(store))
		for i := 1; i <= 4; i++ {
			l.add(text(i))
			time.Sleep(time.Second)
		}
		if err := l.end(); err != nil {
			t.Fatal(err)
		}
		end, err := Seal(t.Context(), store, testPrefix, 1, 7, 0, taker)
		if err != nil || end != 5 {
			t.Fatal(end, err)
		}
		_, r, err := readAll(store, 1, end)
		if err != nil {
			t.Fatal(err)
		}
		// A put of the dead writer arrives.
		of := series{testPrefix, 1, 7}
		late := slot{first: 5, recs: []*wal.Record{{}}, body: recordHeaderBytes, seq: 6}
		f := late.freeze(of, Writer{1, 7, testNonce})
		if err := store.Store.Put(t.Context(), of.key(6), &attempt{frozen: f}, f.bytes); err != nil {
			t.Fatal(err)
		}
		cfg := testConfig(store)
		cfg.Epoch, cfg.Adopted = 8, []*Recovered{r}
		l = start(t, cfg)
		for lsn := range wal.LSN(5) {
			if err := l.TrimEpoch(7, lsn); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		if _, err := Sweep(t.Context(), store, testPrefix, 1, 7); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{of.key(5)}, store.Keys()); diff != "" {
			t.Error(diff)
		}
		// The freed numbers below the seal are no way around it.
		if again, err := Seal(t.Context(), store, testPrefix, 1, 7, 4, Writer{Broker: 3}); err != nil || again != 5 {
			t.Errorf("sealed at %d, %v", again, err)
		}
		if err := l.end(); err != nil {
			t.Error(err)
		}
	})
}

// Trap 1 in a store whose Put may overwrite: puts that completed after the fence
// was taken are not acknowledged, and what was acknowledged before is recovered.
func TestTrap01WithoutConditionalPut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := overwriting{blobmem.New()}
		of := series{testPrefix, 1, 7}
		sealed := make(chan struct{})
		cfg := testConfig(store)
		cfg.Conditional = false
		asked := 0
		cfg.StillMine = func(context.Context) error {
			asked++
			if asked%2 == 0 {
				return errors.New("no answer") // asked again
			}
			select {
			case <-sealed:
				return fmt.Errorf("epoch 7: %w", wal.ErrFenced)
			default:
				return nil
			}
		}
		l := start(t, cfg)
		for i := 1; i <= 3; i++ {
			l.add(text(i))
			time.Sleep(time.Minute)
		}
		if l.fates(3) != 3 {
			t.Fatal("not acknowledged:", l.errs)
		}
		close(sealed) // the fence
		end, err := Seal(t.Context(), store, testPrefix, 1, 7, 0, taker)
		if err != nil || end != 4 || len(store.Keys()) != 3 { // nobody puts a seal that could overwrite data
			t.Fatal(end, err, store.Keys())
		}
		l.add("where the seal would be")
		if err := <-l.ended; !errors.Is(err, wal.ErrFenced) || len(l.acked) != 3 || len(l.lost) != 1 {
			t.Errorf("%v, acknowledged %v", err, l.acked)
		}
		if got, _, err := readAll(store, 1, end); err != nil || len(got) != 3 {
			t.Errorf("%q, %v", got, err)
		}
		if diff := cmp.Diff([]string{of.key(1), of.key(2), of.key(3), of.key(4)}, store.Keys()); diff != "" {
			t.Error(diff) // the last is the zombie's
		}
	})
}

// A store that is found out late: from then on the fence is asked, and without
// anyone to ask the log ends.
func TestTrap01ConditionsFoundMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig(overwriting{blobmem.New()})
		cfg.StillMine = func(context.Context) error { return wal.ErrFenced }
		l := start(t, cfg)
		l.add("x")
		if err := <-l.ended; !errors.Is(err, wal.ErrFenced) || l.fates(1) != 0 {
			t.Errorf("%v, acknowledged %v", err, l.acked)
		}
		cfg.Store, cfg.StillMine = overwriting{blobmem.New()}, nil
		l = start(t, cfg)
		l.add("x")
		if err := <-l.ended; err == nil || l.fates(1) != 0 {
			t.Errorf("%v, acknowledged %v", err, l.acked)
		}
	})
}

// overwriting is a store that does not know what create-only means.
type overwriting struct{ *blobmem.Store }

func (overwriting) Conditional() bool   { return false }
func (overwriting) SetConditional(bool) {}

func (s overwriting) Put(ctx context.Context, key string, body io.ReaderAt, size int64) error {
	if err := s.Delete(ctx, key); err != nil {
		return err
	}
	return s.Store.Put(ctx, key, body, size)
}

// Trap 5. Every way a put can end without saying how: the slot is put again with the
// same bytes, the 412 for one's own first attempt is a success, and every record is
// acknowledged once.
func TestTrap05AmbiguousPuts(t *testing.T) {
	const ms = time.Millisecond
	for name, first := range map[string][]outcome{
		"stored, answer lost":           {{answer: 5 * ms, delay: 1 * ms, err: blob.ErrUnknown}},
		"stored later than the timeout": {{delay: 30 * ms, answer: 5 * ms}},
		"stored during the third try":   {{delay: 200 * ms, answer: 5 * ms}, {lost: true}, {lost: true}},
		"never stored":                  {{lost: true}},
		"409":                           {{lost: true, err: fmt.Errorf("409 ConditionalRequestConflict: %w", blob.ErrUnknown)}},
		"503 ten times":                 slices.Repeat([]outcome{{lost: true, err: errors.New("503 SlowDown")}}, 10),
		"lost, stored, answer lost":     {{lost: true}, {delay: ms, err: blob.ErrUnknown}},
		"412 first":                     {{delay: ms, err: blob.ErrExists}},
		"hangs":                         {{delay: time.Hour}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				bodies := map[string][]string{}
				store := newLate(func(n int, key string) outcome {
					if n < len(first) {
						return first[n]
					}
					return outcome{delay: ms}
				})
				cfg := testConfig(&bodyNotes{store, bodies})
				l := start(t, cfg)
				for i := 1; i <= 6; i++ {
					l.add(text(i))
					time.Sleep(3 * ms)
				}
				time.Sleep(2 * time.Minute)
				if n := l.fates(6); n != 6 {
					t.Errorf("%d of 6 acknowledged: %v", n, l.errs)
				}
				if err := l.end(); err != nil {
					t.Error(err)
				}
				for key, sent := range bodies {
					if len(slices.Compact(sent)) != 1 {
						t.Errorf("%s was put with different bytes", key)
					}
				}
				time.Sleep(2 * time.Hour) // what hangs arrives
				store.wg.Wait()
				var want []string
				for i := 1; i <= 6; i++ {
					want = append(want, text(i))
				}
				if diff := cmp.Diff(want, recoverAll(t, store)); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// Trap 5. A 412 for a slot that is somebody else's, whoever that is, ends the log;
// a nonce, a length or a checksum that is not ours makes it somebody else's.
func TestTrap05ForeignSlots(t *testing.T) {
	of := series{testPrefix, 1, 7}
	ours := func() *slot {
		s := &slot{first: 1, seq: 1}
		s.add(&wal.Record{Data: [2][]byte{[]byte("ours")}})
		return s
	}
	bytesOf := func(s *slot, by Writer) []byte {
		f := s.freeze(of, by)
		b := make([]byte, f.bytes)
		(&attempt{frozen: f}).ReadAt(b, 0)
		return b
	}
	seal := make([]byte, headerBytes)
	(&header{kind: kindSeal, writer: taker}).put(seal, of, 1)
	other := ours()
	other.recs[0].Data[0] = []byte("mine")
	longer := ours()
	longer.add(&wal.Record{})
	own := bytesOf(ours(), Writer{1, 7, testNonce})
	for name, there := range map[string][]byte{
		"a seal":                  seal,
		"another nonce":           bytesOf(ours(), Writer{1, 7, [16]byte{1}}),
		"other content":           bytesOf(other, Writer{1, 7, testNonce}),
		"more records":            bytesOf(longer, Writer{1, 7, testNonce}),
		"our header, cut off":     own[:len(own)-1],
		"our header, more behind": append(slices.Clone(own), 0),
		"nothing of this format":  []byte(strings.Repeat("x", 500)),
		"less than a header":      []byte("x"),
		"nothing at all":          {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := blobmem.New()
				l, err := Open(t.Context(), testConfig(store))
				if err != nil {
					t.Fatal(err)
				}
				if err := store.Put(t.Context(), of.key(1), strings.NewReader(string(there)), int64(len(there))); err != nil {
					t.Fatal(err)
				}
				r := &running{Log: l, t: t}
				r.add("ours")
				err = l.Run(t.Context())
				if !errors.Is(err, wal.ErrFenced) || r.fates(1) != 0 || !errors.Is(r.errs[0], wal.ErrFenced) || !errors.Is(r.errs[0], wal.ErrFailed) {
					t.Errorf("Run: %v, record: %v", err, r.errs)
				}
				if _, err := l.Append(&wal.Record{}); !errors.Is(err, wal.ErrFenced) {
					t.Errorf("append after it: %v", err)
				}
				if err := l.Reserve(t.Context(), 1); !errors.Is(err, wal.ErrFenced) {
					t.Errorf("reserve after it: %v", err)
				}
			})
		})
	}
	t.Run("our own", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			store := blobmem.New()
			l := start(t, testConfig(store))
			if err := store.Put(t.Context(), of.key(1), strings.NewReader(string(own)), int64(len(own))); err != nil {
				t.Fatal(err)
			}
			// The record's data is in one piece in "own", in two here: the bytes are the same.
			l.add("ours")
			synctest.Wait()
			if l.fates(1) != 1 {
				t.Error(l.errs)
			}
			if err := l.end(); err != nil {
				t.Error(err)
			}
		})
	})
}

// Trap 3 in this log: a slot that can't be stored takes everything after it along,
// also what is stored already.
func TestNothingAfterALostSlotIsAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newLate(func(n int, _ string) outcome {
			if n == 1 {
				return outcome{delay: time.Second, lost: true, err: blob.ErrBadKey} // final
			}
			return outcome{delay: 300 * time.Millisecond}
		})
		l := start(t, testConfig(store))
		for i := 1; i <= 8; i++ {
			l.add(text(i))
			time.Sleep(60 * time.Millisecond)
		}
		err := <-l.ended
		if n := l.fates(8); n != 1 || !errors.Is(err, blob.ErrBadKey) {
			t.Errorf("%d acknowledged, %v", n, err)
		}
	})
}
