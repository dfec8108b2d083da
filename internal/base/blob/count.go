package blob

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"
)

// A Clock is a store that knows the time of its server, which is none of ours.
// As finds it.
type Clock interface {
	// Now is the server's wall clock, to the second.
	Now(ctx context.Context) (time.Time, error)
}

// As finds a T in s or in what s wraps.
func As[T any](s Store) (T, bool) {
	for {
		if t, ok := s.(T); ok {
			return t, true
		}
		w, ok := s.(interface{ Unwrap() Store })
		if !ok {
			var none T
			return none, false
		}
		s = w.Unwrap()
	}
}

// Counters count the calls of a Store since Counted. A List counts once; a store
// that asks for pages sends a request for every thousand objects.
type Counters struct {
	puts, gets, lists, deletes, stats atomic.Int64
	bytesIn, bytesOut                 atomic.Int64
	failures                          atomic.Int64
}

// Counts are the values of Counters at one time.
type Counts struct {
	Puts     int64 `json:"puts"`
	Gets     int64 `json:"gets"`
	Lists    int64 `json:"lists"`
	Deletes  int64 `json:"deletes"`
	Stats    int64 `json:"stats"`
	BytesIn  int64 `json:"bytes_in"`  // put, of calls that succeeded
	BytesOut int64 `json:"bytes_out"` // read
	Failures int64 `json:"failures"`  // calls that ended in an error that is no answer: not ErrExists, ErrNotFound or the end of the caller's context
}

// Counts reads the counters.
func (c *Counters) Counts() Counts {
	return Counts{
		Puts: c.puts.Load(), Gets: c.gets.Load(), Lists: c.lists.Load(), Deletes: c.deletes.Load(), Stats: c.stats.Load(),
		BytesIn: c.bytesIn.Load(), BytesOut: c.bytesOut.Load(), Failures: c.failures.Load(),
	}
}

// Counted returns s with its calls counted.
func Counted(s Store) (Store, *Counters) {
	c := &Counters{}
	return counted{s, c}, c
}

type counted struct {
	Store
	count *Counters
}

// Unwrap gives As what is below.
func (s counted) Unwrap() Store { return s.Store }

func (s counted) done(ctx context.Context, calls *atomic.Int64, err error) {
	calls.Add(1)
	if err != nil && !errors.Is(err, ErrExists) && !errors.Is(err, ErrNotFound) && ctx.Err() == nil {
		s.count.failures.Add(1)
	}
}

func (s counted) Put(ctx context.Context, key string, body io.ReaderAt, size int64) error {
	err := s.Store.Put(ctx, key, body, size)
	if err == nil {
		s.count.bytesIn.Add(size)
	}
	s.done(ctx, &s.count.puts, err)
	return err
}

func (s counted) GetRange(ctx context.Context, key string, off int64, dst []byte) (int, error) {
	n, err := s.Store.GetRange(ctx, key, off, dst)
	s.count.bytesOut.Add(int64(n))
	s.done(ctx, &s.count.gets, err)
	return n, err
}

func (s counted) Stat(ctx context.Context, key string) (Info, error) {
	i, err := s.Store.Stat(ctx, key)
	s.done(ctx, &s.count.stats, err)
	return i, err
}

func (s counted) List(ctx context.Context, prefix string, fn func(Info) error) error {
	var stopped error // the caller's own error is no failure of the store
	err := s.Store.List(ctx, prefix, func(i Info) error {
		stopped = fn(i)
		return stopped
	})
	if stopped != nil {
		s.done(ctx, &s.count.lists, nil)
	} else {
		s.done(ctx, &s.count.lists, err)
	}
	return err
}

func (s counted) Delete(ctx context.Context, key string) error {
	err := s.Store.Delete(ctx, key)
	s.done(ctx, &s.count.deletes, err)
	return err
}
