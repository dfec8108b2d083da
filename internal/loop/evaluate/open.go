package evaluate

import (
	"bytes"
	"cmp"
	"container/list"
	"errors"
	"slices"
	"time"

	"github.com/looptape/looptape/internal/loop/event"
	"github.com/looptape/looptape/internal/loop/stream"
)

// openState is an open request in memory.
type openState struct {
	key  string
	meta meta
	req  *request
	size int // of memory, about
}

// An openSet knows every open request of a task by its last event, and holds
// the decoded state of the most recent ones within a budget of bytes. One
// goroutine owns it.
type openSet struct {
	budget int
	used   int
	all    map[string]*list.Element // of order
	order  *list.List               // of string keys: longest idle in front
	held   map[string]*list.Element // of recent
	recent *list.List               // of *openState: least recently used in front
}

func newOpenSet(budget int) *openSet {
	return &openSet{budget: budget, all: map[string]*list.Element{}, order: list.New(), held: map[string]*list.Element{}, recent: list.New()}
}

func (o *openSet) len() int            { return len(o.all) }
func (o *openSet) has(key string) bool { return o.all[key] != nil }
func (o *openSet) oldest() string      { return o.order.Front().Value.(string) }

// touch notes that something came for the request.
func (o *openSet) touch(key string) {
	if at := o.all[key]; at != nil {
		o.order.MoveToBack(at)
		return
	}
	o.all[key] = o.order.PushBack(key)
}

func (o *openSet) get(key string) *openState {
	at := o.held[key]
	if at == nil {
		return nil
	}
	o.recent.MoveToBack(at)
	return at.Value.(*openState)
}

// hold keeps the state in memory, and lets others go that no longer fit.
func (o *openSet) hold(s *openState) {
	size := 512 + 2*s.req.bytes + 512*len(s.req.parts)
	o.used += size - s.size
	s.size = size
	if o.held[s.key] == nil {
		o.held[s.key] = o.recent.PushBack(s)
	}
	for o.used > o.budget && o.recent.Len() > 1 {
		o.release(o.recent.Front().Value.(*openState).key)
	}
}

func (o *openSet) release(key string) {
	at := o.held[key]
	if at == nil {
		return
	}
	s := o.recent.Remove(at).(*openState)
	delete(o.held, key)
	o.used -= s.size
	s.size = 0
}

func (o *openSet) remove(key string) {
	o.release(key)
	if at := o.all[key]; at != nil {
		o.order.Remove(at)
		delete(o.all, key)
	}
}

// load finds the open requests of a task when the handler is new.
func (h *handler) load(t task) error {
	if h.loaded {
		return nil
	}
	type opened struct {
		key  string
		last int64
	}
	var all []opened
	err := t.Scan([]byte{prefixMeta}, func(k, v []byte) error {
		m, err := decodeMeta(v)
		if err != nil {
			return err
		}
		all = append(all, opened{string(k[1:]), m.Last})
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b opened) int { return cmp.Or(cmp.Compare(a.last, b.last), cmp.Compare(a.key, b.key)) })
	for _, o := range all {
		h.open.touch(o.key)
	}
	h.loaded = true
	return nil
}

// state is the state of a request, from memory or the store, or a new one. A
// folded request is opened again from the tape; when its parts are no longer
// there, it is nil: what was scored stands.
func (h *handler) state(t task, key string) (*openState, error) {
	if s := h.open.get(key); s != nil {
		return s, nil
	}
	tenant, id, err := splitKey(key)
	if err != nil {
		return nil, err
	}
	s := &openState{key: key, req: newRequest(tenant, id)}
	switch {
	case h.open.has(key):
		b, err := t.Get(storeKey(prefixMeta, key, ""))
		if err != nil {
			return nil, err
		}
		if s.meta, err = decodeMeta(b); err != nil {
			return nil, err
		}
	default:
		f, err := h.folded(t, key)
		if err != nil {
			return nil, err
		}
		if f == nil {
			return s, nil
		}
		s.meta = *f
	}
	gone, err := h.parts(t, s)
	if err != nil {
		return nil, err
	}
	if gone {
		h.r.metrics.events.WithLabelValues("parts_gone").Inc()
		return nil, nil
	}
	s.req.settled, s.req.oversize = s.meta.Settled, s.meta.Oversize
	if s.meta.Done != nil {
		s.req.done = s.meta.Done
	}
	if !h.open.has(key) { // it was folded, and is not any more
		if err := t.Delete(storeKey(prefixFolded, key, "")); err != nil {
			return nil, err
		}
		if err := t.SetTimer(t.Now().Add(h.r.cfg.Idle), []byte(key)); err != nil {
			return nil, err
		}
		s.meta.Last = t.Now().UnixNano()
		return s, h.save(t, s)
	}
	return s, nil
}

// parts reads the parts of a request. gone says that one lay on the tape and is
// no longer there.
func (h *handler) parts(t task, s *openState) (gone bool, err error) {
	var recs []event.Record
	var ids []string
	places := map[int]bool{}
	prefix := storeKey(prefixPart, s.key, "")
	err = t.Scan(prefix, func(k, v []byte) error {
		r, kind, err := decodePart(bytes.Clone(v))
		if err != nil {
			return err
		}
		if kind == kindPlace {
			places[len(recs)] = true
		}
		recs = append(recs, r)
		ids = append(ids, string(k[len(prefix):]))
		return nil
	})
	if err != nil {
		return false, err
	}
	unlimited := Config{MaxParts: len(recs) + 1, MaxBytes: 1 << 62}
	for i := range recs {
		r := &recs[i]
		if places[i] {
			if h.log == nil {
				return true, nil
			}
			at := event.Position{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset}
			got, err := h.log.ReadAt(t.Context(), at)
			if errors.Is(err, stream.ErrGone) {
				return true, nil
			}
			if err != nil {
				return false, err
			}
			*r = got
		}
		e, err := event.Decode(r)
		if errors.Is(err, event.ErrNotEvent) || e.ID != ids[i] {
			if !places[i] {
				return false, errors.New("state of a request: a part is not what its key says")
			}
			return true, nil // the log is another one
		}
		lost, err := h.resolve(t.Context(), &e)
		if err != nil {
			return false, err
		}
		p := newPart(e, lost)
		size := len(e.Data)
		s.req.add(p, size, &unlimited)
		if places[i] {
			if err := t.Put(storeKey(prefixPart, s.key, e.ID), encodePart(r, kindRecord, p.carries != 0)); err != nil {
				return false, err
			}
		}
	}
	return false, nil
}

func (h *handler) folded(t task, key string) (*meta, error) {
	b, err := t.Get(storeKey(prefixFolded, key, ""))
	if err != nil || b == nil {
		return nil, err
	}
	m, err := decodeMeta(b)
	return &m, err
}

// save writes what changed of a request and keeps it at hand.
func (h *handler) save(t task, s *openState) error {
	s.meta.Parts, s.meta.Bytes = len(s.req.parts), s.req.bytes
	s.meta.Settled, s.meta.Oversize, s.meta.Done = s.req.settled, s.req.oversize, s.req.done
	b, err := s.meta.encode()
	if err != nil {
		return err
	}
	if err := t.Put(storeKey(prefixMeta, s.key, ""), b); err != nil {
		return err
	}
	h.open.touch(s.key)
	h.open.hold(s)
	return nil
}

// close keeps a request that was looked at and not changed.
func (h *handler) close(s *openState) {
	if h.open.has(s.key) {
		h.open.hold(s)
	}
}

// fold keeps of a request only what it takes to open it again.
func (h *handler) fold(t task, s *openState) error {
	var keys, values [][]byte
	err := t.Scan(storeKey(prefixPart, s.key, ""), func(k, v []byte) error {
		r, kind, err := decodePart(v)
		if err != nil {
			return err
		}
		if kind == kindRecord {
			keys = append(keys, bytes.Clone(k))
			values = append(values, encodePart(&r, kindPlace, false))
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, k := range keys {
		if err := t.Put(k, values[i]); err != nil {
			return err
		}
	}
	s.meta.Settled, s.meta.Oversize, s.meta.Done = s.req.settled, s.req.oversize, s.req.done
	b, err := s.meta.encode()
	if err != nil {
		return err
	}
	if err := t.Put(storeKey(prefixFolded, s.key, ""), b); err != nil {
		return err
	}
	if err := t.Delete(storeKey(prefixMeta, s.key, "")); err != nil {
		return err
	}
	h.open.remove(s.key)
	h.r.metrics.events.WithLabelValues("folded_request").Inc()
	return t.SetTimer(time.Unix(0, s.meta.Last).Add(h.r.cfg.Remember), []byte(s.key))
}

// forget removes a folded request.
func (h *handler) forget(t task, key string) error {
	keys := [][]byte{storeKey(prefixFolded, key, "")}
	err := t.Scan(storeKey(prefixPart, key, ""), func(k, _ []byte) error {
		keys = append(keys, bytes.Clone(k))
		return nil
	})
	if err != nil {
		return err
	}
	for _, k := range keys {
		if err := t.Delete(k); err != nil {
			return err
		}
	}
	return nil
}
