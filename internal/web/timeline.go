package web

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/looptape/looptape/internal/base/run"
	"github.com/looptape/looptape/internal/loop/event"
	"github.com/looptape/looptape/internal/loop/view"
)

// Bounds of one opened case.
const (
	maxParts     = 200
	maxBodyBytes = 1 << 20 // of one event
	maxCaseBytes = 6 << 20 // of all bodies together
	readers      = 8
	readTimeout  = 5 * time.Second
)

// An openedCase is a case with what its events say.
type openedCase struct {
	Case     view.CaseRow `json:"case"`
	Request  *assembled   `json:"request,omitempty"` // put together from the bodies that could be read
	Timeline []entry      `json:"timeline"`
}

// An entry is one event of a case.
type entry struct {
	event.Part
	Facts map[string]string `json:"facts,omitempty"`
	Body  json.RawMessage   `json:"body,omitempty"`
	State string            `json:"state"` // read, gone (retention), unread (bounds), failed
	Note  string            `json:"note,omitempty"`

	e event.Event
}

// States of an entry.
const (
	stateRead   = "read"
	stateGone   = "gone"
	stateUnread = "unread"
	stateFailed = "failed"
)

// assembled is event.Request on the wire.
type assembled struct {
	Name       string            `json:"name,omitempty"`
	System     string            `json:"system,omitempty"`
	Question   string            `json:"question,omitempty"`
	Answer     string            `json:"answer,omitempty"`
	Contexts   []event.Document  `json:"contexts,omitempty"`
	Prompts    []event.Message   `json:"prompts,omitempty"`
	Retrievals []event.Retrieval `json:"retrievals,omitempty"`
	Responses  []event.Response  `json:"responses,omitempty"`
	Actions    []event.Action    `json:"actions,omitempty"`
	Safety     []event.Safety    `json:"safety,omitempty"`
	Citations  []string          `json:"citations,omitempty"`
	Finish     []string          `json:"finish_reasons,omitempty"`
	LatencyMs  float64           `json:"latency_ms,omitempty"`
	CostUSD    float64           `json:"cost_usd,omitempty"`
	Usage      *event.Usage      `json:"usage,omitempty"`
	Error      *event.Failure    `json:"error,omitempty"`
	Malformed  []string          `json:"malformed,omitempty"`
}

// open reads the events of a case. What cannot be read is an entry that says so.
func (s *Server) open(q *query, row view.CaseRow) (openedCase, error) {
	entries, err := s.entries(q, &row.Case)
	if err != nil {
		return openedCase{}, err
	}
	c := openedCase{Case: row, Timeline: entries}
	ctx, cancel := context.WithTimeout(q.ctx, readTimeout)
	defer cancel()
	s.readAll(ctx, q.tenant, c.Timeline[:min(len(c.Timeline), maxParts)])
	for i := range c.Timeline[min(len(c.Timeline), maxParts):] {
		c.Timeline[maxParts+i].Note = "only the first " + strconv.Itoa(maxParts) + " events of a case are read"
	}
	var (
		whole []event.Event
		bytes int
	)
	for i := range c.Timeline {
		t := &c.Timeline[i]
		if t.State != stateRead {
			continue
		}
		if bytes += len(t.e.Data); bytes > maxCaseBytes {
			t.State, t.Note, t.Body = stateUnread, "the case is too large to show whole", nil
			continue
		}
		if json.Valid(t.e.Data) {
			t.Body = t.e.Data
		}
		whole = append(whole, t.e)
	}
	if len(whole) > 0 {
		r := event.Assemble(whole)
		c.Request = &assembled{
			Name: r.Name, System: r.System, Question: r.Question, Answer: r.Answer, Contexts: r.Contexts, Prompts: r.Prompts,
			Retrievals: r.Retrievals, Responses: r.Responses, Actions: r.Actions, Safety: r.Safety, Citations: r.Citations, Finish: r.Finish,
			LatencyMs: r.LatencyMs, CostUSD: r.CostUSD, Usage: r.Usage, Error: r.Error, Malformed: r.Malformed,
		}
	}
	return c, nil
}

// entries are the parts of a case, and the scores and the feedback that the view
// knows of its request, in order of time. Where both know an event, the view's
// position is the newer.
func (s *Server) entries(q *query, c *event.Case) ([]entry, error) {
	rows, err := s.cfg.View.Recent(q.ctx, q.tenant, "", c.Request, 2*maxParts)
	if err != nil {
		return nil, err
	}
	out := make([]entry, 0, len(c.Parts)+len(rows))
	byID := map[string]int{}
	for _, p := range c.Parts {
		byID[p.ID] = len(out)
		out = append(out, entry{Part: p, State: stateUnread})
	}
	for _, r := range rows {
		if i, ok := byID[r.ID]; ok {
			out[i].Position = &r.Position
			continue
		}
		out = append(out, entry{Part: event.Part{ID: r.ID, Type: r.Type, Time: r.Time, Position: &r.Position}, State: stateUnread})
	}
	slices.SortStableFunc(out, func(a, b entry) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Type, b.Type), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}

// readAll fills in entries, a few at a time.
func (s *Server) readAll(ctx context.Context, tenant string, entries []entry) {
	if s.cfg.Log == nil {
		return
	}
	var (
		mu   sync.Mutex // guards next
		next int
	)
	take := func() *entry {
		mu.Lock()
		defer mu.Unlock()
		if next == len(entries) {
			return nil
		}
		next++
		return &entries[next-1]
	}
	g := run.New(ctx)
	for range min(readers, len(entries)) {
		g.Go("read", func(ctx context.Context) error {
			for t := take(); t != nil; t = take() {
				s.readEntry(ctx, tenant, t)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		s.log.Error("reading a case failed", "error", err)
	}
}

func (s *Server) readEntry(ctx context.Context, tenant string, t *entry) {
	fail := func(state, note string) { t.State, t.Note = state, note }
	if t.Position == nil {
		fail(stateGone, "where it lies is not known")
		return
	}
	rec, err := s.cfg.Log.ReadAt(ctx, *t.Position)
	switch {
	case isGone(err):
		fail(stateGone, "the log's retention has removed it")
		return
	case ctx.Err() != nil:
		fail(stateUnread, "the log did not answer in time")
		return
	case err != nil:
		fail(stateFailed, "the log could not be read here")
		return
	}
	e, err := event.Decode(&rec)
	if errors.Is(err, event.ErrNotEvent) || e.ID != t.ID || (e.Facts.Tenant != "" && e.Facts.Tenant != tenant) {
		// Another record lies there: the topic was made anew.
		fail(stateGone, "the log holds another event at this place now")
		return
	}
	if e.DataRef != "" && len(e.Data) == 0 {
		if n := claimedBytes(e.DataRef); n > maxBodyBytes || s.cfg.Claims == nil {
			fail(stateUnread, "its body is too large to show")
			return
		}
		if err := s.cfg.Claims.Resolve(ctx, &e); err != nil {
			fail(stateFailed, "its body could not be fetched from the object store")
			return
		}
	}
	t.e, t.State, t.Facts = e, stateRead, map[string]string{}
	e.Facts.Each(func(name, value string) {
		if name != "tenant" && len(value) <= maxText {
			t.Facts[name] = value
		}
	})
}

// claimedBytes is the size that a claim's reference ends with.
func claimedBytes(ref string) int {
	n, err := strconv.Atoi(ref[strings.LastIndexByte(ref, '/')+1:])
	if err != nil {
		return maxBodyBytes + 1
	}
	return n
}
