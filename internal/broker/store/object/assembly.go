package object

import (
	"fmt"
	"hash/crc32"
)

// assembly is what packing and merging have in common: it keeps the position,
// collects the index, and gives header, tails, index and footer to add, in the
// order of the file. The blocks' bytes are the caller's affair.
type assembly struct {
	footer Footer
	index  Index
	size   int64
	add    func([]byte)
}

func newAssembly(f Footer, add func([]byte)) (*assembly, error) {
	cluster, err := clusterBytes(f.Identity.Cluster)
	if err != nil {
		return nil, err
	}
	w := &assembly{footer: f, add: add}
	w.footer.Topics = nil
	w.put(appendHeader(nil, cluster, f.Identity.Kind))
	return w, nil
}

func (w *assembly) put(b []byte) {
	w.add(b)
	w.size += int64(len(b))
}

// block takes a block whose bytes come next; it sets its position.
func (w *assembly) block(e Entry) error {
	if n := len(w.index.Blocks); n > 0 {
		p := w.index.Blocks[n-1]
		if order := p.ComparePartition(e.Topic, e.Partition); order > 0 || order == 0 && p.Last >= e.Base {
			return fmt.Errorf("assemble object: block at offset %d of partition %d is out of order", e.Base, e.Partition)
		}
	}
	e.Pos = w.size
	w.index.Blocks = append(w.index.Blocks, e)
	w.size += int64(e.Len)
	return nil
}

// tail takes a span's tail, in the order of blocks and after all of them. newest
// is the largest timestamp in its blocks.
func (w *assembly) tail(topic [16]byte, partition int32, t *Tail, newest int64) error {
	if n := len(w.index.Tails); n > 0 {
		p := w.index.Tails[n-1]
		if order := p.ComparePartition(topic, partition); order > 0 || order == 0 && p.Last >= t.Base {
			return fmt.Errorf("assemble object: span at offset %d of partition %d is out of order or overlaps", t.Base, partition)
		}
	}
	b := t.Encode()
	w.index.Tails = append(w.index.Tails, Entry{
		Topic: topic, Partition: partition, Base: t.Base, Last: t.End - 1,
		Pos: w.size, Len: int32(len(b)), Batches: int32(t.Depth), MaxTimestamp: newest, CRC: crc32.Checksum(b, castagnoli),
	})
	w.put(b)
	if n := len(w.footer.Topics); n == 0 || w.footer.Topics[n-1].ID != topic {
		w.footer.Topics = append(w.footer.Topics, TopicName{topic, t.TopicName})
	}
	return nil
}

func (w *assembly) finish() error {
	index := w.index.Encode()
	f := &w.footer
	f.IndexPos, f.IndexLen, f.IndexCRC = w.size, int64(len(index)), crc32.Checksum(index, castagnoli)
	f.Blocks, f.Tails = int32(len(w.index.Blocks)), int32(len(w.index.Tails))
	w.put(index)
	footer, err := f.Encode()
	if err != nil {
		return fmt.Errorf("assemble object: %w", err)
	}
	w.put(footer)
	return nil
}
