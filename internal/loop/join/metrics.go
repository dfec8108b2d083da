package join

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// Fates of a record: each has exactly one.
const (
	fateJoined     = "joined"     // it changed a case, or bound an alias
	fateDuplicate  = "duplicate"  // it was there already
	fateWaiting    = "waiting"    // it has no request yet
	fateRekeyed    = "rekeyed"    // it was produced again under the requests of its alias
	fateSuperseded = "superseded" // a score of what was re-keyed: evaluate makes it anew
	fateMisplaced  = "misplaced"  // it was produced again to the partition of its key
	fateBeyond     = "beyond"     // a binding above the limit of one alias
	fateNoKey      = "no_key"     // nothing tells what it belongs to
	fateNoEvent    = "no_event"   // it is no event
	fateTombstone  = "tombstone"  // a deletion in a compacted input: there is nothing to join
)

const (
	caseRevised   = "revised"
	caseWithdrawn = "withdrawn"
)

type metrics struct {
	events     *prometheus.CounterVec // topic, fate
	rekeyed    *prometheus.CounterVec // topic
	malformed  *prometheus.CounterVec // topic
	cases      *prometheus.CounterVec // kind
	unresolved prometheus.Counter
	gone       prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "looptape", Subsystem: "join", Name: name, Help: help}, labels)
	}
	one := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "looptape", Subsystem: "join", Name: name, Help: help})
	}
	m := &metrics{
		events:     vec("events_total", "Records read, by topic and fate.", "topic", "fate"),
		rekeyed:    vec("rekeyed_total", "Events produced again under the request of their alias.", "topic"),
		malformed:  vec("malformed_total", "Events with a fact that could not be read; they were joined without it.", "topic"),
		cases:      vec("cases_total", "Cases written: revised, or withdrawn by a tombstone.", "kind"),
		unresolved: one("unresolved_total", "Bodies in the object store that could not be read."),
		gone:       one("gone_total", "Events that waited for a binding of their alias and were not on the tape any more when it came."),
	}
	if reg == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.events, m.rekeyed, m.malformed, m.cases, m.unresolved, m.gone} {
		errs = append(errs, reg.Register(c))
	}
	return m, errors.Join(errs...)
}
