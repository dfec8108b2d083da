package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/looptape/looptape/internal/broker/partition"
	"github.com/looptape/looptape/internal/broker/store/catalog"
)

// pick is a topic to work with; nil when there is none.
func (w *world) pick(r *rand.Rand) *topic {
	all := w.model.living()
	if len(all) == 0 {
		return nil
	}
	return all[r.IntN(len(all))]
}

func (w *world) size(r *rand.Rand) int {
	if chance(r, 0.05) {
		return 2000
	}
	return r.IntN(250)
}

// sequence takes count sequence numbers of a producer in a partition.
func (w *world) sequence(p *part, pid int64, count int) int32 {
	return w.epochSequence(p, pid, 0, count)
}

func (w *world) epochSequence(p *part, pid int64, epoch int16, count int) int32 {
	w.model.mu.Lock()
	defer w.model.mu.Unlock()
	next := int32(0)
	for i := len(w.model.sents) - 1; i >= 0; i-- {
		if s := w.model.sents[i]; s.part == p && s.pid == pid && s.epoch == epoch {
			next = s.seq + int32(s.count)
			break
		}
	}
	return next
}

// create makes a topic.
func (w *world) create(ctx context.Context, store *catalog.Catalog, name string, config map[string]string) error {
	t, err := store.CreateTopic(ctx, catalog.Topic{Name: name, Partitions: w.plan.partitions, Config: config})
	if err == nil {
		w.hist.add("topic %s is created as %s: %v", name, t.ID, config)
		w.model.addTopic(t)
	}
	return err
}

var names = []string{"a", "b", "c"}

func drawConfig(r *rand.Rand) map[string]string {
	c := map[string]string{"retention.ms": "-1"}
	switch r.IntN(10) {
	case 0:
		c["retention.ms"] = fmt.Sprint(2000 + r.IntN(20_000))
	case 1:
		c["retention.bytes"] = fmt.Sprint(1000 + r.IntN(20_000))
	case 2:
		c["message.timestamp.type"] = "LogAppendTime"
	case 3, 4, 5:
		c["cleanup.policy"] = "compact"
		c["min.cleanable.dirty.ratio"] = []string{"0.01", "0.3", "0.5"}[r.IntN(3)]
		c["delete.retention.ms"] = fmt.Sprint(r.IntN(10_000))
		c["min.compaction.lag.ms"] = fmt.Sprint(r.IntN(2) * r.IntN(5000))
	}
	return c
}

// administer creates, deletes and changes.
func (w *world) administer() {
	r := w.dice.about("admin")
	for !w.over() {
		time.Sleep(between(r, 0, 3*time.Second))
		p, store := w.any()
		if store == nil || p.wait() != nil {
			continue
		}
		ctx, cancel := bounded(p, 10*time.Second)
		switch act := r.IntN(10); act {
		case 0, 1:
			name := names[r.IntN(len(names))]
			err := w.create(ctx, store.Catalog(), name, drawConfig(r))
			if err != nil {
				w.hist.add("create %s: %s", name, brief(err))
				w.lookUp()
			}
		case 2:
			if t := w.pick(r); t != nil {
				w.delete(ctx, store.Catalog(), t)
			}
		case 3, 4, 5:
			if t := w.pick(r); t != nil {
				w.deleteRecords(ctx, r, t.parts[r.IntN(len(t.parts))])
			}
		default:
			store.Partitions().Seal()
		}
		cancel()
	}
}

// lookUp learns of topics whose creation was not answered.
func (w *world) lookUp() {
	if _, store := w.any(); store != nil {
		for _, t := range store.Catalog().Topics() {
			w.model.addTopic(t)
		}
	}
}

func (w *world) delete(ctx context.Context, c *catalog.Catalog, t *topic) {
	w.model.mu.Lock()
	t.deleting = true
	w.model.mu.Unlock()
	w.hist.add("topic %s %s is to be deleted", t.Name, t.ID)
	err := c.DeleteTopicID(ctx, t.ID)
	if err == nil || errors.Is(err, catalog.ErrUnknownTopic) {
		w.model.mu.Lock()
		t.deleted = err == nil
		w.model.mu.Unlock()
		w.hist.add("topic %s %s is deleted", t.Name, t.ID)
	}
}

func (w *world) deleteRecords(ctx context.Context, r *rand.Rand, p *part) {
	proc, store := w.leader(p.id)
	if store == nil {
		return
	}
	at, err := store.Partitions().Get(p.id)
	if err != nil {
		return
	}
	known := w.model.known(p)
	before := r.Int64N(known.high + 1)
	if chance(r, 0.7) {
		before = known.start + r.Int64N(max(1, (known.high-known.start)/4+1))
	}
	w.model.mu.Lock()
	p.asked = max(p.asked, before)
	w.model.mu.Unlock()
	start, err := at.DeleteRecords(ctx, before)
	if !proc.hears() || !store.Serving() {
		return
	}
	switch {
	case err == nil:
		w.hist.add("records of %s below %d are deleted", p.id, before)
		w.model.mu.Lock()
		if start < before {
			w.hist.violate("%s: deleted below %d, log start %d", p.id, before, start)
		}
		p.start = max(p.start, start)
		w.model.mu.Unlock()
	case errors.Is(err, partition.ErrOffsetOutOfRange):
		w.hist.violate("I1: %s: delete below %d: %v; %d was acknowledged", p.id, before, err, known.high)
	}
}
