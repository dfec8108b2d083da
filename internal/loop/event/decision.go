package event

import (
	"encoding/json"
	"time"
)

// Bodies of llm.decision (key: release). One gate.evidence event is one point of
// the plot: it carries everything the page draws at that moment, and the units
// that entered since the event before it, so that the whole process can be
// recomputed from these events alone, bit for bit. Effects are candidate minus
// baseline of an outcome where 1 is good; negative is harm. Logs are natural.

// States of a gate.
const (
	GateWarming     = "warming"      // no unit has entered yet
	GateComparing   = "comparing"    // units enter, nothing decided
	GateHold        = "hold"         // the ramp stands still
	GateRollingBack = "rolling_back" // rollback decided, not yet read back
	GateRolledBack  = "rolled_back"
	GatePromoted    = "promoted"
	GateQuarantined = "quarantined" // the assignment is not what was logged
	GateExpired     = "expired"     // ended from outside without a decision
)

// Actions of a decision.
const (
	ActAdvance    = "advance"
	ActHold       = "hold"
	ActResume     = "resume" // hold left: cool-down over and evidence low again
	ActRollback   = "rollback"
	ActQuarantine = "quarantine"
	ActExpire     = "expire"
)

// Special outcomes of a unit on a metric, beside the bins 0 .. 100.
const (
	OutcomeMissing       = -1 // no score by the watermark: takes the value that hurts the claim
	OutcomeNotApplicable = -2 // every score was skipped: neutral, takes the stage's guess
)

// Evidence is the body of gate.evidence.
type Evidence struct {
	Release         string     `json:"release"` // the candidate
	Baseline        string     `json:"baseline"`
	Deployment      string     `json:"deployment,omitempty"`
	App             string     `json:"app,omitempty"`
	Kind            string     `json:"kind,omitempty"`
	Layer           string     `json:"layer,omitempty"`
	Process         string     `json:"process"`  // names the e-process: tenant, deployment, release and policy
	Seq             int64      `json:"seq"`      // from 1, without gaps
	Previous        string     `json:"previous"` // id of the evidence before, "" for the first
	Time            time.Time  `json:"time"`     // the engine's event time when it was taken
	State           string     `json:"state"`
	Stage           string     `json:"stage"`
	Propensity      float64    `json:"propensity"`
	ReversibleUntil *time.Time `json:"reversible_until,omitempty"`

	Metrics []string    `json:"metrics"`           // order of Outcome in Units
	Units   []GateUnit  `json:"units,omitempty"`   // entered since the evidence before, in order of entry
	Stages  []GateStage `json:"stages,omitempty"`  // every stage so far
	Entered int64       `json:"entered"`           // units in the comparison, both arms, all stages
	N       [2]int64    `json:"n"`                 // units entered: baseline, candidate
	Open    int         `json:"open"`              // units still open or waiting for their turn
	Dropped GateDropped `json:"dropped,omitzero"`  // what did not enter, and why
	Overall GateLogE    `json:"overall"`           // the weighted average over metrics and segments
	Guards  []GuardRead `json:"guards"`            // per metric, segment "all", in policy order
	Others  []GuardRead `json:"others,omitempty"`  // per declared segment and metric
	SRMLogE float64     `json:"srm_log_e"`         // sample ratio
	Judge   string      `json:"judge"`             // ok, suspect
	Suspect []string    `json:"suspect,omitempty"` // metrics whose evaluator changed during the comparison
	Stale   bool        `json:"stale,omitempty"`   // taken because units stopped coming
	Outside string      `json:"outside,omitempty"` // taken because others ended the deployment: promoted, rolled_back, abandoned
	Caveats []string    `json:"caveats,omitempty"` // sentences the page shows

	Thresholds map[string]float64         `json:"thresholds"` // ln(1/alpha) by rule name: rollback, critical, hold, promote, srm
	Watermark  time.Time                  `json:"watermark"`  // first requests up to here have had their turn
	LagS       float64                    `json:"watermark_lag_s"`
	Offsets    map[string]map[int32]int64 `json:"offsets,omitempty"` // next offsets read, by topic and partition
	StateHash  string                     `json:"state_hash"`
	TableHash  string                     `json:"table_hash"`
	PolicyHash string                     `json:"policy_hash"`
	PolicyName string                     `json:"policy_name,omitempty"` // name@version
	Policy     json.RawMessage            `json:"policy,omitempty"`      // canonical form, in the first evidence only
}

// A GateUnit is one unit that entered the comparison.
type GateUnit struct {
	Unit     string            `json:"unit"`
	Arm      int               `json:"arm"`   // 1 candidate, 0 baseline
	Stage    int               `json:"stage"` // index into Stages
	First    time.Time         `json:"first"`
	Requests []string          `json:"requests"` // those that count
	Why      string            `json:"why"`      // complete, timeout
	Outcome  []int             `json:"y"`        // per metric: bin 0 .. 100, or Outcome constants
	Segments map[string]string `json:"segments,omitempty"`
}

// A GateStage is one ramp stage with what is frozen in it.
type GateStage struct {
	Name       string             `json:"name"`
	Propensity float64            `json:"propensity"`
	Guess      map[string]float64 `json:"g"` // by metric
	N          [2]int64           `json:"n"` // units entered: baseline, candidate
}

// GateDropped counts what could not enter.
type GateDropped struct {
	NoPropensity    int64 `json:"no_propensity,omitempty"`    // requests
	BadPropensity   int64 `json:"bad_propensity,omitempty"`   // units: differs from the stage's, or not inside (0, 1)
	WrongUnit       int64 `json:"wrong_unit,omitempty"`       // units of another kind than the policy's
	Late            int64 `json:"late,omitempty"`             // units whose turn had passed
	LateRequests    int64 `json:"late_requests,omitempty"`    // requests of units that had closed
	NoUnit          int64 `json:"no_unit,omitempty"`          // requests
	ArmChanged      int64 `json:"arm_changed,omitempty"`      // requests served by another arm than their unit's
	Ambiguous       int64 `json:"ambiguous,omitempty"`        // requests that fit more than one running gate
	OverCap         int64 `json:"over_cap,omitempty"`         // units beyond the engine's bound
	AfterConclusion int64 `json:"after_conclusion,omitempty"` // units after a final decision
}

// GateLogE is a log e-value of each side.
type GateLogE struct {
	Harm    float64 `json:"harm"`
	Promote float64 `json:"promote"` // overall: the least over the guards
}

// A GuardRead is the read-out of one metric in one segment.
type GuardRead struct {
	Metric      string     `json:"metric"`
	Segment     string     `json:"segment"` // "all" or dim=value
	Good        string     `json:"good"`    // high, low: which end of the raw score is good
	Margin      float64    `json:"margin"`
	Weight      float64    `json:"weight"` // share of the overall average
	Critical    bool       `json:"critical,omitempty"`
	N           [2]int64   `json:"n"`       // baseline, candidate
	Missing     [2]int64   `json:"missing"` // of these without a score
	Mean        [2]float64 `json:"mean"`    // of the scored ones, 1 is good; NaN never: 0 when n is 0
	LogEHarm    float64    `json:"log_e_harm"`
	LogEPromote float64    `json:"log_e_promote"`
	ClosedLogE  float64    `json:"closed_log_e"` // blame with family-wise control: crosses only if this one is to blame
	Effect      float64    `json:"effect"`       // inverse-propensity estimate, missing as neutral
	CS          [2]float64 `json:"cs"`           // 95 % confidence sequence of the mean effect
	Harm        []int64    `json:"harm"`         // the integers: log wealth in 2^-32 units per bet
	Promote     []int64    `json:"promote"`
}

// Decision is the body of gate.decision. Its id is derived from release, policy,
// process and ordinal: the same decision made again after a crash is the same
// event.
type Decision struct {
	Release    string    `json:"release"`
	Baseline   string    `json:"baseline"`
	Deployment string    `json:"deployment,omitempty"`
	App        string    `json:"app,omitempty"`
	Seq        int64     `json:"seq"`
	Time       time.Time `json:"time"` // the engine's event time
	Action     string    `json:"action"`
	State      string    `json:"state"` // the gate's state after it
	Before     string    `json:"before"`

	Rule       string  `json:"rule"`                // the condition that held, as written in the policy
	RuleIndex  int     `json:"rule_index"`          // from 0; -1 for the engine's own (stale input, expiry, resume)
	Reason     string  `json:"reason"`              // one sentence for people
	LogE       float64 `json:"log_e"`               // of the claim the rule acts on
	Threshold  float64 `json:"threshold,omitempty"` // ln(1/alpha) it was compared with
	Alpha      float64 `json:"alpha,omitempty"`
	AlphaTotal float64 `json:"alpha_total"` // what all automatic rollback rules of the policy spend together

	Effect     float64     `json:"effect"` // of the first of Top
	CS         [2]float64  `json:"cs"`
	Confidence float64     `json:"confidence"`    // of CS, 0.95
	Top        []GuardRead `json:"top,omitempty"` // most to blame first
	Overall    GateLogE    `json:"overall"`
	SRMLogE    float64     `json:"srm_log_e"`
	N          [2]int64    `json:"n"`        // units: baseline, candidate
	Exposure   int64       `json:"exposure"` // candidate units entered
	Entered    int64       `json:"entered"`

	Stage           string     `json:"stage"`
	Propensity      float64    `json:"propensity"`
	ReversibleUntil *time.Time `json:"reversible_until,omitempty"`

	Evidence     string                     `json:"evidence"` // id of the evidence event it was taken on
	EvidenceSeq  int64                      `json:"evidence_seq"`
	EvidenceHash string                     `json:"evidence_hash"` // chain over all evidence events up to it
	Offsets      map[string]map[int32]int64 `json:"offsets,omitempty"`
	StateHash    string                     `json:"state_hash"`
	TableHash    string                     `json:"table_hash"`
	PolicyHash   string                     `json:"policy_hash"`
	PolicyName   string                     `json:"policy_name,omitempty"`
	Guarantee    string                     `json:"guarantee"`
	Caveats      []string                   `json:"caveats,omitempty"`
	DryRun       bool                       `json:"dry_run,omitempty"`
}

// Acknowledgement is the body of gate.acknowledged: what an actuator did about a
// decision, read back from the system it acts on.
type Acknowledgement struct {
	Release    string   `json:"release"`
	Deployment string   `json:"deployment,omitempty"`
	Decision   string   `json:"decision"` // event id of the decision
	Action     string   `json:"action"`
	Actuator   string   `json:"actuator"`
	Outcome    string   `json:"outcome"` // done, failed
	Observed   string   `json:"observed,omitempty"`
	Share      *float64 `json:"share,omitempty"` // candidate's traffic share as read back
	Attempts   int      `json:"attempts"`
	Error      string   `json:"error,omitempty"`
}

// GateStatus answers GET /v1/gates/{release}: ok and phase are what the web
// metric provider of Argo Rollouts reads.
type GateStatus struct {
	OK         bool      `json:"ok"`
	Phase      string    `json:"phase"` // Successful, Failed, Inconclusive
	State      string    `json:"state"`
	Release    string    `json:"release"`
	Message    string    `json:"message"`
	Evidence   *Evidence `json:"evidence,omitempty"` // the last, without units
	Decision   *Decision `json:"decision,omitempty"` // the last
	EvidenceID string    `json:"evidence_id,omitempty"`
	DecisionID string    `json:"decision_id,omitempty"`
	LagS       float64   `json:"watermark_lag_s"`
}
