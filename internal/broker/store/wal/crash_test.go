package wal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/base/disk/diskmem"
)

// history is what a session did and was told.
type history struct {
	attempted map[int64][]string // by epoch, by LSN-1
	acked     map[int64]LSN
	trimmed   map[int64]LSN
}

func (h *history) put(l *running, epoch int64, n int) error {
	data := fmt.Sprintf("epoch %d ", epoch) + text(len(h.attempted[epoch])+1, n)
	h.attempted[epoch] = append(h.attempted[epoch], data)
	lsn, err := l.put(data)
	if err == nil {
		h.acked[epoch] = lsn
	}
	return err
}

// session is the script: two epochs, several segments, trims of both.
func session(fs *diskmem.FS) (*history, error) {
	h := &history{map[int64][]string{}, map[int64]LSN{}, map[int64]LSN{}}
	first, err := startErr(fs, 1, small, nil)
	if err != nil {
		return h, err
	}
	for i := range 6 {
		if err := h.put(first, 1, 1000+i*1200); err != nil {
			return h, errors.Join(err, first.end())
		}
		if i == 3 {
			h.trimmed[1] = 2
			if err := first.Trim(2); err != nil {
				return h, err
			}
		}
	}
	if err := first.end(); err != nil {
		return h, err
	}
	r, err := recoverAll(fs)
	if err != nil {
		return h, err
	}
	second, err := startErr(fs, 2, small, r.Recovered)
	if err != nil {
		return h, err
	}
	for i := range 8 {
		if err := h.put(second, 2, 500+i*1000); err != nil {
			return h, errors.Join(err, second.end())
		}
		switch i {
		case 1:
			h.trimmed[1] = 6
			err = second.TrimEpoch(1, 6)
		case 5:
			h.trimmed[2] = 3
			err = second.Trim(3)
		}
		if err != nil {
			return h, err
		}
	}
	return h, second.end()
}

// check holds what was recovered against the history.
func (h *history) check(got recovered) error {
	ends := map[int64]EpochEnd{}
	for _, e := range got.Epochs {
		ends[e.Epoch] = e
	}
	for epoch, attempted := range h.attempted {
		e, ok := ends[epoch]
		if !ok {
			e.First = h.trimmed[epoch] + 1
			e.Last = e.First - 1
		}
		if e.First > h.trimmed[epoch]+1 && h.acked[epoch] > h.trimmed[epoch] {
			return fmt.Errorf("epoch %d begins at %d, trimmed up to %d", epoch, e.First, h.trimmed[epoch])
		}
		if e.Last < h.acked[epoch] {
			return fmt.Errorf("epoch %d ends at %d, acknowledged up to %d", epoch, e.Last, h.acked[epoch])
		}
		for i, data := range got.records[epoch] {
			if want := attempted[int(e.First)-1+i]; data != want {
				return fmt.Errorf("epoch %d record %d is %.30q, want %.30q", epoch, int(e.First)+i, data, want)
			}
		}
	}
	return nil
}

// A crash at every call of the disk, with several outcomes for what was not
// synced: nothing acknowledged is lost, nothing is invented, and what the next
// epoch found is what every later one finds.
func TestCrashAtEveryCall(t *testing.T) {
	clean := diskmem.New(512)
	if _, err := session(clean); err != nil {
		t.Fatal(err)
	}
	for k := 1; k <= clean.Calls()+3; k++ {
		fs := diskmem.New(512)
		fs.StopAt(k)
		h, err := session(fs)
		if err != nil && !errors.Is(err, diskmem.ErrStopped) && !errors.Is(err, ErrClosed) {
			t.Fatalf("k=%d: %v", k, err)
		}
		for seed := range uint64(4) {
			if err := afterCrash(fs, h, k, seed); err != nil {
				t.Fatalf("k=%d seed=%d: %v", k, seed, err)
			}
		}
	}
}

func afterCrash(fs *diskmem.FS, h *history, k int, seed uint64) error {
	r := rand.New(rand.NewPCG(uint64(k), seed))
	left := fs.Crash(r)
	if seed == 0 {
		left = fs.Crash(nil)
	}
	before, err := recoverAll(left)
	if err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	if err := h.check(before); err != nil {
		return err
	}
	// Start a new epoch, crash it at some call, and look again.
	left.StopAt(1 + r.IntN(30))
	l, err := startErr(left, 10, small, before.Recovered)
	served := err == nil
	acked := LSN(0)
	if err == nil {
		for i := range 4 {
			lsn, err := l.put(text(i, 3000))
			if err != nil {
				break
			}
			acked = lsn
		}
		_ = l.end() // it failed, or is about to be cut off
	} else if !errors.Is(err, diskmem.ErrStopped) {
		return fmt.Errorf("open: %w", err)
	}
	after, err := recoverAll(left.Crash(r))
	if err != nil {
		return fmt.Errorf("recover again: %w", err)
	}
	if err := h.check(after); err != nil {
		return fmt.Errorf("again: %w", err)
	}
	if !served {
		return nil
	}
	for epoch, records := range before.records {
		if d := cmp.Diff(records, after.records[epoch]); d != "" {
			return fmt.Errorf("epoch %d changed after it was served:\n%s", epoch, d)
		}
	}
	if n := len(after.records[10]); LSN(n) < acked {
		return fmt.Errorf("new epoch has %d records, acknowledged %d", n, acked)
	}
	return nil
}

// Recovery reads stretch by stretch; where they begin and end makes no difference.
func TestSmallWindows(t *testing.T) {
	fs, records := cutOff(t, 100, 5900, 10, 4500, 3000, 5000, 1, 5900, 5900, 700)
	before := windowBytes
	defer func() { windowBytes = before }()
	for _, windowBytes = range []int{minAlign, 2 * minAlign, 3 * minAlign, 5 * minAlign} {
		got, err := recoverAll(fs)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(records, got.records[1]); d != "" {
			t.Fatalf("windows of %d bytes: %s", windowBytes, d)
		}
		for k := 1; k <= 60; k += 3 {
			fs := diskmem.New(512)
			fs.StopAt(k)
			h, _ := session(fs)
			if err := afterCrash(fs, h, k, 1); err != nil {
				t.Fatalf("windows of %d bytes, k=%d: %v", windowBytes, k, err)
			}
		}
	}
}
