package read

import (
	"container/list"
	"sync"
)

// lru keeps small decoded things, indexes and tails, up to a bound in bytes.
type lru[K comparable, V any] struct {
	mu    sync.Mutex
	max   int64
	size  int64
	order *list.List // newest at the front
	items map[K]*list.Element
}

type lruItem[K comparable, V any] struct {
	key   K
	value V
	size  int64
}

func newLRU[K comparable, V any](max int64) *lru[K, V] {
	return &lru[K, V]{max: max, order: list.New(), items: map[K]*list.Element{}}
}

func (l *lru[K, V]) get(key K) (v V, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.items[key]
	if !ok {
		return v, false
	}
	l.order.MoveToFront(e)
	return e.Value.(*lruItem[K, V]).value, true
}

// put adds what nobody will change any more. The newest stays, however large.
func (l *lru[K, V]) put(key K, v V, size int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.items[key]; ok {
		return
	}
	l.items[key] = l.order.PushFront(&lruItem[K, V]{key, v, size})
	l.size += size
	for l.size > l.max && l.order.Len() > 1 {
		it := l.order.Remove(l.order.Back()).(*lruItem[K, V])
		delete(l.items, it.key)
		l.size -= it.size
	}
}
