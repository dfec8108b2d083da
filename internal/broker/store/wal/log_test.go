package wal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/base/disk"
	"github.com/looptape/looptape/internal/base/disk/diskmem"
)

// text is the record number i of n bytes.
func text(i, n int) string {
	s := fmt.Sprintf("record %d ", i)
	return s + strings.Repeat("x", max(0, n-len(s)))
}

func TestRoundTrip(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fs    func(t *testing.T) disk.FS
		align int
	}{
		{"memory, direct", func(*testing.T) disk.FS { return diskmem.New(512) }, 4096},
		{"memory, buffered", func(*testing.T) disk.FS { return diskmem.New(0) }, 4096},
		{"memory, direct 8192", func(*testing.T) disk.FS { return diskmem.New(8192) }, 8192},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fs := tc.fs(t)
			cfg := small
			cfg.SegmentBytes = 8 * int64(tc.align)
			want := map[int64][]string{}
			rec := &Recovered{}
			for epoch := int64(1); epoch <= 3; epoch++ {
				l := start(t, fs, epoch, cfg, rec)
				for i := range 20 {
					data := text(i, i*450)
					want[epoch] = append(want[epoch], data)
					lsn, err := l.put(data)
					if err != nil || lsn != LSN(i+1) || l.Durable() != lsn {
						t.Fatalf("put %d = %d, %v, durable %d", i, lsn, err, l.Durable())
					}
				}
				if err := l.end(); err != nil {
					t.Fatal(err)
				}
				if _, err := l.put("late"); !errors.Is(err, ErrClosed) {
					t.Fatalf("put after the end: %v", err)
				}
				got, err := recoverAll(fs)
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(want, got.records); d != "" {
					t.Fatalf("epoch %d (-want +got):\n%s", epoch, d)
				}
				for _, e := range got.Epochs {
					if e.First != 1 || e.Last != 20 || !e.Clean {
						t.Fatalf("end %+v", e)
					}
				}
				rec = got.Recovered
			}
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	fs := diskmem.New(512)
	l := start(t, fs, 5, small, nil)
	if _, err := Open(context.Background(), fs, testDir, Identity{testID, 6}, small, nil); !errors.Is(err, disk.ErrLocked) {
		t.Errorf("second open: %v", err)
	}
	if _, err := Recover(context.Background(), fs, testDir, testID, nil); !errors.Is(err, disk.ErrLocked) {
		t.Errorf("recover while open: %v", err)
	}
	if _, err := l.put("a"); err != nil {
		t.Fatal(err)
	}
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(context.Background(), fs, testDir, Identity{testID, 6}, small, nil); err == nil {
		t.Error("open without recovery of what is there: no error")
	}
	r, err := recoverAll(fs)
	if err != nil {
		t.Fatal(err)
	}
	for _, epoch := range []int64{0, -1, 4, 5} {
		if _, err := Open(context.Background(), fs, testDir, Identity{testID, epoch}, small, r.Recovered); !errors.Is(err, ErrEpoch) {
			t.Errorf("epoch %d: %v", epoch, err)
		}
	}
	// Another log's blocks are no data of this one.
	other, err := Recover(context.Background(), fs, testDir, [16]byte{1}, func(int64, LSN, []byte) error { return errors.New("a record") })
	if err != nil || len(other.Epochs) != 0 {
		t.Errorf("recovery of another log: %+v, %v", other, err)
	}
}

// The order of Append calls is the order of LSNs, of Done calls and of recovery,
// whoever appends.
func TestGroupCommit(t *testing.T) {
	fs := diskmem.New(512)
	cfg := Config{SegmentBytes: 64 << 10, MaxBatch: 8 << 10, MaxUncommitted: 1 << 30}
	l := start(t, fs, 1, cfg, nil)
	const writers, each = 8, 200
	var c collector
	var order sync.Mutex
	var want []string
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				data := text(w*each+i, 20+(i*37)%3000)
				if i%50 == 0 {
					data = text(w*each+i, 20_000) // larger than a block
				}
				if err := l.Reserve(context.Background(), len(data)); err != nil {
					t.Error(err)
					return
				}
				order.Lock()
				_, err := l.Append(&Record{Data: [2][]byte{nil, []byte(data)}, Reserved: len(data), Done: c.done})
				want = append(want, data)
				order.Unlock()
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
	if len(c.lsns) != writers*each {
		t.Fatalf("%d answers", len(c.lsns))
	}
	for i, lsn := range c.lsns {
		if lsn != LSN(i+1) || c.errs[i] != nil {
			t.Fatalf("answer %d is %d, %v", i, lsn, c.errs[i])
		}
	}
	got, err := recoverAll(fs)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got.records[1]); d != "" {
		t.Fatal(d)
	}
	s := l.Stats()
	if s.Records != writers*each || s.QueuedBytes != 0 || s.Commits >= s.Records {
		t.Errorf("stats %+v", s)
	}
}

// Trap 3 and 4: a failed write or sync fails everything from there on, in order,
// and for ever.
func TestFailureIsFinal(t *testing.T) {
	boom := errors.New("boom")
	for k := 1; k <= 2; k++ { // the write, the sync
		fs := diskmem.New(512)
		l, err := Open(context.Background(), fs, testDir, Identity{testID, 1}, small, nil)
		if err != nil {
			t.Fatal(err)
		}
		var c collector
		for i := range 3 { // the third does not fit with the others
			if _, err := l.Append(&Record{Data: [2][]byte{[]byte(text(i, 2500))}, Done: c.done}); err != nil {
				t.Fatal(err)
			}
		}
		fs.FailAt(k, boom)
		// Only the writer: the segment goroutine writes, too.
		werr := l.write(context.Background())
		if !errors.Is(werr, boom) {
			t.Fatalf("k=%d: writer ended with %v", k, werr)
		}
		if d := cmp.Diff([]LSN{1, 2, 3}, c.lsns); d != "" {
			t.Fatal(d)
		}
		for _, err := range c.errs {
			if !errors.Is(err, boom) || !errors.Is(err, ErrFailed) {
				t.Errorf("k=%d: answer %v", k, err)
			}
		}
		if _, err := l.Append(&Record{}); !errors.Is(err, ErrFailed) {
			t.Errorf("append after failure: %v", err)
		}
		if err := l.Reserve(context.Background(), 1); !errors.Is(err, ErrFailed) {
			t.Errorf("reserve after failure: %v", err)
		}
	}
}

func TestTooLarge(t *testing.T) {
	l := start(t, diskmem.New(512), 1, small, nil)
	if _, err := l.put(strings.Repeat("x", l.Largest()+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v", err)
	}
	for range 5 {
		if _, err := l.put(strings.Repeat("x", l.Largest())); err != nil {
			t.Error(err)
		}
	}
	if err := l.end(); err != nil {
		t.Error(err)
	}
}
