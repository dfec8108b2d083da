package event

// Topics of the contract.
const (
	TopicPrompt     = "llm.prompt"
	TopicRetrieval  = "llm.retrieval"
	TopicResponse   = "llm.response"
	TopicAction     = "llm.action"
	TopicSafety     = "llm.safety"
	TopicFeedback   = "llm.feedback"
	TopicScore      = "llm.score"
	TopicAlias      = "llm.alias"
	TopicDeployment = "llm.deployment"
	TopicEvaluator  = "llm.evaluator"
	TopicCase       = "llm.case"
	TopicDecision   = "llm.decision"
	TopicQuarantine = "llm.quarantine"
	TopicOps        = "llm.ops"
)

// Event types of the contract.
const (
	RequestStarted = "request.started"
	PromptRendered = "prompt.rendered"
	UnitAssigned   = "unit.assigned"
	ProbeResult    = "probe.result"

	RetrievalCompleted = "retrieval.completed"

	ModelCallCompleted = "model.call.completed"
	ResponseDelivered  = "response.delivered"
	RequestClosed      = "request.closed"
	SessionClosed      = "session.closed"

	ActionProposed = "action.proposed"
	ActionDecided  = "action.decided"
	ActionApproved = "action.approved"
	ActionExecuted = "action.executed"
	ActionReceipt  = "action.receipt"

	GuardrailResult = "guardrail.result"
	SafetyIncident  = "safety.incident"

	FeedbackRecorded = "feedback.recorded"
	OutcomeRecorded  = "outcome.recorded"

	EvaluationResult  = "evaluation.result"
	EvaluationSkipped = "evaluation.skipped"
	EvaluationFailed  = "evaluation.failed"
	AnchorScored      = "anchor.scored"

	AliasBound = "alias.bound"

	ReleaseRegistered    = "release.registered"
	DeploymentStarted    = "deployment.started"
	DeploymentStep       = "deployment.step"
	DeploymentFinished   = "deployment.finished"
	DeploymentRolledBack = "deployment.rolled_back"

	EvaluatorRegistered = "evaluator.registered"

	CaseRevised = "case"

	GateEvidence     = "gate.evidence"
	GateDecision     = "gate.decision"
	GateAcknowledged = "gate.acknowledged"

	EventQuarantined = "event.quarantined"
	ProducerGap      = "producer.gap"
)

// Arms of a deployment.
const (
	ArmBaseline  = "baseline"
	ArmCandidate = "candidate"
	ArmShadow    = "shadow"
)
