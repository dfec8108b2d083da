package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/looptape/looptape/internal/loop/event"
)

const partitionKeyHeader = "ce_partitionkey"

// Produce appends records and returns when every one of them is acknowledged by
// all in-sync replicas. Records of one partition are appended in the order
// given. On an error some of them may have been appended (and one whose fate is
// unknown may still be): producing the same events again is safe, as everything
// that reads them is idempotent by event id.
//
// A record with Partition -1 goes to event.PartitionOf its ce_partitionkey
// header, or of its key where it has none.
func (c *Client) Produce(ctx context.Context, recs ...event.Record) error {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex // guards errs
		errs []error
	)
	wg.Add(len(recs))
	for _, r := range recs {
		c.ProduceAsync(ctx, r, func(err error) {
			if err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
			wg.Done()
		})
	}
	wg.Wait()
	if len(errs) > 3 {
		errs = append(errs[:3], fmt.Errorf("and %d more", len(errs)-3))
	}
	return errors.Join(errs...)
}

// ProduceAsync appends a record in the background and calls done exactly once,
// when it is acknowledged or has failed. It blocks while the buffer of
// unacknowledged records is full, which is the back-pressure a caller passes on
// to its own clients, and until ctx ends. done runs on the client's goroutine: it
// must be quick and must not produce. The record's slices must not change before.
func (c *Client) ProduceAsync(ctx context.Context, rec event.Record, done func(error)) {
	c.produce(ctx, rec, func(_ *kgo.Record, err error) { done(err) })
}

func (c *Client) produce(ctx context.Context, rec event.Record, done func(*kgo.Record, error)) {
	r := &kgo.Record{
		Topic: rec.Topic, Partition: rec.Partition, Key: rec.Key, Value: rec.Value,
		Timestamp: rec.Time, Headers: make([]kgo.RecordHeader, len(rec.Headers)),
	}
	size := len(r.Key) + len(r.Value)
	for i, h := range rec.Headers {
		r.Headers[i] = kgo.RecordHeader{Key: h.Key, Value: h.Value}
		size += len(h.Key) + len(h.Value)
	}
	if size > MaxRecordBytes {
		done(r, fmt.Errorf("produce to %s: record of %d bytes: limit is %d", rec.Topic, size, MaxRecordBytes))
		return
	}
	c.kgo.Produce(ctx, r, func(r *kgo.Record, err error) {
		if err != nil {
			c.metrics.produceErrors.WithLabelValues(rec.Topic).Inc()
			err = fmt.Errorf("produce to %s: %w", rec.Topic, err)
		} else {
			c.metrics.produced.WithLabelValues(rec.Topic).Inc()
		}
		done(r, err)
	})
}

// partitioner keeps all records of one partition key in partitions of one
// number, whatever their topics and keys.
func partitioner(string) func(*kgo.Record, int) int {
	return func(r *kgo.Record, n int) int {
		if r.Partition >= 0 {
			return int(r.Partition)
		}
		for i := len(r.Headers) - 1; i >= 0; i-- {
			if r.Headers[i].Key == partitionKeyHeader {
				return int(event.PartitionOf(string(r.Headers[i].Value), int32(n)))
			}
		}
		return int(event.PartitionOf(string(r.Key), int32(n)))
	}
}
