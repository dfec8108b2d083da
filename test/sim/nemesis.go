package sim

import (
	"math/rand/v2"
	"time"
)

// harass does to the world what the plan allows, until the time for faults is
// over.
func (w *world) harass() {
	r := w.dice.about("nemesis")
	var acts []func(*rand.Rand, *node)
	add := func(on bool, act func(*rand.Rand, *node)) {
		if on {
			acts = append(acts, act)
		}
	}
	p := &w.plan
	add(p.kills, func(r *rand.Rand, n *node) { w.die(r, n, false) })
	add(p.cuts, func(r *rand.Rand, n *node) { w.die(r, n, true) })
	add(p.armed, func(r *rand.Rand, n *node) {
		if proc := n.process(); proc != nil {
			proc.mu.Lock()
			proc.killAt, proc.after = proc.steps+1+r.IntN(40), chance(r, 0.5)
			proc.mu.Unlock()
		}
	})
	add(p.stops, func(r *rand.Rand, n *node) {
		if proc := n.process(); proc != nil {
			proc.stop()
		}
	})
	add(p.pauses, func(r *rand.Rand, n *node) {
		if proc := n.process(); proc != nil {
			d := tail(r, 50*time.Millisecond, 30*time.Second)
			w.hist.add("%s is paused for %s", proc.name, d)
			proc.pause(d)
		}
	})
	add(p.zombies, w.haunt)
	add(p.splits, func(r *rand.Rand, n *node) {
		if proc := n.process(); proc != nil {
			d, what := tail(r, 100*time.Millisecond, 25*time.Second), 1+r.IntN(3)
			w.hist.add("%s reaches %s for %s", proc.name, []string{"", "no metadata", "no objects", "nothing"}[what], d)
			until := time.Now().Add(d).UnixNano()
			if what&1 != 0 {
				proc.noMeta.Store(until)
			}
			if what&2 != 0 {
				proc.noBlobs.Store(until)
			}
		}
	})
	add(p.diskFaults, func(r *rand.Rand, _ *node) {
		w.spell(r, "disk", diskSpell, func(now *weather, calm weather) { now.disk = calm.disk })
	})
	add(p.blobFaults, func(r *rand.Rand, _ *node) {
		w.spell(r, "object store", blobSpell, func(now *weather, calm weather) { now.blobs, now.list = calm.blobs, calm.list })
	})
	add(p.metaFaults, func(r *rand.Rand, _ *node) {
		w.spell(r, "metadata", metaSpell, func(now *weather, calm weather) { now.meta, now.lag, now.deaf = calm.meta, calm.lag, calm.deaf })
	})
	add(p.metaFaults, func(*rand.Rand, *node) {
		w.hist.add("metadata is compacted")
		w.meta.Compact()
	})
	for len(acts) > 0 && !w.over() {
		time.Sleep(between(r, 50*time.Millisecond, w.plan.nemesis))
		if w.over() {
			return
		}
		acts[r.IntN(len(acts))](r, w.nodes[r.IntN(len(w.nodes))])
	}
}

// die kills a node's process; with cut, the machine's memory is lost, too.
func (w *world) die(r *rand.Rand, n *node, cut bool) {
	p := n.process()
	if p == nil {
		return
	}
	p.kill("by the nemesis")
	if cut {
		w.cut(r, n, p)
	}
}

// cut loses what the disk of a dead process had not synced.
func (w *world) cut(r *rand.Rand, n *node, p *process) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n.proc == p {
		w.hist.add("%s: the power is cut", p.name)
		n.files = n.files.Crash(r)
	}
}

// haunt starts a second process for a node on a copy of its disk, as when a volume
// is taken from a machine that is only believed to be dead. The old one goes on;
// nobody hears it, and nothing it does may have an effect.
func (w *world) haunt(r *rand.Rand, n *node) {
	p := n.process()
	if p == nil || p.open() == nil {
		return
	}
	p.mu.Lock()
	again := p.zombie
	p.zombie = true
	p.mu.Unlock()
	if again {
		return
	}
	w.hist.add("%s is taken for dead", p.name)
	if chance(r, 0.5) {
		p.pause(tail(r, 100*time.Millisecond, 20*time.Second))
	}
	w.mu.Lock()
	if n.proc == p {
		n.files, n.proc = n.files.Crash(r), nil
	}
	w.mu.Unlock()
	close(p.replaced)
	lives := between(r, 0, 20*time.Second)
	w.pending.Go(func() {
		select {
		case <-p.done:
		case <-time.After(lives):
			p.kill("at last")
			<-p.done
		}
	})
}

// spell makes the weather bad for a while.
func (w *world) spell(r *rand.Rand, what string, cast func(*rand.Rand, *weather), mend func(now *weather, calm weather)) {
	d := tail(r, 100*time.Millisecond, 15*time.Second)
	w.sky.change(func(now *weather) { cast(r, now) })
	w.hist.add("bad weather for the %s, %s: %+v", what, d, w.sky.get())
	w.pending.Go(func() {
		time.Sleep(d)
		w.sky.change(func(now *weather) { mend(now, calm()) })
		w.hist.add("good weather for the %s", what)
	})
}

func some(r *rand.Rand, max float64) float64 {
	if r.IntN(2) == 0 {
		return 0
	}
	return r.Float64() * max
}

func storm(r *rand.Rand, slow time.Duration) remote {
	if r.IntN(6) == 0 {
		return remote{slow: slow, refuse: 1} // an outage
	}
	return remote{
		slow: tail(r, 10*time.Millisecond, slow), refuse: some(r, 0.7), lose: some(r, 0.3), unknown: some(r, 0.4), late: some(r, 0.3), repeat: some(r, 0.5),
	}
}

func blobSpell(r *rand.Rand, now *weather) {
	now.blobs = storm(r, 5*time.Second)
	now.list = tail(r, 0, 20*time.Second)
}

func metaSpell(r *rand.Rand, now *weather) {
	now.meta = storm(r, 2*time.Second)
	now.lag = tail(r, time.Millisecond, 3*time.Second)
	now.deaf = some(r, 0.3)
}

func diskSpell(r *rand.Rand, now *weather) {
	now.disk.slow = tail(r, 10*time.Millisecond, 2*time.Second)
	now.disk.full = r.IntN(3) == 0
	now.disk.torn = r.IntN(3) == 0
}

// supervise keeps a process on the node, as an init system does, and says whether
// one that ended had a right to.
func (w *world) supervise(n *node) {
	r := w.dice.about("supervisor")
	for {
		p := n.process()
		if p == nil {
			if w.stopped() {
				return
			}
			killAt := 0
			if w.plan.armed && !w.over() && r.IntN(3) == 0 {
				killAt = 1 + r.IntN(60)
			}
			p = n.start(killAt, chance(r, 0.5))
		}
		select {
		case <-p.done:
		case <-p.replaced:
			continue // it is somebody else's now
		case <-w.end:
			return
		}
		p.mu.RLock()
		dead, zombie := p.dead, p.zombie
		p.mu.RUnlock()
		if p.err != nil && !dead && !zombie && !w.excused(p) {
			w.hist.violate("liveness: %s ended by itself: %v", p.name, p.err)
		}
		w.mu.Lock()
		if n.proc == p {
			n.proc = nil
			if dead || p.err != nil {
				// It may have been the machine, or only the process.
				if r.IntN(3) == 0 {
					n.files = n.files.Crash(r)
				}
			}
		}
		w.mu.Unlock()
		if w.late() {
			w.hist.violate("liveness: %s ends when nothing is wrong: %v", p.name, p.err)
			return
		}
		time.Sleep(tail(r, time.Millisecond, 4*time.Second))
	}
}
