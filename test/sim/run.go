package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/disk/diskmem"
	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/broker"
	"github.com/looptape/looptape/internal/broker/store/catalog"
)

// settle is how long clients may take to finish once nothing goes wrong any more.
const settle = 3 * time.Minute

// over says that clients begin nothing new.
func (w *world) over() bool { return !time.Now().Before(w.until) || w.hist.violated() }

// late says that what had to happen should have happened by now.
func (w *world) late() bool { return time.Now().UnixNano()-w.since.Load() > int64(settle) }

// phase begins a part of the end.
func (w *world) phase(name string) {
	w.since.Store(time.Now().UnixNano())
	w.hist.add("%s", name)
}

func (w *world) stopped() bool {
	select {
	case <-w.end:
		return true
	default:
		return false
	}
}

// excused says whether a process may end for that reason.
func (w *world) excused(p *process) bool {
	if errors.Is(p.err, errFull) || errors.Is(p.err, errSync) || errors.Is(p.err, errDead) {
		return true
	}
	if w.plan.cluster && w.fences.lost(p) {
		return true // whatever it found out first
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.opened {
		// A stop that can't reach the stores in time says so.
		return p.stopping
	}
	for _, e := range []error{catalog.ErrTaken, meta.ErrNoLease, errRefused, blob.ErrUnknown, meta.ErrUnknown, context.Canceled} {
		if errors.Is(p.err, e) {
			return true
		}
	}
	return false
}

// run lives through a seed: a time with faults, a time without, and the end, at
// which everything is held against the model.
func (w *world) run() {
	var keepers, clients sync.WaitGroup
	for i, n := range w.nodes {
		keepers.Go(func() { time.Sleep(time.Duration(i) * 137 * time.Microsecond); w.supervise(n) })
	}
	w.first()
	r := w.dice.about("beginnings")
	begin := func(client func()) {
		// Not two at one moment: their order would be the scheduler's.
		d := between(r, 0, 50*time.Millisecond)
		clients.Go(func() { time.Sleep(d); client() })
	}
	for i := range w.plan.streams {
		begin(func() { w.stream(i) })
	}
	for i := range w.plan.plain {
		begin(func() { w.plainly(i) })
	}
	for i := range w.plan.txns {
		begin(func() { w.transact(i) })
	}
	for i := range w.plan.readers {
		begin(func() { w.consume(i) })
	}
	if w.plan.admin {
		begin(w.administer)
	}
	begin(w.harass)
	time.Sleep(time.Until(w.until))
	w.sky.clear()
	for _, n := range w.nodes {
		if p := n.process(); p != nil {
			p.mu.Lock()
			p.killAt = 0
			p.mu.Unlock()
		}
	}
	for _, n := range w.nodes {
		if p := n.process(); p != nil {
			p.noMeta.Store(0)
			p.noBlobs.Store(0)
		}
	}
	w.hist.add("no more faults")
	clients.Wait()
	w.hist.add("the clients have finished")
	w.verify()
	close(w.end)
	for _, n := range w.nodes {
		w.stop(n)
	}
	keepers.Wait()
	w.pending.Wait()
	w.meta.Close()
}

// first makes the topic everything starts with.
func (w *world) first() {
	r := w.dice.about("first topic")
	for {
		if p, store := w.any(); store != nil && p.wait() == nil {
			ctx, cancel := bounded(p, 10*time.Second)
			err := w.create(ctx, store.Catalog(), names[0], drawConfig(r))
			cancel()
			if err == nil {
				return
			}
			// It may be there although nobody said so.
			if w.lookUp(); len(w.model.living()) > 0 {
				return
			}
			w.hist.add("first topic: %s", brief(err))
		}
		if w.late() {
			w.hist.violate("liveness: no topic can be made %s after the last fault", settle)
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// stop ends the node's process cleanly and for good.
func (w *world) stop(n *node) {
	p := n.process()
	if p == nil {
		return
	}
	w.hist.add("%s is asked to stop", p.name)
	p.cancel()
	<-p.done
	if p.err != nil && w.openedWell(p) && !w.fences.lost(p) {
		w.hist.violate("I12: clean stop of %s: %v", p.name, p.err)
	}
}

func (w *world) openedWell(p *process) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.opened && !p.dead
}

// available waits for a store that can be reached.
func (w *world) available() (*process, *broker.Store) {
	for !w.hist.violated() {
		if p, store := w.any(); store != nil && p.wait() == nil {
			return p, store
		}
		if w.late() {
			w.hist.violate("liveness: no broker is open %s after the last fault", settle)
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, nil
}

// verify is the end of a seed.
func (w *world) verify() {
	r := w.dice.about("end")
	if _, store := w.available(); store == nil {
		return
	}
	w.lookUp()
	w.readBack("as it stands", 1<<20)
	if !w.flush() {
		return
	}
	w.readBack("flushed", 700)
	for round := range 1 + r.IntN(2) {
		all := r.IntN(2) == 0
		for i, n := range w.nodes {
			if all || i == r.IntN(len(w.nodes)) {
				w.restart(r, n)
			}
		}
		if _, store := w.available(); store == nil {
			return
		}
		w.readBack(fmt.Sprintf("restart %d", round+1), []int{1, 900, 1 << 20}[r.IntN(3)])
	}
	if w.hist.violated() || !w.flush() {
		return
	}
	w.tidy()
	w.readBack("swept", 1<<20)
}

// restart ends the process, one way or the other, and waits for the next. All that
// was ever acknowledged is in objects now, so the disk may be a new one, too.
func (w *world) restart(r *rand.Rand, n *node) {
	p := n.process()
	if p == nil {
		return // it is between two lives
	}
	how := r.IntN(3)
	w.phase(p.name + " ends for the " + []string{"kill", "power cut", "new disk"}[how])
	switch how {
	case 0:
		p.kill("at the end")
	case 1:
		p.kill("at the end")
		w.cut(r, n, p)
	case 2:
		p.cancel()
		<-p.done
		if p.err == nil {
			w.mu.Lock()
			n.files = diskmem.New(512)
			w.mu.Unlock()
		}
	}
	<-p.done
	for n.process() == p {
		time.Sleep(time.Millisecond)
	}
}

// flush waits until everything is in objects.
func (w *world) flush() bool {
	w.phase("flush")
	for {
		if _, store := w.available(); store == nil {
			return false
		}
		var left int64
		for _, n := range w.nodes {
			if _, store := n.reach(); store != nil {
				left += store.Partitions().Usage().Unflushed
				store.Partitions().Seal()
			}
		}
		if left == 0 {
			return true
		}
		if w.late() {
			w.hist.violate("liveness: %d bytes are not flushed %s after the last fault", left, settle)
			return false
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// readBack reads every partition of every topic that there must be.
func (w *world) readBack(when string, size int) {
	w.phase("read back: " + when)
	for _, t := range w.model.living() {
		for _, p := range t.parts {
			for _, committed := range []bool{false, true} {
				if w.hist.violated() {
					return
				}
				got, start, ok := w.readAll(p, size, committed)
				if ok && !committed {
					w.model.complete(p, got, start)
				}
			}
		}
	}
}

// result is what came of a seed.
type result struct {
	seed       uint64
	hash       string
	plan       string
	events     int
	acked      int
	lives      int
	virtual    time.Duration
	violations []string
	tail       []string
}

// simulate runs a seed. It must be called in a synctest bubble.
func simulate(seed uint64, all bool) result {
	hist := newHistory(all)
	w := newWorld(seed, hist)
	w.hist.add("seed %d: %+v", seed, w.plan)
	plan := hist.hash()
	w.run()
	res := result{seed: seed, hash: hist.hash(), plan: plan, events: hist.count, virtual: time.Since(hist.began), violations: hist.broken, tail: hist.tail()}
	for _, s := range w.model.sents {
		if s.acked {
			res.acked++
		}
	}
	for _, n := range w.nodes {
		res.lives += n.lives
	}
	return res
}
