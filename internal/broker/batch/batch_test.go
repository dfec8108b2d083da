package batch

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"math"
	"testing"

	"github.com/golang/snappy"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

var sample = Build(Header{BaseOffset: 1 << 40, LeaderEpoch: 3, ProducerID: 77, ProducerEpoch: 2, Sequence: math.MaxInt32},
	KV{Timestamp: 1000, Key: []byte("k"), Value: []byte("v")}, KV{Timestamp: 1007, Value: []byte("w")})

// The bytes are those a Kafka client writes; a change here is a change of the protocol.
func TestGolden(t *testing.T) {
	want := "0000010000000000" + "00000042" + "00000003" + "02" + "f110f0b6" + "0000" + "00000001" +
		"00000000000003e8" + "00000000000003ef" + "000000000000004d" + "0002" + "7fffffff" + "00000002" +
		"10000000026b027600" + "0e000e0201027700"
	if got := hex.EncodeToString(sample); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestHeader(t *testing.T) {
	if err := Check(sample); err != nil {
		t.Fatal(err)
	}
	b := Batch(bytes.Clone(sample))
	if b.BaseOffset() != 1<<40 || b.LastOffset() != 1<<40+1 || b.LeaderEpoch() != 3 || b.Count() != 2 || b.ProducerID() != 77 ||
		b.ProducerEpoch() != 2 || b.BaseSequence() != math.MaxInt32 || b.LastSequence() != 0 || b.BaseTimestamp() != 1000 || b.MaxTimestamp() != 1007 {
		t.Errorf("header %+v", b)
	}
	b.SetBaseOffset(5)
	b.SetLeaderEpoch(9)
	if err := Check(b); err != nil || b.BaseOffset() != 5 || b.LeaderEpoch() != 9 {
		t.Errorf("patched outside of the CRC: %v", err)
	}
	b.SetLogAppendTime(123)
	if err := Check(b); err != nil || !b.IsLogAppendTime() || b.MaxTimestamp() != 123 {
		t.Errorf("stamped: %v", err)
	}
}

func TestCheckRefuses(t *testing.T) {
	change := func(fn func([]byte)) []byte {
		b := bytes.Clone(sample)
		fn(b)
		Batch(b).seal()
		return b
	}
	for name, c := range map[string]struct {
		bytes []byte
		want  error
	}{
		"nothing":          {nil, ErrShort},
		"half a header":    {sample[:40], ErrShort},
		"cut":              {sample[:len(sample)-1], ErrShort},
		"trailing bytes":   {append(bytes.Clone(sample), 0), ErrLength},
		"magic 1":          {change(func(b []byte) { b[posMagic] = 1 }), ErrMagic},
		"length below":     {change(func(b []byte) { binary.BigEndian.PutUint32(b[posLength:], 48) }), ErrLength},
		"negative length":  {change(func(b []byte) { binary.BigEndian.PutUint32(b[posLength:], 1<<31) }), ErrLength},
		"count above":      {change(func(b []byte) { binary.BigEndian.PutUint32(b[posCount:], 3) }), ErrCount},
		"negative delta":   {change(func(b []byte) { binary.BigEndian.PutUint32(b[posLastDelta:], 1<<31) }), ErrCount},
		"offset overflows": {change(func(b []byte) { Batch(b).SetBaseOffset(math.MaxInt64) }), ErrCount},
		"flipped bit":      {func() []byte { b := bytes.Clone(sample); b[70] ^= 4; return b }(), ErrCRC},
	} {
		if err := Check(c.bytes); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	for name, c := range map[string]struct {
		bytes []byte
		want  error
	}{
		"hole":        {change(func(b []byte) { binary.BigEndian.PutUint32(b[posLastDelta:], 2) }), ErrCount},
		"codec 5":     {change(func(b []byte) { b[posAttributes+1] = 5 }), ErrCompression},
		"record size": {change(func(b []byte) { b[HeaderSize] = 0x7e }), ErrRecord},
		"delta":       {change(func(b []byte) { b[HeaderSize+3] = 2 }), ErrRecord},
	} {
		if err := Batch(c.bytes).CheckProduced(); !errors.Is(err, c.want) {
			t.Errorf("produced, %s: %v, want %v", name, err, c.want)
		}
	}
}

// What Sum derives is what the bytes give.
func TestSum(t *testing.T) {
	for _, n := range []int{0, 1, sumFrom - HeaderSize - 20, sumFrom, 100_000, 300_001} {
		b := Build(Header{BaseOffset: 3, LeaderEpoch: 9, ProducerID: -1, ProducerEpoch: -1, Sequence: -1}, KV{Timestamp: 5, Value: bytes.Repeat([]byte("x"), n)})
		want := crc32.Checksum(b, castagnoli)
		if len(b) < sumFrom {
			want = 0
		}
		if got := Batch(b).Sum(); got != want {
			t.Errorf("%d bytes: %08x, want %08x", len(b), got, want)
		}
		Batch(b).SetBaseOffset(1 << 40)
		Batch(b).SetLeaderEpoch(7)
		Batch(b).SetLogAppendTime(12345)
		if got := Batch(b).Sum(); len(b) >= sumFrom && got != crc32.Checksum(b, castagnoli) {
			t.Errorf("%d bytes, patched: %08x", len(b), got)
		}
	}
}

func TestSplit(t *testing.T) {
	joined := append(bytes.Clone(sample), sample...)
	joined = append(joined, sample[:30]...)
	n := 0
	for b := range Split(joined) {
		if !bytes.Equal(b, sample) {
			t.Error("other bytes")
		}
		n++
	}
	if n != 2 {
		t.Errorf("%d batches", n)
	}
}

func TestBodyAndTime(t *testing.T) {
	records := sample[HeaderSize:]
	var z, l bytes.Buffer
	gz := gzip.NewWriter(&z)
	gz.Write(records)
	gz.Close()
	lz := lz4.NewWriter(&l)
	lz.Write(records)
	lz.Close()
	zs, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	block := snappy.Encode(nil, records)
	framed := append(append(append([]byte{}, xerial...), 0, 0, 0, 1, 0, 0, 0, 1), binary.BigEndian.AppendUint32(nil, uint32(len(block)))...)
	for name, c := range map[string]struct {
		codec byte
		body  []byte
	}{
		"none": {0, records}, "gzip": {1, z.Bytes()}, "snappy": {2, block}, "xerial": {2, append(framed, block...)},
		"lz4": {3, l.Bytes()}, "zstd": {4, zs.EncodeAll(records, nil)},
	} {
		b := Batch(append(bytes.Clone(sample[:HeaderSize]), c.body...))
		b[posAttributes+1] = c.codec
		binary.BigEndian.PutUint32(b[posLength:], uint32(len(b)-lengthPrefix))
		b.seal()
		if err := errors.Join(Check(b), b.CheckProduced()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if o, ts, err := b.AtTime(1001, 0); err != nil || o != 1<<40+1 || ts != 1007 {
			t.Errorf("%s: %d %d %v", name, o, ts, err)
		}
		if o, _, err := b.AtTime(1008, 0); err != nil || o != -1 {
			t.Errorf("%s: above: %d %v", name, o, err)
		}
		if c.codec != 0 {
			if _, _, err := b[:len(b)-3].AtTime(1001, 0); c.codec != 2 && !errors.Is(err, ErrCompression) {
				t.Errorf("%s: cut: %v", name, err)
			}
		}
	}
}

func TestProducerWindow(t *testing.T) {
	p := NewProducer(1)
	step := func(epoch int16, seq int32, n int, offset int64, want Verdict) {
		t.Helper()
		kvs := make([]KV, n)
		b := Batch(Build(Header{BaseOffset: offset, ProducerID: 1, ProducerEpoch: epoch, Sequence: seq}, kvs...))
		got, span := p.Check(epoch, b.BaseSequence(), b.LastSequence())
		if got != want {
			t.Fatalf("epoch %d sequence %d: verdict %d, want %d", epoch, seq, got, want)
		}
		switch got {
		case Accept:
			p.Apply(b)
		case Duplicate:
			if span.BaseOffset != offset {
				t.Fatalf("duplicate of offset %d, want %d", span.BaseOffset, offset)
			}
		}
	}
	step(0, math.MaxInt32-1, 2, 10, Accept) // unknown: any sequence
	step(0, 0, 1, 12, Accept)               // wraps
	step(0, 2, 1, 13, OutOfOrder)
	step(0, 1, 3, 13, Accept)
	step(0, math.MaxInt32-1, 2, 10, Duplicate)
	step(0, 1, 3, 13, Duplicate)
	step(0, 1, 2, 13, OutOfOrder) // other bounds: not the same batch
	for i := range int32(4) {
		step(0, 4+i, 1, 16+int64(i), Accept)
	}
	step(0, 0, 1, 12, OutOfOrder) // fell out of the window
	step(1, 3, 1, 20, OutOfOrder)
	step(1, 0, 1, 20, Accept)
	step(0, 8, 1, 21, Fenced)
	p.ApplyMarker(2, Marker{CoordinatorEpoch: 4}, 5)
	step(1, 1, 1, 21, Fenced)
	step(2, 0, 1, 21, Accept)
}

func TestTransactions(t *testing.T) {
	var x Transactions
	apply := func(b []byte, offset int64) (EndedTxn, bool) {
		v := Batch(b)
		v.SetBaseOffset(offset)
		return x.Apply(v)
	}
	data := func(id int64) []byte {
		return Build(Header{Attributes: Transactional, ProducerID: id}, KV{}, KV{})
	}
	apply(data(1), 0)
	apply(data(2), 2)
	apply(data(1), 4)
	if x.LastStable(6) != 0 {
		t.Error(x.LastStable(6))
	}
	ended, ok := apply(BuildMarker(1, 0, false, 0, 0), 6)
	if want := (EndedTxn{ProducerID: 1, First: 0, Marker: 6, LastStable: 2}); !ok || ended != want {
		t.Errorf("%+v", ended)
	}
	if _, ok := apply(BuildMarker(1, 0, false, 0, 0), 7); ok {
		t.Error("second marker")
	}
	ended, ok = apply(BuildMarker(2, 0, true, 0, 0), 8)
	if want := (EndedTxn{ProducerID: 2, First: 2, Marker: 8, LastStable: 9, Commit: true}); !ok || ended != want {
		t.Errorf("%+v", ended)
	}
	x.Restore([]OpenTxn{{2, 9}, {1, 4}})
	if diff := cmp.Diff([]OpenTxn{{1, 4}, {2, 9}}, x.Open()); diff != "" {
		t.Error(diff)
	}
}

func FuzzBatch(f *testing.F) {
	f.Add([]byte(sample))
	f.Add(BuildMarker(1, 2, true, 3, 4))
	negative := Build(Plain, KV{Value: []byte("v")})
	Batch(negative).SetBaseOffset(-58493811630788560)
	f.Add(negative)
	f.Fuzz(func(t *testing.T, b []byte) {
		first, rest, err := Next(b)
		if err != nil {
			return
		}
		if len(first)+len(rest) != len(b) || first.LastOffset() < first.BaseOffset() {
			t.Fatal("impossible cut")
		}
		_ = first.CheckProduced()
		_, _ = first.Marker()
		_ = first.HasKeys()
		first.SetBaseOffset(max(0, first.BaseOffset()>>1)) // what a partition gives: neither negative nor near the end of int64
		if o, _, err := first.AtTime(0, 0); err == nil && o > first.LastOffset() && first.CheckProduced() == nil {
			t.Fatalf("offset %d above %d", o, first.LastOffset())
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	kvs := make([]KV, 256)
	for i := range kvs {
		kvs[i] = KV{Timestamp: int64(i), Value: make([]byte, 1024)}
	}
	data := Build(Plain, kvs...)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		v, _, err := Next(data)
		if err != nil || v.CheckCRC() != nil || v.CheckProduced() != nil {
			b.Fatal(err)
		}
	}
}
