package collect

import (
	"encoding/json"
	"strings"

	"github.com/looptape/looptape/internal/loop/event"
)

// readFeedback reads an item of /v1/feedback: about which request (request,
// response, trace or alias), and thumbs, rating, value, label, comment,
// correction or outcome.
func readFeedback(c *Collector, tenant string, item json.RawMessage) (event.Event, string, error) {
	f, err := object(item)
	if err != nil {
		return event.Event{}, "", err
	}
	return c.readFields(tenant, f, func(e *event.Event, body fields) error {
		switch e.Type {
		case "", event.FeedbackRecorded, event.OutcomeRecorded:
		default:
			return &itemProblem{code: "wrong_type", message: "This endpoint takes feedback.recorded and outcome.recorded; send other types to /v1/events.", pointer: "/type"}
		}
		// Whoever speaks is its author.
		if _, ok := body["author"]; !ok {
			for _, name := range []string{"user", "user_id"} {
				if v, ok := body[name]; ok {
					body["author"] = v
				}
			}
		}
		fb, outcome, rest, p := feedbackBody(body)
		if p != nil {
			return p
		}
		if e.Type == "" {
			e.Type = event.FeedbackRecorded
			if outcome {
				e.Type = event.OutcomeRecorded
			}
		}
		b, err := encode(fb)
		if err != nil {
			return reject("bad_body", "The feedback can't be encoded.")
		}
		var out fields
		if err := json.Unmarshal(b, &out); err != nil {
			return reject("bad_body", "The feedback can't be encoded.")
		}
		clear(body)
		for k, v := range rest {
			body[k] = v
		}
		for k, v := range out {
			body[k] = v
		}
		return nil
	})
}

// feedbackBody reads the friendly fields of feedback; rest is what it did not
// use.
func feedbackBody(in map[string]json.RawMessage) (f event.Feedback, outcome bool, rest fields, p *itemProblem) {
	rest = fields{}
	for k, v := range in {
		rest[k] = v
	}
	bad := func(name, message string) *itemProblem {
		return &itemProblem{code: "bad_feedback", message: message, pointer: pointer(name)}
	}
	for _, t := range []struct {
		name string
		to   *string
	}{{"kind", &f.Kind}, {"label", &f.Label}, {"comment", &f.Comment}, {"correction", &f.Correction}, {"target", &f.Target}, {"author_role", &f.AuthorRole}} {
		v, ok := rest.pop(t.name)
		if !ok {
			continue
		}
		s, ok := scalarText(v)
		if !ok {
			return f, false, nil, bad(t.name, "The field must be a string.")
		}
		*t.to = s
	}
	kind := ""
	set := func(k string, v float64) { kind, f.Value = k, &v }
	if v, ok := rest.pop("value"); ok {
		n, ok := unit(v)
		if !ok {
			return f, false, nil, bad("value", "value must be a number between 0 and 1, 1 being good.")
		}
		set("rating", n)
	}
	if v, ok := rest.pop("score"); ok {
		n, ok := unit(v)
		if !ok {
			return f, false, nil, bad("score", "score must be a number between 0 and 1, 1 being good; send stars as rating.")
		}
		set("rating", n)
	}
	if v, ok := rest.pop("rating"); ok {
		scale := 5.0
		if s, ok := rest.pop("scale"); ok {
			if json.Unmarshal(s, &scale) != nil || scale < 2 || scale > 1000 {
				return f, false, nil, bad("scale", "scale must be the highest rating, a number from 2 on.")
			}
		}
		var n float64
		if json.Unmarshal(v, &n) != nil || n < 1 || n > scale {
			return f, false, nil, bad("rating", "rating must be a number from 1 to scale, which is 5 if not given.")
		}
		set("rating", (n-1)/(scale-1))
	}
	if v, ok := rest.pop("thumbs"); ok {
		n, ok := thumbs(v)
		if !ok {
			return f, false, nil, bad("thumbs", `thumbs must be "up" or "down".`)
		}
		set("thumbs", n)
	}
	if v, ok := rest.pop("outcome"); ok {
		outcome = true
		if n, ok := unit(v); ok {
			set("outcome", n)
		} else if s, ok := scalarText(v); ok && f.Label == "" {
			kind, f.Label = "outcome", s
		} else {
			return f, false, nil, bad("outcome", "outcome must be true, false, a number between 0 and 1, or a word.")
		}
	}
	if kind == "" {
		switch {
		case f.Label != "":
			kind = "label"
		case f.Correction != "":
			kind = "correction"
		case f.Comment != "":
			kind = "comment"
		default:
			return f, false, nil, bad("", "Say thumbs, rating, value, label, comment, correction or outcome.")
		}
	}
	if f.Kind == "" {
		f.Kind = kind
	}
	if f.AuthorRole == "" {
		f.AuthorRole = "end_user"
	}
	return f, outcome || f.Kind == "outcome", rest, nil
}

// unit reads true, false or a number between 0 and 1.
func unit(v json.RawMessage) (float64, bool) {
	switch string(v) {
	case "true":
		return 1, true
	case "false":
		return 0, true
	}
	var n float64
	if err := json.Unmarshal(v, &n); err != nil {
		return 0, false
	}
	return n, n >= 0 && n <= 1
}

func thumbs(v json.RawMessage) (float64, bool) {
	s, _ := scalarText(v)
	switch strings.ToLower(s) {
	case "up", "true", "1", "👍", "positive", "good":
		return 1, true
	case "down", "false", "-1", "0", "👎", "negative", "bad":
		return 0, true
	}
	return 0, false
}
