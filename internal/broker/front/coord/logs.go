package coord

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/looptape/looptape/internal/broker/partition"
	"github.com/looptape/looptape/internal/broker/store/catalog"
)

// StoredLogs are the Logs of a broker: partitions of the internal topic. Its
// pointer is used by one Coordinator.
type StoredLogs struct {
	Catalog    *catalog.Catalog
	Partitions *partition.Set

	seen catalog.Moment // of Await
}

// Create implements Logs.
func (l *StoredLogs) Create(ctx context.Context) error {
	if _, ok := l.Catalog.Topic(Topic); ok {
		return nil
	}
	_, err := l.Catalog.CreateTopic(ctx, catalog.Topic{
		Name: Topic, Partitions: Partitions, Internal: true,
		Config: map[string]string{"cleanup.policy": "compact", "compression.type": "producer", "max.message.bytes": "104857600"},
	})
	if errors.Is(err, catalog.ErrTopicExists) {
		return nil // another broker was faster
	}
	return err
}

// Leads implements Logs.
func (l *StoredLogs) Leads() []bool {
	t, ok := l.Catalog.Topic(Topic)
	if !ok {
		return nil
	}
	leads := make([]bool, t.Partitions)
	for i := range leads {
		leads[i] = l.Catalog.Owns(catalog.Partition{Topic: t.ID, Index: int32(i)})
	}
	return leads
}

// Await implements Logs.
func (l *StoredLogs) Await(ctx context.Context) (err error) {
	l.seen, err = l.Catalog.AwaitMove(ctx, l.seen)
	return err
}

// Open implements Logs.
func (l *StoredLogs) Open(ctx context.Context, index int32) (Log, error) {
	t, ok := l.Catalog.Topic(Topic)
	if !ok {
		return nil, fmt.Errorf("partition %d: %w", index, partition.ErrUnknownPartition)
	}
	for {
		p, err := l.Partitions.Get(partition.ID{Topic: t.ID, Index: index})
		switch {
		case err == nil:
			return storedLog{p}, nil
		case errors.Is(err, partition.ErrNotLeader):
			return nil, fmt.Errorf("%w: %w", ErrNotCoordinator, err)
		case !errors.Is(err, partition.ErrLoading) && !errors.Is(err, partition.ErrUnknownPartition):
			return nil, fmt.Errorf("partition %d: %w", index, err)
		}
		// The catalog knows it and the set does not yet: it is being opened.
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), err)
		}
	}
}

type storedLog struct{ p *partition.Partition }

func (l storedLog) Append(ctx context.Context, b []byte, done func(int64, error)) {
	l.p.Append(ctx, partition.Append{Batches: b, Internal: true, Done: func(a partition.Appended) { done(a.Base, a.Err) }})
}

func (l storedLog) Bounds() (start, end int64) {
	start, end, _ = l.p.Offsets()
	return start, end
}

func (l storedLog) Read(ctx context.Context, offset int64, maxBytes int) ([][]byte, func(), error) {
	c, err := l.p.Read(ctx, partition.Read{Offset: offset, MaxBytes: maxBytes, AtLeastOne: true, CurrentLeaderEpoch: -1})
	if c.Release == nil {
		c.Release = func() {}
	}
	return c.Records, c.Release, err
}

func (l storedLog) Trim(ctx context.Context, before int64) error {
	_, err := l.p.DeleteRecords(ctx, before)
	return err
}
