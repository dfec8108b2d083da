package view

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// Recent lists the newest events by append time, newest first. typ and request
// restrict when they are not empty.
func (v *View) Recent(ctx context.Context, tenant, typ, request string, limit int) ([]EventRow, error) {
	query, args := recentQuery(typ, request), []any{tenant}
	if typ != "" {
		args = append(args, typ)
	}
	if request != "" {
		args = append(args, request)
	}
	rows, err := v.read.QueryContext(ctx, query, append(args, min(max(limit, 1), 500))...)
	if err != nil {
		return nil, fmt.Errorf("list events: %w", err)
	}
	defer rows.Close()
	out := []EventRow{}
	for rows.Next() {
		var (
			r            EventRow
			at, appended int64
			text         string
		)
		if err := rows.Scan(&r.ID, &r.Type, &at, &appended, &r.Position.Topic, &r.Position.Partition, &r.Position.Offset, &r.Request, &r.Trace,
			&r.Session, &r.App, &r.Release, &r.Arm, &text); err != nil {
			return nil, fmt.Errorf("list events: %w", err)
		}
		r.Time, r.Appended = time.Unix(0, at).UTC(), time.Unix(0, appended).UTC()
		if text != "" {
			if err := json.Unmarshal([]byte(text), &r.Summary); err != nil {
				return nil, fmt.Errorf("stored summary: %w", err)
			}
		}
		out = append(out, r)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list events: %w", err)
	}
	return out, nil
}

func recentQuery(typ, request string) string {
	// Named, or the planner walks all events of the tenant.
	index := "events_appended"
	if request != "" {
		index = "events_request"
	}
	query := `SELECT id, type, time, appended, topic, partition, off, request, trace, session, app, release, arm, summary
		FROM events INDEXED BY ` + index + ` WHERE tenant = ?`
	if typ != "" {
		query += " AND type = ?"
	}
	if request != "" {
		query += " AND request = ?"
	}
	return query + " ORDER BY appended DESC, id DESC LIMIT ?"
}

// Counts are the numbers of events.
type Counts struct {
	Total   int64            `json:"total"` // since the counters begin
	ByType  map[string]int64 `json:"by_type"`
	Minutes []MinuteCount    `json:"minutes"` // of the last hour, oldest first; minutes without events are left out
	Cases   int64            `json:"cases"`
}

// A MinuteCount is the number of events that happened in a minute.
type MinuteCount struct {
	Minute time.Time `json:"minute"`
	N      int64     `json:"n"`
}

// Counts counts a tenant's events.
func (v *View) Counts(ctx context.Context, tenant string, now time.Time) (Counts, error) {
	c := Counts{ByType: map[string]int64{}, Minutes: []MinuteCount{}}
	err := v.each(ctx, func(scan func(...any) error) error {
		var (
			typ string
			n   int64
		)
		if err := scan(&typ, &n); err != nil {
			return err
		}
		c.ByType[typ] = n
		c.Total += n
		return nil
	}, "SELECT type, sum(n) FROM counters WHERE tenant = ? GROUP BY type", tenant)
	if err != nil {
		return c, fmt.Errorf("count events: %w", err)
	}
	err = v.each(ctx, func(scan func(...any) error) error {
		var at, n int64
		if err := scan(&at, &n); err != nil {
			return err
		}
		c.Minutes = append(c.Minutes, MinuteCount{time.Unix(at*60, 0).UTC(), n})
		return nil
	}, "SELECT minute, sum(n) FROM counters WHERE tenant = ? AND minute > ? AND minute <= ? GROUP BY minute ORDER BY minute",
		tenant, minute(now.UnixNano())-60, minute(now.UnixNano())+1)
	if err != nil {
		return c, fmt.Errorf("count events: %w", err)
	}
	if err := v.read.QueryRowContext(ctx, "SELECT coalesce(sum(n), 0) FROM quality WHERE tenant = ? AND metric = ''", tenant).Scan(&c.Cases); err != nil {
		return c, fmt.Errorf("count cases: %w", err)
	}
	return c, nil
}

// A Seen tells that a fact has come, how often, and when by event time.
type Seen struct {
	N     int64     `json:"n"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
}

// Seen tells which facts of the checklist (the Fact constants) have come.
func (v *View) Seen(ctx context.Context, tenant string) (map[string]Seen, error) {
	out := map[string]Seen{}
	err := v.each(ctx, func(scan func(...any) error) error {
		var (
			fact           string
			n, first, last int64
		)
		if err := scan(&fact, &n, &first, &last); err != nil {
			return err
		}
		out[fact] = Seen{n, time.Unix(0, first).UTC(), time.Unix(0, last).UTC()}
		return nil
	}, "SELECT fact, n, first, last FROM seen WHERE tenant = ?", tenant)
	if err != nil {
		return nil, fmt.Errorf("read checklist: %w", err)
	}
	return out, nil
}

// A QuarantinedRow is an event that could not be taken.
type QuarantinedRow struct {
	ID     string    `json:"id"`
	Time   time.Time `json:"time"`
	Kind   string    `json:"kind"`
	Reason string    `json:"reason"`
	Detail string    `json:"detail,omitempty"`
}

// Quarantined lists what could not be taken, newest first.
func (v *View) Quarantined(ctx context.Context, tenant string, limit int) ([]QuarantinedRow, error) {
	out := []QuarantinedRow{}
	err := v.each(ctx, func(scan func(...any) error) error {
		var (
			q  QuarantinedRow
			at int64
		)
		if err := scan(&q.ID, &at, &q.Kind, &q.Reason, &q.Detail); err != nil {
			return err
		}
		q.Time = time.Unix(0, at).UTC()
		out = append(out, q)
		return nil
	}, "SELECT id, time, kind, reason, detail FROM quarantine WHERE tenant = ? ORDER BY time DESC, id DESC LIMIT ?", tenant, min(max(limit, 1), 500))
	if err != nil {
		return nil, fmt.Errorf("list quarantine: %w", err)
	}
	return out, nil
}

// each runs a query and calls fn for every row.
func (v *View) each(ctx context.Context, fn func(scan func(...any) error) error, query string, args ...any) error {
	rows, err := v.read.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := fn(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}
