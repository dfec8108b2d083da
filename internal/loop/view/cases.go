package view

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/looptape/looptape/internal/loop/event"
)

// ErrNotFound says that the view holds nothing under the id asked for.
var ErrNotFound = errors.New("not found")

// ErrBadCursor says that a page was asked for with a cursor that the view did
// not give, or of a query in another order.
var ErrBadCursor = errors.New("cursor is not of this query")

// A CaseRow is the newest revision of a case and where it lies.
type CaseRow struct {
	event.Case
	Position event.Position `json:"position"`
	Others   []string       `json:"others,omitempty"` // more requests that the id asked for stands for
}

// maxAliased bounds the requests looked at for one alias.
const maxAliased = 16

// Case finds a case by its request id, its trace id or any other id bound to it.
// An id that stands for several requests gives the newest and names the others.
func (v *View) Case(ctx context.Context, tenant, id string) (CaseRow, error) {
	for _, name := range []string{id, strings.ToLower(id)} {
		row, err := v.caseByRequest(ctx, tenant, name)
		if !errors.Is(err, ErrNotFound) {
			return row, err
		}
		row, err = v.caseByAlias(ctx, tenant, name)
		if !errors.Is(err, ErrNotFound) {
			return row, err
		}
	}
	return CaseRow{}, fmt.Errorf("case: %w", ErrNotFound)
}

const caseColumns = "c.doc, c.partition, c.off"

func scanCase(scan func(...any) error) (CaseRow, error) {
	var (
		doc string
		row CaseRow
	)
	if err := scan(&doc, &row.Position.Partition, &row.Position.Offset); err != nil {
		return row, err
	}
	row.Position.Topic = event.TopicCase
	if err := json.Unmarshal([]byte(doc), &row.Case); err != nil {
		return row, fmt.Errorf("stored case: %w", err)
	}
	return row, nil
}

func (v *View) caseByRequest(ctx context.Context, tenant, request string) (CaseRow, error) {
	row, err := scanCase(v.read.QueryRowContext(ctx, "SELECT "+caseColumns+" FROM cases c WHERE tenant = ? AND request = ?", tenant, request).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return row, ErrNotFound
	}
	if err != nil {
		return row, fmt.Errorf("read case: %w", err)
	}
	return row, nil
}

func (v *View) caseByAlias(ctx context.Context, tenant, alias string) (CaseRow, error) {
	rows, err := v.read.QueryContext(ctx, `SELECT `+caseColumns+` FROM cases c WHERE c.tenant = ? AND c.request IN
		(SELECT request FROM aliases WHERE tenant = ? AND alias = ? UNION SELECT request FROM case_aliases WHERE tenant = ? AND alias = ?)
		ORDER BY c.start DESC, c.request LIMIT ?`, tenant, tenant, alias, tenant, alias, maxAliased)
	if err != nil {
		return CaseRow{}, fmt.Errorf("read alias: %w", err)
	}
	defer rows.Close()
	var found []CaseRow
	for rows.Next() {
		row, err := scanCase(rows.Scan)
		if err != nil {
			return CaseRow{}, fmt.Errorf("read alias: %w", err)
		}
		found = append(found, row)
	}
	if err := rows.Err(); err != nil {
		return CaseRow{}, fmt.Errorf("read alias: %w", err)
	}
	if len(found) == 0 {
		return CaseRow{}, ErrNotFound
	}
	for _, o := range found[1:] {
		found[0].Others = append(found[0].Others, o.Request)
	}
	return found[0], nil
}

// Pending counts the events that have come for an id without a case: it will
// have one when they are joined.
func (v *View) Pending(ctx context.Context, tenant, id string) (n int, err error) {
	err = v.read.QueryRowContext(ctx, "SELECT count(*) FROM events INDEXED BY events_request WHERE tenant = ? AND request = ?", tenant, id).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count events of a request: %w", err)
	}
	return n, nil
}

// A Filter chooses cases. Zero fields do not restrict.
type Filter struct {
	Release, Arm, Session, App string
	Failed                     *bool
	Since, Until               time.Time // of the first event; Until is exclusive
	Prefix                     string    // of the request id
	Label                      string    // of some feedback
	FeedbackMax, FeedbackMin   *float64  // mean value of the feedback, both inclusive
	Metric                     string    // with Max or Min: of the live score's value, both inclusive; alone: scored at all
	Max, Min                   *float64
	Worst                      bool // order by the metric's goodness, worst first, instead of by time, newest first

	Limit  int // default 50, at most MaxPage
	Cursor string
}

// MaxPage bounds the rows of one page.
const MaxPage = 200

// A Page is some cases and the cursor of those after them, "" at the end.
type Page struct {
	Cases []CaseRow `json:"cases"`
	Next  string    `json:"next,omitempty"`
}

// A cursor is the place after a row: the columns that the order is by.
type cursor struct {
	Goodness *float64 `json:"g,omitempty"`
	Start    int64    `json:"s"`
	Request  string   `json:"r"`
}

func (c cursor) String() string {
	b, err := json.Marshal(c)
	if err != nil {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func parseCursor(s string, worst bool) (c cursor, err error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) > 1<<10 || json.Unmarshal(b, &c) != nil || (c.Goodness != nil) != worst {
		return c, ErrBadCursor
	}
	return c, nil
}

// Cases lists the cases that a filter chooses. A row stays on its page while
// others come and go around it; one that changes its place between two pages is
// seen once, twice or not at all.
func (v *View) Cases(ctx context.Context, tenant string, f Filter) (Page, error) {
	if f.Limit <= 0 {
		f.Limit = 50
	}
	f.Limit = min(f.Limit, MaxPage)
	if f.Worst && f.Metric == "" {
		return Page{}, errors.New("list cases: worst first needs a metric")
	}
	query, args, err := f.query(tenant)
	if err != nil {
		return Page{}, err
	}
	rows, err := v.read.QueryContext(ctx, query, args...)
	if err != nil {
		return Page{}, fmt.Errorf("list cases: %w", err)
	}
	defer rows.Close()
	page := Page{Cases: []CaseRow{}}
	var last cursor
	for rows.Next() {
		var (
			g     sql.NullFloat64
			start int64
		)
		row, err := scanCase(func(to ...any) error { return rows.Scan(append(to, &start, &g)...) })
		if err != nil {
			return Page{}, fmt.Errorf("list cases: %w", err)
		}
		if len(page.Cases) == f.Limit {
			page.Next = last.String()
			break
		}
		page.Cases = append(page.Cases, row)
		last = cursor{Start: start, Request: row.Request}
		if f.Worst {
			last.Goodness = &g.Float64
		}
	}
	if err := rows.Err(); err != nil {
		return Page{}, fmt.Errorf("list cases: %w", err)
	}
	return page, nil
}

// query writes the SELECT. One row more than the page is asked for, to know
// whether there is another page.
func (f *Filter) query(tenant string) (string, []any, error) {
	var (
		where []string
		args  []any
	)
	add := func(cond string, a ...any) { where, args = append(where, cond), append(args, a...) }
	from, order, goodness := "cases c", "c.start DESC, c.request", "NULL"
	if f.Metric != "" {
		from = "cases c JOIN scores s ON s.tenant = c.tenant AND s.request = c.request"
		add("s.tenant = ? AND s.metric = ?", tenant, f.Metric)
		if f.Max != nil {
			add("s.value <= ?", *f.Max)
		}
		if f.Min != nil {
			add("s.value >= ?", *f.Min)
		}
		if f.Worst {
			from = "scores s CROSS JOIN cases c ON c.tenant = s.tenant AND c.request = s.request" // in this order: the index of scores gives the order
			order, goodness = "s.goodness, s.start DESC, s.request", "s.goodness"
			if f.Release != "" {
				add("s.release = ?", f.Release)
			}
		}
	}
	add("c.tenant = ?", tenant)
	for _, eq := range []struct{ column, value string }{{"release", f.Release}, {"arm", f.Arm}, {"session", f.Session}, {"app", f.App}} {
		if eq.value != "" {
			add("c."+eq.column+" = ?", eq.value)
		}
	}
	if f.Failed != nil {
		add("c.failed = ?", *f.Failed)
	}
	if !f.Since.IsZero() {
		add("c.start >= ?", f.Since.UnixNano())
	}
	if !f.Until.IsZero() {
		add("c.start < ?", f.Until.UnixNano())
	}
	if f.Prefix != "" {
		add("c.request >= ? AND c.request < ?", f.Prefix, f.Prefix+"\U0010FFFF")
	}
	if f.Label != "" {
		add("instr(c.labels, ?) > 0", "\x1f"+f.Label+"\x1f")
	}
	if f.FeedbackMax != nil {
		add("c.feedback <= ?", *f.FeedbackMax)
	}
	if f.FeedbackMin != nil {
		add("c.feedback >= ?", *f.FeedbackMin)
	}
	if f.Cursor != "" {
		c, err := parseCursor(f.Cursor, f.Worst)
		if err != nil {
			return "", nil, err
		}
		if f.Worst {
			add("(s.goodness > ? OR (s.goodness = ? AND (s.start < ? OR (s.start = ? AND s.request > ?))))", *c.Goodness, *c.Goodness, c.Start, c.Start, c.Request)
		} else {
			add("(c.start < ? OR (c.start = ? AND c.request > ?))", c.Start, c.Start, c.Request)
		}
	}
	q := "SELECT " + caseColumns + ", c.start, " + goodness + " FROM " + from + " WHERE " + strings.Join(where, " AND ") +
		" ORDER BY " + order + " LIMIT ?"
	return q, append(args, f.Limit+1), nil
}
