package view

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/looptape/looptape/internal/loop/event"
)

// An EventRow is an event as the tables know it: facts, a few numbers and where
// it lies. It holds no content.
type EventRow struct {
	ID       string         `json:"id"`
	Type     string         `json:"type"`
	Time     time.Time      `json:"time"`
	Appended time.Time      `json:"appended"`
	Position event.Position `json:"position"`
	Request  string         `json:"request,omitempty"`
	Trace    string         `json:"trace,omitempty"`
	Session  string         `json:"session,omitempty"`
	App      string         `json:"app,omitempty"`
	Release  string         `json:"release,omitempty"`
	Arm      string         `json:"arm,omitempty"`
	Summary  Summary        `json:"summary,omitempty"`
}

// A Summary is what a list shows of an event besides its facts: short names and
// values, none of them content.
type Summary map[string]string

func (s Summary) encode() string {
	if len(s) == 0 {
		return ""
	}
	b, err := json.Marshal(s) // a map of strings: keys in order, cannot fail
	if err != nil {
		return ""
	}
	return string(b)
}

func (s Summary) text(name, value string) {
	if value != "" {
		s[name] = clip(value, 120)
	}
}

func (s Summary) number(name string, v float64) {
	if v != 0 {
		s[name] = strconv.FormatFloat(v, 'g', 6, 64)
	}
}

func (s Summary) optional(name string, v *float64) {
	if v != nil {
		s[name] = strconv.FormatFloat(*v, 'g', 6, 64)
	}
}

// summary is what the fold wants to know of a body.
type summary struct {
	facts      []string // what the checklist has seen
	inputCount int      // of a score
	inputsHash string
}

// Facts of the checklist.
const (
	FactPrompt      = "prompt"
	FactRetrieval   = "retrieval"
	FactResponse    = "response"
	FactContent     = "content" // prompts or answers carry their text
	FactRelease     = "release"
	FactArm         = "arm"
	FactPropensity  = "propensity"
	FactSession     = "session"
	FactScore       = "score"
	FactFeedback    = "feedback"
	FactDeployment  = "deployment"
	FactEvidence    = "evidence"
	FactQuarantined = "quarantined"
)

// brief are the members of all bodies that a summary shows, and the numbers of
// those it counts. Content is counted, not kept.
type brief struct {
	Name       string     `json:"name"`
	Template   string     `json:"template"`
	Version    string     `json:"version"`
	Source     string     `json:"source"`
	Index      string     `json:"index_version"`
	Documents  []struct{} `json:"documents"`
	Messages   []struct{} `json:"messages"`
	Provider   string     `json:"provider"`
	ModelAsked string     `json:"model_asked"`
	ModelGiven string     `json:"model_given"`
	Usage      *struct {
		Input  int64 `json:"input_tokens"`
		Output int64 `json:"output_tokens"`
	} `json:"usage"`
	LatencyMs float64 `json:"latency_ms"`
	CostUSD   float64 `json:"cost_usd"`
	Error     *struct {
		Type string `json:"type"`
	} `json:"error"`
	Tool       string   `json:"tool"`
	Tier       string   `json:"tier"`
	Decision   string   `json:"decision"`
	Component  string   `json:"component"`
	Category   string   `json:"category"`
	Enforced   string   `json:"action"`
	Kind       string   `json:"kind"`
	Value      *float64 `json:"value"`
	Label      string   `json:"label"`
	Author     string   `json:"author_role"`
	Metric     string   `json:"metric"`
	Mode       string   `json:"mode"`
	Good       string   `json:"good"`
	Pass       *bool    `json:"pass"`
	Reason     string   `json:"reason"`
	InputCount int      `json:"input_count"`
	InputsHash string   `json:"inputs_hash"`
	Release    string   `json:"release"`
	Stage      string   `json:"stage"`
	Propensity float64  `json:"propensity"`
	Outcome    string   `json:"outcome"`
	State      string   `json:"state"`
	LogE       float64  `json:"log_e"`
	Entered    int64    `json:"entered"`
}

// summarize makes the row of an event. A body that is not what its type promises
// leaves the summary empty: the facts stand.
func summarize(e *event.Event) (EventRow, summary) {
	f := &e.Facts
	row := EventRow{
		ID: e.ID, Type: e.Type, Time: e.Time, Appended: e.AppendTime, Position: e.Position,
		Request: f.Request, Trace: f.Trace, Session: f.Session, App: f.App, Release: f.Release, Arm: f.Arm, Summary: Summary{},
	}
	var (
		s summary
		b brief
	)
	saw := func(ok bool, fact string) {
		if ok {
			s.facts = append(s.facts, fact)
		}
	}
	scoped := f.Request != "" || f.Session != ""
	saw(scoped && f.Release != "", FactRelease)
	saw(scoped && f.Arm != "", FactArm)
	saw(scoped && f.Propensity != nil, FactPropensity)
	saw(f.Session != "", FactSession)
	row.Summary.text("model", f.Model)
	if len(e.Data) > 0 && json.Unmarshal(e.Data, &b) != nil {
		b = brief{}
	}
	t := row.Summary
	latency := func() {
		if b.LatencyMs > 0 {
			t["latency_ms"] = strconv.FormatFloat(b.LatencyMs, 'g', 4, 64)
		}
		if b.Error != nil {
			t.text("error", b.Error.Type)
		}
	}
	switch e.Type {
	case event.RequestStarted, event.PromptRendered, event.UnitAssigned:
		saw(e.Type != event.UnitAssigned, FactPrompt)
		saw(len(b.Messages) > 0, FactContent)
		t.text("name", b.Name)
		t.text("template", b.Template)
		t.text("version", b.Version)
		t.number("messages", float64(len(b.Messages)))
	case event.RetrievalCompleted:
		saw(true, FactRetrieval)
		t.text("source", b.Source)
		t.text("index", b.Index)
		t.number("documents", float64(len(b.Documents)))
		latency()
	case event.ModelCallCompleted, event.ResponseDelivered, event.RequestClosed, event.SessionClosed:
		saw(e.Type == event.ModelCallCompleted || e.Type == event.ResponseDelivered, FactResponse)
		saw(len(b.Messages) > 0, FactContent)
		t.text("provider", b.Provider)
		t.text("model", firstOf(b.ModelGiven, b.ModelAsked, f.Model))
		if b.Usage != nil {
			t["tokens"] = fmt.Sprintf("%d/%d", b.Usage.Input, b.Usage.Output)
		}
		t.number("cost_usd", b.CostUSD)
		latency()
	case event.ActionProposed, event.ActionDecided, event.ActionApproved, event.ActionExecuted, event.ActionReceipt:
		t.text("tool", b.Tool)
		t.text("tier", b.Tier)
		t.text("decision", b.Decision)
		latency()
	case event.GuardrailResult, event.SafetyIncident:
		t.text("component", b.Component)
		t.text("category", b.Category)
		t.text("enforced", b.Enforced)
	case event.FeedbackRecorded, event.OutcomeRecorded:
		saw(true, FactFeedback)
		t.text("kind", b.Kind)
		t.optional("value", b.Value)
		t.text("label", b.Label)
		t.text("author_role", b.Author)
	case event.EvaluationResult, event.EvaluationSkipped, event.EvaluationFailed:
		saw(e.Type == event.EvaluationResult, FactScore)
		s.inputCount, s.inputsHash = b.InputCount, b.InputsHash
		t.text("metric", b.Metric)
		t.optional("value", b.Value)
		t.text("good", b.Good)
		t.text("label", b.Label)
		t.text("reason", b.Reason)
		if b.Mode != "live" {
			t.text("mode", b.Mode)
		}
		if b.Pass != nil {
			t["pass"] = strconv.FormatBool(*b.Pass)
		}
	case event.ReleaseRegistered, event.DeploymentStarted, event.DeploymentStep, event.DeploymentFinished, event.DeploymentRolledBack:
		saw(e.Type == event.DeploymentStarted, FactDeployment)
		row.Release = firstOf(row.Release, b.Release)
		t.text("stage", b.Stage)
		t.number("propensity", b.Propensity)
		t.text("outcome", b.Outcome)
	case event.GateEvidence:
		saw(true, FactEvidence)
		row.Release = firstOf(row.Release, b.Release)
		t.text("state", b.State)
		t.number("units", float64(b.Entered))
	case event.GateDecision:
		row.Release = firstOf(row.Release, b.Release)
		t.text("action", b.Enforced)
		t.text("state", b.State)
		t.number("log_e", b.LogE)
	case event.EventQuarantined:
		saw(true, FactQuarantined)
		t.text("kind", b.Kind)
		t.text("reason", b.Reason)
	}
	return row, s
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
