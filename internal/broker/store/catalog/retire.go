package catalog

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/looptape/looptape/internal/base/meta"
)

// retireBatch keeps the transactions that retire objects small.
const retireBatch = 20

// SetLogStart raises the partition's log start to before and returns the log
// start that holds, which may be higher. When it returns nil it is durable and
// in the index.
func (w *Writer) SetLogStart(ctx context.Context, p Partition, before int64) (int64, error) {
	for {
		w.c.mu.RLock()
		e, ok := w.c.ix.parts[p]
		w.c.mu.RUnlock()
		if !ok {
			return 0, fmt.Errorf("set log start of %s: %w", p, ErrUnknownTopic)
		}
		if e.LogStart >= before {
			return e.LogStart, nil
		}
		next := e.part
		next.LogStart = before
		key, value := partKey(p), encodePart(next)
		res, err := w.c.txn(ctx, meta.Txn{
			If:      []meta.Cmp{w.active(), meta.ModRevIs(key, e.modRev)},
			Then:    []meta.Op{meta.Put(key, value)},
			ElseGet: []string{w.fenceKey(), key},
		})
		if err != nil {
			return 0, fmt.Errorf("set log start of %s: %w", p, err)
		}
		if !res.OK && w.fenced(res.Else) {
			return 0, fmt.Errorf("set log start of %s: %w", p, ErrFenced)
		}
		// Not OK: the record moved or an earlier attempt was applied. The index
		// at this revision tells.
		if err := w.c.wait(ctx, res.Rev); err != nil {
			return 0, fmt.Errorf("set log start of %s: %w", p, err)
		}
		if res.OK {
			return before, nil
		}
	}
}

// Unneeded returns the objects none of whose ranges anybody needs: their topics
// are gone, they lie below the log start, or a higher generation covers them. The
// newest extent of a living partition is kept for the producer state in it, with
// those it builds on (P10).
func (c *Catalog) Unneeded() []Visible {
	c.mu.RLock()
	needed := make(map[string]bool, len(c.ix.objects))
	for p := range c.ix.shelves {
		for key := range c.ix.needs(p) {
			needed[key.object] = true
		}
	}
	var dead []Visible
	for key, e := range c.ix.objects {
		if !needed[e.object.Name] {
			dead = append(dead, visible(key, e))
		}
	}
	c.mu.RUnlock()
	slices.SortFunc(dead, func(a, b Visible) int { return strings.Compare(a.Object.Name, b.Object.Name) })
	return dead
}

// Retire takes objects out of sight and hands them to the collector, which may
// delete them from deadline (ms) on. Objects that changed meanwhile are left.
func (w *Writer) Retire(ctx context.Context, objects []Visible, deadline int64) error {
	for batch := range slices.Chunk(objects, retireBatch) {
		t := meta.Txn{If: []meta.Cmp{w.active()}, ElseGet: []string{w.fenceKey()}}
		for _, v := range batch {
			t.If = append(t.If, meta.ModRevIs(v.key, v.Rev))
			t.Then = append(t.Then, meta.Delete(v.key), meta.Put(gcKey(deadline, v.Object.Name), encodeInt(0)))
		}
		res, err := w.c.txn(ctx, t)
		if err != nil {
			return fmt.Errorf("retire %d objects: %w", len(batch), err)
		}
		if !res.OK && w.fenced(res.Else) {
			return fmt.Errorf("retire %d objects: %w", len(batch), ErrFenced)
		}
		if err := w.c.wait(ctx, res.Rev); err != nil {
			return fmt.Errorf("retire %d objects: %w", len(batch), err)
		}
	}
	return nil
}

// Garbage is an object to delete.
type Garbage struct {
	Object string // name
	key    string
}

// Garbage returns the retired objects whose deadline is at or before now (ms),
// at most limit.
func (c *Catalog) Garbage(ctx context.Context, now int64, limit int) ([]Garbage, error) {
	var all []Garbage
	_, err := c.store.Scan(ctx, prefixGC, func(kv meta.KV) error {
		deadline, name, ok := parseNumbered(kv.Key[len(prefixGC):])
		if !ok {
			return fmt.Errorf("%w: key %q", ErrCorrupt, kv.Key)
		}
		if deadline <= now && len(all) < limit {
			all = append(all, Garbage{Object: name, key: kv.Key})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list garbage: %w", err)
	}
	return all, nil
}

// Collected forgets garbage whose objects are deleted.
func (w *Writer) Collected(ctx context.Context, all []Garbage) error {
	for batch := range slices.Chunk(all, retireBatch) {
		t := meta.Txn{If: []meta.Cmp{w.active()}, ElseGet: []string{w.fenceKey()}}
		for _, g := range batch {
			t.Then = append(t.Then, meta.Delete(g.key))
		}
		res, err := w.c.txn(ctx, t)
		if err != nil {
			return fmt.Errorf("forget garbage: %w", err)
		}
		if !res.OK {
			return fmt.Errorf("forget garbage: %w", ErrFenced)
		}
	}
	return nil
}

// Bury removes what the catalog still knows of deleted topics that no visible
// object mentions.
func (w *Writer) Bury(ctx context.Context) error {
	w.c.mu.RLock()
	var ids []TopicID
	mentioned := map[TopicID]bool{}
	for p := range w.c.ix.shelves {
		mentioned[p.Topic] = true
	}
	for id := range w.c.ix.deleted {
		if !mentioned[id] {
			ids = append(ids, id)
		}
	}
	w.c.mu.RUnlock()
	for _, id := range ids {
		res, err := w.c.txn(ctx, meta.Txn{
			If:      []meta.Cmp{w.active()},
			Then:    []meta.Op{meta.DeletePrefix(prefixParts + id.String() + "/"), meta.Delete(deletedKey(id))},
			ElseGet: []string{w.fenceKey()},
		})
		if err != nil {
			return fmt.Errorf("bury topic %s: %w", id, err)
		}
		if !res.OK {
			return fmt.Errorf("bury topic %s: %w", id, ErrFenced)
		}
	}
	return nil
}

// Unknown returns those of the names that neither a visible object nor garbage
// has, as of a revision read now.
func (c *Catalog) Unknown(ctx context.Context, names []string) ([]string, error) {
	if len(names) == 0 {
		return nil, nil
	}
	// Objects go from visible to garbage, so what leaves one between the two
	// reads is in the other.
	if err := c.refresh(ctx); err != nil {
		return nil, err
	}
	known := map[string]bool{}
	c.mu.RLock()
	for _, e := range c.ix.objects {
		known[e.object.Name] = true
	}
	c.mu.RUnlock()
	all, err := c.Garbage(ctx, math.MaxInt64, math.MaxInt)
	if err != nil {
		return nil, err
	}
	for _, g := range all {
		known[g.Object] = true
	}
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return known[n] }), nil
}
