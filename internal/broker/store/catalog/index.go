package catalog

import (
	"fmt"
	"strings"

	"github.com/looptape/looptape/internal/base/meta"
)

// index is the catalog in memory.
type index struct {
	topics  map[TopicID]Topic
	names   map[string]TopicID
	parts   map[Partition]partEntry
	shelves map[Partition]*shelf
	objects map[string]objEntry // by meta key
	keys    map[string]string   // of objects, by name
	deleted map[TopicID]int64   // deletion time, ms
	later   map[Partition]bool  // shelves to paint once all changes are applied; nil: at once
	owners  owners              // who lives, leads and recovers
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
		shelves: map[Partition]*shelf{}, objects: map[string]objEntry{}, keys: map[string]string{}, deleted: map[TopicID]int64{},
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
			delete(ix.keys, old.object.Name)
		}
		if !ch.gone {
			e := objEntry{ch.object, ch.ranges, ch.modRev}
			ix.objects[key], ix.keys[e.object.Name] = e, key
			ix.insert(e)
		}
	}
	return gone, false, nil
}

// Partitions returns the partitions that objects hold something of and
// whose topic exists, in no order.
func (c *Catalog) Partitions() []Partition {
	c.mu.RLock()
	defer c.mu.RUnlock()
	all := make([]Partition, 0, len(c.ix.shelves))
	for p := range c.ix.shelves {
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
