package view

import (
	"context"
	"fmt"
	"time"
)

// Retention bounds the tables. What goes is the oldest; the log keeps it as long
// as its topic's retention says.
type Retention struct {
	Age         time.Duration // rows older than this go; default 30 days, negative: no bound
	Events      int           // rows of events, of all tenants; default 300,000
	Cases       int           // default 200,000
	Evidence    int           // points kept of one gate before every second one goes; default 4,000
	Quarantined int           // default 50,000
	Interval    time.Duration // between two prunings; default 30 s
}

func (r Retention) withDefaults() Retention {
	set := func(to *int, n int) {
		if *to <= 0 {
			*to = n
		}
	}
	if r.Age == 0 {
		r.Age = 30 * 24 * time.Hour
	}
	set(&r.Events, 300_000)
	set(&r.Cases, 200_000)
	set(&r.Evidence, 4_000)
	set(&r.Quarantined, 50_000)
	if r.Interval <= 0 {
		r.Interval = 30 * time.Second
	}
	return r
}

func (v *View) pruneSometimes(ctx context.Context) error {
	now := v.cfg.Now()
	if now.Sub(v.pruned) < v.cfg.Keep.Interval {
		return nil
	}
	v.pruned = now
	if err := v.prune(ctx, now); err != nil {
		return fmt.Errorf("prune view: %w", err)
	}
	return nil
}

// prune removes what is beyond the bounds, in one transaction.
func (v *View) prune(ctx context.Context, now time.Time) error {
	return v.transact(ctx, func() error { return v.pruneTables(ctx, now) })
}

func (v *View) pruneTables(ctx context.Context, now time.Time) error {
	lostCases := false
	remove := func(table, where string, args ...any) error {
		res, err := v.conn.ExecContext(ctx, "DELETE FROM "+table+" WHERE "+where, args...)
		if err != nil {
			return fmt.Errorf("table %s: %w", table, err)
		}
		if n, err := res.RowsAffected(); err == nil && n > 0 {
			v.metrics.pruned.WithLabelValues(table).Add(float64(n))
			lostCases = lostCases || table == "cases"
		}
		return nil
	}
	if v.cfg.Keep.Age > 0 {
		cut := now.Add(-v.cfg.Keep.Age).UnixNano()
		for table, column := range map[string]string{
			"events": "appended", "cases": "start", "evidence": "time", "quarantine": "time", "aliases": "time",
		} {
			if err := remove(table, column+" < ?", cut); err != nil {
				return err
			}
		}
		for _, table := range []string{"counters", "quality"} {
			if err := remove(table, "minute < ?", minute(cut)); err != nil {
				return err
			}
		}
	}
	for _, t := range []struct {
		table, column string
		keep          int
	}{{"events", "appended", v.cfg.Keep.Events}, {"cases", "start", v.cfg.Keep.Cases}, {"quarantine", "time", v.cfg.Keep.Quarantined}, {"aliases", "time", 4 * v.cfg.Keep.Cases}} {
		// The first row beyond the bound, newest first: it and what is older goes.
		// Rows of one time go together, so the choice does not depend on arrival.
		if err := remove(t.table, fmt.Sprintf("%[2]s <= (SELECT %[2]s FROM %[1]s ORDER BY %[2]s DESC LIMIT 1 OFFSET ?)", t.table, t.column), t.keep); err != nil {
			return err
		}
	}
	if lostCases {
		for _, table := range []string{"scores", "case_aliases"} {
			if err := remove(table, "start < (SELECT coalesce(min(start), 0) FROM cases)"); err != nil {
				return err
			}
		}
	}
	return v.thinEvidence(ctx, remove)
}
