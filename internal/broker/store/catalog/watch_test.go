package catalog

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/meta/metamem"
)

// follower is a catalog in a synctest bubble that follows a store which counts
// full reads.
type follower struct {
	*Catalog
	store *metamem.Store
	scans atomic.Int64
	gone  []TopicID
	ended chan error
}

// follow runs a test against a follower.
func follow(t *testing.T, test func(t *testing.T, f *follower)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := &follower{store: metamem.New(), ended: make(chan error, 1)}
		f.store.SetFault(f.count)
		c, err := Open(t.Context(), f.store, Config{Ranges: noRanges, Deleted: func(id TopicID) { f.gone = append(f.gone, id) }})
		if err != nil {
			t.Fatal(err)
		}
		f.Catalog = c
		f.scans.Store(0)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { f.ended <- c.Run(ctx) }()
		synctest.Wait()
		test(t, f)
		f.store.SetFault(nil)
		cancel()
		synctest.Wait()
		if err := f.store.Close(); err != nil {
			t.Error(err)
		}
		synctest.Wait()
	})
}

func (f *follower) count(c metamem.Call) metamem.Fault {
	if c.Method == "Scan" {
		f.scans.Add(1)
	}
	return metamem.Fault{}
}

// put changes the store behind the catalog's back.
func (f *follower) put(t *testing.T, ops ...meta.Op) (rev int64) {
	t.Helper()
	r, err := f.store.Txn(t.Context(), meta.Txn{Then: ops})
	if err != nil || !r.OK {
		t.Fatalf("%+v, %v", r, err)
	}
	return r.Rev
}

func topicNamed(name string) (TopicID, meta.Op) {
	id := NewTopicID()
	return id, meta.Put(topicKey(id), encodeTopic(Topic{Name: name, Partitions: 1}))
}

func (f *follower) sees(t *testing.T, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, ok := f.Topic(n); !ok {
			t.Errorf("topic %s is not in the index", n)
		}
	}
	if n := len(f.Topics()); n != len(names) {
		t.Errorf("%d topics, want %d", n, len(names))
	}
}

// A change that the watch does not bring is read from the store after the
// patience, by one read for all that wait.
func TestWatchLags(t *testing.T) {
	follow(t, func(t *testing.T, f *follower) {
		f.store.Hold(true)
		_, op := topicNamed("a")
		rev := f.put(t, op)
		began := time.Now()
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if err := f.wait(t.Context(), rev); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if d := time.Since(began); d != watchPatience {
			t.Errorf("waited %v", d)
		}
		if n := f.scans.Load(); n != 1 {
			t.Errorf("%d full reads", n)
		}
		f.sees(t, "a")
		f.store.Hold(false) // what was late changes nothing
		synctest.Wait()
		f.sees(t, "a")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		f.store.Hold(true)
		f.store.SetFault(func(metamem.Call) metamem.Fault { return metamem.Fault{Before: errors.New("down")} })
		if err := f.wait(ctx, rev+1); err == nil || ctx.Err() != nil {
			t.Errorf("wait while the store fails: %v", err)
		}
	})
}

// What others change raises the revision but brings no event: progress tells.
func TestWatchProgress(t *testing.T) {
	follow(t, func(t *testing.T, f *follower) {
		rev := f.put(t, meta.Put("/other/cluster", nil))
		began := time.Now()
		if err := f.wait(t.Context(), rev); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d != progressEvery || f.scans.Load() != 0 {
			t.Errorf("waited %v, %d full reads", d, f.scans.Load())
		}
		// A lost request is repeated.
		asked := 0
		f.store.SetFault(func(c metamem.Call) metamem.Fault {
			if c.Method == "Progress" {
				if asked++; asked < 3 {
					return metamem.Fault{Before: errors.New("lost")}
				}
			}
			return f.count(c)
		})
		rev = f.put(t, meta.Put("/other/cluster", nil))
		if err := f.wait(t.Context(), rev); err != nil || f.scans.Load() != 0 || asked != 3 {
			t.Errorf("%v, %d full reads, asked %d times", err, f.scans.Load(), asked)
		}
	})
}

// A watch that ends, however it ends, misses nothing and tells of nothing twice.
func TestWatchLost(t *testing.T) {
	for name, lose := range map[string]func(*metamem.Store){
		"broken":    func(s *metamem.Store) { s.Break(errors.New("connection lost")); s.Hold(false) },
		"compacted": func(s *metamem.Store) { s.Compact(); s.Hold(false) },
	} {
		t.Run(name, func(t *testing.T) {
			follow(t, func(t *testing.T, f *follower) {
				first, op := topicNamed("first")
				f.put(t, op)
				synctest.Wait()
				f.sees(t, "first")
				f.store.Hold(true)
				_, op = topicNamed("second")
				f.put(t, op, meta.Delete(topicKey(first)))
				_, op = topicNamed("third")
				f.put(t, op)
				synctest.Wait()
				f.sees(t, "first")
				// The first reads after the loss fail, too.
				fails := 3
				f.store.SetFault(func(c metamem.Call) metamem.Fault {
					if c.Method == "Scan" {
						if fails--; fails > 1 {
							return metamem.Fault{Before: errors.New("no leader")}
						} else if fails == 1 {
							return metamem.Fault{Before: fmt.Errorf("page: %w", meta.ErrCompacted)}
						}
					}
					return f.count(c)
				})
				lose(f.store)
				time.Sleep(5 * readPause)
				synctest.Wait()
				f.sees(t, "second", "third")
				if n := f.scans.Load(); n != 1 {
					t.Errorf("%d full reads", n)
				}
				_, op = topicNamed("fourth")
				f.put(t, op)
				synctest.Wait()
				f.sees(t, "second", "third", "fourth")
				if len(f.gone) != 1 || f.gone[0] != first {
					t.Errorf("gone %v", f.gone)
				}
				if n := f.scans.Load(); n != 1 {
					t.Errorf("%d full reads", n)
				}
			})
		})
	}
}

// old answers full reads from an older copy.
type old struct {
	meta.Store
	copy atomic.Pointer[metamem.Store]
}

func (o *old) Scan(ctx context.Context, prefix string, fn func(meta.KV) error) (int64, error) {
	if s := o.copy.Load(); s != nil {
		return s.Scan(ctx, prefix, fn)
	}
	return o.Store.Scan(ctx, prefix, fn)
}

// A store that is older than it was is no store to go on with.
func TestStoreWentBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now, before := metamem.New(), metamem.New()
		s := &old{Store: now}
		c, err := Open(t.Context(), s, Config{Ranges: noRanges})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range []*metamem.Store{now, now, before} {
			_, op := topicNamed("a")
			if _, err := m.Txn(t.Context(), meta.Txn{Then: []meta.Op{op}}); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- c.Run(t.Context()) }()
		synctest.Wait()
		s.copy.Store(before)
		now.Break(errors.New("connection lost"))
		if err := <-ended; !errors.Is(err, ErrWentBack) {
			t.Errorf("got %v", err)
		}
		for _, m := range []*metamem.Store{now, before} {
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

// A read whose revision is compacted under it begins anew, some times.
func TestReadIsCompacted(t *testing.T) {
	follow(t, func(t *testing.T, f *follower) {
		for fails, want := range map[int]error{1: nil, readAttempts - 1: nil, readAttempts: meta.ErrCompacted} {
			n := 0
			f.store.SetFault(func(c metamem.Call) (fault metamem.Fault) {
				if c.Method == "Scan" {
					if n++; n <= fails {
						fault.Before = fmt.Errorf("page 2: %w", meta.ErrCompacted)
					}
				}
				return fault
			})
			if err := f.Refresh(t.Context()); !errors.Is(err, want) {
				t.Errorf("%d times: %v", fails, err)
			}
		}
	})
}

// A refresh that is asked for while another is under way needs one of its own,
// which serves all who asked meanwhile.
func TestRefreshIsShared(t *testing.T) {
	follow(t, func(t *testing.T, f *follower) {
		release := make(chan struct{})
		f.reading <- struct{}{} // a read is under way
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				<-release
				if err := f.Refresh(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		close(release)
		synctest.Wait()
		if n := f.scans.Load(); n != 0 {
			t.Errorf("%d reads at once", n+1)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := f.Refresh(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("ended context: %v", err)
		}
		<-f.reading
		wg.Wait()
		if n := f.scans.Load(); n != 1 {
			t.Errorf("%d full reads for 20", n)
		}
	})
}
