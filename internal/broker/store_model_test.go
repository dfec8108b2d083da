package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/blob/blobmem"
	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/meta/metamem"
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

// TestModel runs random histories of appends, flushes, deletions, faults, crashes
// and restarts against the model.
func TestModel(t *testing.T) {
	const partitions = 3
	ctx := context.Background()
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld()
		p := w.mustStart(t)
		topic := p.create(t, "events", partitions, map[string]string{"retention.ms": "-1"})
		models := make([]*model, partitions)
		for i := range models {
			models[i] = &model{records: map[int64]string{}}
		}
		serial := 0
		part := func(i int) *partition.Partition { return w.proc.partition(t, topic, int32(i)) }
		pick := func() int { return rapid.IntRange(0, partitions-1).Draw(rt, "partition") }
		settle := func(i int) {
			m := models[i]
			if len(m.unknown) == 0 {
				return
			}
			// The client does what an idempotent producer does: it sends the batch again.
			out := appendTo(part(i), partition.Append{Batches: idempotent(int64(i), 0, m.unkSeq, m.unknown...)})
			if out.Err != nil || out.Base != m.next {
				rt.Fatalf("partition %d: repeat of sequence %d: %+v, want base %d", i, m.unkSeq, out, m.next)
			}
			for k, v := range m.unknown {
				m.records[m.next+int64(k)] = v
			}
			m.next, m.seq = m.next+int64(len(m.unknown)), m.unkSeq+int32(len(m.unknown))
			m.unknown = nil
		}
		restart := func(kill func()) {
			kill()
			w.blobs.SetFault(nil)
			w.meta.SetFault(nil)
			for try := 0; ; try++ {
				killAt := 0
				if try < 2 {
					killAt = rapid.IntRange(0, 30).Draw(rt, "dies while opening at")
				}
				if _, err := w.start(killAt, rapid.Bool().Draw(rt, "after")); err == nil {
					break
				} else if !errors.Is(err, errDead) {
					rt.Fatalf("open: %v", err)
				}
				w.files = w.files.Crash(nil)
			}
			// It may still die in what follows; then there is nobody to ask.
			w.proc.mu.Lock()
			w.proc.killAt = 0
			dead := w.proc.dead
			w.proc.mu.Unlock()
			if dead {
				w.proc.kill(t, nil)
				w.mustStart(t)
			}
		}
		defer func() {
			w.blobs.SetFault(nil)
			w.meta.SetFault(nil)
			w.proc.kill(t, nil)
		}()
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(rt *rapid.T) {
				i := pick()
				settle(i)
				m := models[i]
				var vs []string
				for range rapid.IntRange(1, 4).Draw(rt, "records") {
					serial++
					vs = append(vs, fmt.Sprintf("%d-%s", serial, strings.Repeat("v", rapid.IntRange(0, 600).Draw(rt, "bytes"))))
				}
				out := appendTo(part(i), partition.Append{Batches: idempotent(int64(i), 0, m.seq, vs...)})
				if out.Err != nil || out.Duplicate || out.Base != m.next {
					rt.Fatalf("partition %d: append: %+v, want base %d", i, out, m.next)
				}
				for k, v := range vs {
					m.records[m.next+int64(k)] = v
				}
				m.next, m.seq = m.next+int64(len(vs)), m.seq+int32(len(vs))
			},
			"burst": func(rt *rapid.T) {
				for range rapid.IntRange(1, 20).Draw(rt, "appends") {
					i := pick()
					settle(i)
					m := models[i]
					serial++
					v := fmt.Sprintf("%d-%s", serial, strings.Repeat("b", 150))
					if out := appendTo(part(i), partition.Append{Batches: idempotent(int64(i), 0, m.seq, v)}); out.Err != nil || out.Base != m.next {
						rt.Fatalf("partition %d: %+v", i, out)
					}
					m.records[m.next] = v
					m.next, m.seq = m.next+1, m.seq+1
				}
			},
			"seal":  func(*rapid.T) { w.proc.e.Partitions().Seal() },
			"flush": func(*rapid.T) { w.blobs.SetFault(nil); w.meta.SetFault(nil); w.proc.flush(t) },
			"faults": func(rt *rapid.T) {
				seed := rapid.Uint64().Draw(rt, "seed")
				r, m := rand.New(rand.NewPCG(seed, 0)), rand.New(rand.NewPCG(seed, 1))
				w.blobs.SetFault(func(c blobmem.Call) (f blobmem.Fault) {
					if c.Method == "Put" && r.IntN(3) == 0 {
						f.After = blob.ErrUnknown
					} else if c.Method == "Put" && r.IntN(3) == 0 {
						f.Before = errors.New("503")
					}
					return f
				})
				w.meta.SetFault(func(c metamem.Call) (f metamem.Fault) {
					if c.Method == "Txn" && m.IntN(3) == 0 {
						f.After = meta.ErrUnknown
					}
					return f
				})
			},
			"delete records": func(rt *rapid.T) {
				i := pick()
				settle(i)
				m := models[i]
				before := rapid.Int64Range(0, m.next).Draw(rt, "before")
				start, err := part(i).DeleteRecords(ctx, before)
				if m.start = max(m.start, before); err != nil || start != m.start {
					rt.Fatalf("delete records: %d, %v; want %d", start, err, m.start)
				}
			},
			"sweep": func(rt *rapid.T) {
				w.blobs.SetFault(nil)
				w.meta.SetFault(nil)
				if err := errors.Join(w.proc.e.jobs.Sweeper().Round(ctx), w.proc.e.jobs.Sweeper().SweepOrphans(ctx)); err != nil {
					rt.Fatal(err)
				}
			},
			"stop": func(rt *rapid.T) {
				w.blobs.SetFault(nil)
				w.meta.SetFault(nil)
				restart(func() { w.proc.stop(t) })
			},
			"power cut": func(rt *rapid.T) {
				r := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))
				// One append of each partition is under way when it happens.
				out := make([]chan partition.Appended, partitions)
				for i, m := range models {
					settle(i)
					serial++
					m.unknown, m.unkSeq = []string{fmt.Sprintf("%d-unknown", serial)}, m.seq
					out[i] = make(chan partition.Appended, 1)
					part(i).Append(ctx, partition.Append{
						Batches: idempotent(int64(i), 0, m.seq, m.unknown...),
						Done:    func(a partition.Appended) { out[i] <- a },
					})
				}
				restart(func() { w.proc.kill(t, r) })
				for i, m := range models {
					// The answer counts only if it came from the disk that was left,
					// which a power cut in the same instant can't tell; a late ack of
					// the dead process reached nobody.
					select {
					case <-out[i]:
					default:
					}
					if _, high, _ := part(i).Offsets(); high != m.next && high != m.next+1 {
						rt.Fatalf("partition %d: high watermark %d, acked up to %d", i, high, m.next)
					}
				}
			},
			"": func(rt *rapid.T) {
				size := rapid.SampledFrom([]int{1, 300, 2000, 1 << 20}).Draw(rt, "read size")
				for i, m := range models {
					if err := m.check(part(i), size); err != nil {
						rt.Fatalf("partition %d: %v", i, err)
					}
				}
			},
		})
	})
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
