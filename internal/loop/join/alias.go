package join

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/looptape/looptape/internal/loop/event"
	"github.com/looptape/looptape/internal/loop/stream"
)

// alias takes a binding: everything that waits under the alias goes to the
// request, and so will everything that comes.
func (h *handler) alias(t task, r *event.Record, e *event.Event) error {
	var b event.Alias
	if err := e.Body(&b); err != nil || b.Alias == "" || b.Request == "" || b.Alias == b.Request {
		h.metrics.events.WithLabelValues(r.Topic, fateNoKey).Inc()
		return nil
	}
	if h.misplaced(t, r, b.Alias) {
		return nil
	}
	s, err := h.state(t, e.Facts.Tenant, b.Alias)
	if err != nil {
		return err
	}
	fate := fateJoined
	switch {
	case slices.Contains(s.bound, b.Request):
		fate = fateDuplicate
	case len(s.bound) >= maxBound:
		fate = fateBeyond
	default:
		if err := h.bind(t, s, b.Request); err != nil {
			return err
		}
	}
	h.metrics.events.WithLabelValues(r.Topic, fate).Inc()
	return nil
}

// bind sends what waits under an alias to a request.
func (h *handler) bind(t task, s *state, request string) error {
	type waiting struct {
		digest string
		at     event.Position
	}
	var line []waiting
	prefix := []byte(prefixWaiting + s.key)
	if err := t.Scan(prefix, func(k, v []byte) error {
		at, err := decodePosition(v, t.Partition())
		if err != nil {
			return err
		}
		line = append(line, waiting{string(k[len(prefix):]), at})
		return nil
	}); err != nil {
		return err
	}
	for _, w := range line {
		rec, err := h.reader.ReadAt(t.Context(), w.at)
		if errors.Is(err, stream.ErrGone) {
			h.metrics.gone.Inc()
			continue
		}
		if err != nil {
			return fmt.Errorf("read what waits under an alias: %w", err)
		}
		e, err := event.Decode(&rec)
		if digest(&e) != w.digest {
			h.metrics.gone.Inc() // the topic was made anew
			continue
		}
		if err != nil {
			h.metrics.malformed.WithLabelValues(rec.Topic).Inc()
		}
		if !ofLooptape(&e) {
			h.rekey(t, s, &e, request)
		}
	}
	if len(s.bound) == 0 { // from now on nothing but its own trace is its own
		if s.seen > 0 {
			h.outlived(s)
		}
		if err := s.loose.forget(t, s); err != nil {
			return err
		}
		s.revised = true
	}
	s.bound = append(s.bound, request)
	slices.Sort(s.bound)
	h.touch(s)
	for _, via := range s.vias {
		h.chain(t, s, via, request)
	}
	return nil
}

// via notes by which alias an event was re-keyed to a state.
func (h *handler) via(t task, s *state, alias string) {
	if alias == "" || alias == s.request || len(s.vias) >= maxAliases || slices.Contains(s.vias, alias) {
		return
	}
	s.vias = append(s.vias, alias)
	slices.Sort(s.vias)
	h.touch(s)
	for _, request := range s.bound {
		h.chain(t, s, alias, request)
	}
}

// chain binds the alias of an alias to the request: what was re-keyed to an id
// that is itself an alias is not re-keyed again, but comes from its first id once
// more. Chains end, circles too, as a binding counts once.
func (h *handler) chain(t task, s *state, alias, request string) {
	if alias == request {
		return
	}
	e := event.Event{
		ID: event.DeriveID("alias", s.tenant, alias, request), Type: event.AliasBound, Source: event.Source,
		Time: time.Unix(0, 0).UTC(), Facts: event.Facts{Tenant: s.tenant, Request: request, Via: s.request},
	}
	if err := e.SetBody(event.Alias{Alias: alias, Kind: "reference", Request: request}); err != nil {
		return // strings always encode
	}
	t.Emit(e.Record(event.TopicAlias, alias+"\x1f"+request, alias))
}

// wait puts an event into the line of those that follow their alias. It tells
// whether the very same event stands there already. Of two bodies under one id
// both stand there: the case of the request decides between them.
func (h *handler) wait(t task, s *state, e *event.Event) (again bool, err error) {
	k := []byte(prefixWaiting + s.key + digest(e))
	v, err := t.Get(k)
	if err != nil || v != nil {
		return v != nil, err
	}
	return false, t.Put(k, encodePosition(e.Position))
}

// digest names an event with all it says.
func digest(e *event.Event) string {
	h := sha256.New()
	var n [8]byte
	add := func(name, value string) {
		for _, s := range []string{name, value} {
			binary.BigEndian.PutUint64(n[:], uint64(len(s)))
			h.Write(n[:])
			io.WriteString(h, s)
		}
	}
	add(e.ID, e.Type)
	add(e.Position.Topic, e.Source)
	add(e.DataRef, strconv.FormatInt(nanos(e.Time), 10))
	e.Facts.Each(func(name, value string) {
		if name != "receivedtime" && name != "producer" && name != "seq" { // of the delivery, not of the event
			add(name, value)
		}
	})
	h.Write(e.Data)
	return string(h.Sum(nil)[:12])
}

// rekey produces an event under another request.
func (h *handler) rekey(t task, s *state, e *event.Event, request string) {
	again := *e
	again.Facts.Request, again.Facts.Via = request, s.request
	t.Emit(again.Record(e.Position.Topic, request, request))
	h.metrics.rekeyed.WithLabelValues(e.Position.Topic).Inc()
}

// ofLooptape tells a score that evaluate made: it makes it again, of the whole
// request, where the parts have gone.
func ofLooptape(e *event.Event) bool {
	return e.Position.Topic == event.TopicScore && e.Source == event.Source
}

func encodePosition(p event.Position) []byte {
	b := binary.AppendUvarint(nil, uint64(p.Offset))
	return append(b, p.Topic...)
}

func decodePosition(b []byte, partition int32) (event.Position, error) {
	n, used := binary.Uvarint(b)
	if used <= 0 || n > 1<<62 || used == len(b) {
		return event.Position{}, errors.New("position of a waiting event is damaged")
	}
	return event.Position{Topic: string(b[used:]), Partition: partition, Offset: int64(n)}, nil
}
