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

const (
	// watchPatience is how long a reader that needs a revision waits for the watch
	// before it reads the store itself (P16).
	watchPatience = 200 * time.Millisecond
	// progressEvery is how often it asks the watch for progress meanwhile. The
	// first time comes late enough for the usual case, the change itself.
	progressEvery = 20 * time.Millisecond
	// readPause is between two attempts to read everything.
	readPause = 200 * time.Millisecond
	// readAttempts bounds how often a full read begins anew because its revision
	// was compacted meanwhile.
	readAttempts = 5
	// loaders bounds the objects whose ranges are read at the same time.
	loaders = 16
)

// ErrWentBack says that the store now is at an earlier revision than it was
// before: an old copy of the metadata was put in its place. The process has to
// end; the checks of its next start tell whether it may go on.
var ErrWentBack = errors.New("metadata went back in time")

// Run keeps the index fresh until ctx ends. A watch that ends, for whatever
// reason, leaves the index stale until a full read at one revision takes its
// place; the next watch goes on from there.
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
		if err := c.follow(ctx, c.Revision()); errors.Is(err, meta.ErrClosed) && ctx.Err() == nil {
			return fmt.Errorf("watch catalog: %w", err)
		}
		for ctx.Err() == nil {
			err := c.refresh(ctx)
			if err == nil {
				break
			}
			if final(err) && ctx.Err() == nil {
				return fmt.Errorf("watch catalog: %w", err)
			}
			if err := run.Sleep(ctx, readPause); err != nil {
				break
			}
		}
	}
	return nil
}

// final says that no waiting mends the error.
func final(err error) bool {
	return errors.Is(err, ErrCorrupt) || errors.Is(err, ErrWentBack) || errors.Is(err, meta.ErrClosed) || errors.Is(err, meta.ErrDenied)
}

// Revision is the revision that the index shows.
func (c *Catalog) Revision() int64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.rev
}

// follow applies batches until the watch ends, and returns why. A batch without
// events is progress: the index is as good as at that revision.
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
	for _, ch := range changes {
		if p, ok := parsePartition(strings.TrimPrefix(ch.key, prefixParts)); ok && !ch.gone && strings.HasPrefix(ch.key, prefixParts) {
			if v, err := decodePart(ch.value); err == nil {
				c.raise(p, v.LogStart)
			}
		}
	}
	var gone []TopicID
	c.mu.Lock()
	if rev <= c.rev {
		c.mu.Unlock()
		return nil // a full read was faster
	}
	c.ix.later = map[Partition]bool{}
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
	c.ix.repaint()
	c.rev = rev
	close(c.changed)
	c.changed = make(chan struct{})
	c.mu.Unlock()
	c.tell(gone)
	return nil
}

// raise tells of a log start that is about to be in the index, if it is news.
func (c *Catalog) raise(p Partition, logStart int64) {
	if c.cfg.Raised == nil {
		return
	}
	c.mu.RLock()
	news := c.ix != nil && logStart > c.ix.parts[p].LogStart
	c.mu.RUnlock()
	if news {
		c.cfg.Raised(p, logStart)
	}
}

func (c *Catalog) tell(gone []TopicID) {
	if c.cfg.Deleted != nil {
		for _, id := range gone {
			c.cfg.Deleted(id)
		}
	}
}

// refresh reads everything at one revision and swaps the index. One read runs at
// a time; who waits for it and came before it began needs no other.
func (c *Catalog) refresh(ctx context.Context) error {
	c.mu.RLock()
	came := c.readsBegun
	c.mu.RUnlock()
	return c.read(ctx, func() bool { return c.readsDone > came })
}

// read is refresh unless enough holds when it is its turn. enough is called with
// c.mu held.
func (c *Catalog) read(ctx context.Context, enough func() bool) error {
	select {
	case c.reading <- struct{}{}:
		defer func() { <-c.reading }()
	case <-ctx.Done():
		return ctx.Err()
	}
	c.mu.Lock()
	done, before := enough(), c.rev
	if !done {
		c.readsBegun++
	}
	c.mu.Unlock()
	if done {
		return nil
	}
	changes, rev, err := c.whole(ctx, before)
	if err != nil {
		return err
	}
	ix := newIndex()
	ix.later = map[Partition]bool{}
	for _, ch := range changes {
		if _, _, err := ix.apply(ch); err != nil {
			return err
		}
	}
	ix.repaint()
	for p, e := range ix.parts {
		c.raise(p, e.LogStart)
	}
	var gone []TopicID
	c.mu.Lock()
	c.readsDone = c.readsBegun
	if rev >= c.rev { // or the watch was faster
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

// whole reads every key at one revision, with the ranges of the sets. A set that
// was replaced and deleted since the scan is not missing: the catalog names it no
// longer, and is read again.
func (c *Catalog) whole(ctx context.Context, before int64) ([]change, int64, error) {
	for attempt := 1; ; attempt++ {
		changes, rev, err := c.scan(ctx)
		if err != nil {
			return nil, 0, fmt.Errorf("read catalog: %w", err)
		}
		if rev < before {
			return nil, 0, fmt.Errorf("read catalog: %w: from revision %d to %d", ErrWentBack, before, rev)
		}
		err = c.load(ctx, changes)
		var unread *unreadError
		if !errors.As(err, &unread) || attempt == readAttempts {
			return changes, rev, err
		}
		found, _, gerr := c.store.Get(ctx, unread.key)
		if gerr != nil || found[unread.key].ModRev == unread.modRev {
			return nil, 0, err
		}
	}
}

// unreadError names the set whose ranges could not be read.
type unreadError struct {
	key    string
	modRev int64
	err    error
}

func (e *unreadError) Error() string { return e.err.Error() }
func (e *unreadError) Unwrap() error { return e.err }

// scan reads every key at one revision.
func (c *Catalog) scan(ctx context.Context) (changes []change, rev int64, err error) {
	for range readAttempts {
		changes = changes[:0]
		rev, err = c.store.Scan(ctx, root, func(kv meta.KV) error {
			ch, err := decode(meta.Event{Key: kv.Key, Value: kv.Value, ModRev: kv.ModRev})
			changes = append(changes, ch)
			return err
		})
		if !errors.Is(err, meta.ErrCompacted) {
			break
		}
	}
	return changes, rev, err
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
					return &unreadError{ch.key, ch.modRev, err}
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

// wait returns when the index shows revision rev. A watch that shares its store
// with others gets nothing for what they change, so it is asked how far it is; if
// it does not tell, the store is read (P16).
func (c *Catalog) wait(ctx context.Context, rev int64) error {
	var patience, ask *time.Timer
	for {
		c.mu.RLock()
		reached, changed, running := c.rev >= rev, c.changed, c.running
		c.mu.RUnlock()
		if reached {
			return nil
		}
		if !running {
			return c.read(ctx, func() bool { return c.rev >= rev })
		}
		if patience == nil {
			patience, ask = time.NewTimer(watchPatience), time.NewTimer(progressEvery)
			defer patience.Stop()
			defer ask.Stop()
		}
		select {
		case <-changed:
		case <-ask.C:
			c.ask(ctx)
			ask.Reset(progressEvery)
		case <-patience.C:
			return c.read(ctx, func() bool { return c.rev >= rev })
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ask makes the watch tell how far it is. That it fails needs no answer: the
// patience of who asks ends.
func (c *Catalog) ask(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, progressEvery)
	defer cancel()
	_ = c.store.Progress(ctx)
}

// Refresh reads the catalog anew; for a reader that found the index stale (an
// object it names is gone).
func (c *Catalog) Refresh(ctx context.Context) error { return c.refresh(ctx) }
