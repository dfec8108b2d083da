package object

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"sort"
)

// Unit is one append: whole batches with consecutive offsets, kept together.
type Unit struct {
	Base, Last   int64 // offsets, both included
	MaxTimestamp int64 // ms
	Batches      int32
	Bytes        []byte
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
	cluster, err := clusterBytes(f.Identity.Cluster)
	if err != nil {
		return nil, err
	}
	if blockBytes <= 0 {
		blockBytes = BlockBytes
	}
	slices.SortFunc(parts, func(a, b Part) int {
		return Entry{Topic: a.Topic, Partition: a.Partition}.ComparePartition(b.Topic, b.Partition)
	})
	p := &Packed{Footer: f}
	p.add(appendHeader(nil, cluster, f.Identity.Kind))
	p.Footer.Topics = nil
	for i := range parts {
		if err := p.blocks(&parts[i], blockBytes); err != nil {
			return nil, err
		}
		if n := len(p.Footer.Topics); n == 0 || p.Footer.Topics[n-1].ID != parts[i].Topic {
			p.Footer.Topics = append(p.Footer.Topics, TopicName{parts[i].Topic, parts[i].Tail.TopicName})
		}
	}
	for i := range parts {
		if i > 0 && parts[i].Topic == parts[i-1].Topic && parts[i].Partition == parts[i-1].Partition {
			return nil, fmt.Errorf("pack object: partition %d is given twice", parts[i].Partition)
		}
		p.tail(&parts[i])
	}
	index := p.Index.Encode()
	p.Footer.IndexPos, p.Footer.IndexLen = p.size, int64(len(index))
	p.Footer.IndexCRC = crc32.Checksum(index, castagnoli)
	p.Footer.Blocks, p.Footer.Tails = int32(len(p.Index.Blocks)), int32(len(p.Index.Tails))
	p.add(index)
	footer, err := p.Footer.Encode()
	if err != nil {
		return nil, fmt.Errorf("pack object: %w", err)
	}
	p.add(footer)
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

func (p *Packed) blocks(part *Part, blockBytes int) error {
	e := Entry{}
	last := int64(-1)
	for i, u := range part.Units {
		if u.Base <= last || u.Last < u.Base || len(u.Bytes) == 0 {
			return fmt.Errorf("pack object: offsets %d to %d follow %d", u.Base, u.Last, last)
		}
		last = u.Last
		if e.Len == 0 {
			e = Entry{Topic: part.Topic, Partition: part.Partition, Base: u.Base, Pos: p.size, MaxTimestamp: -1}
		}
		e.Last, e.MaxTimestamp = u.Last, max(e.MaxTimestamp, u.MaxTimestamp)
		e.Batches += u.Batches
		e.CRC = crc32.Update(e.CRC, castagnoli, u.Bytes)
		e.Len += int32(len(u.Bytes))
		p.add(u.Bytes)
		if int(e.Len) >= blockBytes || i == len(part.Units)-1 {
			p.Index.Blocks = append(p.Index.Blocks, e)
			e.Len, e.CRC = 0, 0
		}
	}
	return nil
}

func (p *Packed) tail(part *Part) {
	b := part.Tail.Encode()
	e := Entry{
		Topic: part.Topic, Partition: part.Partition, Base: part.Tail.Base, Last: part.Tail.End - 1,
		Pos: p.size, Len: int32(len(b)), Batches: int32(part.Tail.Depth), MaxTimestamp: -1, CRC: crc32.Checksum(b, castagnoli),
	}
	for _, u := range part.Units {
		e.MaxTimestamp = max(e.MaxTimestamp, u.MaxTimestamp)
	}
	p.Index.Tails = append(p.Index.Tails, e)
	p.add(b)
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
