package gate

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// An Actuator carries decisions out in the system that serves the traffic.
//
// Do is called at least once per decision, with Action.Decision as idempotency
// key: a repeated call must change nothing more. It returns nil only after it has
// read back, from the system itself, that the action holds (for a rollback, that
// the candidate's share is zero): an accepted request is not an observation. Any
// error means that it is not known to hold; the call is repeated.
type Actuator interface {
	Name() string
	Do(ctx context.Context, a Action) (Observation, error)
}

// An Observation is what an actuator read back.
type Observation struct {
	State string   // in the words of the system
	Share *float64 // candidate's traffic share, when it can be read
}

// Func is an actuator in this process: the demo's ramp, a test. Call does the
// action and ReadShare reads the candidate's share back.
type Func struct {
	Label     string
	Call      func(ctx context.Context, a Action) error
	ReadShare func(ctx context.Context, a Action) (float64, error)
}

// Name is the label.
func (f *Func) Name() string { return f.Label }

// Do calls, then reads back.
func (f *Func) Do(ctx context.Context, a Action) (Observation, error) {
	if err := f.Call(ctx, a); err != nil {
		return Observation{}, fmt.Errorf("%s %s: %w", a.Action, a.Release, err)
	}
	share, err := f.ReadShare(ctx, a)
	if err != nil {
		return Observation{}, fmt.Errorf("read back share of %s: %w", a.Release, err)
	}
	return observe(a, fmt.Sprintf("candidate share %g", share), &share)
}

// errNotObserved says that the system does not show what was asked of it.
var errNotObserved = errors.New("the action is not observed yet")

// observe checks a read-back share against what the action wants.
func observe(a Action, state string, share *float64) (Observation, error) {
	o := Observation{State: state, Share: share}
	if rollsBack(a) && (share == nil || *share > 0) {
		return o, fmt.Errorf("%s of %s: %w: %s", a.Action, a.Release, errNotObserved, state)
	}
	return o, nil
}

func rollsBack(a Action) bool { return a.Action == doRollback }

// How an action is tried before it is escalated.
const (
	triesPerRound = 3
	roundTime     = time.Minute
	betweenTries  = time.Second
	betweenRounds = time.Minute
)

// carryOut tries an action on every actuator: three times or for a minute. The
// result is an Ack without its attempts, which count over rounds.
func carryOut(ctx context.Context, actuators []Actuator, a Action, now func() time.Time) Ack {
	ack := Ack{Process: a.Process, Decision: a.Decision, Done: true}
	if rollsBack(a) && a.ReversibleUntil != nil && now().After(*a.ReversibleUntil) {
		ack.Done, ack.Actuator = false, "gate"
		ack.Error = "the release could be undone until " + a.ReversibleUntil.UTC().Format(time.RFC3339) + "; people must decide now"
		ack.At = now().UTC()
		return ack
	}
	ctx, cancel := context.WithTimeout(ctx, roundTime)
	defer cancel()
	for _, act := range actuators {
		if ack.Actuator != "" {
			ack.Actuator += ","
		}
		ack.Actuator += act.Name()
		var err error
		for try := range triesPerRound {
			if try > 0 && !sleep(ctx, betweenTries<<(try-1)) {
				break
			}
			var o Observation
			if o, err = act.Do(ctx, a); err == nil {
				ack.Observed = o.State
				if o.Share != nil {
					ack.Share = o.Share
				}
				break
			}
		}
		if err != nil {
			ack.Done = false
			ack.Error = act.Name() + ": " + err.Error()
		}
	}
	ack.At = now().UTC()
	return ack
}

// sleep waits, or returns false when ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
