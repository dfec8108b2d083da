package web

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/looptape/looptape/internal/loop/view"
)

const (
	liveGather    = 150 * time.Millisecond // changes of this long go out together
	liveHeartbeat = 15 * time.Second       // between two signs of life
	liveDeadline  = 10 * time.Second       // to read one message, else the client is cut off
	liveEvents    = 60                     // events in one message; the rest is a number
)

// serveLive answers GET /v1/live with server-sent events:
//
//	hello     {version, time}          at once; the client reads what it shows now
//	events    {events, count, cases}   new events, oldest first, and how many there were
//	evidence  [points]                 the newest point of each gate that moved
//	decision  {decision}               one each
//	resync    {}                       changes were lost: read anew
func (s *Server) serveLive(w http.ResponseWriter, r *http.Request) {
	tenant, err := s.cfg.Tenant(r)
	if err != nil {
		writeProblem(w, &problem{http.StatusUnauthorized, "unauthorized", "the credential is missing or unknown"})
		return
	}
	defer s.live.Add(-1)
	if s.live.Add(1) > int64(s.cfg.LiveClients) {
		w.Header().Set("Retry-After", "10")
		writeProblem(w, &problem{http.StatusServiceUnavailable, "too_many_live", "too many live connections are open: close some, or poll /v1/overview"})
		return
	}
	sub := s.cfg.View.Subscribe(tenant)
	defer sub.Close()
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	c := http.NewResponseController(w)
	hello := message("hello", map[string]any{"version": s.cfg.Version, "time": s.cfg.Now().UTC()})
	_ = follow(r.Context(), sub.C(), hello, func(b []byte) error { // an error: the client went away
		c.SetWriteDeadline(time.Now().Add(liveDeadline)) // not every writer has one
		if _, err := w.Write(b); err != nil {
			return err
		}
		return c.Flush()
	})
}

// follow writes hello and then the changes as they come, gathered, until ctx
// ends or a write fails.
func follow(ctx context.Context, changes <-chan view.Change, hello []byte, write func([]byte) error) error {
	if err := write(hello); err != nil {
		return err
	}
	beat := time.NewTicker(liveHeartbeat)
	defer beat.Stop()
	var (
		pending view.Change
		due     <-chan time.Time // nil: nothing is pending
	)
	for {
		var out []byte
		select {
		case <-ctx.Done():
			return nil
		case <-beat.C:
			out = []byte(": alive\n\n")
		case c := <-changes:
			pending = merge(pending, c)
			if due == nil {
				due = time.After(liveGather)
			}
			continue
		case <-due:
			out = messages(pending)
			pending, due = view.Change{}, nil
		}
		if len(out) == 0 {
			continue
		}
		if err := write(out); err != nil {
			return err
		}
	}
}

// merge adds a change to what waits to be written.
func merge(a, b view.Change) view.Change {
	a.Resync = a.Resync || b.Resync
	a.EventCount += b.EventCount
	a.Cases += b.Cases
	a.Events = append(a.Events[:len(a.Events):len(a.Events)], b.Events...)
	if n := len(a.Events); n > liveEvents {
		a.Events = a.Events[n-liveEvents:]
	}
	points := a.Points[:len(a.Points):len(a.Points)]
	for _, p := range b.Points {
		old := -1
		for i := range points {
			if points[i].Release == p.Release {
				old = i
			}
		}
		if old < 0 {
			points = append(points, p)
			continue
		}
		points = append([]view.Point(nil), points...)
		points[old] = p
	}
	a.Points = points
	a.Decisions = append(a.Decisions[:len(a.Decisions):len(a.Decisions)], b.Decisions...)
	if n := len(a.Decisions); n > liveEvents {
		a.Decisions = a.Decisions[n-liveEvents:]
	}
	return a
}

// messages writes a change.
func messages(c view.Change) []byte {
	if c.Resync {
		return message("resync", struct{}{})
	}
	var b bytes.Buffer
	if c.EventCount > 0 || c.Cases > 0 {
		events := c.Events
		if events == nil {
			events = []view.EventRow{}
		}
		b.Write(message("events", map[string]any{"events": events, "count": c.EventCount, "cases": c.Cases}))
	}
	if len(c.Points) > 0 {
		b.Write(message("evidence", c.Points))
	}
	for i := range c.Decisions {
		b.Write(message("decision", &c.Decisions[i]))
	}
	return b.Bytes()
}

// message is one server-sent event. JSON has no raw line ends, so one data line
// holds it.
func message(name string, v any) []byte {
	body, err := json.Marshal(v)
	if err != nil {
		return nil
	}
	return fmt.Appendf(nil, "event: %s\ndata: %s\n\n", name, body)
}
