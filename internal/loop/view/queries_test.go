package view

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/loop/event"
)

func TestCaseByAnyName(t *testing.T) {
	l := sample(t)
	id := fmt.Sprintf("%032x", 7)
	abc := l.request(t, 0xabc, "r1", "baseline", 1)
	v := fill(t, l)
	for name, want := range map[string]string{id: id, "resp-7": id, "ref-0005": fmt.Sprintf("%032x", 5), "00000000000000000000000000000ABC": abc} {
		got, err := v.Case(t.Context(), "default", name)
		if err != nil || got.Request != want {
			t.Errorf("Case(%q) = %q, %v; want %q", name, got.Request, err, want)
		}
	}
	for _, c := range []struct{ tenant, id string }{{"default", "no such"}, {"other", id}, {"default", ""}} {
		if _, err := v.Case(t.Context(), c.tenant, c.id); !errors.Is(err, ErrNotFound) {
			t.Errorf("Case(%q, %q): %v, want ErrNotFound", c.tenant, c.id, err)
		}
	}
	if n, err := v.Pending(t.Context(), "default", id); err != nil || n != 5 {
		t.Errorf("Pending = %d, %v; want 5", n, err)
	}
}

func TestAliasOfSeveralRequests(t *testing.T) {
	l := newTape()
	var ids []string
	for i := range 3 {
		ids = append(ids, l.request(t, i, "r", "baseline", 1))
		l.add(t, event.TopicAlias, "shared", 0, event.Alias{Alias: "shared", Request: ids[i]},
			event.Event{ID: fmt.Sprint("al", i), Type: event.AliasBound, Time: base})
	}
	got, err := fill(t, l).Case(t.Context(), "default", "shared")
	if err != nil || got.Request != ids[2] || !slices.Equal(got.Others, []string{ids[1], ids[0]}) {
		t.Errorf("got %s and %v, %v", got.Request, got.Others, err)
	}
}

func TestTombstoneRemovesCase(t *testing.T) {
	l := newTape()
	a, b := l.request(t, 0, "r", "baseline", 1), l.request(t, 2, "r", "baseline", 1)
	l.append(event.Record{Topic: event.TopicCase, Partition: 0, Key: []byte("default/" + a)})
	v := fill(t, l)
	if _, err := v.Case(t.Context(), "default", a); !errors.Is(err, ErrNotFound) {
		t.Errorf("case after its tombstone: %v", err)
	}
	if _, err := v.Case(t.Context(), "default", b); err != nil {
		t.Error(err)
	}
	rs, err := v.Releases(t.Context(), "default", 0)
	if err != nil || rs[0].Requests != 1 {
		t.Errorf("sums after a tombstone: %s, %v", mustJSON(t, rs), err)
	}
}

func TestCasesPaging(t *testing.T) {
	v := fill(t, sample(t))
	tests := map[string]struct {
		f    Filter
		want func(i int) bool
	}{
		"all":            {Filter{}, func(int) bool { return true }},
		"release":        {Filter{Release: "r2"}, func(i int) bool { return i%2 == 1 }},
		"arm":            {Filter{Arm: "baseline"}, func(i int) bool { return i%2 == 0 }},
		"session":        {Filter{Session: "s5"}, func(i int) bool { return i == 10 || i == 11 }},
		"failed":         {Filter{Failed: ptr(true)}, func(i int) bool { return i%5 == 0 }},
		"not failed":     {Filter{Failed: ptr(false)}, func(i int) bool { return i%5 != 0 }},
		"since":          {Filter{Since: base.Add(15 * time.Second)}, func(i int) bool { return i >= 15 }},
		"until":          {Filter{Until: base.Add(4 * time.Second)}, func(i int) bool { return i < 4 }},
		"prefix":         {Filter{Prefix: fmt.Sprintf("%032x", 0x10)[:31]}, func(i int) bool { return i >= 16 }},
		"low":            {Filter{Metric: "grounded", Max: ptr(0.25)}, func(i int) bool { return i%5 <= 1 }},
		"between":        {Filter{Metric: "grounded", Min: ptr(0.5), Max: ptr(0.75)}, func(i int) bool { return i%5 == 2 || i%5 == 3 }},
		"label":          {Filter{Label: "down"}, func(i int) bool { return i == 7 }},
		"bad feedback":   {Filter{FeedbackMax: ptr(0.4)}, func(i int) bool { return i == 7 }},
		"good feedback":  {Filter{FeedbackMin: ptr(0.6)}, func(int) bool { return false }},
		"worst":          {Filter{Metric: "grounded", Worst: true}, func(int) bool { return true }},
		"worst of r2":    {Filter{Metric: "grounded", Worst: true, Release: "r2", Arm: "candidate"}, func(i int) bool { return i%2 == 1 }},
		"unknown metric": {Filter{Metric: "none"}, func(int) bool { return false }},
		"quote":          {Filter{Release: `r1' OR '1'='1`}, func(int) bool { return false }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var want, got []string
			for i := 19; i >= 0; i-- {
				if tt.want(i) {
					want = append(want, fmt.Sprintf("%032x", i))
				}
			}
			f := tt.f
			f.Limit = 3
			var last float64
			for {
				page, err := v.Cases(t.Context(), "default", f)
				if err != nil {
					t.Fatal(err)
				}
				for _, c := range page.Cases {
					got = append(got, c.Request)
					if f.Worst {
						if g := *c.Scores[0].Value; g < last {
							t.Errorf("%v after %v", g, last)
						} else {
							last = g
						}
					}
				}
				if page.Next == "" {
					break
				}
				f.Cursor = page.Next
			}
			if f.Worst {
				slices.Sort(got)
				slices.Reverse(got)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("cases (-want +got):\n%s", diff)
			}
		})
	}
	for _, c := range []string{"x", "!!", "bnVsbA", cursor{Goodness: ptr(0.1)}.String()} {
		if _, err := v.Cases(t.Context(), "default", Filter{Cursor: c}); !errors.Is(err, ErrBadCursor) {
			if c == "bnVsbA" { // null is the zero cursor: after everything
				continue
			}
			t.Errorf("cursor %q: %v", c, err)
		}
	}
}

func TestGateAndSeries(t *testing.T) {
	v := fill(t, sample(t))
	g, err := v.Gate(t.Context(), "default", "r2")
	if err != nil {
		t.Fatal(err)
	}
	if g.EvidenceID != "ev-r2-12" || g.Evidence.Seq != 12 || g.Evidence.Units != nil || g.Evidence.Guards[0].Harm != nil {
		t.Errorf("evidence: %s", mustJSON(t, g.Evidence))
	}
	if len(g.Decisions) != 1 || g.Decisions[0].ID != "dec-1" || len(g.Decisions[0].Acknowledgements) != 1 {
		t.Errorf("decisions: %s", mustJSON(t, g.Decisions))
	}
	if _, err := v.Gate(t.Context(), "default", "r1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("gate of a baseline: %v", err)
	}
	for _, n := range []int{2, 3, 5, 12, 100} {
		ps, err := v.Series(t.Context(), "default", "r2", n)
		if err != nil || len(ps) > n+1 || len(ps) < 2 || ps[0].Seq != 1 || ps[len(ps)-1].Seq != 12 {
			t.Errorf("series of %d: %s, %v", n, mustJSON(t, ps), err)
		}
	}
	gates, err := v.Gates(t.Context(), "default", 10)
	if err != nil || len(gates) != 1 || gates[0].Release != "r2" {
		t.Errorf("gates: %s, %v", mustJSON(t, gates), err)
	}
}

func TestReleases(t *testing.T) {
	v := fill(t, sample(t))
	rs, err := v.Releases(t.Context(), "default", 0)
	if err != nil || len(rs) != 2 {
		t.Fatalf("releases: %s, %v", mustJSON(t, rs), err)
	}
	i := slices.IndexFunc(rs, func(r Release) bool { return r.Release == "r2" })
	r := rs[i]
	if r.Requests != 10 || r.Failed != 2 || r.State != event.GateRolledBack || r.Baseline != "r1" || r.Kind != "retriever" || r.Decision == nil || len(r.Arms) != 1 {
		t.Errorf("release r2: %s", mustJSON(t, r))
	}
	want := []MetricAverage{{"feedback", 1, 0}, {"grounded", 10, 0.5}}
	if diff := cmp.Diff(want, r.Arms[0].Metrics); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
	q, err := v.Quality(t.Context(), "default", "r2", base.Add(-time.Hour))
	if err != nil || len(q) != 2 {
		t.Errorf("quality: %s, %v", mustJSON(t, q), err)
	}
	ds, err := v.Deployments(t.Context(), "default", "r2", 10)
	if err != nil || len(ds) != 1 || ds[0].Type != event.DeploymentStarted {
		t.Errorf("deployments: %s, %v", mustJSON(t, ds), err)
	}
}

func TestRecentAndCounts(t *testing.T) {
	v := fill(t, sample(t))
	rows, err := v.Recent(t.Context(), "default", "", "", 500)
	if err != nil || len(rows) != 20*4+1+1+1+12+1+1+1 {
		t.Errorf("%d rows, %v", len(rows), err)
	}
	if !slices.IsSortedFunc(rows, func(a, b EventRow) int { return b.Appended.Compare(a.Appended) }) {
		t.Error("rows are not newest first")
	}
	rows, err = v.Recent(t.Context(), "default", event.FeedbackRecorded, "", 500)
	if err != nil || len(rows) != 1 || rows[0].Request != fmt.Sprintf("%032x", 7) || rows[0].Summary["label"] != "down" {
		t.Errorf("feedback: %s, %v", mustJSON(t, rows), err)
	}
	rows, err = v.Recent(t.Context(), "default", "", fmt.Sprintf("%032x", 3), 500)
	if err != nil || len(rows) != 5 {
		t.Errorf("events of a request: %s, %v", mustJSON(t, rows), err)
	}
	c, err := v.Counts(t.Context(), "default", base.Add(time.Minute))
	if err != nil || c.Total != 98 || c.ByType[event.EvaluationResult] != 21 || c.Cases != 20 || len(c.Minutes) != 2 {
		t.Errorf("counts: %s, %v", mustJSON(t, c), err)
	}
	seen, err := v.Seen(t.Context(), "default")
	if err != nil || seen[FactPrompt].N != 20 || seen[FactContent].N != 40 || seen[FactFeedback].N != 1 || seen[FactPropensity].N == 0 {
		t.Errorf("seen: %s, %v", mustJSON(t, seen), err)
	}
	q, err := v.Quarantined(t.Context(), "default", 10)
	if err != nil || len(q) != 1 || q[0].Reason != "unknown_span" {
		t.Errorf("quarantine: %s, %v", mustJSON(t, q), err)
	}
}

// The plans of the queries that pages ask for again and again: none may walk a
// whole table.
func TestPlans(t *testing.T) {
	v := fill(t, sample(t))
	filter := func(f Filter) string {
		f.Limit = 50
		q, _, err := f.query("default")
		if err != nil {
			t.Fatal(err)
		}
		return q
	}
	for name, tt := range map[string]struct{ query, index string }{
		"events of a request": {recentQuery("", "r"), "events_request"},
		"newest events":       {recentQuery("", ""), "events_appended"},
		"newest cases":        {filter(Filter{}), "cases_start"},
		"cases of a release":  {filter(Filter{Release: "r"}), "cases_release"},
		"cases of a session":  {filter(Filter{Session: "s"}), "cases_session"},
		"worst of a release":  {filter(Filter{Release: "r", Metric: "m", Worst: true}), "scores_worst"},
		"newest evidence":     {"SELECT id FROM evidence WHERE tenant = ? AND release = ? ORDER BY time DESC, seq DESC LIMIT 1", "evidence_newest"},
	} {
		var args []any
		for range strings.Count(tt.query, "?") {
			args = append(args, "x")
		}
		rows, err := v.read.Query("EXPLAIN QUERY PLAN "+tt.query, args...)
		if err != nil {
			t.Fatal(err)
		}
		var plan []string
		for rows.Next() {
			var a, b, c any
			var detail string
			if err := rows.Scan(&a, &b, &c, &detail); err != nil {
				t.Fatal(err)
			}
			plan = append(plan, detail)
		}
		rows.Close()
		if all := strings.Join(plan, "; "); !strings.Contains(all, tt.index+" ") || strings.Contains(all, "SCAN ") {
			t.Errorf("%s: %s; want index %s", name, all, tt.index)
		}
	}
}
