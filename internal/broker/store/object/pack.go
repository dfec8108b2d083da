package object

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"

	"github.com/looptape/looptape/internal/base/crc32c"
)

// Unit is one append: whole batches with consecutive offsets, kept together.
type Unit struct {
	Base, Last   int64 // offsets, both included
	MaxTimestamp int64 // ms
	Batches      int32
	Bytes        []byte
	Sum          uint32 // CRC-32C of Bytes if it is known, else 0
}

// Part is what one partition has in an object.
type Part struct {
	Topic     [16]byte
	Partition int32
	Units     []Unit // by offset, at least one unless the object only keeps the tail
	Tail      Tail
}

// Packed is a finished object. It refers to the units' bytes and copies none:
// they must not change while it is read. It is an io.ReaderAt of the whole object.
type Packed struct {
	Footer Footer
	Index  Index

	pieces [][]byte
	starts []int64 // of pieces, ascending
	size   int64
}

// Pack builds an object. The footer's Identity, Nonce, Generation, LSNs and
// Inputs are the caller's, the rest is filled in. It sorts parts in place.
func Pack(f Footer, blockBytes int, parts []Part) (*Packed, error) {
	if blockBytes <= 0 {
		blockBytes = BlockBytes
	}
	slices.SortFunc(parts, func(a, b Part) int {
		return cmp.Or(Entry{Topic: a.Topic, Partition: a.Partition}.ComparePartition(b.Topic, b.Partition), cmp.Compare(a.Tail.Base, b.Tail.Base))
	})
	p := &Packed{}
	w, err := newAssembly(f, p.add)
	if err != nil {
		return nil, err
	}
	for i := range parts {
		if err := p.blocks(w, &parts[i], blockBytes); err != nil {
			return nil, err
		}
	}
	for i := range parts {
		newest := int64(-1)
		for _, u := range parts[i].Units {
			newest = max(newest, u.MaxTimestamp)
		}
		if err := w.tail(parts[i].Topic, parts[i].Partition, &parts[i].Tail, newest); err != nil {
			return nil, err
		}
	}
	if err := w.finish(); err != nil {
		return nil, err
	}
	p.Footer, p.Index = w.footer, w.index
	return p, nil
}

func (p *Packed) add(b []byte) {
	if len(b) == 0 {
		return
	}
	p.pieces = append(p.pieces, b)
	p.starts = append(p.starts, p.size)
	p.size += int64(len(b))
}

func (p *Packed) blocks(w *assembly, part *Part, blockBytes int) error {
	e := Entry{}
	last := int64(-1)
	for i, u := range part.Units {
		if u.Base <= last || u.Last < u.Base || len(u.Bytes) == 0 {
			return fmt.Errorf("pack object: offsets %d to %d follow %d", u.Base, u.Last, last)
		}
		last = u.Last
		if e.Len == 0 {
			e = Entry{Topic: part.Topic, Partition: part.Partition, Base: u.Base, MaxTimestamp: -1}
		}
		e.Last, e.MaxTimestamp = u.Last, max(e.MaxTimestamp, u.MaxTimestamp)
		e.Batches += u.Batches
		if u.Sum != 0 {
			e.CRC = crc32c.Concat(e.CRC, u.Sum, int64(len(u.Bytes)))
		} else {
			e.CRC = crc32c.Update(e.CRC, u.Bytes)
		}
		e.Len += int32(len(u.Bytes))
		p.add(u.Bytes)
		if int(e.Len) >= blockBytes || i == len(part.Units)-1 {
			if err := w.block(e); err != nil {
				return err
			}
			e.Len, e.CRC = 0, 0
		}
	}
	return nil
}

// Size is the object's length in bytes.
func (p *Packed) Size() int64 { return p.size }

// ReadAt implements io.ReaderAt; it may be called from many goroutines.
func (p *Packed) ReadAt(b []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	at := sort.Search(len(p.starts), func(i int) bool { return p.starts[i] > off }) - 1
	for ; at < len(p.pieces) && n < len(b); at++ {
		from := off + int64(n) - p.starts[at]
		if from >= int64(len(p.pieces[at])) {
			break
		}
		n += copy(b[n:], p.pieces[at][from:])
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}
