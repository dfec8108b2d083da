package web

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/looptape/looptape/internal/loop/view"
)

// A problem is an answer that is not what was asked for.
type problem struct {
	status  int
	Code    string `json:"code"`
	Message string `json:"message"`
}

func (p *problem) Error() string { return p.Code + ": " + p.Message }

func badRequest(format string, args ...any) error {
	return &problem{http.StatusBadRequest, "bad_request", fmt.Sprintf(format, args...)}
}

func notFound(code, message string) error { return &problem{http.StatusNotFound, code, message} }

// writeTimeout bounds how long a client may take to read one answer.
const writeTimeout = 30 * time.Second

// A query is one request to the JSON API.
type query struct {
	ctx    context.Context
	r      *http.Request
	tenant string
	values url.Values
	read   []string // names of parameters that were looked at
}

// json makes a handler of a function that gives the answer's body.
func (s *Server) json(fn func(q *query) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.cfg.QueryTimeout + writeTimeout)) // not every writer has one
		tenant, err := s.cfg.Tenant(r)
		if err != nil {
			writeProblem(w, &problem{http.StatusUnauthorized, "unauthorized", "the credential is missing or unknown"})
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), s.cfg.QueryTimeout)
		defer cancel()
		values, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			writeProblem(w, &problem{http.StatusBadRequest, "bad_request", "the query string cannot be read"})
			return
		}
		q := &query{ctx: ctx, r: r, tenant: tenant, values: values}
		body, err := fn(q)
		if err != nil {
			s.fail(w, r, ctx, err)
			return
		}
		writeJSON(w, r, http.StatusOK, body)
	})
}

// fail answers an error: a problem as it is, anything else without its text,
// which goes to the log.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, ctx context.Context, err error) {
	var p *problem
	switch {
	case errors.As(err, &p):
	case errors.Is(err, view.ErrNotFound):
		p = &problem{http.StatusNotFound, "not_found", "there is nothing under this id"}
	case errors.Is(err, view.ErrBadCursor):
		p = &problem{http.StatusBadRequest, "bad_cursor", "the cursor is not of this query: leave it out to start at the beginning"}
	case r.Context().Err() != nil:
		return // nobody is there to read it
	case ctx.Err() != nil:
		p = &problem{http.StatusServiceUnavailable, "timeout", "the answer took too long: ask for less, or again later"}
		w.Header().Set("Retry-After", "2")
	default:
		s.log.Error("request failed", "path", r.Pattern, "error", err)
		p = &problem{http.StatusInternalServerError, "internal", "the server failed at this request; its log says why"}
	}
	writeProblem(w, p)
}

func writeProblem(w http.ResponseWriter, p *problem) {
	body, err := json.Marshal(p)
	if err != nil {
		body = []byte(`{"code":"internal","message":"the error cannot be written"}`)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(p.status)
	w.Write(append(body, '\n'))
}

// gzipFrom is the size from which an answer is compressed.
const gzipFrom = 2 << 10

func writeJSON(w http.ResponseWriter, r *http.Request, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		writeProblem(w, &problem{http.StatusInternalServerError, "internal", "the answer cannot be written as JSON"})
		return
	}
	body = append(body, '\n')
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Add("Vary", "Accept-Encoding")
	if len(body) < gzipFrom || !accepts(r, "gzip") {
		h.Set("Content-Length", strconv.Itoa(len(body)))
		w.WriteHeader(status)
		w.Write(body)
		return
	}
	h.Set("Content-Encoding", "gzip")
	w.WriteHeader(status)
	z, _ := gzip.NewWriterLevel(w, gzip.BestSpeed) // the level is a valid one
	z.Write(body)
	z.Close()
}

func accepts(r *http.Request, coding string) bool {
	for part := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		name, params, _ := strings.Cut(strings.TrimSpace(part), ";")
		if strings.EqualFold(name, coding) && strings.ReplaceAll(params, " ", "") != "q=0" {
			return true
		}
	}
	return false
}

// maxText bounds an id or a name in a request.
const maxText = 512

// path is a part of the address.
func (q *query) path(name string) (string, error) {
	v := q.r.PathValue(name)
	if v == "" || len(v) > maxText {
		return "", badRequest("%s must have 1 to %d bytes", name, maxText)
	}
	return v, nil
}

// text is a parameter, "" when it is missing.
func (q *query) text(name string) (string, error) {
	q.read = append(q.read, name)
	vs := q.values[name]
	switch {
	case len(vs) == 0:
		return "", nil
	case len(vs) > 1:
		return "", badRequest("parameter %s is given %d times", name, len(vs))
	case len(vs[0]) > maxText:
		return "", badRequest("parameter %s is longer than %d bytes", name, maxText)
	}
	return vs[0], nil
}

func (q *query) number(name string) (*float64, error) {
	s, err := q.text(name)
	if err != nil || s == "" {
		return nil, err
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || v != v {
		return nil, badRequest("parameter %s is not a number", name)
	}
	return &v, nil
}

func (q *query) whole(name string, preset, most int) (int, error) {
	s, err := q.text(name)
	if err != nil || s == "" {
		return preset, err
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > most {
		return 0, badRequest("parameter %s must be a whole number from 1 to %d", name, most)
	}
	return n, nil
}

func (q *query) truth(name string) (*bool, error) {
	s, err := q.text(name)
	if err != nil || s == "" {
		return nil, err
	}
	b, err := strconv.ParseBool(s)
	if err != nil {
		return nil, badRequest("parameter %s must be true or false", name)
	}
	return &b, nil
}

// when is a time: RFC 3339, or how long ago (15m, 24h).
func (q *query) when(name string, now time.Time) (time.Time, error) {
	s, err := q.text(name)
	if err != nil || s == "" {
		return time.Time{}, err
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil && t.Year() > 1700 && t.Year() < 2200 {
		return t, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, badRequest("parameter %s must be a time like 2026-11-20T09:00:00Z or how long ago, like 15m", name)
}

// done refuses parameters that nobody looked at: a misspelt filter must not
// look like one that chose everything.
func (q *query) done() error {
	for name := range q.values {
		if !slices.Contains(q.read, name) {
			slices.Sort(q.read)
			return badRequest("unknown parameter %.40q; known: %s", name, strings.Join(q.read, ", "))
		}
	}
	return nil
}
