package view

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/looptape/looptape/internal/loop/event"
)

// errLogReplaced says that a record came from before a committed position: the
// topic was made anew, and what is in the tables is of a log that is gone.
var errLogReplaced = errors.New("the log was made anew")

// A fold is one batch on its way into the tables.
type fold struct {
	ctx     context.Context
	v       *View
	skipped map[string]int

	cases    map[caseKey]*caseChange // the last of each in the batch: the others are overwritten anyway
	order    []caseKey
	counters map[counterKey]int64
	seen     map[seenKey]seenCount
	quality  map[qualityKey]qualitySum
	changes  map[string]*Change // by tenant
}

type (
	caseKey    struct{ tenant, request string }
	counterKey struct {
		tenant, typ string
		minute      int64
	}
	seenKey   struct{ tenant, fact string }
	seenCount struct{ n, first, last int64 }
)

// A caseChange is a new revision of a case, or its end when doc is nil.
type caseChange struct {
	c   *event.Case
	doc []byte
	at  event.Position
}

// apply folds one batch and commits it with the positions after it.
func (v *View) apply(ctx context.Context, recs []event.Record, next positions) error {
	begin := time.Now()
	for i := range recs {
		r := &recs[i]
		if at, ok := v.next[r.Topic][r.Partition]; ok && r.Offset < at {
			return errLogReplaced
		}
	}
	f := &fold{
		ctx: ctx, v: v, skipped: map[string]int{},
		cases: map[caseKey]*caseChange{}, counters: map[counterKey]int64{}, seen: map[seenKey]seenCount{},
		quality: map[qualityKey]qualitySum{}, changes: map[string]*Change{},
	}
	err := v.transact(ctx, func() error {
		for i := range recs {
			if err := f.record(&recs[i]); err != nil {
				return fmt.Errorf("fold %s/%d/%d: %w", recs[i].Topic, recs[i].Partition, recs[i].Offset, err)
			}
		}
		return f.finish(next)
	})
	if err != nil {
		return fmt.Errorf("fold batch: %w", err)
	}
	// From here on the batch is part of the view: a crash does not fold it again.
	v.next = next
	for i := range recs {
		v.metrics.records.WithLabelValues(recs[i].Topic).Inc()
	}
	for topic, n := range f.skipped {
		v.metrics.skipped.WithLabelValues(topic).Add(float64(n))
	}
	v.metrics.commits.Observe(time.Since(begin).Seconds())
	for _, c := range f.changes {
		v.hub.publish(*c)
	}
	return v.pruneSometimes(ctx)
}

func (f *fold) exec(query string, args ...any) error {
	s, err := f.v.stmt(f.ctx, query)
	if err != nil {
		return err
	}
	_, err = s.ExecContext(f.ctx, args...)
	return err
}

// find reads one row and reports whether there is one.
func (f *fold) find(query string, args []any, to ...any) (bool, error) {
	s, err := f.v.stmt(f.ctx, query)
	if err != nil {
		return false, err
	}
	err = s.QueryRowContext(f.ctx, args...).Scan(to...)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

func (f *fold) change(tenant string) *Change {
	c := f.changes[tenant]
	if c == nil {
		c = &Change{Tenant: tenant}
		f.changes[tenant] = c
	}
	return c
}

// skip passes over a record that cannot be decoded: a bad record must not stop
// those behind it.
func (f *fold) skip(topic string) error {
	f.skipped[topic]++
	return nil
}

// record folds one record. An error is the database's.
func (f *fold) record(r *event.Record) error {
	if r.Topic == event.TopicCase {
		return f.caseRecord(r)
	}
	if r.Value == nil && r.Header("ce_dataref") == "" {
		return nil // a tombstone of a compacted topic: nothing is kept under record keys here
	}
	e, err := event.Decode(r)
	if errors.Is(err, event.ErrNotEvent) {
		return f.skip(r.Topic)
	}
	if e.Facts.Tenant == "" {
		e.Facts.Tenant = DefaultTenant
	}
	if r.Topic == event.TopicAlias {
		return f.alias(&e)
	}
	row, s := summarize(&e)
	if err := f.event(&e, row, s); err != nil {
		return err
	}
	switch r.Topic {
	case event.TopicDecision:
		return f.decision(&e)
	case event.TopicDeployment:
		return f.deployment(&e)
	case event.TopicQuarantine:
		return f.quarantine(&e)
	}
	return nil
}

// event upserts a row of events. Of two records with one id, the one stands that
// was re-keyed to its request, then the score with more inputs, then the newer.
func (f *fold) event(e *event.Event, row EventRow, s summary) error {
	var (
		have                    rank
		oldTime                 int64
		tenant, at, summaryText = e.Facts.Tenant, e.Position, row.Summary.encode()
	)
	now := rank{via: e.Facts.Via != "", inputs: s.inputCount, hash: s.inputsHash, partition: at.Partition, offset: at.Offset}
	found, err := f.find("SELECT via, input_count, inputs_hash, partition, off, time FROM events WHERE tenant = ? AND id = ?",
		[]any{tenant, e.ID}, &have.via, &have.inputs, &have.hash, &have.partition, &have.offset, &oldTime)
	if err != nil {
		return err
	}
	if found && !have.less(now) {
		return nil
	}
	err = f.exec(`INSERT OR REPLACE INTO events (tenant, id, type, topic, partition, off, time, appended, request, trace, session,
		app, release, arm, summary, via, input_count, inputs_hash) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)`,
		tenant, e.ID, e.Type, at.Topic, at.Partition, at.Offset, e.Time.UnixNano(), e.AppendTime.UnixNano(), e.Facts.Request,
		e.Facts.Trace, e.Facts.Session, e.Facts.App, e.Facts.Release, e.Facts.Arm, summaryText, now.via, now.inputs, now.hash)
	if err != nil {
		return err
	}
	if found {
		f.counters[counterKey{tenant, e.Type, minute(oldTime)}]--
	}
	f.counters[counterKey{tenant, e.Type, minute(e.Time.UnixNano())}]++
	if !found {
		for _, fact := range s.facts {
			k := seenKey{tenant, fact}
			c, had := f.seen[k]
			t := e.Time.UnixNano()
			if !had {
				c.first, c.last = t, t
			}
			f.seen[k] = seenCount{c.n + 1, min(c.first, t), max(c.last, t)}
		}
		c := f.change(tenant)
		c.EventCount++
		c.Events = append(c.Events, row)
		if len(c.Events) >= 4*liveEvents {
			c.Events = append(c.Events[:0], c.Events[len(c.Events)-liveEvents:]...)
		}
	}
	return nil
}

// A rank orders the records of one event id; the greatest stands.
type rank struct {
	via       bool
	inputs    int
	hash      string
	partition int32
	offset    int64
}

func (a rank) less(b rank) bool {
	switch {
	case a.via != b.via:
		return b.via
	case a.inputs != b.inputs:
		return a.inputs < b.inputs
	case a.hash != b.hash:
		return a.hash < b.hash
	case a.partition != b.partition:
		return a.partition < b.partition
	}
	return a.offset < b.offset
}

func (f *fold) alias(e *event.Event) error {
	var a event.Alias
	if e.Body(&a) != nil || a.Alias == "" || a.Request == "" {
		return f.skip(e.Position.Topic)
	}
	// The kind that is later in the alphabet and the later time stand, so that the
	// order of arrival does not show.
	return f.exec(`INSERT INTO aliases (tenant, alias, request, kind, time) VALUES (?,?,?,?,?)
		ON CONFLICT DO UPDATE SET kind = max(kind, excluded.kind), time = max(time, excluded.time)`,
		e.Facts.Tenant, a.Alias, a.Request, a.Kind, e.Time.UnixNano())
}

func (f *fold) deployment(e *event.Event) error {
	var d event.Deployment
	if e.Body(&d) != nil {
		return f.skip(e.Position.Topic)
	}
	if d.Release == "" {
		d.Release = e.Facts.Release
	}
	if d.Release == "" {
		return f.skip(e.Position.Topic)
	}
	doc, err := json.Marshal(&d)
	if err != nil {
		return f.skip(e.Position.Topic)
	}
	return f.exec("INSERT OR REPLACE INTO deployments (tenant, id, type, release, time, doc) VALUES (?,?,?,?,?,?)",
		e.Facts.Tenant, e.ID, e.Type, d.Release, e.Time.UnixNano(), string(doc))
}

func (f *fold) quarantine(e *event.Event) error {
	var q struct{ Kind, Reason, Detail string }
	if e.Body(&q) != nil {
		return f.skip(e.Position.Topic)
	}
	return f.exec("INSERT OR REPLACE INTO quarantine (tenant, id, time, kind, reason, detail, topic, partition, off) VALUES (?,?,?,?,?,?,?,?,?)",
		e.Facts.Tenant, e.ID, e.Time.UnixNano(), q.Kind, q.Reason, clip(q.Detail, 500), e.Position.Topic, e.Position.Partition, e.Position.Offset)
}

// finish writes what was gathered over the batch, and the positions.
func (f *fold) finish(next positions) error {
	for _, k := range f.order {
		if err := f.applyCase(k, f.cases[k]); err != nil {
			return fmt.Errorf("fold case: %w", err)
		}
	}
	if err := f.applySums(); err != nil {
		return err
	}
	for k, n := range f.counters {
		if n == 0 {
			continue
		}
		if err := f.exec("INSERT INTO counters (tenant, minute, type, n) VALUES (?,?,?,?) ON CONFLICT DO UPDATE SET n = n + excluded.n",
			k.tenant, k.minute, k.typ, n); err != nil {
			return fmt.Errorf("count events: %w", err)
		}
	}
	for k, c := range f.seen {
		if err := f.exec(`INSERT INTO seen (tenant, fact, n, first, last) VALUES (?,?,?,?,?) ON CONFLICT DO UPDATE
			SET n = n + excluded.n, first = min(first, excluded.first), last = max(last, excluded.last)`,
			k.tenant, k.fact, c.n, c.first, c.last); err != nil {
			return fmt.Errorf("note facts: %w", err)
		}
	}
	for topic, ps := range next {
		for p, at := range ps {
			if err := f.exec("INSERT OR REPLACE INTO offsets (topic, partition, next) VALUES (?,?,?)", topic, p, at); err != nil {
				return fmt.Errorf("store positions: %w", err)
			}
		}
	}
	for _, c := range f.changes {
		if n := len(c.Events); n > liveEvents {
			c.Events = c.Events[n-liveEvents:]
		}
	}
	return nil
}

func minute(ns int64) int64 { return ns / int64(time.Minute) }

// clip cuts text at a rune's edge.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}
