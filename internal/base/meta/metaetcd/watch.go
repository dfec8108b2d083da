package metaetcd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/meta/feed"
)

// pending is how many batches a watcher may be behind before they queue here,
// where feed.DefaultEvents bounds them.
const pending = 16

// Watch implements meta.Store.
func (s *Store) Watch(ctx context.Context, prefix string, after int64) <-chan meta.Batch {
	out := make(chan meta.Batch, pending)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		out <- meta.Batch{Err: meta.ErrClosed}
		close(out)
		return out
	}
	s.open.Add(1)
	s.watches.Go("etcd-watch", func(storeCtx context.Context) error {
		defer close(out)
		defer s.open.Add(-1)
		err := s.follow(ctx, storeCtx, prefix, after, out)
		select {
		case out <- meta.Batch{Err: err}:
			return nil
		default: // the watcher is behind
		}
		select { // it may be gone: then its context or the store's ends this
		case out <- meta.Batch{Err: err}:
		case <-ctx.Done():
		case <-storeCtx.Done():
		}
		return nil
	})
	return out
}

// follow sends batches until the watch ends, and returns why. The client keeps
// whatever its reader leaves, without bound, so this always reads, and ends the
// watch if the watcher is too far behind.
func (s *Store) follow(ctx, storeCtx context.Context, prefix string, after int64, out chan<- meta.Batch) error {
	watchCtx, stop := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer stop()
	defer context.AfterFunc(storeCtx, stop)() // Watch itself waits for etcd
	responses := s.client.Watch(watchCtx, s.prefix+prefix, clientv3.WithPrefix(), clientv3.WithRev(after+1))
	var queue []meta.Batch
	events := 0 // in queue
	for {
		var to chan<- meta.Batch
		var head meta.Batch
		if len(queue) > 0 {
			to, head = out, queue[0]
		}
		select {
		case to <- head:
			events -= len(head.Events)
			queue[0] = meta.Batch{}
			queue = queue[1:]
		case r, ok := <-responses:
			if storeCtx.Err() != nil {
				return meta.ErrClosed
			}
			if err := ended(ctx, r, ok); err != nil {
				if ferr := flush(ctx, storeCtx, queue, out); ferr != nil {
					return ferr
				}
				return err
			}
			batches, err := s.batches(after, r)
			if err != nil {
				return err
			}
			for _, b := range batches {
				if n := len(queue); n > 0 && len(queue[n-1].Events) == 0 {
					queue = queue[:n-1] // progress that is overtaken
				}
				queue = append(queue, b)
				events += len(b.Events)
				after = max(after, b.Rev)
			}
			if events > feed.DefaultEvents {
				return meta.ErrCompacted
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-storeCtx.Done():
			return meta.ErrClosed
		}
	}
}

// flush sends what came before a watch ended.
func flush(ctx, storeCtx context.Context, queue []meta.Batch, out chan<- meta.Batch) error {
	for _, b := range queue {
		select {
		case out <- b:
		case <-ctx.Done():
			return ctx.Err()
		case <-storeCtx.Done():
			return meta.ErrClosed
		}
	}
	return nil
}

// ended returns why a watch is over; nil: it goes on.
func ended(ctx context.Context, r clientv3.WatchResponse, ok bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !ok {
		return errors.New("watch etcd: the client ended it")
	}
	if err := r.Err(); err != nil {
		if r.CompactRevision != 0 {
			return fmt.Errorf("watch etcd: %w", meta.ErrCompacted)
		}
		return fmt.Errorf("watch etcd: %w", plain(err))
	}
	return nil
}

// batches makes a batch of each revision in an answer. etcd puts whole revisions
// into one, in order; if it does not, the watch is not to be trusted and its
// owner has to read everything.
func (s *Store) batches(after int64, r clientv3.WatchResponse) ([]meta.Batch, error) {
	if len(r.Events) == 0 {
		if r.IsProgressNotify() && r.Header.GetRevision() >= after {
			return []meta.Batch{{Rev: r.Header.GetRevision()}}, nil
		}
		return nil, nil
	}
	var all []meta.Batch
	for _, e := range r.Events {
		rev := e.Kv.ModRevision
		if rev < after || rev == after && len(all) == 0 {
			return nil, fmt.Errorf("watch etcd: revision %d after %d: %w", rev, after, meta.ErrCompacted)
		}
		if rev > after {
			all = append(all, meta.Batch{Rev: rev})
			after = rev
		}
		last := &all[len(all)-1]
		event := meta.Event{Key: strings.TrimPrefix(string(e.Kv.Key), s.prefix), ModRev: rev, Deleted: e.Type == mvccpb.DELETE}
		if !event.Deleted {
			event.Value = value(e.Kv.Value)
		}
		last.Events = append(last.Events, event)
	}
	return all, nil
}

// Progress implements meta.Store.
func (s *Store) Progress(ctx context.Context) error {
	if err := s.usable(ctx); err != nil {
		return fmt.Errorf("ask etcd for progress: %w", err)
	}
	if s.open.Load() == 0 {
		return nil // and the client would open a stream that nobody needs
	}
	ctx, cancel := s.request(clientv3.WithRequireLeader(ctx)) // as the watches: they share a stream by it
	defer cancel()
	if err := s.client.RequestProgress(ctx); err != nil {
		return fmt.Errorf("ask etcd for progress: %w", s.failed(err))
	}
	return nil
}
