package catalog

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var (
	aTopic  = Topic{Name: "ab", Partitions: 3, Internal: true, Created: 5, Config: map[string]string{"k": "v"}}
	aPart   = part{Leader: 1, BrokerEpoch: 2, LeaderEpoch: 3, LogStart: 4, Epochs: []EpochStart{{3, 9}}}
	anObj   = &Object{Name: "n", Size: 100, Generation: 1, Partitions: 1, IndexPos: 10, IndexLen: 64, IndexCRC: 7, Blocks: 1}
	aRange  = Range{Base: 5, End: 9, MaxTimestamp: 11, Bytes: 12, TailDepth: 2}
	aFence  = fence{State: fenceSealed, By: 1, ByEpoch: 2, FinalLSN: 3}
	aRecord = walRecord{Kind: ObjectLog, URI: "file", Committed: 9, Slot: 7, Done: true}
)

// Golden bytes of version 1 of every value.
func TestGoldenValues(t *testing.T) {
	object := "0000000000000064" + "00000001" + "00000001" + "000000000000000a" + "0000000000000040" + "00000007" + "00000001"
	for name, c := range map[string]struct {
		got  []byte
		want string
	}{
		"cluster": {encodeCluster([16]byte{1, 2}), "01" + "01020000000000000000000000000000"},
		"topic":   {encodeTopic(aTopic), "01" + "00000002" + "6162" + "00000003" + "01" + "0000000000000005" + "00000001" + "00000001" + "6b" + "00000001" + "76"},
		"name":    {encodeName(TopicID{9}), "01" + "09000000000000000000000000000000"},
		"part":    {encodePart(aPart), "01" + "00000001" + "0000000000000002" + "00000003" + "0000000000000004" + "00000001" + "00000003" + "0000000000000009"},
		"set":     {encodeSet(anObj), "01" + object},
		"obj":     {encodeObj(anObj, aRange), "01" + "00000001" + "6e" + object + "0000000000000009" + "000000000000000b" + "000000000000000c" + "02"},
		"fence":   {encodeFence(aFence), "01" + "02" + "00000001" + "0000000000000002" + "0000000000000003"},
		"wal":     {encodeWAL(aRecord), "01" + "02" + "00000004" + "66696c65" + "0000000000000009" + "0000000000000007" + "01"},
		"number":  {encodeInt(258), "01" + "0000000000000102"},
	} {
		if got := hex.EncodeToString(c.got); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, c.want)
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

func FuzzValues(f *testing.F) {
	for _, b := range [][]byte{encodeTopic(aTopic), encodePart(aPart), encodeSet(anObj), encodeObj(anObj, aRange), encodeFence(aFence), encodeWAL(aRecord), encodeInt(1)} {
		f.Add(b, "01ab0000000000000000000000000000/7/00000000000000000012")
	}
	f.Fuzz(func(t *testing.T, b []byte, key string) {
		same := func(what string, again []byte, err error) {
			if err == nil && !bytes.Equal(again, b) {
				t.Fatalf("%s: %x became %x", what, b, again)
			}
		}
		if v, err := decodePart(b); err == nil {
			same("part", encodePart(v), nil)
		}
		if v, err := decodeSet("n", b); err == nil {
			same("set", encodeSet(v), nil)
		}
		if o, r, err := decodeObj(Partition{}, 0, b); err == nil {
			same("obj", encodeObj(o, r), nil)
		}
		if v, err := decodeFence(b); err == nil {
			same("fence", encodeFence(v), nil)
		}
		_, _ = decodeTopic(b)
		_, _ = decodeWAL(b)
		_, _ = decodeCluster(b)
		_, _ = decodeName(b)
		_, _ = decodeInt("n", b)
		_, _, _ = parseObj(key)
		_, _ = parsePartition(key)
		_, _, _ = parseNumbered(key)
	})
}
