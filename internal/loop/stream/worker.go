package stream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/looptape/looptape/internal/base/run"
)

// A worker runs the batches of one partition number, from its assignment to its
// revocation. One goroutine owns the task, the handler and the checkpoint; the
// queue is shared with the poller.
type worker struct {
	p       *processor
	part    int32
	task    *Task
	handler Handler
	cp      checkpoint
	target  map[string]int64 // ends at the assignment, until they are reached
	ctx     context.Context  // ends when the batch under way must be given up
	cancel  context.CancelFunc
	group   *run.Group
	done    chan struct{}
	wake    chan struct{} // holds a token when there is something to look at

	throttling sync.Mutex // guards paused; see processor.throttle
	paused     bool       // fetching is paused

	mu       sync.Mutex // guards the rest
	queue    []*kgo.Record
	bytes    int
	crowded  bool // the queue was full and is not yet half empty
	stopping bool
}

// recordOverhead is what a queued record costs beside its bytes.
const recordOverhead = 256

// wallGrace is how far behind the wall the stream time of a task that is caught
// up stays: records appended earlier may still be on their way here.
const wallGrace = 2 * fetchWait

// maxBatchWeight bounds what one batch may write and emit, in bytes: a batch that
// has reached it ends early.
const maxBatchWeight = 16 << 20

func newWorker(p *processor, part int32, cp *checkpoint) *worker {
	w := &worker{
		p: p, part: part, cp: *cp, handler: p.cfg.New(),
		done: make(chan struct{}), wake: make(chan struct{}, 1),
		target: map[string]int64{},
		task:   &Task{store: p.store, part: part, n: p.n, track: p.cfg.Changelog != ""},
	}
	w.task.now = time.Unix(0, cp.Time).UTC()
	w.ctx, w.cancel = context.WithCancel(p.base)
	return w
}

// start runs the worker in a goroutine of its own, which ends with stop.
func (w *worker) start() {
	w.group = run.New(w.ctx)
	w.group.Go(fmt.Sprintf("partition %d", w.part), func(ctx context.Context) error {
		defer close(w.done)
		defer w.cancel()
		if err := w.work(ctx); err != nil && ctx.Err() == nil {
			w.p.fail(fmt.Errorf("partition %d: %w", w.part, err))
		}
		return nil
	})
}

// stop asks the worker to end: after the batch under way, or at once.
func (w *worker) stop(drain bool) {
	w.mu.Lock()
	w.stopping = true
	w.p.c.metrics.queued.WithLabelValues(w.p.group).Sub(float64(len(w.queue)))
	w.queue, w.bytes, w.crowded = nil, 0, false
	w.mu.Unlock()
	if !drain {
		w.cancel()
	}
	w.signal()
}

// push queues records. It never waits: a full queue pauses fetching instead, so
// that one slow partition does not hold up the others.
func (w *worker) push(recs []*kgo.Record) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopping {
		return
	}
	w.queue = append(w.queue, recs...)
	for _, r := range recs {
		w.bytes += recordBytes(r) + recordOverhead
	}
	w.p.c.metrics.queued.WithLabelValues(w.p.group).Add(float64(len(recs)))
	w.crowded = w.crowded || len(w.queue) > w.p.cfg.QueueRecords || w.bytes > w.p.cfg.QueueBytes
	w.signal()
}

// full tells whether fetching must wait.
func (w *worker) full() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.crowded
}

// take removes the next batch from the queue.
func (w *worker) take() (recs []*kgo.Record, stopping bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, size := 0, 0
	for n < len(w.queue) && n < w.p.cfg.MaxRecords {
		size += recordBytes(w.queue[n]) + recordOverhead
		if n > 0 && size > w.p.cfg.MaxBytes {
			size -= recordBytes(w.queue[n]) + recordOverhead
			break
		}
		n++
	}
	recs = w.queue[:n:n]
	w.queue = w.queue[n:]
	if len(w.queue) == 0 {
		w.queue = nil
	}
	w.bytes -= size
	w.p.c.metrics.queued.WithLabelValues(w.p.group).Sub(float64(n))
	w.crowded = w.crowded && (len(w.queue) > w.p.cfg.QueueRecords/2 || w.bytes > w.p.cfg.QueueBytes/2)
	return recs, w.stopping
}

// untake gives back what a batch that ended early has not processed.
func (w *worker) untake(recs []*kgo.Record) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopping || len(recs) == 0 {
		return
	}
	w.queue = append(recs[:len(recs):len(recs)], w.queue...)
	for _, r := range recs {
		w.bytes += recordBytes(r) + recordOverhead
	}
	w.p.c.metrics.queued.WithLabelValues(w.p.group).Add(float64(len(recs)))
	w.signal()
}

func (w *worker) idle() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.queue) == 0
}

func (w *worker) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *worker) work(ctx context.Context) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	w.task.begin(ctx)
	err = w.task.loadTimers()
	if err := errors.Join(err, w.task.end()); err != nil {
		return err
	}
	w.checkTarget()
	tick := time.NewTicker(w.p.cfg.Tick)
	defer tick.Stop()
	for due := true; ; {
		recs, stopping := w.take()
		if stopping || ctx.Err() != nil {
			return nil
		}
		w.p.throttle(w)
		if len(recs) > 0 || due {
			if err := w.cycle(ctx, recs, due); err != nil {
				return err
			}
			due = false
		}
		if len(recs) > 0 { // there may be more, and the tick must not starve
			select {
			case <-tick.C:
				due = true
			default:
			}
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-w.wake:
		case <-tick.C:
			due = true
		}
	}
}

// cycle is one batch. Until the checkpoint is written nothing has happened here;
// whatever was emitted before will be emitted again.
func (w *worker) cycle(ctx context.Context, recs []*kgo.Record, tick bool) (err error) {
	t := w.task
	before := t.nextTimer
	t.begin(ctx)
	defer func() {
		err = errors.Join(err, t.end())
		if err != nil {
			t.nextTimer = before
		}
	}()
	began := time.Now()
	if err := w.hook(StepProcess); err != nil {
		return err
	}
	next := maps.Clone(w.cp.Next)
	newest := map[string]time.Time{}
	counts := map[string]int{}
	moved, used := false, 0
	for _, kr := range recs {
		if t.weight >= maxBatchWeight || ctx.Err() != nil {
			break
		}
		used++
		if kr.Offset < next[kr.Topic] {
			continue // fetched again after a restart of the session
		}
		if !kr.Attrs.IsControl() {
			rec := fromKafka(kr)
			if at := rec.Time; at.After(t.now) {
				t.now = minTime(at, began.Add(-wallGrace), t.now)
			}
			if err := w.handler.Process(t, &rec); err != nil {
				return fmt.Errorf("process %s/%d/%d: %w", rec.Topic, rec.Partition, rec.Offset, err)
			}
			newest[kr.Topic] = rec.Time
			counts[kr.Topic]++
		}
		next[kr.Topic] = kr.Offset + 1
		moved = true
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if used < len(recs) {
		defer func() {
			if err == nil {
				w.untake(recs[used:])
			}
		}()
	}
	if err := w.time(tick, next, began); err != nil {
		return err
	}
	if h, ok := w.handler.(Flusher); ok {
		if err := h.Flush(t); err != nil {
			return fmt.Errorf("flush: %w", err)
		}
	}
	wrote := !t.batch.Empty()
	if !moved && !wrote && len(t.emitted) == 0 {
		return nil
	}
	w.observe(StepProcess, began)

	// Emit: nothing of this batch is remembered before all of it is in the log.
	if len(t.emitted) > 0 {
		if err := w.hook(StepEmit); err != nil {
			return err
		}
		at := time.Now()
		if err := w.p.c.Produce(ctx, t.emitted...); err != nil {
			return fmt.Errorf("emit: %w", err)
		}
		w.observe(StepEmit, at)
	}
	cp := w.cp
	cp.Next, cp.Time = next, t.now.UnixNano()
	if t.track && (wrote || moved) {
		if err := w.hook(StepChangelog); err != nil {
			return err
		}
		at := time.Now()
		if cp.Changelog, err = w.log(ctx, &cp); err != nil {
			return fmt.Errorf("write changelog: %w", err)
		}
		w.observe(StepChangelog, at)
	}
	if err := w.hook(StepCheckpoint); err != nil {
		return err
	}
	at := time.Now()
	if err := saveCheckpoint(t.batch, w.part, &cp); err != nil {
		return err
	}
	// A batch that only moved on need not survive a power cut: it is read again.
	durable := pebble.NoSync
	if wrote {
		durable = pebble.Sync
	}
	if err := t.batch.Commit(durable); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	w.observe(StepCheckpoint, at)

	// The batch has happened: from here on it is never processed again by whoever
	// has this store or its changelog.
	w.cp = cp
	if err := w.hook(StepCommit); err != nil {
		return err
	}
	for topic, n := range counts {
		w.p.c.metrics.consumed.WithLabelValues(w.p.group, topic).Add(float64(n))
	}
	for topic, at := range next {
		w.p.lag.processed(topic, w.part, at, newest[topic])
	}
	if moved {
		w.p.checkpointed(w.part, next)
	}
	w.checkTarget()
	return nil
}

// time moves the stream time on, fires timers and ticks.
func (w *worker) time(tick bool, next map[string]int64, wall time.Time) error {
	t := w.task
	if tick && w.idle() && w.atEnd(next) {
		if at := wall.Add(-wallGrace); at.After(t.now) {
			t.now = at.UTC()
		}
	}
	if h, ok := w.handler.(TimerHandler); ok {
		more, err := t.fire(h)
		if err != nil {
			return fmt.Errorf("timer: %w", err)
		}
		if more {
			w.signal()
		}
	}
	if tick {
		if err := w.handler.Tick(t, t.now); err != nil {
			return fmt.Errorf("tick: %w", err)
		}
	}
	return nil
}

func (w *worker) atEnd(next map[string]int64) bool {
	for topic, at := range next {
		if at < w.p.lag.end(topic, w.part) {
			return false
		}
	}
	return true
}

// checkTarget tells the processor once that the end of the assignment is reached.
func (w *worker) checkTarget() {
	if w.target == nil {
		return
	}
	for topic, end := range w.target {
		if w.cp.Next[topic] >= end {
			delete(w.target, topic)
		}
	}
	if len(w.target) == 0 {
		w.target = nil
		w.p.caughtUp(w.part)
	}
}

func (w *worker) hook(s Step) error {
	if w.p.cfg.Hook == nil {
		return nil
	}
	return w.p.cfg.Hook(s, w.part)
}

func (w *worker) observe(s Step, since time.Time) {
	w.p.c.metrics.cycles.WithLabelValues(w.p.group, string(s)).Observe(time.Since(since).Seconds())
}

// minTime is the earlier of two times, but not before floor.
func minTime(a, b, floor time.Time) time.Time {
	if b.Before(a) {
		a = b
	}
	if a.Before(floor) {
		return floor
	}
	return a
}
