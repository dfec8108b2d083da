package evaluate

import (
	"fmt"
	"math"
	"strings"
	"unicode/utf8"

	"github.com/looptape/looptape/internal/loop/event"
)

// grounded measures how far the answer's sentences are supported by the
// retrieved text. Support of a sentence is the weighted share of its words that
// the context has, in any form of the word:
//
//	content word          1
//	name (a capital)      1.25
//	number                1.5
//	function word         0.4   ("of", "is": they carry the claim's shape)
//	speaker ("I", "we")   1.2   unless the context speaks so: a sentence about
//	                            the speaker is not about the context
//
// less 3 % for each content word that it does not have (at most ten), because
// one sentence with five new words claims more than one with a single new word
// of the same share; a question claims nothing and counts half. The value is
// nine parts the weighted mean over the sentences and one part the weakest.
type grounded struct{ cfg GroundedConfig }

const (
	weightContent  = 1.0
	weightName     = 1.25
	weightNumber   = 1.5
	weightFunction = 0.4
	weightSpeaker  = 1.2
	missPenalty    = 0.03
	missLimit      = 10
	questionFactor = 0.5
	weakestShare   = 0.1
)

const functionWordList = `a an the of to in on at by for with from as and or but if so than that this these those
is are was were be been being am do does did have has had will would can could should may might must
i you he she it we they me him her us them my your his its our their mine yours there here what which who whom
when where why how not no yes oh well yeah yep ok okay just also very too really about into over out up down
s t m re ve ll d nt don doesn didn isn wasn aren`

const speakerWordList = `i my me we our us mine myself ours`

var (
	functionWords = words(functionWordList)
	speakerWords  = words(speakerWordList)
)

func newGrounded(cfg GroundedConfig) *grounded { return &grounded{cfg} }

func (g *grounded) Manifest() Manifest {
	return Manifest{
		ID: "grounded", Version: "1.0.0", Revision: 1,
		Description: "How far the answer is supported by the retrieved text, sentence by sentence, by weighted word overlap.",
		Reads:       Answer | Contexts | Failure, Needs: Answer | Contexts,
		Output: Output{Meaning: "share of the answer that the retrieved text supports", Good: GoodHigh, Labels: []string{"supported", "partly", "unsupported"}},
		Cost:   Cost{Micros: 60},
		Params: map[string]any{
			"pass":    g.cfg.Pass,
			"weights": []float64{weightContent, weightName, weightNumber, weightFunction, weightSpeaker, missPenalty, missLimit, questionFactor, weakestShare},
			"words":   []string{functionWordList, speakerWordList, strings.Join(suffixes, " ")}, "numbers": numberWords, "refusals": refusalParams(nil),
		},
	}
}

func (g *grounded) Evaluate(r *event.Request) Result {
	if r.Answer == "" {
		return noAnswer(r)
	}
	if len(r.Retrievals) == 0 {
		return skip("no_context")
	}
	ctx := newContextWords(r.Contexts)
	if ctx == nil {
		for i := range r.Retrievals {
			if t := &r.Retrievals[i]; len(t.Documents) > 0 || documentsUnknown(t) {
				return skip("documents_not_captured")
			}
		}
		return skip("empty_context")
	}
	if abstains(r.Answer) {
		return skip("abstained") // it claims nothing: refusal is another evaluator's matter
	}
	s := ctx.support(withoutMarkers(r.Answer))
	if s.sentences == 0 {
		return skip("no_claims")
	}
	label := "unsupported"
	switch {
	case s.value >= g.cfg.Pass:
		label = "supported"
	case s.value >= g.cfg.Pass/2:
		label = "partly"
	}
	why := fmt.Sprintf("%d of %d sentences supported at %.2f or more by %d documents", s.above(g.cfg.Pass), s.sentences, g.cfg.Pass, len(r.Contexts))
	if s.weakestValue < g.cfg.Pass {
		why += fmt.Sprintf("; weakest (%.2f): %q", s.weakestValue, cut(s.weakest, 200))
	}
	return score(s.value, label, s.value >= g.cfg.Pass, why)
}

// withoutMarkers blanks what stands in brackets as one word: the citations,
// which are not part of what is claimed.
func withoutMarkers(s string) string {
	if !strings.ContainsAny(s, "[【") {
		return s
	}
	var b strings.Builder
	for {
		i := strings.IndexAny(s, "[【")
		if i < 0 {
			b.WriteString(s)
			return b.String()
		}
		open, shut := "[", "]"
		if s[i] != '[' {
			open, shut = "【", "】"
		}
		b.WriteString(s[:i])
		s = s[i:]
		end := strings.Index(s[:min(len(s), maxCitationBytes)], shut)
		if end < 0 || open == "[" && strings.ContainsFunc(s[len(open):end], func(r rune) bool { return r == ' ' || r == '[' }) && strings.Trim(s[len(open):end], "0123456789,; -") != "" ||
			strings.HasPrefix(s[max(0, end)+len(shut):], "(") {
			b.WriteString(open)
			s = s[len(open):]
			continue
		}
		s = s[end+len(shut):]
	}
}

// contextWords are the words of the retrieved text, by stem.
type contextWords struct {
	stems map[string]struct{}
	raw   map[string]struct{} // speaker words that the context itself uses
}

// newContextWords is nil when the documents hold no text.
func newContextWords(docs []event.Document) *contextWords {
	size := 0
	for _, d := range docs {
		size += len(d.Text)
	}
	c := &contextWords{stems: make(map[string]struct{}, min(size/10, 1<<16)), raw: map[string]struct{}{}}
	buf := make([]token, 0, 256)
	for _, d := range docs {
		buf = tokens(buf[:0], d.Text)
		for _, t := range buf {
			c.stems[stem(t.text)] = struct{}{}
			if speakerWords[t.text] {
				c.raw[t.text] = struct{}{}
			}
		}
	}
	if len(c.stems) == 0 {
		return nil
	}
	return c
}

// support is what the context says of an answer.
type support struct {
	value        float64
	sentences    int
	values       []float64
	weakest      string
	weakestValue float64
}

func (s *support) above(limit float64) int {
	n := 0
	for _, v := range s.values {
		if v >= limit {
			n++
		}
	}
	return n
}

func (c *contextWords) support(answer string) support {
	s := support{weakestValue: math.Inf(1)}
	var sum, weight float64
	var buf []token
	sentences(answer, func(text string) {
		buf = tokens(buf[:0], text)
		var have, all float64
		missing := 0
		for _, t := range buf {
			w := t.weight()
			known := c.has(t)
			if speakerWords[t.text] {
				if _, ok := c.raw[t.text]; !ok {
					w = weightSpeaker
				}
			}
			all += w
			if known {
				have += w
			} else if !functionWords[t.text] {
				missing++
			}
		}
		if all == 0 {
			return
		}
		v := have / all * (1 - missPenalty*float64(min(missing, missLimit)))
		if strings.Contains(text, "?") {
			v *= questionFactor
		}
		s.sentences++
		s.values = append(s.values, v)
		sum += v * all
		weight += all
		if v < s.weakestValue {
			s.weakest, s.weakestValue = text, v
		}
	})
	if s.sentences > 0 {
		s.value = (1-weakestShare)*sum/weight + weakestShare*s.weakestValue
	}
	return s
}

func (c *contextWords) has(t token) bool {
	_, ok := c.stems[stem(t.text)]
	return ok
}

func (t token) weight() float64 {
	switch {
	case t.digit:
		return weightNumber
	case functionWords[t.text]:
		return weightFunction
	case t.named && utf8.RuneCountInString(t.text) > 1:
		return weightName
	case numberWords[t.text] != "":
		return weightNumber
	}
	return weightContent
}
