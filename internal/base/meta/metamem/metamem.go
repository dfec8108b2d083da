// Package metamem is a meta.Store in memory, with faults, for tests.
//
// A hook set by SetFault sees every call before it happens and may make it fail:
// before it took effect, or after, with meta.ErrUnknown as a remote store would.
// Watches may be made to lag (Hold), to end (Break) and to come too late
// (Compact), leases to end at once (Expire). With NewAt leases live by the
// test's clock and end when a call or Tick sees that their time has passed; with
// New they live by the real one, or by that of a synctest bubble. Nothing is kept
// when the process ends, but one Store may be shared by what a test restarts.
package metamem

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/meta/feed"
	"github.com/looptape/looptape/internal/base/meta/lease"
	"github.com/looptape/looptape/internal/base/run"
)

// A Call is what a fault hook gets to see. Txn is set for a transaction.
type Call struct {
	Method string // "Get", "Scan", "Txn", "Progress", "Grant", "KeepAlive", "Revoke"
	Txn    *meta.Txn
	Lease  meta.LeaseID // of KeepAlive and Revoke
}

// A Fault says how a call fails. Before: nothing happens and it is returned.
// After: the call takes effect and then it is returned; wrap meta.ErrUnknown for
// what a remote store would do.
type Fault struct {
	Before, After error
}

// Store is a meta.Store in memory.
type Store struct {
	feed  *feed.Feed
	book  *lease.Book
	group *run.Group // ends leases; nil with the test's clock

	mu      sync.Mutex
	keys    map[string]meta.KV
	leased  map[string]meta.LeaseID // by key
	lease   meta.LeaseID            // the last one given out
	rev     int64
	closed  bool
	running bool // group has its goroutine
	fault   func(Call) Fault
}

var _ meta.Store = (*Store)(nil)

// New returns an empty store at revision 0.
func New() *Store {
	s := NewAt(time.Now)
	s.group = run.New(context.Background())
	return s
}

// NewAt returns an empty store at revision 0 whose leases live by the given
// clock.
func NewAt(now func() time.Time) *Store {
	return &Store{
		feed: feed.New(0, 0), book: lease.New(now),
		keys: map[string]meta.KV{}, leased: map[string]meta.LeaseID{},
	}
}

// SetFault installs the hook, which is asked once a call, one call at a time. nil
// removes it.
func (s *Store) SetFault(fault func(Call) Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = fault
}

// Compact forgets recent changes: watches that are behind end with ErrCompacted.
func (s *Store) Compact() { s.feed.Compact() }

// begin checks that a call may go on and asks the hook. Call with s.mu held.
func (s *Store) begin(ctx context.Context, c Call) (after error, err error) {
	if s.closed {
		return nil, meta.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.expire()
	if s.fault == nil {
		return nil, nil
	}
	f := s.fault(c)
	return f.After, f.Before
}

// Get implements meta.Store.
func (s *Store) Get(ctx context.Context, keys ...string) (map[string]meta.KV, int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	after, err := s.begin(ctx, Call{Method: "Get"})
	if err == nil {
		err = after
	}
	if err != nil {
		return nil, 0, fmt.Errorf("get: %w", err)
	}
	found := make(map[string]meta.KV, len(keys))
	for _, k := range keys {
		if kv, ok := s.keys[k]; ok {
			found[k] = clone(kv)
		}
	}
	return found, s.rev, nil
}

// Scan implements meta.Store.
func (s *Store) Scan(ctx context.Context, prefix string, fn func(meta.KV) error) (int64, error) {
	s.mu.Lock()
	after, err := s.begin(ctx, Call{Method: "Scan"})
	if err == nil {
		err = after
	}
	if err != nil {
		s.mu.Unlock()
		return 0, fmt.Errorf("scan %q: %w", prefix, err)
	}
	var kvs []meta.KV
	for k, kv := range s.keys {
		if strings.HasPrefix(k, prefix) {
			kvs = append(kvs, clone(kv))
		}
	}
	rev := s.rev
	s.mu.Unlock()
	sort.Slice(kvs, func(i, j int) bool { return kvs[i].Key < kvs[j].Key })
	for _, kv := range kvs {
		if err := fn(kv); err != nil {
			return 0, err
		}
	}
	return rev, nil
}

// Txn implements meta.Store.
func (s *Store) Txn(ctx context.Context, t meta.Txn) (meta.TxnResult, error) {
	if err := t.Check(); err != nil {
		return meta.TxnResult{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	after, err := s.begin(ctx, Call{Method: "Txn", Txn: &t})
	if err != nil {
		return meta.TxnResult{}, fmt.Errorf("transaction: %w", err)
	}
	r, err := s.apply(t)
	if err == nil {
		err = after
	}
	if err != nil {
		return meta.TxnResult{}, fmt.Errorf("transaction: %w", err)
	}
	return r, nil
}

func (s *Store) apply(t meta.Txn) (meta.TxnResult, error) {
	for _, c := range t.If {
		if kv, ok := s.keys[c.Key]; !c.Holds(kv, ok) {
			r := meta.TxnResult{Rev: s.rev}
			for _, k := range t.ElseGet {
				if kv, ok := s.keys[k]; ok {
					r.Else = append(r.Else, clone(kv))
				}
			}
			return r, nil
		}
	}
	for _, o := range t.Then {
		if o.Lease != 0 && !s.book.Alive(o.Lease) {
			return meta.TxnResult{}, fmt.Errorf("put %q: %w", o.Key, meta.ErrNoLease)
		}
	}
	rev := s.rev + 1
	var events []meta.Event
	remove := func(key string) {
		delete(s.keys, key)
		delete(s.leased, key)
		events = append(events, meta.Event{Key: key, ModRev: rev, Deleted: true})
	}
	for _, o := range t.Then {
		switch o.Kind {
		case meta.OpPut:
			kv := meta.KV{Key: o.Key, Value: bytes(o.Value), CreateRev: rev, ModRev: rev}
			if old, ok := s.keys[o.Key]; ok {
				kv.CreateRev = old.CreateRev
			}
			s.keys[o.Key] = kv
			delete(s.leased, o.Key)
			if o.Lease != 0 {
				s.leased[o.Key] = o.Lease
			}
			events = append(events, meta.Event{Key: o.Key, Value: kv.Value, ModRev: rev})
		case meta.OpDelete:
			if _, ok := s.keys[o.Key]; ok {
				remove(o.Key)
			}
		case meta.OpDeletePrefix:
			var keys []string
			for k := range s.keys {
				if o.Covers(k) {
					keys = append(keys, k)
				}
			}
			slices.Sort(keys)
			for _, k := range keys {
				remove(k)
			}
		}
	}
	if len(events) > 0 {
		s.rev = rev
		s.feed.Publish(rev, events)
	}
	return meta.TxnResult{OK: true, Rev: s.rev}, nil
}

// Watch implements meta.Store.
func (s *Store) Watch(ctx context.Context, prefix string, after int64) <-chan meta.Batch {
	return s.feed.Watch(ctx, prefix, after)
}

// Close implements meta.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	err := s.feed.Close()
	if s.group != nil {
		s.group.Stop()
		err = errors.Join(err, s.group.Wait())
	}
	return err
}

func clone(kv meta.KV) meta.KV {
	kv.Value = bytes(kv.Value)
	return kv
}

// bytes copies v; it is never nil, so that an empty value is no absent one.
func bytes(v []byte) []byte { return append([]byte{}, v...) }
