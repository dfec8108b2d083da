package metalocal

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"github.com/looptape/looptape/internal/base/meta"
)

// Grant implements meta.Store.
func (s *Store) Grant(ctx context.Context, ttl time.Duration) (meta.LeaseID, error) {
	if err := s.usable(ctx); err != nil {
		return 0, fmt.Errorf("grant lease in %s: %w", s.path, err)
	}
	var random [8]byte
	rand.Read(random[:])
	id := meta.LeaseID(binary.BigEndian.Uint64(random[:])>>1 | 1)
	if err := s.book.Grant(id, ttl); err != nil {
		return 0, fmt.Errorf("grant lease in %s: %w", s.path, err)
	}
	s.start.Do(func() {
		s.group.Go("meta-leases", func(ctx context.Context) error { return s.book.Run(ctx, s.expire) })
	})
	return id, nil
}

// KeepAlive implements meta.Store.
func (s *Store) KeepAlive(ctx context.Context, id meta.LeaseID) (time.Duration, error) {
	err := s.usable(ctx)
	if err == nil {
		ttl, ok := s.book.Refresh(id)
		if ok {
			return ttl, nil
		}
		err = meta.ErrNoLease
	}
	return 0, fmt.Errorf("refresh lease in %s: %w", s.path, err)
}

// Revoke implements meta.Store.
func (s *Store) Revoke(ctx context.Context, id meta.LeaseID) error {
	err := s.usable(ctx)
	if err == nil && !s.book.End(id) {
		err = meta.ErrNoLease
	}
	if err == nil {
		err = s.end(ctx, id)
	}
	if err != nil {
		return fmt.Errorf("revoke lease in %s: %w", s.path, err)
	}
	return nil
}

func (s *Store) usable(ctx context.Context) error {
	if s.closed.Load() {
		return meta.ErrClosed
	}
	return ctx.Err()
}

// end deletes the keys of a lease whose time has passed.
func (s *Store) end(ctx context.Context, id meta.LeaseID) error {
	_, err := s.change(ctx, func(tx *bbolt.Tx) (meta.TxnResult, []meta.Event, error) { return drop(tx, id) })
	if err == nil {
		s.book.Forget(id)
	}
	return err
}

// expire is end for a lease that nobody refreshed.
func (s *Store) expire(ctx context.Context, id meta.LeaseID) error {
	err := s.end(ctx, id)
	if errors.Is(err, meta.ErrUnknown) {
		// The file is not written any more, and the next Open ends all leases.
		s.book.Forget(id)
		return nil
	}
	return err
}

// endAll ends the leases of the process before, which has the file no more.
func (s *Store) endAll(rev int64) (int64, error) {
	err := s.db.Update(func(tx *bbolt.Tx) error {
		leased, err := tx.CreateBucketIfNotExists(bucketLease)
		if err != nil {
			return err
		}
		if k, _ := leased.Cursor().First(); k == nil {
			return nil
		}
		r, _, err := drop(tx, 0)
		rev = r.Rev
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("end old leases: %w", err)
	}
	return rev, nil
}

// drop deletes the keys of the lease; 0: of all leases.
func drop(tx *bbolt.Tx, id meta.LeaseID) (meta.TxnResult, []meta.Event, error) {
	m, b, leased := tx.Bucket(bucketMeta), tx.Bucket(bucketKV), tx.Bucket(bucketLease)
	rev, _ := number(m.Get(keyRev))
	var keys [][]byte // first gathered: a cursor does not survive changes
	c := leased.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		of, ok := number(v)
		if !ok {
			return meta.TxnResult{}, nil, fmt.Errorf("damaged metadata: lease of %q has %d bytes", k, len(v))
		}
		if id == 0 || meta.LeaseID(of) == id {
			keys = append(keys, bytes.Clone(k))
		}
	}
	if len(keys) == 0 {
		return meta.TxnResult{OK: true, Rev: rev}, nil, nil
	}
	rev++
	var events []meta.Event
	for _, k := range keys {
		if err := errors.Join(b.Delete(k), leased.Delete(k)); err != nil {
			return meta.TxnResult{}, nil, err
		}
		events = append(events, meta.Event{Key: string(k), ModRev: rev, Deleted: true})
	}
	if err := m.Put(keyRev, appendNumber(nil, rev)); err != nil {
		return meta.TxnResult{}, nil, err
	}
	return meta.TxnResult{OK: true, Rev: rev}, events, nil
}

// attach makes a key vanish with the lease, or with none.
func attach(leased *bbolt.Bucket, key string, id meta.LeaseID) error {
	if id == 0 {
		return leased.Delete([]byte(key))
	}
	return leased.Put([]byte(key), appendNumber(nil, int64(id)))
}

// Progress implements meta.Store.
func (s *Store) Progress(ctx context.Context) error {
	if err := s.usable(ctx); err != nil {
		return fmt.Errorf("ask for progress of %s: %w", s.path, err)
	}
	s.feed.Progress()
	return nil
}
