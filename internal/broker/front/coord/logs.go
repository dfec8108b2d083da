package coord

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/looptape/looptape/internal/broker/partition"
	"github.com/looptape/looptape/internal/broker/store/catalog"
)

// StoredLogs are the Logs of a broker: partitions of the internal topic.
type StoredLogs struct {
	Catalog    *catalog.Catalog
	Partitions *partition.Set
}

// Open creates the topic if need be and waits until its partitions are open.
func (l StoredLogs) Open(ctx context.Context) ([]Log, error) {
	t, ok := l.Catalog.Topic(Topic)
	if !ok {
		var err error
		t, err = l.Catalog.CreateTopic(ctx, catalog.Topic{
			Name: Topic, Partitions: Partitions, Internal: true,
			Config: map[string]string{"cleanup.policy": "compact", "compression.type": "producer", "max.message.bytes": "104857600"},
		})
		if err != nil && !errors.Is(err, catalog.ErrTopicExists) {
			return nil, err
		}
		if err != nil {
			if t, ok = l.Catalog.Topic(Topic); !ok {
				return nil, err
			}
		}
	}
	logs := make([]Log, t.Partitions)
	for i := range logs {
		p, err := l.open(ctx, partition.ID{Topic: t.ID, Index: int32(i)})
		if err != nil {
			return nil, fmt.Errorf("partition %d: %w", i, err)
		}
		logs[i] = storedLog{p}
	}
	return logs, nil
}

func (l StoredLogs) open(ctx context.Context, id partition.ID) (*partition.Partition, error) {
	for {
		p, err := l.Partitions.Get(id)
		if err == nil || !errors.Is(err, partition.ErrLoading) && !errors.Is(err, partition.ErrUnknownPartition) {
			return p, err
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
