package object

import (
	"cmp"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
)

// EntrySize is the length of an index entry in bytes.
const EntrySize = 64

// Entry is one entry of the index: a block or, after all blocks, a tail.
//
//	0 topic16 | 16 partition4 | 20 base8 | 28 last8 | 36 pos8 | 44 len4 |
//	48 batches4 (of a tail: its depth) | 52 maxTs8 | 60 crc4
type Entry struct {
	Topic        [16]byte
	Partition    int32
	Base, Last   int64 // offsets, both included; Last = Base-1 for a tail without batches
	Pos          int64 // in the object
	Len          int32
	Batches      int32
	MaxTimestamp int64 // ms, -1 none
	CRC          uint32
}

// ComparePartition orders entries by topic and partition.
func (e Entry) ComparePartition(topic [16]byte, partition int32) int {
	return cmp.Or(slices.Compare(e.Topic[:], topic[:]), cmp.Compare(e.Partition, partition))
}

// Check verifies the bytes of the piece the entry points at.
func (e Entry) Check(b []byte) error {
	if len(b) != int(e.Len) {
		return fmt.Errorf("%w: piece at %d has %d bytes, want %d", ErrCorrupt, e.Pos, len(b), e.Len)
	}
	if got := crc32.Checksum(b, castagnoli); got != e.CRC {
		return fmt.Errorf("%w: piece at %d: crc %08x, want %08x", ErrCorrupt, e.Pos, got, e.CRC)
	}
	return nil
}

func (w *writer) entry(e Entry) {
	w.raw(e.Topic[:])
	w.i32(e.Partition)
	w.i64(e.Base)
	w.i64(e.Last)
	w.i64(e.Pos)
	w.i32(e.Len)
	w.i32(e.Batches)
	w.i64(e.MaxTimestamp)
	w.u32(e.CRC)
}

// Index says where in an object everything is.
type Index struct {
	Blocks []Entry // by topic, partition, base
	Tails  []Entry // by topic, partition, base; one per span
}

// Encode returns the index's bytes.
func (x *Index) Encode() []byte {
	w := writer{make([]byte, 0, EntrySize*(len(x.Blocks)+len(x.Tails)))}
	for _, e := range x.Blocks {
		w.entry(e)
	}
	for _, e := range x.Tails {
		w.entry(e)
	}
	return w.b
}

// DecodeIndex reads an index of blocks block entries. crc is the one the footer
// and the catalog have; pieces must lie before the index, which is at pos.
func DecodeIndex(b []byte, blocks int, crc uint32, pos int64) (*Index, error) {
	if got := crc32.Checksum(b, castagnoli); got != crc {
		return nil, fmt.Errorf("%w: index: crc %08x, want %08x", ErrCorrupt, got, crc)
	}
	if len(b)%EntrySize != 0 || blocks < 0 || blocks > len(b)/EntrySize {
		return nil, fmt.Errorf("%w: index of %d bytes with %d blocks", ErrCorrupt, len(b), blocks)
	}
	all := make([]Entry, 0, len(b)/EntrySize)
	r := reader{b: b}
	for len(r.b) > 0 {
		e := Entry{
			Topic: r.id(), Partition: r.i32(), Base: r.i64(), Last: r.i64(), Pos: r.i64(), Len: r.i32(),
			Batches: r.i32(), MaxTimestamp: r.i64(), CRC: r.u32(),
		}
		isBlock := len(all) < blocks
		if e.Base < 0 || e.Last < e.Base-1 || isBlock && e.Last < e.Base || e.Partition < 0 ||
			e.Len < 0 || e.Pos < HeaderSize || e.Pos > pos-int64(e.Len) || e.Batches < 0 {
			return nil, fmt.Errorf("%w: index entry %d", ErrCorrupt, len(all))
		}
		if n := len(all); n > 0 && n != blocks {
			p := all[n-1]
			order := p.ComparePartition(e.Topic, e.Partition)
			if order > 0 || order == 0 && p.Last >= e.Base {
				return nil, fmt.Errorf("%w: index entry %d is out of order", ErrCorrupt, n)
			}
		}
		all = append(all, e)
	}
	return &Index{Blocks: all[:blocks:blocks], Tails: all[blocks:]}, nil
}

// Partition returns the block entries of one partition.
func (x *Index) Partition(topic [16]byte, partition int32) []Entry {
	lo, _ := slices.BinarySearchFunc(x.Blocks, 0, func(e Entry, _ int) int {
		if e.ComparePartition(topic, partition) < 0 {
			return -1
		}
		return 1
	})
	hi := lo
	for hi < len(x.Blocks) && x.Blocks[hi].ComparePartition(topic, partition) == 0 {
		hi++
	}
	return x.Blocks[lo:hi:hi]
}

// Tail returns the tail entry of the partition's span that starts at base.
func (x *Index) Tail(topic [16]byte, partition int32, base int64) (Entry, bool) {
	at, ok := slices.BinarySearchFunc(x.Tails, base, func(e Entry, base int64) int {
		return cmp.Or(e.ComparePartition(topic, partition), cmp.Compare(e.Base, base))
	})
	if !ok {
		return Entry{}, false
	}
	return x.Tails[at], true
}

// Span is a stretch of one partition that an object holds. A merged object may
// hold several of a partition, with other objects' offsets between them.
type Span struct {
	Topic        [16]byte
	Partition    int32
	Base, End    int64 // offsets [Base, End)
	MaxTimestamp int64
	Bytes        int64 // of batches
	Depth        uint8 // of the tail
}

// Spans returns what the object holds, by topic, partition and base.
func (x *Index) Spans() []Span {
	all := make([]Span, 0, len(x.Tails))
	at := 0 // blocks and tails have the same order
	for i, t := range x.Tails {
		s := Span{t.Topic, t.Partition, t.Base, t.Last + 1, t.MaxTimestamp, 0, uint8(t.Batches)}
		before := int64(math.MaxInt64)
		if i+1 < len(x.Tails) && x.Tails[i+1].ComparePartition(t.Topic, t.Partition) == 0 {
			before = x.Tails[i+1].Base
		}
		for ; at < len(x.Blocks) && x.Blocks[at].ComparePartition(t.Topic, t.Partition) == 0 && x.Blocks[at].Base < before; at++ {
			s.Bytes += int64(x.Blocks[at].Len)
		}
		all = append(all, s)
	}
	return all
}
