package demo

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// systemPrompt is what the application tells its model.
const systemPrompt = "Answer from the passages only, in at most two sentences, and cite each passage you use as [id]. If the passages do not answer the question, say so."

const refusal = "I'm sorry, I could not find an answer to that in the documentation."

// A question is what a user asks, and the section that holds the answer.
type question struct {
	text string
	want string // section id
}

var askings = []string{
	"What does the documentation say about %s?",
	"How does %s work?",
	"Can you explain %s?",
	"What should I know about %s in %s?",
}

// ask draws a question about a section: by its heading or by words of its text.
func ask(rng *rand.Rand, all []section) question {
	s := all[rng.IntN(len(all))]
	form := askings[rng.IntN(len(askings))]
	about := strings.ToLower(s.title)
	if rng.IntN(3) == 0 {
		if rare := content(first(s.text)); len(rare) >= 3 {
			rng.Shuffle(len(rare), func(i, j int) { rare[i], rare[j] = rare[j], rare[i] })
			about += " (" + strings.Join(rare[:min(3, len(rare))], ", ") + ")"
		}
	}
	if strings.Count(form, "%s") == 2 {
		return question{fmt.Sprintf(form, about, s.doc), s.id}
	}
	return question{fmt.Sprintf(form, about), s.id}
}

// compose answers a question from the passages that were retrieved, by taking
// the sentences that share most with the question. It is a small model, but
// an honest one: it sees nothing but the passages, and when none of them fits
// it refuses. cited are the ids that the answer names.
func compose(q string, hits []hit) (answer string, cited []string) {
	want := content(q)
	type pick struct {
		sentence, id string
		score        float64
	}
	var picks []pick
	for _, h := range hits {
		for _, s := range sentences(h.text) {
			have := content(h.title + " " + s)
			var n float64
			for _, w := range want {
				if slices.Contains(have, w) {
					n++
				}
			}
			if len(want) > 0 && len(content(s)) >= 4 {
				picks = append(picks, pick{s, h.id, n / float64(len(want)) * (1 + h.score/50)})
			}
		}
	}
	slices.SortStableFunc(picks, func(a, b pick) int {
		switch {
		case a.score > b.score:
			return -1
		case a.score < b.score:
			return 1
		}
		return 0
	})
	if len(picks) == 0 || picks[0].score < 0.5 {
		return refusal, nil
	}
	var b strings.Builder
	for i, p := range picks[:min(2, len(picks))] {
		if i > 0 && (p.score < 0.8*picks[0].score || p.sentence == picks[0].sentence) {
			break
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(p.sentence + " [" + p.id + "]")
		if !slices.Contains(cited, p.id) {
			cited = append(cited, p.id)
		}
	}
	return b.String(), cited
}

func first(text string) string {
	if s := sentences(text); len(s) > 0 {
		return s[0]
	}
	return ""
}

// sentences splits Markdown prose into plain sentences.
func sentences(text string) []string {
	text = strings.NewReplacer("**", "", "`", "", "\n- ", ". ", "\n", " ").Replace(text)
	var out []string
	for len(text) > 0 {
		i := strings.Index(text, ". ")
		if i < 0 {
			i = len(text) - 1
		}
		if s := strings.TrimSpace(strings.TrimLeft(text[:i+1], "-. ")); len(s) > 20 {
			out = append(out, s)
		}
		text = text[i+1:]
	}
	return out
}
