package read

import "sync/atomic"

type stats struct {
	gets, bytes, ahead, stale, indexes atomic.Int64
	hits, misses                       atomic.Int64
}

// Stats are counters since New, and the size of the cache.
type Stats struct {
	Gets       int64 // chunks read from the store
	Bytes      int64 // of them
	Ahead      int64 // of them read ahead
	Indexes    int64 // indexes read
	Stale      int64 // reads that found the index stale
	Hits       int64 // chunks that readers wanted and found in memory
	Misses     int64 // chunks that readers had to wait for
	CacheBytes int64 // gauge: memory of blocks, in the cache or in use
	AheadBytes int64 // gauge: of them read ahead and not wanted yet
}

// Stats returns the counters.
func (r *Reader) Stats() Stats {
	r.blocks.mu.Lock()
	size, ahead := r.blocks.size, r.blocks.ahead
	r.blocks.mu.Unlock()
	return Stats{
		Gets: r.stats.gets.Load(), Bytes: r.stats.bytes.Load(), Ahead: r.stats.ahead.Load(), Indexes: r.stats.indexes.Load(),
		Stale: r.stats.stale.Load(), Hits: r.stats.hits.Load(), Misses: r.stats.misses.Load(), CacheBytes: size, AheadBytes: ahead,
	}
}
