package object

import (
	"bytes"
	"encoding/hex"
	"hash/crc32"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/looptape/looptape/internal/broker/batch"
)

func TestCombineCRC(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		b := make([]byte, r.IntN(5000))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		at := r.IntN(len(b) + 1)
		sum := func(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }
		if got, want := combineCRC(sum(b[:at]), sum(b[at:]), int64(len(b)-at)), sum(b); got != want {
			t.Fatalf("%d + %d bytes: %08x, want %08x", at, len(b)-at, got, want)
		}
	}
}

// fill puts a merged object together from the bytes of its inputs.
func fill(m *Joined, inputs ...[]byte) []byte {
	var out []byte
	for _, p := range m.Pieces {
		if p.Bytes != nil {
			out = append(out, p.Bytes...)
		} else {
			out = append(out, inputs[p.Input][p.Pos:p.Pos+p.Len]...)
		}
	}
	return out
}

// sampleMerged merges blocks of two objects: one partition with two spans, one
// whose neighbouring blocks become one, and one that is only a tail.
func sampleMerged(t testing.TB) []byte {
	t.Helper()
	inputs := make([][]byte, 2)
	var x [2]Index
	for i, base := range []int64{10, 30} {
		p, err := Pack(Footer{Identity: Identity{Cluster: cluster, Broker: 1, Epoch: 2, Kind: Flush, Seq: int64(i + 1)}}, 4, []Part{
			{Topic: id(1), Units: []Unit{
				{Base: base, Last: base + 1, MaxTimestamp: base, Batches: 1, Bytes: []byte("aaaa")},
				{Base: base + 2, Last: base + 2, MaxTimestamp: 5, Batches: 1, Bytes: []byte{'b', byte(base)}},
			}, Tail: Tail{TopicName: "a", Base: base, End: base + 3}},
			{Topic: id(1), Partition: 1, Units: []Unit{
				{Base: base, Last: base + 19, MaxTimestamp: 7, Batches: 1, Bytes: []byte{'c', byte(base)}},
			}, Tail: Tail{TopicName: "a", Base: base, End: base + 20}},
		})
		if err != nil {
			t.Fatal(err)
		}
		inputs[i], x[i] = all(t, p), p.Index
	}
	source := func(input int, partition int32) (s []Source) {
		for _, e := range x[input].Partition(id(1), partition) {
			s = append(s, Source{input, e})
		}
		return s
	}
	tail := sampleTail()
	tail.TopicName, tail.Base, tail.End, tail.LastStable = "a", 10, 50, 50
	m, err := Join(Footer{
		Identity: Identity{Cluster: cluster, Broker: 1, Epoch: 2, Kind: Merge, Seq: 1}, Nonce: id(0xee), Generation: 1, Inputs: []string{"x", "y"},
	}, 6, []JoinPart{
		{Topic: id(1), Blocks: source(0, 0), Tail: Tail{TopicName: "a", Base: 10, End: 13, LastStable: 13}},
		{Topic: id(1), Blocks: source(1, 0), Tail: Tail{TopicName: "a", Base: 30, End: 33, LastStable: 33}},
		{Topic: id(1), Partition: 1, Blocks: append(source(0, 1), source(1, 1)...), Tail: tail},
		{Topic: id(2), Tail: Tail{TopicName: "b", Base: 7, End: 7, LastStable: 7, Producers: []batch.Producer{batch.NewProducer(4)}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	b := fill(m, inputs...)
	if int64(len(b)) != m.Size {
		t.Fatalf("%d bytes, want %d", len(b), m.Size)
	}
	n, err := FooterLen(b[len(b)-TrailerSize:], m.Size)
	if err != nil {
		t.Fatal(err)
	}
	f, err := DecodeFooter(b[len(b)-TrailerSize-int(n):])
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m.Footer, *f, cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
	got, err := DecodeIndex(b[f.IndexPos:f.IndexPos+f.IndexLen], int(f.Blocks), f.IndexCRC, f.IndexPos)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range append(bytesOf(got.Blocks), got.Tails...) {
		if err := e.Check(b[e.Pos : e.Pos+int64(e.Len)]); err != nil {
			t.Error(err)
		}
	}
	return b
}

func bytesOf(e []Entry) []Entry { return append([]Entry{}, e...) }

func TestMerge(t *testing.T) {
	b := sampleMerged(t)
	n, _ := FooterLen(b[len(b)-TrailerSize:], int64(len(b)))
	f, _ := DecodeFooter(b[len(b)-TrailerSize-int(n):])
	x, err := DecodeIndex(b[f.IndexPos:f.IndexPos+f.IndexLen], int(f.Blocks), f.IndexCRC, f.IndexPos)
	if err != nil {
		t.Fatal(err)
	}
	want := []Span{
		{id(1), 0, 10, 13, 10, 6, 0}, {id(1), 0, 30, 33, 30, 6, 0}, {id(1), 1, 10, 50, 7, 4, 1}, {id(2), 0, 7, 7, -1, 0, 0},
	}
	if diff := cmp.Diff(want, x.Spans()); diff != "" {
		t.Error(diff)
	}
	if len(x.Blocks) != 3 || x.Blocks[0].Batches != 2 || x.Blocks[2].Last != 49 {
		t.Errorf("blocks %+v", x.Blocks)
	}
	if e, ok := x.Tail(id(1), 0, 30); !ok || e.Base != 30 {
		t.Errorf("tail %+v", e)
	}
	if _, ok := x.Tail(id(1), 0, 31); ok {
		t.Error("a tail where no span starts")
	}
	if got := b[x.Blocks[2].Pos:][:4]; !bytes.Equal(got, []byte{'c', 10, 'c', 30}) {
		t.Errorf("%q", got)
	}
	if got := hex.EncodeToString(b); got != strings.ReplaceAll(goldenMerged, "\n", "") {
		t.Errorf("golden bytes of version 1 changed:\n got %s", got)
	}
}

func TestMergeRefuses(t *testing.T) {
	f := Footer{Identity: Identity{Cluster: cluster, Kind: Merge}}
	e := func(base, last int64) Entry { return Entry{Base: base, Last: last, Len: 1} }
	for name, parts := range map[string][]JoinPart{
		"overlap":   {{Blocks: []Source{{0, e(1, 5)}, {0, e(5, 6)}}, Tail: Tail{Base: 1, End: 7}}},
		"partition": {{Partition: 1, Blocks: []Source{{0, e(1, 5)}}, Tail: Tail{Base: 1, End: 7}}},
		"empty":     {{Blocks: []Source{{0, Entry{Base: 1, Last: 1}}}, Tail: Tail{Base: 1, End: 7}}},
		"spans":     {{Tail: Tail{Base: 1, End: 7}}, {Tail: Tail{Base: 6, End: 9}}},
		"order":     {{Partition: 2, Tail: Tail{Base: 1, End: 7}}, {Partition: 1, Tail: Tail{Base: 1, End: 7}}},
	} {
		if _, err := Join(f, 100, parts); err == nil {
			t.Errorf("%s: merged", name)
		}
	}
}
