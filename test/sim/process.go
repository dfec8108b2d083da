package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/looptape/looptape/internal/base/disk/diskmem"
	"github.com/looptape/looptape/internal/broker"
)

// errDead is what a killed process gets from everything it calls.
var errDead = errors.New("the process is dead")

// A process is one life of a broker. Everything it calls goes through it, so that
// it can be killed before and after any step, or paused as a whole.
type process struct {
	name   string // "node.life"
	node   *node
	ctx    context.Context
	cancel context.CancelFunc
	died   chan struct{} // closed when it is dead
	// replaced is closed when another process takes its place while it lives.
	replaced chan struct{}
	done     chan struct{} // closed when all of its goroutines have ended
	err      error         // of opening or of Run, when done is closed

	mu     sync.RWMutex  // held for reading while a call takes effect
	dead   bool          // no call takes effect, no answer arrives
	zombie bool          // another process has taken its place; nobody listens to it
	resume chan struct{} // not nil: paused until it is closed
	store  *broker.Store // when it is open
	opened bool
	// stopping: it was asked to end cleanly.
	stopping bool
	steps    int
	killAt   int  // the step at which it dies, 0 never
	after    bool // it dies after the step took effect

	noMeta, noBlobs atomic.Int64 // until then it can't reach them, ns

	lockMu sync.Mutex
	locks  []io.Closer // of files; they go with the process
}

// start begins a new life on the node's disk.
func (n *node) start(killAt int, after bool) *process {
	n.lives++
	p := &process{
		name: fmt.Sprintf("%d.%d", n.id, n.lives), node: n, killAt: killAt, after: after,
		died: make(chan struct{}), replaced: make(chan struct{}), done: make(chan struct{}),
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	n.w.setProcess(n, p)
	n.w.hist.add("%s starts", p.name)
	files := n.files
	go func() {
		defer close(p.done)
		defer p.cancel()
		p.err = n.w.serve(p, files)
		p.unlock()
	}()
	return p
}

// serve opens the store and runs it until the process ends.
func (w *world) serve(p *process, files *diskmem.FS) error {
	cfg := w.plan.store
	cfg.Slots.Rand = func() float64 { return w.dice.about(p.name + " slots").Float64() }
	cfg.Flush.Rand = func() float64 { return w.dice.about(p.name + " flush").Float64() }
	store, err := broker.OpenStore(p.ctx, w.parts(p, files), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		w.hist.add("%s did not open: %v", p.name, brief(err))
		return err
	}
	p.mu.Lock()
	p.store, p.opened = store, true
	p.mu.Unlock()
	w.hist.add("%s is open", p.name)
	err = store.Run(p.ctx)
	p.mu.Lock()
	p.store = nil
	p.mu.Unlock()
	w.hist.add("%s ended: %v", p.name, brief(err))
	return err
}

// brief keeps histories readable, and free of stacks.
func brief(err error) string {
	if err == nil {
		return "well"
	}
	s := err.Error()
	if len(s) > 300 {
		s = s[:300] + "..."
	}
	return s
}

// wait blocks while the process is paused. An error: it is dead.
func (p *process) wait() error {
	for {
		p.mu.RLock()
		dead, resume := p.dead, p.resume
		p.mu.RUnlock()
		if dead {
			return errDead
		}
		if resume == nil {
			return nil
		}
		select {
		case <-resume:
		case <-p.died:
		}
	}
}

// step is one call of the process to the outside: effect happens while the
// process lives, wholly or not at all.
func (p *process) step(effect func() error) error {
	if err := p.wait(); err != nil {
		return err
	}
	p.mu.Lock()
	p.steps++
	now := p.killAt > 0 && p.steps >= p.killAt && !p.dead
	after := p.after
	p.mu.Unlock()
	if now && !after {
		p.kill("at a step")
	}
	p.mu.RLock()
	if p.dead {
		p.mu.RUnlock()
		return errDead
	}
	err := effect()
	p.mu.RUnlock()
	if now && after {
		p.kill("after a step")
		return errDead
	}
	return err
}

// sleep lets virtual time pass for the process.
func (p *process) sleep(ctx context.Context, d time.Duration) error {
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			if err := p.wait(); err != nil {
				return err // both ended: say the same each time
			}
			return ctx.Err()
		case <-p.died:
			return errDead
		}
	}
	return p.wait()
}

// holds is called in an effect, under the lock.
func (p *process) holds(l io.Closer) {
	p.lockMu.Lock()
	defer p.lockMu.Unlock()
	p.locks = append(p.locks, l)
}

func (p *process) unlock() {
	p.lockMu.Lock()
	defer p.lockMu.Unlock()
	for _, l := range p.locks {
		l.Close()
	}
}

// stop asks the process to end cleanly.
func (p *process) stop() {
	p.mu.Lock()
	p.stopping = true
	p.mu.Unlock()
	p.node.w.hist.add("%s is asked to stop", p.name)
	p.cancel()
}

// hears tells whether an answer of the process reaches anybody.
func (p *process) hears() bool {
	if p.wait() != nil {
		return false
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	return !p.dead && !p.zombie
}

func (p *process) pause(d time.Duration) {
	p.mu.Lock()
	if p.dead || p.resume != nil {
		p.mu.Unlock()
		return
	}
	resume := make(chan struct{})
	p.resume = resume
	p.mu.Unlock()
	time.AfterFunc(d, func() {
		p.mu.Lock()
		p.resume = nil
		p.mu.Unlock()
		close(resume)
	})
}

// kill ends the process at once. What it had asked of others may still happen.
func (p *process) kill(why string) {
	p.mu.Lock()
	if p.dead {
		p.mu.Unlock()
		return
	}
	p.dead = true
	p.mu.Unlock()
	p.node.w.hist.add("%s is killed %s", p.name, why)
	close(p.died)
	p.cancel()
}

// open is the process's store, nil when it can't be talked to.
func (p *process) open() *broker.Store {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.dead || p.zombie {
		return nil
	}
	return p.store
}
