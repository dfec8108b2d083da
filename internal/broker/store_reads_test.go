package broker

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/partition"
	"github.com/looptape/looptape/internal/broker/store/write"
)

// merging is a world whose objects merge early and whose inputs go at once.
func merging() *world {
	w := newWorld()
	w.cfg.Snapshots.Every = -1 // it would lengthen the grace
	w.cfg.Partitions.RetainBytes = -1
	w.cfg.Background = write.BackgroundConfig{
		Merge:          write.MergeConfig{FanIn: 2, MiddleBytes: 8 << 10, LargeBytes: 32 << 10, LeaveBytes: 1 << 10},
		BytesPerSecond: -1,
	}
	return w
}

// P9: a transaction over five flushes, aborted in the last, is still known as
// such when its objects were merged, to a reader that starts cold and anywhere.
func TestAbortedTransactionAcrossMergedObjects(t *testing.T) {
	w := merging()
	p := w.mustStart(t)
	topic := p.create(t, "events", 2, map[string]string{"retention.ms": "-1"})
	want := map[int64]string{}
	for i := range int32(5) {
		part := p.partition(t, topic, 0)
		h := batch.Header{LeaderEpoch: -1, Attributes: batch.Transactional, ProducerID: 1, Sequence: i}
		for _, a := range []partition.Append{{Batches: build(h, "aborted"), Verified: true}, {Batches: plain(strings.Repeat("p", 200))}} {
			if out := appendTo(part, a); out.Err != nil {
				t.Fatal(out.Err)
			}
		}
		want[int64(2*i)+1] = strings.Repeat("p", 200)
		appendTo(p.partition(t, topic, 1), partition.Append{Batches: plain("beside")})
		if i == 4 {
			if out := appendTo(part, partition.Append{Batches: batch.BuildMarker(1, 0, false, 3, 1000), Internal: true}); out.Err != nil {
				t.Fatal(out.Err)
			}
		}
		p.flush(t)
	}
	before, _ := p.e.Catalog().Objects()
	for round := range 4 {
		part := p.partition(t, topic, 0)
		for from := range int64(11) {
			left := map[int64]string{}
			for o, v := range want {
				if o >= from {
					left[o] = v
				}
			}
			if diff := cmp.Diff(left, values(t, part, from, partition.Read{MaxBytes: 1, ReadCommitted: true})); diff != "" {
				t.Errorf("round %d, from %d: %s", round, from, diff)
			}
		}
		p.jobs(t)
		p.kill(t, nil)
		p = w.mustStart(t) // nothing is in memory
	}
	if after, _ := p.e.Catalog().Objects(); after >= before {
		t.Errorf("%d objects after merging %d", after, before)
	}
	p.stop(t)
}

// Trap 13: while objects are merged and their inputs deleted under them, readers
// get every record, and never nothing where there is something.
func TestTrap13ReadersAndMerges(t *testing.T) {
	w := merging()
	p := w.mustStart(t)
	topic := p.create(t, "events", 2, map[string]string{"retention.ms": "-1"})
	var written atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range int32(2) {
		for range 2 {
			wg.Go(func() {
				part := p.partition(t, topic, i)
				for {
					select {
					case <-stop:
						return
					default:
					}
					n := written.Load()
					got, err := readValues(part, 0, partition.Read{MaxBytes: 700})
					if err != nil {
						t.Error(err)
						return
					}
					for o := range n {
						if !strings.HasPrefix(got[o], fmt.Sprint(o, " ")) {
							t.Errorf("partition %d: offset %d of %d is %q", i, o, n, got[o])
							return
						}
					}
				}
			})
		}
	}
	for n := range int64(120) {
		for i := range int32(2) {
			if out := appendTo(p.partition(t, topic, i), partition.Append{Batches: plain(fmt.Sprint(n, " ", strings.Repeat("x", 100)))}); out.Err != nil {
				t.Fatal(out.Err)
			}
		}
		written.Store(n + 1)
		if n%3 == 2 {
			p.flush(t)
		}
		if n%6 == 5 {
			for _, round := range []func(context.Context) error{p.e.Background().Merge, p.e.Background().Sweep} {
				if err := round(context.Background()); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	close(stop)
	wg.Wait()
	if s := p.e.Background().Merger().Stats(); s.Outputs == 0 {
		t.Errorf("nothing was merged: %+v", s)
	}
	p.stop(t)
}
