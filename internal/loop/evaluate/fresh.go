package evaluate

import (
	"fmt"
	"time"

	"github.com/looptape/looptape/internal/loop/event"
)

// fresh judges what was retrieved: nothing at all, from an index that is older
// than the limit, or documents that are. Freshness of one age is 1 up to the
// limit and limit/age beyond it; a retrieval's is the lesser of its index's and
// the mean of its documents'; the value is the worst retrieval's. Ages are
// taken at the time of the retrieval, so a replay says the same.
type fresh struct{ cfg FreshConfig }

func newFresh(cfg FreshConfig) *fresh { return &fresh{cfg} }

func (e *fresh) Manifest() Manifest {
	return Manifest{
		ID: "retrieval_fresh", Version: "1.0.0", Revision: 1,
		Description: "Whether the retrieval found something and its index and documents are young enough.",
		Reads:       Contexts, Needs: Contexts,
		Output: Output{Meaning: "1 fresh; below, limit divided by age; 0 nothing retrieved", Good: GoodHigh, Labels: []string{"fresh", "stale", "empty", "error", "age_unknown"}},
		Cost:   Cost{Micros: 1},
		Params: map[string]any{"max_index_age": e.cfg.MaxIndexAge.String(), "max_document_age": e.cfg.MaxDocumentAge.String()},
	}
}

func (e *fresh) Evaluate(r *event.Request) Result {
	if len(r.Retrievals) == 0 {
		return skip("no_retrieval")
	}
	worst := skip("documents_not_captured")
	for i := range r.Retrievals {
		got := e.one(&r.Retrievals[i], r.RetrievedAt[i])
		if got.Status == Scored && (worst.Status != Scored || got.Value < worst.Value || got.Value == worst.Value && got.Label < worst.Label) {
			worst = got
		}
	}
	return worst
}

// documentsUnknown says that a retrieval does not tell what it found: its
// documents are absent, not an empty list, and so is its query, because the
// sender captures no content.
func documentsUnknown(t *event.Retrieval) bool {
	return t.Documents == nil && t.Query == "" && t.Error == nil
}

func (e *fresh) one(t *event.Retrieval, at time.Time) Result {
	if t.Error != nil {
		return score(0, "error", false, "the retrieval failed")
	}
	unknown := documentsUnknown(t)
	if len(t.Documents) == 0 && !unknown {
		return score(0, "empty", false, "the retrieval found no document")
	}
	known := false
	value, why := 1.0, ""
	if t.IndexTime != nil && e.cfg.MaxIndexAge > 0 {
		known = true
		age := at.Sub(*t.IndexTime)
		if f := freshness(age, e.cfg.MaxIndexAge); f < value {
			value, why = f, fmt.Sprintf("index is %v old, limit %v", age.Round(time.Second), e.cfg.MaxIndexAge)
		}
	}
	if e.cfg.MaxDocumentAge > 0 {
		sum, n, old := 0.0, 0, 0
		for _, d := range t.Documents {
			if d.Updated == nil {
				continue
			}
			f := freshness(at.Sub(*d.Updated), e.cfg.MaxDocumentAge)
			sum += f
			n++
			if f < 1 {
				old++
			}
		}
		if n > 0 {
			known = true
			if f := sum / float64(n); f < value {
				value, why = f, fmt.Sprintf("%d of %d documents are older than %v", old, n, e.cfg.MaxDocumentAge)
			}
		}
	}
	switch {
	case !known && unknown:
		return skip("documents_not_captured")
	case !known:
		return score(1, "age_unknown", true, "documents were found; neither index nor documents say how old they are")
	case value < 1:
		return score(value, "stale", false, why)
	}
	return score(1, "fresh", true, "")
}

func freshness(age, limit time.Duration) float64 {
	if age <= limit {
		return 1
	}
	return float64(limit) / float64(age)
}
