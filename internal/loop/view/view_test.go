package view

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/loop/event"
	"github.com/looptape/looptape/internal/loop/stream"
)

// sample is a tape with a bit of everything.
func sample(t testing.TB) *tape {
	l := newTape()
	for i := range 20 {
		release, arm := "r1", event.ArmBaseline
		if i%2 == 1 {
			release, arm = "r2", event.ArmCandidate
		}
		l.request(t, i, release, arm, float64(i%5)/4)
	}
	// Feedback that came under an alias and was re-keyed: one id, two records.
	fb := event.Feedback{Kind: "thumbs", Value: ptr(0.0), Label: "down", Comment: "secret comment"}
	e := event.Event{ID: "fb-1", Type: event.FeedbackRecorded, Time: base.Add(time.Minute), Facts: event.Facts{Tenant: "default"}}
	l.add(t, event.TopicFeedback, "resp-7", 1, fb, e)
	e.Facts.Request, e.Facts.Via = fmt.Sprintf("%032x", 7), "resp-7"
	l.add(t, event.TopicFeedback, e.Facts.Request, 0, fb, e)
	l.add(t, event.TopicAlias, "resp-7", 1, event.Alias{Alias: "resp-7", Kind: "response", Request: e.Facts.Request},
		event.Event{ID: "al-1", Type: event.AliasBound, Time: base, Facts: event.Facts{Tenant: "default"}})
	l.revise(t, e.Facts.Request, func(c *event.Case) {
		c.Start, c.Release, c.Arm, c.App = base.Add(7*time.Second), "r2", event.ArmCandidate, "chat"
		c.Labels = []event.Label{{ID: "fb-1", Kind: "thumbs", Label: "down", Value: ptr(0.0)}}
		c.Scores = []event.CaseScore{{Evaluator: "grounded@1#aa", Metric: "grounded", Mode: "live", Status: "scored", Value: ptr(0.5), Good: "high"}}
	}, 1, 2)
	// A score made again with more inputs, in front of the one with fewer in another partition's order.
	id := fmt.Sprintf("%032x", 3)
	for _, n := range []int{3, 1} {
		l.add(t, event.TopicScore, id, int32(n%2), event.Score{Metric: "citation", Mode: "live", Value: ptr(float64(n)), InputCount: n},
			event.Event{ID: "sc-3", Type: event.EvaluationResult, Time: base, Facts: event.Facts{Tenant: "default", Request: id}})
	}
	l.add(t, event.TopicDeployment, "r2", 0, event.Deployment{Release: "r2", Baseline: "r1", App: "chat", Kind: "retriever", Propensity: 0.5},
		event.Event{ID: "dep-1", Type: event.DeploymentStarted, Time: base, Facts: event.Facts{Tenant: "default", Release: "r2"}})
	for seq := range int64(12) {
		l.evidence(t, "r2", seq+1)
	}
	l.add(t, event.TopicDecision, "r2", 0, event.Decision{Release: "r2", Baseline: "r1", Seq: 1, Time: base.Add(13 * time.Second), Action: event.ActRollback, State: event.GateRollingBack,
		Rule: "g.log_e >= thr.rollback", LogE: 5.1, Threshold: 4.8, Alpha: 0.008, Evidence: "ev-r2-12", EvidenceSeq: 12, Guarantee: "words"},
		event.Event{ID: "dec-1", Type: event.GateDecision, Time: base.Add(13 * time.Second), Facts: event.Facts{Tenant: "default", Release: "r2"}})
	l.add(t, event.TopicDecision, "r2", 0, event.Acknowledgement{Release: "r2", Decision: "dec-1", Action: event.ActRollback, Actuator: "webhook", Outcome: "done", Attempts: 1},
		event.Event{ID: "ack-1", Type: event.GateAcknowledged, Time: base.Add(14 * time.Second), Facts: event.Facts{Tenant: "default", Release: "r2"}})
	l.add(t, event.TopicQuarantine, "default", 0, event.Quarantined{Reason: "unknown_span", Kind: "span", Raw: []byte(`{"x":"secret raw"}`)},
		event.Event{ID: "q-1", Type: event.EventQuarantined, Time: base, Facts: event.Facts{Tenant: "default"}})
	return l
}

func (l *tape) evidence(t testing.TB, release string, seq int64) {
	t.Helper()
	l.add(t, event.TopicDecision, release, 0, event.Evidence{Release: release, Baseline: "r1", Deployment: "d1", Seq: seq, Time: base.Add(time.Duration(seq) * time.Second), State: event.GateComparing,
		Entered: seq * 10, N: [2]int64{seq * 5, seq * 5}, Units: []event.GateUnit{{Unit: "u"}}, PolicyHash: "p1",
		Guards:     []event.GuardRead{{Metric: "grounded", Margin: 0.01, Mean: [2]float64{0.9, 0.8}, Effect: -0.1, CS: [2]float64{-0.3, 0.1}, Harm: []int64{1, 2}}},
		Thresholds: map[string]float64{"rollback": 4.8}},
		event.Event{ID: fmt.Sprintf("ev-%s-%d", release, seq), Type: event.GateEvidence, Time: base.Add(time.Duration(seq) * time.Second), Facts: event.Facts{Tenant: "default", Release: release}})
}

func TestRebuildInAnyInterleaving(t *testing.T) {
	l := sample(t)
	want := dump(t, fill(t, l))
	for seed := range uint64(6) {
		l.pick, l.most = rand.New(rand.NewPCG(seed, 1)), 1+int(seed*seed)*4
		if diff := cmp.Diff(want, dump(t, fill(t, l))); diff != "" {
			t.Fatalf("seed %d: rows differ from the first build (-first +rebuilt):\n%s", seed, diff)
		}
	}
}

func TestNoContentInTables(t *testing.T) {
	for table, rows := range dump(t, fill(t, sample(t))) {
		for _, r := range rows {
			if strings.Contains(r, "secret") {
				t.Errorf("table %s holds content: %s", table, r)
			}
		}
	}
}

// The same events appended again change nothing but the positions.
func TestResentEventsChangeNothing(t *testing.T) {
	l := sample(t)
	v := fill(t, l)
	counts, err := v.Counts(t.Context(), "default", base.Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	releases, err := v.Releases(t.Context(), "default", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, parts := range l.parts {
		for p, recs := range parts {
			for _, r := range recs {
				r.Partition = p
				l.append(r)
			}
		}
	}
	if err := v.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	again, err := v.Counts(t.Context(), "default", base.Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(counts, again); diff != "" {
		t.Errorf("counts changed (-before +after):\n%s", diff)
	}
	after, err := v.Releases(t.Context(), "default", 0)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(releases, after); diff != "" {
		t.Errorf("releases changed (-before +after):\n%s", diff)
	}
}

// failing stops the tail before batch k, as a crash would.
type failing struct {
	*tape
	k int
}

var errCrash = errors.New("crash")

func (f *failing) Tail(ctx context.Context, cfg stream.TailConfig) error {
	batch, n := cfg.Batch, 0
	cfg.Batch = func(ctx context.Context, recs []event.Record, next positions) error {
		if n++; n > f.k {
			return errCrash
		}
		return batch(ctx, recs, next)
	}
	return f.tape.Tail(ctx, cfg)
}

func TestGoesOnWhereItStopped(t *testing.T) {
	l := sample(t)
	want := dump(t, fill(t, l))
	path := filepath.Join(t.TempDir(), "view.db")
	for restarts := 0; ; restarts++ {
		v := openView(t, path, &failing{l, 5}, Retention{})
		v.most = 4
		err := v.Run(t.Context())
		if err == nil {
			if restarts < 3 {
				t.Fatalf("only %d restarts", restarts)
			}
			if diff := cmp.Diff(want, dump(t, v)); diff != "" {
				t.Fatalf("rows after restarts differ (-want +got):\n%s", diff)
			}
			return
		}
		if !errors.Is(err, errCrash) {
			t.Fatal(err)
		}
		v.Close()
	}
}

func TestRebuiltWhenOfNoUse(t *testing.T) {
	l := sample(t)
	want := dump(t, fill(t, l))
	for name, spoil := range map[string]func(t *testing.T, path string){
		"another schema version": func(t *testing.T, path string) {
			v := openView(t, path, l, Retention{})
			if _, err := v.conn.ExecContext(t.Context(), "PRAGMA user_version = 99"); err != nil {
				t.Fatal(err)
			}
			v.Close()
		},
		"not a database": func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte(strings.Repeat("no database at all ", 400)), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"log made anew": func(t *testing.T, path string) {
			longer := sample(t)
			for i := range 40 {
				longer.request(t, 100+i, "r9", "baseline", 1)
			}
			v := openView(t, path, longer, Retention{})
			if err := v.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			v.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "view.db")
			spoil(t, path)
			v := openView(t, path, l, Retention{})
			if err := v.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, dump(t, v)); diff != "" {
				t.Errorf("rows differ (-want +got):\n%s", diff)
			}
			if !v.CaughtUp() {
				t.Error("view does not say that it has caught up")
			}
		})
	}
}

func TestBadRecordsArePassedOver(t *testing.T) {
	l := newTape()
	h := func(kv ...string) (hs []event.Header) {
		for i := 0; i < len(kv); i += 2 {
			hs = append(hs, event.Header{Key: kv[i], Value: []byte(kv[i+1])})
		}
		return hs
	}
	for _, topic := range Topics() {
		for _, value := range []string{"", "{", "null", `[]`, `{"release":3}`, `{"request":""}`, "\xff\x00"} {
			l.append(event.Record{Topic: topic, Key: []byte("k"), Value: []byte(value)})
			l.append(event.Record{Topic: topic, Key: []byte("\xff/\x00"), Value: []byte(value), Headers: h("ce_id", "x"+value, "ce_type", event.GateDecision)})
			l.append(event.Record{Topic: topic, Value: []byte(value), Headers: h("ce_id", "y"+value, "ce_type", event.EvaluationResult, "propensity", "7")})
		}
		l.append(event.Record{Topic: topic, Key: []byte("k")})
	}
	id := l.request(t, 1, "r", "baseline", 1)
	v := fill(t, l)
	if _, err := v.Case(t.Context(), "default", id); err != nil {
		t.Errorf("the case behind bad records: %v", err)
	}
}

func TestPruning(t *testing.T) {
	l := newTape()
	for i := range 40 {
		l.request(t, i, "r1", "baseline", 0.5)
	}
	for seq := range int64(100) {
		l.evidence(t, "r1", seq+1)
	}
	v := openView(t, filepath.Join(t.TempDir(), "view.db"), l, Retention{Events: 30, Cases: 10, Evidence: 16, Age: -1, Interval: time.Nanosecond})
	if err := v.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := v.prune(t.Context(), base); err != nil {
		t.Fatal(err)
	}
	d := dump(t, v)
	if n := len(d["events"]); n > 30 || n == 0 {
		t.Errorf("events: %d rows, want 1 to 30", n)
	}
	if n := len(d["cases"]); n != 10 {
		t.Errorf("cases: %d rows, want 10", n)
	}
	if n := len(d["scores"]); n != 10 {
		t.Errorf("scores: %d rows, want 10", n)
	}
	points, err := v.Series(t.Context(), "default", "r1", 1000)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(points); n > 17 || n < 8 || points[n-1].Seq != 100 {
		t.Errorf("series: %d points, last %d; want 8 to 17 up to 100", n, points[n-1].Seq)
	}
	rs, err := v.Releases(t.Context(), "default", 0)
	if err != nil || len(rs) != 1 || rs[0].Requests != 40 {
		t.Errorf("releases after pruning: %s, %v; sums must outlive rows", mustJSON(t, rs), err)
	}
	if err := v.prune(t.Context(), base.Add(1000*time.Hour)); err != nil {
		t.Fatal(err)
	}
}

func TestSlowSubscriberGetsResync(t *testing.T) {
	v := openView(t, filepath.Join(t.TempDir(), "view.db"), newTape(), Retention{})
	s := v.Subscribe("default")
	other := v.Subscribe("another")
	for range liveQueue + 1 {
		v.hub.publish(Change{Tenant: "default"})
	}
	if c := <-s.C(); !c.Resync {
		t.Errorf("got %+v, want a resync", c)
	}
	v.hub.publish(Change{Tenant: "default", Cases: 3})
	if c := <-s.C(); c.Cases != 3 {
		t.Errorf("got %+v after the resync, want the next change", c)
	}
	s.Close()
	s.Close()
	v.hub.publish(Change{Tenant: "default"})
	select {
	case c := <-s.C():
		t.Errorf("got %+v after Close", c)
	case c := <-other.C():
		t.Errorf("another tenant got %+v", c)
	default:
	}
	other.Close()
}
