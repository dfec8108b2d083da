package wal

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/base/disk/diskmem"
)

// goldenBlocks are the blocks of a segment, header and body: epoch 7 adopts epoch 3,
// which was cut off after two records, commits two records and is closed.
const goldenBlocks = `4c54574201010c00 a0a1a2a3a4a5a6a7a8a9aaabacadaeaf 0000000000000007 0000000000000001 0000000000000001 0000000000000000 0000000000000000 0000000000005000 0000003c 1a13d9a3
  00000001 0000000000000003 0000000000000002 0000000000000003 0000000000000002 0000000000000002 0000000000000002 00000004 666f7572
4c54574201020c00 a0a1a2a3a4a5a6a7a8a9aaabacadaeaf 0000000000000007 0000000000000001 0000000000000001 0000000000000001 0000000000000000 0000000000005000 0000000f bba57614
  0000000000000001 00000003 6f6e65
4c54574201020c00 a0a1a2a3a4a5a6a7a8a9aaabacadaeaf 0000000000000007 0000000000000001 0000000000000002 0000000000000002 0000000000000001 0000000000005000 00000010 af5c713d
  0000000000000002 00000004 74776f21
4c54574201040c00 a0a1a2a3a4a5a6a7a8a9aaabacadaeaf 0000000000000007 0000000000000001 0000000000000003 0000000000000002 0000000000000002 0000000000005000 00000000 58590f77
`

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
	l := start(t, fs, 3, small, nil)
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
	l = start(t, left, 7, small, r.Recovered)
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
	bodies := [][]int{{4, 8, 8, 8, 8, 8, 8, 4, 4}, {8, 4, 3}, {8, 4, 4}, nil}
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
	if d := cmp.Diff(goldenBlocks, got.String()); d != "" {
		t.Errorf("format changed (-want +got):\n%s\n%s", d, got.String())
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
		if a, err := parseAdoption(body); err == nil {
			again := newBlock(a.bodyBytes(), minAlign)
			a.put(again)
			if !bytes.Equal(again.mem[headerBytes:again.n], body) {
				t.Fatalf("adoption %+v does not round-trip", a)
			}
		}
	})
}
