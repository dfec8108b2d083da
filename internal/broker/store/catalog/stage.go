package catalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"

	"github.com/looptape/looptape/internal/base/meta"
)

// A replacement that needs more keys than a transaction has is staged (P8). What
// it does is written down as an object, the manifest; one transaction, which
// compares that the inputs are unchanged, puts a key that names it: from then on
// it is done, whoever carries it out. Outputs become visible some at a time, then
// inputs go. Meanwhile both may be seen, and readers take the output, whose
// generation is higher.

// Staged is the key of a staged replacement.
type Staged struct {
	Name string // of its manifest
	Size int64
	CRC  uint32 // CRC32C of it
	key  string
	rev  int64
}

// Manifest is a staged replacement as it is written down.
type Manifest struct {
	deadline int64 // ms, when inputs may be deleted
	inputs   []manifestInput
	outputs  []manifestOutput
}

type manifestInput struct {
	name, key string
	rev       int64
}

type manifestOutput struct {
	name, key string
	value     []byte
	set       []byte // its value as a set, should the key be taken
}

// MaxManifest bounds a manifest's bytes.
const MaxManifest = 16 << 20

var crcTable = crc32.MakeTable(crc32.Castagnoli)

// NewManifest writes a replacement down. Covered and Steady can't be staged.
func NewManifest(r Replace) ([]byte, error) {
	if len(r.Inputs) > MaxInputs || len(r.Covered) > 0 || len(r.Steady) > 0 {
		return nil, fmt.Errorf("stage a replacement: %w: %d inputs, %d covered, %d steady", meta.ErrTooLarge, len(r.Inputs), len(r.Covered), len(r.Steady))
	}
	e := newEncoder()
	e.i64(r.Deadline)
	e.u32(uint32(len(r.Inputs)))
	for _, v := range r.Inputs {
		e.str(v.Object.Name)
		e.str(v.key)
		e.i64(v.Rev)
	}
	e.u32(uint32(len(r.Outputs)))
	for _, o := range r.Outputs {
		op, err := visibleOp(o)
		if err != nil {
			return nil, err
		}
		e.str(o.Object.Name)
		e.str(op.Key)
		e.str(string(op.Value))
		e.str(string(encodeSet(o.Object)))
	}
	if len(e.bytes()) > MaxManifest {
		return nil, fmt.Errorf("stage a replacement: %w: manifest of %d bytes", meta.ErrTooLarge, len(e.bytes()))
	}
	return e.bytes(), nil
}

// DecodeManifest reads a manifest. Its keys are ones that name objects.
func DecodeManifest(b []byte) (*Manifest, error) {
	d := newDecoder("manifest", b)
	m := &Manifest{deadline: d.i64()}
	for range d.list(16) {
		m.inputs = append(m.inputs, manifestInput{name: d.str(), key: d.str(), rev: d.i64()})
	}
	for range d.list(16) {
		o := manifestOutput{name: d.str(), key: d.str()}
		o.value, o.set = []byte(d.str()), []byte(d.str())
		m.outputs = append(m.outputs, o)
	}
	if err := d.done(); err != nil {
		return nil, err
	}
	if len(m.inputs) > MaxInputs {
		return nil, fmt.Errorf("%w: manifest with %d inputs", ErrCorrupt, len(m.inputs))
	}
	for _, in := range m.inputs {
		if _, err := decode(meta.Event{Key: in.key, Deleted: true}); err != nil || !namesObject(in.key) {
			return nil, fmt.Errorf("%w: manifest with the input key %q", ErrCorrupt, in.key)
		}
	}
	for _, o := range m.outputs {
		ch, err := decode(meta.Event{Key: o.key, Value: o.value})
		if err != nil || !namesObject(o.key) || ch.object.Name != o.name {
			return nil, fmt.Errorf("%w: manifest with the output key %q", ErrCorrupt, o.key)
		}
		if _, err := decodeSet(o.name, o.set); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func namesObject(key string) bool { return strings.HasPrefix(key, prefixSets) || isSingle(key) }

// Stage decides a replacement whose manifest is stored under that name. When it
// returns nil the replacement will be carried out; Carry does it. ErrChanged,
// ErrFenced as Replace.
func (w *Writer) Stage(ctx context.Context, name string, manifest []byte, r Replace) (Staged, error) {
	s := Staged{Name: name, Size: int64(len(manifest)), CRC: crc32.Checksum(manifest, crcTable), key: stagedKey(name)}
	value := encodeStaged(s)
	t := meta.Txn{
		If: []meta.Cmp{w.active(), meta.Absent(s.key)}, Then: []meta.Op{meta.Put(s.key, value)}, ElseGet: []string{w.fenceKey(), s.key},
	}
	for _, v := range r.Inputs {
		t.If = append(t.If, meta.ModRevIs(v.key, v.Rev))
	}
	res, err := w.c.txn(ctx, t)
	if err != nil {
		return s, fmt.Errorf("stage a replacement: %w", err)
	}
	rev, mine := outcome(res, s.key, value)
	switch {
	case mine:
		s.rev = rev
		return s, nil
	case w.fenced(res.Else):
		return s, fmt.Errorf("stage a replacement: %w", ErrFenced)
	}
	return s, fmt.Errorf("stage a replacement: %w", errors.Join(ErrChanged, w.c.wait(ctx, res.Rev)))
}

func encodeStaged(s Staged) []byte {
	e := newEncoder()
	e.i64(s.Size)
	e.u32(s.CRC)
	return e.bytes()
}

// AllStaged returns the replacements that are decided and not carried out.
func (c *Catalog) AllStaged(ctx context.Context) (all []Staged, err error) {
	_, err = c.store.Scan(ctx, prefixStaged, func(kv meta.KV) error {
		d := newDecoder("staged replacement", kv.Value)
		s := Staged{Name: kv.Key[len(prefixStaged):], Size: d.i64(), CRC: d.u32(), key: kv.Key, rev: kv.ModRev}
		if s.Size < 0 || s.Size > MaxManifest {
			d.bad = true
		}
		all = append(all, s)
		return d.done()
	})
	if err != nil {
		return nil, fmt.Errorf("list staged replacements: %w", err)
	}
	return all, nil
}

// Carry carries a staged replacement out, from wherever an earlier attempt left
// it. When it returns nil, it is done and forgotten; the manifest may be deleted.
func (w *Writer) Carry(ctx context.Context, s Staged, manifest []byte) error {
	if int64(len(manifest)) != s.Size || crc32.Checksum(manifest, crcTable) != s.CRC {
		return fmt.Errorf("carry out replacement %s: %w: its manifest is not the one decided on", s.Name, ErrCorrupt)
	}
	m, err := DecodeManifest(manifest)
	if err != nil {
		return fmt.Errorf("carry out replacement %s: %w", s.Name, err)
	}
	if err := w.carry(ctx, s, m); err != nil {
		return fmt.Errorf("carry out replacement %s: %w", s.Name, err)
	}
	return nil
}

func (w *Writer) carry(ctx context.Context, s Staged, m *Manifest) error {
	leaving := map[string]int64{}
	for _, in := range m.inputs {
		leaving[in.key] = in.rev
	}
	// While the key is there nobody else works on these objects. An output that is
	// in place already is put again, which changes nothing.
	for batch := range slices.Chunk(m.outputs, retireBatch) {
		if err := w.show(ctx, s, batch, leaving, false); err != nil {
			return err
		}
	}
	for _, in := range m.inputs {
		t := meta.Txn{
			If:      []meta.Cmp{w.active(), meta.ModRevIs(in.key, in.rev)},
			Then:    []meta.Op{meta.Delete(in.key), meta.Put(gcKey(m.deadline, in.name), encodeInt(0))},
			ElseGet: []string{w.fenceKey(), in.key},
		}
		res, err := w.c.txn(ctx, t)
		if err != nil {
			return err
		}
		if !res.OK && w.fenced(res.Else) {
			return ErrFenced
		}
		// Not OK: it went before, or an output has taken its key.
	}
	t := meta.Txn{If: []meta.Cmp{w.active()}, Then: []meta.Op{meta.Delete(s.key)}, ElseGet: []string{w.fenceKey()}}
	for _, o := range m.outputs {
		if _, replaced := leaving[o.key]; replaced {
			i := slices.IndexFunc(m.inputs, func(in manifestInput) bool { return in.key == o.key })
			t.Then = append(t.Then, meta.Put(gcKey(m.deadline, m.inputs[i].name), encodeInt(0)))
		}
	}
	res, err := w.c.txn(ctx, t)
	if err == nil && !res.OK {
		err = ErrFenced
	}
	if err != nil {
		return err
	}
	return w.c.wait(ctx, res.Rev)
}

// show makes outputs visible, all of them under the keys of sets if one of their
// own is taken by somebody else.
func (w *Writer) show(ctx context.Context, s Staged, outputs []manifestOutput, leaving map[string]int64, asSets bool) error {
	t := meta.Txn{If: []meta.Cmp{w.active(), meta.Exists(s.key)}, ElseGet: []string{w.fenceKey(), s.key}}
	for _, o := range outputs {
		if asSets {
			t.Then = append(t.Then, meta.Put(setKey(o.name), o.set))
			continue
		}
		t.Then = append(t.Then, meta.Put(o.key, o.value))
		if rev, replaced := leaving[o.key]; replaced {
			t.If = append(t.If, meta.ModRevIs(o.key, rev))
		} else {
			t.If = append(t.If, meta.Absent(o.key))
		}
		t.ElseGet = append(t.ElseGet, o.key)
	}
	res, err := w.c.txn(ctx, t)
	if err != nil || res.OK {
		return err
	}
	if w.fenced(res.Else) {
		return ErrFenced
	}
	there := map[string][]byte{}
	for _, kv := range res.Else {
		there[kv.Key] = kv.Value
	}
	if _, ok := there[s.key]; !ok || asSets {
		return fmt.Errorf("%w: somebody else carried it out", ErrFenced)
	}
	if slices.ContainsFunc(outputs, func(o manifestOutput) bool { return !bytes.Equal(there[o.key], o.value) }) {
		if len(outputs) > 1 {
			for _, o := range outputs {
				if err := w.show(ctx, s, []manifestOutput{o}, leaving, false); err != nil {
					return err
				}
			}
			return nil
		}
		return w.show(ctx, s, outputs, leaving, true)
	}
	return nil // an earlier attempt put them
}
