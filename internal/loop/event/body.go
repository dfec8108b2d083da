package event

import (
	"encoding/json"
	"time"
)

// The bodies of the contract's event types. Fields are optional unless said;
// content (privacy class P3) is marked. Durations are in milliseconds, money in
// US dollars, times RFC 3339.

// A Message is one turn of a prompt or an answer.
type Message struct {
	Role      string     `json:"role"`
	Content   string     `json:"content,omitempty"` // P3: the text parts, joined by a newline
	ToolCalls []ToolCall `json:"tool_calls,omitempty"`
	ToolCall  string     `json:"tool_call_id,omitempty"` // for role tool: the call it answers
	Name      string     `json:"name,omitempty"`
	Finish    string     `json:"finish_reason,omitempty"`
}

// A ToolCall is a tool invocation that a model asked for.
type ToolCall struct {
	ID        string `json:"id,omitempty"`
	Name      string `json:"name"`
	Arguments string `json:"arguments,omitempty"` // P3, JSON text as the model wrote it
}

// Prompt is the body of request.started, prompt.rendered and unit.assigned.
type Prompt struct {
	Name      string            `json:"name,omitempty"` // of the root span or the endpoint
	Template  string            `json:"template,omitempty"`
	Version   string            `json:"version,omitempty"`
	Params    map[string]any    `json:"params,omitempty"`
	Tokens    int64             `json:"tokens,omitempty"`
	Messages  []Message         `json:"messages,omitempty"`   // P3, in order
	Variables map[string]string `json:"variables,omitempty"`  // P3
	Order     int64             `json:"order,omitempty"`      // place among the messages of its span when they come one by one
	Attrs     map[string]any    `json:"attributes,omitempty"` // what was not understood, as it came
}

// Retrieval is the body of retrieval.completed.
type Retrieval struct {
	Source       string         `json:"source,omitempty"`
	IndexVersion string         `json:"index_version,omitempty"`
	IndexTime    *time.Time     `json:"index_time,omitempty"` // when the index was built
	K            int            `json:"k,omitempty"`
	Query        string         `json:"query,omitempty"` // P3
	Documents    []Document     `json:"documents,omitempty"`
	LatencyMs    float64        `json:"latency_ms,omitempty"`
	Error        *Failure       `json:"error,omitempty"`
	Attrs        map[string]any `json:"attributes,omitempty"`
}

// A Document is one retrieved passage.
type Document struct {
	ID      string     `json:"id,omitempty"`
	Version string     `json:"version,omitempty"`
	Rank    int        `json:"rank,omitempty"` // from 1
	Score   *float64   `json:"score,omitempty"`
	Hash    string     `json:"hash,omitempty"`
	Updated *time.Time `json:"updated,omitempty"` // when the document last changed, as the index knows it
	Text    string     `json:"text,omitempty"`    // P3
}

// Response is the body of model.call.completed, response.delivered,
// request.closed and session.closed.
type Response struct {
	Provider   string         `json:"provider,omitempty"`
	Operation  string         `json:"operation,omitempty"`
	ModelAsked string         `json:"model_asked,omitempty"`
	ModelGiven string         `json:"model_given,omitempty"`
	Route      string         `json:"route,omitempty"`
	Finish     []string       `json:"finish_reasons,omitempty"`
	Usage      *Usage         `json:"usage,omitempty"`
	LatencyMs  float64        `json:"latency_ms,omitempty"`
	CostUSD    float64        `json:"cost_usd,omitempty"`
	Streaming  bool           `json:"streaming,omitempty"`
	FirstMs    float64        `json:"time_to_first_token_ms,omitempty"`
	Error      *Failure       `json:"error,omitempty"`
	Citations  []string       `json:"citations,omitempty"` // ids of documents the answer cites
	Messages   []Message      `json:"messages,omitempty"`  // P3, output
	Order      int64          `json:"order,omitempty"`
	Attrs      map[string]any `json:"attributes,omitempty"`
}

// Usage counts tokens.
type Usage struct {
	Input  int64 `json:"input_tokens,omitempty"`
	Output int64 `json:"output_tokens,omitempty"`
	Total  int64 `json:"total_tokens,omitempty"`
	Cached int64 `json:"cached_tokens,omitempty"`
}

// A Failure is an error kept as a fact.
type Failure struct {
	Type    string `json:"type"`
	Message string `json:"message,omitempty"`
	Status  int    `json:"status,omitempty"`
}

// Action is the body of the action types.
type Action struct {
	Tool       string          `json:"tool"`
	Tier       string          `json:"tier,omitempty"` // read, write, destructive
	Call       string          `json:"call_id,omitempty"`
	ArgsHash   string          `json:"args_hash,omitempty"`
	Decision   string          `json:"decision,omitempty"` // allow, deny
	Approver   string          `json:"approver,omitempty"`
	ResultHash string          `json:"result_hash,omitempty"`
	LatencyMs  float64         `json:"latency_ms,omitempty"`
	Error      *Failure        `json:"error,omitempty"`
	Args       json.RawMessage `json:"args,omitempty"`   // P3
	Result     json.RawMessage `json:"result,omitempty"` // P3
	Attrs      map[string]any  `json:"attributes,omitempty"`
}

// Safety is the body of guardrail.result and safety.incident.
type Safety struct {
	Component string         `json:"component,omitempty"`
	Policy    string         `json:"policy,omitempty"`
	Rule      string         `json:"rule,omitempty"`
	Category  string         `json:"category,omitempty"`
	Score     *float64       `json:"score,omitempty"`
	Enforced  string         `json:"action,omitempty"`  // allow, block, redact, flag
	Matched   string         `json:"matched,omitempty"` // P3
	Attrs     map[string]any `json:"attributes,omitempty"`
}

// Feedback is the body of feedback.recorded and outcome.recorded.
type Feedback struct {
	Target     string   `json:"target,omitempty"` // request (default), response, retrieval, action
	Kind       string   `json:"kind"`             // thumbs, rating, label, correction, outcome
	Value      *float64 `json:"value,omitempty"`  // 0 .. 1, 1 is good
	Label      string   `json:"label,omitempty"`
	Author     string   `json:"author,omitempty"`      // pseudonym
	AuthorRole string   `json:"author_role,omitempty"` // end_user, expert, operator, program
	Comment    string   `json:"comment,omitempty"`     // P3
	Correction string   `json:"correction,omitempty"`  // P3
}

// Score is the body of evaluation.result, evaluation.skipped and
// evaluation.failed. Its event id is ScoreID: a retry or a replay writes the
// same id; of two bodies under one id the one with the larger (InputCount,
// InputsHash) stands, whatever their order of arrival.
type Score struct {
	Evaluator   string   `json:"evaluator"`       // id@version#hash
	Metric      string   `json:"metric"`          // the evaluator's id
	Mode        string   `json:"mode"`            // live, shadow, replay
	Value       *float64 `json:"value,omitempty"` // 0 .. 1
	Good        string   `json:"good,omitempty"`  // high or low: which end of Value is good
	Label       string   `json:"label,omitempty"`
	Pass        *bool    `json:"pass,omitempty"`
	Confidence  *float64 `json:"confidence,omitempty"`
	Reason      string   `json:"reason,omitempty"` // why skipped or failed
	Tokens      int64    `json:"tokens,omitempty"`
	CostUSD     float64  `json:"cost_usd,omitempty"`
	LatencyMs   float64  `json:"latency_ms,omitempty"` // the evaluator's own time
	InputCount  int      `json:"input_count"`
	InputsHash  string   `json:"inputs_hash"`
	Inputs      []string `json:"inputs,omitempty"` // ids of the events read, sorted
	SampledP    float64  `json:"sampled_p"`
	Explanation string   `json:"explanation,omitempty"` // P3
}

// Alias is the body of alias.bound on llm.alias: an id by which others know a
// request.
type Alias struct {
	Alias   string `json:"alias"`
	Kind    string `json:"kind"` // response, trace, reference
	Request string `json:"request"`
}

// Deployment is the body of the types of llm.deployment.
type Deployment struct {
	Release         string            `json:"release"`
	Baseline        string            `json:"baseline,omitempty"` // the release compared with
	App             string            `json:"app,omitempty"`
	Kind            string            `json:"kind,omitempty"` // prompt, model, route, retriever, policy, evaluator
	Manifest        map[string]string `json:"manifest,omitempty"`
	Deployment      string            `json:"deployment,omitempty"`
	Layer           string            `json:"layer,omitempty"`
	Salt            string            `json:"salt,omitempty"`
	Stage           string            `json:"stage,omitempty"`
	Propensity      float64           `json:"propensity,omitempty"` // traffic share of the candidate
	Actor           string            `json:"actor,omitempty"`
	Policy          string            `json:"policy,omitempty"` // gate policy hash
	Reason          string            `json:"reason,omitempty"`
	Outcome         string            `json:"outcome,omitempty"` // promoted, rolled_back, abandoned
	ReversibleUntil *time.Time        `json:"reversible_until,omitempty"`
}

// Quarantined is the body of event.quarantined: what came, as it came, and why
// it could not be taken.
type Quarantined struct {
	Reason  string          `json:"reason"`           // machine word: unknown_span, invalid_body, unknown_type, ...
	Detail  string          `json:"detail,omitempty"` // a sentence without content
	Kind    string          `json:"kind"`             // span, log, event
	Schema  string          `json:"schema,omitempty"`
	Pointer string          `json:"pointer,omitempty"` // JSON pointer to the offending field
	Raw     json.RawMessage `json:"raw,omitempty"`     // P3
}
