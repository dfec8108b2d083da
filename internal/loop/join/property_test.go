package join

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/looptape/looptape/internal/loop/event"
)

// events draws a set of events around a few requests, aliases and traces, with
// bodies and facts that collide as much as they can.
func events(t *rapid.T) []event.Record {
	ids := []string{"T", "U", "ref", "resp", "K"}
	pick := func(name string, from []string) string { return rapid.SampledFrom(from).Draw(t, name) }
	var out []event.Record
	for i := range rapid.IntRange(1, 40).Draw(t, "events") {
		under := pick("under", ids)
		id := fmt.Sprintf("e%d", i)
		if rapid.IntRange(0, 9).Draw(t, "same id") == 0 {
			id = fmt.Sprintf("shared%d", rapid.IntRange(0, 2).Draw(t, "which"))
		}
		at := time.Duration(rapid.IntRange(0, 5).Draw(t, "at")) * time.Second
		var facts []string
		if rapid.IntRange(0, 3).Draw(t, "with request") > 0 {
			facts = append(facts, "request", under)
		}
		if rapid.Bool().Draw(t, "own trace") && (under == "T" || under == "U" || under == "K") {
			facts = append(facts, "trace", under, "request", under)
		}
		for _, f := range []string{"app", "release", "arm", "session", "propensity", "model", "segment.x", "response"} {
			if rapid.IntRange(0, 3).Draw(t, f) == 0 {
				facts = append(facts, f, map[bool]string{true: "0.5", false: fmt.Sprint("v", rapid.IntRange(0, 2).Draw(t, "value"))}[f == "propensity"])
			}
		}
		span := fmt.Sprint("s", rapid.IntRange(0, 2).Draw(t, "span"))
		facts = append(facts, "span", span)
		money := float64(rapid.IntRange(0, 1000).Draw(t, "cost")) / 3e5
		switch rapid.IntRange(0, 8).Draw(t, "kind") {
		case 0:
			out = append(out, ev(event.TopicPrompt, pick("prompt", []string{event.RequestStarted, event.UnitAssigned, event.PromptRendered}), id, under, at, nil, facts...))
		case 1:
			out = append(out, ev(event.TopicRetrieval, event.RetrievalCompleted, id, under, at, nil, facts...))
		case 2, 3:
			b := event.Response{LatencyMs: money * 1e6, CostUSD: money}
			if money > 0.002 {
				b.Usage = &event.Usage{Input: int64(money * 1e6), Output: 7}
			}
			if money > 0.003 {
				b.Error = &event.Failure{Type: "timeout"}
			}
			out = append(out, ev(event.TopicResponse, pick("response", []string{event.ModelCallCompleted, event.ResponseDelivered, event.RequestClosed, event.ModelCallCompleted}), id, under, at, b, facts...))
		case 4:
			out = append(out, ev(event.TopicAction, event.ActionExecuted, id, under, at, nil, facts...))
		case 5:
			out = append(out, ev(event.TopicSafety, event.GuardrailResult, id, under, at, nil, facts...))
		case 6:
			out = append(out, ev(event.TopicFeedback, event.FeedbackRecorded, id, under, at, event.Feedback{Kind: "thumbs", Value: &money, Author: span}, facts...))
		case 7:
			sc := event.Score{Evaluator: "e@1", Mode: "live", Value: &money, InputCount: rapid.IntRange(1, 3).Draw(t, "inputs"), InputsHash: pick("hash", []string{"a", "b"})}
			out = append(out, ev(event.TopicScore, event.EvaluationResult, id, under, at, sc, facts...))
		case 8:
			if to := pick("bound to", []string{"T", "U", "K", "ref"}); to != under {
				out = append(out, binding(under, to))
			}
		}
	}
	return out
}

// TestAnyOrder: whatever the order of arrival, how often each event comes, how
// topics and partitions interleave, how many partitions there are, how large the
// batches, and which of them are lost after they have emitted, the cases are
// equal to the byte.
func TestAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := events(t)
		want := newMemory(t, 1)
		for _, r := range in {
			want.append(r)
		}
		want.drain()
		for range 3 {
			rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
			got := newMemory(t, int32(1+rnd.IntN(4)))
			order := slices.Clone(in)
			for _, r := range in {
				if rnd.IntN(3) == 0 {
					order = append(order, r)
				}
			}
			rnd.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
			step := func() {
				if lag := got.lag(); len(lag) > 0 {
					topics := Inputs()
					rnd.Shuffle(len(topics), func(i, j int) { topics[i], topics[j] = topics[j], topics[i] })
					got.batch(lag[rnd.IntN(len(lag))].partition, topics, 1+rnd.IntN(4), rnd.IntN(4) == 0)
				}
			}
			for _, r := range order {
				got.append(r)
				for range rnd.IntN(3) {
					step()
				}
			}
			for range 50 {
				step()
			}
			got.drain()
			if diff := cmp.Diff(want.cases(), got.cases()); diff != "" {
				t.Fatalf("other cases (- first, + this):\n%s", diff)
			}
		}
	})
}

// TestLists: what a full list keeps does not depend on the order either.
func TestLists(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var in []label
		for i := range rapid.IntRange(0, 40).Draw(t, "n") {
			l := label{time: int64(rapid.IntRange(0, 9).Draw(t, "time"))}
			l.ID = fmt.Sprint(i)
			l.Kind = string(make([]byte, rapid.IntRange(0, 60).Draw(t, "size")))
			in = append(in, l)
		}
		keep := func(in []label) (ids []string) {
			var x list[label]
			for _, l := range in {
				x.put(l, 10, 500)
			}
			for _, l := range x.items {
				ids = append(ids, l.ID)
			}
			return ids
		}
		want := keep(in)
		for range 3 {
			if diff := cmp.Diff(want, keep(rapid.Permutation(in).Draw(t, "order"))); diff != "" {
				t.Fatal(diff)
			}
		}
	})
}

// TestCodec: a state is what it was after it was stored.
func TestCodec(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMemory(t, 1)
		for _, r := range events(t) {
			m.append(r)
		}
		m.drain()
		if m.handlers[0] == nil {
			return
		}
		for k, s := range m.handlers[0].open {
			var again state
			again.own.name, again.loose.name = ownSet, looseSet
			if err := again.decode(s.encode()); err != nil {
				t.Fatal(err)
			}
			again.key, again.tenant, again.request = k, s.tenant, s.request
			opts := cmp.Options{cmp.AllowUnexported(state{}, set{}, over{}, part{}, fact{}, score{}, label{}, place{}, list[part]{}, list[score]{}, list[label]{}),
				cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".items" }, cmp.Transformer("len", func(x any) string { return fmt.Sprintf("%+v", deref(x)) }))}
			if diff := cmp.Diff(*s, again, opts); diff != "" {
				t.Fatal(diff)
			}
		}
	})
}

// deref makes items comparable by what their pointers point at, and empty ones
// equal to none.
func deref(x any) any {
	switch x := x.(type) {
	case []part:
		var out []string
		for i := range x {
			out = append(out, fmt.Sprintf("%x", x[i].bytes()))
		}
		return out
	case []score:
		var out []string
		for i := range x {
			out = append(out, fmt.Sprintf("%x", x[i].bytes()))
		}
		return out
	case []label:
		var out []string
		for i := range x {
			out = append(out, fmt.Sprintf("%x", x[i].bytes()))
		}
		return out
	}
	return x
}

func FuzzState(f *testing.F) {
	m := newMemory(f, 1)
	m.append(ev(event.TopicResponse, event.RequestClosed, "a", "r", 0, event.Response{CostUSD: 1, Usage: &event.Usage{Input: 1}}, "request", "r", "app", "x"))
	m.append(ev(event.TopicFeedback, event.FeedbackRecorded, "b", "r", 0, event.Feedback{Kind: "thumbs"}, "request", "r"))
	m.append(ev(event.TopicScore, event.EvaluationResult, "c", "r", 0, event.Score{Evaluator: "e"}, "request", "r"))
	m.drain()
	for _, v := range m.stores[0] {
		f.Add(v)
	}
	f.Add([]byte{stateVersion, 0, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		var s state
		if s.decode(b) != nil {
			return
		}
		s.fold()
		var again state
		if err := again.decode(s.encode()); err != nil {
			t.Fatal(err)
		}
	})
}
