package evaluate

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/loop/event"
)

// A case is what one evaluator says of one request.
type evalCase struct {
	name   string
	r      *event.Request
	status Status
	value  float64 // to 0.01; for grounded a lower or upper bound, see its test
	label  string  // or the reason when not scored
}

func checkCases(t *testing.T, e Evaluator, cases []evalCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := e.Evaluate(c.r)
			label := got.Label
			if got.Status != Scored {
				label = got.Reason
			}
			if got.Status != c.status || label != c.label || got.Value < c.value-0.01 || got.Value > c.value+0.01 {
				t.Errorf("got %s %.3f %q (%s); want %s %.3f %q", got.Status, got.Value, label, got.Explanation, c.status, c.value, c.label)
			}
			if m := e.Manifest(); got.Status == Scored && len(m.Output.Labels) > 0 && !slices.Contains(m.Output.Labels, got.Label) {
				t.Errorf("label %q is not in the manifest", got.Label)
			}
		})
	}
}

func TestGrounded(t *testing.T) {
	g := newGrounded(defaults(t).Grounded)
	const ctx = "Acme opened three stores in Berlin in 1998. The stores sell bicycles and their parts."
	tests := []struct {
		name, answer string
		atLeast      float64
		atMost       float64
	}{
		{"verbatim", "Acme opened three stores in Berlin in 1998.", 0.99, 1},
		{"other forms of the words", "Acme's store sells bicycle parts.", 0.85, 1},
		{"number in words", "Acme opened 3 stores.", 0.95, 1},
		{"wrong number", "Acme opened three stores in Berlin in 2007.", 0.6, 0.9},
		{"marker is no claim", "Acme opened three stores in Berlin in 1998 [d1].", 0.99, 1},
		{"invented", "The company was founded by two brothers from Munich who raced cars.", 0, 0.35},
		{"one sentence of two invented", "Acme opened three stores in Berlin. Its founder raced cars near Munich.", 0.3, 0.75},
		{"about the speaker", "I love my bicycle and I ride to work with friends.", 0, 0.4},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := g.Evaluate(answered(tt.answer, ctx))
			if got.Status != Scored || got.Value < tt.atLeast || got.Value > tt.atMost {
				t.Errorf("%s %.3f: want %.2f to %.2f (%s)", got.Status, got.Value, tt.atLeast, tt.atMost, got.Explanation)
			}
		})
	}
	checkCases(t, g, []evalCase{
		{"no answer", answered("", ctx), Skipped, 0, "no_answer"},
		{"no retrieval", answered("Something."), Skipped, 0, "no_context"},
		{"nothing retrieved", &event.Request{Answer: "Something.", Retrievals: []event.Retrieval{{Query: "x"}}}, Skipped, 0, "empty_context"},
		{"text not captured", &event.Request{Answer: "Something.", Retrievals: []event.Retrieval{{Documents: []event.Document{{ID: "d"}}}}}, Skipped, 0, "documents_not_captured"},
		{"abstention", answered("I do not know: the documents do not mention it.", ctx), Skipped, 0, "abstained"},
		{"no words", answered("!!!", ctx), Skipped, 0, "no_claims"},
		{"failed", &event.Request{Error: &event.Failure{Type: "timeout"}}, Skipped, 0, "request_failed"},
	})
}

func TestCitation(t *testing.T) {
	docs := []string{"one", "two", "three"}
	declared := answered("Yes.", docs...)
	uncaptured := answered("So it is [1].")
	uncaptured.Retrievals = []event.Retrieval{{K: 3}}
	declared.Citations = []string{"d1", "d9"}
	checkCases(t, newCitation(CitationConfig{}), []evalCase{
		{"number", answered("So it is [1].", docs...), Scored, 1, "valid"},
		{"list and range", answered("So it is [1, 3] and [2-3].", docs...), Scored, 1, "valid"},
		{"number beyond", answered("So it is [1][7].", docs...), Scored, 0.5, "dangling"},
		{"id", answered("So it is [d2].", docs...), Scored, 1, "valid"},
		{"id that was not retrieved", answered("So it is [d2] [d8].", docs...), Scored, 0.5, "dangling"},
		{"declared", declared, Scored, 0.5, "dangling"},
		{"numbers without documents", answered("So it is [1]."), Scored, 0, "dangling"},
		{"footnote and dagger", answered("So [^1] it is 【2†source】.", docs...), Scored, 1, "valid"},
		{"link, year, box, remark, code", answered("[text](http://x) [1987] [ ] [see there] `a[1]`\n```\nb[2]\n```", docs...), Skipped, 0, "uncited"},
		{"documents not captured", uncaptured, Skipped, 0, "documents_not_captured"},
		{"nothing", answered("So it is."), Skipped, 0, "nothing_to_check"},
		{"no answer", answered("", docs...), Skipped, 0, "no_answer"},
		{"open bracket", answered("a [ b [1", docs...), Skipped, 0, "uncited"},
	})
	checkCases(t, newCitation(CitationConfig{Required: true}), []evalCase{
		{"uncited", answered("So it is.", docs...), Scored, 0, "uncited"},
	})
}

func TestFresh(t *testing.T) {
	at := func(d time.Duration) *time.Time { x := t0.Add(-d); return &x }
	retrieved := func(rs ...event.Retrieval) *event.Request {
		return &event.Request{Retrievals: rs, RetrievedAt: slices.Repeat([]time.Time{t0}, len(rs))}
	}
	doc := []event.Document{{ID: "1"}}
	checkCases(t, newFresh(FreshConfig{MaxIndexAge: 24 * time.Hour, MaxDocumentAge: 48 * time.Hour}), []evalCase{
		{"young", retrieved(event.Retrieval{IndexTime: at(time.Hour), Documents: doc}), Scored, 1, "fresh"},
		{"twice the limit", retrieved(event.Retrieval{IndexTime: at(48 * time.Hour), Documents: doc}), Scored, 0.5, "stale"},
		{"old document", retrieved(event.Retrieval{Documents: []event.Document{{Updated: at(time.Hour)}, {Updated: at(96 * time.Hour)}}}), Scored, 0.75, "stale"},
		{"no age", retrieved(event.Retrieval{Documents: doc}), Scored, 1, "age_unknown"},
		{"nothing found", retrieved(event.Retrieval{IndexTime: at(0), Query: "x"}), Scored, 0, "empty"},
		{"an empty list", retrieved(event.Retrieval{Documents: []event.Document{}}), Scored, 0, "empty"},
		{"content not captured", retrieved(event.Retrieval{K: 4}), Skipped, 0, "documents_not_captured"},
		{"content not captured, old index", retrieved(event.Retrieval{IndexTime: at(96 * time.Hour)}), Scored, 0.25, "stale"},
		{"failed", retrieved(event.Retrieval{Error: &event.Failure{Type: "x"}}), Scored, 0, "error"},
		{"the worst counts", retrieved(event.Retrieval{IndexTime: at(0), Documents: doc}, event.Retrieval{Query: "x"}), Scored, 0, "empty"},
		{"index of the future", retrieved(event.Retrieval{IndexTime: at(-time.Hour), Documents: doc}), Scored, 1, "fresh"},
		{"none", retrieved(), Skipped, 0, "no_retrieval"},
	})
}

func TestRefusal(t *testing.T) {
	filtered := &event.Request{Finish: []string{"content_filter"}}
	checkCases(t, newRefusal(RefusalConfig{Phrases: []string{"Not my department"}}), []evalCase{
		{"sorry but", answered("I'm sorry, but I can't assist with that."), Scored, 1, "refused"},
		{"typographic apostrophe", answered("I can’t help with that request."), Scored, 1, "refused"},
		{"unable", answered("Unfortunately I am unable to provide that."), Scored, 1, "refused"},
		{"not appropriate", answered("It is not appropriate to discuss this."), Scored, 1, "refused"},
		{"configured", answered("That's not my department."), Scored, 1, "refused"},
		{"filter", filtered, Scored, 1, "filtered"},
		{"does not know", answered("The documents do not mention the price."), Scored, 0.5, "abstained"},
		{"answer", answered("You can terminate it with exit()."), Scored, 0, "answered"},
		{"sorry to hear", answered("Sorry to hear that. Restart the server and try again."), Scored, 0, "answered"},
		{"can not, of things", answered("A topic can not have more than 8 partitions."), Scored, 0, "answered"},
		{"no answer", answered(""), Skipped, 0, "no_answer"},
	})
}

func TestPII(t *testing.T) {
	checkCases(t, newPII(), []evalCase{
		{"clean", answered("The meeting of 2026-11-23 is at 10:30, room 4512345, version 1.2.3, 10.0.0.1."), Scored, 0, "none"},
		{"e-mail", answered("Write to ann.lee+x@mail.example.org."), Scored, 1, "email"},
		{"not e-mail", answered("@home a@b x@y. user@localhost"), Scored, 0, "none"},
		{"phone", answered("Call +49 30 901820 now"), Scored, 1, "phone"},
		{"card", answered("Card 4111 1111 1111 1111."), Scored, 1, "card"},
		{"card with a wrong digit", answered("Card 4111 1111 1111 1112."), Scored, 0, "none"},
		{"IBAN", answered("To GB82 WEST 1234 5698 7654 32 please"), Scored, 1, "iban"},
		{"IBAN with a wrong digit", answered("To GB82WEST12345698765431 please"), Scored, 0, "none"},
		{"social security", answered("SSN 078-05-1120."), Scored, 1, "us_ssn"},
		{"key", answered("Use AKIA" + "IOSFODNN7EXAMPLE here"), Scored, 1, "secret"},
		{"token", answered("token ghp_" + strings.Repeat("a1B2", 9)), Scored, 1, "secret"},
		{"private key", answered("-----BEGIN RSA " + "PRIVATE KEY-----\nMII"), Scored, 1, "secret"},
		{"a package is no key", answered("pip install sk-learn-contrib-something-long"), Scored, 0, "none"},
		{"several", answered("ann@example.org, 4111111111111111"), Scored, 1, "email+card"},
		{"sums and ids", answered("It handled 1,418,892 records, 1453 of 2000, in 0.782 s; request 550e8400-e29b-41d4-a716-446655440000."), Scored, 0, "none"},
	})
	for _, c := range []string{"ann@example.org", "4111111111111111"} {
		if got := newPII().Evaluate(answered("see " + c)); strings.Contains(got.Explanation+got.Label, c) {
			t.Errorf("the result repeats what it found: %+v", got)
		}
	}
}

func TestFormat(t *testing.T) {
	with := func(answer string, params map[string]any, finish ...string) *event.Request {
		r := answered(answer)
		r.Params, r.Finish = params, finish
		return r
	}
	schema := map[string]any{"response_format": map[string]any{"type": "json_schema", "json_schema": map[string]any{"name": "x",
		"schema": map[string]any{"type": "object", "required": []any{"n"}, "properties": map[string]any{"n": map[string]any{"type": "integer"}}}}}}
	remote := map[string]any{"response_format": map[string]any{"type": "json_schema", "json_schema": map[string]any{"schema": map[string]any{"$ref": "file:///etc/passwd"}}}}
	object := map[string]any{"response_format": `{"type":"json_object"}`}
	checkCases(t, newFormat(FormatConfig{Expect: "text"}), []evalCase{
		{"text", with("Fine.", nil), Scored, 1, "valid"},
		{"cut off", with("And then", nil, "length"), Scored, 0, "truncated"},
		{"open fence", with("See:\n```go\nx := 1", nil), Scored, 0, "open_fence"},
		{"closed fence", with("See:\n```go\nx := 1\n```\nDone, ```inline``` too.", nil), Scored, 1, "valid"},
		{"fence in a longer fence", with("````\n```\n````", nil), Scored, 1, "valid"},
		{"JSON", with(`{"a": [1, 2]}`, object), Scored, 1, "valid"},
		{"JSON in a fence", with("```json\n{\"a\": 1}\n```", object), Scored, 1, "valid"},
		{"not JSON", with("Sure! {\"a\": 1}", object), Scored, 0, "not_json"},
		{"two values", with(`{} {}`, object), Scored, 0, "not_json"},
		{"convention", with("x", map[string]any{"gen_ai.output.type": "json"}), Scored, 0, "not_json"},
		{"fits the schema", with(`{"n": 3}`, schema), Scored, 1, "valid"},
		{"does not fit", with(`{"n": "3"}`, schema), Scored, 0, "schema"},
		{"schema from elsewhere", with(`{}`, remote), Failed, 0, "bad_schema"},
		{"unknown wish", with("x", map[string]any{"response_format": 7}), Scored, 1, "valid"},
		{"no answer", with("", nil, "stop"), Skipped, 0, "no_answer"},
	})
	checkCases(t, newFormat(FormatConfig{Expect: "json"}), []evalCase{
		{"expected by configuration", with("x", nil), Scored, 0, "not_json"},
	})
}

func TestBudgets(t *testing.T) {
	checkCases(t, newSLO(SLOConfig{MaxLatency: time.Second}), []evalCase{
		{"within", &event.Request{LatencyMs: 1000}, Scored, 0, "within"},
		{"over", &event.Request{LatencyMs: 1001}, Scored, 1, "over"},
		{"unknown", &event.Request{}, Skipped, 0, "no_latency"},
	})
	checkCases(t, newCost(CostConfig{MaxUSD: 0.1, MaxTokens: 100}), []evalCase{
		{"within", &event.Request{CostUSD: 0.1, Usage: &event.Usage{Total: 100}}, Scored, 0, "within"},
		{"over money", &event.Request{CostUSD: 0.11}, Scored, 1, "over_usd"},
		{"over tokens", &event.Request{Usage: &event.Usage{Total: 101}}, Scored, 1, "over_tokens"},
		{"unknown", &event.Request{}, Skipped, 0, "no_usage"},
	})
}

func TestConfigReportsAllProblems(t *testing.T) {
	_, err := Config{Grounded: GroundedConfig{Pass: 2}, Mode: "x", Format: FormatConfig{Expect: "xml"}, Quiet: time.Hour, Idle: time.Minute}.WithDefaults()
	for _, want := range []string{"grounded.pass", "mode", "format.expect", "idle"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want a word on %s", err, want)
		}
	}
}

// A name stands for results. When this test fails because results changed, raise
// the evaluator's Revision, then take over its line.
func TestNamesStandForResults(t *testing.T) {
	want := map[string]string{
		"grounded@1.0.0#7f0ab7415ae4":        "28bbabe27c1a",
		"citation@1.0.0#1bdd2d0354bd":        "0c0f3348267a",
		"retrieval_fresh@1.0.0#fc1051af4fb9": "ac046dd5001d",
		"refusal@1.0.0#7bc5807b854d":         "c9d21ade0839",
		"pii_output@1.0.0#4515b6409812":      "073f88ed0598",
		"format@1.0.0#f6eb63540dcd":          "e7bc227f7d0e",
		"over_slo@1.0.0#594fc57926ad":        "cfa3467c6652",
		"over_cost@1.0.0#96762c3aee31":       "bd1441d2ebbe",
	}
	stale := t0.Add(-72 * time.Hour)
	var corpus []*event.Request
	for _, a := range []string{"", "Acme opened three stores in Berlin in 1998 [1].", "Stores sell cars. I love them [7]!", "I'm sorry, but I can't help.", "Call (030) 901-8200 or a@b.org",
		"```go\nx", "It is 4.5, not 1,000; the CEO, J. R. Smith, said so?", "書店は三つある。", `{"n":1}`} {
		r := answered(a, "Acme opened 3 stores in Berlin in 1998.", "書店は三つです")
		r.Retrievals[0] = event.Retrieval{IndexTime: &stale, Documents: r.Contexts}
		r.RetrievedAt[0] = t0
		r.LatencyMs, r.CostUSD, r.Finish = float64(len(a)*400), float64(len(a))/300, []string{"stop"}
		corpus = append(corpus, r)
	}
	for _, e := range Builtin(defaults(t)) {
		h := sha256.New()
		for _, r := range corpus {
			b, err := json.Marshal(e.Evaluate(r))
			if err != nil {
				t.Fatal(err)
			}
			h.Write(b)
		}
		name, got := e.Manifest().Name(), hex.EncodeToString(h.Sum(nil)[:6])
		if want[name] != got {
			t.Errorf("%q: %q,", name, got)
		}
	}
}

func TestNameCoversParameters(t *testing.T) {
	a, b := defaults(t), defaults(t)
	b.Grounded.Pass, b.Fresh.MaxIndexAge, b.SLO.MaxLatency, b.Cost.MaxUSD = 0.5, time.Hour, time.Second, 1
	b.Citation.Required, b.Refusal.Phrases, b.Format.Expect = true, []string{"no way"}, "json"
	ea, eb := Builtin(a), Builtin(b)
	for i := range ea {
		na, nb := ea[i].Manifest().Name(), eb[i].Manifest().Name()
		if id := ea[i].Manifest().ID; (na == nb) != (id == "pii_output") {
			t.Errorf("%s and %s", na, nb)
		}
	}
	if !gocmp.Equal(Manifests(ea), Manifests(Builtin(a))) {
		t.Error("the same configuration has two manifests")
	}
}

func TestTokens(t *testing.T) {
	var got []string
	for _, tok := range tokens(nil, "Don't pay 1,234.50 to Ann; 東京 é 3.") {
		got = append(got, tok.text)
	}
	if d := gocmp.Diff([]string{"don", "t", "pay", "1234.50", "to", "ann", "東", "京", "é", "3"}, got); d != "" {
		t.Error(d)
	}
	var ss []string
	sentences("One. Two is 3.5! (Three?) J. R. Smith came\nlast。次", func(s string) { ss = append(ss, s) })
	if d := gocmp.Diff([]string{"One.", "Two is 3.5!", "(Three?)", "J. R. Smith came", "last。", "次"}, ss); d != "" {
		t.Error(d)
	}
}

func FuzzEvaluators(f *testing.F) {
	cfg, err := Config{}.WithDefaults()
	if err != nil {
		f.Fatal(err)
	}
	es := Builtin(cfg)
	f.Add("Call +49 30 901820 [1]. a@b.org 4111 1111 1111 1111 ```", "three stores")
	f.Add("【1†x】GB82 WEST 1234 5698 7654 32 I’m sorry, but 。", "")
	f.Fuzz(func(t *testing.T, answer, context string) {
		r := answered(answer, context)
		for _, e := range es {
			one, two := e.Evaluate(r), e.Evaluate(r)
			if one != two || one.Status == Scored && !(one.Value >= 0 && one.Value <= 1) {
				t.Fatalf("%s: %+v, then %+v", e.Manifest().ID, one, two)
			}
		}
		for _, x := range Detect(answer) {
			if x.Start < 0 || x.Start >= x.End || x.End > len(answer) {
				t.Fatalf("finding %+v in %d bytes", x, len(answer))
			}
		}
	})
}
