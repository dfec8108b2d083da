package gate

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/looptape/looptape/internal/loop/event"
	"github.com/looptape/looptape/internal/loop/measure"
)

// Recomputed is what a release's evidence, taken alone, leads to.
type Recomputed struct {
	Process   string
	Evidence  int              // events recomputed
	Units     int64            // units entered
	State     string           // at the end
	Chain     string           // hash over all of it, as decisions carry it
	Decisions []event.Decision // that follow from it
	Guards    []event.GuardRead
}

// Recompute runs the evidence events of one process (in any order, repeated ones
// allowed) through the same code that made them: the units of each enter, the
// rules are asked at each, and every integer, hash and number of the read-out
// must come out as recorded. The error names the first evidence and field that
// does not. What is taken from the record and not recomputed is what surrounds
// the statistics: counts of what did not enter, lags, offsets, the release's
// facts, and whether units had stopped or others had ended the deployment.
func Recompute(evidence []event.Evidence) (Recomputed, error) {
	evs := slices.Clone(evidence)
	slices.SortStableFunc(evs, func(a, b event.Evidence) int { return cmp.Compare(a.Seq, b.Seq) })
	evs = slices.CompactFunc(evs, func(a, b event.Evidence) bool { return a.Seq == b.Seq })
	if len(evs) == 0 {
		return Recomputed{}, fmt.Errorf("recompute: no evidence")
	}
	first := &evs[0]
	if first.Seq != 1 || len(first.Policy) == 0 {
		return Recomputed{}, fmt.Errorf("recompute release %s: the first evidence, which carries the policy, is missing", first.Release)
	}
	var compact bytes.Buffer // a reader may have laid the JSON out anew
	if err := json.Compact(&compact, first.Policy); err != nil {
		return Recomputed{}, fmt.Errorf("recompute release %s: policy: %w", first.Release, err)
	}
	p, err := ParseCanonical(compact.Bytes())
	if err != nil {
		return Recomputed{}, fmt.Errorf("recompute release %s: %w", first.Release, err)
	}
	if p.Hash() != first.PolicyHash {
		return Recomputed{}, fmt.Errorf("recompute release %s: the policy in the evidence is %s, not %s", first.Release, p.Hash(), first.PolicyHash)
	}
	// The tenant is not in the body; only names depend on it.
	pr := newProcess("", releaseInfo{Release: first.Release, Baseline: first.Baseline, Deployment: first.Deployment}, p)
	pr.ID = first.Process
	var out Recomputed
	for i := range evs {
		want := &evs[i]
		fail := func(what string, args ...any) (Recomputed, error) {
			return out, fmt.Errorf("recompute release %s, evidence %d: %s", first.Release, want.Seq, fmt.Sprintf(what, args...))
		}
		if want.Seq != int64(i+1) {
			return fail("evidence %d is missing", i+1)
		}
		if want.Process != first.Process || want.PolicyHash != first.PolicyHash {
			return fail("it is of another process or policy")
		}
		if err := pr.replay(want); err != nil {
			return fail("%v", err)
		}
		pr.Previous = want.Previous // names, which the tenant goes into
		got, err := pr.readout(want.Time, ambience{
			Open: want.Open, Dropped: want.Dropped, Watermark: want.Watermark, LagS: want.LagS, Offsets: want.Offsets,
			Stale: want.Stale, Outside: want.Outside, Suspect: want.Suspect,
		})
		if err != nil {
			return fail("%v", err)
		}
		recorded := *want
		if recorded.Seq == 1 {
			recorded.Policy = p.Canonical()
		}
		was, err := json.Marshal(&recorded)
		if err != nil {
			return fail("%v", err)
		}
		if !bytes.Equal(was, got.Data) {
			return fail("%s", difference(was, got.Data))
		}
		if got.Decision != nil {
			out.Decisions = append(out.Decisions, *got.Decision)
		}
		out.Evidence, out.Units, out.State, out.Chain, out.Guards = i+1, pr.Entered, pr.State, pr.Chain, got.Evidence.Guards
	}
	out.Process = pr.ID
	return out, nil
}

// replay enters the units of a recorded evidence.
func (pr *process) replay(ev *event.Evidence) error {
	r := &pr.Release
	r.App, r.Kind, r.Layer = ev.App, ev.Kind, ev.Layer
	r.Stage, r.Propensity, r.ReversibleUntil = ev.Stage, ev.Propensity, ev.ReversibleUntil
	n := len(pr.policy.Guards)
	for i := range ev.Units {
		u := &ev.Units[i]
		if u.Stage < 0 || u.Stage >= len(ev.Stages) || u.Arm != measure.Baseline && u.Arm != measure.Candidate || len(u.Outcome) != n {
			return fmt.Errorf("unit %d of it is malformed", i)
		}
		for _, y := range u.Outcome {
			if y < event.OutcomeNotApplicable || y >= measure.Bins {
				return fmt.Errorf("unit %d of it has an outcome %d", i, y)
			}
		}
		st := ev.Stages[u.Stage]
		at, err := pr.stage(st.Name, st.Propensity)
		if err != nil {
			return err
		}
		if at != u.Stage {
			return fmt.Errorf("unit %d of it is of stage %d, which is stage %d by the order of entry", i, u.Stage, at)
		}
		pr.enter(*u)
	}
	return nil
}

// difference names the first field in which two JSON objects differ.
func difference(was, is []byte) string {
	var a, b map[string]json.RawMessage
	if json.Unmarshal(was, &a) != nil || json.Unmarshal(is, &b) != nil {
		return "it does not come out as recorded"
	}
	keys := make([]string, 0, len(a))
	for k := range a {
		keys = append(keys, k)
	}
	for k := range b {
		if _, ok := a[k]; !ok {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		if !bytes.Equal(a[k], b[k]) {
			clip := func(r json.RawMessage) string { return string(r[:min(len(r), 160)]) }
			return fmt.Sprintf("%s is recorded as %s and comes out as %s", k, clip(a[k]), clip(b[k]))
		}
	}
	return "it does not come out as recorded"
}
