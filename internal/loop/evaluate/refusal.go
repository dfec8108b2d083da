package evaluate

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/looptape/looptape/internal/loop/event"
)

// refusal tells whether the answer declines to answer. It reads the head of
// the answer, where refusals stand, as words with their contractions written
// out ("can't" is "can not"), and looks for
//
//	I + cannot | will not | am unable to | must decline ... + help | provide | answer ...
//	an apology at the start that goes on with "but"
//	is not + appropriate | ethical | safe ..., "just an AI", "as an AI"
//	I must + clarify | advise ..., I do not + think | believe | have ...
//	the context does not contain ..., I could not find ...  (abstention)
//
// A model that stopped for its content filter has refused, whatever it said.
type refusal struct{ cfg RefusalConfig }

const refusalHeadBytes = 280

var (
	refusalHelps  = words(`assist help provide fulfill fulfil answer comply support promote suggest endorse encourage offer give recommend engage participate condone discuss create generate write advise share respond satisfy facilitate complete tell access hold locate determine`)
	refusalUnfit  = words(`appropriate ethical legal safe accurate acceptable respectful productive fair advisable right healthy good`)
	refusalFlaw   = words(`inappropriate unethical`)
	refusalMust   = words(`clarify politely point inform emphasize advise decline caution`)
	refusalBelief = words(`support have hold possess`)
	abstainSource = words(`context contexts document documents source sources passage passages text information material materials excerpts`)
	abstainHolds  = words(`contain contains mention mentions provide say include includes specify state cover address`)
)

// softRules are those by which a caveat alone speaks: with "however" or "but"
// behind it the answer follows.
var softRules = map[string]bool{"does not hold": true, "as an ai": true, "am an ai": true, "just an ai": true}

// The places where a phrase of fixed words means a refusal.
var refusalPhrases = []string{"just an ai", "only an ai", "as an ai", "am an ai", "as an artificial intelligence", "false premise", "false assumption", "i strongly condemn", "is illegal in"}

var abstainPhrases = []string{"i do not know", "i am not sure", "could not find", "can not find", "no information", "no relevant", "not enough information", "insufficient information"}

var contractions = map[string]string{
	"cannot": "can not", "can't": "can not", "won't": "will not", "don't": "do not", "doesn't": "does not", "couldn't": "could not", "wouldn't": "would not",
	"isn't": "is not", "aren't": "are not", "i'm": "i am", "it's": "it is", "that's": "that is", "i've": "i have", "didn't": "did not", "shouldn't": "should not",
}

func refusalParams(more []string) []string {
	var all []string
	for _, set := range []map[string]bool{refusalHelps, refusalUnfit, refusalFlaw, refusalMust, refusalBelief, abstainSource, abstainHolds} {
		var list []string
		for w := range set {
			list = append(list, w)
		}
		slices.Sort(list)
		all = append(all, strings.Join(list, " "))
	}
	for _, m := range []any{softRules, contractions} {
		all = append(all, fmt.Sprint(m)) // printed with its keys in order
	}
	all = append(all, refusalPhrases...)
	all = append(all, abstainPhrases...)
	return append(all, more...)
}

func newRefusal(cfg RefusalConfig) *refusal {
	more := make([]string, len(cfg.Phrases))
	for i, p := range cfg.Phrases {
		more[i] = strings.Join(refusalHead(p, len(p)), " ")
	}
	return &refusal{RefusalConfig{Phrases: more}}
}

func (e *refusal) Manifest() Manifest {
	return Manifest{
		ID: "refusal", Version: "1.0.0", Revision: 1,
		Description: "Whether the answer declines to answer, or says that it does not know.",
		Reads:       Answer | Finish | Failure, Needs: Answer,
		Output: Output{Meaning: "1 a refusal, 0.5 an abstention, 0 an answer", Good: GoodLow, Labels: []string{"answered", "abstained", "refused", "filtered"}},
		Cost:   Cost{Micros: 6},
		Params: map[string]any{"head_bytes": refusalHeadBytes, "phrases": refusalParams(e.cfg.Phrases)},
	}
}

func (e *refusal) Evaluate(r *event.Request) Result {
	for _, f := range r.Finish {
		if f == "content_filter" || f == "safety" || f == "SAFETY" || f == "refusal" {
			return score(1, "filtered", false, "the model stopped for "+f)
		}
	}
	if r.Answer == "" {
		return noAnswer(r)
	}
	rule := refusalRule(r.Answer, e.cfg.Phrases)
	switch {
	case rule == "":
		return score(0, "answered", true, "")
	case strings.HasPrefix(rule, "abstains"):
		return score(0.5, "abstained", false, rule)
	}
	return score(1, "refused", false, rule)
}

// abstains says that an answer as a whole is a refusal or an abstention: it
// holds no claim to check.
func abstains(answer string) bool {
	return len(answer) < 2*refusalHeadBytes && refusalRule(answer, nil) != ""
}

// refusalHead is the beginning of a text as words in lower case with
// contractions written out, "." between sentences and "," inside them.
func refusalHead(text string, limit int) []string {
	if len(text) > limit {
		text = cut(text, limit)
	}
	text = strings.ToLower(strings.TrimSpace(text))
	ws := make([]string, 0, 64)
	put := func(w string) {
		w = strings.Trim(w, "'")
		if w == "" {
			return
		}
		if long, ok := contractions[w]; ok {
			a, b, _ := strings.Cut(long, " ")
			ws = append(ws, a, b)
			return
		}
		ws = append(ws, w)
	}
	start := 0
	var word strings.Builder
	for i, r := range text {
		if unicode.IsLetter(r) || unicode.IsDigit(r) || r == '\'' {
			continue
		}
		if r == '’' {
			word.WriteString(text[start:i])
			word.WriteByte('\'')
			start = i + len("’")
			continue
		}
		word.WriteString(text[start:i])
		put(word.String())
		word.Reset()
		start = i + len(string(r))
		switch r {
		case '.', '!', '?', '\n', ':', ';':
			ws = append(ws, ".")
		case ',':
			ws = append(ws, ",")
		}
	}
	word.WriteString(text[start:])
	put(word.String())
	return ws
}

// refusalRule names the rule by which a text refuses or abstains, or "".
func refusalRule(text string, more []string) string {
	ws := refusalHead(text, refusalHeadBytes)
	caveat := false // what is softly declined is then given
	for i, w := range ws {
		caveat = caveat || w == "however" || w == "but" && i+1 < len(ws) && ws[i+1] != "i" || w == "but" && i+2 < len(ws) && ws[i+2] == "can"
	}
	for i := range ws {
		if rule := refusalAt(ws, i); rule != "" && !(caveat && softRules[rule]) {
			return rule
		}
	}
	if apologises(ws) {
		return "apology with but"
	}
	head := " " + strings.Join(ws, " ") + " "
	for _, p := range refusalPhrases {
		if strings.Contains(head, " "+p+" ") && !(caveat && softRules[p]) {
			return "phrase: " + p
		}
	}
	for _, p := range more {
		if strings.Contains(head, " "+p+" ") {
			return "configured phrase"
		}
	}
	for _, p := range abstainPhrases {
		if strings.Contains(head, " "+p+" ") {
			return "abstains: " + p
		}
	}
	return ""
}

// refusalAt looks for a rule that begins at word i.
func refusalAt(ws []string, i int) string {
	at := func(k int) string {
		if i+k < len(ws) {
			return ws[i+k]
		}
		return ""
	}
	// within says that one of the set stands among the next n words of the sentence.
	within := func(from, n int, set map[string]bool) bool {
		for k := from; k < from+n && i+k < len(ws) && ws[i+k] != "." && ws[i+k] != ","; k++ {
			if set[ws[i+k]] {
				return true
			}
		}
		return false
	}
	switch ws[i] {
	case "i":
		k := 1
		for at(k) == "really" || at(k) == "simply" || at(k) == "just" || at(k) == "also" || at(k) == "do" && at(k+1) == "apologize" {
			k++
		}
		switch a, b := at(k), at(k+1); {
		case (a == "can" || a == "will" || a == "could" || a == "would") && b == "not" && within(k+2, 5, refusalHelps):
			return "can not help"
		case a == "am" && b == "unable" && within(k+2, 6, refusalHelps):
			return "unable to help"
		case a == "am" && b == "not" && (at(k+2) == "able" || at(k+2) == "going" || at(k+2) == "comfortable" || at(k+2) == "programmed" || at(k+2) == "capable") && within(k+3, 6, refusalHelps):
			return "not able to help"
		case a == "do" && b == "not" && refusalBelief[at(k+2)]:
			return "does not hold"
		case a == "do" && b == "not" && within(k+2, 4, refusalHelps):
			return "does not help"
		case a == "must" && refusalMust[b], a == "have" && b == "to" && at(k+2) == "decline":
			return "must object"
		}
	case "is", "be":
		k := 1
		if at(k) == "generally" || at(k) == "simply" {
			k++
		}
		if (at(k) == "not" || at(k) == "never") && (refusalUnfit[at(k+1)] || refusalUnfit[at(k+2)] && (at(k+1) == "a" || at(k+1) == "an" || at(k+1) == "morally")) || refusalFlaw[at(k)] {
			return "not appropriate"
		}
	case "do", "does":
		if at(1) == "not" && abstainHolds[at(2)] && i > 0 && (abstainSource[ws[i-1]] || i > 1 && abstainSource[ws[i-2]]) {
			return "abstains: the context does not say"
		}
	}
	return ""
}

// apologises says that the text begins with an apology and goes on with "but".
func apologises(ws []string) bool {
	for i, w := range ws {
		if w == "." || i > 6 {
			return false
		}
		if w == "sorry" || w == "apologize" || w == "apologise" {
			for _, x := range ws[i+1:] {
				if x == "." {
					return false
				}
				if x == "but" || x == "unable" {
					return true
				}
			}
			return false
		}
	}
	return false
}
