// Package blobmem is a blob.Store in memory, with faults, for tests.
//
// A hook set by SetFault sees every call before it happens and may delay it or
// make it fail: before it took effect, or after. A Put that failed after it took
// effect and is repeated gets blob.ErrExists for its own first attempt, as from a
// remote store.
package blobmem

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/looptape/looptape/internal/base/blob"
)

// A Call is what a fault hook gets to see.
type Call struct {
	Method string // "Put", "GetRange", "Stat", "List", "Delete"
	Key    string // the prefix for List
}

// A Fault says how a call goes wrong. Delay comes first. Before: nothing happens
// and it is returned. After: the call takes effect and then it is returned; wrap
// blob.ErrUnknown for what a remote store would do.
type Fault struct {
	Delay         time.Duration
	Before, After error
}

type object struct {
	data     []byte
	modified time.Time
}

// Store is a blob.Store in memory.
type Store struct {
	mu      sync.Mutex
	objects map[string]object
	fault   func(Call) Fault
}

var _ blob.Store = (*Store)(nil)

// New returns an empty store.
func New() *Store { return &Store{objects: map[string]object{}} }

// SetFault installs the hook, which is asked once a call, one call at a time. nil
// removes it.
func (s *Store) SetFault(fault func(Call) Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = fault
}

// do runs one call with its fault: effect runs under the lock, unless the call
// fails before.
func (s *Store) do(ctx context.Context, c Call, effect func() error) error {
	s.mu.Lock()
	var f Fault
	if s.fault != nil {
		f = s.fault(c)
	}
	s.mu.Unlock()
	if f.Delay > 0 {
		t := time.NewTimer(f.Delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	err := ctx.Err()
	if err == nil {
		err = f.Before
	}
	if err == nil {
		s.mu.Lock()
		err = effect()
		s.mu.Unlock()
		if f.After != nil {
			err = f.After
		}
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", strings.ToLower(c.Method), c.Key, err)
	}
	return nil
}

// Put implements blob.Store.
func (s *Store) Put(ctx context.Context, key string, body io.ReaderAt, size int64) error {
	if err := blob.CheckKey(key); err != nil {
		return err
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(io.NewSectionReader(body, 0, size), data); err != nil {
		return fmt.Errorf("put %s: read body: %w", key, err)
	}
	return s.do(ctx, Call{"Put", key}, func() error {
		if _, ok := s.objects[key]; ok {
			return blob.ErrExists
		}
		s.objects[key] = object{data, time.Now()}
		return nil
	})
}

// GetRange implements blob.Store.
func (s *Store) GetRange(ctx context.Context, key string, off int64, dst []byte) (int, error) {
	if err := blob.CheckKey(key); err != nil {
		return 0, err
	}
	err := s.do(ctx, Call{"GetRange", key}, func() error {
		o, ok := s.objects[key]
		size := int64(len(o.data))
		switch {
		case !ok:
			return blob.ErrNotFound
		case off < 0 || off > size || int64(len(dst)) > size-off:
			return fmt.Errorf("%w: %d bytes at %d of %d", blob.ErrRange, len(dst), off, size)
		}
		copy(dst, o.data[off:])
		return nil
	})
	if err != nil {
		return 0, err
	}
	return len(dst), nil
}

// Stat implements blob.Store.
func (s *Store) Stat(ctx context.Context, key string) (blob.Info, error) {
	if err := blob.CheckKey(key); err != nil {
		return blob.Info{}, err
	}
	var info blob.Info
	err := s.do(ctx, Call{"Stat", key}, func() error {
		o, ok := s.objects[key]
		if !ok {
			return blob.ErrNotFound
		}
		info = blob.Info{Key: key, Size: int64(len(o.data)), Modified: o.modified}
		return nil
	})
	if err != nil {
		return blob.Info{}, err
	}
	return info, nil
}

// List implements blob.Store.
func (s *Store) List(ctx context.Context, prefix string, fn func(blob.Info) error) error {
	if err := blob.CheckPrefix(prefix); err != nil {
		return err
	}
	var infos []blob.Info
	err := s.do(ctx, Call{"List", prefix}, func() error {
		for k, o := range s.objects {
			if strings.HasPrefix(k, prefix) {
				infos = append(infos, blob.Info{Key: k, Size: int64(len(o.data)), Modified: o.modified})
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(infos, func(a, b blob.Info) int { return strings.Compare(a.Key, b.Key) })
	for _, i := range infos {
		if err := fn(i); err != nil {
			return err
		}
	}
	return nil
}

// Delete implements blob.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := blob.CheckKey(key); err != nil {
		return err
	}
	return s.do(ctx, Call{"Delete", key}, func() error {
		delete(s.objects, key)
		return nil
	})
}

// Keys returns the keys of all objects in order.
func (s *Store) Keys() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []string
	for k := range s.objects {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
