package event

import (
	"cmp"
	"encoding/json"
	"slices"
	"time"
)

// A Case is everything that is known of one request: one record of llm.case per
// change, keyed by tenant/request, the newest standing for all before it. It
// holds facts, scores and labels but no content; Parts tell where the content
// lies on the tape.
type Case struct {
	Request     string            `json:"request"`
	Tenant      string            `json:"tenant"`
	Revision    int64             `json:"revision"` // counts changes; not part of the canonical form
	App         string            `json:"app,omitempty"`
	Environment string            `json:"environment,omitempty"`
	Session     string            `json:"session,omitempty"`
	Task        string            `json:"task,omitempty"`
	Subject     string            `json:"subject,omitempty"`
	Release     string            `json:"release,omitempty"`
	Deployment  string            `json:"deployment,omitempty"`
	Arm         string            `json:"arm,omitempty"`
	Unit        string            `json:"unit,omitempty"`
	UnitKind    string            `json:"unit_kind,omitempty"`
	Propensity  *float64          `json:"propensity,omitempty"`
	Stage       string            `json:"stage,omitempty"`
	Assignment  string            `json:"assignment,omitempty"`
	Salt        string            `json:"salt,omitempty"`
	Model       string            `json:"model,omitempty"`
	Segments    map[string]string `json:"segments,omitempty"`
	Start       time.Time         `json:"start"`            // earliest event time of its parts
	End         time.Time         `json:"end"`              // latest event time of its parts that are not scores or feedback
	Closed      bool              `json:"closed,omitempty"` // request.closed or session.closed was seen
	Failed      bool              `json:"failed,omitempty"` // the request ended in an error
	LatencyMs   float64           `json:"latency_ms,omitempty"`
	CostUSD     float64           `json:"cost_usd,omitempty"`
	Usage       *Usage            `json:"usage,omitempty"`
	Aliases     []string          `json:"aliases,omitempty"` // sorted
	Has         Completeness      `json:"has"`
	Parts       []Part            `json:"parts"`            // sorted by (time, id)
	Scores      []CaseScore       `json:"scores,omitempty"` // sorted by (evaluator, mode, id)
	Labels      []Label           `json:"labels,omitempty"` // sorted by (time, id)
}

// Completeness counts the parts of a case by kind.
type Completeness struct {
	Prompt    int `json:"prompt,omitempty"`
	Retrieval int `json:"retrieval,omitempty"`
	Response  int `json:"response,omitempty"`
	Action    int `json:"action,omitempty"`
	Safety    int `json:"safety,omitempty"`
	Feedback  int `json:"feedback,omitempty"`
	Score     int `json:"score,omitempty"`
}

// A Part is one event of a case and where it lies.
type Part struct {
	ID       string    `json:"id"`
	Type     string    `json:"type"`
	Time     time.Time `json:"time"`
	Span     string    `json:"span,omitempty"`
	Position *Position `json:"position,omitempty"` // not part of the canonical form
}

// A CaseScore is one evaluator's result on a case.
type CaseScore struct {
	ID         string   `json:"id"`
	Evaluator  string   `json:"evaluator"`
	Metric     string   `json:"metric"`
	Mode       string   `json:"mode"`
	Status     string   `json:"status"` // scored, skipped, failed
	Value      *float64 `json:"value,omitempty"`
	Good       string   `json:"good,omitempty"`
	Label      string   `json:"label,omitempty"`
	Pass       *bool    `json:"pass,omitempty"`
	Reason     string   `json:"reason,omitempty"`
	InputCount int      `json:"input_count"`
	InputsHash string   `json:"inputs_hash"`
	SampledP   float64  `json:"sampled_p"`
}

// A Label is one piece of feedback on a case.
type Label struct {
	ID         string    `json:"id"`
	Kind       string    `json:"kind"`
	Value      *float64  `json:"value,omitempty"`
	Label      string    `json:"label,omitempty"`
	Author     string    `json:"author,omitempty"`
	AuthorRole string    `json:"author_role,omitempty"`
	Time       time.Time `json:"time"`
}

// Sort puts the case's lists into their defined order.
func (c *Case) Sort() {
	slices.Sort(c.Aliases)
	slices.SortFunc(c.Parts, func(a, b Part) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.ID, b.ID))
	})
	slices.SortFunc(c.Scores, func(a, b CaseScore) int {
		return cmp.Or(cmp.Compare(a.Evaluator, b.Evaluator), cmp.Compare(a.Mode, b.Mode), cmp.Compare(a.ID, b.ID))
	})
	slices.SortFunc(c.Labels, func(a, b Label) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.ID, b.ID))
	})
}

// Canonical is the form in which two runs over the same events agree to the
// byte whatever the order of arrival: without positions and revision.
func (c *Case) Canonical() ([]byte, error) {
	d := *c
	d.Revision = 0
	d.Aliases = slices.Clone(c.Aliases)
	d.Scores = slices.Clone(c.Scores)
	d.Labels = slices.Clone(c.Labels)
	d.Parts = slices.Clone(c.Parts)
	for i := range d.Parts {
		d.Parts[i].Position = nil
	}
	d.Sort()
	return json.Marshal(&d)
}
