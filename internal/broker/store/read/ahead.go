package read

import (
	"container/list"
	"context"
	"sync"
	"time"

	"github.com/looptape/looptape/internal/broker/store/catalog"
)

// A stream is a reader that goes through a partition, as far as is known: a read
// that starts where an earlier one ended. Its window is how far ahead of it is
// read; it doubles with every read that goes on.
type stream struct {
	key    streamKey
	window int64 // bytes
	asked  int64 // what lies below this offset has been asked for
	ahead  int64 // bytes of the partition in [next, asked)
	read   time.Time
}

type streamKey struct {
	partition catalog.Partition
	next      int64
}

// maxStreams bounds what is remembered.
const maxStreams = 4096

type streams struct {
	mu    sync.Mutex
	order list.List // newest at the front
	items map[streamKey]*list.Element
}

// take returns the stream that goes on at offset, or nil.
func (s *streams) take(k streamKey) *stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.items[k]
	if !ok {
		return nil
	}
	delete(s.items, k)
	return s.order.Remove(e).(*stream)
}

// put remembers a stream under its key, instead of another that is there.
func (s *streams) put(x *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.items[x.key]; ok {
		s.order.Remove(e)
	}
	s.items[x.key] = s.order.PushFront(x)
	if s.order.Len() > maxStreams {
		old := s.order.Remove(s.order.Back()).(*stream)
		delete(s.items, old.key)
	}
}

// going counts the streams that went on within the last second; more than 64 are
// as good as 64.
func (s *streams) going() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := s.order.Front(); e != nil && n < 64 && time.Since(e.Value.(*stream).read) < time.Second; e = e.Next() {
		n++
	}
	return n
}

// follow plans what the reader that just read q may want next.
func (r *Reader) follow(q Query, res *Result, s *stream) {
	if s == nil {
		s = &stream{asked: q.Offset}
		// Who begins at the beginning goes on; of others nobody knows yet.
		if all := r.catalog.Extents(q.Partition); len(all) > 0 && q.Offset <= all[0].Base {
			s.window = int64(r.cfg.ChunkBytes)
		}
	} else if res.Bytes > 0 {
		s.window = min(max(2*s.window, int64(r.cfg.ChunkBytes)), r.cfg.Ahead)
	}
	s.key = streamKey{q.Partition, res.Next}
	if s.ahead -= int64(res.Bytes); s.asked < res.Next || s.ahead < 0 {
		s.asked, s.ahead = max(s.asked, res.Next), 0
	}
	if r.cfg.Ahead > 0 && s.ahead <= s.window/2 && s.window > 0 {
		r.plan(s)
	}
	s.read = time.Now()
	r.streams.put(s)
}

// plan asks for the chunks of the window that were not asked for. It waits for
// nothing: where an index is not in memory, that is asked for and the next read
// goes on.
func (r *Reader) plan(s *stream) {
	most := min(s.window, r.blocks.mostAhead()/int64(r.streams.going()+1)) - s.ahead
	if s.ahead == 0 {
		most = max(most, 4*int64(r.cfg.ChunkBytes)) // a chunk or two, however many there are
	}
	left := r.blocks.reserve(most)
	defer func() { r.blocks.unreserve(left) }()
	p := s.key.partition
	all := r.catalog.Extents(p)
	for _, x := range all[firstAbove(all, s.asked):] {
		ix, ok := r.indexes.get(x.Object.Name)
		if !ok {
			r.ask(r.later, job{object: x.Object, index: true, class: ahead})
			return
		}
		lo, hi := ix.partition(p)
		for i := ix.from(lo, hi, s.asked); i < hi && ix.Blocks[i].Base < x.End; i++ {
			run, at := chunk(ix.Blocks, ix.blocks, i)
			size := int64(roundUp(runBytes(run)))
			if !r.blocks.has(chunkKey{x.Object.Name, run[0].Pos}) {
				if size > left || !r.ask(r.later, job{object: x.Object, at: i, ahead: size}) {
					return
				}
				left -= size
			}
			// The chunk has all neighbours of the block, too.
			last := min(i+len(run)-at, hi)
			for ; i < last; i++ {
				s.ahead += int64(ix.Blocks[i].Len)
				s.asked = ix.Blocks[i].Last + 1
			}
			i--
			if s.ahead >= s.window {
				return
			}
		}
		s.asked = max(s.asked, x.End)
	}
}

// A job is a chunk to read before somebody waits for it, or an index.
type job struct {
	object *catalog.Object
	index  bool
	at     int   // block
	ahead  int64 // bytes reserved in the cache; 0: none are yet, somebody waits for it
	class  Class
}

// ask queues a job. A full queue drops the wish.
func (r *Reader) ask(queue chan job, j job) bool {
	select {
	case queue <- j:
		return true
	default:
		return false
	}
}

// work does jobs until ctx ends. A failure shows when somebody reads the chunk
// for real.
func (r *Reader) work(ctx context.Context, queue chan job) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case j := <-queue:
			r.do(ctx, j)
		}
	}
}

func (r *Reader) do(ctx context.Context, j job) {
	class := j.class
	if j.ahead > 0 {
		class = ahead
	}
	ix, err := r.index(ctx, j.object, class)
	if err != nil || j.index {
		r.blocks.unreserve(j.ahead)
		return
	}
	waited := j.ahead
	if waited == 0 {
		entries, _ := chunk(ix.Blocks, ix.blocks, j.at)
		waited = int64(roundUp(runBytes(entries)))
		r.blocks.unreserve(-waited)
	}
	b, _, err := r.chunk(ctx, j.object, ix, j.at, wants{class: class, ahead: waited})
	if err != nil {
		return
	}
	if j.ahead > 0 {
		r.stats.ahead.Add(1)
	}
	r.blocks.release(b)
}
