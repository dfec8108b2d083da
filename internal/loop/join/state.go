package join

import (
	"encoding/binary"

	"github.com/looptape/looptape/internal/loop/event"
)

// What join keeps, in the task's store:
//
//	s key             the state of a request or an alias (codec.go)
//	o key list id     an item that a full list has counted and does not hold
//	w key digest      an event that may have to follow an alias: where it lies
//
//	key    uvarint(len) tenant uvarint(len) request: none is the beginning of another
//	list   one byte: the set (o own, l loose) and the list (p, s, l) in one
const (
	prefixState   = "s"
	prefixOver    = "o"
	prefixWaiting = "w"
)

func stateKey(tenant, request string) string {
	b := make([]byte, 0, len(tenant)+len(request)+4)
	b = binary.AppendUvarint(b, uint64(len(tenant)))
	b = append(b, tenant...)
	b = binary.AppendUvarint(b, uint64(len(request)))
	return string(append(b, request...))
}

// A state is what lies under one id: a request's, an alias's, or one that may
// still turn out to be either.
type state struct {
	own       set      // of the id's own trace, and what was re-keyed to it
	loose     set      // what came under the id without being of its trace; empty once it is an alias
	bound     []string // requests that it is an alias of, sorted
	vias      []string // aliases by which events were re-keyed to it, sorted
	stands    bool     // a case stands on llm.case, or may
	withdrawn bool     // a tombstone stands on llm.case
	seen      int64    // weight of all that came under the id without being of its trace

	key, tenant, request string // not encoded
	dirty, revised       bool   // since the last flush
}

// A set is a set of events in the form in which a case needs them.
type set struct {
	name   byte
	parts  list[part]
	scores list[score]
	labels list[label]
	over   over
}

// over is what is known of the items that the lists do not hold.
type over struct {
	counts      [kinds]int64 // parts by kind, and scores
	labels      int64
	first, last int64 // times of parts that are no feedback; valid if any is counted
	cost        int64
	usage       event.Usage
	used        bool // usage is known of one of them
}

// Names of the sets and lists in the keys of items that were pushed out.
const (
	ownSet, looseSet = 0, 1

	listParts, listScores, listLabels = 'p', 's', 'l'
)

func (x *set) overKey(s *state, list byte, id string) []byte {
	k := append([]byte(prefixOver+s.key), list+x.name)
	return append(k, id...)
}

// add merges an event. It tells whether the set has changed.
func (x *set) add(t task, s *state, e *event.Event) (changed bool, err error) {
	if e.Position.Topic == event.TopicScore {
		sc, ok := newScore(e)
		if !ok {
			return false, nil
		}
		return x.addScore(t, s, sc)
	}
	p := newPart(e)
	if changed, err = x.addPart(t, s, p); err != nil || p.kind != kindFeedback {
		return changed, err
	}
	labelled, err := x.addLabel(t, s, newLabel(e))
	return changed || labelled, err
}

func (x *set) addPart(t task, s *state, p part) (bool, error) {
	if i := x.parts.find(p.id); i >= 0 {
		if !p.beats(&x.parts.items[i]) {
			return false, nil
		}
		x.parts.remove(i)
	} else if known, err := x.counted(t, s, listParts, p.id); err != nil || known {
		return false, err
	}
	for _, out := range x.parts.put(p, maxParts, maxPartBytes) {
		if err := t.Put(x.overKey(s, listParts, out.id), []byte{1}); err != nil {
			return false, err
		}
		x.over.part(&out)
	}
	return true, nil
}

func (x *set) addScore(t task, s *state, sc score) (bool, error) {
	if i := x.scores.find(sc.ID); i >= 0 {
		if !sc.beats(&x.scores.items[i]) {
			return false, nil
		}
		x.scores.remove(i)
	} else if known, err := x.counted(t, s, listScores, sc.ID); err != nil || known {
		return false, err
	}
	for _, out := range x.scores.put(sc, maxScores, maxScoreBytes) {
		if err := t.Put(x.overKey(s, listScores, out.ID), []byte{1}); err != nil {
			return false, err
		}
		x.over.counts[kindScore]++
	}
	return true, nil
}

func (x *set) addLabel(t task, s *state, l label) (bool, error) {
	if i := x.labels.find(l.ID); i >= 0 {
		if !l.beats(&x.labels.items[i]) {
			return false, nil
		}
		x.labels.remove(i)
	} else if known, err := x.counted(t, s, listLabels, l.ID); err != nil || known {
		return false, err
	}
	for _, out := range x.labels.put(l, maxLabels, maxLabelBytes) {
		if err := t.Put(x.overKey(s, listLabels, out.ID), []byte{1}); err != nil {
			return false, err
		}
		x.over.labels++
	}
	return true, nil
}

// counted tells whether an item was pushed out of its list before. There is
// nothing to look up as long as nothing was.
func (x *set) counted(t task, s *state, list byte, id string) (bool, error) {
	none := false
	switch list {
	case listParts:
		none = x.parts.cut == nil
	case listScores:
		none = x.scores.cut == nil
	case listLabels:
		none = x.labels.cut == nil
	}
	if none {
		return false, nil
	}
	v, err := t.Get(x.overKey(s, list, id))
	return v != nil, err
}

// forget empties the set.
func (x *set) forget(t task, s *state) error {
	for list, cut := range map[byte]*place{listParts: x.parts.cut, listScores: x.scores.cut, listLabels: x.labels.cut} {
		if cut == nil { // nothing was pushed out
			continue
		}
		var keys [][]byte
		if err := t.Scan(x.overKey(s, list, ""), func(k, _ []byte) error {
			keys = append(keys, append([]byte(nil), k...))
			return nil
		}); err != nil {
			return err
		}
		for _, k := range keys {
			if err := t.Delete(k); err != nil {
				return err
			}
		}
	}
	*x = set{name: x.name}
	return nil
}

// size is how much the set knows. The revision of a case is the size of what is
// its own and the weight of all else that came under it: it grows with every
// event, and with a score of more inputs, does not depend on the order, and so is
// the same when the state is built anew.
func (x *set) size() int64 {
	n := int64(len(x.parts.items) + len(x.labels.items))
	for _, c := range x.over.counts {
		n += c
	}
	n += x.over.labels
	for i := range x.scores.items {
		n = addUp(n, 1+int64(x.scores.items[i].InputCount))
	}
	return n
}

func (o *over) part(p *part) {
	if p.kind != kindFeedback {
		if n := o.counts[:kindFeedback]; n[0]+n[1]+n[2]+n[3]+n[4] == 0 {
			o.first, o.last = p.time, p.time
		}
		o.first, o.last = min(o.first, p.time), max(o.last, p.time)
	}
	o.counts[p.kind]++
	if p.typ == event.ModelCallCompleted {
		o.cost = addUp(o.cost, p.cost)
		if p.usage != nil {
			o.used = true
			addUsage(&o.usage, p.usage)
		}
	}
}

func addUsage(to, u *event.Usage) {
	to.Input, to.Output = addUp(to.Input, u.Input), addUp(to.Output, u.Output)
	to.Total, to.Cached = addUp(to.Total, u.Total), addUp(to.Cached, u.Cached)
}

// beats tells whether a part stands against another of its id: the earlier, for
// what is sent again without a time of its own only seems to be later.
func (p *part) beats(o *part) bool {
	if p.time != o.time {
		return p.time < o.time
	}
	return string(p.bytes()) > string(o.bytes())
}

// beats tells whether a label stands against another of its id: the later, for
// a person who says yes, no and yes again means yes.
func (l *label) beats(o *label) bool {
	if l.time != o.time {
		return l.time > o.time
	}
	return string(l.bytes()) > string(o.bytes())
}
