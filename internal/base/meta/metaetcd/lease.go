package metaetcd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/looptape/looptape/internal/base/meta"
)

// Grant implements meta.Store. etcd counts in seconds and takes no fewer than one
// and a half election timeouts.
func (s *Store) Grant(ctx context.Context, ttl time.Duration) (meta.LeaseID, error) {
	err := s.usable(ctx)
	if err == nil && ttl <= 0 {
		err = fmt.Errorf("%w: a lease of %v", meta.ErrInvalid, ttl)
	}
	if err != nil {
		return 0, fmt.Errorf("grant lease in etcd: %w", err)
	}
	ctx, cancel := s.request(ctx)
	defer cancel()
	seconds := int64((ttl + time.Second - 1) / time.Second)
	res, err := s.client.Grant(ctx, seconds)
	if err != nil {
		return 0, fmt.Errorf("grant lease in etcd: %w", s.failed(err))
	}
	return meta.LeaseID(res.ID), nil
}

// KeepAlive implements meta.Store. It asks once, unlike the client's own method,
// which asks without pause while no member can be reached.
func (s *Store) KeepAlive(ctx context.Context, id meta.LeaseID) (time.Duration, error) {
	if err := s.usable(ctx); err != nil {
		return 0, fmt.Errorf("refresh lease in etcd: %w", err)
	}
	ctx, cancel := s.request(ctx)
	defer cancel()
	ttl, err := s.keepAlive(ctx, id)
	if err != nil {
		return 0, fmt.Errorf("refresh lease in etcd: %w", s.failed(err))
	}
	if ttl <= 0 {
		return 0, fmt.Errorf("refresh lease in etcd: %w", meta.ErrNoLease)
	}
	return time.Duration(ttl) * time.Second, nil
}

func (s *Store) keepAlive(ctx context.Context, id meta.LeaseID) (seconds int64, err error) {
	ctx = clientv3.WithRequireLeader(ctx)
	stream, err := clientv3.RetryLeaseClient(s.client).LeaseKeepAlive(ctx)
	if err != nil {
		return 0, clientv3.ContextError(ctx, err)
	}
	// The end of ctx, right after this, closes the stream.
	if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: int64(id)}); err != nil && !errors.Is(err, io.EOF) { // at EOF Recv says why
		return 0, clientv3.ContextError(ctx, err)
	}
	res, err := stream.Recv()
	if err != nil {
		return 0, clientv3.ContextError(ctx, err)
	}
	return res.TTL, nil
}

// Revoke implements meta.Store.
func (s *Store) Revoke(ctx context.Context, id meta.LeaseID) error {
	if err := s.usable(ctx); err != nil {
		return fmt.Errorf("revoke lease in etcd: %w", err)
	}
	ctx, cancel := s.request(ctx)
	defer cancel()
	if _, err := s.client.Revoke(ctx, clientv3.LeaseID(id)); err != nil {
		return fmt.Errorf("revoke lease in etcd: %w", s.failed(err))
	}
	return nil
}
