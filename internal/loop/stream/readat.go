package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/loop/event"
)

// A leader is who answers for a partition, and its topic's id.
type leader struct {
	broker int32
	topic  kadm.TopicID
}

type topicPartition struct {
	topic     string
	partition int32
}

// leaders remembers who leads what, until a fetch says otherwise.
type leaders struct {
	mu sync.Mutex // guards by
	by map[topicPartition]leader
}

// decompressor is shared: making one costs more than most reads.
var decompressor = kgo.DefaultDecompressor()

// readAttempts bounds how often ReadAt asks again when a leader has moved.
const readAttempts = 8

// ReadAt reads the one record at a position. It is ErrGone when retention or
// compaction has removed it, or when nothing was written there yet.
func (c *Client) ReadAt(ctx context.Context, at event.Position) (event.Record, error) {
	var last error
	for try := 1; try <= readAttempts; try++ {
		rec, err := c.readOnce(ctx, at)
		switch {
		case err == nil:
			return rec, nil
		case errors.Is(err, kerr.OffsetOutOfRange) || errors.Is(err, ErrGone):
			return event.Record{}, fmt.Errorf("read %v: %w", at, ErrGone)
		case ctx.Err() != nil:
			return event.Record{}, fmt.Errorf("read %v: %w", at, ctx.Err())
		case errors.Is(err, errNoTopic):
			return event.Record{}, fmt.Errorf("read %v: %w", at, err)
		}
		last = err
		c.forget(at)
		t := time.NewTimer(backoff(try))
		select {
		case <-ctx.Done():
			t.Stop()
			return event.Record{}, fmt.Errorf("read %v: %w", at, ctx.Err())
		case <-t.C:
		}
	}
	return event.Record{}, fmt.Errorf("read %v: %w", at, last)
}

func (c *Client) readOnce(ctx context.Context, at event.Position) (event.Record, error) {
	l, err := c.leader(ctx, at)
	if err != nil {
		return event.Record{}, err
	}
	req := kmsg.NewFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes = 0, 0, 8<<20
	req.IsolationLevel = 1
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.TopicID = at.Topic, l.topic
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes = at.Partition, at.Offset, 1<<10 // the first batch comes whole whatever its size
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	resp, err := c.kgo.Broker(int(l.broker)).RetriableRequest(ctx, &req)
	if err != nil {
		return event.Record{}, err
	}
	fetched := resp.(*kmsg.FetchResponse)
	if err := kerr.ErrorForCode(fetched.ErrorCode); err != nil {
		return event.Record{}, err
	}
	for i := range fetched.Topics {
		for j := range fetched.Topics[i].Partitions {
			fp, _ := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{
				Offset: at.Offset, IsolationLevel: kgo.ReadCommitted(), Topic: at.Topic, Partition: at.Partition,
			}, &fetched.Topics[i].Partitions[j], decompressor, nil)
			if fp.Err != nil {
				return event.Record{}, fp.Err
			}
			if len(fp.Records) > 0 && fp.Records[0].Offset == at.Offset {
				return fromKafka(fp.Records[0]), nil
			}
			return event.Record{}, ErrGone
		}
	}
	return event.Record{}, errors.New("fetch answered without the partition")
}

var errNoTopic = errors.New("there is no such topic or partition")

func (c *Client) leader(ctx context.Context, at event.Position) (leader, error) {
	tp := topicPartition{at.Topic, at.Partition}
	c.leaders.mu.Lock()
	l, ok := c.leaders.by[tp]
	c.leaders.mu.Unlock()
	if ok {
		return l, nil
	}
	md, err := c.adm.Metadata(ctx, at.Topic)
	if err != nil {
		return leader{}, fmt.Errorf("metadata: %w", err)
	}
	t, ok := md.Topics[at.Topic]
	if !ok || errors.Is(t.Err, kerr.UnknownTopicOrPartition) {
		return leader{}, errNoTopic
	}
	if t.Err != nil {
		return leader{}, fmt.Errorf("metadata: %w", t.Err)
	}
	p, ok := t.Partitions[at.Partition]
	if !ok {
		return leader{}, errNoTopic
	}
	if p.Err != nil || p.Leader < 0 {
		return leader{}, fmt.Errorf("partition has no leader: %w", errors.Join(p.Err, kerr.LeaderNotAvailable))
	}
	l = leader{p.Leader, t.ID}
	c.leaders.mu.Lock()
	if c.leaders.by == nil {
		c.leaders.by = map[topicPartition]leader{}
	}
	c.leaders.by[tp] = l
	c.leaders.mu.Unlock()
	return l, nil
}

func (c *Client) forget(at event.Position) {
	c.leaders.mu.Lock()
	delete(c.leaders.by, topicPartition{at.Topic, at.Partition})
	c.leaders.mu.Unlock()
}
