package write

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/object"
)

// CompactConfig tunes a Compactor. The zero value is the default.
type CompactConfig struct {
	KeyBytes   int64 // memory for the keys of one cleaning; default 32 MiB, about half a million keys
	PieceBytes int64 // of an output, which is made in memory; default 32 MiB
	GroupBytes int64 // of what is replaced in one transaction, if it is more than one object; default 256 MiB
	BlockBytes int   // default object.BlockBytes
}

func (c CompactConfig) withDefaults() CompactConfig {
	if c.KeyBytes <= 0 {
		c.KeyBytes = 32 << 20
	}
	if c.PieceBytes <= 0 {
		c.PieceBytes = 32 << 20
	}
	if c.GroupBytes <= 0 {
		c.GroupBytes = 256 << 20
	}
	if c.BlockBytes <= 0 {
		c.BlockBytes = object.BlockBytes
	}
	return c
}

// cleanStep is what a cleaning raises the generation to the next multiple of:
// objects below it were never compacted, and a merge, which raises it by one, of
// what a cleaning read never hides what the cleaning wrote.
const cleanStep = 1024

// compacted says that an object is the output of a cleaning, or merged from such.
func compacted(o *catalog.Object) bool { return o.Generation >= cleanStep }

// Compactor keeps the newest record of every key of topics that want it.
//
// A cleaning reads a partition twice: first what was never compacted, to learn the
// newest offset of each key in it, as far as memory goes; then everything from the
// log start on, to drop what has a newer record. Offsets never change; what is
// written has the same batches with fewer records, and only below the last stable
// offset. Records of aborted transactions go; tombstones and the markers of
// transactions without records stay for delete.retention.ms after a cleaning first
// saw them; a producer's last batch stays, if only its header (P20). Work that
// does not fit into memory or into one transaction is done in stretches, from
// lower offsets to higher, each of them complete.
//
// A batch whose records can't be read stays as it is.
type Compactor struct {
	*Base
	cfg   CompactConfig
	stats compactStats
}

type compactStats struct {
	JobStats
	cleanings, dropped, unreadable atomic.Int64
}

// CompactCounts are a Compactor's counters.
type CompactCounts struct {
	JobCounts
	Cleanings  int64
	Dropped    int64 // records
	Unreadable int64 // batches that were kept since their records can't be read
}

// NewCompactor returns a compactor.
func NewCompactor(base *Base, cfg CompactConfig) *Compactor {
	return &Compactor{Base: base, cfg: cfg.withDefaults()}
}

// Stats returns the counters.
func (c *Compactor) Stats() CompactCounts {
	s := &c.stats
	return CompactCounts{s.Counts(), s.cleanings.Load(), s.dropped.Load(), s.unreadable.Load()}
}

// Round cleans every partition led here that is due, the one with the largest
// share of uncompacted bytes first. The first error is returned after all were
// tried.
func (c *Compactor) Round(ctx context.Context) error {
	type due struct {
		p     catalog.Partition
		ratio float64
	}
	var all []due
	for _, p := range c.Catalog.Partitions() {
		if ratio, ok := c.due(p); ok {
			all = append(all, due{p, ratio})
		}
	}
	slices.SortFunc(all, func(a, b due) int {
		return cmp.Or(cmp.Compare(b.ratio, a.ratio), cmp.Compare(a.p.String(), b.p.String()))
	})
	var first error
	for _, d := range all {
		err := c.partition(ctx, d.p)
		switch {
		case err == nil:
		case errors.Is(err, catalog.ErrFenced) || ctx.Err() != nil:
			return err
		case errors.Is(err, catalog.ErrChanged):
		default:
			c.stats.failures.Add(1)
			if first == nil {
				first = err
			}
		}
	}
	return first
}

// partition cleans until nothing is due: what the keys of did not fit into memory
// takes more than one cleaning.
func (c *Compactor) partition(ctx context.Context, p catalog.Partition) error {
	for last := int64(-1); ; {
		if _, ok := c.due(p); !ok {
			return nil
		}
		upto, err := c.clean(ctx, p)
		if err != nil {
			return fmt.Errorf("compact %s: %w", p, err)
		}
		if upto <= last {
			return nil // what is left has to wait
		}
		last = upto
	}
}

// due says whether a partition is to be cleaned, and the share of its bytes that
// never were.
func (c *Compactor) due(p catalog.Partition) (ratio float64, ok bool) {
	t, exists := c.Catalog.TopicByID(p.Topic)
	if !exists || !t.Settings().Compact || !c.Catalog.Owns(p) {
		return 0, false
	}
	set, now := t.Settings(), c.now().UnixMilli()
	return dueOf(old(c.records(p, c.Catalog.Extents(p)), set, now), set, now)
}

func dueOf(extents []catalog.Extent, set catalog.Settings, now int64) (ratio float64, ok bool) {
	var dirty, total int64
	late := false
	for _, x := range extents {
		total += x.Bytes
		if compacted(x.Object) {
			continue
		}
		if x.Bytes > 0 && !late {
			late = x.MaxTimestamp >= 0 && now-x.MaxTimestamp >= set.MaxLagMillis
		}
		dirty += x.Bytes
	}
	if dirty == 0 {
		return 0, false
	}
	ratio = float64(dirty) / float64(total)
	return ratio, late || ratio > set.MinDirtyRatio
}

// records returns those of a partition's extents with records that readers may see.
func (c *Compactor) records(p catalog.Partition, all []catalog.Extent) []catalog.Extent {
	start := c.Catalog.Record(p).LogStart
	return slices.DeleteFunc(slices.Clone(all), func(x catalog.Extent) bool { return x.Base == x.End || x.End <= start })
}

// old cuts off what is too young to be compacted.
func old(all []catalog.Extent, set catalog.Settings, now int64) []catalog.Extent {
	at := slices.IndexFunc(all, func(x catalog.Extent) bool { return set.MinLagMillis > 0 && x.MaxTimestamp > now-set.MinLagMillis })
	if at < 0 {
		return all
	}
	return all[:at]
}

// source is an extent that is read.
type source struct {
	catalog.Extent
	in    *input
	tail  *object.Tail
	clean bool
}

// cleaning is the compaction of one partition up to an offset.
type cleaning struct {
	c       *Compactor
	g       *gets
	steady  catalog.Steady
	set     catalog.Settings
	now     int64 // ms
	sources []source
	inputs  map[string]*input
	keys    *keyMap
	upto    int64      // offsets below it are compacted
	txns    []endedTxn // by marker
	byID    map[int64][]endedTxn
	state   map[int64]batch.Producer // of all producers, as of now
	full    []batch.Producer         // the same, by id
	left    map[int64]bool           // producers with a record left of their transaction so far
	gone    map[int64]bool           // offsets of markers that were dropped
}

// clean does one cleaning and returns the offset up to which it came.
func (c *Compactor) clean(ctx context.Context, p catalog.Partition) (upto int64, err error) {
	t, ok := c.Catalog.TopicByID(p.Topic)
	if !ok {
		return 0, catalog.ErrChanged
	}
	n := &cleaning{
		c: c, g: &gets{c.Store, c.Limiter, &c.stats.JobStats}, steady: c.Catalog.Steady(p), set: t.Settings(), now: c.now().UnixMilli(),
		inputs: map[string]*input{}, keys: newKeyMap(c.cfg.KeyBytes), state: map[int64]batch.Producer{},
		left: map[int64]bool{}, gone: map[int64]bool{},
	}
	if err := n.load(ctx, p); err != nil {
		return 0, err
	}
	if len(n.sources) == 0 {
		return 0, nil // all of it is too young or above the last stable offset
	}
	if err := n.learn(ctx); err != nil {
		return 0, err
	}
	if n.upto <= n.sources[0].Base {
		return n.upto, nil
	}
	if err := n.rewrite(ctx); err != nil {
		return 0, err
	}
	c.stats.cleanings.Add(1)
	return n.upto, nil
}

func (n *cleaning) open(ctx context.Context, o *catalog.Object) (*input, error) {
	if in, ok := n.inputs[o.Name]; ok {
		return in, nil
	}
	v, ok := n.c.Catalog.Lookup(o.Name)
	if !ok {
		return nil, catalog.ErrChanged
	}
	in, err := n.g.open(ctx, n.c.Catalog.ClusterID(), v)
	if err == nil {
		n.inputs[o.Name] = in
	}
	return in, err
}

// load reads the indexes and tails of the partition, and decides how far a
// cleaning may go.
func (n *cleaning) load(ctx context.Context, p catalog.Partition) error {
	all := n.c.Catalog.Extents(p)
	tails := make(map[spanOf]*object.Tail, len(all))
	limit := int64(0)
	for _, x := range all {
		in, err := n.open(ctx, x.Object)
		if err != nil {
			return err
		}
		t, err := n.g.tail(ctx, in, p, x.SpanBase)
		if err != nil {
			return err
		}
		tails[spanOf{x.Object.Name, x.SpanBase}] = t
		limit = t.LastStable // the newest one's counts
		n.txns = append(n.txns, t.Ended...)
	}
	slices.SortStableFunc(n.txns, func(a, b endedTxn) int { return cmp.Compare(a.Marker, b.Marker) })
	n.txns = slices.CompactFunc(n.txns, func(a, b endedTxn) bool { return a.Marker == b.Marker })
	n.byID = map[int64][]endedTxn{}
	for _, e := range n.txns {
		n.byID[e.ProducerID] = append(n.byID[e.ProducerID], e)
	}
	for _, x := range catalog.Chain(all) {
		for _, known := range tails[spanOf{x.Object.Name, x.SpanBase}].Producers {
			if _, ok := n.state[known.ID]; !ok {
				n.state[known.ID] = known
			}
		}
	}
	n.full = slices.SortedFunc(maps.Values(n.state), func(a, b batch.Producer) int { return cmp.Compare(a.ID, b.ID) })
	// Of what was opened: more may be visible by now.
	below := old(n.c.records(p, all), n.set, n.now)
	if at := slices.IndexFunc(below, func(x catalog.Extent) bool { return x.End > limit }); at >= 0 {
		below = below[:at]
	}
	if _, ok := dueOf(below, n.set, n.now); !ok {
		return nil
	}
	for _, x := range below {
		n.sources = append(n.sources, source{
			x, n.inputs[x.Object.Name], tails[spanOf{x.Object.Name, x.SpanBase}], compacted(x.Object),
		})
	}
	return nil
}

type spanOf struct {
	object string
	base   int64
}

// batches calls fn with every batch of a source.
func (n *cleaning) batches(ctx context.Context, s source, fn func(batch.Batch) error) error {
	p := n.steady.Partition
	for _, e := range s.in.index.Partition(p.Topic, p.Index) {
		if e.Last < s.Base || e.Base >= s.End {
			continue
		}
		b, err := n.g.block(ctx, s.in, e)
		if err != nil {
			return err
		}
		for len(b) > 0 {
			h, rest, err := batch.Next(b)
			if err != nil {
				return fmt.Errorf("%w: object %s, block at %d: %w", object.ErrCorrupt, s.Object.Name, e.Pos, err)
			}
			if b = rest; h.LastOffset() < s.Base || h.BaseOffset() >= s.End {
				continue
			}
			if err := fn(h); err != nil {
				return err
			}
		}
	}
	return nil
}

// errFull ends the first pass when memory is used up.
var errFull = errors.New("no room for more keys")

// learn reads what was never compacted and notes the newest offset of each key.
func (n *cleaning) learn(ctx context.Context) error {
	n.upto = n.sources[0].Base
	for _, s := range n.sources {
		if s.clean {
			n.upto = s.End
			continue
		}
		err := n.batches(ctx, s, func(b batch.Batch) error {
			if b.IsControl() || b.LastOffset() < n.steady.Record.LogStart || n.aborted(b) {
				n.upto = b.LastOffset() + 1
				return nil
			}
			body, err := b.Body()
			if err != nil {
				n.upto = b.LastOffset() + 1
				return nil // it stays as it is
			}
			room := true
			err = batch.WalkRecords(body, b.Count(), func(r batch.Record) bool {
				if r.Key != nil {
					room = n.keys.put(r.Key, b.BaseOffset()+int64(r.OffsetDelta))
				}
				return room
			})
			if err == nil && !room {
				return errFull
			}
			n.upto = b.LastOffset() + 1
			return nil
		})
		if errors.Is(err, errFull) {
			return nil
		}
		if err != nil {
			return err
		}
		n.upto = s.End
	}
	return nil
}

// aborted says that a batch's transaction was aborted.
func (n *cleaning) aborted(b batch.Batch) bool {
	if !b.IsTransactional() || b.IsControl() {
		return false
	}
	// The first marker of its producer after it ended its transaction.
	all := n.byID[b.ProducerID()]
	at, _ := slices.BinarySearchFunc(all, b.BaseOffset(), func(e endedTxn, o int64) int { return cmp.Compare(e.Marker, o) })
	return at < len(all) && !all[at].Commit && all[at].First <= b.BaseOffset()
}

// lastOfProducer says that a batch is the newest of its producer.
func (n *cleaning) lastOfProducer(b batch.Batch) bool {
	p, ok := n.state[b.ProducerID()]
	return b.HasProducer() && ok && p.Count > 0 && p.Epoch == b.ProducerEpoch() && p.Spans[p.Count-1].LastOffset == b.LastOffset()
}

// filter returns what is left of a batch: itself, a smaller one, or nil.
func (n *cleaning) filter(b batch.Batch) batch.Batch {
	switch {
	case b.BaseOffset() >= n.upto:
		return b
	case b.LastOffset() < n.steady.Record.LogStart:
		return nil
	case b.IsControl():
		return n.marker(b)
	}
	rest := func() batch.Batch {
		if n.lastOfProducer(b) {
			if b.Count() == 0 {
				return b
			}
			return b.Empty()
		}
		return nil
	}
	if n.aborted(b) {
		if b.Count() > 0 {
			n.left[b.ProducerID()] = true // its marker waits for the next cleaning
		}
		return rest()
	}
	if b.Count() == 0 {
		return rest()
	}
	horizon, has := b.DeleteHorizon()
	passed, tombstones := has && horizon <= n.now, false
	keep := func(r batch.Record) bool {
		if r.Key == nil || !n.keys.newest(r.Key, b.BaseOffset()+int64(r.OffsetDelta)) {
			return false
		}
		if r.Value == nil {
			if passed {
				return false
			}
			tombstones = true
		}
		return true
	}
	f, err := b.Filter(keep, -1)
	if err == nil && tombstones && !has {
		f, err = b.Filter(keep, n.now+n.set.TombstoneMillis)
	}
	if err != nil {
		n.c.stats.unreadable.Add(1)
		n.left[b.ProducerID()] = true
		return b
	}
	if f.Kept == 0 {
		return rest()
	}
	if b.IsTransactional() {
		n.left[b.ProducerID()] = true
	}
	return f.Batch
}

// marker decides about a control batch: it goes once its transaction has no record
// left and delete.retention.ms have passed since a cleaning saw that.
func (n *cleaning) marker(b batch.Batch) batch.Batch {
	if _, ok := b.Marker(); !ok {
		return b
	}
	hasRecords := n.left[b.ProducerID()]
	delete(n.left, b.ProducerID())
	if hasRecords {
		return b
	}
	horizon, has := b.DeleteHorizon()
	if !has {
		f, err := b.Filter(func(batch.Record) bool { return true }, n.now+n.set.TombstoneMillis)
		if err != nil {
			return b
		}
		return f.Batch
	}
	if horizon > n.now {
		return b
	}
	// Of a producer without batches the marker is all that says its epoch.
	if p, ok := n.state[b.ProducerID()]; ok && p.Count == 0 && p.Epoch == b.ProducerEpoch() {
		return b
	}
	n.gone[b.BaseOffset()] = true
	return nil
}
