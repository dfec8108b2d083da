// Package evaluate scores requests as their events arrive.
//
//	llm.prompt, llm.retrieval, llm.response, llm.action, llm.safety
//	   -> Runner (keyed state per request) -> llm.score
//
// An Evaluator is a pure function of an assembled request, described by a
// Manifest: what it reads, what it needs before it can run, what its value
// means. Its name is id@version#hash, and the hash covers everything that can
// change a result: the revision of its code, its parameters, its word lists. A
// score without such a name never gates.
//
// When an evaluator runs: at once when what it needs is there; again when a
// later event belongs to its inputs; and, if what it needs never comes, when
// the request is closed or has been quiet for a while, and then it says itself
// why it skips. It sees only the events that carry a field of its manifest, so
// its result is a function of the set of those events. All its scores of one
// request have one id (event.ScoreID) and name their inputs; the one with the
// larger (InputCount, InputsHash) stands. So whatever the order in which events
// arrive, how often they come and where a worker died, the scores that stand
// are the same.
//
// How it fails: an evaluator's own failure is a result (failed, with a reason)
// and never an error of the runner. A body that cannot be resolved is an input
// that is missing: the evaluators that need it report failed. A request beyond
// its limits of events or bytes is failed as a whole. Contents of requests are
// in explanations only, never in reasons, labels, metrics, logs or errors.
package evaluate

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/looptape/looptape/internal/loop/event"
)

// An Evaluator judges one aspect of a request. It is pure and safe for
// concurrent use.
type Evaluator interface {
	Manifest() Manifest

	// Evaluate judges what is known of the request. It may be called before
	// everything is known, and is called again when more is. It does not keep or
	// change r, which holds only what the manifest's Reads allow.
	Evaluate(r *event.Request) Result
}

// A Manifest says what an evaluator is.
type Manifest struct {
	ID          string         `json:"id"` // also the metric's name
	Version     string         `json:"version"`
	Revision    int            `json:"revision"` // of the code: counts changes that can change a result
	Description string         `json:"description"`
	Reads       Fields         `json:"reads"`  // what it may see, by purpose
	Needs       Fields         `json:"needs"`  // what must be there before the request is settled; a part of Reads, or Closed
	Output      Output         `json:"output"` // what it says
	Cost        Cost           `json:"cost"`
	Params      map[string]any `json:"params"` // all that can change a result besides the code
}

// Output describes the value of a score.
type Output struct {
	Meaning string   `json:"meaning"`          // of the value, 0 .. 1
	Good    string   `json:"good"`             // high or low: the end that is good
	Labels  []string `json:"labels,omitempty"` // what Label may be; open if empty
}

// Ends of a value that are good.
const (
	GoodHigh = "high"
	GoodLow  = "low"
)

// Cost is what one run takes.
type Cost struct {
	Tokens int     `json:"tokens"`
	USD    float64 `json:"usd"`
	Micros float64 `json:"typical_us"` // typical time on one core
}

// Name is id@version#hash.
func (m Manifest) Name() string {
	// json.Marshal writes map keys in order: the same manifest has the same bytes.
	b, err := json.Marshal(struct {
		ID, Version  string
		Revision     int
		Reads, Needs Fields
		Good         string
		Params       map[string]any
	}{m.ID, m.Version, m.Revision, m.Reads, m.Needs, m.Output.Good, m.Params})
	if err != nil {
		panic(fmt.Sprintf("manifest of evaluator %s: %v", m.ID, err)) // parameters are ours: a mistake in the code
	}
	sum := sha256.Sum256(b)
	return m.ID + "@" + m.Version + "#" + hex.EncodeToString(sum[:6])
}

// Fields names what of a request an evaluator reads.
type Fields uint32

// The fields. Each event carries some of them; see fieldsOf.
const (
	Answer    Fields = 1 << iota // text that a model or the application gave
	Contexts                     // retrievals and their documents
	Citations                    // documents that the response declares to cite
	Finish                       // why the model stopped
	Params                       // parameters of the call: the response format asked for
	Question                     // what was asked
	Usage                        // tokens
	Money                        // cost
	Latency                      // of the whole request
	Failure                      // the error of a call or of the request
	Closed                       // only in Needs: wait until the request is settled
)

var fieldNames = []string{"answer", "contexts", "citations", "finish", "params", "question", "usage", "money", "latency", "failure", "closed"}

func (f Fields) String() string {
	var names []string
	for i, n := range fieldNames {
		if f&(1<<i) != 0 {
			names = append(names, n)
		}
	}
	return strings.Join(names, "+")
}

// MarshalJSON writes the names.
func (f Fields) MarshalJSON() ([]byte, error) { return json.Marshal(f.String()) }

// fieldsOf says what an event carries. It depends on that event only: which
// events are an evaluator's inputs is then the same whatever came before.
func fieldsOf(c *event.Content) Fields {
	var f Fields
	switch {
	case c.Prompt != nil:
		p := c.Prompt
		if len(p.Messages) > 0 || len(p.Variables) > 0 {
			f |= Question
		}
		if len(p.Params) > 0 {
			f |= Params
		}
	case c.Retrieval != nil:
		f |= Contexts
	case c.Response != nil:
		p := c.Response
		for i := range p.Messages {
			if strings.TrimSpace(p.Messages[i].Content) != "" {
				f |= Answer
			}
			if p.Messages[i].Finish != "" {
				f |= Finish
			}
		}
		if len(p.Citations) > 0 {
			f |= Citations
		}
		if len(p.Finish) > 0 {
			f |= Finish
		}
		if p.Usage != nil {
			f |= Usage
		}
		if p.CostUSD != 0 {
			f |= Money
		}
		if p.LatencyMs != 0 && c.Type == event.RequestClosed {
			f |= Latency
		}
		if p.Error != nil {
			f |= Failure
		}
	}
	return f
}

// Status is how an evaluation ended.
type Status string

// Every evaluator ends every request in one of these; until then it is pending.
const (
	Scored  Status = "scored"
	Skipped Status = "skipped"
	Failed  Status = "failed"
)

// A Result is what an evaluator says of a request.
type Result struct {
	Status      Status
	Value       float64 // 0 .. 1
	Label       string
	Pass        bool
	Reason      string // a machine word, when skipped or failed
	Explanation string // may quote the request
}

func score(value float64, label string, pass bool, explanation string) Result {
	return Result{Status: Scored, Value: min(1, max(0, value)), Label: label, Pass: pass, Explanation: explanation}
}

func skip(reason string) Result { return Result{Status: Skipped, Reason: reason} }

func fail(reason string) Result { return Result{Status: Failed, Reason: reason} }

// noAnswer is what evaluators of the answer say when there is none.
func noAnswer(r *event.Request) Result {
	if r.Error != nil {
		return skip("request_failed")
	}
	return skip("no_answer")
}

// Builtin are the evaluators that come with Looptape, in a fixed order.
func Builtin(cfg Config) []Evaluator {
	return []Evaluator{
		newGrounded(cfg.Grounded),
		newCitation(cfg.Citation),
		newFresh(cfg.Fresh),
		newRefusal(cfg.Refusal),
		newPII(),
		newFormat(cfg.Format),
		newSLO(cfg.SLO),
		newCost(cfg.Cost),
	}
}

// Manifests are the manifests of the evaluators, in their order.
func Manifests(es []Evaluator) []Manifest {
	ms := make([]Manifest, len(es))
	for i, e := range es {
		ms[i] = e.Manifest()
	}
	return ms
}
