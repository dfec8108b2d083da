// Package feed keeps a store's recent changes in memory and hands them to its
// watchers. It is the part of a meta.Store's Watch that does not depend on where
// the keys are kept.
//
// The store publishes each transaction's changes in order of revisions, after
// they are durable. A watcher that wants more than is kept, at its start or
// because it is slow, ends with meta.ErrCompacted. Nothing polls: a watcher with
// nothing to do waits on a channel.
package feed

import (
	"context"
	"sort"
	"strings"
	"sync"

	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/run"
)

// DefaultEvents is how many events a feed keeps unless told otherwise.
const DefaultEvents = 10_000

// pending is how many batches a watcher may be behind before its goroutine
// waits for it.
const pending = 16

// A Feed keeps recent changes. Use New.
type Feed struct {
	group     *run.Group // the watchers
	maxEvents int

	mu      sync.Mutex
	batches []meta.Batch  // in order of Rev; all keys
	events  int           // in batches
	floor   int64         // every change with a revision above it is in batches
	changed chan struct{} // closed and replaced by Publish
	closed  bool
}

// New returns a feed that knows nothing up to revision rev and keeps about
// maxEvents events (0: DefaultEvents).
func New(rev int64, maxEvents int) *Feed {
	if maxEvents <= 0 {
		maxEvents = DefaultEvents
	}
	return &Feed{
		group:     run.New(context.Background()),
		maxEvents: maxEvents,
		floor:     rev,
		changed:   make(chan struct{}),
	}
}

// Publish adds what one transaction changed. Calls are made in order of rev; the
// feed keeps events and the values in them.
func (f *Feed) Publish(rev int64, events []meta.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.batches = append(f.batches, meta.Batch{Rev: rev, Events: events})
	f.events += len(events)
	drop := 0
	for f.events > f.maxEvents && drop < len(f.batches)-1 {
		f.events -= len(f.batches[drop].Events)
		f.floor = f.batches[drop].Rev
		f.batches[drop] = meta.Batch{}
		drop++
	}
	f.batches = f.batches[drop:]
	close(f.changed)
	f.changed = make(chan struct{})
}

// Compact forgets everything kept so far; for tests of what follows from it.
func (f *Feed) Compact() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.batches); n > 0 {
		f.floor = f.batches[n-1].Rev
	}
	f.batches, f.events = nil, 0
}

// Watch is meta.Store's Watch.
func (f *Feed) Watch(ctx context.Context, prefix string, after int64) <-chan meta.Batch {
	out := make(chan meta.Batch, pending)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		out <- meta.Batch{Err: meta.ErrClosed}
		close(out)
		return out
	}
	f.group.Go("meta-watch", func(feedCtx context.Context) error {
		defer close(out)
		err := f.follow(ctx, feedCtx, prefix, after, out)
		select {
		case out <- meta.Batch{Err: err}:
			return nil
		default: // the watcher is behind
		}
		select { // it may be gone: then its context or the feed's ends this
		case out <- meta.Batch{Err: err}:
		case <-ctx.Done():
		case <-feedCtx.Done():
		}
		return nil
	})
	return out
}

// follow sends batches until one of the contexts ends or the watcher is too far
// behind, and returns why.
func (f *Feed) follow(ctx, feedCtx context.Context, prefix string, after int64, out chan<- meta.Batch) error {
	for {
		batches, changed, err := f.since(after)
		if err != nil {
			return err
		}
		for _, b := range batches {
			after = b.Rev
			b.Events = under(prefix, b.Events)
			if len(b.Events) == 0 {
				continue
			}
			select {
			case out <- b:
			case <-ctx.Done():
				return ctx.Err()
			case <-feedCtx.Done():
				return meta.ErrClosed
			}
		}
		if len(batches) > 0 {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-feedCtx.Done():
			return meta.ErrClosed
		}
	}
}

// since returns some of the batches above after, in order, and the channel that
// tells of more.
func (f *Feed) since(after int64) ([]meta.Batch, <-chan struct{}, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if after < f.floor {
		return nil, nil, meta.ErrCompacted
	}
	from := sort.Search(len(f.batches), func(i int) bool { return f.batches[i].Rev > after })
	to := min(len(f.batches), from+pending)
	// Copied, since Publish clears what it drops.
	return append([]meta.Batch(nil), f.batches[from:to]...), f.changed, nil
}

// Close ends all watches with meta.ErrClosed and waits for their goroutines.
func (f *Feed) Close() error {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.group.Stop()
	return f.group.Wait()
}

func under(prefix string, events []meta.Event) []meta.Event {
	all := true
	for _, e := range events {
		all = all && strings.HasPrefix(e.Key, prefix)
	}
	if all {
		return events
	}
	var some []meta.Event
	for _, e := range events {
		if strings.HasPrefix(e.Key, prefix) {
			some = append(some, e)
		}
	}
	return some
}
