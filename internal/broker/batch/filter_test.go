package batch

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// packed returns the batch with its records compressed.
func packed(t testing.TB, b []byte, codec int, framed bool) Batch {
	t.Helper()
	out, err := compress(append([]byte(nil), b[:HeaderSize]...), codec, b[HeaderSize:], framed)
	if err != nil {
		t.Fatal(err)
	}
	v := Batch(out)
	binary.BigEndian.PutUint32(out[posLength:], uint32(len(out)-lengthPrefix))
	binary.BigEndian.PutUint16(out[posAttributes:], uint16(v.Attributes())|uint16(codec))
	v.seal()
	if err := Check(v); err != nil {
		t.Fatal(err)
	}
	return v
}

type seen struct {
	Offset, Time int64
	Key, Value   string
}

func records(t testing.TB, b Batch) (all []seen) {
	t.Helper()
	if err := Check(b); err != nil {
		t.Fatal(err)
	}
	body, err := b.Body()
	if err != nil {
		t.Fatal(err)
	}
	if err := WalkRecords(body, b.Count(), func(r Record) bool {
		v := string(r.Value)
		if r.Value == nil {
			v = "<null>"
		}
		all = append(all, seen{b.BaseOffset() + int64(r.OffsetDelta), b.BaseTimestamp() + r.TimestampDelta, string(r.Key), v})
		return true
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestFilter(t *testing.T) {
	var kvs []KV
	for i := range 10 {
		kv := KV{Timestamp: 1000 - int64(i)*7, Key: fmt.Append(nil, "k", i), Value: bytes.Repeat([]byte{byte('a' + i)}, 9000)}
		if i == 4 {
			kv.Value = nil
		}
		kvs = append(kvs, kv)
	}
	plain := Build(Header{BaseOffset: 1 << 40, LeaderEpoch: 3, Attributes: Transactional, ProducerID: 7, ProducerEpoch: 2, Sequence: 5}, kvs...)
	for _, c := range []struct {
		codec  int
		framed bool
	}{{0, false}, {1, false}, {2, false}, {2, true}, {3, false}, {4, false}} {
		b := Batch(plain)
		if c.codec > 0 {
			b = packed(t, plain, c.codec, c.framed)
		}
		before := bytes.Clone(b)
		all := records(t, b)
		for _, horizon := range []int64{-1, 5_000_000} {
			f, err := b.Filter(func(r Record) bool { return r.OffsetDelta%2 == 0 }, horizon)
			if err != nil || f.Kept != 5 || f.Dropped != 5 {
				t.Fatal(c, f.Kept, f.Dropped, err)
			}
			var want []seen
			for i := 0; i < 10; i += 2 {
				want = append(want, all[i])
			}
			if diff := cmp.Diff(want, records(t, f.Batch)); diff != "" {
				t.Fatal(c, horizon, diff)
			}
			got := f.Batch
			if got.BaseOffset() != b.BaseOffset() || got.LastOffset() != b.LastOffset() || got.LastSequence() != b.LastSequence() ||
				got.ProducerID() != 7 || got.ProducerEpoch() != 2 || got.LeaderEpoch() != 3 || !got.IsTransactional() ||
				got.Compression() != c.codec || got.MaxTimestamp() != 1000 || isXerial(got[HeaderSize:]) != c.framed {
				t.Errorf("%+v: header changed", c)
			}
			ms, has := got.DeleteHorizon()
			if has != (horizon >= 0) || has && ms != horizon {
				t.Errorf("%+v: horizon %d %t", c, ms, has)
			}
			// A horizon is set once.
			again, err := got.Filter(func(r Record) bool { return r.OffsetDelta > 0 }, 9_000_000)
			if err != nil {
				t.Fatal(err)
			}
			if ms, _ := again.Batch.DeleteHorizon(); has && ms != horizon {
				t.Errorf("%+v: horizon moved to %d", c, ms)
			}
			if diff := cmp.Diff(want[1:], records(t, again.Batch)); diff != "" {
				t.Error(diff)
			}
			if again.Batch.MaxTimestamp() != 1000-2*7 {
				t.Error(again.Batch.MaxTimestamp())
			}
		}
		if f, err := b.Filter(func(Record) bool { return true }, -1); err != nil || &f.Batch[0] != &b[0] {
			t.Error("an unchanged batch was copied", err)
		}
		if f, err := b.Filter(func(Record) bool { return false }, -1); err != nil || f.Batch != nil || f.Dropped != 10 {
			t.Error(f, err)
		}
		e := b.Empty()
		if len(records(t, e)) != 0 || e.LastOffset() != b.LastOffset() || e.LastSequence() != b.LastSequence() || e.ProducerID() != 7 || e.MaxTimestamp() != 1000 {
			t.Error("empty batch")
		}
		if !bytes.Equal(before, b) {
			t.Error("the batch itself was changed")
		}
	}
	stamped := Batch(bytes.Clone(plain))
	stamped.SetLogAppendTime(77)
	f, err := stamped.Filter(func(r Record) bool { return r.OffsetDelta > 3 }, -1)
	if err != nil || f.Batch.MaxTimestamp() != 77 {
		t.Error("append time is the log's", err)
	}
}

func TestHasKeysLooksIntoCompressed(t *testing.T) {
	keyed := Build(Plain, KV{Key: []byte("k")}, KV{Key: []byte{}})
	half := Build(Plain, KV{Key: []byte("k")}, KV{Value: []byte("v")})
	for codec := range 5 {
		for b, want := range map[*[]byte]bool{&keyed: true, &half: false} {
			v := Batch(*b)
			if codec > 0 {
				v = packed(t, *b, codec, false)
			}
			if v.HasKeys() != want {
				t.Errorf("codec %d: %t", codec, !want)
			}
		}
	}
	broken := packed(t, keyed, 4, false)
	clear(broken[HeaderSize:])
	if broken.HasKeys() {
		t.Error("unreadable records have keys")
	}
}

func FuzzFilter(f *testing.F) {
	f.Add(Build(Plain, KV{Key: []byte("k"), Value: []byte("v")}, KV{Key: []byte("l")}), uint8(1), int64(-1))
	f.Add([]byte(packed(f, Build(Plain, KV{Key: []byte("k")}), 4, false)), uint8(0), int64(1<<40))
	f.Fuzz(func(t *testing.T, b []byte, mask uint8, horizon int64) {
		v, _, err := Next(b)
		if err != nil {
			return
		}
		got, err := v.Filter(func(r Record) bool { return mask>>(r.OffsetDelta%8)&1 == 0 }, horizon)
		if err != nil || got.Batch == nil {
			return
		}
		if err := Check(got.Batch); err != nil && got.Dropped > 0 {
			t.Fatal(err)
		}
		if got.Batch.LastOffset() != v.LastOffset() || int(got.Batch.Count()) != got.Kept {
			t.Fatal("offsets or count changed")
		}
		_ = Check(v.Empty())
	})
}
