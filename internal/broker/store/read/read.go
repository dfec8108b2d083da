// Package read serves what is in objects: it asks the catalog which object holds
// an offset, gets the blocks around it with one ranged GET, and gives the batches
// out as they are.
//
// Memory is bounded. Blocks are read in chunks of neighbours and cached up to
// Config.CacheBytes, answers that are still being sent included; when all of it
// is in use, a reader gets its first batch and no more. Callers that want the
// same chunk or index at the same time share one GET, and one that goes away
// leaves the others alone. A reader that goes through a partition in order finds
// the next chunks read ahead, twice as far with every read; a scan does not push
// out what several readers use. Every block's CRC32C is checked when it is read.
//
// Requests to the store pass a gate: readers at the tail before those that catch
// up, those before what is read ahead, that before background jobs (Class).
//
// How it fails. Errors of the object store are returned wrapped; nothing has to
// be undone. An object that is gone, or a range that no object holds, means that
// the catalog's index was stale (objects were merged or retired): the reader
// refreshes it and looks again, and returns ErrLost if that is still so. It never
// answers a range that holds something with nothing.
package read

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sort"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/run"
	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/object"
)

// ErrLost says that the store does not have what the catalog names, or that the
// catalog names nothing for a range that was asked for.
var ErrLost = errors.New("records are missing from the object store")

// ErrCorrupt says that an object is not as it was written.
var ErrCorrupt = object.ErrCorrupt

// Config tunes a Reader. The zero value is the default.
type Config struct {
	CacheBytes int64 // memory of blocks; default 32 MiB
	IndexBytes int64 // of object indexes, and as much of tails; default 16 MiB
	Ahead      int64 // bytes read ahead of one reader, at most; default 32 MiB, negative none; all together take up to 3/8 of CacheBytes
	ChunkBytes int   // what one GET fetches at least where neighbours allow; default 512 KiB
	Parallel   int   // GETs at the same time; default 16
}

func (c Config) withDefaults() Config {
	if c.CacheBytes <= 0 {
		c.CacheBytes = 32 << 20
	}
	if c.IndexBytes <= 0 {
		c.IndexBytes = 16 << 20
	}
	if c.Ahead == 0 {
		c.Ahead = 32 << 20
	}
	if c.ChunkBytes <= 0 {
		c.ChunkBytes = 512 << 10
	}
	c.ChunkBytes = int(min(int64(c.ChunkBytes), max(1, c.CacheBytes/16)))
	if c.Parallel <= 0 {
		c.Parallel = 16
	}
	return c
}

// Catalog is what a Reader needs of the catalog: *catalog.Catalog.
type Catalog interface {
	ClusterID() string
	// Extents returns what objects hold of a partition, by offset.
	Extents(p catalog.Partition) []catalog.Extent
	// Refresh reads the catalog anew, at its newest revision.
	Refresh(ctx context.Context) error
}

// Reader reads objects. Safe for concurrent use. Use New.
type Reader struct {
	store   blob.Store
	catalog Catalog
	cfg     Config
	gate    *gate
	blocks  *cache
	indexes *lru[string, *indexed]
	tails   *lru[tailKey, *object.Tail]
	ended   *lru[tailKey, ended]
	streams streams
	soon    chan job // wanted by somebody who comes back for it
	later   chan job // read ahead
	fresh   freshness
	stats   stats
}

// New returns a reader of the catalog's objects in store. Run makes it read ahead.
func New(store blob.Store, cat Catalog, cfg Config) *Reader {
	cfg = cfg.withDefaults()
	r := &Reader{
		store: store, catalog: cat, cfg: cfg,
		gate:    newGate(cfg.Parallel),
		blocks:  newCache(cfg.CacheBytes),
		indexes: newLRU[string, *indexed](cfg.IndexBytes),
		tails:   newLRU[tailKey, *object.Tail](cfg.IndexBytes),
		ended:   newLRU[tailKey, ended](cfg.IndexBytes / 4),
		soon:    make(chan job, 1024),
		later:   make(chan job, 256),
	}
	r.streams.items = map[streamKey]*list.Element{}
	r.fresh.init()
	return r
}

// Run reads ahead, and what Query.Glance asked for, until ctx ends. Without it
// reads are right, only slower.
func (r *Reader) Run(ctx context.Context) error {
	g := run.New(ctx)
	for range max(1, r.cfg.Parallel/2) {
		g.Go("read ahead", func(ctx context.Context) error { return r.work(ctx, r.later) })
		g.Go("read soon", func(ctx context.Context) error { return r.work(ctx, r.soon) })
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("read ahead: %w", err)
	}
	return nil
}

// Enter takes a place among the requests to the object store for a job that
// reads objects by itself; leave gives it back.
func (r *Reader) Enter(ctx context.Context, c Class) (leave func(), err error) {
	if err := r.gate.enter(ctx, c); err != nil {
		return nil, err
	}
	return func() { r.gate.leave(c) }, nil
}

// Result is what a Read found. Batches are whole, in order of offsets, in one or
// more runs; they must not be changed, and not be used after Release.
type Result struct {
	Records [][]byte
	Bytes   int
	Next    int64 // offset to go on at
	Full    bool  // there is more in the range, but it does not fit
	Pending bool  // there is more in the range, but it is not in memory yet
	pins    []*cached
	pinned  int64
	cache   *cache
}

// Release gives the bytes back, so that their memory can be used again. Call it
// at most once; without it the memory counts as in use for ever.
func (res *Result) Release() {
	for _, b := range res.pins {
		res.cache.release(b)
	}
	res.pins = nil
}

// Query asks for the batches of a partition from the one that holds Offset, or
// the first above it, up to but excluding those that start at or after End. At
// most MaxBytes, save that the first batch is given whole if AtLeastOne. The
// caller knows that records from Offset on were written.
type Query struct {
	Partition  catalog.Partition
	Offset     int64
	End        int64
	MaxBytes   int
	AtLeastOne bool
	// Glance gives only what is in memory. What is not is asked for, and the
	// result is Pending.
	Glance bool
}

// Read answers a query from objects alone. Next is where the objects' answer
// ends.
func (r *Reader) Read(ctx context.Context, q Query) (Result, error) {
	res := Result{Next: q.Offset, cache: r.blocks}
	s := r.streams.take(streamKey{q.Partition, q.Offset})
	for more := true; more && res.Next < q.End; {
		err := r.look(ctx, func() (err error) {
			more, err = r.extent(ctx, q, &res)
			return err
		})
		if err != nil {
			if res.Bytes > 0 && ctx.Err() == nil {
				break // the error comes back with the next read if it stays
			}
			res.Release()
			return Result{}, fmt.Errorf("read %s at %d: %w", q.Partition, res.Next, err)
		}
	}
	r.follow(q, &res, s)
	return res, nil
}

// extent adds what one extent has. more is false when the answer is complete.
func (r *Reader) extent(ctx context.Context, q Query, res *Result) (more bool, err error) {
	all := r.catalog.Extents(q.Partition)
	at := firstAbove(all, res.Next)
	if at == len(all) || all[at].Base > res.Next {
		return false, fmt.Errorf("%w from %d on", errHole, res.Next)
	}
	x, class := all[at], CatchUp
	if near(all[at:], res.Next) {
		class = Tail
	}
	ix, ok := r.indexes.get(x.Object.Name)
	if !ok && (q.Glance || res.Bytes > 0) {
		r.ask(r.soon, job{object: x.Object, index: true, class: class})
		res.Pending = true
		return false, nil
	}
	if !ok {
		if ix, err = r.index(ctx, x.Object, class); err != nil {
			return false, err
		}
	}
	// What the object holds beyond the extent is out of date.
	end := min(q.End, x.End)
	lo, hi := ix.partition(q.Partition)
	for i := ix.from(lo, hi, res.Next); i < hi && ix.Blocks[i].Base < end; i++ {
		e := ix.Blocks[i]
		must := res.Bytes == 0 && q.AtLeastOne
		if !must && (res.Bytes+batch.HeaderSize > q.MaxBytes || res.pinned >= r.cfg.CacheBytes/4 || res.Bytes > 0 && r.blocks.crowded()) {
			res.Full = true
			return false, nil
		}
		// Once there is something to answer with, nobody waits for more.
		b, block, err := r.chunk(ctx, x.Object, ix, i, wants{class: class, must: must, glance: q.Glance || res.Bytes > 0})
		switch {
		case errors.Is(err, errNoRoom):
			res.Full = true
			return false, nil
		case err != nil:
			return false, err
		case b == nil:
			res.Pending = true
			return false, nil
		}
		r.blocks.touch(b, block, res.Next)
		if err := res.take(q, end, b, e); err != nil {
			return false, fmt.Errorf("object %s, block at %d: %w", x.Object.Name, e.Pos, err)
		}
		if res.Full {
			return false, nil
		}
		res.Next = max(res.Next, min(e.Last+1, end))
	}
	// A span may end above its last batch (its end was compacted away).
	res.Next = max(res.Next, end)
	return true, nil
}

// firstAbove returns the first extent that ends above offset.
func firstAbove(all []catalog.Extent, offset int64) int {
	return sort.Search(len(all), func(i int) bool { return all[i].End > offset })
}

// nearBytes is how far from the newest object's end a reader is at the tail.
const nearBytes = 64 << 20

// near says whether less than nearBytes lie between offset, which is in the first
// of the extents, and the end of the last.
func near(all []catalog.Extent, offset int64) bool {
	if len(all) > 64 {
		return false // whatever their size: those are no recent flushes
	}
	x := all[0]
	left := int64(float64(x.Bytes) * float64(x.End-offset) / float64(x.End-x.Base))
	for _, x := range all[1:] {
		left += x.Bytes
	}
	return left < nearBytes
}

// take adds the block's batches that start below end, as many as fit. It gives b
// back unless it keeps it.
func (res *Result) take(q Query, end int64, b *cached, e object.Entry) error {
	rest := b.bytes[e.Pos-b.key.pos:][:e.Len]
	all := rest
	start, taken := 0, 0
	for len(rest) > 0 {
		h, after, err := batch.Next(rest)
		if err != nil {
			res.cache.release(b)
			return fmt.Errorf("%w: %w", object.ErrCorrupt, err)
		}
		if h.LastOffset() < res.Next {
			start += len(h)
			rest = after
			continue
		}
		first := res.Bytes == 0 && taken == 0
		if h.BaseOffset() >= end {
			break
		}
		if !first && b.extra || res.Bytes+taken+len(h) > q.MaxBytes && !(first && q.AtLeastOne) {
			res.Full = true
			break
		}
		taken += len(h)
		res.Next = h.LastOffset() + 1
		rest = after
	}
	if taken == 0 {
		res.cache.release(b)
		return nil
	}
	records := all[start : start+taken : start+taken]
	if b.extra {
		// Memory is short: keep the one batch and not what surrounds it.
		records = append([]byte(nil), records...)
		res.cache.release(b)
		res.cache.forget(b)
	} else {
		res.pins = append(res.pins, b)
		res.pinned += b.weight
	}
	res.Records = append(res.Records, records)
	res.Bytes += taken
	return nil
}

// wants is how a chunk is wanted.
type wants struct {
	class  Class
	must   bool  // even beyond the bound of the cache
	glance bool  // only if it is in memory; it is asked for otherwise
	ahead  int64 // bytes reserved for it as read ahead
}

// chunk returns the chunk that holds block i, pinned, and which of its blocks
// that is; nil if it was wanted at a glance and is not there.
func (r *Reader) chunk(ctx context.Context, o *catalog.Object, ix *indexed, i int, w wants) (b *cached, block int, err error) {
	entries, block := chunk(ix.Blocks, ix.blocks, i)
	key := chunkKey{o.Name, entries[0].Pos}
	var hit bool
	if w.glance {
		if b = r.blocks.peek(key); b == nil {
			r.stats.misses.Add(1)
			r.ask(r.soon, job{object: o, at: i, class: w.class})
			return nil, block, nil
		}
		r.stats.hits.Add(1)
	} else if b, hit, err = r.blocks.get(ctx, want{key, runBytes(entries), len(entries), w.must, w.ahead}, func(b *cached) error {
		return r.load(ctx, o, entries, b, w.class)
	}); err != nil {
		return nil, block, err
	} else if w.ahead == 0 && hit {
		r.stats.hits.Add(1)
	} else if w.ahead == 0 {
		r.stats.misses.Add(1)
	}
	if b.bad != nil && b.bad[block] != nil {
		err := fmt.Errorf("object %s: %w", o.Name, b.bad[block])
		r.blocks.forget(b) // the next one who looks reads it again
		r.blocks.release(b)
		return nil, block, err
	}
	return b, block, nil
}

// load reads a chunk.
func (r *Reader) load(ctx context.Context, o *catalog.Object, entries []object.Entry, b *cached, c Class) error {
	if err := r.gate.enter(ctx, c); err != nil {
		return err
	}
	defer r.gate.leave(c)
	r.stats.gets.Add(1)
	r.stats.bytes.Add(int64(len(b.bytes)))
	at := entries[0].Pos
	if _, err := r.store.GetRange(ctx, r.key(o), at, b.bytes); err != nil {
		return fmt.Errorf("get %d bytes at %d of object %s: %w", len(b.bytes), at, o.Name, err)
	}
	for i, e := range entries {
		if err := e.Check(b.bytes[e.Pos-at:][:e.Len]); err != nil {
			if b.bad == nil {
				b.bad = make([]error, len(entries))
			}
			b.bad[i] = err
		}
	}
	return nil
}
