package main

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/looptape/looptape/internal/loop/event"
	"github.com/looptape/looptape/internal/loop/stream"
)

// A log keeps records in memory: what the pages need of a tape.
type log struct {
	mu   sync.Mutex // guards the rest
	recs []event.Record
	at   map[event.Position]int
	ends map[string]map[int32]int64
	more chan struct{} // closed and replaced at every append
}

const partitions = 4

func newLog() *log {
	return &log{at: map[event.Position]int{}, ends: map[string]map[int32]int64{}, more: make(chan struct{})}
}

// append writes an event and returns where it lies.
func (l *log) append(e event.Event, topic, key, partitionKey string, body any) event.Position {
	if err := e.SetBody(body); err != nil {
		panic(err)
	}
	r := e.Record(topic, key, partitionKey)
	r.Partition, r.Time = event.PartitionOf(partitionKey, partitions), e.Time.Add(80*time.Millisecond).Truncate(time.Millisecond)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ends[topic] == nil {
		l.ends[topic] = map[int32]int64{}
	}
	r.Offset = l.ends[topic][r.Partition]
	l.ends[topic][r.Partition]++
	p := event.Position{Topic: topic, Partition: r.Partition, Offset: r.Offset}
	l.at[p] = len(l.recs)
	l.recs = append(l.recs, r)
	close(l.more)
	l.more = make(chan struct{})
	return p
}

// ReadAt is stream.Client's.
func (l *log) ReadAt(_ context.Context, at event.Position) (event.Record, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i, ok := l.at[at]
	if !ok {
		return event.Record{}, fmt.Errorf("read %v: %w", at, stream.ErrGone)
	}
	return l.recs[i], nil
}

// Tail is stream.Client's, from the beginning.
func (l *log) Tail(ctx context.Context, cfg stream.TailConfig) error {
	done := 0
	next := map[string]map[int32]int64{}
	for {
		l.mu.Lock()
		recs, more := l.recs[done:min(done+1000, len(l.recs))], l.more
		l.mu.Unlock()
		if len(recs) == 0 {
			if cfg.CaughtUp != nil {
				cfg.CaughtUp()
				cfg.CaughtUp = nil
			}
			select {
			case <-ctx.Done():
				return nil
			case <-more:
			}
			continue
		}
		for _, r := range recs {
			if next[r.Topic] == nil {
				next[r.Topic] = map[int32]int64{}
			}
			next[r.Topic][r.Partition] = r.Offset + 1
		}
		copied := map[string]map[int32]int64{}
		for topic, ps := range next {
			copied[topic] = maps.Clone(ps)
		}
		if err := cfg.Batch(ctx, recs, copied); err != nil {
			return err
		}
		done += len(recs)
	}
}
