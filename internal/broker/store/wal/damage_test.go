package wal

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/looptape/looptape/internal/base/disk/diskmem"
)

// cutOff returns a file system with a log of one epoch that was cut off after
// records of the given sizes, and the records.
func cutOff(t *testing.T, sizes ...int) (*diskmem.FS, []string) {
	t.Helper()
	fs := diskmem.New(512)
	l := start(t, fs, 1, small, nil)
	var records []string
	for i, n := range sizes {
		records = append(records, text(i, n))
		if _, err := l.put(records[i]); err != nil {
			t.Fatal(err)
		}
	}
	left := fs.Crash(nil)
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
	return left, records
}

func segmentNames(t *testing.T, fs *diskmem.FS) []string {
	t.Helper()
	entries, err := fs.ReadDir(testDir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name, ".wal") {
			names = append(names, filepath.Join(testDir, e.Name))
		}
	}
	return names
}

// exactOrRefused checks a recovery from damaged bytes: all records, or all but
// those of the last block (which can't be told from a torn one), or a typed error
// with a place.
func exactOrRefused(fs *diskmem.FS, records []string) (refused bool, err error) {
	got, err := recoverAll(fs)
	var c *CorruptError
	if errors.As(err, &c) {
		if c.File == "" || c.Offset < 0 || c.What == "" || c.Want == "" || c.Got == "" {
			return true, fmt.Errorf("error without a place: %v", err)
		}
		return true, nil
	}
	if err != nil {
		return true, fmt.Errorf("error of another kind: %v", err)
	}
	have := got.records[1]
	if n := len(have); n < len(records)-1 || !slices.Equal(have, records[:n]) {
		return false, fmt.Errorf("%d of %d records", len(have), len(records))
	}
	return false, nil
}

func TestFlippedBits(t *testing.T) {
	fs, records := cutOff(t, 100, 4500, 900, 4500, 10)
	names := segmentNames(t, fs)
	if len(names) < 2 {
		t.Fatalf("segments %v", names)
	}
	refused := 0
	for _, name := range names {
		original := fs.Bytes(name)
		for i := range original {
			if block := i &^ (minAlign - 1); i%61 != 0 && len(bytes.Trim(original[i:block+minAlign], "\x00")) == 0 {
				continue // padding: some of it is enough
			}
			damaged := bytes.Clone(original)
			damaged[i] ^= 1 << (i % 8)
			fs.SetBytes(name, damaged)
			r, err := exactOrRefused(fs, records)
			if err != nil {
				t.Fatalf("byte %d of %s: %v", i, name, err)
			}
			if r {
				refused++
			}
		}
		fs.SetBytes(name, original)
	}
	if refused < 6000 { // the acknowledged blocks before the last one
		t.Errorf("only %d flips were refused", refused)
	}
}

func TestTruncated(t *testing.T) {
	fs, records := cutOff(t, 100, 4500, 900, 4500, 10)
	for _, name := range segmentNames(t, fs) {
		original := fs.Bytes(name)
		for n := 0; n < len(original); n++ {
			if n%minAlign > 200 && n%61 != 0 {
				continue
			}
			fs.SetBytes(name, original[:n])
			if _, err := exactOrRefused(fs, records); err != nil {
				t.Fatalf("%s cut to %d bytes: %v", name, n, err)
			}
		}
		fs.SetBytes(name, original)
	}
}

// Once the next epoch has opened, the end of the last one is fixed: neither losing
// its last block nor getting more of it back changes what is recovered.
func TestEndIsForEver(t *testing.T) {
	t.Run("last block lost", func(t *testing.T) {
		fs, records := cutOff(t, 100, 2000, 300)
		r, err := recoverAll(fs)
		if err != nil {
			t.Fatal(err)
		}
		l := start(t, fs, 2, small, r.Recovered)
		left := fs.Crash(nil)
		if err := l.end(); err != nil {
			t.Fatal(err)
		}
		name := segmentNames(t, left)[0]
		b := left.Bytes(name)
		clear(b[3*minAlign:]) // adopt, 1, 2, then 3: as if its sync had lied
		left.SetBytes(name, b)
		got, err := recoverAll(left)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got.records[1], records) {
			t.Errorf("got %d records", len(got.records[1]))
		}
		clear(b[2*minAlign:]) // one more: that was vouched for
		left.SetBytes(name, b)
		var c *CorruptError
		if _, err := recoverAll(left); !errors.As(err, &c) || c.File != name || c.Offset != 2*minAlign {
			t.Errorf("got %v", err)
		}
	})
	t.Run("torn block heals", func(t *testing.T) {
		fs, records := cutOff(t, 100, 2000, 300)
		name := segmentNames(t, fs)[0]
		whole := fs.Bytes(name)
		torn := bytes.Clone(whole)
		torn[3*minAlign+100] ^= 1
		fs.SetBytes(name, torn)
		r, err := recoverAll(fs)
		if err != nil || len(r.records[1]) != 2 {
			t.Fatalf("%d records, %v", len(r.records[1]), err)
		}
		l := start(t, fs, 2, small, r.Recovered)
		if err := l.end(); err != nil {
			t.Fatal(err)
		}
		fs.SetBytes(name, whole)
		got, err := recoverAll(fs)
		if err != nil || !slices.Equal(got.records[1], records[:2]) {
			t.Errorf("%d records, %v", len(got.records[1]), err)
		}
	})
}

// A segment that vanished from the middle is refused.
func TestMissingSegment(t *testing.T) {
	fs, _ := cutOff(t, 5000, 5000, 5000, 5000, 5000, 5000)
	names := segmentNames(t, fs)
	if len(names) < 4 {
		t.Fatalf("segments %v", names)
	}
	if err := fs.Remove(names[1]); err != nil {
		t.Fatal(err)
	}
	var c *CorruptError
	if _, err := recoverAll(fs); !errors.As(err, &c) || c.File != names[2] {
		t.Errorf("got %v", err)
	}
}

// A recycled segment is full of valid blocks of its earlier life; none is data.
func TestRecycledSegmentsDoNotLie(t *testing.T) {
	fs := diskmem.New(512)
	l := start(t, fs, 1, small, nil)
	var records []string
	trimmed := LSN(0)
	for i := range 40 {
		records = append(records, text(i, 3000))
		lsn, err := l.put(records[i])
		if err != nil {
			t.Fatal(err)
		}
		if lsn > 4 {
			trimmed = lsn - 4
			if err := l.Trim(trimmed); err != nil {
				t.Fatal(err)
			}
		}
	}
	left := fs.Crash(nil)
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
	got, err := recoverAll(left)
	if err != nil {
		t.Fatal(err)
	}
	e := got.Epochs[0]
	if e.First > trimmed+1 || e.Last != 40 || !slices.Equal(got.records[1], records[e.First-1:]) {
		t.Errorf("%d to %d, trimmed %d", e.First, e.Last, trimmed)
	}
	if n := len(segmentNames(t, left)); n > 12 {
		t.Errorf("%d files for 40 blocks", n)
	}
}

// A mark bounds the search for what vouches for a bad block; it never hides any of
// it. After every commit of a long segment the block before the last is damaged,
// and then the last one, too: a mark that came with it vouches for the one before.
func TestTrap04MarksHideNoDamage(t *testing.T) {
	fs := diskmem.New(512)
	l := start(t, fs, 1, Config{SegmentBytes: 64 * minAlign, MaxBatch: 5000, MaxRecord: 60_000}, nil)
	type block struct {
		name string
		at   int64
	}
	var blocks []block
	both := 0
	for i := range 60 {
		n := 100 + i*137%4000
		if i%13 == 12 {
			n = 50_000 // beyond any limit that a usual block leaves
		}
		if _, err := l.put(text(i, n)); err != nil {
			t.Fatal(err)
		}
		l.mu.Lock()
		w := l.written[len(l.written)-1]
		marked := l.current.marked == w.at+w.bytes // with this block
		l.mu.Unlock()
		blocks = append(blocks, block{fmt.Sprintf("%s/"+segmentForm, testDir, 1, w.seq), w.at})
		if i == 0 {
			continue
		}
		damage := func(fs *diskmem.FS, x block) {
			b := fs.Bytes(x.name)
			b[x.at+headerBytes+3] ^= 1
			fs.SetBytes(x.name, b)
		}
		left, bad := fs.Crash(nil), blocks[i-1]
		damage(left, bad)
		var c *CorruptError
		if _, err := recoverAll(left); !errors.As(err, &c) || c.File != bad.name || c.Offset != bad.at {
			t.Fatalf("record %d damaged, %d is there: %v", i, i+1, err)
		}
		damage(left, blocks[i])
		if !marked || bad.name != blocks[i].name {
			continue
		}
		if _, err := recoverAll(left); !errors.As(err, &c) || c.Offset != bad.at {
			t.Fatalf("records %d and %d damaged, the mark vouches for the first: %v", i, i+1, err)
		}
		both++
	}
	if both == 0 {
		t.Error("no mark vouched for a block")
	}
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
}
