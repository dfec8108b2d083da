package collect

import (
	"bytes"
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"strings"

	"github.com/looptape/looptape/internal/loop/event"
)

// A result is what became of one item of a JSON request.
type result struct {
	ID      string `json:"id,omitempty"`
	Status  string `json:"status"` // accepted, quarantined, rejected
	Type    string `json:"type,omitempty"`
	Request string `json:"request,omitempty"`
	Code    string `json:"code,omitempty"`    // machine word, when not accepted
	Message string `json:"message,omitempty"` // what to do about it
	Pointer string `json:"pointer,omitempty"` // the field in question, JSON pointer
}

// An answer is the response to several items.
type answer struct {
	Accepted    int      `json:"accepted"`
	Quarantined int      `json:"quarantined"`
	Rejected    int      `json:"rejected"`
	Results     []result `json:"results"` // in the order of the request
}

// An itemProblem is why one item is not taken as it is.
type itemProblem struct {
	code    string
	message string
	pointer string
	schema  string
	keep    bool // it goes to quarantine; else it is rejected
}

func (p *itemProblem) Error() string { return p.code + ": " + p.message }

func reject(code, message string) *itemProblem { return &itemProblem{code: code, message: message} }

// A reader makes an event out of one JSON item. under is the id that stands in
// for the request when the event has none.
type reader func(c *Collector, tenant string, item json.RawMessage) (e event.Event, under string, err error)

func (c *Collector) serveJSON(read reader) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if p := c.handleJSON(w, r, read); p != nil {
			c.metrics.refused.WithLabelValues(strings.TrimPrefix(r.URL.Path, "/v1/"), p.Code).Inc()
			body, _ := encode(struct {
				Code    string `json:"code"`
				Message string `json:"message"`
			}{p.Code, p.Message})
			writeProblem(w, p, typeJSON, body)
		}
	}
}

func (c *Collector) handleJSON(w http.ResponseWriter, r *http.Request, read reader) *problem {
	if r.Method != http.MethodPost {
		return notPost
	}
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	lines := media == "application/x-ndjson" || media == "application/jsonl" || media == "application/json-lines"
	binary := r.Header.Get("ce-specversion") != "" || r.Header.Get("ce-type") != ""
	if err != nil || !lines && media != typeJSON && media != "application/cloudevents+json" && media != "application/cloudevents-batch+json" {
		return problemf(http.StatusUnsupportedMediaType, "unsupported_type",
			"Content-Type must be application/json, application/cloudevents+json, application/cloudevents-batch+json or application/x-ndjson.")
	}
	tenant, err := c.tenant(r.Header.Get)
	if err != nil {
		return unauthorized
	}
	body, release, p := c.readBody(r)
	defer release()
	if p != nil {
		return p
	}
	g := c.guard()
	if err := g.json(body, c.cfg.Limits.Depth, c.cfg.Limits.jsonValues()); err != nil {
		return c.guardProblem(err)
	}
	if binary && !lines {
		if body, p = fromBinary(r.Header, body); p != nil {
			return p
		}
	}
	items, single, p := c.split(body, lines)
	if p != nil {
		return p
	}
	return c.takeItems(w, r, read, tenant, items, single)
}

// split cuts a body into its items: the elements of an array, the lines of
// JSON lines, or the one object it is.
func (c *Collector) split(body []byte, lines bool) (items []json.RawMessage, single bool, p *problem) {
	if lines {
		for line := range bytes.Lines(body) {
			if line = bytes.TrimSpace(line); len(line) > 0 {
				items = append(items, line)
			}
			if len(items) > c.cfg.Limits.Items {
				return nil, false, c.guardProblem(errTooMany)
			}
		}
	} else {
		body = bytes.TrimSpace(body)
		if !json.Valid(body) {
			return nil, false, problemf(http.StatusBadRequest, "invalid_json", "The body is not valid JSON.")
		}
		switch body[0] {
		case '{':
			return []json.RawMessage{body}, true, nil
		case '[':
			if err := json.Unmarshal(body, &items); err != nil {
				return nil, false, problemf(http.StatusBadRequest, "invalid_json", "The body is not valid JSON.")
			}
		default:
			return nil, false, problemf(http.StatusBadRequest, "invalid_json", "The body must be an object or an array of objects.")
		}
	}
	switch {
	case len(items) == 0:
		return nil, false, problemf(http.StatusBadRequest, "empty", "The body holds no events.")
	case len(items) > c.cfg.Limits.Items:
		return nil, false, c.guardProblem(errTooMany)
	}
	return items, false, nil
}

// takeItems turns items into events, appends them and answers.
func (c *Collector) takeItems(w http.ResponseWriter, r *http.Request, read reader, tenant string, items []json.RawMessage, single bool) *problem {
	b := c.newBatch(r.Context(), tenant)
	results := make([]result, len(items))
	var n [fates]int
	for i, item := range items {
		f, err := b.item(read, item, &results[i])
		if err != nil {
			_, _, err = c.failed(kindEvent, len(items), err)
			return asProblem(err)
		}
		n[f]++
	}
	if err := b.flush(); err != nil {
		_, _, err = c.failed(kindEvent, len(items), err)
		return asProblem(err)
	}
	c.metrics.count(kindEvent, n)

	status := http.StatusAccepted
	if n[rejected] == len(items) {
		status = http.StatusBadRequest
	}
	var out any = answer{n[mapped], n[quarantined], n[rejected], results}
	if single {
		out = results[0]
	}
	body, err := encode(out)
	if err != nil {
		body = []byte("{}") // everything is on the tape; only the words are missing
	}
	w.Header().Set("Content-Type", typeJSON)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body)
	return nil
}

// item takes one item. The error ends the whole request.
func (b *batch) item(read reader, item json.RawMessage, res *result) (fate, error) {
	m := b.mark()
	e, under, err := read(b.c, b.tenant, item)
	if err == nil {
		res.ID, res.Type, res.Request = e.ID, e.Type, e.Facts.Request
		if res.ID == "" {
			e.ID = b.twin(derivedID(b.tenant, &e, under))
			res.ID = e.ID
		}
		if err = b.take(&e, under); err == nil {
			res.Status = "accepted"
			return mapped, nil
		}
		if errors.Is(err, errTooLarge) {
			err = reject("too_large", tooLargeText)
		}
	}
	var p *itemProblem
	if !errors.As(err, &p) {
		return 0, err
	}
	b.undo(m)
	res.Code, res.Message, res.Pointer = p.code, p.message, p.pointer
	if !p.keep {
		res.Status = "rejected"
		return rejected, nil
	}
	q := event.Quarantined{Reason: p.code, Detail: p.message, Kind: kindEvent, Schema: p.schema, Pointer: p.pointer, Raw: b.hidePeopleIn(item)}
	facts := event.Facts{App: e.Facts.App, Release: e.Facts.Release, Environment: e.Facts.Environment, Trace: e.Facts.Trace}
	source := e.Source
	if source == "" {
		source = "http"
	}
	id, err := b.quarantine(q, facts, e.Time, source)
	if errors.Is(err, errTooLarge) {
		b.undo(m)
		res.Status, res.Code, res.Message = "rejected", "too_large", tooLargeText
		return rejected, nil
	}
	res.Status, res.ID, res.Request = "quarantined", id, ""
	return quarantined, err
}

// take adds an event that came over HTTP and the aliases it tells of.
func (b *batch) take(e *event.Event, under string) error {
	if e.Source == "" {
		e.Source = "http"
	}
	if e.Time.IsZero() {
		e.Time = b.now
	}
	f := &e.Facts
	if err := b.add(e, under); err != nil {
		return err
	}
	if f.Request == "" || e.Type == event.AliasBound {
		return nil
	}
	if err := b.bind(f.Response, "response", f.Request, e.Time, e.Source); err != nil {
		return err
	}
	if e.Type != event.RequestStarted {
		return nil
	}
	// Only the start of a request may say that a trace is this request: an OTLP
	// span of the same trace says the opposite.
	return b.bind(f.Trace, "trace", f.Request, e.Time, e.Source)
}

// derivedID is the id of an event whose producer gave none: what it says about
// what. A time in the event tells two alike events apart.
func derivedID(tenant string, e *event.Event, under string) string {
	parts := []string{"http", tenant, e.Type, under, string(e.Data)}
	if !e.Time.IsZero() {
		parts = append(parts, e.Time.UTC().String())
	}
	e.Facts.Each(func(name, value string) { parts = append(parts, name, value) })
	return event.DeriveID(parts...)
}
