package object

import (
	"fmt"
)

// Source is a block of an input object.
type Source struct {
	Input int // the caller's number of the input
	Entry Entry
}

// JoinPart is one span of a merged object: blocks of one partition, copied as
// they are from one or more inputs, and the tail of the whole.
type JoinPart struct {
	Topic     [16]byte
	Partition int32
	Blocks    []Source // by offset; none for a span that only keeps the tail
	Tail      Tail
}

// Piece is a stretch of a merged object: given bytes, or a block of an input.
type Piece struct {
	At    int64 // in the merged object
	Bytes []byte
	Input int
	Pos   int64 // in the input
	Len   int64
	CRC   uint32 // of the input's block
}

// Joined is the layout of an object that copies blocks from others. All but the
// blocks' bytes is here, so its size is known before anything is read.
type Joined struct {
	Footer Footer
	Index  Index
	Pieces []Piece // contiguous, from 0 on
	Size   int64
}

// Join lays out an object of blocks of other objects. parts are sorted by
// topic, partition and base. Neighbouring blocks become one while it stays within
// blockBytes; its CRC follows from theirs, so no byte is needed for it. The
// footer is as in Pack.
func Join(f Footer, blockBytes int, parts []JoinPart) (*Joined, error) {
	if blockBytes <= 0 {
		blockBytes = BlockBytes
	}
	m := &Joined{}
	w, err := newAssembly(f, m.add)
	if err != nil {
		return nil, err
	}
	newest := make([]int64, len(parts))
	for i := range parts {
		if newest[i], err = m.blocks(w, &parts[i], blockBytes); err != nil {
			return nil, err
		}
	}
	for i := range parts {
		if err := w.tail(parts[i].Topic, parts[i].Partition, &parts[i].Tail, newest[i]); err != nil {
			return nil, err
		}
	}
	if err := w.finish(); err != nil {
		return nil, err
	}
	m.Footer, m.Index = w.footer, w.index
	return m, nil
}

func (m *Joined) add(b []byte) {
	if len(b) == 0 {
		return
	}
	m.Pieces = append(m.Pieces, Piece{At: m.Size, Bytes: b, Len: int64(len(b))})
	m.Size += int64(len(b))
}

func (m *Joined) blocks(w *assembly, part *JoinPart, blockBytes int) (newest int64, err error) {
	newest = -1
	var e Entry
	close := func() error {
		if e.Len == 0 {
			return nil
		}
		err := w.block(e)
		e = Entry{}
		return err
	}
	for _, s := range part.Blocks {
		b := s.Entry
		if b.ComparePartition(part.Topic, part.Partition) != 0 || b.Len <= 0 {
			return 0, fmt.Errorf("merge objects: block at %d of input %d is not of partition %d", b.Pos, s.Input, part.Partition)
		}
		if e.Len > 0 && (b.Base <= e.Last || int64(e.Len)+int64(b.Len) > int64(blockBytes)) {
			if err := close(); err != nil {
				return 0, err
			}
		}
		if e.Len == 0 {
			e = Entry{Topic: b.Topic, Partition: b.Partition, Base: b.Base, MaxTimestamp: -1}
		}
		e.CRC = combineCRC(e.CRC, b.CRC, int64(b.Len))
		e.Last, e.Len, e.Batches = b.Last, e.Len+b.Len, e.Batches+b.Batches
		e.MaxTimestamp = max(e.MaxTimestamp, b.MaxTimestamp)
		newest = max(newest, b.MaxTimestamp)
		m.Pieces = append(m.Pieces, Piece{At: m.Size, Input: s.Input, Pos: b.Pos, Len: int64(b.Len), CRC: b.CRC})
		m.Size += int64(b.Len)
	}
	return newest, close()
}
