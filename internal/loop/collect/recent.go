package collect

import (
	"hash/maphash"
	"sync"
)

// recent remembers the last n strings that were added: enough to not repeat
// oneself, no more. A string forgotten too early is repeated, and ids make that
// harmless.
type recent struct {
	mu   sync.Mutex // guards all
	seen map[string]struct{}
	ring []string
	next int
}

func newRecent(n int) *recent {
	return &recent{seen: make(map[string]struct{}), ring: make([]string, n)}
}

func (r *recent) has(s string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.seen[s]
	return ok
}

func (r *recent) add(s string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.seen[s]; ok {
		return
	}
	delete(r.seen, r.ring[r.next])
	r.ring[r.next] = s
	r.seen[s] = struct{}{}
	r.next = (r.next + 1) % len(r.ring)
}

// spanOrder gives the messages of a span that come one by one, perhaps in
// several exports, their places: the next free one, and the same one again for
// an id that came before. It remembers the last n spans; a message of a forgotten
// span starts over, and then its time alone orders it.
type spanOrder struct {
	mu    sync.Mutex // guards all
	seed  maphash.Seed
	spans map[string]*[]uint64 // span -> hashes of ids in the order of their arrival
	ring  []string
	next  int
}

// maxSpanOrder bounds the messages remembered of one span.
const maxSpanOrder = 1024

func newSpanOrder(n int) *spanOrder {
	return &spanOrder{seed: maphash.MakeSeed(), spans: make(map[string]*[]uint64), ring: make([]string, n)}
}

// place returns the place of the message id in span, from 0.
func (o *spanOrder) place(span, id string) int64 {
	h := maphash.String(o.seed, id)
	o.mu.Lock()
	defer o.mu.Unlock()
	ids := o.spans[span]
	if ids == nil {
		delete(o.spans, o.ring[o.next])
		o.ring[o.next] = span
		ids = new([]uint64)
		o.spans[span] = ids
		o.next = (o.next + 1) % len(o.ring)
	}
	for i, known := range *ids {
		if known == h {
			return int64(i)
		}
	}
	if len(*ids) < maxSpanOrder {
		*ids = append(*ids, h)
		return int64(len(*ids) - 1)
	}
	return maxSpanOrder
}
