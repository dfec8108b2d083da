package join

import (
	"cmp"
	"slices"
)

// A place is where an item stands in its list.
type place struct {
	class uint8 // what must not be pushed out comes first
	time  int64
	a, b  string
	id    string
}

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.class, q.class), cmp.Compare(p.time, q.time), cmp.Compare(p.a, q.a), cmp.Compare(p.b, q.b), cmp.Compare(p.id, q.id))
}

type item interface {
	ident() string
	place() place
	size() int // bytes in the state, about
}

// A list keeps the first items of a growing set: the longest beginning, in the
// order of their places, that fits the limits. What has once been pushed out
// would never fit again, as the set only grows, so that what is kept depends on
// the set and not on the order in which it came. (cut remembers where it ended: an
// item behind it stays out even where there is room.)
type list[T item] struct {
	items []T
	bytes int
	cut   *place // of the first item that was pushed out
}

func (l *list[T]) find(id string) int {
	return slices.IndexFunc(l.items, func(x T) bool { return x.ident() == id })
}

// put adds an item and returns those that do not fit, maybe the item itself.
func (l *list[T]) put(x T, maxItems, maxBytes int) (out []T) {
	at := x.place()
	if l.cut != nil && at.compare(*l.cut) >= 0 {
		return []T{x}
	}
	i, _ := slices.BinarySearchFunc(l.items, at, func(y T, p place) int { return y.place().compare(p) })
	l.items = slices.Insert(l.items, i, x)
	l.bytes += x.size()
	for len(l.items) > maxItems || l.bytes > maxBytes {
		last := l.items[len(l.items)-1]
		l.items = l.items[:len(l.items)-1]
		l.bytes -= last.size()
		at := last.place()
		l.cut = &at
		out = append(out, last)
	}
	return out
}

func (l *list[T]) remove(i int) {
	l.bytes -= l.items[i].size()
	l.items = slices.Delete(l.items, i, i+1)
}
