// Package write moves what is durable in the log into objects, keeps them few and
// large, and clears away what nobody needs: flush, merge, compact, expire, sweep.
//
// A Flusher takes cuts, stretches of the log in memory, in log order. Of each it
// builds objects (one for all partitions, and one of its own for each with much
// data), puts them into the object store, and commits "these offsets live there"
// to the catalog. Puts run in parallel, commits strictly in log order; only then
// may the log be trimmed and the memory be used again. A crash before a commit
// leaves an object that nobody sees and the Sweeper removes; a crash after it
// leaves log records that recovery drops.
//
// Background are the other jobs. Merger makes large objects of small ones,
// Compactor keeps the newest record of every key, Sweeper expires records and
// deletes objects. Each makes new objects and replaces old ones in one guarded
// transaction; none changes one. What they give up is put again under another
// name later, and the leftovers are orphans.
//
// How it fails. A put or a commit of a flush that fails is repeated with the same bytes
// until it succeeds or ctx ends, with a pause that grows to a few seconds: a
// stalled object store stops the flow, callers of the log wait for room, and
// nothing is lost. A fenced epoch, or an object under our name that is not ours,
// ends Run with an error: the process must end.
package write

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/run"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/object"
	"github.com/looptape/looptape/internal/broker/store/wal"
)

// Cut is what a Source hands over: the log of Epoch from First to Last.
type Cut struct {
	Epoch       int64
	First, Last wal.LSN
	Final       bool // the epoch's log ends at Last; of an adopted epoch
	Parts       []object.Part
	Origin      any // of the source
}

// Source gives cuts in log order and is told, in the same order, which are
// committed. Next is called by one goroutine, Committed by another.
type Source interface {
	Next(ctx context.Context) (*Cut, error)
	Committed(*Cut)
}

// Committer is the right to commit: *catalog.Writer.
type Committer interface {
	Commit(ctx context.Context, m catalog.Commit) error
	Epoch() int64
	Broker() int32
}

// Trimmer forgets log records, and knows where a recovery may begin then; see
// wal.Log.
type Trimmer interface {
	TrimEpoch(epoch int64, upto wal.LSN) error
	Place(epoch int64, lsn wal.LSN) int64
}

// Config tunes a Flusher. The zero value is the default.
type Config struct {
	SingleBytes int64         // a partition with that much in a cut gets its own object; default 8 MiB
	BlockBytes  int           // default object.BlockBytes
	Parallel    int           // cuts being put at the same time; default 3
	Grace       time.Duration // before an object that is not needed is deleted; default 10 min
	RetryMin    time.Duration // first pause after a failure; default 50 ms
	RetryMax    time.Duration // longest; default 5 s
	Names       *Names        // what is on its way, for the sweeper; default its own

	// Of, if set, is the broker whose log this is: it is dead and recovered here.
	Of *int32
	// Seq is the sequence of object names, shared by all flushers of a process;
	// default one of its own.
	Seq  *atomic.Int64
	Rand func() float64 // gives numbers in [0, 1) for pauses; default rand.Float64
}

func (c Config) withDefaults() Config {
	if c.SingleBytes <= 0 {
		c.SingleBytes = 8 << 20
	}
	if c.BlockBytes <= 0 {
		c.BlockBytes = object.BlockBytes
	}
	if c.Parallel <= 0 {
		c.Parallel = 3
	}
	if c.Grace <= 0 {
		c.Grace = 10 * time.Minute
	}
	if c.RetryMin <= 0 {
		c.RetryMin = 50 * time.Millisecond
	}
	if c.RetryMax <= 0 {
		c.RetryMax = 5 * time.Second
	}
	if c.Names == nil {
		c.Names = NewNames()
	}
	if c.Seq == nil {
		c.Seq = new(atomic.Int64)
	}
	if c.Rand == nil {
		c.Rand = rand.Float64
	}
	return c
}

// Flusher puts cuts into objects. Use NewFlusher.
type Flusher struct {
	source  Source
	store   blob.Store
	commit  Committer
	trim    Trimmer
	cluster string
	nonce   [16]byte
	cfg     Config
	log     *slog.Logger
	stats   counters
}

// NewFlusher returns a flusher for one epoch of one broker. nonce is made once
// per process.
func NewFlusher(source Source, store blob.Store, commit Committer, trim Trimmer, cluster string, nonce [16]byte, cfg Config, log *slog.Logger) *Flusher {
	return &Flusher{
		source: source, store: store, commit: commit, trim: trim,
		cluster: cluster, nonce: nonce, cfg: cfg.withDefaults(), log: log,
	}
}

type counters struct {
	objects, bytes, commits, failures, stalled atomic.Int64
}

// Stats are counters since New; Stalled is a gauge.
type Stats struct {
	Objects  int64 // put
	Bytes    int64 // of them
	Commits  int64
	Failures int64 // of puts and commits, each repeated
	Stalled  int64 // puts and commits that wait after a failure
}

// Stats returns the counters.
func (f *Flusher) Stats() Stats {
	s := &f.stats
	return Stats{s.objects.Load(), s.bytes.Load(), s.commits.Load(), s.failures.Load(), s.stalled.Load()}
}

// job is a cut on its way.
type job struct {
	cut    *Cut
	packed []*packed
	stored chan struct{} // closed when all objects are durable
}

type packed struct {
	*object.Packed
	name   string
	single bool
}

// Run flushes until ctx ends, which is no error. What was not committed then
// stays in the log.
func (f *Flusher) Run(ctx context.Context) error {
	g := run.New(ctx)
	jobs := make(chan *job, f.cfg.Parallel-1) // with the one being committed: Parallel
	g.Go("build objects", func(ctx context.Context) error { return f.build(ctx, g, jobs) })
	g.Go("commit objects", func(ctx context.Context) error { return f.commitAll(ctx, jobs) })
	if err := g.Wait(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("flush: %w", err)
	}
	return nil
}

func (f *Flusher) build(ctx context.Context, g *run.Group, jobs chan<- *job) error {
	for {
		cut, err := f.source.Next(ctx)
		if err != nil {
			return err
		}
		j, err := f.pack(cut)
		if err != nil {
			return err
		}
		select {
		case jobs <- j:
		case <-ctx.Done():
			return ctx.Err()
		}
		g.Go("put objects", func(ctx context.Context) error { return f.putAll(ctx, j) })
	}
}

// pack decides which partitions get objects of their own and builds all.
func (f *Flusher) pack(cut *Cut) (*job, error) {
	j := &job{cut: cut, stored: make(chan struct{})}
	singles, rest := split(cut.Parts, f.cfg.SingleBytes)
	for _, p := range singles {
		if err := f.add(j, []object.Part{p}, true); err != nil {
			return nil, err
		}
	}
	if len(rest) > 0 {
		if err := f.add(j, rest, false); err != nil {
			return nil, err
		}
	}
	return j, nil
}

func (f *Flusher) add(j *job, parts []object.Part, single bool) error {
	id := object.Identity{Cluster: f.cluster, Broker: f.commit.Broker(), Epoch: f.commit.Epoch(), Kind: object.Flush, Seq: f.cfg.Seq.Add(1)}
	if f.cfg.Of != nil || j.cut.Epoch != id.Epoch {
		id.Kind = object.Recovery
	}
	from := id.Broker
	if f.cfg.Of != nil {
		from = *f.cfg.Of
	}
	p, err := object.Pack(object.Footer{
		Identity: id, Nonce: f.nonce, WALBroker: from, WALEpoch: j.cut.Epoch, FirstLSN: int64(j.cut.First), LastLSN: int64(j.cut.Last),
	}, f.cfg.BlockBytes, parts)
	if err != nil {
		return fmt.Errorf("build object %s: %w", id.Name(), err)
	}
	f.cfg.Names.add(id.Name())
	j.packed = append(j.packed, &packed{p, id.Name(), single})
	return nil
}

// split picks the partitions with at least min bytes, the largest first and at
// most catalog.MaxSingles.
func split(parts []object.Part, min int64) (singles, rest []object.Part) {
	type sized struct {
		at    int
		bytes int64
	}
	var large []sized
	for i := range parts {
		if n := bytesOf(parts[i]); n >= min {
			large = append(large, sized{i, n})
		}
	}
	slices.SortStableFunc(large, func(a, b sized) int { return cmp.Compare(b.bytes, a.bytes) })
	if len(large) > catalog.MaxSingles {
		large = large[:catalog.MaxSingles]
	}
	own := map[int]bool{}
	for _, l := range large {
		own[l.at] = true
	}
	for i, p := range parts {
		if own[i] {
			singles = append(singles, p)
		} else {
			rest = append(rest, p)
		}
	}
	return singles, rest
}

func bytesOf(p object.Part) (n int64) {
	for _, u := range p.Units {
		n += int64(len(u.Bytes))
	}
	return n
}

func (f *Flusher) putAll(ctx context.Context, j *job) error {
	for _, p := range j.packed {
		if err := f.retry(ctx, "put object "+p.name, func() error { return f.put(ctx, p) }); err != nil {
			return err
		}
		f.stats.objects.Add(1)
		f.stats.bytes.Add(p.Size())
	}
	close(j.stored)
	return nil
}

// put stores an object.
func (f *Flusher) put(ctx context.Context, p *packed) error {
	return putObject(ctx, f.store, object.Key(f.cluster, p.name), p, p.Size(), &p.Footer)
}

func (f *Flusher) commitAll(ctx context.Context, jobs <-chan *job) error {
	for {
		var j *job
		select {
		case j = <-jobs:
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case <-j.stored:
		case <-ctx.Done():
			return ctx.Err()
		}
		m := catalog.Commit{
			Epoch: j.cut.Epoch, LSN: int64(j.cut.Last), Slot: f.trim.Place(j.cut.Epoch, j.cut.Last), Done: j.cut.Final, Grace: f.cfg.Grace.Milliseconds(),
		}
		if f.cfg.Of != nil {
			m.Of = catalog.LogID{Broker: *f.cfg.Of, Epoch: j.cut.Epoch}
		}
		for _, p := range j.packed {
			m.Objects = append(m.Objects, newObject(p))
		}
		if err := f.retry(ctx, "commit objects", func() error { return f.commit.Commit(ctx, m) }); err != nil {
			return err
		}
		f.stats.commits.Add(1)
		for _, p := range j.packed {
			f.cfg.Names.remove(p.name)
		}
		// The catalog names the objects: log and memory may let go.
		if err := f.trim.TrimEpoch(j.cut.Epoch, j.cut.Last); err != nil {
			return fmt.Errorf("trim log: %w", err)
		}
		f.source.Committed(j.cut)
	}
}

func newObject(p *packed) catalog.NewObject {
	f := &p.Footer
	return catalog.NewObject{
		Single: p.single,
		Object: &catalog.Object{
			Name: p.name, Size: p.Size(), Generation: f.Generation, Partitions: f.Tails,
			IndexPos: f.IndexPos, IndexLen: f.IndexLen, IndexCRC: f.IndexCRC, Blocks: f.Blocks,
		},
		Ranges: ranges(&p.Index),
	}
}

func ranges(x *object.Index) []catalog.Range {
	rs := make([]catalog.Range, 0, len(x.Tails))
	for _, s := range x.Spans() {
		rs = append(rs, catalog.Range{
			Partition: catalog.Partition{Topic: s.Topic, Index: s.Partition},
			Base:      s.Base, End: s.End, MaxTimestamp: s.MaxTimestamp, Bytes: s.Bytes, TailDepth: s.Depth,
		})
	}
	return rs
}

// retry repeats fn until it succeeds, fails for good, or ctx ends.
func (f *Flusher) retry(ctx context.Context, what string, fn func() error) error {
	pause := f.cfg.RetryMin
	for {
		err := fn()
		switch {
		case err == nil:
			return nil
		case errors.Is(err, catalog.ErrFenced), errors.Is(err, errForeign), errors.Is(err, blob.ErrBadKey),
			errors.Is(err, meta.ErrInvalid), errors.Is(err, meta.ErrTooLarge), errors.Is(err, meta.ErrClosed):
			return fmt.Errorf("%s: %w", what, err)
		case ctx.Err() != nil:
			return ctx.Err()
		}
		f.stats.failures.Add(1)
		f.stats.stalled.Add(1)
		f.log.Warn("flush is stalled and will try again", "step", what, "error", err, "pause", pause)
		err = run.Sleep(ctx, pause/2+time.Duration(f.cfg.Rand()*float64(pause/2)))
		f.stats.stalled.Add(-1)
		if err != nil {
			return err
		}
		pause = min(2*pause, f.cfg.RetryMax)
	}
}
