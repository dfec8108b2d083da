package view

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/looptape/looptape/internal/loop/event"
	"github.com/looptape/looptape/internal/loop/stream"
)

var base = time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)

// tape is a log in memory that a view can follow.
type tape struct {
	parts map[string]map[int32][]event.Record
	pick  *rand.Rand // interleaves partitions; nil: topic by topic
	most  int        // records in one transaction; 0: the view's own
}

func newTape() *tape { return &tape{parts: map[string]map[int32][]event.Record{}} }

func (l *tape) add(t testing.TB, topic, key string, partition int32, value any, e event.Event) {
	t.Helper()
	if value != nil {
		if err := e.SetBody(value); err != nil {
			t.Fatal(err)
		}
	}
	r := e.Record(topic, key, key)
	r.Partition = partition
	l.append(r)
}

func (l *tape) append(r event.Record) {
	if l.parts[r.Topic] == nil {
		l.parts[r.Topic] = map[int32][]event.Record{}
	}
	p := l.parts[r.Topic][r.Partition]
	r.Offset = int64(len(p))
	if r.Time.IsZero() {
		r.Time = base.Add(time.Duration(r.Offset) * time.Second)
	}
	l.parts[r.Topic][r.Partition] = append(p, r)
}

// Tail gives everything there is in small batches, then returns.
func (l *tape) Tail(ctx context.Context, cfg stream.TailConfig) error {
	type place struct {
		topic string
		p     int32
	}
	next := positions{}
	var open []place
	for _, topic := range slices.Sorted(maps.Keys(l.parts)) {
		next[topic] = map[int32]int64{}
		for _, p := range slices.Sorted(maps.Keys(l.parts[topic])) {
			at := cfg.From[topic][p]
			if at > int64(len(l.parts[topic][p])) {
				at = 0
			}
			next[topic][p] = at
			open = append(open, place{topic, p})
		}
	}
	for {
		open = slices.DeleteFunc(open, func(o place) bool { return next[o.topic][o.p] >= int64(len(l.parts[o.topic][o.p])) })
		if len(open) == 0 {
			break
		}
		o := open[0]
		if l.pick != nil {
			o = open[l.pick.IntN(len(open))]
		}
		at := next[o.topic][o.p]
		recs := l.parts[o.topic][o.p][at:min(at+3, int64(len(l.parts[o.topic][o.p])))]
		next[o.topic][o.p] = at + int64(len(recs))
		if err := cfg.Batch(ctx, slices.Clone(recs), clonePositions(next)); err != nil {
			return err
		}
	}
	if cfg.CaughtUp != nil {
		cfg.CaughtUp()
	}
	return nil
}

func openView(t testing.TB, path string, src Source, keep Retention) *View {
	t.Helper()
	v, err := Open(t.Context(), Config{Path: path, Source: src, Keep: keep, Now: func() time.Time { return base.Add(time.Hour) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

// fill opens a view in a new directory and folds the tape.
func fill(t testing.TB, l *tape) *View {
	t.Helper()
	v := openView(t, filepath.Join(t.TempDir(), "view.db"), l, Retention{})
	if l.most > 0 {
		v.most = l.most
	}
	if err := v.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	return v
}

// dump is every row of every table, in order.
func dump(t testing.TB, v *View) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for _, table := range tables {
		rows, err := v.read.Query("SELECT * FROM " + table)
		if err != nil {
			t.Fatal(err)
		}
		cols, err := rows.Columns()
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			vals := make([]any, len(cols))
			to := make([]any, len(cols))
			for i := range vals {
				to[i] = &vals[i]
			}
			if err := rows.Scan(to...); err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			for i, c := range cols {
				fmt.Fprintf(&b, "%s=%v ", c, vals[i])
			}
			out[table] = append(out[table], b.String())
		}
		rows.Close()
		slices.Sort(out[table])
	}
	return out
}

func ptr[T any](v T) *T { return &v }

// requestAt puts the events of one request on the tape.
func (l *tape) request(t testing.TB, i int, release, arm string, grounded float64) string {
	t.Helper()
	id := fmt.Sprintf("%032x", i)
	at := base.Add(time.Duration(i) * time.Second)
	p := int32(i % 2)
	facts := event.Facts{Tenant: "default", App: "chat", Request: id, Trace: id, Session: fmt.Sprintf("s%d", i/2), Release: release, Arm: arm, Propensity: ptr(0.5)}
	ev := func(kind string, ms int) event.Event {
		return event.Event{ID: event.DeriveID(id, kind), Type: kind, Source: "test", Time: at.Add(time.Duration(ms) * time.Millisecond), Facts: facts}
	}
	l.add(t, event.TopicPrompt, id, p, event.Prompt{Name: "chat", Messages: []event.Message{{Role: "user", Content: "secret question"}}}, ev(event.PromptRendered, 0))
	l.add(t, event.TopicRetrieval, id, p, event.Retrieval{Source: "docs", Documents: []event.Document{{ID: "d1", Text: "secret passage"}}}, ev(event.RetrievalCompleted, 10))
	l.add(t, event.TopicResponse, id, p, event.Response{ModelGiven: "m", LatencyMs: 120, Messages: []event.Message{{Role: "assistant", Content: "secret answer"}}}, ev(event.ModelCallCompleted, 20))
	score := event.Score{Evaluator: "grounded@1#aa", Metric: "grounded", Mode: "live", Value: ptr(grounded), Good: "high", InputCount: 2, InputsHash: "h2", SampledP: 1}
	l.add(t, event.TopicScore, id, p, score, ev(event.EvaluationResult, 30))
	l.revise(t, id, func(c *event.Case) {
		c.Start, c.Release, c.Arm, c.App, c.Session, c.Failed = at, release, arm, "chat", facts.Session, grounded == 0
		c.LatencyMs = 120
		c.Aliases = []string{"ref-" + id[28:]}
		c.Scores = []event.CaseScore{{ID: "s", Evaluator: score.Evaluator, Metric: "grounded", Mode: "live", Status: "scored", Value: ptr(grounded), Good: "high"}}
	}, p, 1)
	return id
}

// revise puts a revision of a case on the tape.
func (l *tape) revise(t testing.TB, id string, set func(*event.Case), partition int32, revision int64) {
	t.Helper()
	c := event.Case{Request: id, Tenant: "default", Revision: revision, Start: base}
	set(&c)
	l.add(t, event.TopicCase, "default/"+id, partition, &c, event.Event{
		ID: event.DeriveID(id, "case", fmt.Sprint(revision)), Type: event.CaseRevised, Time: c.Start, Facts: event.Facts{Tenant: "default", Request: id},
	})
}

func mustJSON(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
