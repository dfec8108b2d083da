package broker

import (
	"context"
	"errors"
	"time"

	"github.com/looptape/looptape/internal/broker/cluster"
	"github.com/looptape/looptape/internal/broker/partition"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/object"
)

func (p Parts) lease() time.Duration {
	if p.Lease <= 0 {
		return 6 * time.Second
	}
	return p.Lease
}

// leaseCloser ends the lease last: others take over at once.
type leaseCloser struct{ l *cluster.Lease }

func (c leaseCloser) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	// It ends by itself if this fails.
	_ = c.l.Release(ctx)
	return nil
}

// registration is what this broker says of itself.
func (e *Store) registration() catalog.Registration {
	r := catalog.Registration{Broker: e.on.Broker, Kind: e.on.kind(), URI: e.on.Dir}
	if r.Kind == catalog.ObjectLog {
		r.URI = e.slotPrefix()
	}
	if e.lease != nil {
		r.Lease, r.Address, r.Rack = e.lease.ID(), e.on.Address, e.on.Rack
	}
	return r
}

// enroll registers the broker. It waits while another broker recovers its log,
// and for the lease of an earlier one under its id to end.
func (e *Store) enroll(ctx context.Context) (err error) {
	var said string
	taken := time.Now().Add(3 * e.on.lease())
	for {
		e.writer, e.adopted, err = e.catalog.Register(ctx, e.registration())
		wait := e.lease != nil && (errors.Is(err, catalog.ErrRecovering) || errors.Is(err, catalog.ErrTaken) && time.Now().Before(taken))
		if !wait {
			return err
		}
		if text := err.Error(); text != said {
			e.log.Warn("start waits", "for", text)
			said = text
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Serving says whether this broker may answer reads: nobody else can have taken
// over by now (P18). A process alone always may.
func (e *Store) Serving() bool { return e.lease == nil || e.lease.Alive() }

// Acking says whether this broker may acknowledge what is durable. A log in
// objects decides that by itself; one in files, on a volume that can be attached
// elsewhere, stops with the lease.
func (e *Store) Acking() bool { return e.on.kind() == catalog.ObjectLog || e.Serving() }

// host is the store as the cluster sees it.
type host struct{ e *Store }

func partitionID(p catalog.Partition) partition.ID {
	return partition.ID{Topic: p.Topic, Index: p.Index}
}

// Open implements cluster.Host.
func (h host) Open(ctx context.Context, p catalog.Partition) error {
	err := h.e.set.Open(ctx, partitionID(p))
	switch {
	case errors.Is(err, partition.ErrUnknownPartition):
		return nil // its topic has just been deleted
	case errors.Is(err, object.ErrCorrupt):
		h.e.damage(partitionID(p), err)
		return nil // to repeat it would keep all others waiting
	}
	return err
}

// Leave implements cluster.Host.
func (h host) Leave(p catalog.Partition) { h.e.set.Leave(partitionID(p)) }

// Opened implements cluster.Host.
func (h host) Opened() []catalog.Partition {
	var all []catalog.Partition
	for _, id := range h.e.set.All() {
		all = append(all, catalog.Partition{Topic: id.Topic, Index: id.Index})
	}
	return all
}

// Missing implements cluster.Host.
func (h host) Missing(p catalog.Partition) bool {
	_, err := h.e.set.Get(partitionID(p))
	return errors.Is(err, partition.ErrLoading)
}
