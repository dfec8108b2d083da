package view

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/looptape/looptape/internal/loop/event"
)

// Metrics of the table quality beside the evaluators' own.
const (
	metricRequests = ""            // n: requests, sum: those that failed
	metricLatency  = " latency_ms" // of requests whose latency is known
	metricFeedback = "feedback"    // mean of a request's feedback, 1 is good
)

type (
	qualityKey struct {
		tenant, release, arm, metric string
		minute                       int64
	}
	qualitySum struct{ n, micro int64 }
)

// caseRecord notes a revision of a case, or its end.
func (f *fold) caseRecord(r *event.Record) error {
	tenant, request, ok := strings.Cut(string(r.Key), "/")
	at := event.Position{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset}
	if len(r.Value) == 0 {
		if !ok {
			return f.skip(r.Topic)
		}
		f.noteCase(caseKey{tenant, request}, &caseChange{at: at})
		return nil
	}
	c := new(event.Case)
	if err := json.Unmarshal(r.Value, c); err != nil || c.Request == "" {
		return f.skip(r.Topic)
	}
	if c.Tenant == "" {
		c.Tenant = DefaultTenant
	}
	f.noteCase(caseKey{c.Tenant, c.Request}, &caseChange{c: c, doc: r.Value, at: at})
	return nil
}

func (f *fold) noteCase(k caseKey, ch *caseChange) {
	if _, had := f.cases[k]; !had {
		f.order = append(f.order, k)
	}
	f.cases[k] = ch
	f.change(k.tenant).Cases++
}

// applyCase replaces a case and everything derived from it. All revisions of a
// case lie in one partition, so the last one read is the newest.
func (f *fold) applyCase(k caseKey, ch *caseChange) error {
	var (
		old    string
		before *event.Case
	)
	found, err := f.find("SELECT doc FROM cases WHERE tenant = ? AND request = ?", []any{k.tenant, k.request}, &old)
	if err != nil {
		return err
	}
	if found {
		c := new(event.Case)
		if err := json.Unmarshal([]byte(old), c); err != nil {
			return fmt.Errorf("stored case: %w", err)
		}
		f.addQuality(k, c, -1)
		before = c
	}
	if err := f.applyScores(k, before, ch.c); err != nil {
		return err
	}
	if err := f.applyAliases(k, before, ch.c); err != nil {
		return err
	}
	if ch.c == nil {
		return f.exec("DELETE FROM cases WHERE tenant = ? AND request = ?", k.tenant, k.request)
	}
	c := ch.c
	f.addQuality(k, c, 1)
	var feedback any
	if mean, ok := meanLabel(c); ok {
		feedback = mean
	}
	labels := make([]string, 0, len(c.Labels))
	for _, l := range c.Labels {
		if l.Label != "" {
			labels = append(labels, l.Label)
		}
	}
	if err := f.exec(`INSERT OR REPLACE INTO cases (tenant, request, revision, partition, off, release, arm, session, app, start, failed,
		feedback, labels, doc) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)`,
		k.tenant, k.request, c.Revision, ch.at.Partition, ch.at.Offset, c.Release, c.Arm, c.Session, c.App, c.Start.UnixNano(), c.Failed,
		feedback, "\x1f"+strings.Join(labels, "\x1f")+"\x1f", string(ch.doc)); err != nil {
		return err
	}
	return nil
}

// applyAliases writes the other names that the newest revision of a case tells.
func (f *fold) applyAliases(k caseKey, before, now *event.Case) error {
	var keep []string
	if now != nil {
		keep = now.Aliases
	}
	if before != nil {
		for _, a := range before.Aliases {
			if slices.Contains(keep, a) && before.Start.Equal(now.Start) {
				continue
			}
			if err := f.exec("DELETE FROM case_aliases WHERE tenant = ? AND alias = ? AND request = ?", k.tenant, a, k.request); err != nil {
				return err
			}
		}
	}
	for _, a := range keep {
		if before != nil && slices.Contains(before.Aliases, a) && before.Start.Equal(now.Start) {
			continue
		}
		if err := f.exec("INSERT OR REPLACE INTO case_aliases (tenant, alias, request, start) VALUES (?,?,?,?)", k.tenant, a, k.request, now.Start.UnixNano()); err != nil {
			return err
		}
	}
	return nil
}

// applyScores writes the scores of a case that differ from those before.
func (f *fold) applyScores(k caseKey, before, now *event.Case) error {
	var old, live map[string]*event.CaseScore
	if before != nil {
		old = liveScores(before)
	}
	if now != nil {
		live = liveScores(now)
	}
	for metric := range old {
		if live[metric] == nil {
			if err := f.exec("DELETE FROM scores WHERE tenant = ? AND request = ? AND metric = ?", k.tenant, k.request, metric); err != nil {
				return err
			}
		}
	}
	for metric, s := range live {
		if o := old[metric]; o != nil && *o.Value == *s.Value && o.Good == s.Good && before.Release == now.Release && before.Start.Equal(now.Start) {
			continue
		}
		if err := f.exec("INSERT OR REPLACE INTO scores (tenant, request, metric, value, goodness, release, start) VALUES (?,?,?,?,?,?,?)",
			k.tenant, k.request, metric, *s.Value, goodness(s), now.Release, now.Start.UnixNano()); err != nil {
			return err
		}
	}
	return nil
}

// liveScores are the scores that count: one for each metric, of the evaluator
// that sorts last when several versions scored.
func liveScores(c *event.Case) map[string]*event.CaseScore {
	out := map[string]*event.CaseScore{}
	for i := range c.Scores {
		s := &c.Scores[i]
		if s.Status != "scored" || s.Value == nil || (s.Mode != "live" && s.Mode != "") || math.IsNaN(*s.Value) {
			continue
		}
		if had := out[s.Metric]; had == nil || had.Evaluator <= s.Evaluator {
			out[s.Metric] = s
		}
	}
	return out
}

// goodness turns a score so that 1 is good.
func goodness(s *event.CaseScore) float64 {
	if s.Good == "low" {
		return 1 - *s.Value
	}
	return *s.Value
}

func meanLabel(c *event.Case) (mean float64, ok bool) {
	n := 0
	for _, l := range c.Labels {
		if l.Value != nil {
			mean += *l.Value
			n++
		}
	}
	if n == 0 {
		return 0, false
	}
	return mean / float64(n), true
}

// addQuality adds a case to the sums of its minute, or takes it out again.
func (f *fold) addQuality(k caseKey, c *event.Case, sign int64) {
	add := func(metric string, value float64) {
		q := qualityKey{k.tenant, c.Release, c.Arm, metric, minute(c.Start.UnixNano())}
		s := f.quality[q]
		s.n += sign
		s.micro += sign * int64(math.Round(min(max(value, -1e9), 1e9)*1e6))
		f.quality[q] = s
	}
	failed := 0.0
	if c.Failed {
		failed = 1
	}
	add(metricRequests, failed)
	if c.LatencyMs > 0 {
		add(metricLatency, c.LatencyMs)
	}
	if mean, ok := meanLabel(c); ok {
		add(metricFeedback, mean)
	}
	for metric, s := range liveScores(c) {
		if metric != metricRequests {
			add(metric, goodness(s))
		}
	}
}

// applySums adds the batch's differences to the sums of quality.
func (f *fold) applySums() error {
	for k, s := range f.quality {
		if s == (qualitySum{}) {
			continue
		}
		if err := f.exec(`INSERT INTO quality (tenant, release, arm, metric, minute, n, sum_micro) VALUES (?,?,?,?,?,?,?)
			ON CONFLICT DO UPDATE SET n = n + excluded.n, sum_micro = sum_micro + excluded.sum_micro`,
			k.tenant, k.release, k.arm, k.metric, k.minute, s.n, s.micro); err != nil {
			return fmt.Errorf("sum quality: %w", err)
		}
		if err := f.exec("DELETE FROM quality WHERE tenant = ? AND release = ? AND arm = ? AND metric = ? AND minute = ? AND n = 0",
			k.tenant, k.release, k.arm, k.metric, k.minute); err != nil {
			return fmt.Errorf("sum quality: %w", err)
		}
	}
	return nil
}
