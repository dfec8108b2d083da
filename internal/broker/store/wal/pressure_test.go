package wal

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/base/disk"
	"github.com/looptape/looptape/internal/base/disk/diskmem"
)

// Reserve waits above MaxUncommitted until a trim, with nothing polling.
func TestReserveWaitsForTrim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := small
		cfg.MaxUncommitted = 4 * minAlign
		l := start(t, diskmem.New(512), 1, cfg, nil)
		for range 4 {
			if _, err := l.put("one block each"); err != nil {
				t.Fatal(err)
			}
		}
		var passed atomic.Bool
		go func() {
			if err := l.Reserve(t.Context(), 100); err != nil {
				t.Error(err)
			}
			passed.Store(true)
		}()
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error, 1)
		synctest.Wait()
		go func() { gone <- l.Reserve(ctx, 100) }()
		synctest.Wait()
		if passed.Load() {
			t.Error("passed above the bound")
		}
		cancel()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled Reserve: %v", err)
		}
		if err := l.Trim(5); err == nil {
			t.Error("trim above durable: no error")
		}
		if err := l.Trim(1); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if !passed.Load() {
			t.Error("still waits after the trim")
		}
		if s := l.Stats(); s.ReserveWaits != 2 || s.UncommittedBytes != 3*minAlign {
			t.Errorf("stats %+v", s)
		}
		if err := l.end(); err != nil {
			t.Error(err)
		}
		if err := l.Reserve(t.Context(), 1); !errors.Is(err, ErrClosed) {
			t.Errorf("reserve after the end: %v", err)
		}
	})
}

// What Reserve sets aside counts until it is used or returned, so that callers who
// pass together never pass the bound; and they pass in the order of their calls.
func TestReserveSetsAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := small
		cfg.MaxUncommitted = 5000
		l := start(t, diskmem.New(512), 1, cfg, nil)
		passed := make(chan int, 10)
		reserve := func(n int) {
			go func() {
				if err := l.Reserve(context.Background(), n); err != nil {
					t.Error(err)
				}
				passed <- n
			}()
			synctest.Wait()
		}
		expect := func(what string, want ...int) {
			t.Helper()
			synctest.Wait()
			var got []int
			for len(passed) > 0 {
				got = append(got, <-passed)
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("%s: %v passed, want %v", what, got, want)
			}
		}
		reserve(3000)
		reserve(2000)
		expect("both fit", 2000, 3000)
		reserve(6000) // more than ever fits: alone
		reserve(1)
		expect("full")
		l.Return(3000)
		expect("the large one is first")
		if _, err := l.Append(&Record{Data: [2][]byte{[]byte("x")}, Reserved: 2000}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		expect("a record is held")
		if err := l.Trim(1); err != nil {
			t.Fatal(err)
		}
		expect("empty", 6000)
		l.Return(6000)
		expect("the next", 1)
		go func() {
			if err := l.Reserve(context.Background(), 9000); !errors.Is(err, ErrClosed) {
				t.Errorf("reserve at the end: %v", err)
			}
		}()
		synctest.Wait()
		if err := l.end(); err != nil {
			t.Error(err)
		}
	})
}

// What dead epochs left counts, too, until it is trimmed, and their files go then.
func TestAdoptedEpochsCount(t *testing.T) {
	fs := diskmem.New(512)
	l := start(t, fs, 1, small, nil)
	for i := range 6 {
		if _, err := l.put(text(i, 3000)); err != nil {
			t.Fatal(err)
		}
	}
	left := fs.Crash(nil)
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
	r, err := recoverAll(left)
	if err != nil {
		t.Fatal(err)
	}
	l2, err := Open(context.Background(), left, testDir, Identity{testID, 2}, small, r.Recovered)
	if err != nil {
		t.Fatal(err)
	}
	if s := l2.Stats(); s.UncommittedBytes != r.Epochs[0].Bytes {
		t.Errorf("uncommitted %d, want %d", s.UncommittedBytes, r.Epochs[0].Bytes)
	}
	if err := l2.TrimEpoch(9, 1); !errors.Is(err, ErrEpoch) {
		t.Errorf("trim of an unknown epoch: %v", err)
	}
	if err := l2.TrimEpoch(1, 6); err != nil {
		t.Fatal(err)
	}
	if s := l2.Stats(); s.UncommittedBytes != 0 {
		t.Errorf("uncommitted %d after the trim", s.UncommittedBytes)
	}
	if err := l2.release(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := l2.Close(); err != nil {
		t.Fatal(err)
	}
	r, err = recoverAll(left)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]EpochEnd{{Epoch: 2, First: 1, Last: 0, Bytes: minAlign}}, r.Epochs); d != "" {
		t.Error(d)
	}
}

// A full disk ends the log only when the writer needs the segment, and a trim in
// time saves it.
func TestFullDisk(t *testing.T) {
	full := errors.New("no space left")
	fs := &fullDisk{FS: diskmem.New(512)}
	l := start(t, fs, 1, small, nil)
	if _, err := l.put(text(0, 3000)); err != nil {
		t.Fatal(err)
	}
	fs.err.Store(&full)
	var err error
	for i := 1; i < 20 && err == nil; i++ {
		_, err = l.put(text(i, 3000))
	}
	if !errors.Is(err, full) || !errors.Is(err, ErrFailed) {
		t.Errorf("put on a full disk: %v", err)
	}
	if err := l.end(); !errors.Is(err, full) {
		t.Errorf("run ended with %v", err)
	}
	got, err := recoverAll(fs.FS)
	if err != nil || len(got.records[1]) < 3 {
		t.Errorf("%d records, %v", len(got.records[1]), err)
	}
}

// fullDisk refuses to create files.
type fullDisk struct {
	*diskmem.FS
	err atomic.Pointer[error]
}

func (f *fullDisk) OpenFile(name string, mode disk.Mode) (disk.File, error) {
	if p := f.err.Load(); p != nil && mode.Create {
		return nil, *p
	}
	return f.FS.OpenFile(name, mode)
}

// The same on the operating system's file system, with direct I/O if it has it.
func TestRealDisk(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{SegmentBytes: 256 << 10, MaxBatch: 32 << 10}
	ctx := context.Background()
	var want []string
	rec := &Recovered{}
	for epoch := int64(1); epoch <= 2; epoch++ {
		l, err := Open(ctx, disk.OS{}, dir, Identity{testID, epoch}, cfg, rec)
		if err != nil {
			t.Fatal(err)
		}
		runCtx, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- l.Run(runCtx) }()
		r := running{l, stop, ended}
		for i := range 10 {
			want = append(want, text(i, 1+i*9000))
			if _, err := r.put(want[len(want)-1]); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.end(); err != nil {
			t.Fatal(err)
		}
		var got []string
		rec, err = Recover(ctx, disk.OS{}, dir, testID, func(_ int64, _ LSN, data []byte) error {
			got = append(got, string(data))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("epoch %d: %d records, want %d", epoch, len(got), len(want))
		}
	}
}
