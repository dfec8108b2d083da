// Package read serves what is in objects: it asks the catalog which object holds
// an offset, gets the block that holds it with one ranged GET, and gives the
// batches out as they are.
//
// Blocks are cached up to a bound in bytes. Callers that want the same block at
// the same time share one GET, a reader that goes through a partition in order
// finds the next blocks read ahead, and a scan does not push out what several
// readers use. Every block's CRC32C is checked when it is read.
//
// How it fails. Errors of the object store are returned wrapped; nothing has to
// be undone. An object that is gone means that the catalog's index was stale
// (the object was merged or retired): the reader refreshes it and looks again,
// and returns ErrLost if the catalog still names the missing object. It never
// answers a range that holds something with nothing.
package read

import (
	"context"
	"errors"
	"fmt"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/run"
	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/object"
)

// ErrLost says that the catalog names an object that the store does not have.
var ErrLost = errors.New("object of the catalog is missing from the store")

// Config tunes a Reader. The zero value is the default.
type Config struct {
	CacheBytes int64 // of blocks; default 64 MiB
	IndexBytes int64 // of object indexes; default 16 MiB
	Ahead      int   // blocks read ahead; default 4, negative none
	Parallel   int   // GETs at the same time; default 16
}

func (c Config) withDefaults() Config {
	if c.CacheBytes <= 0 {
		c.CacheBytes = 64 << 20
	}
	if c.IndexBytes <= 0 {
		c.IndexBytes = 16 << 20
	}
	if c.Ahead == 0 {
		c.Ahead = 4
	}
	if c.Parallel <= 0 {
		c.Parallel = 16
	}
	return c
}

// Reader reads objects. Safe for concurrent use. Use New.
type Reader struct {
	store   blob.Store
	catalog *catalog.Catalog
	cfg     Config
	blocks  *cache
	indexes *lru[string, *object.Index]
	tails   *lru[tailKey, *object.Tail]
	slots   chan struct{} // one per GET in flight
	ahead   chan aheadJob
	stats   stats
}

type tailKey struct {
	object    string
	partition catalog.Partition
}

// New returns a reader of the catalog's objects in store. Run makes it read ahead.
func New(store blob.Store, cat *catalog.Catalog, cfg Config) *Reader {
	cfg = cfg.withDefaults()
	return &Reader{
		store: store, catalog: cat, cfg: cfg,
		blocks:  newCache(cfg.CacheBytes),
		indexes: newLRU[string, *object.Index](cfg.IndexBytes),
		tails:   newLRU[tailKey, *object.Tail](4 << 20),
		slots:   make(chan struct{}, cfg.Parallel),
		ahead:   make(chan aheadJob, 64),
	}
}

// Run reads ahead until ctx ends. Without it reads are right, only slower.
func (r *Reader) Run(ctx context.Context) error {
	g := run.New(ctx)
	for range 4 {
		g.Go("read ahead", r.readAhead)
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("read ahead: %w", err)
	}
	return nil
}

// Result is what a Read found. Batches are whole, in order of offsets, in one or
// more runs; they must not be changed, and not be used after Release.
type Result struct {
	Records [][]byte
	Bytes   int
	Next    int64 // offset to go on at
	Full    bool  // there is more in the range, but it does not fit
	pins    []*block
	cache   *cache
}

// Release gives the bytes back, so that their memory can be used again. Call it
// at most once; without it the garbage collector takes them.
func (res *Result) Release() {
	for _, b := range res.pins {
		res.cache.release(b)
	}
	res.pins = nil
}

// Query asks for the batches of a partition from the one that holds Offset, or
// the first above it, up to but excluding those that start at or after End. At
// most MaxBytes, save that the first batch is given whole if AtLeastOne.
type Query struct {
	Partition  catalog.Partition
	Offset     int64
	End        int64
	MaxBytes   int
	AtLeastOne bool
}

// Read answers a query from objects alone. Next is where the objects' answer
// ends: Offset itself when they hold nothing in the range.
func (r *Reader) Read(ctx context.Context, q Query) (Result, error) {
	res := Result{Next: q.Offset, cache: r.blocks}
	for res.Next < q.End {
		more, err := r.extent(ctx, q, &res)
		if err != nil {
			if res.Bytes > 0 && ctx.Err() == nil {
				return res, nil // the error comes back with the next read if it stays
			}
			res.Release()
			return Result{}, fmt.Errorf("read %s at %d: %w", q.Partition, q.Offset, err)
		}
		if !more {
			break
		}
	}
	return res, nil
}

// retries is how often a read looks again after the index was stale.
const retries = 3

// extent adds what one extent has. more is false when the answer is complete.
func (r *Reader) extent(ctx context.Context, q Query, res *Result) (more bool, err error) {
	for try := 0; ; try++ {
		x, ok := r.catalog.Find(q.Partition, res.Next)
		if !ok || x.Base >= q.End {
			return false, nil
		}
		more, err = r.fromObject(ctx, q, x, res)
		if !errors.Is(err, blob.ErrNotFound) {
			return more, err
		}
		if try == retries {
			return false, fmt.Errorf("%w: %s: %w", ErrLost, x.Object.Name, err)
		}
		// Merged or retired since the index was read: what holds the range now?
		r.stats.stale.Add(1)
		if err := r.catalog.Refresh(ctx); err != nil {
			return false, err
		}
	}
}

func (r *Reader) fromObject(ctx context.Context, q Query, x catalog.Extent, res *Result) (more bool, err error) {
	entries, err := r.entries(ctx, q.Partition, x.Object)
	if err != nil {
		return false, err
	}
	for i, e := range entries {
		if e.Last < res.Next {
			continue
		}
		if e.Base >= q.End {
			return false, nil
		}
		if res.Bytes > 0 && res.Bytes+batch.HeaderSize > q.MaxBytes {
			res.Full = true
			return false, nil
		}
		b, hit, err := r.block(ctx, x.Object, e)
		if err != nil {
			return false, err
		}
		if !hit {
			r.plan(x.Object, entries, i)
		}
		r.blocks.touch(b, res.Next)
		full, err := res.take(q, b)
		if err != nil {
			return false, fmt.Errorf("object %s, block at %d: %w", x.Object.Name, e.Pos, err)
		}
		if full {
			return false, nil
		}
		res.Next = max(res.Next, e.Last+1)
	}
	// A span may end above its last batch (its end was compacted away).
	res.Next = max(res.Next, x.End)
	return true, nil
}

// take adds the block's batches; full says that no more may be added.
func (res *Result) take(q Query, b *block) (full bool, err error) {
	rest := b.bytes
	start, taken := 0, 0
	for len(rest) > 0 {
		h, after, err := batch.Next(rest)
		if err != nil {
			res.cache.release(b)
			return false, fmt.Errorf("%w: %w", object.ErrCorrupt, err)
		}
		if h.LastOffset() < res.Next {
			start += len(h)
			rest = after
			continue
		}
		first := res.Bytes == 0 && taken == 0
		if h.BaseOffset() >= q.End {
			full = true
			break
		}
		if res.Bytes+taken+len(h) > q.MaxBytes && !(first && q.AtLeastOne) {
			full, res.Full = true, true
			break
		}
		taken += len(h)
		res.Next = h.LastOffset() + 1
		rest = after
	}
	if taken == 0 {
		res.cache.release(b)
		return full, nil
	}
	res.Records = append(res.Records, b.bytes[start:start+taken:start+taken])
	res.Bytes += taken
	res.pins = append(res.pins, b)
	return full, nil
}

// entries returns the partition's block entries of an object.
func (r *Reader) entries(ctx context.Context, p catalog.Partition, o *catalog.Object) ([]object.Entry, error) {
	x, err := r.index(ctx, o)
	if err != nil {
		return nil, err
	}
	return x.Partition(p.Topic, p.Index), nil
}

func (r *Reader) key(o *catalog.Object) string { return object.Key(r.catalog.ClusterID(), o.Name) }

func (r *Reader) index(ctx context.Context, o *catalog.Object) (*object.Index, error) {
	if x, ok := r.indexes.get(o.Name); ok {
		return x, nil
	}
	x, err := LoadIndex(ctx, r.store, r.catalog.ClusterID(), o)
	if err != nil {
		return nil, err
	}
	r.indexes.put(o.Name, x, o.IndexLen+256)
	return x, nil
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

// block returns the block, pinned; hit says that it was in memory.
func (r *Reader) block(ctx context.Context, o *catalog.Object, e object.Entry) (b *block, hit bool, err error) {
	return r.blocks.get(ctx, blockKey{o.Name, e.Pos}, int(e.Len), func(dst []byte) error {
		select {
		case r.slots <- struct{}{}:
			defer func() { <-r.slots }()
		case <-ctx.Done():
			return ctx.Err()
		}
		r.stats.gets.Add(1)
		r.stats.bytes.Add(int64(len(dst)))
		if _, err := r.store.GetRange(ctx, r.key(o), e.Pos, dst); err != nil {
			return fmt.Errorf("get block at %d of object %s: %w", e.Pos, o.Name, err)
		}
		if err := e.Check(dst); err != nil {
			return fmt.Errorf("object %s: %w", o.Name, err)
		}
		return nil
	})
}
