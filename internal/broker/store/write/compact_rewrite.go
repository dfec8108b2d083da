package write

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/object"
)

// maxSources bounds the extents that one transaction replaces, and maxPieces the
// objects it puts in their place.
const (
	maxSources = 12
	maxPieces  = 16
)

// rewrite is the second pass. It goes from lower offsets to higher, so that
// whatever it has done when it is interrupted is as if later records had not been
// compacted yet.
func (n *cleaning) rewrite(ctx context.Context) error {
	var group []source
	var size int64
	flush := func() error {
		if len(group) == 0 {
			return nil
		}
		err := n.replace(ctx, group)
		group, size = nil, 0
		return err
	}
	prefix := true // only compacted sources so far
	for _, s := range n.sources {
		if s.Base >= n.upto {
			break
		}
		if prefix = prefix && s.clean; prefix {
			// What loses nothing stays. The group before it must be done first: a
			// transaction may reach from one source into the next.
			if err := flush(); err != nil {
				return err
			}
			changed, err := n.changes(ctx, s)
			if err != nil {
				return err
			}
			if !changed {
				continue
			}
		}
		// A source that is compacted only in part is by itself, since the rest of it
		// keeps a generation that says so.
		if len(group) > 0 && (len(group) == maxSources || size+s.Bytes > n.c.cfg.GroupBytes || s.End > n.upto) {
			if err := flush(); err != nil {
				return err
			}
		}
		group, size = append(group, s), size+s.Bytes
	}
	return flush()
}

// changes says whether filtering would change a source. If not, what is known of
// open transactions moves on behind it.
func (n *cleaning) changes(ctx context.Context, s source) (bool, error) {
	left, gone := maps.Clone(n.left), maps.Clone(n.gone)
	changed := false
	err := n.batches(ctx, s, func(b batch.Batch) error {
		if f := n.filter(b); !bytes.Equal(f, b) {
			changed = true
		}
		return nil
	})
	if changed || err != nil {
		n.left, n.gone = left, gone
	}
	return changed, err
}

// piece is an output in the making.
type piece struct {
	base  int64
	units []object.Unit
	bytes int64
	clean bool
}

// replace filters a group of neighbouring sources and puts what is left in their
// place, in one transaction.
func (n *cleaning) replace(ctx context.Context, group []source) error {
	r := n.inputsOf(group)
	f := object.Footer{Nonce: n.c.Nonce}
	var generation int32
	var total int64
	for _, s := range group {
		generation = max(generation, s.Object.Generation)
		total += s.Bytes
	}
	for _, v := range r.Inputs {
		f.Inputs = append(f.Inputs, v.Object.Name)
	}
	limit := max(n.c.cfg.PieceBytes, total/(maxPieces-4))
	var outputs []*output
	defer func() { n.c.forget(outputs) }()
	cur := piece{base: group[0].Base, clean: true}
	finish := func(end int64, clean bool) error {
		if f.Generation = generation + 1; cur.clean {
			f.Generation = (generation/cleanStep + 1) * cleanStep
		}
		o, err := n.pack(f, group, cur, end)
		if err != nil {
			return err
		}
		outputs = append(outputs, o)
		n.c.Names.add(o.name())
		if err := n.c.put(ctx, &n.c.stats.JobStats, o); err != nil {
			return err
		}
		o.body = nil // its memory is used again
		cur = piece{base: end, clean: clean}
		return nil
	}
	end := group[len(group)-1].End
	for _, s := range group {
		err := n.batches(ctx, s, func(b batch.Batch) error {
			if cur.clean && b.BaseOffset() >= n.upto && b.BaseOffset() > cur.base {
				if err := finish(b.BaseOffset(), false); err != nil {
					return err
				}
			}
			left := n.filter(b)
			n.c.stats.dropped.Add(int64(b.Count()))
			if left == nil {
				return nil
			}
			n.c.stats.dropped.Add(-int64(left.Count()))
			if cur.bytes > 0 && cur.bytes+int64(len(left)) > limit {
				if err := finish(b.BaseOffset(), cur.clean); err != nil {
					return err
				}
			}
			if &left[0] == &b[0] {
				left = bytes.Clone(left) // a small batch must not keep a large block in memory
			}
			cur.units = append(cur.units, object.Unit{
				Base: left.BaseOffset(), Last: left.LastOffset(), MaxTimestamp: left.MaxTimestamp(), Batches: 1, Bytes: left,
			})
			cur.bytes += int64(len(left))
			return nil
		})
		if err != nil {
			return err
		}
	}
	if err := finish(end, true); err != nil {
		return err
	}
	return n.c.commit(ctx, &n.c.stats.JobStats, r, outputs)
}

// inputsOf decides which objects of a group go: those of the partition alone of
// which nothing is left to see. The others stay, and are hidden where the outputs
// are.
func (n *cleaning) inputsOf(group []source) catalog.Replace {
	r := catalog.Replace{Steady: []catalog.Steady{n.steady}}
	shown := map[string]int{}
	for _, x := range n.c.Catalog.Extents(n.steady.Partition) {
		shown[x.Object.Name]++
	}
	for _, s := range group {
		shown[s.Object.Name]--
	}
	for _, s := range group {
		v := s.in.visible
		same := func(o catalog.Visible) bool { return o.Object.Name == v.Object.Name }
		switch {
		case slices.ContainsFunc(r.Inputs, same) || slices.ContainsFunc(r.Covered, same):
		case v.Single && shown[v.Object.Name] == 0:
			r.Inputs = append(r.Inputs, v)
		default:
			r.Covered = append(r.Covered, v)
		}
	}
	return r
}

// pack makes an output of [cur.base, end).
func (n *cleaning) pack(f object.Footer, group []source, cur piece, end int64) (*output, error) {
	f.Identity = n.c.identity()
	part := object.Part{
		Topic: n.steady.Partition.Topic, Partition: n.steady.Partition.Index, Units: cur.units, Tail: n.tail(group, cur, end),
	}
	p, err := object.Pack(f, n.c.cfg.BlockBytes, []object.Part{part})
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", f.Identity.Name(), err)
	}
	return &output{
		footer: p.Footer, index: p.Index, size: p.Size(), single: true,
		body: func(context.Context) body { return p },
	}, nil
}

// tail is the state at end. Producers are as they are now, which is never older:
// so every output has a full snapshot, and nothing builds on what is before it.
func (n *cleaning) tail(group []source, cur piece, end int64) object.Tail {
	at := slices.IndexFunc(group, func(s source) bool { return s.End >= end })
	src := group[at].tail
	t := object.Tail{
		TopicName: src.TopicName, LogStart: max(src.LogStart, n.steady.Record.LogStart), Base: cur.base, End: end, LastStable: end,
		LeaderEpoch: src.LeaderEpoch, Producers: n.full,
	}
	for _, e := range src.Epochs {
		if e.Base < end {
			t.Epochs = append(t.Epochs, e)
		}
	}
	for _, e := range n.txns {
		switch {
		case e.First < end && e.Marker >= end:
			t.Open = append(t.Open, batch.OpenTxn{ProducerID: e.ProducerID, First: e.First})
			t.LastStable = min(t.LastStable, e.First)
		case e.Marker >= cur.base && e.Marker < end && !n.gone[e.Marker]:
			t.Ended = append(t.Ended, e)
		}
	}
	newest := int64(-1)
	for _, s := range group {
		for _, x := range s.tail.Samples {
			if newest = max(newest, x.Timestamp); x.Offset >= cur.base && x.Offset < end {
				t.Samples = append(t.Samples, object.Sample{Offset: x.Offset, Timestamp: newest})
			}
		}
	}
	t.Samples = thin(t.Samples)
	return t
}
