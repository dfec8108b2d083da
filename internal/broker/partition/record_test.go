package partition

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/store/catalog"
)

func sampleRecord() []byte {
	b := batch.Build(batch.Header{BaseOffset: 7, LeaderEpoch: 1, ProducerID: -1, ProducerEpoch: -1, Sequence: -1}, batch.KV{Value: []byte("x")}, batch.KV{})
	return append(encodeRecord(nil, ID{Topic: catalog.TopicID{1, 2}, Index: 3}, 1, 7, 8, 1), b...)
}

// Golden header of version 1: it is what recovery finds in the log.
func TestRecord(t *testing.T) {
	data := sampleRecord()
	want := "01000000" + "01020000000000000000000000000000" + "00000003" + "00000001" + "0000000000000007" + "0000000000000008" + "00000001"
	if got := hex.EncodeToString(data[:recordHeader]); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	r, err := DecodeRecord(data)
	if err != nil || r.ID.Topic != (catalog.TopicID{1, 2}) || r.ID.Index != 3 || r.LeaderEpoch != 1 || r.Base != 7 || r.Last != 8 || !bytes.Equal(r.Batches, data[recordHeader:]) {
		t.Errorf("%+v %v", r, err)
	}
	for name, change := range map[string]func([]byte) []byte{
		"short":        func(b []byte) []byte { return b[:40] },
		"no batch":     func(b []byte) []byte { return b[:recordHeader] },
		"version":      func(b []byte) []byte { b[0] = 2; return b },
		"base":         func(b []byte) []byte { b[35] = 6; return b },
		"last":         func(b []byte) []byte { b[43] = 9; return b },
		"count":        func(b []byte) []byte { b[47] = 2; return b },
		"batch is cut": func(b []byte) []byte { return b[:len(b)-1] },
	} {
		if _, err := DecodeRecord(change(bytes.Clone(data))); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzRecord(f *testing.F) {
	f.Add(sampleRecord())
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeRecord(b)
		if err == nil && r.Last < r.Base {
			t.Fatal("record without offsets")
		}
	})
}

func TestOffsetForEpoch(t *testing.T) {
	p := &Partition{high: 50, epoch: 7, epochs: []batch.EpochStart{{Epoch: 2, Base: 5}, {Epoch: 4, Base: 20}}}
	for _, c := range []struct {
		epoch, want int32
		end         int64
	}{{1, 1, 5}, {2, 2, 20}, {3, 2, 20}, {4, 4, 50}, {5, 4, 50}, {7, 7, 50}, {8, -1, -1}, {-1, -1, -1}} {
		if e, o := p.OffsetForEpoch(c.epoch); e != c.want || o != c.end {
			t.Errorf("epoch %d: %d, %d; want %d, %d", c.epoch, e, o, c.want, c.end)
		}
	}
	if e, o := (&Partition{epoch: 3, high: 0}).OffsetForEpoch(3); e != 3 || o != 0 {
		t.Errorf("empty: %d %d", e, o)
	}
	if all := appendEpoch(make([]batch.EpochStart, maxEpochs), batch.EpochStart{Epoch: 9}); len(all) != maxEpochs || all[maxEpochs-1].Epoch != 9 {
		t.Errorf("%d epochs", len(all))
	}
}

func TestNotify(t *testing.T) {
	p := &Partition{high: 5}
	w := NewWaiter()
	fired := func() bool {
		select {
		case <-w.C:
			return true
		default:
			return false
		}
	}
	if p.Notify(4, w); !fired() {
		t.Error("there was something already")
	}
	p.Notify(5, w)
	p.Notify(6, w)
	if p.wake(); fired() {
		t.Error("woken for nothing")
	}
	p.high = 6
	p.wake()
	p.wake()
	if !fired() || fired() || len(p.waiters) != 1 {
		t.Error("one wake-up, for the one that waited for less")
	}
	p.Cancel(w)
	p.high = 9
	if p.wake(); fired() || len(p.waiters) != 0 {
		t.Error("woken after cancel")
	}
	p.Notify(9, w)
	if p.close(); !fired() {
		t.Error("not woken by close")
	}
	if p.Notify(9, w); !fired() {
		t.Error("a closed partition wakes at once")
	}
}
