package write

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/object"
)

type endedTxn = batch.EndedTxn

// MergeConfig tunes a Merger. The zero value is the default.
type MergeConfig struct {
	FanIn       int   // sets or singles of about the same size that become one; default 16
	MiddleBytes int64 // a merged object of the first levels; default 256 MiB
	LargeBytes  int64 // of the last level; default 1 GiB
	LeaveBytes  int64 // what of a partition must be together to leave the sets; default 8 MiB
	BlockBytes  int   // neighbouring blocks become one up to this; default object.BlockBytes
	Memory      int64 // for windows on the inputs; default 32 MiB
}

func (c MergeConfig) withDefaults() MergeConfig {
	if c.FanIn <= 1 {
		c.FanIn = 16
	}
	if c.MiddleBytes <= 0 {
		c.MiddleBytes = 256 << 20
	}
	if c.LargeBytes <= 0 {
		c.LargeBytes = 1 << 30
	}
	if c.LeaveBytes <= 0 {
		c.LeaveBytes = 8 << 20
	}
	if c.BlockBytes <= 0 {
		c.BlockBytes = object.BlockBytes
	}
	if c.Memory <= 0 {
		c.Memory = 32 << 20
	}
	return c
}

// Merger makes few large objects of many small ones, so that readers open few
// and the catalog stays small (P8).
//
// Sets merge by level: sixteen of about the same size become one, and what a
// partition has together in them leaves for an object of its own if it is at
// least LeaveBytes. A partition's own objects merge with their neighbours in the
// same way. What nobody needs any more is left out: so a set whose records have
// expired shrinks to the tails that keep the ends and producer states (P10).
// Inputs are read through windows while the output is put: memory is bounded
// whatever the sizes. Outputs have a higher generation and replace the inputs in
// one transaction that compares that those are unchanged.
type Merger struct {
	*Base
	cfg   MergeConfig
	stats JobStats
}

// NewMerger returns a merger.
func NewMerger(base *Base, cfg MergeConfig) *Merger {
	return &Merger{Base: base, cfg: cfg.withDefaults()}
}

// Stats returns the counters.
func (m *Merger) Stats() JobCounts { return m.stats.Counts() }

// Round merges until nothing is to be merged. A job that fails does not keep the
// others from running; the first error is returned.
func (m *Merger) Round(ctx context.Context) error {
	failed := map[string]bool{} // inputs of jobs that failed in this round
	var first error
	for ctx.Err() == nil {
		job, ok := m.plan(failed)
		if !ok {
			return first
		}
		err := m.run(ctx, job)
		var overlap *overlapError
		switch {
		case err == nil:
			continue
		case errors.Is(err, catalog.ErrFenced) || ctx.Err() != nil:
			return err
		case errors.As(err, &overlap):
			failed[job[overlap.input].Object.Name] = true
			continue
		case errors.Is(err, catalog.ErrChanged):
		default:
			m.stats.failures.Add(1)
			first = cmpError(first, err)
		}
		for _, v := range job {
			failed[v.Object.Name] = true
		}
	}
	return ctx.Err()
}

func cmpError(first, err error) error {
	if first != nil {
		return first
	}
	return err
}

// plan picks the next objects to merge.
func (m *Merger) plan(failed map[string]bool) (job []catalog.Visible, ok bool) {
	var sets []catalog.Visible
	singles := map[catalog.Partition][]catalog.Visible{}
	for _, v := range m.Catalog.Visible() {
		switch {
		case failed[v.Object.Name]:
		case !v.Single:
			if m.keeps(v.Object.Name) {
				sets = append(sets, v)
			}
		case m.Catalog.Owns(v.Ranges[0].Partition):
			p := v.Ranges[0].Partition
			singles[p] = append(singles[p], v)
		}
	}
	if job := m.wasteful(sets, singles); len(job) > 0 {
		return job, true
	}
	if job := m.level(sets); len(job) > 0 {
		return job, true
	}
	partitions := make([]catalog.Partition, 0, len(singles))
	for p := range singles {
		partitions = append(partitions, p)
	}
	slices.SortFunc(partitions, func(a, b catalog.Partition) int { return cmp.Compare(a.String(), b.String()) })
	for _, p := range partitions {
		if job := m.neighbours(p, singles[p]); len(job) > 0 {
			return job, true
		}
	}
	return nil, false
}

// tier is the level of an object by its size: sixteen of one become about one of
// the next.
func (m *Merger) tier(size int64) int {
	switch {
	case size >= m.cfg.LargeBytes:
		return 4
	case size >= m.cfg.MiddleBytes:
		return 3
	case size >= m.cfg.MiddleBytes/int64(m.cfg.FanIn):
		return 2
	case size >= m.cfg.MiddleBytes/int64(m.cfg.FanIn)/int64(m.cfg.FanIn):
		return 1
	}
	return 0
}

// target is the size at which fewer than FanIn objects of a tier are merged.
func (m *Merger) target(tier int) int64 {
	if tier <= 2 {
		return m.cfg.MiddleBytes
	}
	return m.cfg.LargeBytes
}

// level picks sets of one tier, the oldest first.
func (m *Merger) level(sets []catalog.Visible) []catalog.Visible {
	var tiers [5][]catalog.Visible
	for _, v := range sets {
		t := m.tier(v.Object.Size)
		tiers[t] = append(tiers[t], v)
	}
	for t, all := range tiers {
		var size int64
		for i, v := range all {
			size += v.Object.Size
			if t < 4 && (i+1 == m.cfg.FanIn || i > 0 && size >= m.target(t)) {
				return all[:i+1]
			}
		}
		// The last level does not grow: it merges only to let partitions leave.
		if n := m.cfg.FanIn; t == 4 && len(all) >= n && m.leave(all[:n]) >= m.cfg.LargeBytes {
			return all[:n]
		}
	}
	return nil
}

// leave is how many bytes would leave the sets if these were merged: of stretches
// that are together, since others lie between the rest.
func (m *Merger) leave(sets []catalog.Visible) (sum int64) {
	byPartition := map[catalog.Partition][]catalog.Range{}
	for _, v := range sets {
		for i, n := range m.Catalog.Needs(v) {
			if n == catalog.NeedRecords {
				byPartition[v.Ranges[i].Partition] = append(byPartition[v.Ranges[i].Partition], v.Ranges[i])
			}
		}
	}
	var large []int64
	for p, all := range byPartition {
		slices.SortFunc(all, func(x, y catalog.Range) int { return cmp.Compare(x.Base, y.Base) })
		shown := m.Catalog.Extents(p)
		for first := 0; first < len(all); {
			var together int64
			next := first
			for ; next < len(all) && (next == first || neighbours(shown, all[next-1].End, all[next].Base)); next++ {
				together += all[next].Bytes
			}
			if _, taken := m.Catalog.SingleAt(p, all[first].Base); together >= m.cfg.LeaveBytes && !taken {
				large = append(large, together)
			}
			first = next
		}
	}
	slices.Sort(large)
	for _, n := range large[max(0, len(large)-maxLeaving):] {
		sum += n
	}
	return sum
}

// neighbours picks objects of one partition that follow one another.
func (m *Merger) neighbours(p catalog.Partition, singles []catalog.Visible) []catalog.Visible {
	own := map[string]catalog.Visible{}
	for _, v := range singles {
		own[v.Object.Name] = v
	}
	var run []catalog.Visible
	var size int64
	tier := 0
	for _, x := range m.Catalog.Extents(p) {
		v, ok := own[x.Object.Name]
		whole := ok && x.Base == x.SpanBase && x.End == x.SpanEnd
		t := 0 // the first three tiers are one here: flushes of a busy partition
		if ok && x.Object.Size >= m.cfg.MiddleBytes {
			t = m.tier(x.Object.Size)
		}
		// What was compacted says so by its generation, and stays apart.
		if !whole || t == 4 || len(run) > 0 && (t != tier || compacted(x.Object) != compacted(run[0].Object)) {
			run, size = nil, 0
			if !whole || t == 4 {
				continue
			}
		}
		run, size, tier = append(run, v), size+x.Object.Size, t
		if len(run) == m.cfg.FanIn || len(run) > 1 && size >= m.target(t) {
			return run
		}
	}
	return nil
}

// wasteful picks objects of which at least half is not needed any more but the
// rest is.
func (m *Merger) wasteful(sets []catalog.Visible, singles map[catalog.Partition][]catalog.Visible) (job []catalog.Visible) {
	var left int64
	uses := m.Catalog.Uses()
	add := func(v catalog.Visible) bool {
		var all int64
		for _, r := range v.Ranges {
			all += r.Bytes
		}
		use := uses[v.Object.Name]
		needed := use.Records
		if all == 0 || needed > all/2 || !use.Needed { // without anything needed it is retired as it is
			return true
		}
		job = append(job, v)
		left += needed
		return len(job) < m.cfg.FanIn && left < m.cfg.MiddleBytes
	}
	for _, v := range sets {
		if !add(v) {
			return job
		}
	}
	partitions := make([]catalog.Partition, 0, len(singles))
	for p := range singles {
		partitions = append(partitions, p)
	}
	slices.SortFunc(partitions, func(a, b catalog.Partition) int { return cmp.Compare(a.String(), b.String()) })
	for _, p := range partitions {
		for _, v := range singles[p] {
			if !add(v) {
				return job
			}
		}
	}
	return job
}

// maxLeaving bounds the partitions that leave the sets in one merge. More than
// about ten make a staged replacement.
const maxLeaving = 400

// run does one job.
func (m *Merger) run(ctx context.Context, job []catalog.Visible) error {
	g := &gets{m.Store, m.Limiter, &m.stats}
	inputs := make([]*input, len(job))
	f := object.Footer{Nonce: m.Nonce}
	for i, v := range job {
		in, err := g.open(ctx, m.Catalog.ClusterID(), v)
		if err != nil {
			return fmt.Errorf("merge %d objects: %w", len(job), err)
		}
		inputs[i] = in
		f.Inputs = append(f.Inputs, v.Object.Name)
	}
	joints, err := m.gather(ctx, g, inputs)
	if err != nil {
		return fmt.Errorf("merge %d objects: %w", len(job), err)
	}
	outputs, err := m.outputs(g, inputs, joints, f)
	if err != nil {
		return fmt.Errorf("merge %d objects: %w", len(job), err)
	}
	if err := m.exchange(ctx, &m.stats, catalog.Replace{Inputs: job}, outputs); err != nil {
		return fmt.Errorf("merge %d objects: %w", len(job), err)
	}
	m.Log.Debug("merged objects", "inputs", len(inputs), "outputs", len(outputs))
	return nil
}

// outputs decides which partitions get objects of their own, and lays out all.
func (m *Merger) outputs(g *gets, inputs []*input, joints []joint, f object.Footer) ([]*output, error) {
	leaving := m.leaving(inputs, joints)
	var outputs []*output
	add := func(all []joint, single bool) error {
		f.Identity, f.Generation = m.identity(), 0
		for _, in := range inputs {
			if !in.visible.Single {
				f.Generation = max(f.Generation, in.visible.Object.Generation+1)
			}
		}
		for _, j := range all {
			f.Generation = max(f.Generation, j.generation+1)
		}
		o, err := m.join(g, inputs, all, f, m.cfg.BlockBytes, m.cfg.Memory, single)
		if err != nil {
			return err
		}
		outputs = append(outputs, o)
		return nil
	}
	var rest []joint
	var size int64
	for i, j := range joints {
		switch {
		case leaving[i]:
			if err := add([]joint{j}, true); err != nil {
				return nil, err
			}
			continue
		case j.generation >= cleanStep:
			// A set's generation would no longer say what was compacted.
			return nil, fmt.Errorf("%w: the key of %s at %d is taken", catalog.ErrChanged, j.p, j.base)
		case len(rest) > 0 && size+j.bytes > m.cfg.LargeBytes:
			if err := add(rest, false); err != nil {
				return nil, err
			}
			rest, size = nil, 0
		}
		rest, size = append(rest, j), size+j.bytes
	}
	if len(rest) > 0 {
		if err := add(rest, false); err != nil {
			return nil, err
		}
	}
	return outputs, nil
}

// leaving picks the joints that become single-partition objects: those with at
// least LeaveBytes, the largest first, and all that only had such ones.
func (m *Merger) leaving(inputs []*input, joints []joint) map[int]bool {
	own := map[string]bool{} // keys of inputs that are overwritten
	for _, in := range inputs {
		if in.visible.Single {
			own[in.visible.Object.Name] = true
		}
	}
	var large []int
	for i, j := range joints {
		onlySingles := j.bytes > 0 && !slices.ContainsFunc(j.spans, func(s stretch) bool { return !inputs[s.input].visible.Single })
		if j.bytes < m.cfg.LeaveBytes && !onlySingles {
			continue
		}
		// An object of the partition that starts at the same offset and stays: its
		// key is taken.
		if v, ok := m.Catalog.SingleAt(j.p, j.base); ok && !own[v.Object.Name] {
			continue
		}
		large = append(large, i)
	}
	slices.SortStableFunc(large, func(a, b int) int { return cmp.Compare(joints[b].bytes, joints[a].bytes) })
	leaving := map[int]bool{}
	for _, i := range large[:min(len(large), maxLeaving)] {
		leaving[i] = true
	}
	return leaving
}
