package write

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/run"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/object"
)

// JobStats counts what a kind of background job did.
type JobStats struct {
	jobs, inputs, outputs, read, written, conflicts, failures atomic.Int64
}

// JobCounts are a JobStats' values.
type JobCounts struct {
	Jobs      int64 // done
	Inputs    int64 // objects replaced
	Outputs   int64 // objects made
	Read      int64 // bytes
	Written   int64 // bytes
	Conflicts int64 // jobs given up since their inputs changed
	Failures  int64 // jobs that failed and come again
}

// Counts returns the counters.
func (s *JobStats) Counts() JobCounts {
	return JobCounts{
		s.jobs.Load(), s.inputs.Load(), s.outputs.Load(), s.read.Load(), s.written.Load(), s.conflicts.Load(), s.failures.Load(),
	}
}

// Base is what every background job stands on.
type Base struct {
	Catalog *catalog.Catalog
	Writer  *catalog.Writer
	Store   blob.Store
	Nonce   [16]byte // of this process
	Names   *Names   // shared with the flusher and the sweeper
	Limiter *Limiter // shared by all jobs; nil unlimited
	Grace   time.Duration
	Now     func() time.Time
	Log     *slog.Logger

	seq atomic.Int64 // of merged and compacted objects
}

func (b *Base) now() time.Time {
	if b.Now == nil {
		return time.Now()
	}
	return b.Now()
}

func (b *Base) deadline() int64 { return b.now().Add(b.Grace).UnixMilli() }

// identity returns the name of the next object that a job makes.
func (b *Base) identity() object.Identity {
	return object.Identity{
		Cluster: b.Catalog.ClusterID(), Broker: b.Writer.Broker(), Epoch: b.Writer.Epoch(), Kind: object.Merge, Seq: b.seq.Add(1),
	}
}

// output is an object to be put and then made visible.
type output struct {
	footer object.Footer
	index  object.Index
	size   int64
	single bool
	body   func(ctx context.Context) body
}

// body is read while the object is put.
type body interface {
	ReadAt(p []byte, off int64) (int, error)
}

func (o *output) name() string { return o.footer.Identity.Name() }

func (o *output) object() catalog.NewObject {
	f := &o.footer
	return catalog.NewObject{
		Single: o.single,
		Object: &catalog.Object{
			Name: o.name(), Size: o.size, Generation: f.Generation, Partitions: f.Tails,
			IndexPos: f.IndexPos, IndexLen: f.IndexLen, IndexCRC: f.IndexCRC, Blocks: f.Blocks,
		},
		Ranges: ranges(&o.index),
	}
}

// putTries is how often a job tries to put an object or to commit before it gives
// up until a later round.
const putTries = 4

// exchange puts the outputs and makes the replacement.
func (b *Base) exchange(ctx context.Context, stats *JobStats, r catalog.Replace, outputs []*output) error {
	defer b.forget(outputs)
	for _, o := range outputs {
		b.Names.add(o.name())
	}
	for _, o := range outputs {
		if err := b.put(ctx, stats, o); err != nil {
			return err
		}
	}
	return b.commit(ctx, stats, r, outputs)
}

// forget leaves what was not committed to the sweeper.
func (b *Base) forget(outputs []*output) {
	for _, o := range outputs {
		b.Names.remove(o.name())
	}
}

// commit makes the replacement. Outputs that are not to become visible are handed
// to the collector.
func (b *Base) commit(ctx context.Context, stats *JobStats, r catalog.Replace, outputs []*output) error {
	for _, o := range outputs {
		r.Outputs = append(r.Outputs, o.object())
	}
	r.Deadline = b.deadline()
	err := b.Writer.Replace(ctx, r)
	if errors.Is(err, meta.ErrTooLarge) && len(r.Covered) == 0 && len(r.Steady) == 0 {
		err = b.stage(ctx, r)
	}
	switch {
	case errors.Is(err, catalog.ErrChanged):
		stats.conflicts.Add(1)
		names := make([]string, len(outputs))
		for i, o := range outputs {
			names[i] = o.name()
		}
		for batch := range slices.Chunk(names, 40) {
			if derr := b.Writer.Discard(ctx, batch, b.deadline()); derr != nil {
				return derr
			}
		}
		return err
	case err != nil:
		return err
	}
	stats.jobs.Add(1)
	stats.inputs.Add(int64(len(r.Inputs)))
	return nil
}

func (b *Base) put(ctx context.Context, stats *JobStats, o *output) error {
	for try := 0; ; try++ {
		in := o.body(ctx)
		err := putObject(ctx, b.Store, object.Key(b.Catalog.ClusterID(), o.name()), limited{ctx, in, b.Limiter}, o.size, &o.footer)
		if err == nil {
			stats.outputs.Add(1)
			stats.written.Add(o.size)
			return nil
		}
		if j, ok := in.(*joinedReader); ok && j.failure != nil {
			return fmt.Errorf("put object %s: read an input: %w", o.name(), j.failure)
		}
		if try == putTries || final(err) || run.Sleep(ctx, 50*time.Millisecond<<try) != nil {
			return fmt.Errorf("put object %s: %w", o.name(), err)
		}
	}
}

// limited takes what is written from the budget, too.
type limited struct {
	ctx     context.Context
	body    body
	limiter *Limiter
}

func (l limited) ReadAt(p []byte, off int64) (int, error) {
	if err := l.limiter.Wait(l.ctx, int64(len(p))); err != nil {
		return 0, err
	}
	return l.body.ReadAt(p, off)
}

// final says that repeating does not help.
func final(err error) bool {
	return errors.Is(err, catalog.ErrFenced) || errors.Is(err, errForeign) || errors.Is(err, blob.ErrBadKey) ||
		errors.Is(err, meta.ErrInvalid) || errors.Is(err, meta.ErrTooLarge) || errors.Is(err, meta.ErrClosed)
}

// stretch is one span of an input that is still needed.
type stretch struct {
	input int
	r     catalog.Range
	need  catalog.Need
}

// joint is a run of neighbouring stretches of one partition: one span of an
// output.
type joint struct {
	p      catalog.Partition
	spans  []stretch
	base   int64 // of the output's span
	blocks []object.Source
	bytes  int64
	tail   object.Tail
	// generation is the highest of those whose records are kept. What only keeps a
	// tail hides nothing that anybody could still see.
	generation int32
}

// errOverlap says that two inputs hold the same offsets, which can't be in one
// object.
type overlapError struct{ input int }

func (e *overlapError) Error() string { return fmt.Sprintf("input %d overlaps another", e.input) }

// gather returns what of the inputs is still needed, joined to spans, in order.
func (b *Base) gather(ctx context.Context, g *gets, inputs []*input) ([]joint, error) {
	byPartition := map[catalog.Partition][]stretch{}
	for i, in := range inputs {
		needs := b.Catalog.Needs(in.visible)
		for k, r := range in.visible.Ranges {
			if needs[k] != catalog.NeedNothing {
				byPartition[r.Partition] = append(byPartition[r.Partition], stretch{i, r, needs[k]})
			}
		}
	}
	var joints []joint
	for p, spans := range byPartition {
		slices.SortFunc(spans, func(x, y stretch) int { return cmp.Or(cmp.Compare(x.r.Base, y.r.Base), cmp.Compare(x.r.End, y.r.End)) })
		shown := b.Catalog.Extents(p)
		for i, s := range spans {
			switch {
			case i > 0 && s.r.Base < spans[i-1].r.End:
				return nil, &overlapError{s.input}
			case i > 0 && neighbours(shown, spans[i-1].r.End, s.r.Base):
				last := &joints[len(joints)-1]
				last.spans = append(last.spans, s)
			default:
				joints = append(joints, joint{p: p, spans: []stretch{s}})
			}
		}
	}
	slices.SortFunc(joints, func(x, y joint) int {
		return cmp.Or(bytes.Compare(x.p.Topic[:], y.p.Topic[:]), cmp.Compare(x.p.Index, y.p.Index), cmp.Compare(x.spans[0].r.Base, y.spans[0].r.Base))
	})
	for i := range joints {
		if err := b.fill(ctx, g, inputs, &joints[i]); err != nil {
			return nil, err
		}
	}
	return joints, nil
}

// neighbours says that nothing is visible between two offsets.
func neighbours(shown []catalog.Extent, end, base int64) bool {
	return end == base || !slices.ContainsFunc(shown, func(x catalog.Extent) bool { return x.Base < base && x.End > end })
}

// fill decides what of a joint's records is kept and makes its tail.
func (b *Base) fill(ctx context.Context, g *gets, inputs []*input, j *joint) error {
	start := b.Catalog.Record(j.p).LogStart
	kept := false
	for _, s := range j.spans {
		if s.need != catalog.NeedRecords {
			continue
		}
		for _, e := range inputs[s.input].index.Partition(j.p.Topic, j.p.Index) {
			if e.Base < s.r.Base || e.Base >= s.r.End || e.Last < start {
				continue
			}
			j.blocks = append(j.blocks, object.Source{Input: s.input, Entry: e})
			j.bytes += int64(e.Len)
		}
		kept = kept || s.r.End > start
		j.generation = max(j.generation, inputs[s.input].visible.Object.Generation)
	}
	end := j.spans[len(j.spans)-1].r.End
	switch {
	case !kept:
		j.base = end // only the tail
	case len(j.blocks) > 0:
		j.base = max(j.spans[0].r.Base, min(start, j.blocks[0].Entry.Base))
	default:
		j.base = max(j.spans[0].r.Base, min(start, end))
	}
	tails := make([]*object.Tail, len(j.spans))
	for i, s := range j.spans {
		t, err := g.tail(ctx, inputs[s.input], j.p, s.r.Base)
		if err != nil {
			return err
		}
		tails[i] = t
	}
	j.tail = joinTails(tails)
	j.tail.Base, j.tail.LogStart = j.base, max(j.tail.LogStart, start)
	j.tail.Ended = slices.DeleteFunc(j.tail.Ended, func(e endedTxn) bool { return e.Marker < j.base })
	// A delta over records that are gone would keep their objects alive.
	if j.tail.Depth > 0 && j.spans[0].r.Base <= start {
		older, err := b.chain(ctx, g, inputs, j)
		if err != nil {
			return err
		}
		j.tail.Depth, j.tail.Producers = joinProducers(append(older, tails...))
	}
	return nil
}

// chain reads the tails before the joint that its producer state builds on,
// oldest first.
func (b *Base) chain(ctx context.Context, g *gets, inputs []*input, j *joint) (older []*object.Tail, err error) {
	first := j.spans[0]
	below := slices.DeleteFunc(slices.Clone(b.Catalog.Extents(j.p)), func(x catalog.Extent) bool { return x.End > first.r.Base })
	for _, x := range catalog.Chain(below) {
		in := (*input)(nil)
		if at := slices.IndexFunc(inputs, func(in *input) bool { return in.visible.Object.Name == x.Object.Name }); at >= 0 {
			in = inputs[at]
		} else if in, err = g.open(ctx, b.Catalog.ClusterID(), catalog.Visible{Object: x.Object}); err != nil {
			return nil, err
		}
		t, err := g.tail(ctx, in, j.p, x.SpanBase)
		if err != nil {
			return nil, err
		}
		older = append(older, t)
	}
	slices.Reverse(older)
	return older, nil
}

// join lays out an output of joints, which are in order.
func (b *Base) join(g *gets, inputs []*input, joints []joint, f object.Footer, blockBytes int, memory int64, single bool) (*output, error) {
	parts := make([]object.JoinPart, len(joints))
	for i, j := range joints {
		parts[i] = object.JoinPart{Topic: j.p.Topic, Partition: j.p.Index, Blocks: j.blocks, Tail: j.tail}
	}
	laid, err := object.Join(f, blockBytes, parts)
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", f.Identity.Name(), err)
	}
	return &output{
		footer: laid.Footer, index: laid.Index, size: laid.Size, single: single,
		body: func(ctx context.Context) body { return newJoinedReader(ctx, g, inputs, laid, memory) },
	}, nil
}
