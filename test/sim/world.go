package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/looptape/looptape/internal/base/blob/blobmem"
	"github.com/looptape/looptape/internal/base/disk/diskmem"
	"github.com/looptape/looptape/internal/base/meta/metamem"
	"github.com/looptape/looptape/internal/broker"
	"github.com/looptape/looptape/internal/broker/partition"
	"github.com/looptape/looptape/internal/broker/store/catalog"
)

// world is what outlives the processes, and everything that happens to them.
type world struct {
	seed   uint64
	plan   plan
	hist   *history
	dice   *dice
	sky    sky
	blobs  *blobmem.Store
	meta   *metamem.Store
	model  *model
	fences *fences
	nodes  []*node

	until time.Time     // faults end and clients finish
	since atomic.Int64  // when the time to settle began, ns
	end   chan struct{} // closed when nothing is started any more

	mu      sync.Mutex // guards each node's proc and files
	pending sync.WaitGroup
}

// A node is a machine with a disk.
type node struct {
	w     *world
	id    int32
	lives int
	proc  *process // the one that clients reach
	files *diskmem.FS
}

func newWorld(seed uint64, hist *history) *world {
	w := &world{
		seed: seed, plan: drawPlan(rand.New(rand.NewPCG(seed, 1))), hist: hist, dice: newDice(seed),
		blobs: blobmem.New(), meta: metamem.New(), end: make(chan struct{}), model: &model{hist: hist},
	}
	w.fences = newFences(w)
	w.sky.now = calm()
	w.until = time.Now().Add(w.plan.length)
	w.since.Store(w.until.UnixNano())
	for i := range w.plan.nodes {
		w.nodes = append(w.nodes, &node{w: w, id: i, files: diskmem.New(512)})
	}
	return w
}

func (w *world) parts(p *process, disk *diskmem.FS) broker.Parts {
	began := w.hist.began
	parts := broker.Parts{
		Files: files{disk, p}, Dir: "/wal", Blobs: blobs{w.blobs, p}, Meta: metadata{w.meta, p}, Broker: p.node.id,
		Cluster: w.plan.cluster, Unconditional: w.plan.unconditional, Address: fmt.Sprintf("node-%d:9092", p.node.id),
		Clock: func() time.Duration { return time.Since(began) },
	}
	if w.plan.cluster {
		parts.WAL = "object"
	}
	return parts
}

func (w *world) setProcess(n *node, p *process) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n.proc = p
}

// process is the one that clients of the node reach; it may be dead.
func (n *node) process() *process {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	return n.proc
}

// later lets something happen after a while, whatever becomes of who asked for it.
func (w *world) later(d time.Duration, effect func() error) {
	w.pending.Go(func() {
		time.Sleep(d)
		effect()
	})
}

// leader is the store that leads a partition, with its process, as a client finds
// it: it asks any broker, and sometimes what it knows is old. nil while nobody can
// be reached.
func (w *world) leader(id partition.ID) (*process, *broker.Store) {
	if len(w.nodes) == 1 {
		return w.nodes[0].reach()
	}
	r := w.dice.about("route of " + id.String())
	first, old := r.IntN(len(w.nodes)), chance(r, 0.15) && !w.over()
	for i := range w.nodes {
		p, store := w.nodes[(first+i)%len(w.nodes)].reach()
		if store == nil {
			continue
		}
		if id == (partition.ID{}) || old {
			return p, store
		}
		leader, _, ok := store.Catalog().Leader(catalog.Partition{Topic: id.Topic, Index: id.Index})
		if !ok || int(leader) >= len(w.nodes) {
			continue
		}
		if p, store := w.nodes[leader].reach(); store != nil {
			return p, store
		}
	}
	return nil, nil
}

func (n *node) reach() (*process, *broker.Store) {
	p := n.process()
	if p == nil {
		return nil, nil
	}
	return p, p.open()
}

// any is a store that can be reached.
func (w *world) any() (*process, *broker.Store) { return w.leader(partition.ID{}) }

// bounded ends with the process or after d.
func bounded(p *process, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	stop := context.AfterFunc(p.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// opinions is what each broker says about a partition.
func (w *world) opinions(p *part) string {
	var all []string
	for _, n := range w.nodes {
		proc, store := n.reach()
		if store == nil {
			all = append(all, fmt.Sprintf("%d can't be reached", n.id))
			continue
		}
		leader, epoch, serves := store.Catalog().Leader(catalog.Partition{Topic: p.id.Topic, Index: p.id.Index})
		_, err := store.Partitions().Get(p.id)
		all = append(all, fmt.Sprintf("%s: %d leads in epoch %d (%t), serving %t, own partition: %v", proc.name, leader, epoch, serves, store.Serving(), err))
	}
	return strings.Join(all, "; ")
}
