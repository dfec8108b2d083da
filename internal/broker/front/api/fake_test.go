package api

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"unsafe"

	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/front/coord"
	"github.com/looptape/looptape/internal/broker/partition"
	"github.com/looptape/looptape/internal/broker/store/catalog"
)

// memLog is a partition in memory.
type memLog struct {
	reads   int // guarded by mu
	mu      sync.Mutex
	batches []batch.Batch
	start   int64
	end     int64
	waiters map[*partition.Waiter]int64
	held    int // chunks not released
	fail    error
	cold    bool // not in memory: a glance sees nothing, a read that waits makes it warm
	waited  int  // reads that waited
}

func newMemLog() *memLog { return &memLog{waiters: map[*partition.Waiter]int64{}} }

func (l *memLog) Append(_ context.Context, a partition.Append) {
	res := partition.Appended{LogAppendTime: -1}
	l.mu.Lock()
	if res.Err = l.fail; res.Err == nil {
		res.Base = l.end
		res.Err = l.append(a.Batches)
		res.Last, res.LogStart = l.end-1, l.start
	}
	end := l.end
	var woken []*partition.Waiter
	for w, after := range l.waiters {
		if end > after {
			woken = append(woken, w)
		}
	}
	l.mu.Unlock()
	for _, w := range woken {
		fire(w)
	}
	go a.Done(res)
}

func (l *memLog) append(b []byte) error {
	for len(b) > 0 {
		one, rest, err := batch.Next(b)
		if err != nil {
			return err
		}
		if err := one.CheckCRC(); err != nil {
			return fmt.Errorf("%w: %w", partition.ErrCorrupt, err)
		}
		one.SetBaseOffset(l.end)
		l.end += int64(one.LastOffsetDelta()) + 1
		l.batches = append(l.batches, one)
		b = rest
	}
	return nil
}

func (l *memLog) Read(_ context.Context, r partition.Read) (partition.Chunk, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.Offset < l.start || r.Offset > l.end {
		return partition.Chunk{}, partition.ErrOffsetOutOfRange
	}
	c := partition.Chunk{HighWatermark: l.end, LastStable: l.end, LogStart: l.start}
	if l.cold && r.Offset < l.end && (r.MaxBytes > 0 || r.AtLeastOne) {
		if r.Glance {
			c.Pending = true
			return c, nil
		}
		l.cold = false
		l.waited++
	}
	size := 0
	for _, b := range l.batches {
		if b.LastOffset() < r.Offset {
			continue
		}
		if size += len(b); size > r.MaxBytes && !(r.AtLeastOne && len(c.Records) == 0) {
			break
		}
		c.Records = append(c.Records, b)
	}
	l.held++
	l.reads++
	var once sync.Once
	c.Release = func() {
		once.Do(func() {
			l.mu.Lock()
			l.held--
			l.mu.Unlock()
		})
	}
	return c, nil
}

func (l *memLog) Notify(after int64, w *partition.Waiter) {
	l.mu.Lock()
	due := l.end > after
	l.waiters[w] = after
	l.mu.Unlock()
	if due {
		fire(w)
	}
}

func (l *memLog) Cancel(w *partition.Waiter) {
	l.mu.Lock()
	delete(l.waiters, w)
	l.mu.Unlock()
}

func (l *memLog) Offsets() (int64, int64, int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.start, l.end, l.end
}

func (l *memLog) LeaderEpoch() int32 { return 3 }

func (l *memLog) OffsetForTime(_ context.Context, ts int64) (int64, int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range l.batches {
		if b.MaxTimestamp() >= ts {
			return b.BaseOffset(), b.BaseTimestamp(), nil
		}
	}
	return -1, -1, nil
}

func (l *memLog) OffsetForEpoch(int32) (int32, int64) {
	_, end, _ := l.Offsets()
	return 3, end
}

func (l *memLog) DeleteRecords(_ context.Context, before int64) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.start = max(l.start, before)
	for len(l.batches) > 0 && l.batches[0].LastOffset() < l.start {
		l.batches = l.batches[1:]
	}
	return l.start, nil
}

// fire wakes a waiter as only a partition can: through its channel's other end.
func fire(w *partition.Waiter) {
	select {
	case *(*chan struct{})(unsafe.Pointer(&w.C)) <- struct{}{}:
	default:
	}
}

// memTape is topics and their partitions in memory.
type memTape struct {
	mu     sync.Mutex
	topics []catalog.Topic
	logs   map[partition.ID]*memLog
	pids   int64
}

func newMemTape() *memTape { return &memTape{logs: map[partition.ID]*memLog{}} }

func (m *memTape) find(match func(catalog.Topic) bool) (catalog.Topic, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i := slices.IndexFunc(m.topics, match); i >= 0 {
		return m.topics[i], true
	}
	return catalog.Topic{}, false
}

func (m *memTape) Topic(name string) (catalog.Topic, bool) {
	return m.find(func(t catalog.Topic) bool { return t.Name == name })
}

func (m *memTape) TopicByID(id catalog.TopicID) (catalog.Topic, bool) {
	return m.find(func(t catalog.Topic) bool { return t.ID == id })
}

func (m *memTape) Topics() []catalog.Topic {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := slices.Clone(m.topics)
	slices.SortFunc(all, func(a, b catalog.Topic) int { return strings.Compare(a.Name, b.Name) })
	return all
}

func (m *memTape) CreateTopic(_ context.Context, t catalog.Topic) (catalog.Topic, error) {
	if err := catalog.CheckTopic(t); err != nil {
		return t, err
	}
	if _, taken := m.Topic(t.Name); taken {
		return t, catalog.ErrTopicExists
	}
	t.ID = catalog.NewTopicID()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.topics = append(m.topics, t)
	for i := range t.Partitions {
		m.logs[partition.ID{Topic: t.ID, Index: i}] = newMemLog()
	}
	return t, nil
}

func (m *memTape) DeleteTopicID(_ context.Context, id catalog.TopicID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.topics = slices.DeleteFunc(m.topics, func(t catalog.Topic) bool { return t.ID == id })
	return nil
}

func (m *memTape) ClusterID() string { return "memory" }

func (m *memTape) NextProducerIDs(context.Context) (int64, int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pids += 1000
	return m.pids - 1000, 1000, nil
}

func (m *memTape) log(id partition.ID) (Log, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l := m.logs[id]; l != nil {
		return l, nil
	}
	return nil, partition.ErrUnknownPartition
}

// Create, with the next three, makes memTape coord.Logs.
func (m *memTape) Create(ctx context.Context) error {
	_, err := m.CreateTopic(ctx, catalog.Topic{Name: coord.Topic, Partitions: coord.Partitions, Internal: true})
	if errors.Is(err, catalog.ErrTopicExists) {
		err = nil
	}
	return err
}

func (m *memTape) Leads() []bool { return slices.Repeat([]bool{true}, coord.Partitions) }

func (m *memTape) Await(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func (m *memTape) Open(_ context.Context, index int32) (coord.Log, error) {
	t, _ := m.Topic(coord.Topic)
	l, err := m.log(partition.ID{Topic: t.ID, Index: index})
	if err != nil {
		return nil, err
	}
	return groupLog{l}, nil
}

type groupLog struct{ l Log }

func (g groupLog) Append(ctx context.Context, b []byte, done func(int64, error)) {
	g.l.Append(ctx, partition.Append{Batches: b, Internal: true, Done: func(a partition.Appended) { done(a.Base, a.Err) }})
}

func (g groupLog) Bounds() (int64, int64) {
	start, end, _ := g.l.Offsets()
	return start, end
}

func (g groupLog) Read(ctx context.Context, offset int64, maxBytes int) ([][]byte, func(), error) {
	c, err := g.l.Read(ctx, partition.Read{Offset: offset, MaxBytes: maxBytes, AtLeastOne: true, CurrentLeaderEpoch: -1})
	return c.Records, c.Release, err
}

func (g groupLog) Trim(ctx context.Context, before int64) error {
	_, err := g.l.DeleteRecords(ctx, before)
	return err
}
