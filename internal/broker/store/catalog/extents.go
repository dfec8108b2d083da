package catalog

import (
	"cmp"
	"slices"
)

// shelf is what visible objects hold of one partition: every span, and what
// readers see of them. Slices of extents are never changed in place below their
// length, so a reader may keep one.
type shelf struct {
	all   []Extent // unclipped, in no order
	shown []Extent // disjoint, by Base and End
}

func extent(r Range, o *Object) Extent {
	return Extent{r.Base, r.End, r.Base, r.End, r.MaxTimestamp, r.Bytes, r.TailDepth, o}
}

// insert adds the object's ranges.
func (ix *index) insert(e objEntry) {
	for _, r := range e.ranges {
		s := ix.shelves[r.Partition]
		if s == nil {
			s = &shelf{}
			ix.shelves[r.Partition] = s
		}
		x := extent(r, e.object)
		s.all = append(s.all, x)
		n := len(s.shown)
		if usual := x.Base < x.End && (n == 0 || s.shown[n-1].End <= x.Base); usual && !ix.later[r.Partition] {
			s.shown = append(s.shown, x) // a flush
		} else {
			ix.paint(r.Partition, s)
		}
	}
}

// paint renews what readers see of a partition, or notes that it is to be done.
func (ix *index) paint(p Partition, s *shelf) {
	if ix.later != nil {
		ix.later[p] = true
		return
	}
	s.shown = paint(s.all)
}

// repaint does what was noted: a merge of many partitions changes each of them
// many times.
func (ix *index) repaint() {
	for p := range ix.later {
		if s := ix.shelves[p]; s != nil {
			s.shown = paint(s.all)
		}
	}
	ix.later = nil
}

// remove takes the object's ranges out; what they hid is seen again.
func (ix *index) remove(e objEntry) {
	for _, r := range e.ranges {
		s := ix.shelves[r.Partition]
		if s == nil {
			continue // a further range of the partition
		}
		s.all = slices.DeleteFunc(s.all, func(x Extent) bool { return x.Object.Name == e.object.Name })
		if len(s.all) == 0 {
			delete(ix.shelves, r.Partition)
			continue
		}
		ix.paint(r.Partition, s)
	}
}

// better says which of two that hold the same offsets is read: the one of the
// higher generation. Of equal ones, which are copies, any will do.
func better(a, b Extent) bool {
	return cmp.Or(cmp.Compare(a.Object.Generation, b.Object.Generation), cmp.Compare(a.Object.Name, b.Object.Name)) > 0
}

// paint returns what readers see of spans: for every offset the best one.
func paint(all []Extent) []Extent {
	spans := make([]Extent, 0, len(all))
	var tails []Extent // spans without offsets, that keep a tail section
	cuts := make([]int64, 0, 2*len(all))
	for _, x := range all {
		if x.SpanBase == x.SpanEnd {
			tails = append(tails, x)
			continue
		}
		spans = append(spans, x)
		cuts = append(cuts, x.SpanBase, x.SpanEnd)
	}
	slices.SortFunc(spans, func(a, b Extent) int { return cmp.Compare(a.SpanBase, b.SpanBase) })
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	shown := make([]Extent, 0, len(spans)+len(tails))
	var over []Extent // that hold the stretch
	at := 0
	for i := 0; i+1 < len(cuts); i++ {
		from, to := cuts[i], cuts[i+1]
		over = slices.DeleteFunc(over, func(x Extent) bool { return x.SpanEnd <= from })
		for ; at < len(spans) && spans[at].SpanBase <= from; at++ {
			over = append(over, spans[at])
		}
		if len(over) == 0 {
			continue
		}
		best := over[0]
		for _, x := range over[1:] {
			if better(x, best) {
				best = x
			}
		}
		if n := len(shown); n > 0 && shown[n-1].End == from && shown[n-1].Object == best.Object && shown[n-1].SpanBase == best.SpanBase {
			shown[n-1].End = to
			continue
		}
		best.Base, best.End = from, to
		shown = append(shown, best)
	}
	for i := range shown {
		if x := &shown[i]; x.End-x.Base < x.SpanEnd-x.SpanBase {
			x.Bytes = int64(float64(x.Bytes) * float64(x.End-x.Base) / float64(x.SpanEnd-x.SpanBase))
		}
	}
	// Nobody needs a tail without offsets where a better one is or where an extent
	// goes on. What starts where it is may build on it, and what ends there has at
	// best as good a tail.
	disjoint := shown
	for _, x := range tails {
		if !slices.ContainsFunc(disjoint, func(o Extent) bool { return o.Base < x.Base && x.Base < o.End }) &&
			!slices.ContainsFunc(tails, func(o Extent) bool { return o.Base == x.Base && better(o, x) }) {
			shown = append(shown, x)
		}
	}
	if len(tails) > 0 {
		slices.SortFunc(shown, func(a, b Extent) int {
			return cmp.Or(cmp.Compare(a.Base, b.Base), cmp.Compare(a.End, b.End))
		})
	}
	return shown
}

// Extents returns what objects hold of a partition, by offset. Don't change it.
func (c *Catalog) Extents(p Partition) []Extent {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.ix.shown(p)
}

func (ix *index) shown(p Partition) []Extent {
	s := ix.shelves[p]
	if s == nil {
		return nil
	}
	return s.shown[:len(s.shown):len(s.shown)]
}

// Find returns the first extent that ends above offset: the one that holds it
// or, where nothing holds it, the next.
func (c *Catalog) Find(p Partition, offset int64) (Extent, bool) {
	all := c.Extents(p)
	at, _ := slices.BinarySearchFunc(all, offset, func(x Extent, o int64) int {
		if x.End > o {
			return 1
		}
		return -1
	})
	if at == len(all) {
		return Extent{}, false
	}
	return all[at], true
}

// Chain returns, of a partition's extents, those whose tails make up its
// producer state, newest first: the last one and, while a tail is a delta, the
// one before its span.
func Chain(all []Extent) []Extent {
	var chain []Extent
	for i := len(all) - 1; i >= 0; {
		x := all[i]
		chain = append(chain, x)
		if x.TailDepth == 0 {
			break
		}
		for i--; i >= 0 && all[i].End > x.SpanBase; i-- {
		}
	}
	return chain
}

// Visible is an object the catalog names, as of the moment it was asked.
type Visible struct {
	Object *Object
	Ranges []Range // don't change them
	Single bool    // of one partition, named under its offsets
	Rev    int64   // since when
	key    string
}

// Visible returns all objects, oldest first.
func (c *Catalog) Visible() []Visible {
	c.mu.RLock()
	all := make([]Visible, 0, len(c.ix.objects))
	for key, e := range c.ix.objects {
		all = append(all, visible(key, e))
	}
	c.mu.RUnlock()
	slices.SortFunc(all, func(a, b Visible) int {
		return cmp.Or(cmp.Compare(a.Rev, b.Rev), cmp.Compare(a.Object.Name, b.Object.Name))
	})
	return all
}

// Lookup returns the object of that name, if it is visible.
func (c *Catalog) Lookup(name string) (Visible, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	key, ok := c.ix.keys[name]
	if !ok {
		return Visible{}, false
	}
	return visible(key, c.ix.objects[key]), true
}

func visible(key string, e objEntry) Visible {
	return Visible{e.object, e.ranges, isSingle(key), e.modRev, key}
}

func isSingle(key string) bool {
	return len(key) > len(prefixObjs) && key[:len(prefixObjs)] == prefixObjs
}

// Need is what of a range is still needed.
type Need uint8

const (
	NeedNothing Need = iota // the topic is gone, others hold it, or it lies below the log start
	NeedTail                // its tail section, for the partition's end and producers
	NeedRecords
)

// needed calls fn for what is needed of a partition: extents with records above
// the log start, and those whose tails make up its state. One may come twice, the
// tail first.
func needed(shown []Extent, logStart int64, fn func(Extent, Need)) {
	for _, x := range Chain(shown) {
		fn(x, NeedTail)
	}
	at, _ := slices.BinarySearchFunc(shown, logStart, func(x Extent, o int64) int {
		if x.End > o {
			return 1
		}
		return -1
	})
	for _, x := range shown[at:] {
		fn(x, NeedRecords)
	}
}

// view returns what readers see of a partition and its log start; nothing of one
// whose topic is gone.
func (c *Catalog) view(p Partition) (shown []Extent, logStart int64) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if _, ok := c.ix.topics[p.Topic]; !ok {
		return nil, 0
	}
	return c.ix.shown(p), c.ix.parts[p].LogStart
}

// Needs returns what is needed of each range of an object.
func (c *Catalog) Needs(v Visible) []Need {
	needs := make([]Need, len(v.Ranges))
	for i, r := range v.Ranges {
		shown, start := c.view(r.Partition)
		needed(shown, start, func(x Extent, n Need) {
			if x.SpanBase == r.Base && x.Object.Name == v.Object.Name {
				needs[i] = max(needs[i], n)
			}
		})
	}
	return needs
}

// Use is what is needed of an object.
type Use struct {
	Needed  bool  // at all
	Records int64 // bytes of spans with records that are needed
}

// Uses returns what is needed of all objects, by name. The lock is held for one
// partition at a time; who acts on the answer compares that objects are unchanged.
func (c *Catalog) Uses() map[string]Use {
	c.mu.RLock()
	all := make([]Partition, 0, len(c.ix.shelves))
	for p := range c.ix.shelves {
		all = append(all, p)
	}
	uses := make(map[string]Use, len(c.ix.objects))
	c.mu.RUnlock()
	for _, p := range all {
		shown, start := c.view(p)
		needed(shown, start, func(x Extent, n Need) {
			u := uses[x.Object.Name]
			u.Needed = true
			if n == NeedRecords {
				u.Records += x.Bytes
			}
			uses[x.Object.Name] = u
		})
	}
	return uses
}

// SingleAt returns the single-partition object whose range starts at base.
func (c *Catalog) SingleAt(p Partition, base int64) (Visible, bool) {
	key := objKey(p, base)
	c.mu.RLock()
	defer c.mu.RUnlock()
	e, ok := c.ix.objects[key]
	if !ok {
		return Visible{}, false
	}
	return visible(key, e), true
}
