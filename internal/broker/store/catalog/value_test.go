package catalog

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/looptape/looptape/internal/base/meta"
)

var (
	aTopic  = Topic{Name: "ab", Partitions: 3, Internal: true, Created: 5, Config: map[string]string{"k": "v"}}
	aPart   = part{Leader: 1, BrokerEpoch: 2, LeaderEpoch: 3, LogStart: 4, Epochs: []EpochStart{{3, 9}}}
	anObj   = &Object{Name: "n", Size: 100, Generation: 1, Partitions: 1, IndexPos: 10, IndexLen: 64, IndexCRC: 7, Blocks: 1}
	aRange  = Range{Base: 5, End: 9, MaxTimestamp: 11, Bytes: 12, TailDepth: 2}
	aFence  = fence{State: fenceSealed, By: 1, ByEpoch: 2, FinalLSN: 3}
	aRecord = walRecord{Kind: ObjectLog, URI: "file", Committed: 9, Slot: 7, Done: true}
)

// kinds are all kinds of values: one of each, and decoding followed by encoding.
// Their golden bytes of version 1 are in testdata/golden.
var kinds = map[string]struct {
	value []byte
	again func([]byte) ([]byte, error)
}{
	"cluster": {encodeCluster([16]byte{1, 2}), func(b []byte) ([]byte, error) {
		v, err := decodeCluster(b)
		return encodeCluster(v), err
	}},
	"topic": {encodeTopic(aTopic), func(b []byte) ([]byte, error) {
		v, err := decodeTopic(b)
		return encodeTopic(v), err
	}},
	"name": {encodeName(TopicID{9}), func(b []byte) ([]byte, error) {
		v, err := decodeName(b)
		return encodeName(v), err
	}},
	"part": {encodePart(aPart), func(b []byte) ([]byte, error) {
		v, err := decodePart(b)
		return encodePart(v), err
	}},
	"set": {encodeSet(anObj), func(b []byte) ([]byte, error) {
		v, err := decodeSet("n", b)
		return encodeSet(v), err
	}},
	"obj": {encodeObj(anObj, aRange), func(b []byte) ([]byte, error) {
		o, r, err := decodeObj(Partition{}, 0, b)
		return encodeObj(o, r), err
	}},
	"fence": {encodeFence(aFence), func(b []byte) ([]byte, error) {
		v, err := decodeFence(b)
		return encodeFence(v), err
	}},
	"wal": {encodeWAL(aRecord), func(b []byte) ([]byte, error) {
		v, err := decodeWAL(b)
		return encodeWAL(v), err
	}},
	"live": {encodeLive(Broker{Epoch: 3, Address: "h:9092", Rack: "r"}), func(b []byte) ([]byte, error) {
		v, err := decodeLive(b)
		return encodeLive(v), err
	}},
	"log-id": {encodeLogID(LogID{3, 4}), func(b []byte) ([]byte, error) {
		v, err := decodeLogID("n", b)
		return encodeLogID(v), err
	}},
	"text": {encodeText("gap"), func(b []byte) ([]byte, error) {
		v, err := decodeText("n", b)
		return encodeText(v), err
	}},
	"number": {encodeInt(258), func(b []byte) ([]byte, error) {
		v, err := decodeInt("n", b)
		return encodeInt(v), err
	}},
	"origin": {encodeOrigin(origin{base: 77, line: 0xfedcba9876543210}), func(b []byte) ([]byte, error) {
		v, err := decodeOrigin(b)
		return encodeOrigin(v), err
	}},
}

// Golden bytes of version 1 of every kind of value: written as ever, and read.
func TestGoldenValues(t *testing.T) {
	for name, k := range kinds {
		golden(t, name+".v1", k.value)
		if again, err := k.again(k.value); err != nil || !bytes.Equal(again, k.value) {
			t.Errorf("%s: %x became %x, %v", name, k.value, again, err)
		}
	}
}

// A value that is cut, longer, or of another version is refused.
func TestDamagedValues(t *testing.T) {
	for name, k := range kinds {
		for i := range k.value {
			if _, err := k.again(k.value[:i]); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s cut at %d: %v", name, i, err)
			}
		}
		if _, err := k.again(append(bytes.Clone(k.value), 0)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s with a byte too many: %v", name, err)
		}
		other := bytes.Clone(k.value)
		other[0]++
		if _, err := k.again(other); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s of another version: %v", name, err)
		}
	}
}

func TestDecodeValues(t *testing.T) {
	topic, err := decodeTopic(encodeTopic(aTopic))
	if diff := cmp.Diff(aTopic, topic, cmpopts.IgnoreUnexported(Topic{})); diff != "" || err != nil {
		t.Error(diff, err)
	}
	p, err := decodePart(encodePart(aPart))
	if diff := cmp.Diff(aPart, p); diff != "" || err != nil {
		t.Error(diff, err)
	}
	o, r, err := decodeObj(Partition{}, 5, encodeObj(anObj, aRange))
	if diff := cmp.Diff(anObj, o) + cmp.Diff(aRange, r); diff != "" || err != nil {
		t.Error(diff, err)
	}
	f, err := decodeFence(encodeFence(aFence))
	if f != aFence || err != nil {
		t.Error(f, err)
	}
	w, err := decodeWAL(encodeWAL(aRecord))
	if w != aRecord || err != nil {
		t.Error(w, err)
	}
	for name, err := range map[string]error{
		"version": func() error { _, err := decodeInt("x", []byte{2, 0, 0, 0, 0, 0, 0, 0, 0}); return err }(),
		"short":   func() error { _, err := decodePart(encodePart(aPart)[:20]); return err }(),
		"left over": func() error {
			_, err := decodeFence(append(encodeFence(aFence), 0))
			return err
		}(),
		"list": func() error {
			b := encodePart(part{})
			copy(b[len(b)-4:], []byte{255, 255, 255, 255})
			_, err := decodePart(b)
			return err
		}(),
		"end below base": func() error { _, _, err := decodeObj(Partition{}, 10, encodeObj(anObj, aRange)); return err }(),
	} {
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeys(t *testing.T) {
	p := Partition{Topic: TopicID{1, 0xab}, Index: 7}
	for got, want := range map[string]string{
		topicKey(p.Topic):     "/v1/topics/01ab0000000000000000000000000000",
		partKey(p):            "/v1/parts/01ab0000000000000000000000000000/7",
		objKey(p, 12):         "/v1/objs/01ab0000000000000000000000000000/7/00000000000000000012",
		fenceKey(3, 4):        "/v1/fence/3/00000000000000000004",
		walKey(3, 4):          "/v1/wal/3/00000000000000000004",
		gcKey(5, "o"):         "/v1/gc/00000000000000000005/o",
		setKey("o"):           "/v1/sets/o",
		nameKey("t"):          "/v1/names/t",
		sweptKey("o"):         "/v1/swept/o",
		deletedKey(TopicID{}): "/v1/deleted/00000000000000000000000000000000",
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	got, base, ok := parseObj(objKey(p, 12)[len(prefixObjs):])
	if got != p || base != 12 || !ok {
		t.Error(got, base, ok)
	}
	for _, bad := range []string{"", "x", "01/1/2", "01ab0000000000000000000000000000/7", "01AB0000000000000000000000000000/7/1", "01ab0000000000000000000000000000/-1/1"} {
		if _, _, ok := parseObj(bad); ok {
			t.Errorf("%q was taken", bad)
		}
	}
}

// Nothing makes a decoder fall, and what it takes it takes in one form only.
func FuzzValues(f *testing.F) {
	for _, k := range kinds {
		f.Add(k.value, "01ab0000000000000000000000000000/7/00000000000000000012")
	}
	f.Fuzz(func(t *testing.T, b []byte, key string) {
		for name, k := range kinds {
			if again, err := k.again(b); err == nil && !bytes.Equal(again, b) {
				t.Fatalf("%s: %x became %x", name, b, again)
			}
		}
		for _, prefix := range []string{
			prefixTopics, prefixParts, prefixObjs, prefixSets, prefixFence, prefixWAL, prefixWALEnd, prefixGC, prefixDeleted, prefixBrokers, prefixQuarantine,
			keyController, "",
		} {
			for _, gone := range []bool{false, true} {
				// The way a value takes from a watch into the index.
				ch, err := decode(meta.Event{Key: prefix + key, Value: b, ModRev: 1, Deleted: gone})
				if err == nil {
					_, _, _ = newIndex().apply(ch)
				}
			}
		}
	})
}
