package catalog

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
)

// Every value starts with its version. Integers are big-endian and of fixed
// width; strings and lists carry a length of 4 bytes. Decoders refuse unknown
// versions, lengths beyond the value, and bytes left over.
const valueVersion = 1

type encoder struct{ b []byte }

func newEncoder() *encoder       { return &encoder{b: []byte{valueVersion}} }
func (e *encoder) u8(v uint8)    { e.b = append(e.b, v) }
func (e *encoder) u32(v uint32)  { e.b = binary.BigEndian.AppendUint32(e.b, v) }
func (e *encoder) i32(v int32)   { e.u32(uint32(v)) }
func (e *encoder) i64(v int64)   { e.b = binary.BigEndian.AppendUint64(e.b, uint64(v)) }
func (e *encoder) raw(v []byte)  { e.b = append(e.b, v...) }
func (e *encoder) str(v string)  { e.u32(uint32(len(v))); e.b = append(e.b, v...) }
func (e *encoder) flag(v bool)   { e.u8(map[bool]uint8{true: 1}[v]) }
func (e *encoder) bytes() []byte { return e.b }

type decoder struct {
	b    []byte
	what string
	bad  bool
}

func newDecoder(what string, b []byte) *decoder {
	d := &decoder{b: b, what: what}
	if d.u8() != valueVersion {
		d.bad = true
	}
	return d
}

func (d *decoder) take(n int) []byte {
	if d.bad || n < 0 || n > len(d.b) {
		d.bad = true
		return make([]byte, min(max(n, 0), 16))
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}
func (d *decoder) u8() uint8   { return d.take(1)[0] }
func (d *decoder) u32() uint32 { return binary.BigEndian.Uint32(d.take(4)) }
func (d *decoder) i32() int32  { return int32(d.u32()) }
func (d *decoder) i64() int64  { return int64(binary.BigEndian.Uint64(d.take(8))) }
func (d *decoder) str() string { return string(d.take(d.list(1))) }
func (d *decoder) flag() bool {
	v := d.u8()
	d.bad = d.bad || v > 1
	return v == 1
}
func (d *decoder) topic() (id TopicID) {
	copy(id[:], d.take(len(id)))
	return id
}

// list reads the length of a list whose entries take at least size bytes each,
// and refuses one the value can't hold, before anybody allocates for it.
func (d *decoder) list(size int) int {
	n := d.u32()
	if d.bad || int64(n)*int64(size) > int64(len(d.b)) {
		d.bad = true
		return 0
	}
	return int(n)
}

func (d *decoder) done() error {
	if d.bad || len(d.b) != 0 {
		return fmt.Errorf("%w: %s", ErrCorrupt, d.what)
	}
	return nil
}

func encodeCluster(id [16]byte) []byte {
	e := newEncoder()
	e.raw(id[:])
	return e.bytes()
}

func decodeCluster(b []byte) (id [16]byte, err error) {
	d := newDecoder("cluster", b)
	copy(id[:], d.take(16))
	return id, d.done()
}

func encodeTopic(t Topic) []byte {
	e := newEncoder()
	e.str(t.Name)
	e.i32(t.Partitions)
	e.flag(t.Internal)
	e.i64(t.Created)
	e.u32(uint32(len(t.Config)))
	for _, k := range slices.Sorted(maps.Keys(t.Config)) {
		e.str(k)
		e.str(t.Config[k])
	}
	return e.bytes()
}

// decodeTopic leaves ID empty; the key has it.
func decodeTopic(b []byte) (Topic, error) {
	d := newDecoder("topic", b)
	t := Topic{Name: d.str(), Partitions: d.i32(), Internal: d.flag(), Created: d.i64()}
	n := d.list(8)
	t.Config = make(map[string]string, n)
	last := ""
	for i := range n {
		k := d.str()
		if i > 0 && k <= last {
			d.bad = true
		}
		t.Config[k], last = d.str(), k
	}
	if t.Partitions < 0 || t.Partitions > MaxPartitions {
		d.bad = true
	}
	return t, d.done()
}

// EpochStart says that the records from Base on were written under Epoch.
type EpochStart struct {
	Epoch int32
	Base  int64
}

// part is a partition's record: who leads it and what of it counts.
type part struct {
	Leader      int32
	BrokerEpoch int64
	LeaderEpoch int32
	LogStart    int64
	Epochs      []EpochStart
}

func encodePart(p part) []byte {
	e := newEncoder()
	e.i32(p.Leader)
	e.i64(p.BrokerEpoch)
	e.i32(p.LeaderEpoch)
	e.i64(p.LogStart)
	e.u32(uint32(len(p.Epochs)))
	for _, s := range p.Epochs {
		e.i32(s.Epoch)
		e.i64(s.Base)
	}
	return e.bytes()
}

func decodePart(b []byte) (part, error) {
	d := newDecoder("partition", b)
	p := part{Leader: d.i32(), BrokerEpoch: d.i64(), LeaderEpoch: d.i32(), LogStart: d.i64()}
	for range d.list(12) {
		p.Epochs = append(p.Epochs, EpochStart{Epoch: d.i32(), Base: d.i64()})
	}
	if p.LogStart < 0 {
		d.bad = true
	}
	return p, d.done()
}

func (e *encoder) object(o *Object) {
	e.i64(o.Size)
	e.i32(o.Generation)
	e.i32(o.Partitions)
	e.i64(o.IndexPos)
	e.i64(o.IndexLen)
	e.u32(o.IndexCRC)
	e.i32(o.Blocks)
}

func (d *decoder) object(name string) *Object {
	o := &Object{
		Name: name, Size: d.i64(), Generation: d.i32(), Partitions: d.i32(),
		IndexPos: d.i64(), IndexLen: d.i64(), IndexCRC: d.u32(), Blocks: d.i32(),
	}
	if o.Size < 0 || o.IndexPos < 0 || o.IndexLen < 0 || o.IndexLen > o.Size || o.IndexPos > o.Size-o.IndexLen || o.Blocks < 0 || o.Partitions < 0 {
		d.bad = true
	}
	return o
}

// encodeSet is the value of sets/{name}: small whatever the partitions (P7).
func encodeSet(o *Object) []byte {
	e := newEncoder()
	e.object(o)
	return e.bytes()
}

func decodeSet(name string, b []byte) (*Object, error) {
	d := newDecoder("set", b)
	o := d.object(name)
	return o, d.done()
}

// encodeObj is the value of objs/{topic}/{partition}/{base}.
func encodeObj(o *Object, r Range) []byte {
	e := newEncoder()
	e.str(o.Name)
	e.object(o)
	e.i64(r.End)
	e.i64(r.MaxTimestamp)
	e.i64(r.Bytes)
	e.u8(r.TailDepth)
	return e.bytes()
}

func decodeObj(p Partition, base int64, b []byte) (*Object, Range, error) {
	d := newDecoder("object", b)
	o := d.object(d.str())
	r := Range{Partition: p, Base: base, End: d.i64(), MaxTimestamp: d.i64(), Bytes: d.i64(), TailDepth: d.u8()}
	if r.End < r.Base {
		d.bad = true
	}
	return o, r, d.done()
}

type fenceState uint8

const (
	fenceActive fenceState = 1
	fenceSealed fenceState = 2
	fenceDone   fenceState = 3
)

// fence guards everything a broker epoch commits (P3).
type fence struct {
	State    fenceState
	By       int32 // broker that sealed it
	ByEpoch  int64
	FinalLSN int64 // when done: the last LSN of the epoch
}

func encodeFence(f fence) []byte {
	e := newEncoder()
	e.u8(uint8(f.State))
	e.i32(f.By)
	e.i64(f.ByEpoch)
	e.i64(f.FinalLSN)
	return e.bytes()
}

func decodeFence(b []byte) (fence, error) {
	d := newDecoder("fence", b)
	f := fence{State: fenceState(d.u8()), By: d.i32(), ByEpoch: d.i64(), FinalLSN: d.i64()}
	if f.State < fenceActive || f.State > fenceDone {
		d.bad = true
	}
	return f, d.done()
}

// walRecord says how much of an epoch's log is in objects.
type walRecord struct {
	Kind      LogKind
	URI       string
	Committed int64 // LSN; 0 none
	Slot      int64 // of a log of slots: the last one that lies wholly at or below Committed
	Done      bool  // nothing of it is needed any more
}

func encodeWAL(w walRecord) []byte {
	e := newEncoder()
	e.u8(uint8(w.Kind))
	e.str(w.URI)
	e.i64(w.Committed)
	e.i64(w.Slot)
	e.flag(w.Done)
	return e.bytes()
}

func decodeWAL(b []byte) (walRecord, error) {
	d := newDecoder("wal", b)
	w := walRecord{Kind: LogKind(d.u8()), URI: d.str(), Committed: d.i64(), Slot: d.i64(), Done: d.flag()}
	if w.Committed < 0 || w.Slot < 0 || w.Kind != FileLog && w.Kind != ObjectLog {
		d.bad = true
	}
	return w, d.done()
}

func encodeName(id TopicID) []byte {
	e := newEncoder()
	e.raw(id[:])
	return e.bytes()
}

func decodeName(b []byte) (TopicID, error) {
	d := newDecoder("name", b)
	id := d.topic()
	return id, d.done()
}

func encodeInt(v int64) []byte {
	e := newEncoder()
	e.i64(v)
	return e.bytes()
}

func decodeInt(what string, b []byte) (int64, error) {
	d := newDecoder(what, b)
	v := d.i64()
	return v, d.done()
}
