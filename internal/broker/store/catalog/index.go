package catalog

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/looptape/looptape/internal/base/meta"
)

// index is the catalog in memory. Slices of extents are never changed in place
// below their length, so a reader may keep one.
type index struct {
	topics  map[TopicID]Topic
	names   map[string]TopicID
	parts   map[Partition]partEntry
	extents map[Partition][]Extent // by Base
	objects map[string]objEntry    // by meta key
	deleted map[TopicID]int64      // deletion time, ms
	owners  owners                 // who lives, leads and recovers
}

type partEntry struct {
	part
	modRev int64
}

type objEntry struct {
	object *Object
	ranges []Range
	modRev int64
}

func newIndex() *index {
	return &index{
		topics: map[TopicID]Topic{}, names: map[string]TopicID{}, parts: map[Partition]partEntry{},
		extents: map[Partition][]Extent{}, objects: map[string]objEntry{}, deleted: map[TopicID]int64{},
		owners: newOwners(),
	}
}

// change is one decoded event, with everything that needed I/O done.
type change struct {
	key    string
	modRev int64
	gone   bool
	value  []byte
	object *Object
	ranges []Range
}

// decode prepares an event for apply. Ranges of a set are left to the caller.
func decode(e meta.Event) (change, error) {
	ch := change{key: e.Key, modRev: e.ModRev, gone: e.Deleted, value: e.Value}
	if e.Deleted {
		return ch, nil
	}
	var err error
	switch {
	case strings.HasPrefix(e.Key, prefixSets):
		ch.object, err = decodeSet(e.Key[len(prefixSets):], e.Value)
	case strings.HasPrefix(e.Key, prefixObjs):
		p, base, ok := parseObj(e.Key[len(prefixObjs):])
		if !ok {
			return ch, fmt.Errorf("%w: key %q", ErrCorrupt, e.Key)
		}
		var r Range
		ch.object, r, err = decodeObj(p, base, e.Value)
		ch.ranges = []Range{r}
	}
	if err != nil {
		return ch, fmt.Errorf("%s: %w", e.Key, err)
	}
	return ch, nil
}

// apply changes the index. It returns the topic that is gone, if one is.
func (ix *index) apply(ch change) (gone TopicID, isGone bool, err error) {
	key := ch.key
	if err := ix.owners.apply(ch); err != nil {
		return gone, false, err
	}
	switch {
	case strings.HasPrefix(key, prefixTopics):
		id, ok := parseTopicID(key[len(prefixTopics):])
		if !ok {
			return gone, false, fmt.Errorf("%w: key %q", ErrCorrupt, key)
		}
		if ch.gone {
			t, had := ix.topics[id]
			if had {
				delete(ix.topics, id)
				if ix.names[t.Name] == id {
					delete(ix.names, t.Name)
				}
			}
			return id, had, nil
		}
		t, err := decodeTopic(ch.value)
		if err != nil {
			return gone, false, fmt.Errorf("%s: %w", key, err)
		}
		t.ID = id
		s := settings(t.Config)
		t.settings = &s
		ix.topics[id], ix.names[t.Name] = t, id
	case strings.HasPrefix(key, prefixParts):
		p, ok := parsePartition(key[len(prefixParts):])
		if !ok {
			return gone, false, fmt.Errorf("%w: key %q", ErrCorrupt, key)
		}
		if ch.gone {
			delete(ix.parts, p)
			break
		}
		v, err := decodePart(ch.value)
		if err != nil {
			return gone, false, fmt.Errorf("%s: %w", key, err)
		}
		ix.parts[p] = partEntry{v, ch.modRev}
	case strings.HasPrefix(key, prefixDeleted):
		id, ok := parseTopicID(key[len(prefixDeleted):])
		if !ok {
			return gone, false, fmt.Errorf("%w: key %q", ErrCorrupt, key)
		}
		if ch.gone {
			delete(ix.deleted, id)
			break
		}
		at, err := decodeInt("deleted topic", ch.value)
		if err != nil {
			return gone, false, fmt.Errorf("%s: %w", key, err)
		}
		ix.deleted[id] = at
	case strings.HasPrefix(key, prefixSets), strings.HasPrefix(key, prefixObjs):
		if old, had := ix.objects[key]; had {
			ix.remove(old)
			delete(ix.objects, key)
		}
		if !ch.gone {
			e := objEntry{ch.object, ch.ranges, ch.modRev}
			ix.objects[key] = e
			ix.insert(e)
		}
	}
	return gone, false, nil
}

// insert adds the object's ranges. Where ranges overlap the higher generation
// wins: a merged object and its inputs may be visible together.
func (ix *index) insert(e objEntry) {
	for _, r := range e.ranges {
		x := Extent{r.Base, r.End, r.MaxTimestamp, r.Bytes, r.TailDepth, e.object}
		all := ix.extents[r.Partition]
		if n := len(all); n == 0 || all[n-1].End <= x.Base {
			ix.extents[r.Partition] = append(all, x) // the usual case: a flush
			continue
		}
		if slices.ContainsFunc(all, func(o Extent) bool { return covers(o, x) }) {
			continue
		}
		kept := slices.DeleteFunc(slices.Clone(all), func(o Extent) bool { return covers(x, o) })
		kept = append(kept, x)
		slices.SortFunc(kept, func(a, b Extent) int {
			return cmp.Or(cmp.Compare(a.Base, b.Base), cmp.Compare(a.End, b.End))
		})
		ix.extents[r.Partition] = kept
	}
}

// covers says that nobody needs b where a is.
func covers(a, b Extent) bool {
	return a.Base <= b.Base && b.End <= a.End && a.Object.Generation > b.Object.Generation
}

func (ix *index) remove(e objEntry) {
	for _, r := range e.ranges {
		all := ix.extents[r.Partition]
		kept := slices.DeleteFunc(slices.Clone(all), func(o Extent) bool { return o.Object.Name == e.object.Name })
		if len(kept) == 0 {
			delete(ix.extents, r.Partition)
		} else {
			ix.extents[r.Partition] = kept
		}
	}
}

// Extents returns what objects hold of a partition, by offset. Don't change it.
func (c *Catalog) Extents(p Partition) []Extent {
	c.mu.RLock()
	defer c.mu.RUnlock()
	all := c.ix.extents[p]
	return all[:len(all):len(all)]
}

// Find returns the first extent that ends above offset: the one that holds it
// or, where nothing holds it, the next.
func (c *Catalog) Find(p Partition, offset int64) (Extent, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	all := c.ix.extents[p]
	// Ends ascend with bases: extents never overlap but while a replaced one is
	// still visible, and then the search may only hit an equally good copy.
	at, _ := slices.BinarySearchFunc(all, offset, func(x Extent, o int64) int {
		if x.End > o {
			return 1
		}
		return -1
	})
	if at == len(all) {
		return Extent{}, false
	}
	return all[at], true
}

// Partitions returns the partitions that objects hold something of and
// whose topic exists, in no order.
func (c *Catalog) Partitions() []Partition {
	c.mu.RLock()
	defer c.mu.RUnlock()
	all := make([]Partition, 0, len(c.ix.extents))
	for p := range c.ix.extents {
		if t, ok := c.ix.topics[p.Topic]; ok && p.Index < t.Partitions {
			all = append(all, p)
		}
	}
	return all
}

// Record is what the catalog says of a partition beside its extents.
type Record struct {
	Leader      int32
	LeaderEpoch int32
	LogStart    int64
	Epochs      []EpochStart
}

// Record returns a partition's record; the zero one if there is none.
func (c *Catalog) Record(p Partition) Record {
	c.mu.RLock()
	defer c.mu.RUnlock()
	e := c.ix.parts[p]
	return Record{e.Leader, e.LeaderEpoch, e.LogStart, e.Epochs}
}

// Objects counts the visible objects and their bytes.
func (c *Catalog) Objects() (count int, bytes int64) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, e := range c.ix.objects {
		bytes += e.object.Size
	}
	return len(c.ix.objects), bytes
}
