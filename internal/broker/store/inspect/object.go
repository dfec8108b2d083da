package inspect

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/object"
)

// maxPieceBytes bounds one block or tail: more is no object of ours.
const maxPieceBytes = 256 << 20

// object reads a data object from its start to its end.
func (v *verifier) object(ctx context.Context, t task) error {
	bad := func(off int64, format string, args ...any) error {
		return &Damage{Key: t.key, Offset: off, Problem: fmt.Sprintf(format, args...)}
	}
	size := t.size
	if size < 0 { // put after the listing, or missing
		info, err := v.Blobs.Stat(ctx, t.key)
		if err != nil {
			return err
		}
		size = info.Size
	}
	if t.want != nil && size != t.want.Size {
		return bad(min(size, t.want.Size), "the object has %d bytes, the catalog says %d", size, t.want.Size)
	}
	if size < object.HeaderSize+object.TrailerSize {
		return bad(size, "an object of %d bytes is cut short", size)
	}
	head := make([]byte, object.HeaderSize)
	if err := v.read(ctx, t.key, 0, head); err != nil {
		return err
	}
	if err := object.CheckHeader(head, v.Cluster); err != nil {
		return bad(0, "%v", err)
	}
	f, at, err := v.footer(ctx, t, size)
	if err != nil {
		return err
	}
	if o := t.want; o != nil && (f.IndexPos != o.IndexPos || f.IndexLen != o.IndexLen || f.IndexCRC != o.IndexCRC || f.Blocks != o.Blocks || f.Generation != o.Generation) {
		return bad(at, "the footer is not that of the object the catalog names")
	}
	if f.IndexPos > at || f.IndexLen != at-f.IndexPos {
		return bad(f.IndexPos, "an index of %d bytes, and the footer begins at %d", f.IndexLen, at)
	}
	raw := make([]byte, f.IndexLen)
	if err := v.read(ctx, t.key, f.IndexPos, raw); err != nil {
		return err
	}
	x, err := object.DecodeIndex(raw, int(f.Blocks), f.IndexCRC, f.IndexPos)
	if err != nil {
		return bad(f.IndexPos, "%v", err)
	}
	if err := v.pieces(ctx, t, f, x); err != nil {
		return err
	}
	return v.spansOf(t, x, at)
}

// footer reads the footer and returns where it begins.
func (v *verifier) footer(ctx context.Context, t task, size int64) (*object.Footer, int64, error) {
	at := size - object.TrailerSize
	trailer := make([]byte, object.TrailerSize)
	if err := v.read(ctx, t.key, at, trailer); err != nil {
		return nil, 0, err
	}
	n, err := object.FooterLen(trailer, size)
	if err != nil {
		return nil, 0, &Damage{Key: t.key, Offset: at, Problem: err.Error()}
	}
	at -= n
	b := make([]byte, n, n+object.TrailerSize)
	if err := v.read(ctx, t.key, at, b); err != nil {
		return nil, 0, err
	}
	f, err := object.DecodeFooter(append(b, trailer...))
	if err == nil && object.Key(v.Cluster, f.Identity.Name()) != t.key {
		err = fmt.Errorf("the footer is that of object %s", f.Identity.Name())
	}
	if err == nil && f.Identity.Cluster != v.Cluster {
		err = fmt.Errorf("the footer is of cluster %s", f.Identity.Cluster)
	}
	if err != nil {
		return nil, 0, &Damage{Key: t.key, Offset: at, Problem: err.Error()}
	}
	return f, at, nil
}

// pieces reads blocks and tails, which lie one after the other between header and
// index, a window at a time.
func (v *verifier) pieces(ctx context.Context, t task, f *object.Footer, x *object.Index) error {
	all := slices.Concat(x.Blocks, x.Tails)
	slices.SortStableFunc(all, func(a, b object.Entry) int { return int(min(1, max(-1, a.Pos-b.Pos))) })
	next := int64(object.HeaderSize)
	for _, e := range all {
		if e.Pos != next || e.Len > maxPieceBytes {
			return &Damage{Key: t.key, Offset: next, Problem: fmt.Sprintf("the index has %d bytes at %d there", e.Len, e.Pos)}
		}
		next += int64(e.Len)
	}
	if next != f.IndexPos {
		return &Damage{Key: t.key, Offset: next, Problem: fmt.Sprintf("nothing is known of the bytes up to the index at %d", f.IndexPos)}
	}
	names := map[catalog.TopicID]string{}
	for _, n := range f.Topics {
		names[n.ID] = n.Name
	}
	tails := map[int64]bool{} // by position: where an entry is a tail
	for _, e := range x.Tails {
		tails[e.Pos] = true
	}
	var window []byte
	for len(all) > 0 {
		n, bytes := 0, 0
		for n < len(all) && (n == 0 || bytes+int(all[n].Len) <= v.cfg.Window) {
			bytes += int(all[n].Len)
			n++
		}
		window = slices.Grow(window[:0], bytes)[:bytes]
		if err := v.read(ctx, t.key, all[0].Pos, window); err != nil {
			return err
		}
		rest := window
		for _, e := range all[:n] {
			piece := rest[:e.Len]
			rest = rest[e.Len:]
			err := e.Check(piece)
			switch {
			case err != nil:
				err = fmt.Errorf("%w; it holds %s/%d, offsets %d to %d", err, names[e.Topic], e.Partition, e.Base, e.Last)
			case tails[e.Pos]:
				err = v.tail(piece, e, names)
			default:
				err = v.block(piece, e)
			}
			if err != nil {
				v.damage(Damage{Key: t.key, Offset: e.Pos, Problem: err.Error()}) // and go on: the others may be whole
			}
		}
		all = all[n:]
	}
	return nil
}

// block checks the batches of a block whose own checksum is right.
func (v *verifier) block(b []byte, e object.Entry) error {
	var batches, records int64
	last := e.Base - 1
	for rest := b; len(rest) > 0; {
		h, after, err := batch.Next(rest)
		at := len(b) - len(rest)
		if err == nil {
			err = h.CheckCRC()
		}
		if err == nil && (h.BaseOffset() <= last || h.LastOffset() < h.BaseOffset() || h.LastOffset() > e.Last) {
			err = fmt.Errorf("offsets %d to %d after %d, in a block that ends with %d", h.BaseOffset(), h.LastOffset(), last, e.Last)
		}
		if err != nil {
			return fmt.Errorf("batch %d bytes into the block: %w", at, err)
		}
		last = h.LastOffset()
		batches, records, rest = batches+1, records+int64(h.Count()), after
	}
	if batches != int64(e.Batches) {
		return fmt.Errorf("%d batches, the index says %d", batches, e.Batches)
	}
	v.mu.Lock()
	v.report.Blocks++
	v.report.Batches += batches
	v.report.Records += records
	v.mu.Unlock()
	return nil
}

// tail checks a tail section whose checksum is right.
func (v *verifier) tail(b []byte, e object.Entry, names map[catalog.TopicID]string) error {
	t, err := object.DecodeTail(b)
	if err != nil {
		return err
	}
	if t.Base != e.Base || t.End != e.Last+1 || int32(t.Depth) != e.Batches || t.TopicName != names[e.Topic] {
		return fmt.Errorf("a tail of topic %q, offsets %d to %d, depth %d; the index says %q, %d to %d, %d",
			t.TopicName, t.Base, t.End, t.Depth, names[e.Topic], e.Base, e.Last+1, e.Batches)
	}
	if again := t.Encode(); !bytes.Equal(again, b) {
		return fmt.Errorf("a tail that is not written as this program writes it")
	}
	p := catalog.Partition{Topic: e.Topic, Index: e.Partition}
	v.mu.Lock()
	v.starts[p] = max(v.starts[p], t.LogStart)
	v.names[e.Topic] = t.TopicName
	v.mu.Unlock()
	return nil
}

// spansOf ends an object: its spans are those the catalog has, and it counts.
func (v *verifier) spansOf(t task, x *object.Index, footer int64) error {
	spans := x.Spans()
	if t.span != nil {
		ok := len(spans) == 1 && spans[0].Base == t.span.Base && spans[0].End == t.span.End &&
			spans[0].Topic == t.span.Partition.Topic && spans[0].Partition == t.span.Partition.Index
		if !ok {
			return &Damage{Key: t.key, Offset: footer, Problem: fmt.Sprintf("the object does not hold what the catalog says: offsets %d to %d of partition %s", t.span.Base, t.span.End, t.span.Partition)}
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.report.Objects++
	v.report.Bytes += max(0, t.size)
	for _, s := range spans {
		p := catalog.Partition{Topic: s.Topic, Index: s.Partition}
		v.spans[p] = append(v.spans[p], span{s.Base, s.End})
	}
	return nil
}

// followCatalog makes sure that what readers see of a partition has no hole.
func (v *verifier) followCatalog() {
	for _, topic := range v.Catalog.Topics() {
		for i := range topic.Partitions {
			p := catalog.Partition{Topic: topic.ID, Index: i}
			var spans []span
			for _, x := range v.Catalog.Extents(p) {
				spans = append(spans, span{x.Base, x.End})
			}
			v.follow(fmt.Sprintf("%s/%d", topic.Name, i), v.Catalog.Record(p).LogStart, spans)
		}
	}
}

// followObjects does without a catalog: a partition begins where its oldest object
// does, unless a tail knows of a later start. Deleted topics have a tomb.
func (v *verifier) followObjects(ctx context.Context) error {
	dead := map[string]bool{}
	prefix := "tomb/" + v.Cluster + "/"
	if err := v.keys(ctx, prefix, func(key string) { dead[strings.TrimPrefix(key, prefix)] = true }); err != nil {
		return err
	}
	for p, spans := range v.spans {
		if dead[p.Topic.String()] {
			continue
		}
		start := spans[0].base
		for _, s := range spans {
			start = min(start, s.base)
		}
		v.follow(fmt.Sprintf("%s/%d", v.names[p.Topic], p.Index), max(start, v.starts[p]), spans)
	}
	return nil
}

// follow reports the holes in a partition.
func (v *verifier) follow(name string, start int64, spans []span) {
	slices.SortFunc(spans, func(a, b span) int {
		if a.base != b.base {
			return int(min(1, max(-1, a.base-b.base)))
		}
		return int(min(1, max(-1, a.end-b.end)))
	})
	next := start
	any := false
	for _, s := range spans {
		if s.base == s.end || s.end <= start {
			continue // a tail alone, or below the log start
		}
		any = true
		if s.base > next {
			v.damage(Damage{Partition: name, Offset: next, Problem: fmt.Sprintf("offsets %d to %d are in no object", next, s.base-1)})
		}
		next = max(next, s.end)
	}
	if any {
		v.report.Partitions++
	}
}
