package stream

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/looptape/looptape/internal/base/run"
	"github.com/looptape/looptape/internal/loop/event"
)

// GroupPrefix precedes a processor's name in its consumer group's.
const GroupPrefix = "looptape-"

// A Handler is what a processor does. New makes one for each partition number
// that is assigned; one goroutine calls it, so it may keep what it likes in
// memory, as long as that can be built again from the task's state: a batch that
// fails is thrown away with its handler and comes again to a new one.
type Handler interface {
	// Process takes one record. What it puts and emits becomes durable with the
	// batch. An error ends the processor: what can come again without harm
	// (bad input) must be dealt with inside, or it will come again for ever.
	Process(t *Task, r *event.Record) error

	// Tick is called about every ProcessorConfig.Tick and after a start, with the
	// stream time (Task.Now).
	Tick(t *Task, now time.Time) error
}

// A TimerHandler also gets the timers it sets (Task.SetTimer).
type TimerHandler interface {
	Handler
	// Timer is called once when the stream time has reached at. The timer is gone;
	// Timer may set it again, later than at.
	Timer(t *Task, at time.Time, key []byte) error
}

// A Flusher is a Handler that is told when a batch has nothing more to come: the
// place to emit once for what many records have changed.
type Flusher interface {
	Handler
	Flush(t *Task) error
}

// A Step is a point in a batch's cycle.
type Step string

// The steps, in order.
const (
	StepProcess    Step = "process"
	StepEmit       Step = "emit"
	StepChangelog  Step = "changelog"
	StepCheckpoint Step = "checkpoint"
	StepCommit     Step = "commit"
)

// ProcessorConfig says what a processor reads, where it keeps its state and how
// much it takes at once.
type ProcessorConfig struct {
	// Name names the state; the consumer group is GroupPrefix + Name.
	Name string
	// Inputs are read together: partition n of all of them by one handler. They must
	// have one number of partitions.
	Inputs []string
	// StateDir holds the directory Name of the local store. Two processes must not
	// share it.
	StateDir string
	// Changelog, if set, is the compacted topic from which another process restores
	// the state. It is made if it is missing.
	Changelog string
	// New makes the handler of one partition number.
	New func() Handler

	// LookBack is how far before the group's committed offsets (by append time) to
	// begin when the local store is lost and there is no changelog, so that the
	// state is built again. 0: from the start of the log.
	LookBack time.Duration

	Tick         time.Duration // default 1 s
	MaxRecords   int           // in one batch; default 1,000
	MaxBytes     int           // of records in one batch, save that it holds at least one; default 4 MiB
	QueueRecords int           // fetched and not processed, per partition number, above which fetching pauses; default 4,000
	QueueBytes   int           // the same in bytes; default 8 MiB
	CacheBytes   int64         // of the local store; default 32 MiB
	Drain        time.Duration // how long a batch may go on after its partitions are revoked or ctx has ended; default 10 s

	// CaughtUp, if set, is called once: when every partition number assigned first
	// has checkpointed what was in the inputs when it was assigned.
	CaughtUp func()

	// Hook, if set, is called before every step of every batch; its error ends the
	// processor there and then, as a crash would. For tests and simulation.
	Hook func(Step, int32) error
}

func (cfg *ProcessorConfig) check() error {
	var errs []error
	if cfg.Name == "" || strings.ContainsAny(cfg.Name, `/\`) || cfg.Name == "." || cfg.Name == ".." {
		errs = append(errs, errors.New("name is empty or not a file name"))
	}
	if len(cfg.Inputs) == 0 {
		errs = append(errs, errors.New("no inputs"))
	}
	if cfg.StateDir == "" {
		errs = append(errs, errors.New("no state directory"))
	}
	if cfg.New == nil {
		errs = append(errs, errors.New("no handler"))
	}
	if slices.Contains(cfg.Inputs, cfg.Changelog) {
		errs = append(errs, errors.New("the changelog is an input"))
	}
	deflt := func(n *int, v int) {
		if *n <= 0 {
			*n = v
		}
	}
	deflt(&cfg.MaxRecords, 1000)
	deflt(&cfg.MaxBytes, 4<<20)
	deflt(&cfg.QueueRecords, 4000)
	deflt(&cfg.QueueBytes, 8<<20)
	if cfg.Tick <= 0 {
		cfg.Tick = time.Second
	}
	if cfg.CacheBytes <= 0 {
		cfg.CacheBytes = 32 << 20
	}
	if cfg.Drain <= 0 {
		cfg.Drain = 10 * time.Second
	}
	cfg.Inputs = slices.Compact(slices.Sorted(slices.Values(cfg.Inputs)))
	return errors.Join(errs...)
}

const (
	sessionTimeout   = 9 * time.Second // how long a killed process keeps its partitions
	heartbeat        = 2 * time.Second
	rebalanceTimeout = time.Minute
	fetchWait        = 250 * time.Millisecond
	maxPoll          = 4000
)

// Run processes until ctx ends (nil, after draining) or something fails. See the
// package's documentation for what a batch goes through.
func Run(ctx context.Context, c *Client, cfg ProcessorConfig) error {
	if err := cfg.check(); err != nil {
		return fmt.Errorf("processor %q: %w", cfg.Name, err)
	}
	p := &processor{
		c: c, cfg: cfg, group: GroupPrefix + cfg.Name,
		workers: map[int32]*worker{}, dirty: map[string]map[int32]kgo.EpochOffset{},
		behind: map[int32]bool{},
	}
	err := p.run(ctx)
	if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		return nil // asked to end before it had begun
	}
	if err != nil {
		return fmt.Errorf("processor %s: %w", cfg.Name, err)
	}
	return nil
}

// A processor is one run of Run.
type processor struct {
	c     *Client
	cfg   ProcessorConfig
	group string
	n     int32 // partitions of each input
	store *store
	lag   *lagMeter
	kgo   *kgo.Client
	base  context.Context // of the workers: outlives ctx so that batches can be drained
	fail  context.CancelCauseFunc

	mu       sync.Mutex                           // guards the rest; never held across I/O
	workers  map[int32]*worker                    // by partition number
	dirty    map[string]map[int32]kgo.EpochOffset // checkpointed and not committed
	behind   map[int32]bool                       // partition numbers that CaughtUp waits for
	assigned bool                                 // the first assignment was seen
	told     bool                                 // CaughtUp was called
	closing  bool                                 // finish was called
}

func (p *processor) run(ctx context.Context) (err error) {
	if _, err := p.c.awaitTopics(ctx, p.cfg.Inputs); err != nil {
		return err
	}
	if p.n, err = p.c.coPartitioned(ctx, p.cfg.Inputs); err != nil {
		return err
	}
	if p.cfg.Changelog != "" {
		if _, err := p.c.EnsureTopics(ctx, []TopicSpec{{
			Name: p.cfg.Changelog, Partitions: p.n, Config: map[string]string{"cleanup.policy": "compact"},
		}}); err != nil {
			return err
		}
	}
	if p.store, err = openStore(filepath.Join(p.cfg.StateDir, p.cfg.Name), p.cfg.CacheBytes, p.c.log); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.store.close()) }()
	instance, err := p.store.instance()
	if err != nil {
		return err
	}
	p.lag = newLagMeter(p.group, p.c.metrics)

	stopped, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	p.base, p.fail = context.WithoutCancel(ctx), fail
	p.kgo, err = kgo.NewClient(p.c.options(
		kgo.ConsumerGroup(p.group),
		kgo.InstanceID(instance), // a static member
		kgo.ConsumeTopics(p.cfg.Inputs...),
		kgo.Balancers(kgo.RangeBalancer()), // equal numbers of one member: the co-partitioning
		kgo.SessionTimeout(sessionTimeout),
		kgo.HeartbeatInterval(heartbeat),
		kgo.RebalanceTimeout(rebalanceTimeout),
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),
		kgo.AdjustFetchOffsetsFn(p.assign),
		kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, ps map[string][]int32) { p.release(ps, true) }),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, ps map[string][]int32) { p.release(ps, false) }),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(),
		kgo.FetchMaxBytes(16<<20),
		kgo.FetchMaxPartitionBytes(1<<20),
		kgo.FetchMaxWait(fetchWait),
	)...)
	if err != nil {
		return err
	}
	g := run.New(stopped)
	g.Go("poll", p.poll)
	g.Go("commit", p.commit)
	werr := g.Wait()
	if cause := context.Cause(stopped); ctx.Err() == nil && cause != nil && !errors.Is(cause, context.Canceled) {
		werr = cause
	}
	p.finish()
	p.kgo.CloseAllowingRebalance()
	p.leave(instance)
	return werr
}

// leaving bounds the goodbye.
const leaving = 2 * time.Second

// leave ends the membership, so that a scaled-down process is replaced at once:
// a static member that only stops keeps its partitions until its session ends. If
// it fails, that is what happens.
func (p *processor) leave(instance string) {
	ctx, cancel := context.WithTimeout(p.base, leaving)
	defer cancel()
	if _, err := p.c.adm.LeaveGroup(ctx, kadm.LeaveGroup(p.group).InstanceIDs(instance).Reason("the processor ends")); err != nil {
		p.c.log.Debug("leaving the group failed; its session will end", "group", p.group, "error", err)
	}
}

// poll hands what is fetched to the workers. Between PollRecords and
// AllowRebalance no partition is revoked or assigned, so records never reach the
// worker of another assignment.
func (p *processor) poll(ctx context.Context) error {
	for {
		fetches := p.kgo.PollRecords(ctx, maxPoll)
		if ctx.Err() != nil {
			p.kgo.AllowRebalance()
			return ctx.Err()
		}
		var errs []error
		fetches.EachError(func(topic string, part int32, err error) {
			var outside *kgo.ErrGroupSession
			if errors.As(err, &outside) {
				// The broker was away, or we were, for longer than the session: the
				// client joins again, and the positions are in the local store.
				p.c.log.Warn("the consumer group was lost; joining again", "group", p.group, "error", err)
				return
			}
			errs = append(errs, fmt.Errorf("fetch %s/%d: %w", topic, part, err))
		})
		fetches.EachPartition(func(f kgo.FetchTopicPartition) {
			p.lag.ended(f.Topic, f.Partition, f.HighWatermark)
			if len(f.Records) == 0 {
				return
			}
			p.mu.Lock()
			w := p.workers[f.Partition]
			p.mu.Unlock()
			if w == nil {
				return
			}
			w.push(f.Records)
			p.throttle(w)
		})
		p.kgo.AllowRebalance()
		if len(errs) > 0 {
			return errors.Join(errs...)
		}
	}
}

// throttle pauses or resumes fetching for a worker as its queue says. The lock
// keeps an older answer from overtaking a newer one; both calls below only mark.
func (p *processor) throttle(w *worker) {
	w.throttling.Lock()
	defer w.throttling.Unlock()
	full := w.full()
	if full == w.paused {
		return
	}
	w.paused = full
	if full {
		p.c.metrics.paused.WithLabelValues(p.group).Inc()
		p.kgo.PauseFetchPartitions(p.numbered(w.part))
	} else {
		p.c.metrics.paused.WithLabelValues(p.group).Dec()
		p.kgo.ResumeFetchPartitions(p.numbered(w.part))
	}
}

func (p *processor) numbered(part int32) map[string][]int32 {
	m := make(map[string][]int32, len(p.cfg.Inputs))
	for _, t := range p.cfg.Inputs {
		m[t] = []int32{part}
	}
	return m
}

// checkpointed notes positions that are durable here and may be committed.
func (p *processor) checkpointed(part int32, next map[string]int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for topic, at := range next {
		if p.dirty[topic] == nil {
			p.dirty[topic] = map[int32]kgo.EpochOffset{}
		}
		p.dirty[topic][part] = kgo.EpochOffset{Epoch: -1, Offset: at}
	}
}

// caughtUp notes that a partition number has reached the end it had when it was
// assigned.
func (p *processor) caughtUp(part int32) {
	p.mu.Lock()
	delete(p.behind, part)
	tell := !p.told && len(p.behind) == 0
	p.told = p.told || tell
	p.mu.Unlock()
	if tell && p.cfg.CaughtUp != nil {
		p.cfg.CaughtUp()
	}
}

// commit sends checkpointed positions to the group about once a second, and the
// metrics with them. A failed commit is tried again with the next: nothing
// depends on it but what others see.
func (p *processor) commit(ctx context.Context) error {
	tick := time.NewTicker(commitEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			p.commitDirty(ctx)
			p.lag.publish(now)
		}
	}
}

func (p *processor) commitDirty(ctx context.Context) {
	p.mu.Lock()
	dirty := p.dirty
	p.dirty = map[string]map[int32]kgo.EpochOffset{}
	p.mu.Unlock()
	for topic, ps := range dirty {
		if len(ps) == 0 {
			delete(dirty, topic)
		}
	}
	if len(dirty) == 0 {
		return
	}
	var failed error
	p.kgo.CommitOffsetsSync(ctx, dirty, func(_ *kgo.Client, _ *kmsgCommit, resp *kmsgCommitted, err error) {
		failed = commitError(resp, err)
	})
	if failed == nil || ctx.Err() != nil {
		return
	}
	p.c.log.Debug("commit of positions failed; it is tried again with the next", "group", p.group, "error", failed)
	p.mu.Lock()
	defer p.mu.Unlock()
	for topic, ps := range dirty {
		for part, at := range ps {
			if _, newer := p.dirty[topic][part]; newer || p.workers[part] == nil {
				continue
			}
			if p.dirty[topic] == nil {
				p.dirty[topic] = map[int32]kgo.EpochOffset{}
			}
			p.dirty[topic][part] = at
		}
	}
}
