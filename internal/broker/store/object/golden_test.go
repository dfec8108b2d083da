package object

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files")

// The files of version 1 are read for ever: what is written today must be what
// they are, and every piece of them must come back as it is.
func TestGoldenFiles(t *testing.T) {
	flushed := all(t, sampleObject(t))
	tail := sampleTail()
	for name, got := range map[string][]byte{"flushed.v1": flushed, "merged.v1": sampleMerged(t), "tail.v1": tail.Encode()} {
		file := filepath.Join("testdata", "golden", name)
		if *update {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: version 1 is written otherwise now:\n%s", name, hex.Dump(got))
		}
		if name == "tail.v1" {
			again, err := DecodeTail(want)
			if err != nil || !bytes.Equal(again.Encode(), want) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err := readWhole(want, cluster); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// readWhole checks every piece of an object and that each, written again, is the
// same.
func readWhole(b []byte, cluster string) error {
	if len(b) < HeaderSize+TrailerSize {
		return ErrCorrupt
	}
	if err := CheckHeader(b[:HeaderSize], cluster); err != nil {
		return err
	}
	n, err := FooterLen(b[len(b)-TrailerSize:], int64(len(b)))
	if err != nil {
		return err
	}
	at := int64(len(b)) - TrailerSize - n
	f, err := DecodeFooter(b[at:])
	if err != nil {
		return err
	}
	if again, err := f.Encode(); err != nil || !bytes.Equal(again, b[at:]) {
		return errors.Join(errors.New("the footer is another when written again"), err)
	}
	if f.IndexPos > at || f.IndexLen != at-f.IndexPos {
		return ErrCorrupt
	}
	x, err := DecodeIndex(b[f.IndexPos:at], int(f.Blocks), f.IndexCRC, f.IndexPos)
	if err != nil {
		return err
	}
	if !bytes.Equal(x.Encode(), b[f.IndexPos:at]) {
		return errors.New("the index is another when written again")
	}
	next := int64(HeaderSize)
	for i, e := range append(x.Blocks, x.Tails...) {
		if e.Pos != next {
			return errors.New("a hole between the pieces")
		}
		next += int64(e.Len)
		piece := b[e.Pos:next]
		if err := e.Check(piece); err != nil {
			return err
		}
		if i < len(x.Blocks) {
			continue
		}
		t, err := DecodeTail(piece)
		if err != nil {
			return err
		}
		if !bytes.Equal(t.Encode(), piece) {
			return errors.New("a tail is another when written again")
		}
	}
	if next != f.IndexPos {
		return errors.New("a hole before the index")
	}
	return nil
}

// An object that is cut anywhere, or lengthened, is refused, and so is one with any
// bit flipped.
func TestDamage(t *testing.T) {
	for name, good := range map[string][]byte{"flushed": all(t, sampleObject(t)), "merged": sampleMerged(t)} {
		for n := range good {
			if err := readWhole(good[:n], cluster); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%s cut to %d of %d bytes: %v", name, n, len(good), err)
			}
		}
		if err := readWhole(append(bytes.Clone(good), 0), cluster); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s with a byte more: %v", name, err)
		}
		for bit := range 8 * len(good) {
			b := bytes.Clone(good)
			b[bit/8] ^= 1 << (bit % 8)
			if err := readWhole(b, cluster); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%s with bit %d of byte %d flipped: %v", name, bit%8, bit/8, err)
			}
		}
		if err := readWhole(good, strings.Repeat("B", 22)); err == nil {
			t.Errorf("%s: taken for one of another cluster", name)
		}
	}
}
