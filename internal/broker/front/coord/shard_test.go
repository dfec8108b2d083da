package coord

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/base/run"
	"github.com/looptape/looptape/internal/broker/batch"
)

// memLogs keep batches in memory; what is appended becomes durable after delay.
type memLogs struct {
	mu    sync.Mutex
	logs  [Partitions]*memLog
	delay time.Duration
	down  error
	lost  map[int32]bool // led by another broker
	moved chan struct{}
}

func newMemLogs(delay time.Duration) *memLogs {
	m := &memLogs{delay: delay, lost: map[int32]bool{}, moved: make(chan struct{}, 1)}
	for i := range m.logs {
		m.logs[i] = &memLog{m: m}
	}
	return m
}

func (m *memLogs) Create(context.Context) error { return m.down }

func (m *memLogs) Leads() []bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	leads := make([]bool, Partitions)
	for i := range leads {
		leads[i] = !m.lost[int32(i)]
	}
	return leads
}

func (m *memLogs) Await(ctx context.Context) error {
	select {
	case <-m.moved:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *memLogs) Open(_ context.Context, index int32) (Log, error) { return m.logs[index], nil }

// move gives a partition to another broker, or back.
func (m *memLogs) move(index int32, lost bool) {
	m.mu.Lock()
	m.lost[index] = lost
	m.mu.Unlock()
	m.moved <- struct{}{}
}

type memLog struct {
	m       *memLogs
	batches []batch.Batch
	start   int64
	next    int64
	fail    error
}

func (l *memLog) Append(_ context.Context, b []byte, done func(int64, error)) {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	if l.fail != nil {
		go done(-1, l.fail)
		return
	}
	base := l.next
	batch.Batch(b).SetBaseOffset(base)
	l.next = batch.Batch(b).LastOffset() + 1
	l.batches = append(l.batches, b)
	go func() {
		time.Sleep(l.m.delay)
		done(base, nil)
	}()
}

func (l *memLog) Bounds() (int64, int64) {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	return l.start, l.next
}

func (l *memLog) Read(_ context.Context, offset int64, _ int) ([][]byte, func(), error) {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	for _, b := range l.batches {
		if b.LastOffset() >= offset {
			return [][]byte{b}, func() {}, nil
		}
	}
	return nil, func() {}, nil
}

func (l *memLog) Trim(_ context.Context, before int64) error {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	l.start = max(l.start, before)
	for len(l.batches) > 0 && l.batches[0].LastOffset() < l.start {
		l.batches = l.batches[1:]
	}
	return nil
}

// start runs a coordinator until stop is called.
func start(t *testing.T, cfg Config, logs Logs) (c *Coordinator, stop func()) {
	t.Helper()
	c = New(cfg, logs, slog.New(slog.DiscardHandler))
	g := run.New(context.Background())
	g.Go("coordinator", c.Run)
	return c, func() {
		g.Stop()
		if err := g.Wait(); err != nil {
			t.Errorf("run: %v", err)
		}
	}
}

// await calls fn and waits for its answer.
func await[T any](fn func(done func(T))) T {
	ch := make(chan T, 1)
	fn(func(v T) { ch <- v })
	return <-ch
}

func commit(c *Coordinator, group string, p int32, offset int64) error {
	return await(func(done func(error)) {
		c.Commit(CommitRequest{Group: group, Generation: -1, Offsets: map[TopicPartition]Offset{{"t", p}: {Offset: offset, LeaderEpoch: -1, Metadata: "m"}}}, done)
	})
}

func offsets(c *Coordinator, group string) map[TopicPartition]int64 {
	return await(func(done func(map[TopicPartition]int64)) {
		c.Offsets(group, nil, func(found map[TopicPartition]Offset, err error) {
			res := map[TopicPartition]int64{}
			for tp, o := range found {
				res[tp] = o.Offset
			}
			done(res)
		})
	})
}

func TestCommitsSurviveRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logs := newMemLogs(time.Millisecond)
		want := map[TopicPartition]int64{}
		for round := range int64(3) {
			c, stop := start(t, Config{}, logs)
			if err := commit(c, "early", 0, 1); !errors.Is(err, ErrLoading) && err != nil {
				t.Fatalf("commit while loading: %v", err)
			}
			synctest.Wait()
			if diff := cmp.Diff(want, offsets(c, "g")); diff != "" {
				t.Fatalf("round %d (-want +got):\n%s", round, diff)
			}
			for i := range int64(5) {
				if err := commit(c, "g", int32(i), round*10+i); err != nil {
					t.Fatal(err)
				}
				want[TopicPartition{"t", int32(i)}] = round*10 + i
			}
			stop()
			if err := commit(c, "g", 0, 99); !errors.Is(err, ErrNotAvailable) {
				t.Errorf("commit after the end: %v", err)
			}
		}
	})
}

func TestCheckpointKeepsTheLogSmall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logs := newMemLogs(100 * time.Microsecond)
		c, stop := start(t, Config{CheckpointBytes: 4 << 10}, logs)
		synctest.Wait()
		want := map[TopicPartition]int64{}
		var wg sync.WaitGroup
		for p := range int32(8) { // commits overlap, so that a checkpoint has to wait for silence
			wg.Go(func() {
				for i := range int64(100) {
					if err := commit(c, "g", p, i); err != nil {
						t.Error(err)
					}
				}
			})
			want[TopicPartition{"t", p}] = 99
		}
		wg.Wait()
		time.Sleep(time.Second) // for the checkpoint under way
		synctest.Wait()
		l := logs.logs[PartitionOf("g")]
		if l.start == 0 || len(l.batches) > 200 {
			t.Errorf("log starts at %d and has %d batches after 800 commits", l.start, len(l.batches))
		}
		stop()
		c, stop = start(t, Config{}, logs)
		synctest.Wait()
		if diff := cmp.Diff(want, offsets(c, "g")); diff != "" {
			t.Errorf("after restart (-want +got):\n%s", diff)
		}
		stop()
	})
}

func TestGroupLifeOverRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logs := newMemLogs(time.Millisecond)
		c, stop := start(t, Config{InitialDelay: -1}, logs)
		synctest.Wait()
		join := JoinRequest{Group: "g", ProtocolType: "consumer", Protocols: []Protocol{{"range", []byte("meta")}}, Session: 10 * time.Second, Rebalance: time.Minute}
		j := await(func(done func(JoinResult)) { c.Join(join, done) })
		if j.Err != nil || j.Leader != j.MemberID {
			t.Fatalf("join: %+v", j)
		}
		s := await(func(done func(SyncResult)) {
			c.Sync(SyncRequest{Group: "g", MemberID: j.MemberID, Generation: j.Generation, Assignments: map[string][]byte{j.MemberID: []byte("P")}}, done)
		})
		if s.Err != nil || string(s.Assignment) != "P" {
			t.Fatalf("sync: %+v", s)
		}
		beat := func() error {
			return await(func(done func(error)) {
				c.Heartbeat(HeartbeatRequest{Group: "g", MemberID: j.MemberID, Generation: j.Generation}, done)
			})
		}
		stop()
		time.Sleep(time.Hour) // a long outage is not the member's fault
		c, stop = start(t, Config{InitialDelay: -1}, logs)
		synctest.Wait()
		if err := beat(); err != nil {
			t.Fatalf("heartbeat after restart: %v", err)
		}
		if err := await(func(done func(error)) { c.Delete("g", done) }); !errors.Is(err, ErrNotEmpty) {
			t.Errorf("delete of a living group: %v", err)
		}
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if err := beat(); !errors.Is(err, ErrUnknownMember) {
			t.Errorf("heartbeat after the session: %v", err)
		}
		list := await(func(done func([]Description)) { c.List(func(all []Description, _ error) { done(all) }) })
		if len(list) != 1 || list[0].State != Empty {
			t.Errorf("list: %+v", list)
		}
		if err := await(func(done func(error)) { c.Delete("g", done) }); err != nil {
			t.Errorf("delete: %v", err)
		}
		stop()
		c, stop = start(t, Config{}, logs)
		synctest.Wait()
		list = await(func(done func([]Description)) { c.List(func(all []Description, _ error) { done(all) }) })
		if len(list) != 0 {
			t.Errorf("after delete and restart: %+v", list)
		}
		stop()
	})
}

func TestOffsetsExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logs := newMemLogs(time.Millisecond)
		c, stop := start(t, Config{Retention: time.Hour}, logs)
		synctest.Wait()
		if err := commit(c, "g", 0, 5); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Minute)
		if err := commit(c, "g", 1, 6); err != nil {
			t.Fatal(err)
		}
		time.Sleep(45 * time.Minute)
		synctest.Wait()
		if diff := cmp.Diff(map[TopicPartition]int64{{"t", 1}: 6}, offsets(c, "g")); diff != "" {
			t.Errorf("after the first expired (-want +got):\n%s", diff)
		}
		c.ForgetTopic("t")
		time.Sleep(time.Second)
		if got := offsets(c, "g"); len(got) != 0 {
			t.Errorf("offsets of a deleted topic: %v", got)
		}
		stop()
	})
}

func TestWaitersAreToldAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, stop := start(t, Config{InitialDelay: time.Minute}, newMemLogs(0))
		synctest.Wait()
		ch := make(chan JoinResult, 1)
		c.Join(JoinRequest{Group: "g", ProtocolType: "consumer", Protocols: []Protocol{{"range", nil}}, Session: 10 * time.Second, Rebalance: time.Hour},
			func(r JoinResult) { ch <- r })
		synctest.Wait()
		stop()
		if r := <-ch; !errors.Is(r.Err, ErrNotAvailable) {
			t.Errorf("got %+v", r)
		}
	})
}

func TestFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logs := newMemLogs(0)
		c, stop := start(t, Config{}, logs)
		synctest.Wait()
		logs.logs[PartitionOf("g")].fail = errors.New("disk is gone")
		if err := commit(c, "g", 0, 1); !errors.Is(err, ErrNotAvailable) {
			t.Errorf("commit on a failed log: %v", err)
		}
		if got := offsets(c, "g"); len(got) != 0 {
			t.Errorf("offsets of a failed commit: %v", got)
		}
		stop()

		logs = newMemLogs(0)
		logs.logs[3].batches = []batch.Batch{batch.Build(batch.Plain, batch.KV{Key: []byte{0, 1, 0}, Value: []byte("x")})}
		logs.logs[3].next = 1
		c = New(Config{}, logs, slog.New(slog.DiscardHandler))
		if err := c.Run(t.Context()); !errors.Is(err, errRecord) {
			t.Errorf("run on a corrupt log: %v", err)
		}
	})
}

func FuzzLoad(f *testing.F) {
	cfg := Config{}
	cfg.defaults()
	f.Add(offsetKey("g", TopicPartition{"t", 1}), offsetValue(Offset{Offset: 1, Committed: time.UnixMilli(5)}))
	f.Add(groupKey("g"), []byte{0, 3, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, key, value []byte) {
		s := newShard(0, &cfg, slog.New(slog.DiscardHandler))
		if err := s.load(batch.Record{Key: key, Value: value}, 7, time.UnixMilli(0)); err != nil {
			return
		}
		for _, g := range s.groups {
			_ = fmt.Sprint(g.describe())
			var x effects
			g.tick(time.Now(), &x)
		}
	})
}
