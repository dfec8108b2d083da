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
	// Objects first: what becomes visible later is not judged by what was before.
	all := c.Visible()
	uses := c.Uses()
	dead := slices.DeleteFunc(all, func(v Visible) bool { return uses[v.Object.Name].Needed })
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
	Object   string // name
	Deadline int64  // ms, from when on it may be deleted
	key      string
}

// Key tells one entry from all others, also of the same object.
func (g Garbage) Key() string { return g.key }

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
			all = append(all, Garbage{Object: name, Deadline: deadline, key: kv.Key})
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

// Keeper returns the broker that looks after what an epoch left behind: the one
// whose active epoch it is, or that sealed it, or that sealed the sealer.
func (c *Catalog) Keeper(log LogID) int32 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for range maxSeals {
		f, ok := c.ix.owners.fences[log]
		if !ok || f.State == fenceActive || f.By == log.Broker && f.ByEpoch <= log.Epoch {
			break
		}
		log = LogID{f.By, f.ByEpoch}
	}
	return log.Broker
}

// maxSeals bounds how far a chain of seals is followed.
const maxSeals = 1000

// Sealed says that nothing of the epoch can become visible any more but through
// who sealed it.
func (c *Catalog) Sealed(log LogID) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	f, ok := c.ix.owners.fences[log]
	return ok && f.State != fenceActive
}

// Sweep claims an object that no key names, so that none ever will: every
// transaction that makes an object visible compares that it was not swept (P12).
// It returns the names that may be deleted; the others turned out to be visible.
func (w *Writer) Sweep(ctx context.Context, names []string) (swept []string, err error) {
	for batch := range slices.Chunk(names, retireBatch) {
		t := meta.Txn{If: []meta.Cmp{w.active()}, ElseGet: []string{w.fenceKey()}}
		for _, name := range batch {
			t.Then = append(t.Then, meta.Put(sweptKey(name), encodeInt(w.epoch)))
		}
		res, err := w.c.txn(ctx, t)
		if err == nil && !res.OK {
			err = ErrFenced
		}
		if err != nil {
			return nil, fmt.Errorf("sweep %d objects: %w", len(batch), err)
		}
	}
	// A commit that came first is in the catalog by now.
	unknown, err := w.c.Unknown(ctx, names)
	if err != nil {
		return nil, err
	}
	left := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return slices.Contains(unknown, n) })
	if err := w.Unsweep(ctx, left); err != nil {
		return nil, err
	}
	return unknown, nil
}

// Unsweep forgets that objects were swept: they are gone, and so is who could
// put them again.
func (w *Writer) Unsweep(ctx context.Context, names []string) error {
	for batch := range slices.Chunk(names, retireBatch) {
		t := meta.Txn{If: []meta.Cmp{w.active()}, ElseGet: []string{w.fenceKey()}}
		for _, name := range batch {
			t.Then = append(t.Then, meta.Delete(sweptKey(name)))
		}
		res, err := w.c.txn(ctx, t)
		if err == nil && !res.OK {
			err = ErrFenced
		}
		if err != nil {
			return fmt.Errorf("forget %d swept objects: %w", len(batch), err)
		}
	}
	return nil
}

// Swept returns the names of swept objects.
func (c *Catalog) Swept(ctx context.Context) (names []string, err error) {
	_, err = c.store.Scan(ctx, prefixSwept, func(kv meta.KV) error {
		names = append(names, kv.Key[len(prefixSwept):])
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list swept objects: %w", err)
	}
	return names, nil
}
