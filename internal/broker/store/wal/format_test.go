package wal

import (
	"bytes"
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/base/disk/diskmem"
)

// The golden segment in hex: epoch 7 adopts epoch 3, which was cut off after two
// records, commits two records and is closed; then the mark at the file's end.
const goldenFile = "testdata/golden/segment.v1"

// layout is where to put spaces into a block's hex, in bytes.
var layout = []int{8, 16, 8, 8, 8, 8, 8, 8, 4, 4}

func spaced(b []byte, widths []int) string {
	var parts []string
	for _, w := range widths {
		parts = append(parts, hex.EncodeToString(b[:w]))
		b = b[w:]
	}
	return strings.Join(parts, " ")
}

func TestGoldenBytes(t *testing.T) {
	fs := diskmem.New(512)
	cfg := small
	cfg.SegmentBytes = 5 * minAlign
	l := start(t, fs, 3, cfg, nil)
	for _, s := range []string{"three", "four"} {
		if _, err := l.put(s); err != nil {
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
	l = start(t, left, 7, cfg, r.Recovered)
	for _, s := range []string{"one", "two!"} {
		if _, err := l.put(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
	b := left.Bytes(testDir + "/00000000000000000007-0000000001.wal")
	if len(b) != 5*minAlign {
		t.Fatalf("segment of %d bytes", len(b))
	}
	var got strings.Builder
	bodies := [][]int{{4, 8, 8, 8, 8, 8, 8, 4, 4}, {8, 4, 3}, {8, 4, 4}, nil, {8, 8, 8, 8}}
	for i, body := range bodies {
		block := b[i*minAlign:][:minAlign]
		got.WriteString(spaced(block, layout) + "\n")
		n := 0
		for _, w := range body {
			n += w
		}
		if n > 0 {
			got.WriteString("  " + spaced(block[headerBytes:], body) + "\n")
		}
		if len(bytes.Trim(block[headerBytes+n:], "\x00")) != 0 {
			t.Errorf("block %d is not padded with zeros", i)
		}
	}
	want, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got.String()); d != "" {
		t.Errorf("format changed (-want +got):\n%s\n%s", d, got.String())
	}
}

// What version 1 wrote is read for ever.
func TestGoldenSegmentIsRead(t *testing.T) {
	text, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5*minAlign)
	at := -minAlign
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		p, err := hex.DecodeString(strings.ReplaceAll(line, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(line, " ") {
			copy(b[at+headerBytes:], p)
		} else {
			at += minAlign
			copy(b[at:], p)
		}
	}
	fs := diskmem.New(512)
	if err := fs.MkdirAll(testDir); err != nil {
		t.Fatal(err)
	}
	fs.SetBytes(testDir+"/00000000000000000007-0000000001.wal", b)
	got, err := recoverAll(fs)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[int64][]string{7: {"one", "two!"}}, got.records); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]EpochEnd{{Epoch: 7, First: 1, Last: 2, Clean: true, Bytes: 4 * minAlign}}, got.Epochs); d != "" {
		t.Error(d)
	}
}

func FuzzParse(f *testing.F) {
	id := Identity{testID, 1}
	b := newBlock(100, minAlign)
	b.add(1, &Record{Data: [2][]byte{[]byte("head"), []byte("body")}})
	b.add(2, &Record{})
	f.Add(bytes.Clone(b.seal(header{align: minAlign, id: id, seq: 1, segment: 1 << 20})))
	a := adoption{ends: []epochEnd{{1, 2}}, carry: carry{1, 1, 2, b.mem[headerBytes:b.n]}}
	c := newBlock(a.bodyBytes(), minAlign)
	a.put(c)
	f.Add(bytes.Clone(c.seal(header{align: minAlign, id: id, seq: 1, segment: 1 << 20})))
	f.Add(encodeMark(make([]byte, minAlign), header{id: id, seq: 1, segment: 1 << 20}, mark{7, minAlign, 1, 0, 3}))
	f.Fuzz(func(t *testing.T, p []byte) {
		h, err := parseHeader(p, id, 1, int64(len(p)))
		if err != nil {
			return
		}
		if h.bytes() > int64(len(p)) {
			t.Fatalf("block of %d bytes in %d", h.bytes(), len(p))
		}
		_ = h.checkCRC(p) // bodies are parsed whatever it says
		body := p[headerBytes:][:h.bodyBytes]
		n := 0
		if eachRecord(body, h.first, h.last, func(_ LSN, d []byte) error { n += len(d); return nil }) == nil && n > len(body) {
			t.Fatalf("%d bytes of records in %d", n, len(body))
		}
		if m, err := parseMark(h, body, int64(len(p))); err == nil {
			again := encodeMark(make([]byte, minAlign), header{id: id, seq: 1, segment: h.segment}, *m)
			if !bytes.Equal(again[headerBytes:][:markBodyBytes], body) {
				t.Fatalf("mark %+v does not round-trip", m)
			}
		}
		if a, err := parseAdoption(body); err == nil {
			again := newBlock(a.bodyBytes(), minAlign)
			a.put(again)
			if !bytes.Equal(again.mem[headerBytes:again.n], body) {
				t.Fatalf("adoption %+v does not round-trip", a)
			}
		}
	})
}
