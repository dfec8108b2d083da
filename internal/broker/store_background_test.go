package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/looptape/looptape/internal/base/meta/metamem"
	"github.com/looptape/looptape/internal/broker/partition"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/write"
)

// jobs runs a round of each background job.
func (p *process) jobs(t testing.TB) {
	t.Helper()
	b := p.e.Background()
	for _, round := range []func(context.Context) error{b.Merge, b.Compact, b.Sweep, b.Sweep} {
		if err := round(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
}

func (w *world) keys(prefix string) (all []string) {
	for _, key := range w.blobs.Keys() {
		if strings.HasPrefix(key, prefix) {
			all = append(all, key)
		}
	}
	return all
}

// What is produced is read back the same while everything is merged, compacted and
// expired around it, across restarts; a deletion is known to the object store
// before it is answered; a deleted topic leaves no object.
func TestBackgroundJobs(t *testing.T) {
	ctx := context.Background()
	w := newWorld()
	w.cfg.Snapshots.Every = -1 // it would lengthen the grace
	w.cfg.Background = write.BackgroundConfig{
		Merge:          write.MergeConfig{FanIn: 3, MiddleBytes: 8 << 10, LargeBytes: 32 << 10, LeaveBytes: 1 << 10},
		BytesPerSecond: -1,
	}
	p := w.mustStart(t)
	if err := p.e.register(prometheus.NewPedanticRegistry()); err != nil {
		t.Fatal(err)
	}
	plain := p.create(t, "plain", 2, map[string]string{"retention.ms": "-1"})
	keyed := p.create(t, "keyed", 1, map[string]string{"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0"})
	want := map[int64]string{}
	for i := range 40 {
		v := fmt.Sprintf("%d-%s", i, strings.Repeat("v", 50))
		for _, part := range []*partition.Partition{p.partition(t, plain, 0), p.partition(t, plain, 1), p.partition(t, keyed, 0)} {
			a := appendTo(part, partition.Append{Batches: idempotent(7, 0, int32(i), v)})
			if a.Err != nil || a.Base != int64(i) {
				t.Fatal(a)
			}
		}
		want[int64(i)] = v
		if i%4 == 3 {
			p.flush(t)
		}
		if i%16 == 15 {
			p.jobs(t)
			p.stop(t)
			p = w.mustStart(t)
		}
	}
	p.flush(t)
	p.jobs(t)
	for i := range int32(2) {
		if got := values(t, p.partition(t, plain, i), 0, partition.Read{MaxBytes: 500}); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("partition %d: %v", i, got)
		}
	}
	if s := p.e.Background().Compactor().Stats(); s.Cleanings == 0 {
		t.Errorf("%+v", s)
	}
	// Where records are in memory still, a cold start tells what objects hold.
	p.stop(t)
	p = w.mustStart(t)
	got := values(t, p.partition(t, keyed, 0), 0, partition.Read{MaxBytes: 500})
	if len(got) != 1 || got[39] != want[39] {
		t.Errorf("compacted: %v", got)
	}
	if start, err := p.partition(t, plain, 0).DeleteRecords(ctx, 25); err != nil || start != 25 {
		t.Fatal(start, err)
	}
	tomb := write.TrimTomb{Partition: catalog.Partition{Topic: plain.ID}, Before: 25}.Key(p.e.Catalog().ClusterID())
	if all := w.keys("tomb/"); len(all) != 1 || all[0] != tomb {
		t.Errorf("tombs: %v", all)
	}
	p.jobs(t)
	for offset := range want {
		if offset < 25 {
			delete(want, offset)
		}
	}
	if got := values(t, p.partition(t, plain, 0), 25, partition.Read{MaxBytes: 500}); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("after DeleteRecords: %v", got)
	}
	if _, err := p.partition(t, plain, 1).DeleteRecords(ctx, -1); err != nil {
		t.Fatal(err)
	}
	p.jobs(t)
	p.stop(t)
	p = w.mustStart(t)
	// Nothing is left of the partition but its end and its producer.
	if a := appendTo(p.partition(t, plain, 1), partition.Append{Batches: idempotent(7, 0, 39, want[39])}); a.Err != nil || !a.Duplicate || a.Base != 39 {
		t.Errorf("repeated append: %+v", a)
	}
	if a := appendTo(p.partition(t, plain, 1), partition.Append{Batches: idempotent(7, 0, 40, "next")}); a.Err != nil || a.Base != 40 {
		t.Errorf("next append: %+v", a)
	}
	for _, name := range []string{"plain", "keyed"} {
		if err := p.e.Catalog().DeleteTopic(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	p.flush(t)
	deadline := time.Now().Add(10 * time.Second)
	for len(w.keys("data/")) > 0 && time.Now().Before(deadline) {
		p.jobs(t)
	}
	if left := w.keys("data/"); len(left) != 0 {
		t.Errorf("left of deleted topics: %v", left)
	}
	p.stop(t)
}

// A log start whose transaction was applied though its answer was lost holds for
// readers at once: what lies below may be gone at any moment.
func TestLogStartWhoseAnswerWasLost(t *testing.T) {
	w := newWorld()
	w.cfg.Snapshots.Every = -1
	p := w.mustStart(t)
	topic := p.create(t, "events", 1, nil)
	part := p.partition(t, topic, 0)
	for i := range 10 {
		if a := appendTo(part, partition.Append{Batches: plain(fmt.Sprint(i))}); a.Err != nil {
			t.Fatal(a.Err)
		}
	}
	p.flush(t)
	lost := errors.New("lost")
	w.meta.SetFault(func(c metamem.Call) (f metamem.Fault) {
		if c.Txn != nil && len(c.Txn.Then) == 1 && strings.Contains(c.Txn.Then[0].Key, "/parts/") {
			f.After = lost
		}
		return f
	})
	if _, err := part.DeleteRecords(context.Background(), 7); !errors.Is(err, lost) {
		t.Fatal(err)
	}
	w.meta.SetFault(nil)
	deadline := time.Now().Add(10 * time.Second)
	for {
		// Never may the catalog be ahead of what readers are told.
		known := p.e.Catalog().Record(catalog.Partition{Topic: topic.ID}).LogStart
		start, _, _ := part.Offsets()
		if start < known {
			t.Fatalf("readers are told %d, the catalog has %d", start, known)
		}
		if start == 7 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the log start is %d", start)
		}
	}
	if _, err := part.Read(context.Background(), partition.Read{Offset: 6, MaxBytes: 100, CurrentLeaderEpoch: -1}); !errors.Is(err, partition.ErrOffsetOutOfRange) {
		t.Errorf("read below the log start: %v", err)
	}
	p.stop(t)
}
