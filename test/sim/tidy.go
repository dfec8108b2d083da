package sim

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/object"
)

// tidy waits until everybody has cleared up, and says what is left when that does
// not happen: what the catalog names is there and whole, its ranges have no hole,
// and nothing else is left.
func (w *world) tidy() {
	var left []string
	w.phase("tidy")
	for range 20 {
		time.Sleep(w.plan.store.Sweep.Orphans + 2*w.plan.store.Sweep.Grace + 2*w.plan.store.Sweep.Every + 2*w.plan.store.Background.MergeEvery)
		if left = w.untidy(); len(left) == 0 {
			return
		}
	}
	for _, l := range left {
		w.hist.violate("%s", l)
	}
}

// untidy is one look.
func (w *world) untidy() (left []string) {
	say := func(format string, args ...any) { left = append(left, fmt.Sprintf(format, args...)) }
	_, store := w.available()
	if store == nil {
		return nil
	}
	c := store.Catalog()
	visible := map[string]bool{}
	for _, t := range c.Topics() {
		for i := range t.Partitions {
			p := catalog.Partition{Topic: t.ID, Index: i}
			start := c.Record(p).LogStart
			next := int64(-1)
			for _, x := range c.Extents(p) {
				visible[x.Object.Name] = true
				if x.Base >= x.End {
					continue // only a tail: an end and producers
				}
				if next < 0 && x.Base > start || next >= 0 && x.Base > max(next, start) {
					say("I3: %s: nothing from %d to %d (log start %d)", p, max(next, start), x.Base, start)
				}
				next = max(next, x.End)
			}
		}
	}
	named := map[string]string{}
	newest := map[string]int64{} // epoch, by broker
	w.meta.Scan(context.Background(), "/v1/fence/", func(kv meta.KV) error {
		id, number, _ := strings.Cut(kv.Key[len("/v1/fence/"):], "/")
		epoch, err := strconv.ParseInt(number, 10, 64)
		newest[id] = max(newest[id], epoch)
		return err
	})
	w.meta.Scan(context.Background(), "/v1/", func(kv meta.KV) error {
		rest := kv.Key[len("/v1/"):]
		kind, name, _ := strings.Cut(rest, "/")
		id, _, _ := strings.Cut(name, "/")
		named[name[strings.LastIndexByte(name, '/')+1:]] = kv.Key
		switch kind {
		case "gc":
			say("orphan: key %s is left", kv.Key)
		case "swept":
			// One of a living epoch stays: its put may still be on the way.
			if id, err := object.ParseName(name); err != nil || id.Epoch < newest[strconv.Itoa(int(id.Broker))] {
				say("orphan: key %s is left", kv.Key)
			}
		case "deleted", "parts", "objs":
			if !w.exists(c, id) && !w.shares(c, id) {
				say("orphan: key %s of no topic is left", kv.Key)
			}
		}
		return nil
	})
	prefix := object.Prefix(c.ClusterID())
	stored := map[string]bool{}
	for _, key := range w.blobs.Keys() {
		if name, ok := strings.CutPrefix(key, prefix); ok {
			stored[name] = true
			if !visible[name] {
				say("orphan: object %s is stored, nothing that lives is in it; key %q", name, named[name])
			}
		}
	}
	for name := range visible {
		if !stored[name] {
			say("I3: object %s is visible and not stored", name)
		}
	}
	return append(left, w.damaged()...)
}

func (w *world) exists(c *catalog.Catalog, id string) bool {
	for _, t := range c.Topics() {
		if t.ID.String() == id {
			return true
		}
	}
	return false
}

// shares tells whether an object that lives for another topic's sake still holds
// something of a deleted one.
func (w *world) shares(c *catalog.Catalog, id string) bool {
	for _, t := range w.model.topics {
		for _, p := range t.parts {
			if t.ID.String() == id && len(c.Extents(catalog.Partition{Topic: t.ID, Index: p.id.Index})) > 0 {
				return true
			}
		}
	}
	return false
}
