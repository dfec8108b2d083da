package slots

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/base/blob/blobmem"
	"github.com/looptape/looptape/internal/broker/store/wal"
)

var update = flag.Bool("update", false, "write the golden files anew")

// sample is slot 3 of epoch 7 of broker 1: LSN 5 and 6, the second empty.
func sample() []byte {
	s := &slot{first: 5, seq: 3, trimmed: 4}
	s.add(&wal.Record{Data: [2][]byte{[]byte("fi"), []byte("ve")}})
	s.add(&wal.Record{})
	return flatten(s.freeze(series{testPrefix, 1, 7}, Writer{1, 7, testNonce}))
}

func flatten(f *frozen) []byte { return bytes.Join(f.pieces, nil) }

func sampleSeal() []byte {
	b := make([]byte, headerBytes)
	(&header{kind: kindSeal, writer: taker}).put(b, series{testPrefix, 1, 7}, 4)
	return b
}

// The bytes of version 1 never change.
func TestGolden(t *testing.T) {
	for name, b := range map[string][]byte{"data": sample(), "seal": sampleSeal()} {
		file := filepath.Join("testdata", "golden", "v1-"+name+".hex")
		got := hex.Dump(b)
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s: %s", file, diff)
		}
	}
	of := series{testPrefix, 1, 7}
	h, err := parseData(sample(), of, 3)
	if want := (header{kindData, Writer{1, 7, testNonce}, 5, 6, 4, 28, h.bodyCRC}); err != nil || h != want {
		t.Errorf("%+v, %v, want %+v", h, err, want)
	}
	var got []string
	if err := eachRecord(sample()[headerBytes:], 5, 6, func(_ wal.LSN, b []byte) error { got = append(got, string(b)); return nil }); err != nil || cmp.Diff([]string{"five", ""}, got) != "" {
		t.Errorf("%q, %v", got, err)
	}
	h, err = parseHeader(sampleSeal(), headerBytes, of, 4)
	if want := (header{kind: kindSeal, writer: taker}); err != nil || h != want {
		t.Errorf("%+v, %v, want %+v", h, err, want)
	}
}

// A slot is the same bytes however its records lie in memory, and ReadAt gives them
// from every place in every length.
func TestFrozenReadAt(t *testing.T) {
	s := &slot{first: 1, seq: 1}
	for _, n := range []int{0, 1, copyBelow - 1, copyBelow, 3 * copyBelow, 5, copyBelow + 1} {
		data := bytes.Repeat([]byte{byte(n)}, n)
		s.add(&wal.Record{Data: [2][]byte{data[:n/3], data[n/3:]}})
		s.add(&wal.Record{Data: [2][]byte{nil, data}})
	}
	f := s.freeze(series{testPrefix, 1, 7}, Writer{1, 7, testNonce})
	whole := flatten(f)
	if int64(len(whole)) != f.bytes || f.bytes != s.bytes() || len(f.pieces) < 5 {
		t.Fatalf("%d bytes in %d pieces, the slot says %d and %d", len(whole), len(f.pieces), f.bytes, s.bytes())
	}
	if _, err := parseData(whole, series{testPrefix, 1, 7}, 1); err != nil {
		t.Fatal(err)
	}
	for off := int64(0); off <= f.bytes+1; off += 61 {
		for _, n := range []int{0, 1, 500, 40000} {
			p := make([]byte, n)
			got, err := f.readAt(p, off)
			want := min(n, len(whole)-int(min(off, f.bytes)))
			if got != want || !bytes.Equal(p[:got], whole[min(off, f.bytes):][:got]) || (err != nil) != (got < n || off >= f.bytes) {
				t.Fatalf("%d bytes at %d: %d, %v", n, off, got, err)
			}
		}
	}
}

// A transport that goes on reading after Put returned gets nothing.
func TestAttemptEnds(t *testing.T) {
	s := &slot{first: 1, seq: 1}
	s.add(&wal.Record{Data: [2][]byte{[]byte("x")}})
	of := series{testPrefix, 1, 7}
	a, err := s.begin(of, Writer{})
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 10)
	if n, err := a.ReadAt(p, 0); n != 10 || err != nil {
		t.Error(n, err)
	}
	a.end()
	if n, err := a.ReadAt(p, 0); n != 0 || !errors.Is(err, errOver) {
		t.Error(n, err)
	}
	a, err = s.begin(of, Writer{})
	if err != nil {
		t.Fatal(err)
	}
	s.revoke()
	if n, err := a.ReadAt(p, 0); n != 0 || !errors.Is(err, errOver) {
		t.Error(n, err)
	}
	if _, err := s.begin(of, Writer{}); !errors.Is(err, errOver) {
		t.Error(err)
	}
}

// Every cut and every flipped bit of a slot is found, and named.
func TestDamage(t *testing.T) {
	whole := sample()
	first := &slot{first: 1, seq: 2}
	for range 4 {
		first.add(&wal.Record{})
	}
	of := series{testPrefix, 1, 7}
	read := func(b []byte) ([]string, error) {
		store := blobmem.New()
		put(t, store, of.key(2), flatten(first.freeze(of, Writer{1, 7, testNonce})))
		put(t, store, of.key(3), b)
		got, _, err := readAll(store, 2, 4)
		return got, err
	}
	if got, err := read(whole); err != nil || cmp.Diff([]string{"", "", "", "", "five", ""}, got) != "" {
		t.Fatalf("undamaged: %q, %v", got, err)
	}
	check := func(what string, at int, b []byte) {
		var damage *wal.CorruptError
		if got, err := read(b); !errors.As(err, &damage) || damage.File != of.key(3) || len(got) > 4 {
			t.Fatalf("%s at %d: %q, %v", what, at, got, err)
		}
	}
	for n := range whole {
		check("cut", n, whole[:n])
		for bit := range 8 {
			b := bytes.Clone(whole)
			b[n] ^= 1 << bit
			check("bit", n, b)
		}
	}
	check("more", len(whole), append(bytes.Clone(whole), 0))
}

// forge is the sample with one change and correct checksums.
func forge(change func(b []byte)) []byte {
	b := sample()
	change(b)
	fix(b)
	return b
}

func fix(b []byte) {
	be := func(at int, v uint32) { copy(b[at:], []byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}) }
	be(100, crc32.Checksum(b[headerBytes:], castagnoli))
	be(headerCRCAt, crc32.Checksum(b[:headerCRCAt], castagnoli))
}

// A slot that somebody wrote whole, but that can't stand there.
func TestForged(t *testing.T) {
	of := series{testPrefix, 1, 7}
	for what, b := range map[string][]byte{
		"a version to come":       forge(func(b []byte) { b[4] = 2 }),
		"another kind":            forge(func(b []byte) { b[5] = 3 }),
		"a seal with content":     forge(func(b []byte) { b[5] = 2 }),
		"a reserved byte":         forge(func(b []byte) { b[7] = 1 }),
		"another log":             forge(func(b []byte) { b[8] ^= 1 }),
		"another broker":          forge(func(b []byte) { b[27] = 2 }),
		"another broker's writer": forge(func(b []byte) { b[31] = 2 }),
		"another epoch":           forge(func(b []byte) { b[39] = 8 }),
		"another epoch's writer":  forge(func(b []byte) { b[47] = 8 }),
		"another process":         forge(func(b []byte) { b[48] ^= 1 }),
		"another number":          forge(func(b []byte) { b[71] = 4 }),
		"a gap":                   forge(func(b []byte) { b[79], b[87], b[headerBytes+7], b[headerBytes+23] = 6, 7, 6, 7 }),
		"more LSNs than bytes":    forge(func(b []byte) { b[80] = 0x7f }),
		"LSNs backwards":          forge(func(b []byte) { b[87] = 4 }),
		"negative LSNs":           forge(func(b []byte) { b[72] = 0x80 }),
		"trimmed before written":  forge(func(b []byte) { b[95] = 5 }),
		"a huge body":             forge(func(b []byte) { b[96] = 0xff }),
		"a record's LSN":          forge(func(b []byte) { b[headerBytes+7] = 6 }),
		"a record's length":       forge(func(b []byte) { b[headerBytes+11] = 30 }),
		"a shorter record":        forge(func(b []byte) { b[headerBytes+11] = 3 }),
		"a seal":                  sampleSealAt(3),
	} {
		store := blobmem.New()
		first := &slot{first: 1, seq: 2}
		for range 4 {
			first.add(&wal.Record{})
		}
		put(t, store, of.key(2), flatten(first.freeze(of, Writer{1, 7, testNonce})))
		put(t, store, of.key(3), b)
		var damage *wal.CorruptError
		if _, _, err := readAll(store, 2, 4); !errors.As(err, &damage) || damage.File != of.key(3) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// The whole log under another prefix.
	store := blobmem.New()
	b := sample()
	b[71], b[79], b[87], b[95] = 1, 1, 2, 0
	put(t, store, series{"wal/c2", 1, 7}.key(1), b)
	if _, err := Read(context.Background(), store, "wal/c2", 1, 7, 1, 2, nil); err == nil || !strings.Contains(err.Error(), "log id") && !strings.Contains(err.Error(), "checksum") {
		t.Errorf("got %v", err)
	}
}

func sampleSealAt(seq int64) []byte {
	b := make([]byte, headerBytes)
	(&header{kind: kindSeal, writer: taker}).put(b, series{testPrefix, 1, 7}, seq)
	return b
}

func put(t testing.TB, store *blobmem.Store, key string, b []byte) {
	t.Helper()
	if err := store.Put(context.Background(), key, bytes.NewReader(b), int64(len(b))); err != nil {
		t.Fatal(err)
	}
}

// Whatever the bytes, a reader ends with an error or with what a writer wrote. The
// checksums are made right in every other try, so that the rest is reached.
func FuzzSlot(f *testing.F) {
	f.Add(sample(), true)
	f.Add(sampleSeal(), false)
	f.Add(sample()[:headerBytes], true)
	of := series{testPrefix, 1, 7}
	f.Fuzz(func(t *testing.T, b []byte, whole bool) {
		if whole && len(b) >= headerBytes {
			fix(b)
		}
		for seq := range int64(5) {
			if h, err := parseHeader(b, int64(len(b)), of, seq); err == nil && h.kind == kindSeal && len(b) != headerBytes {
				t.Fatalf("a seal of %d bytes", len(b))
			}
			h, err := parseData(b, of, seq)
			if err != nil {
				continue
			}
			s := &slot{first: h.first, seq: seq, trimmed: h.trimmed}
			if eachRecord(b[headerBytes:], h.first, h.last, func(_ wal.LSN, data []byte) error {
				s.add(&wal.Record{Data: [2][]byte{data}})
				return nil
			}) != nil {
				continue
			}
			if again := flatten(s.freeze(of, h.writer)); !bytes.Equal(again, b) {
				t.Fatalf("read %x, written again it is %x", b, again)
			}
		}
	})
}
