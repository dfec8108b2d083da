package broker

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/broker/partition"
)

// model is what must be true of one partition: acked records at their offsets,
// and one batch whose fate is not known.
type model struct {
	records map[int64]string
	next    int64 // above every acked offset
	start   int64
	seq     int32 // next sequence of the producer
	unknown []string
	unkSeq  int32
}

// check compares a partition with the model. What is unknown may be there, once,
// right after the acked records.
func (m *model) check(part *partition.Partition, size int) error {
	start, high, stable := part.Offsets()
	if start != m.start || stable != high {
		return fmt.Errorf("log start %d, high watermark %d, stable %d; want start %d", start, high, stable, m.start)
	}
	got, err := readValues(part, start, partition.Read{MaxBytes: size})
	if err != nil {
		return err
	}
	// A read may begin inside of a batch: the batch comes whole.
	maps.DeleteFunc(got, func(o int64, _ string) bool { return o < start })
	want := maps.Clone(m.records)
	maps.DeleteFunc(want, func(o int64, _ string) bool { return o < start })
	if high != m.next && len(m.unknown) > 0 {
		for i, v := range m.unknown {
			want[m.next+int64(i)] = v
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		return fmt.Errorf("%d bytes at a time, start %d, high %d: %s", size, start, high, diff)
	}
	return nil
}

// TestDieAtEveryCall runs one history again and again and kills the process before
// and after each of its remote calls, and at each of its disk calls: what was
// acknowledged is there afterwards, once, and the next life works.
func TestDieAtEveryCall(t *testing.T) {
	type how struct {
		name   string
		killAt int
		after  bool
		stopAt int
	}
	// history returns false when it got through.
	history := func(h how) (died bool) {
		w := newWorld()
		w.cfg.Partitions.RetainBytes = -1
		m := &model{records: map[int64]string{}}
		p0 := w.mustStart(t)
		topic := p0.create(t, "events", 2, map[string]string{"retention.ms": "-1"})
		p0.stop(t)
		if h.stopAt > 0 {
			w.files.StopAt(h.stopAt)
		}
		p, err := w.start(h.killAt, h.after)
		if err != nil {
			died = true
		} else {
			for i := range 40 {
				part, err := p.e.Partitions().Get(partition.ID{Topic: topic.ID})
				if err != nil {
					died = true
					break
				}
				v := fmt.Sprintf("%d-%s", i, strings.Repeat("w", 200))
				out := appendTo(part, partition.Append{Batches: idempotent(1, 0, m.seq, v)})
				if out.Err != nil {
					m.unknown, m.unkSeq, died = []string{v}, m.seq, true
					break
				}
				m.records[m.next] = v
				m.next, m.seq = m.next+1, m.seq+1
				if i == 30 {
					if start, err := part.DeleteRecords(context.Background(), 20); err == nil {
						m.start = start
					} else {
						died = true
						break
					}
				}
			}
			if !died {
				p.cancel() // a clean stop, if it gets that far
				<-p.done
				died = p.err != nil
			} else {
				p.kill(t, nil)
			}
		}
		w.files = w.files.Crash(rand.New(rand.NewPCG(uint64(h.killAt+h.stopAt), 7)))
		p = w.mustStart(t)
		part := p.partition(t, topic, 0)
		if start, _, _ := part.Offsets(); start == 20 {
			m.start = 20 // done, though the answer was lost
		}
		if err := m.check(part, 500); err != nil {
			t.Fatalf("%+v: %v", h, err)
		}
		if len(m.unknown) > 0 {
			if out := appendTo(part, partition.Append{Batches: idempotent(1, 0, m.unkSeq, m.unknown...)}); out.Err != nil || out.Base != m.next {
				t.Fatalf("%+v: repeat: %+v, want base %d", h, out, m.next)
			}
			m.records[m.next] = m.unknown[0]
			m.next, m.unknown = m.next+1, nil
		}
		p.flush(t)
		if err := m.check(part, 1<<20); err != nil {
			t.Fatalf("%+v: flushed: %v", h, err)
		}
		if err := p.e.jobs.Sweeper().SweepOrphans(context.Background()); err != nil {
			t.Fatal(err)
		}
		// No object is left that nobody knows.
		visible, _ := p.e.Catalog().Objects()
		stored := 0
		for _, key := range w.blobs.Keys() {
			if strings.HasPrefix(key, "data/") {
				stored++
			}
		}
		if visible != stored {
			t.Fatalf("%+v: %d objects are visible, %d stored", h, visible, stored)
		}
		p.stop(t)
		return died
	}
	for _, h := range []how{{name: "before a call", killAt: 1}, {name: "after a call", killAt: 1, after: true}, {name: "disk", stopAt: 1}} {
		t.Run(h.name, func(t *testing.T) {
			for k := 1; ; k++ {
				if h.stopAt > 0 {
					h.stopAt = k
				} else {
					h.killAt = k
				}
				if !history(h) {
					if k < 10 {
						t.Fatalf("the history has only %d calls", k)
					}
					return
				}
			}
		})
	}
}
