package evaluate

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/looptape/looptape/internal/loop/event"
)

// citation checks that what the answer cites was retrieved. Citations are the
// ids that the response declares and the markers in its text, code aside:
//
//	[1] [1, 3] [2-4] [^1] 【1†...】   the n-th document in order of retrieval
//	[doc-7] [guide/setup.md#2]        a document's id; taken for a citation when
//	                                  such a document was retrieved or the text
//	                                  has the form of an id
//
// The value is the share of the distinct citations that name a retrieved
// document. A link [text](url), a task box [ ] and a bracketed remark are no
// citations.
type citation struct{ cfg CitationConfig }

const (
	maxCitations     = 1000
	maxCitedNumber   = 999 // [1987] is a year
	maxCitationBytes = 128
)

func newCitation(cfg CitationConfig) *citation { return &citation{cfg} }

func (e *citation) Manifest() Manifest {
	return Manifest{
		ID: "citation", Version: "1.0.0", Revision: 1,
		Description: "Whether the documents that the answer cites were retrieved.",
		Reads:       Answer | Contexts | Citations | Failure, Needs: Answer | Contexts,
		Output: Output{Meaning: "share of the citations that name a retrieved document", Good: GoodHigh, Labels: []string{"valid", "dangling", "uncited"}},
		Cost:   Cost{Micros: 4},
		Params: map[string]any{"required": e.cfg.Required, "limits": []int{maxCitations, maxCitedNumber, maxCitationBytes}},
	}
}

func (e *citation) Evaluate(r *event.Request) Result {
	if r.Answer == "" && len(r.Citations) == 0 {
		return noAnswer(r)
	}
	ids := make(map[string]bool, len(r.Contexts))
	for _, d := range r.Contexts {
		if d.ID != "" {
			ids[strings.ToLower(d.ID)] = true
		}
	}
	cited := slices.Clone(r.Citations)
	cited = append(cited, markers(r.Answer, ids)...)
	valid := 0
	var dangling []string
	seen := map[string]bool{}
	for _, c := range cited {
		c = strings.ToLower(strings.TrimSpace(c))
		if c == "" || seen[c] {
			continue
		}
		seen[c] = true
		n, err := strconv.Atoi(c)
		if ids[c] || err == nil && n >= 1 && n <= len(r.Contexts) {
			valid++
		} else {
			dangling = append(dangling, c)
		}
	}
	switch {
	case len(seen) == 0 && len(r.Contexts) == 0:
		return skip("nothing_to_check")
	case len(seen) == 0 && e.cfg.Required:
		return score(0, "uncited", false, fmt.Sprintf("%d documents were retrieved and none is cited", len(r.Contexts)))
	case len(seen) == 0:
		return skip("uncited")
	}
	for i := range r.Retrievals {
		if len(dangling) > 0 && documentsUnknown(&r.Retrievals[i]) {
			return skip("documents_not_captured")
		}
	}
	value := float64(valid) / float64(len(seen))
	if len(dangling) > 0 {
		slices.Sort(dangling)
		shown := strings.Join(dangling[:min(5, len(dangling))], ", ")
		return score(value, "dangling", false, fmt.Sprintf("%d of %d citations name no retrieved document: %s", len(dangling), len(seen), cut(shown, 200)))
	}
	return score(value, "valid", true, fmt.Sprintf("%d citations, all retrieved", valid))
}

// markers are the citations in a text, in order, with repetitions.
func markers(text string, ids map[string]bool) []string {
	var out []string
	for i := 0; i < len(text) && len(out) < maxCitations; {
		switch {
		case strings.HasPrefix(text[i:], "```"):
			i = skipTo(text, i+3, "```")
		case text[i] == '`':
			i = skipTo(text, i+1, "`")
		case text[i] == '[':
			end := strings.IndexByte(text[i+1:min(len(text), i+1+maxCitationBytes)], ']')
			if end < 0 {
				i++
				continue
			}
			inner, after := text[i+1:i+1+end], i+end+2
			if after < len(text) && text[after] == '(' {
				i = after // a link
				continue
			}
			if nested := strings.LastIndexByte(inner, '['); nested >= 0 {
				i += nested + 1
				continue
			}
			out = append(out, cites(inner, ids)...)
			i = after
		case strings.HasPrefix(text[i:], "【"):
			end := strings.Index(text[i:min(len(text), i+maxCitationBytes)], "】")
			if end < 0 {
				i += len("【")
				continue
			}
			inner, _, _ := strings.Cut(text[i+len("【"):i+end], "†")
			out = append(out, cites(inner, ids)...)
			i += end + len("】")
		default:
			i++
		}
	}
	return out
}

// skipTo is the place after the next stop, or the end of the text.
func skipTo(text string, from int, stop string) int {
	if k := strings.Index(text[from:], stop); k >= 0 {
		return from + k + len(stop)
	}
	return len(text)
}

// cites are the citations between one pair of brackets: all of them have the
// form of one, or there is none.
func cites(inner string, ids map[string]bool) []string {
	inner = strings.TrimPrefix(inner, "^")
	if ids[strings.ToLower(strings.TrimSpace(inner))] {
		return []string{inner}
	}
	var out []string
	for part := range strings.FieldsFuncSeq(inner, func(r rune) bool { return r == ',' || r == ';' }) {
		part = strings.TrimSpace(part)
		if from, to, ok := strings.Cut(strings.ReplaceAll(part, "–", "-"), "-"); ok {
			a, err1 := strconv.Atoi(from)
			b, err2 := strconv.Atoi(to)
			if err1 == nil && err2 == nil {
				if a < 1 || b < a || b > maxCitedNumber || b-a > 50 {
					return nil
				}
				for n := a; n <= b; n++ {
					out = append(out, strconv.Itoa(n))
				}
				continue
			}
		}
		switch n, err := strconv.Atoi(part); {
		case err == nil && n >= 1 && n <= maxCitedNumber:
			out = append(out, strconv.Itoa(n))
		case ids[strings.ToLower(part)]:
			out = append(out, part)
		case err != nil && idForm(part, ids):
			out = append(out, part)
		default:
			return nil
		}
	}
	return out
}

// idForm says that a text looks like the ids of the retrieved documents: one
// word, and with the same beginning up to the first character that is not a
// letter ("doc-7" like "doc-12", "guide/a.md" like "guide/b.md").
func idForm(s string, ids map[string]bool) bool {
	stemOf := func(id string) (string, bool) {
		k := strings.IndexAny(id, "-_:/#.0123456789")
		if k <= 0 {
			return "", false
		}
		return strings.ToLower(id[:k+1]), true
	}
	if strings.ContainsAny(s, " \t\n") {
		return false
	}
	want, ok := stemOf(s)
	if !ok {
		return false
	}
	if isDigit(want[len(want)-1]) {
		want = want[:len(want)-1]
	}
	for id := range ids {
		if got, ok := stemOf(id); ok {
			if isDigit(got[len(got)-1]) {
				got = got[:len(got)-1]
			}
			if got == want {
				return true
			}
		}
	}
	return false
}
