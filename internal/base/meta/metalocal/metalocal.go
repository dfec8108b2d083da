// Package metalocal is a meta.Store in one local file, for one process.
//
// The file is a bbolt database: a copy-on-write tree whose commit is an fsync, so
// a crash at any moment leaves the state before a transaction or the state after
// it. The file is locked; a second Open fails.
//
//	bucket "meta":  "format" -> 1, "rev" -> revision                 (8 bytes each)
//	bucket "kv":    key -> create revision, mod revision, value      (8, 8, n bytes)
//	bucket "lease": key -> lease it vanishes with                    (8 bytes)
//
// All integers are big-endian. Revisions are in the database and go on after a
// restart; recent changes, for watches, are in memory only, so a watch from before
// the restart ends with meta.ErrCompacted and its owner scans again. Leases end
// with the process: Open deletes their keys.
//
// How it fails: a commit that fails leaves it open what the next start will find.
// Such a transaction returns meta.ErrUnknown, and so does every later one: the
// process has to end and open the file anew (a sync that fails says nothing about
// what an earlier or a later one wrote).
package metalocal

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/looptape/looptape/internal/base/disk"
	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/meta/feed"
	"github.com/looptape/looptape/internal/base/meta/lease"
	"github.com/looptape/looptape/internal/base/run"
)

const formatVersion = 1

var (
	bucketMeta  = []byte("meta")
	bucketKV    = []byte("kv")
	bucketLease = []byte("lease")
	keyFormat   = []byte("format")
	keyRev      = []byte("rev")
)

// lockWait is how long Open waits for another process to let go of the file.
const lockWait = 200 * time.Millisecond

// revBytes is the length of the two revisions before a value.
const revBytes = 16

// Store is a meta.Store in a file. Use Open.
type Store struct {
	db     *bbolt.DB
	path   string
	feed   *feed.Feed
	book   *lease.Book
	group  *run.Group    // ends leases
	start  sync.Once     // of the group's goroutine
	turn   chan struct{} // holds one token; who has it runs the one transaction
	failed atomic.Pointer[error]
	closed atomic.Bool
}

var _ meta.Store = (*Store)(nil)

// Open opens the store in the file path, which is created if absent; its
// directory has to exist. disk.ErrLocked: another process has it open.
func Open(path string) (*Store, error) {
	_, err := os.Stat(path)
	created := errors.Is(err, fs.ErrNotExist)
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout:      lockWait,
		FreelistType: bbolt.FreelistMapType,
	})
	if errors.Is(err, berrors.ErrTimeout) {
		err = disk.ErrLocked
	}
	if err != nil {
		return nil, fmt.Errorf("open metadata %s: %w", path, err)
	}
	s := &Store{
		db: db, path: path, turn: make(chan struct{}, 1),
		book: lease.New(time.Now), group: run.New(context.Background()),
	}
	rev, err := s.prepare()
	if err == nil {
		rev, err = s.endAll(rev)
	}
	if err == nil && created {
		err = disk.OS{}.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open metadata %s: %w", path, err), db.Close())
	}
	s.feed = feed.New(rev, 0)
	s.turn <- struct{}{}
	return s, nil
}

// prepare makes the buckets of a new file and returns the revision.
func (s *Store) prepare() (rev int64, err error) {
	var ready bool
	err = s.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketMeta)
		if b == nil {
			return nil
		}
		ready = true
		format, ok := number(b.Get(keyFormat))
		if !ok || format != formatVersion {
			return fmt.Errorf("format %d, this program reads %d", format, formatVersion)
		}
		if rev, ok = number(b.Get(keyRev)); !ok || tx.Bucket(bucketKV) == nil {
			return errors.New("not a metadata file")
		}
		return nil
	})
	if err != nil || ready {
		return rev, err
	}
	return 0, s.db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket(bucketMeta)
		if err != nil {
			return err
		}
		if _, err := tx.CreateBucket(bucketKV); err != nil {
			return err
		}
		if _, err := tx.CreateBucket(bucketLease); err != nil {
			return err
		}
		if err := b.Put(keyFormat, appendNumber(nil, formatVersion)); err != nil {
			return err
		}
		return b.Put(keyRev, appendNumber(nil, 0))
	})
}

// view runs fn on a snapshot.
func (s *Store) view(ctx context.Context, fn func(kv *bbolt.Bucket, rev int64) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := s.db.View(func(tx *bbolt.Tx) error {
		rev, _ := number(tx.Bucket(bucketMeta).Get(keyRev))
		return fn(tx.Bucket(bucketKV), rev)
	})
	if errors.Is(err, berrors.ErrDatabaseNotOpen) {
		return meta.ErrClosed
	}
	return err
}

// Get implements meta.Store.
func (s *Store) Get(ctx context.Context, keys ...string) (map[string]meta.KV, int64, error) {
	found := make(map[string]meta.KV, len(keys))
	var at int64
	err := s.view(ctx, func(b *bbolt.Bucket, rev int64) error {
		at = rev
		for _, k := range keys {
			kv, ok, err := get(b, k)
			if err != nil {
				return err
			}
			if ok {
				found[k] = kv
			}
		}
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("get from %s: %w", s.path, err)
	}
	return found, at, nil
}

// Scan implements meta.Store.
func (s *Store) Scan(ctx context.Context, prefix string, fn func(meta.KV) error) (int64, error) {
	var at int64
	var stop error // of fn, returned as it is
	err := s.view(ctx, func(b *bbolt.Bucket, rev int64) error {
		at = rev
		c := b.Cursor()
		for k, v := c.Seek([]byte(prefix)); k != nil && bytes.HasPrefix(k, []byte(prefix)); k, v = c.Next() {
			kv, err := decode(k, v)
			if err != nil {
				return err
			}
			if stop = fn(kv); stop != nil {
				return stop
			}
		}
		return nil
	})
	if stop != nil {
		return 0, stop
	}
	if err != nil {
		return 0, fmt.Errorf("scan %q in %s: %w", prefix, s.path, err)
	}
	return at, nil
}

// errGuard ends a transaction whose comparisons do not hold, or which changes
// nothing, without a commit.
var errGuard = errors.New("nothing to commit")

// Txn implements meta.Store.
func (s *Store) Txn(ctx context.Context, t meta.Txn) (meta.TxnResult, error) {
	if err := t.Check(); err != nil {
		return meta.TxnResult{}, err
	}
	return s.change(ctx, func(tx *bbolt.Tx) (meta.TxnResult, []meta.Event, error) { return s.apply(tx, t) })
}

// change runs fn in the one transaction under way, commits what it changed and
// tells the watchers. An error of fn means that nothing was done.
func (s *Store) change(ctx context.Context, fn func(*bbolt.Tx) (meta.TxnResult, []meta.Event, error)) (meta.TxnResult, error) {
	select {
	case <-s.turn:
		defer func() { s.turn <- struct{}{} }()
	case <-ctx.Done():
		return meta.TxnResult{}, fmt.Errorf("transaction in %s: %w", s.path, ctx.Err())
	}
	if err := ctx.Err(); err != nil {
		return meta.TxnResult{}, fmt.Errorf("transaction in %s: %w", s.path, err)
	}
	if p := s.failed.Load(); p != nil {
		return meta.TxnResult{}, *p
	}
	var result meta.TxnResult
	var events []meta.Event
	var broken error // found before anything was committed
	err := s.db.Update(func(tx *bbolt.Tx) error {
		result, events, broken = fn(tx)
		if broken == nil && len(events) > 0 {
			return nil
		}
		return errGuard
	})
	switch {
	case broken != nil:
		return meta.TxnResult{}, fmt.Errorf("transaction in %s: %w", s.path, broken)
	case errors.Is(err, errGuard):
		return result, nil
	case errors.Is(err, berrors.ErrDatabaseNotOpen):
		return meta.TxnResult{}, fmt.Errorf("transaction in %s: %w", s.path, meta.ErrClosed)
	case err != nil:
		err = fmt.Errorf("commit to %s: %w: %w", s.path, meta.ErrUnknown, err)
		s.failed.Store(&err)
		return meta.TxnResult{}, err
	}
	// Durable now; watchers may know.
	s.feed.Publish(result.Rev, events)
	return result, nil
}

// apply runs the transaction and returns what it changed; no events: nothing.
func (s *Store) apply(tx *bbolt.Tx, t meta.Txn) (meta.TxnResult, []meta.Event, error) {
	m, b, leased := tx.Bucket(bucketMeta), tx.Bucket(bucketKV), tx.Bucket(bucketLease)
	rev, _ := number(m.Get(keyRev))
	for _, c := range t.If {
		kv, ok, err := get(b, c.Key)
		if err != nil {
			return meta.TxnResult{}, nil, err
		}
		if !c.Holds(kv, ok) {
			r := meta.TxnResult{Rev: rev}
			for _, k := range t.ElseGet {
				kv, ok, err := get(b, k)
				if err != nil {
					return meta.TxnResult{}, nil, err
				}
				if ok {
					r.Else = append(r.Else, kv)
				}
			}
			return r, nil, nil
		}
	}
	for _, o := range t.Then {
		if o.Lease != 0 && !s.book.Alive(o.Lease) {
			return meta.TxnResult{}, nil, fmt.Errorf("put %q: %w", o.Key, meta.ErrNoLease)
		}
	}
	next := rev + 1
	var events []meta.Event
	for _, o := range t.Then {
		var err error
		if o.Kind == meta.OpPut {
			events, err = put(b, leased, o, next, events)
		} else {
			events, err = remove(b, leased, o, next, events)
		}
		if err != nil {
			return meta.TxnResult{}, nil, err
		}
	}
	if len(events) == 0 {
		return meta.TxnResult{OK: true, Rev: rev}, nil, nil
	}
	if err := m.Put(keyRev, appendNumber(nil, next)); err != nil {
		return meta.TxnResult{}, nil, err
	}
	return meta.TxnResult{OK: true, Rev: next}, events, nil
}

func put(b, leased *bbolt.Bucket, o meta.Op, rev int64, events []meta.Event) ([]meta.Event, error) {
	created := rev
	if old, ok, err := get(b, o.Key); err != nil {
		return nil, err
	} else if ok {
		created = old.CreateRev
	}
	stored := make([]byte, 0, revBytes+len(o.Value))
	stored = appendNumber(stored, created)
	stored = appendNumber(stored, rev)
	stored = append(stored, o.Value...)
	if err := b.Put([]byte(o.Key), stored); err != nil {
		return nil, err
	}
	if err := attach(leased, o.Key, o.Lease); err != nil {
		return nil, err
	}
	value := append([]byte{}, o.Value...)
	return append(events, meta.Event{Key: o.Key, Value: value, ModRev: rev}), nil
}

// remove does Delete and DeletePrefix.
func remove(b, leased *bbolt.Bucket, o meta.Op, rev int64, events []meta.Event) ([]meta.Event, error) {
	var keys [][]byte // first gathered: a cursor does not survive changes
	c := b.Cursor()
	for k, _ := c.Seek([]byte(o.Key)); k != nil && bytes.HasPrefix(k, []byte(o.Key)) && o.Covers(string(k)); k, _ = c.Next() {
		keys = append(keys, bytes.Clone(k))
	}
	for _, k := range keys {
		if err := b.Delete(k); err != nil {
			return nil, err
		}
		if err := leased.Delete(k); err != nil {
			return nil, err
		}
		events = append(events, meta.Event{Key: string(k), ModRev: rev, Deleted: true})
	}
	return events, nil
}

// Watch implements meta.Store.
func (s *Store) Watch(ctx context.Context, prefix string, after int64) <-chan meta.Batch {
	return s.feed.Watch(ctx, prefix, after)
}

// Close implements meta.Store. It waits for calls under way.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	err := s.feed.Close()
	s.group.Stop()
	err = errors.Join(err, s.group.Wait())
	if cerr := s.db.Close(); cerr != nil {
		err = errors.Join(err, fmt.Errorf("close %s: %w", s.path, cerr))
	}
	return err
}

func get(b *bbolt.Bucket, key string) (kv meta.KV, ok bool, err error) {
	v := b.Get([]byte(key))
	if v == nil {
		return meta.KV{}, false, nil
	}
	kv, err = decode([]byte(key), v)
	return kv, err == nil, err
}

func decode(k, v []byte) (meta.KV, error) {
	if len(v) < revBytes {
		return meta.KV{}, fmt.Errorf("damaged metadata: %q has %d bytes, at least %d", k, len(v), revBytes)
	}
	return meta.KV{
		Key:       string(k),
		CreateRev: int64(binary.BigEndian.Uint64(v)),
		ModRev:    int64(binary.BigEndian.Uint64(v[8:])),
		Value:     append([]byte{}, v[revBytes:]...),
	}, nil
}

func number(v []byte) (int64, bool) {
	if len(v) != 8 {
		return 0, false
	}
	return int64(binary.BigEndian.Uint64(v)), true
}

func appendNumber(b []byte, n int64) []byte { return binary.BigEndian.AppendUint64(b, uint64(n)) }
