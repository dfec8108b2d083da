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
	last    int64         // revision of the newest change
	asked   int64         // how often Progress was called
	held    bool          // watchers get nothing
	broken  chan struct{} // closed and replaced by Break
	why     error         // of the last Break
	changed chan struct{} // closed and replaced by whatever watchers wait for
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
		last:      rev,
		broken:    make(chan struct{}),
		changed:   make(chan struct{}),
	}
}

// Publish adds what one transaction changed. Calls are made in order of rev; the
// feed keeps events and the values in them.
func (f *Feed) Publish(rev int64, events []meta.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.batches = append(f.batches, meta.Batch{Rev: rev, Events: events})
	f.last = rev
	f.events += len(events)
	drop := 0
	for f.events > f.maxEvents && drop < len(f.batches)-1 {
		f.events -= len(f.batches[drop].Events)
		f.floor = f.batches[drop].Rev
		f.batches[drop] = meta.Batch{}
		drop++
	}
	f.batches = f.batches[drop:]
	f.wake()
}

// wake makes the watchers look. Call with f.mu held.
func (f *Feed) wake() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// Progress makes every watcher send a batch without events when it has sent
// everything there is.
func (f *Feed) Progress() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	f.wake()
}

// Hold keeps changes back from the watchers until Hold(false); for tests of a
// watch that lags.
func (f *Feed) Hold(held bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held = held
	f.wake()
}

// Break ends the watches there are with err; for tests of lost ones.
func (f *Feed) Break(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.why = err
	close(f.broken)
	f.broken = make(chan struct{})
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
	broken, asked := f.broken, f.asked
	f.group.Go("meta-watch", func(feedCtx context.Context) error {
		defer close(out)
		err := f.follow(ctx, feedCtx, broken, prefix, cursor{after, asked}, out)
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

// cursor is how far a watcher is.
type cursor struct {
	after int64 // revision
	asked int64 // calls of Progress that are answered
}

// follow sends batches until one of the contexts ends, the watch is broken or
// the watcher is too far behind, and returns why.
func (f *Feed) follow(ctx, feedCtx context.Context, broken <-chan struct{}, prefix string, at cursor, out chan<- meta.Batch) error {
	for {
		batches, next, changed, err := f.since(at)
		if err != nil {
			return err
		}
		at = next
		for _, b := range batches {
			all := len(b.Events)
			b.Events = under(prefix, b.Events)
			if len(b.Events) == 0 && all != 0 {
				continue
			}
			select {
			case out <- b:
			case <-broken:
				return f.reason()
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
		case <-broken:
			return f.reason()
		case <-ctx.Done():
			return ctx.Err()
		case <-feedCtx.Done():
			return meta.ErrClosed
		}
	}
}

func (f *Feed) reason() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.why
}

// since returns some of what a watcher at the cursor has not got, in order, where
// it is after that, and the channel that tells of more.
func (f *Feed) since(at cursor) ([]meta.Batch, cursor, <-chan struct{}, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if at.after < f.floor {
		return nil, at, nil, meta.ErrCompacted
	}
	if f.held {
		return nil, at, f.changed, nil
	}
	from := sort.Search(len(f.batches), func(i int) bool { return f.batches[i].Rev > at.after })
	to := min(len(f.batches), from+pending)
	// Copied, since Publish clears what it drops.
	some := append([]meta.Batch(nil), f.batches[from:to]...)
	if len(some) > 0 {
		at.after = some[len(some)-1].Rev
	}
	if to == len(f.batches) && at.asked < f.asked {
		at.asked = f.asked
		if at.after <= f.last {
			some = append(some, meta.Batch{Rev: f.last})
		}
	}
	return some, at, f.changed, nil
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
