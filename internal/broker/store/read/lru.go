package read

import (
	"container/list"
	"context"
	"errors"
	"sync"
)

// lru keeps small decoded things, indexes and tails, up to a bound in bytes.
// Callers that miss the same key at the same time share one load.
type lru[K comparable, V any] struct {
	mu      sync.Mutex
	max     int64
	size    int64
	order   *list.List // newest at the front
	items   map[K]*list.Element
	flights map[K]*flight[V]
}

type lruItem[K comparable, V any] struct {
	key   K
	value V
	size  int64
}

type flight[V any] struct {
	done  chan struct{} // closed when the rest is set
	value V
	err   error
}

func newLRU[K comparable, V any](max int64) *lru[K, V] {
	return &lru[K, V]{max: max, order: list.New(), items: map[K]*list.Element{}, flights: map[K]*flight[V]{}}
}

func (l *lru[K, V]) get(key K) (v V, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.find(key)
}

func (l *lru[K, V]) find(key K) (v V, ok bool) {
	e, ok := l.items[key]
	if !ok {
		return v, false
	}
	l.order.MoveToFront(e)
	return e.Value.(*lruItem[K, V]).value, true
}

// load is get, or fn and put. A caller whose load was given up because the one
// who did it went away does it itself.
func (l *lru[K, V]) load(ctx context.Context, key K, fn func(context.Context) (V, int64, error)) (V, error) {
	for {
		l.mu.Lock()
		if v, ok := l.find(key); ok {
			l.mu.Unlock()
			return v, nil
		}
		f, ok := l.flights[key]
		if !ok {
			f = &flight[V]{done: make(chan struct{}), err: errGivenUp}
			l.flights[key] = f
			l.mu.Unlock()
			return l.lead(ctx, key, f, fn)
		}
		l.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
			return f.value, ctx.Err()
		}
		if !givenUp(f.err) || ctx.Err() != nil {
			return f.value, f.err
		}
	}
}

// errGivenUp is what others see of a load that panicked.
var errGivenUp = errors.New("load given up")

func (l *lru[K, V]) lead(ctx context.Context, key K, f *flight[V], fn func(context.Context) (V, int64, error)) (V, error) {
	var size int64
	defer func() {
		l.mu.Lock()
		delete(l.flights, key)
		if f.err == nil {
			l.add(key, f.value, size)
		}
		l.mu.Unlock()
		close(f.done)
	}()
	f.value, size, f.err = fn(ctx)
	return f.value, f.err
}

// givenUp tells the failure of who waited from the failure of the store.
func givenUp(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// put adds what nobody will change any more. The newest stays, however large.
func (l *lru[K, V]) put(key K, v V, size int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.add(key, v, size)
}

func (l *lru[K, V]) add(key K, v V, size int64) {
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
