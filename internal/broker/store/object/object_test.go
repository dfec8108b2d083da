package object

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/looptape/looptape/internal/broker/batch"
)

const cluster = "AAECAwQFBgcICQoLDA0ODw" // bytes 0 to 15

func id(b byte) [16]byte { return [16]byte(bytes.Repeat([]byte{b}, 16)) }

func sampleTail() Tail {
	p := batch.NewProducer(9)
	p.Epoch, p.Timestamp, p.Count = 1, 70, 1
	p.Spans[0] = batch.Span{FirstSequence: 4, LastSequence: 5, BaseOffset: 10, LastOffset: 11, Timestamp: 70}
	return Tail{
		TopicName: "ab", LogStart: 3, Base: 10, End: 13, LastStable: 12, LeaderEpoch: 2,
		Epochs: []batch.EpochStart{{Epoch: 2, Base: 1}}, Depth: 1, Producers: []batch.Producer{p},
		Open:    []batch.OpenTxn{{ProducerID: 9, First: 12}},
		Ended:   []batch.EndedTxn{{ProducerID: 8, First: 5, Marker: 11, LastStable: 12, Commit: true}},
		Samples: []Sample{{Offset: 12, Timestamp: 70}},
	}
}

func sampleObject(t testing.TB) *Packed {
	t.Helper()
	p, err := Pack(Footer{
		Identity: Identity{Cluster: cluster, Broker: 1, Epoch: 2, Kind: Flush, Seq: 3},
		Nonce:    id(0xee), WALBroker: 5, WALEpoch: 2, FirstLSN: 4, LastLSN: 6, Inputs: []string{"x"},
	}, 4, []Part{
		{Topic: id(2), Partition: 0, Tail: Tail{TopicName: "b", Base: 7, End: 7}},
		{Topic: id(1), Partition: 5, Units: []Unit{
			{Base: 10, Last: 11, MaxTimestamp: 70, Batches: 1, Bytes: []byte("aaa")},
			{Base: 12, Last: 12, MaxTimestamp: 60, Batches: 1, Bytes: []byte("bb")},
			{Base: 20, Last: 20, MaxTimestamp: -1, Batches: 1, Bytes: []byte("c")},
		}, Tail: sampleTail()},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Golden bytes of version 1: what is written today must be read for ever.
func TestGolden(t *testing.T) {
	tail := sampleTail()
	for _, c := range []struct {
		name string
		got  []byte
		want string
	}{
		{"tail", tail.Encode(), "01" + "0002" + "6162" + "0000000000000003" + "000000000000000a" + "000000000000000d" + "000000000000000c" +
			"00000002" + "00000001" + "00000002" + "0000000000000001" + // epochs
			"01" + "00000001" + "0000000000000009" + "0001" + "ffffffff" + "0000000000000046" + "01" +
			"00000004" + "00000005" + "000000000000000a" + "000000000000000b" + "0000000000000046" +
			"00000001" + "0000000000000009" + "000000000000000c" + // open
			"00000001" + "0000000000000008" + "0000000000000005" + "000000000000000b" + "000000000000000c" + "01" + // ended
			"00000001" + "000000000000000c" + "0000000000000046"},
		{"object", all(t, sampleObject(t)), goldenObject},
	} {
		if got := hex.EncodeToString(c.got); got != strings.ReplaceAll(c.want, "\n", "") {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

func all(t testing.TB, p *Packed) []byte {
	t.Helper()
	b, err := io.ReadAll(io.NewSectionReader(p, 0, p.Size()))
	if err != nil || int64(len(b)) != p.Size() {
		t.Fatal(len(b), err)
	}
	return b
}

func TestReadBack(t *testing.T) {
	p := sampleObject(t)
	b := all(t, p)
	if err := iotest.TestReader(io.NewSectionReader(p, 0, p.Size()), b); err != nil {
		t.Error(err)
	}
	if err := CheckHeader(b, cluster); err != nil {
		t.Error(err)
	}
	n, err := FooterLen(b[len(b)-TrailerSize:], p.Size())
	if err != nil {
		t.Fatal(err)
	}
	f, err := DecodeFooter(b[len(b)-TrailerSize-int(n):])
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(p.Footer, *f, cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
	x, err := DecodeIndex(b[f.IndexPos:f.IndexPos+f.IndexLen], int(f.Blocks), f.IndexCRC, f.IndexPos)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(p.Index, *x); diff != "" {
		t.Error(diff)
	}
	blocks := x.Partition(id(1), 5)
	if len(blocks) != 2 || blocks[0].Base != 10 || blocks[0].Last != 12 || blocks[0].MaxTimestamp != 70 || blocks[1].Base != 20 {
		t.Errorf("blocks %+v", blocks)
	}
	for i, want := range []string{"aaabb", "c"} {
		got := b[blocks[i].Pos : blocks[i].Pos+int64(blocks[i].Len)]
		if string(got) != want || blocks[i].Check(got) != nil {
			t.Errorf("block %d is %q", i, got)
		}
	}
	if len(x.Partition(id(1), 4)) != 0 || len(x.Partition(id(2), 0)) != 0 || len(x.Partition(id(3), 0)) != 0 {
		t.Error("blocks of a partition that has none")
	}
	e, ok := x.Tail(id(1), 5, 10)
	if !ok {
		t.Fatal("no tail")
	}
	raw := b[e.Pos : e.Pos+int64(e.Len)]
	if err := e.Check(raw); err != nil {
		t.Fatal(err)
	}
	tail, err := DecodeTail(raw)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sampleTail(), *tail); diff != "" {
		t.Error(diff)
	}
	want := []Span{{id(1), 5, 10, 13, 70, 6, 1}, {id(2), 0, 7, 7, -1, 0, 0}}
	if diff := cmp.Diff(want, x.Spans()); diff != "" {
		t.Error(diff)
	}
}

// Every bit that is not record bytes is covered by a check.
func TestFlippedBits(t *testing.T) {
	p := sampleObject(t)
	good := all(t, p)
	read := func(b []byte) error {
		if err := CheckHeader(b, cluster); err != nil {
			return err
		}
		n, err := FooterLen(b[len(b)-TrailerSize:], int64(len(b)))
		if err != nil {
			return err
		}
		f, err := DecodeFooter(b[len(b)-TrailerSize-int(n):])
		if err != nil {
			return err
		}
		x, err := DecodeIndex(b[f.IndexPos:f.IndexPos+f.IndexLen], int(f.Blocks), f.IndexCRC, f.IndexPos)
		if err != nil {
			return err
		}
		for _, e := range append(x.Blocks, x.Tails...) {
			if err := e.Check(b[e.Pos : e.Pos+int64(e.Len)]); err != nil {
				return err
			}
		}
		return nil
	}
	if err := read(good); err != nil {
		t.Fatal(err)
	}
	for i := range good {
		b := bytes.Clone(good)
		b[i] ^= 1 << (i % 8)
		if err := read(b); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
	}
}

func TestPackRefuses(t *testing.T) {
	f := Footer{Identity: Identity{Cluster: cluster, Kind: Flush}}
	unit := Unit{Base: 5, Last: 6, Bytes: []byte("x")}
	for name, parts := range map[string][]Part{
		"backward":  {{Units: []Unit{unit, unit}}},
		"twice":     {{Partition: 1, Units: []Unit{unit}}, {Partition: 1, Units: []Unit{unit}}},
		"overlap":   {{Tail: Tail{Base: 1, End: 9}}, {Tail: Tail{Base: 8, End: 10}}},
		"no bytes":  {{Units: []Unit{{Base: 1, Last: 1}}}},
		"wrong end": {{Units: []Unit{{Base: 2, Last: 1, Bytes: []byte("x")}}}},
	} {
		if _, err := Pack(f, 0, parts); err == nil {
			t.Errorf("%s: packed", name)
		}
	}
	f.Identity.Cluster = "short"
	if _, err := Pack(f, 0, nil); err == nil {
		t.Error("bad cluster id")
	}
}

func TestNames(t *testing.T) {
	id := Identity{Broker: 3, Epoch: 12, Kind: Recovery, Seq: 1 << 40}
	got, err := ParseName(id.Name())
	if err != nil || got != id {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "1-2-3", "1-0000000002-x0000000003", "1-2-f3", "1-0000000002-f", "a-0000000002-f0000000003", "1-0000000002-f0000000003-"} {
		if _, err := ParseName(bad); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzObject(f *testing.F) {
	p := sampleObject(f)
	b := all(f, p)
	tail := sampleTail()
	f.Add(tail.Encode(), uint16(0))
	f.Add(p.Index.Encode(), uint16(2))
	f.Add(b[p.Footer.IndexPos+p.Footer.IndexLen:], uint16(2))
	f.Fuzz(func(t *testing.T, b []byte, blocks uint16) {
		if tail, err := DecodeTail(b); err == nil {
			if again := tail.Encode(); !bytes.Equal(again, b) {
				t.Fatalf("tail changed: %x to %x", b, again)
			}
		}
		crc := Entry{}
		_ = crc.Check(b)
		if x, err := DecodeIndex(b, int(blocks), checksum(b), 1<<40); err == nil {
			if !bytes.Equal(x.Encode(), b) {
				t.Fatal("index changed")
			}
			x.Spans()
		}
		if _, err := DecodeFooter(b); err == nil && len(b) < TrailerSize {
			t.Fatal("footer of nothing")
		}
		if len(b) >= TrailerSize {
			_, _ = FooterLen(b[len(b)-TrailerSize:], int64(len(b)))
		}
		_, _ = ParseName(string(b))
		_ = CheckHeader(b, cluster)
	})
}
