package catalog

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/run"
)

// watchPatience is how long a reader that needs a revision waits for the watch
// before it reads the store itself (P16).
const watchPatience = 200 * time.Millisecond

// loaders bounds the objects whose ranges are read at the same time.
const loaders = 16

// Run keeps the index fresh until ctx ends.
func (c *Catalog) Run(ctx context.Context) error {
	c.mu.Lock()
	c.running = true
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.running = false
		c.mu.Unlock()
	}()
	for ctx.Err() == nil {
		c.mu.RLock()
		after := c.rev
		c.mu.RUnlock()
		err := c.follow(ctx, after)
		if ctx.Err() != nil {
			break
		}
		if errors.Is(err, meta.ErrClosed) {
			return fmt.Errorf("watch catalog: %w", err)
		}
		// The watch ended early: the index is stale until a full read.
		if err := c.refresh(ctx); err != nil {
			if errors.Is(err, ErrCorrupt) {
				return fmt.Errorf("watch catalog: %w", err) // waiting mends nothing
			}
			if err := sleep(ctx, watchPatience); err != nil {
				break
			}
		}
	}
	return nil
}

// follow applies batches until the watch ends.
func (c *Catalog) follow(ctx context.Context, after int64) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	for b := range c.store.Watch(ctx, root, after) {
		if b.Err != nil {
			return b.Err
		}
		changes := make([]change, 0, len(b.Events))
		for _, e := range b.Events {
			ch, err := c.prepare(ctx, e)
			if err != nil {
				return err
			}
			changes = append(changes, ch)
		}
		if err := c.advance(b.Rev, changes); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// prepare decodes an event and reads a set's ranges if nobody knows them yet.
func (c *Catalog) prepare(ctx context.Context, e meta.Event) (change, error) {
	ch, err := decode(e)
	if err != nil || ch.gone || !strings.HasPrefix(e.Key, prefixSets) {
		return ch, err
	}
	ch.ranges, err = c.ranges(ctx, ch.object)
	return ch, err
}

func (c *Catalog) ranges(ctx context.Context, o *Object) ([]Range, error) {
	c.mu.RLock()
	known, ok := c.known[o.Name]
	if !ok && c.ix != nil {
		var e objEntry
		if e, ok = c.ix.objects[setKey(o.Name)]; ok {
			known = e.ranges
		}
	}
	c.mu.RUnlock()
	if ok {
		return known, nil
	}
	if c.cfg.Ranges == nil {
		return nil, fmt.Errorf("no reader for the ranges of object %s", o.Name)
	}
	rs, err := c.cfg.Ranges(ctx, c.cluster, o)
	if err != nil {
		return nil, fmt.Errorf("read ranges of object %s: %w", o.Name, err)
	}
	return rs, nil
}

func (c *Catalog) advance(rev int64, changes []change) error {
	var gone []TopicID
	c.mu.Lock()
	if rev <= c.rev {
		c.mu.Unlock()
		return nil // a full read was faster
	}
	for _, ch := range changes {
		id, isGone, err := c.ix.apply(ch)
		if err != nil {
			c.mu.Unlock()
			return err
		}
		if isGone {
			gone = append(gone, id)
		}
	}
	c.rev = rev
	close(c.changed)
	c.changed = make(chan struct{})
	c.mu.Unlock()
	c.tell(gone)
	return nil
}

func (c *Catalog) tell(gone []TopicID) {
	if c.cfg.Deleted != nil {
		for _, id := range gone {
			c.cfg.Deleted(id)
		}
	}
}

// refresh reads everything at one revision and swaps the index.
func (c *Catalog) refresh(ctx context.Context) error {
	c.refreshing.Lock()
	defer c.refreshing.Unlock()
	var changes []change
	rev, err := c.store.Scan(ctx, root, func(kv meta.KV) error {
		ch, err := decode(meta.Event{Key: kv.Key, Value: kv.Value, ModRev: kv.ModRev})
		changes = append(changes, ch)
		return err
	})
	if err != nil {
		return fmt.Errorf("read catalog: %w", err)
	}
	if err := c.load(ctx, changes); err != nil {
		return err
	}
	ix := newIndex()
	for _, ch := range changes {
		if _, _, err := ix.apply(ch); err != nil {
			return err
		}
	}
	var gone []TopicID
	c.mu.Lock()
	if rev >= c.rev {
		if c.ix != nil {
			for id := range c.ix.topics {
				if _, still := ix.topics[id]; !still {
					gone = append(gone, id)
				}
			}
		}
		c.ix, c.rev = ix, rev
		close(c.changed)
		c.changed = make(chan struct{})
	}
	c.mu.Unlock()
	c.tell(gone)
	return nil
}

// load reads the ranges of the sets among changes, a bounded number at a time.
func (c *Catalog) load(ctx context.Context, changes []change) error {
	next := make(chan *change, len(changes))
	for i := range changes {
		if strings.HasPrefix(changes[i].key, prefixSets) {
			next <- &changes[i]
		}
	}
	close(next)
	g := run.New(ctx)
	for range min(loaders, len(next)) {
		g.Go("read object ranges", func(ctx context.Context) error {
			for ch := range next {
				rs, err := c.ranges(ctx, ch.object)
				if err != nil {
					return err
				}
				ch.ranges = rs
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// wait returns when the index shows revision rev.
func (c *Catalog) wait(ctx context.Context, rev int64) error {
	patience := time.NewTimer(watchPatience)
	defer patience.Stop()
	for {
		c.mu.RLock()
		reached, changed, running := c.rev >= rev, c.changed, c.running
		c.mu.RUnlock()
		if reached {
			return nil
		}
		if !running {
			return c.refresh(ctx)
		}
		select {
		case <-changed:
		case <-patience.C:
			return c.refresh(ctx)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Refresh reads the catalog anew; for a reader that found the index stale (an
// object it names is gone).
func (c *Catalog) Refresh(ctx context.Context) error { return c.refresh(ctx) }
