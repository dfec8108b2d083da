package gate

import (
	"container/heap"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// The engine's state as keys and values:
//
//	c                                  the clock
//	l 00 <process>                     a lane: its process and what surrounds it
//	u 00 <process> 00 <unit>           an open unit
//	d 00 <process> 00 <16 bytes>       a unit that had its turn, by digest
//	w 00 <tenant/request>              a case that waits for its deployment

func unitKey(l *lane, id string) string { return "u\x00" + l.process.ID + "\x00" + id }

// storedLane is a lane as written.
type storedLane struct {
	Order   int      `json:"order"`
	Process *process `json:"process"`
	Meta    laneMeta `json:"meta"`
}

// keep notes a value that changed. Encoding waits until Flush, since most things
// change many times before it; v must stay as it is meant to be written then.
func (e *Engine) keep(key string, v any) {
	if e.cfg.quiet {
		return
	}
	switch v.(type) {
	case *clock, *unit:
		e.changed[key] = nil // encoded in Flush from the live value
	default:
		e.changed[key] = mustJSON(v)
	}
}

func (e *Engine) keepRaw(key string, b []byte) {
	if !e.cfg.quiet {
		e.changed[key] = b
	}
}

func (e *Engine) keepLane(l *lane) {
	if !e.cfg.quiet {
		e.changed["l\x00"+l.process.ID] = nil
	}
}

func (e *Engine) forget(key string) {
	if !e.cfg.quiet {
		e.changed[key] = nil
	}
}

// Flush gives every key that changed since the last Flush to put, with a nil
// value when it is gone. The order is that of the keys.
func (e *Engine) Flush(put func(key, value []byte) error) error {
	keys := make([]string, 0, len(e.changed))
	for k := range e.changed {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		v := e.changed[k]
		if v == nil {
			v = e.live(k)
		}
		if err := put([]byte(k), v); err != nil {
			return err
		}
	}
	clear(e.changed)
	return nil
}

// live encodes what a key stands for now; nil when it is gone.
func (e *Engine) live(key string) []byte {
	kind, rest, _ := strings.Cut(key, "\x00")
	switch kind {
	case "c":
		return mustJSON(&e.clock)
	case "l":
		if l := e.lanes[rest]; l != nil {
			return mustJSON(&storedLane{slices.Index(e.order, rest), l.process, l.meta})
		}
	case "u":
		id, unit, _ := strings.Cut(rest, "\x00")
		if l := e.lanes[id]; l != nil {
			if u := l.units[unit]; u != nil {
				return mustJSON(u)
			}
		}
	}
	return nil
}

// Restore takes the state that Flush wrote: every key once, in order of keys. The
// engine must be new.
func (e *Engine) Restore(each func(yield func(key, value []byte) error) error) error {
	type placed struct {
		order int
		id    string
	}
	var order []placed
	err := each(func(key, value []byte) error {
		kind, rest, _ := strings.Cut(string(key), "\x00")
		var id string
		switch kind {
		case "u", "d":
			id, rest, _ = strings.Cut(rest, "\x00")
		case "l":
			id = rest
		}
		l := e.lanes[id]
		if l == nil && id != "" {
			l = &lane{units: map[string]*unit{}, done: map[[16]byte]struct{}{}}
			e.lanes[id] = l
		}
		switch kind {
		case "c":
			parts := len(e.clock.Data)
			if err := json.Unmarshal(value, &e.clock); err != nil {
				return fmt.Errorf("clock: %w", err)
			}
			if len(e.clock.Data) != parts {
				return fmt.Errorf("clock: written for %d partitions of cases, now there are %d", len(e.clock.Data), parts)
			}
		case "l":
			var s storedLane
			if err := json.Unmarshal(value, &s); err != nil {
				return fmt.Errorf("lane %s: %w", id, err)
			}
			if s.Process == nil || s.Process.ID != id {
				return fmt.Errorf("lane %s: holds another process", id)
			}
			if err := s.Process.thaw(e.cfg.Policies); err != nil {
				return err
			}
			l.process, l.meta = s.Process, s.Meta
			order = append(order, placed{s.Order, id})
		case "u":
			u := new(unit)
			if err := json.Unmarshal(value, u); err != nil {
				return fmt.Errorf("unit of lane %s: %w", id, err)
			}
			u.ID = rest
			l.units[u.ID] = u
			heap.Push(&l.queue, u)
		case "d":
			if len(rest) != 16 {
				return fmt.Errorf("finished unit of lane %s: digest of %d bytes", id, len(rest))
			}
			l.done[[16]byte([]byte(rest))] = struct{}{}
		case "w":
			var w waiting
			if err := json.Unmarshal(value, &w); err != nil {
				return fmt.Errorf("waiting case: %w", err)
			}
			e.unmatched = append(e.unmatched, w)
		default:
			return fmt.Errorf("key of unknown kind %q", kind)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("restore gates: %w", err)
	}
	for id, l := range e.lanes {
		if l.process == nil {
			return fmt.Errorf("restore gates: units of process %s without the process", id)
		}
	}
	slices.SortFunc(order, func(a, b placed) int { return a.order - b.order })
	for _, o := range order {
		e.order = append(e.order, o.id)
	}
	slices.SortStableFunc(e.unmatched, func(a, b waiting) int { return a.At.Compare(b.At) })
	return nil
}
