package evaluate

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/looptape/looptape/internal/loop/event"
)

// The tests of this file measure the evaluators against people's labels. They
// print a figure a line: file, measure, figure. The data is not part of the
// repository: LOOPTAPE_SHARED, default ../shared beside it.

// lines calls fn with each row of a data file, or says that it is not there.
func lines[T any](tb testing.TB, name string, fn func(row T)) {
	tb.Helper()
	root := os.Getenv("LOOPTAPE_SHARED")
	if root == "" {
		dir, err := os.Getwd()
		if err != nil {
			tb.Fatal(err)
		}
		for dir != filepath.Dir(dir) {
			if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
				break
			}
			dir = filepath.Dir(dir)
		}
		root = filepath.Join(dir, "..", "shared")
	}
	f, err := os.Open(filepath.Join(root, "data", name+".jsonl.gz"))
	if os.IsNotExist(err) && os.Getenv("LOOPTAPE_SHARED") == "" && os.Getenv("CI") == "" {
		tb.Logf("%s: no data beside the repository, nothing measured (set LOOPTAPE_SHARED)", name)
		return
	}
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		tb.Fatal(err)
	}
	in := bufio.NewScanner(z)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		var row T
		if err := json.Unmarshal(in.Bytes(), &row); err != nil {
			tb.Fatalf("%s: %v", name, err)
		}
		fn(row)
	}
	if err := in.Err(); err != nil {
		tb.Fatal(err)
	}
}

// auroc is the probability that a random positive scores above a random
// negative, ties counting half.
func auroc(scores []float64, positive []bool) float64 {
	order := make([]int, len(scores))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		switch {
		case scores[a] < scores[b]:
			return -1
		case scores[a] > scores[b]:
			return 1
		}
		return 0
	})
	var rank, n1, n0 float64
	for i := 0; i < len(order); {
		j := i
		for j < len(order) && scores[order[j]] == scores[order[i]] {
			j++
		}
		for _, k := range order[i:j] {
			if positive[k] {
				rank += float64(i+j+1) / 2
				n1++
			} else {
				n0++
			}
		}
		i = j
	}
	return (rank - n1*(n1+1)/2) / n1 / n0
}

// balanced is the best mean of recall and specificity over all thresholds, and
// the threshold.
func balanced(scores []float64, positive []bool) (best, at float64) {
	for t := 0.0; t <= 1; t += 0.01 {
		if b := balancedAt(scores, positive, t); b > best {
			best, at = b, t
		}
	}
	return best, at
}

func balancedAt(scores []float64, positive []bool, t float64) float64 {
	var tp, tn, p, n float64
	for i, s := range scores {
		switch {
		case positive[i]:
			p++
			if s >= t {
				tp++
			}
		default:
			n++
			if s < t {
				tn++
			}
		}
	}
	return (tp/p + tn/n) / 2
}

func figure(t *testing.T, file, measure string, value float64, atLeast float64) {
	t.Helper()
	fmt.Printf("%s %s %.4f\n", file, measure, value)
	if value < atLeast {
		t.Errorf("%s %s is %.4f: want at least %.4f", file, measure, value, atLeast)
	}
}

func answered(answer string, context ...string) *event.Request {
	r := &event.Request{Answer: answer}
	if context != nil {
		r.Retrievals = []event.Retrieval{{Query: "q"}}
		r.RetrievedAt = []time.Time{{}}
	}
	for i, c := range context {
		r.Contexts = append(r.Contexts, event.Document{ID: fmt.Sprintf("d%d", i+1), Text: c})
	}
	return r
}

func TestQualityGrounded(t *testing.T) {
	cfg := defaults(t)
	type row struct {
		Knowledge, Response string
		Label               string `json:"begin_label"`
	}
	var scores []float64
	var full []bool
	skipped := 0
	lines(t, "begin_grounded", func(r row) {
		got := newGrounded(cfg.Grounded).Evaluate(answered(r.Response, r.Knowledge))
		if got.Status == Skipped {
			skipped++
		}
		scores = append(scores, got.Value)
		full = append(full, r.Label == "Fully attributable")
	})
	if len(scores) == 0 {
		return
	}
	figure(t, "begin_grounded", "AUROC", auroc(scores, full), 0.94)
	best, at := balanced(scores, full)
	figure(t, "begin_grounded", fmt.Sprintf("balanced accuracy (best, at %.2f)", at), best, 0.85)
	figure(t, "begin_grounded", fmt.Sprintf("balanced accuracy (default, at %.2f)", cfg.Grounded.Pass), balancedAt(scores, full, cfg.Grounded.Pass), 0.85)
	figure(t, "begin_grounded", "skipped", float64(skipped)/float64(len(scores)), 0)
}

func TestQualityExpertQA(t *testing.T) {
	cfg := defaults(t)
	type row struct {
		Claims []struct {
			Claim    string   `json:"claim_string"`
			Evidence []string `json:"evidence"`
			Support  string   `json:"support"`
		}
	}
	var scores []float64
	var complete []bool
	lines(t, "expertqa_rag", func(r row) {
		for _, c := range r.Claims {
			if c.Support != "Complete" && c.Support != "Partial" && c.Support != "Incomplete" && c.Support != "Missing" || len(c.Evidence) == 0 {
				continue
			}
			got := newGrounded(cfg.Grounded).Evaluate(answered(c.Claim, c.Evidence...))
			scores = append(scores, got.Value)
			complete = append(complete, c.Support == "Complete")
		}
	})
	if len(scores) == 0 {
		return
	}
	figure(t, "expertqa_rag", "AUROC of claims, Complete against the rest", auroc(scores, complete), 0.5)
}

func TestQualityRefusal(t *testing.T) {
	type row struct {
		Prompt, Completion string
		Final              string `json:"final_label"`
		StrMatch           string `json:"strmatch_label"`
		GPT4               string `json:"gpt4_label"`
	}
	e := newRefusal(RefusalConfig{})
	var n, own, match, gpt, full float64
	lines(t, "xstest_refusals", func(r row) {
		refused := r.Final != "1_full_compliance"
		got := e.Evaluate(answered(r.Completion))
		n++
		add := func(to *float64, same bool) {
			if same {
				*to++
			}
		}
		add(&own, (got.Value >= 0.5) == refused)
		add(&full, (got.Value >= 0.5) == (r.Final == "2_full_refusal"))
		add(&match, (r.StrMatch != "1_full_compliance") == refused)
		add(&gpt, (r.GPT4 != "1_full_compliance") == refused)
	})
	if n == 0 {
		return
	}
	figure(t, "xstest_refusals", "agreement with people, refused or partly against complied", own/n, match/n+0.02)
	figure(t, "xstest_refusals", "agreement with people, refused against the rest", full/n, 0.84)
	figure(t, "xstest_refusals", "the published string match's agreement", match/n, 0)
	figure(t, "xstest_refusals", "the published GPT-4 judge's agreement", gpt/n, 0)
}

func TestQualityPII(t *testing.T) {
	type span struct {
		Type  string `json:"entity_type"`
		Value string `json:"entity_value"`
		Start int    `json:"start_position"`
		End   int    `json:"end_position"`
	}
	type row struct {
		Text  string `json:"full_text"`
		Spans []span
	}
	kinds := map[string]string{"EMAIL_ADDRESS": KindEmail, "PHONE_NUMBER": KindPhone, "CREDIT_CARD": KindCard, "IBAN_CODE": KindIBAN, "US_SSN": KindSSN}
	have, hit := map[string]float64{}, map[string]float64{}
	found, right := map[string]float64{}, map[string]float64{}
	missed := map[string][]string{}
	wrong := map[string][]string{}
	lines(t, "pii_spans", func(r row) {
		got := Detect(r.Text)
		runes := []rune(r.Text)
		overlaps := func(s span, f Finding) bool {
			start, end := len(string(runes[:s.Start])), len(string(runes[:s.End]))
			return f.Start < end && start < f.End
		}
		for _, s := range r.Spans {
			kind := kinds[s.Type]
			if kind == "" {
				continue
			}
			have[kind]++
			if slices.ContainsFunc(got, func(f Finding) bool { return f.Kind == kind && overlaps(s, f) }) {
				hit[kind]++
			} else {
				missed[kind] = append(missed[kind], s.Value)
			}
		}
		for _, f := range got {
			found[f.Kind]++
			if slices.ContainsFunc(r.Spans, func(s span) bool { return kinds[s.Type] == f.Kind && overlaps(s, f) }) {
				right[f.Kind]++
			} else {
				wrong[f.Kind] = append(wrong[f.Kind], r.Text[f.Start:f.End])
			}
		}
	})
	if len(have) == 0 {
		return
	}
	goals := map[string][2]float64{KindEmail: {1, 0.98}, KindPhone: {0.8, 0.9}, KindCard: {0.97, 0.98}, KindIBAN: {1, 1}, KindSSN: {1, 1}}
	for _, k := range piiKinds {
		if have[k] == 0 {
			continue
		}
		figure(t, "pii_spans", k+" recall", hit[k]/have[k], goals[k][0])
		figure(t, "pii_spans", k+" precision", right[k]/max(1, found[k]), goals[k][1])
		if testing.Verbose() {
			t.Logf("%s missed: %s", k, strings.Join(missed[k], " | "))
			t.Logf("%s wrong: %s", k, strings.Join(wrong[k], " | "))
		}
	}
	figure(t, "pii_spans", "secrets found where there are none", found[KindSecret], 0)
}

func defaults(tb testing.TB) Config {
	tb.Helper()
	cfg, err := Config{}.WithDefaults()
	if err != nil {
		tb.Fatal(err)
	}
	return cfg
}
