package read

import (
	"context"
	"fmt"
	"sort"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/object"
)

// indexed is an object's index, and the chunks in which the object is read: runs
// of neighbouring pieces, whoever's they are, that make a request worth while.
// Where chunks begin depends on the index alone, so readers share them.
type indexed struct {
	*object.Index
	blocks []int32 // first block of each chunk
	tails  []int32 // first tail of each chunk
}

// entryBytes is the memory of an entry and its part of the chunk lists.
const entryBytes = 80

// chunks cuts entries into runs without holes of at least size bytes, where
// neighbours are to be had.
func chunks(entries []object.Entry, size int64) []int32 {
	var starts []int32
	have := int64(0)
	for i, e := range entries {
		if i == 0 || have >= size || have+int64(e.Len) > 2*size || e.Pos != entries[i-1].Pos+int64(entries[i-1].Len) {
			starts = append(starts, int32(i))
			have = 0
		}
		have += int64(e.Len)
	}
	return starts
}

// chunk returns the entries of the chunk that holds entry i, and which of them
// that one is.
func chunk(entries []object.Entry, starts []int32, i int) (run []object.Entry, at int) {
	n := sort.Search(len(starts), func(k int) bool { return int(starts[k]) > i }) - 1
	end := len(entries)
	if n+1 < len(starts) {
		end = int(starts[n+1])
	}
	return entries[starts[n]:end], i - int(starts[n])
}

func runBytes(run []object.Entry) int {
	last := run[len(run)-1]
	return int(last.Pos + int64(last.Len) - run[0].Pos)
}

// partition returns the bounds of the partition's blocks.
func (x *indexed) partition(p catalog.Partition) (lo, hi int) {
	lo = sort.Search(len(x.Blocks), func(i int) bool { return x.Blocks[i].ComparePartition(p.Topic, p.Index) >= 0 })
	hi = lo + sort.Search(len(x.Blocks)-lo, func(i int) bool { return x.Blocks[lo+i].ComparePartition(p.Topic, p.Index) > 0 })
	return lo, hi
}

// from returns the first of the blocks [lo, hi) that ends at or above offset.
func (x *indexed) from(lo, hi int, offset int64) int {
	return lo + sort.Search(hi-lo, func(i int) bool { return x.Blocks[lo+i].Last >= offset })
}

func (r *Reader) key(o *catalog.Object) string { return object.Key(r.catalog.ClusterID(), o.Name) }

func (r *Reader) index(ctx context.Context, o *catalog.Object, c Class) (*indexed, error) {
	return r.indexes.load(ctx, o.Name, func(ctx context.Context) (*indexed, int64, error) {
		if err := r.gate.enter(ctx, c); err != nil {
			return nil, 0, err
		}
		defer r.gate.leave(c)
		r.stats.indexes.Add(1)
		x, err := LoadIndex(ctx, r.store, r.catalog.ClusterID(), o)
		if err != nil {
			return nil, 0, err
		}
		size := int64(r.cfg.ChunkBytes)
		n := int64(len(x.Blocks) + len(x.Tails))
		return &indexed{x, chunks(x.Blocks, size), chunks(x.Tails, min(size, tailChunk))}, n*entryBytes + 256, nil
	})
}

// LoadIndex reads an object's index with one GET.
func LoadIndex(ctx context.Context, store blob.Store, cluster string, o *catalog.Object) (*object.Index, error) {
	b := make([]byte, o.IndexLen)
	if _, err := store.GetRange(ctx, object.Key(cluster, o.Name), o.IndexPos, b); err != nil {
		return nil, fmt.Errorf("get index of object %s: %w", o.Name, err)
	}
	x, err := object.DecodeIndex(b, int(o.Blocks), o.IndexCRC, o.IndexPos)
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", o.Name, err)
	}
	return x, nil
}

// Ranges returns what an object with that index holds, for the catalog.
func Ranges(x *object.Index) []catalog.Range {
	rs := make([]catalog.Range, 0, len(x.Tails))
	for _, s := range x.Spans() {
		rs = append(rs, catalog.Range{
			Partition: catalog.Partition{Topic: s.Topic, Index: s.Partition},
			Base:      s.Base, End: s.End, MaxTimestamp: s.MaxTimestamp, Bytes: s.Bytes, TailDepth: s.Depth,
		})
	}
	return rs
}
