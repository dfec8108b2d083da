package catalog

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/base/meta/metamem"
)

func sampleManifest(t testing.TB) []byte {
	t.Helper()
	p := Partition{TopicID{1}, 2}
	single := object("0-0000000001-m0000000002", true, Range{Partition: p, Base: 5, End: 9, MaxTimestamp: 7, Bytes: 3})
	set := object("0-0000000001-m0000000003", false, Range{Partition: p, Base: 9, End: 10})
	b, err := NewManifest(Replace{
		Deadline: 4, Outputs: []NewObject{single, set},
		Inputs: []Visible{{Object: &Object{Name: "0-0000000001-f0000000001"}, Rev: 8, key: setKey("0-0000000001-f0000000001")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Golden bytes of version 1.
func TestManifestGolden(t *testing.T) {
	b := sampleManifest(t)
	const want = "0100000000000000040000000100000018302d303030303030303030312d6630303030303030303031000000212f76312f736574732f30" +
		"2d303030303030303030312d663030303030303030303100000000000000080000000200000018302d303030303030303030312d6d3030" +
		"3030303030303032000000402f76312f6f626a732f30313030303030303030303030303030303030303030303030303030303030302f32" +
		"2f30303030303030303030303030303030303030350000005e0100000018302d303030303030303030312d6d3030303030303030303200" +
		"000000000003e80000000000000001000000000000000a0000000000000040000000000000000100000000000000090000000000000007" +
		"000000000000000300000000290100000000000003e80000000000000001000000000000000a0000000000000040000000000000000100" +
		"000018302d303030303030303030312d6d30303030303030303033000000212f76312f736574732f302d303030303030303030312d6d30" +
		"303030303030303033000000290100000000000003e80000000000000001000000000000000a0000000000000040000000000000000100" +
		"0000290100000000000003e80000000000000001000000000000000a00000000000000400000000000000001"
	if got := hex.EncodeToString(b); got != want {
		t.Errorf("got %s", got)
	}
	m, err := DecodeManifest(b)
	if err != nil || len(m.inputs) != 1 || len(m.outputs) != 2 || m.deadline != 4 || m.inputs[0].rev != 8 {
		t.Fatalf("%+v %v", m, err)
	}
	for n := range b {
		if _, err := DecodeManifest(b[:n]); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
}

func FuzzManifest(f *testing.F) {
	f.Add(sampleManifest(f))
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := DecodeManifest(b)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		for _, o := range m.outputs {
			if !namesObject(o.key) {
				t.Fatalf("key %q", o.key)
			}
		}
	})
}

// A staged replacement whose single's key was taken meanwhile shows it as a set:
// nobody's offsets are hidden.
func TestStagedKeyIsTaken(t *testing.T) {
	ctx := context.Background()
	c := open(t, metamem.New())
	w, _, err := c.Register(ctx, Registration{Kind: FileLog, URI: "file"})
	if err != nil {
		t.Fatal(err)
	}
	topic, _ := c.CreateTopic(ctx, Topic{Name: "a", Partitions: 1})
	p := Partition{topic.ID, 0}
	if err := w.Commit(ctx, Commit{Epoch: 1, LSN: 1, Objects: []NewObject{object("in", false, Range{Partition: p, Base: 0, End: 10})}}); err != nil {
		t.Fatal(err)
	}
	in, _ := c.Lookup("in")
	out := object("out", true, Range{Partition: p, Base: 0, End: 10})
	out.Object.Generation = 1
	r := Replace{Inputs: []Visible{in}, Outputs: []NewObject{out}}
	manifest, err := NewManifest(r)
	if err != nil {
		t.Fatal(err)
	}
	s, err := w.Stage(ctx, "m", manifest, r)
	if err != nil {
		t.Fatal(err)
	}
	other := object("other", true, Range{Partition: p, Base: 0, End: 4})
	other.Object.Generation = 2
	if err := w.Replace(ctx, Replace{Outputs: []NewObject{other}}); err != nil {
		t.Fatal(err)
	}
	done := c.announce([]NewObject{out})
	defer done()
	if err := w.Carry(ctx, s, append(bytes.Clone(manifest), 0)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("another manifest: %v", err)
	}
	for range 2 { // the second time after an answer was lost
		if err := w.Carry(ctx, s, manifest); err != nil && !errors.Is(err, ErrFenced) {
			t.Fatal(err)
		}
	}
	var got []string
	for _, x := range c.Extents(p) {
		got = append(got, x.Object.Name)
	}
	if diff := cmp.Diff([]string{"other", "out"}, got); diff != "" {
		t.Error(diff)
	}
	if all, err := c.AllStaged(ctx); err != nil || len(all) != 0 {
		t.Error(all, err)
	}
	// An input that changed ends it before it begins.
	if _, err := w.Stage(ctx, "m2", manifest, r); !errors.Is(err, ErrChanged) {
		t.Error(err)
	}
}
