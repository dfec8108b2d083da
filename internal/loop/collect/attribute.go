package collect

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/looptape/looptape/internal/loop/event"
)

// take reads one attribute, number at of the reading. It knows the names of
// OpenTelemetry's GenAI conventions of both generations and those of the dialects
// seen in the wild; it returns gOther for what it does not know or can't read.
func (r *reading) take(k string, v pcommon.Value, at int) group {
	if isPerson(k) {
		return r.person(v, at)
	}
	switch k {
	// Where it comes from.
	case "looptape.app":
		return r.best(&r.app, 3, v, at)
	case "service.name":
		return r.best(&r.app, 2, v, at)
	case "gen_ai.application_name":
		return r.best(&r.app, 0, v, at)
	case "looptape.environment":
		return r.best(&r.environment, 4, v, at)
	case "deployment.environment.name":
		return r.best(&r.environment, 3, v, at)
	case "deployment.environment", "langfuse.environment":
		return r.best(&r.environment, 2, v, at)
	case "looptape.release":
		return r.best(&r.release, 5, v, at)
	case "langfuse.release":
		return r.best(&r.release, 4, v, at)
	case "service.version":
		return r.best(&r.release, 3, v, at)
	case "vcs.ref.head.revision":
		return r.best(&r.release, 0, v, at)
	case "deployment.id", "looptape.deployment":
		return r.fact(&r.facts.Deployment, v)
	case "looptape.arm":
		return r.best(&r.arm, 3, v, at)
	case "feature_flag.result.variant", "feature_flag.variant":
		return r.best(&r.arm, 2, v, at)
	case "looptape.unit":
		return r.best(&r.unit, 3, v, at)
	case "feature_flag.context.id":
		return r.best(&r.unit, 2, v, at)
	case "looptape.unit_kind":
		return r.fact(&r.facts.UnitKind, v)
	case "looptape.stage":
		return r.fact(&r.facts.Stage, v)
	case "looptape.assignment":
		return r.fact(&r.facts.Assignment, v)
	case "looptape.salt":
		return r.fact(&r.facts.Salt, v)
	case "looptape.propensity":
		if p, ok := number(v); ok && p >= 0 && p <= 1 {
			r.facts.Propensity = &p
			return gUsed
		}
		return gOther
	case "looptape.policy":
		return r.fact(&r.facts.Policy, v)
	case "looptape.producer":
		return r.fact(&r.facts.Producer, v)
	case "looptape.seq":
		if v.Type() == pcommon.ValueTypeInt {
			n := v.Int()
			r.facts.Seq = &n
			return gUsed
		}
		return gOther
	case "looptape.task", "gen_ai.task.id":
		return r.fact(&r.facts.Task, v)
	case "looptape.session":
		return r.best(&r.session, 5, v, at)
	case "gen_ai.conversation.id":
		return r.best(&r.session, 4, v, at)
	case "session.id":
		return r.best(&r.session, 3, v, at)
	case "langfuse.session.id", "ai.telemetry.metadata.sessionId", "traceloop.association.properties.session_id",
		"traceloop.association.properties.chat_id", "langfuse.trace.metadata.langfuse_session_id", "langfuse.observation.metadata.langfuse_session_id",
		"gcp.vertex.agent.session_id":
		return r.best(&r.session, 2, v, at)
	case "looptape.request", "app.request.ref":
		if s := r.short(v); s != "" && len(r.references) < 8 {
			r.references = append(r.references, s)
			return gUsed
		}
		return gOther

	// What kind of work it is.
	case "looptape.kind":
		return r.word(&r.kind, v, gUsed)
	case "gen_ai.operation.name":
		return r.word(&r.op, v, gModel|gTool|gRetrieval)
	case "openinference.span.kind":
		return r.word(&r.oi, v, gUsed)
	case "traceloop.span.kind":
		return r.word(&r.traceloop, v, gUsed)
	case "ai.operationId":
		return r.word(&r.vercel, v, gUsed)
	case "operation.name": // Vercel: "ai.generateText function-id"
		s := r.short(v)
		if name, _, _ := strings.Cut(s, " "); r.vercel == "" && strings.HasPrefix(name, "ai.") {
			r.vercel = name
		}
		return gOther
	case "langfuse.observation.type":
		return r.word(&r.langfuse, v, gUsed)
	case "mlflow.spanType":
		return r.word(&r.mlflow, v, gUsed)
	case "llm.request.type":
		return r.word(&r.llmType, v, gUsed)
	case "gen_ai.agent.name", "agent_name":
		r.word(&r.agentName, v, gUsed)
		return gOther
	case "db.system", "db.system.name":
		switch v.AsString() {
		case "pinecone", "chroma", "qdrant", "weaviate", "milvus", "lancedb", "marqo", "pgvector", "chromadb":
			r.vectorDB = true
			if r.source == "" {
				r.source = v.AsString()
				return gRetrieval
			}
		}
		return gOther

	// The model call.
	case "gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system", "ai.model.provider":
		return r.word(&r.provider, v, gModel)
	case "gen_ai.request.model", "llm.model_name", "ai.model.id", "langfuse.observation.model.name", "llm.request.model",
		"embedding.model_name":
		r.modelish = true
		return r.word(&r.modelAsked, v, gModel)
	case "gen_ai.response.model", "ai.response.model", "llm.response.model":
		r.modelish = true
		return r.word(&r.modelGiven, v, gModel)
	case "gen_ai.response.id", "ai.response.id":
		r.modelish = true
		return r.fact(&r.responseID, v)
	case "looptape.route":
		return r.word(&r.route, v, gModel)
	case "gen_ai.response.finish_reasons", "gen_ai.response.finish_reason", "ai.response.finishReason", "llm.finish_reason":
		r.modelish = true
		return r.strings(&r.finish, v, gModel)
	case "gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.token_count.prompt", "llm.usage.prompt_tokens",
		"ai.usage.promptTokens", "ai.usage.inputTokens":
		r.modelish = true
		return r.count(&r.usage.Input, v, gModel)
	case "gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens", "llm.token_count.completion", "llm.usage.completion_tokens",
		"ai.usage.completionTokens", "ai.usage.outputTokens":
		r.modelish = true
		return r.count(&r.usage.Output, v, gModel)
	case "gen_ai.usage.total_tokens", "llm.token_count.total", "llm.usage.total_tokens", "ai.usage.totalTokens", "ai.usage.tokens":
		r.modelish = true
		return r.count(&r.usage.Total, v, gModel)
	case "gen_ai.usage.cache_read.input_tokens", "gen_ai.usage.cache_read_input_tokens", "gen_ai.usage.input_cached_tokens",
		"gen_ai.usage.details.cache_read_tokens", "llm.token_count.prompt_details.cache_read", "ai.usage.cachedInputTokens":
		r.modelish = true
		return r.count(&r.usage.Cached, v, gModel)
	case "looptape.cost_usd", "gen_ai.usage.cost", "gen_ai.usage.cost_usd", "operation.cost", "llm.cost.total":
		return r.float(&r.cost, v, gModel)
	case "langfuse.observation.usage_details":
		return r.usageDetails(v)
	case "langfuse.observation.cost_details":
		return r.costDetails(v)
	case "llm.is_streaming", "gen_ai.request.is_stream", "gen_ai.request.stream", "looptape.streaming":
		return r.flag(&r.streaming, v, gModel)
	case "ai.response.msToFirstChunk", "ai.stream.msToFirstChunk", "looptape.time_to_first_token_ms":
		r.streaming = true
		return r.float(&r.firstMs, v, gModel)
	case "gen_ai.response.time_to_first_chunk", "gen_ai.server.time_to_first_token": // seconds
		if s, ok := number(v); ok && r.firstMs == 0 {
			r.firstMs, r.streaming = s*1000, true
			return gModel
		}
		return gOther
	case "langfuse.observation.completion_start_time":
		r.firstAt = strings.Trim(v.AsString(), `"`)
		return gOther
	case "looptape.citations":
		return r.strings(&r.citations, v, gModel)
	case "error.type":
		return r.word(&r.errorType, v, gError)
	case "http.response.status_code", "http.status_code":
		if n, ok := number(v); ok && n >= 100 && n < 600 && r.status == 0 {
			r.status = int(n)
		}
		return gOther

	// What went in and came out.
	case "gen_ai.system_instructions":
		r.modelish = true
		return candidate(&r.system, at, 3)
	case "gen_ai.input.messages":
		r.modelish = true
		return candidate(&r.input, at, 9)
	case "gen_ai.output.messages":
		r.modelish = true
		return candidate(&r.output, at, 9)
	case "gen_ai.prompt", "ai.prompt.messages", "llm.prompts", "llm.input_messages":
		r.modelish = true
		return candidate(&r.input, at, 8)
	case "gen_ai.completion", "ai.response.text", "llm.completions", "llm.output_messages":
		r.modelish = true
		return candidate(&r.output, at, 8)
	case "ai.prompt", "events", "pydantic_ai.all_messages", "all_messages_events":
		return candidate(&r.input, at, 7)
	case "ai.response.object", "ai.response.toolCalls", "ai.result.text", "ai.result.object":
		r.modelish = true
		return candidate(&r.output, at, 7)
	case "gcp.vertex.agent.llm_request":
		return candidate(&r.input, at, 6)
	case "gcp.vertex.agent.llm_response":
		return candidate(&r.output, at, 6)
	case "langfuse.observation.input":
		return candidate(&r.input, at, 5)
	case "langfuse.observation.output":
		return candidate(&r.output, at, 5)
	case "input.value", "traceloop.entity.input":
		return candidate(&r.input, at, 4)
	case "output.value", "traceloop.entity.output", "final_result":
		return candidate(&r.output, at, 4)
	case "langfuse.trace.input", "mlflow.spanInputs", "input":
		return candidate(&r.input, at, 3)
	case "langfuse.trace.output", "mlflow.spanOutputs", "output":
		return candidate(&r.output, at, 3)

	// Prompt templates.
	case "gen_ai.prompt.name", "traceloop.prompt.key", "langfuse.prompt.name", "langfuse.observation.prompt.name", "looptape.prompt":
		return r.word(&r.template.name, v, gPrompt)
	case "looptape.prompt_version", "gen_ai.prompt.version", "traceloop.prompt.version", "langfuse.prompt.version", "langfuse.observation.prompt.version",
		"llm.prompt_template.version":
		return r.best(&r.promptVersion, 2, v, at)
	case "llm.prompt_template.template", "traceloop.prompt.template":
		return r.str(&r.template.text, v, gPrompt)
	case "llm.prompt_template.variables":
		r.template.variables, r.template.hasVariables = v, true
		return gOther
	case "looptape.retriever_version":
		return r.fact(&r.facts.RetrieverVersion, v)

	// Tools.
	case "gen_ai.tool.name", "tool.name", "ai.toolCall.name", "mcp.tool.name", "looptape.tool.name":
		return r.word(&r.tool, v, gTool)
	case "gen_ai.tool.call.id", "ai.toolCall.id", "tool_call.id", "tool.id":
		return r.word(&r.toolCall, v, gTool)
	case "gen_ai.tool.call.arguments":
		return candidate(&r.args, at, 9)
	case "ai.toolCall.args", "tool_arguments", "gcp.vertex.agent.tool_call_args", "ai.toolCall.input":
		return candidate(&r.args, at, 8)
	case "tool.parameters":
		return candidate(&r.args, at, 2)
	case "gen_ai.tool.call.result":
		return candidate(&r.result, at, 9)
	case "ai.toolCall.result", "tool_response", "gcp.vertex.agent.tool_response", "ai.toolCall.output":
		return candidate(&r.result, at, 8)
	case "looptape.tool.tier":
		return r.word(&r.tier, v, gTool)
	case "looptape.tool.decision":
		return r.word(&r.decision, v, gTool)

	// Retrieval.
	case "gen_ai.retrieval.query.text", "gen_ai.retrieval.query", "looptape.retrieval.query", "retrieval.query", "reranker.query":
		r.retrievalish = true
		return candidate(&r.query, at, 9)
	case "gen_ai.retrieval.documents", "looptape.retrieval.documents", "retrieval.documents":
		r.retrievalish = true
		return candidate(&r.docsIn, at, 9)
	case "gen_ai.data_source.id", "looptape.retrieval.source":
		return r.word(&r.source, v, gRetrieval)
	case "looptape.retrieval.index_version":
		r.retrievalish = true
		return r.word(&r.indexVersion, v, gRetrieval)
	case "looptape.retrieval.index_time":
		if _, ok := timeOf(v); !ok {
			return gOther
		}
		r.retrievalish = true
		return r.word(&r.indexTime, v, gRetrieval)
	case "looptape.retrieval.k", "gen_ai.retrieval.top_k", "db.vector.query.top_k", "retrieval.top_k":
		return r.small(&r.k, v)
	case "retrieval.documents.count":
		r.retrievalish = true
		return r.small(&r.k, v)

	// Scores.
	case "gen_ai.evaluation.name":
		return r.word(&r.evalName, v, gScore)
	case "gen_ai.evaluation.score.value":
		return r.floatPtr(&r.evalScore, v, gScore)
	case "gen_ai.evaluation.score.label":
		return r.str(&r.evalLabel, v, gScore)
	case "gen_ai.evaluation.explanation":
		return r.str(&r.evalText, v, gScore)
	case "looptape.evaluator":
		return r.word(&r.evaluator, v, gScore)
	}
	return r.takePrefixed(k, v)
}

func (r *reading) takePrefixed(k string, v pcommon.Value) group {
	switch {
	case strings.HasPrefix(k, "gen_ai."):
		rest := k[len("gen_ai."):]
		if after, ok := strings.CutPrefix(rest, "prompt."); ok {
			if r.prompts.set(after, v) {
				r.modelish = true
				return gPrompt
			}
			return gOther
		}
		if after, ok := strings.CutPrefix(rest, "completion."); ok {
			if r.completions.set(after, v) {
				r.modelish = true
				return gModel
			}
			return gOther
		}
		if strings.HasPrefix(rest, "request.") || rest == "output.type" {
			return gParam
		}
		if after, ok := strings.CutPrefix(rest, "guardrail."); ok {
			return r.guardrail(after, v)
		}
		return gOther
	case strings.HasPrefix(k, "llm."):
		rest := k[len("llm."):]
		if after, ok := strings.CutPrefix(rest, "input_messages."); ok {
			if r.prompts.set(after, v) {
				r.modelish = true
				return gPrompt
			}
			return gOther
		}
		if after, ok := strings.CutPrefix(rest, "output_messages."); ok {
			if r.completions.set(after, v) {
				r.modelish = true
				return gModel
			}
			return gOther
		}
		if strings.HasPrefix(rest, "invocation_parameters") {
			return gParam
		}
		return gOther
	case strings.HasPrefix(k, "retrieval.documents."):
		return r.document(k[len("retrieval.documents."):], v)
	case strings.HasPrefix(k, "reranker.output_documents."):
		return r.document(k[len("reranker.output_documents."):], v)
	case strings.HasPrefix(k, "looptape.retrieval.documents."):
		return r.document(k[len("looptape.retrieval.documents."):], v)
	case strings.HasPrefix(k, "looptape.segment."):
		return r.segment(k[len("looptape.segment."):], v)
	case strings.HasPrefix(k, "looptape.guardrail."):
		return r.guardrail(k[len("looptape.guardrail."):], v)
	case strings.HasPrefix(k, "guardrail."):
		return r.guardrail(k[len("guardrail."):], v)
	case strings.HasPrefix(k, "annotations."):
		return r.annotation(k[len("annotations."):], v)
	}
	return gOther
}

func (r *reading) small(to *int, v pcommon.Value) group {
	n, ok := number(v)
	if !ok || n < 0 || n > 1<<31 || *to != 0 && *to != int(n) {
		return gOther
	}
	*to = int(n)
	return gRetrieval
}

func (r *reading) guardrail(field string, v pcommon.Value) group {
	r.safetyish = true
	s := &r.safety
	switch field {
	case "name", "component":
		return r.str(&s.Component, v, gSafety)
	case "policy":
		return r.str(&s.Policy, v, gSafety)
	case "rule":
		return r.str(&s.Rule, v, gSafety)
	case "category":
		return r.str(&s.Category, v, gSafety)
	case "score":
		return r.floatPtr(&s.Score, v, gSafety)
	case "action", "decision", "result", "enforced":
		return r.str(&s.Enforced, v, gSafety)
	case "matched":
		return r.str(&s.Matched, v, gSafety)
	}
	return gOther
}

func (r *reading) annotation(rest string, v pcommon.Value) group {
	n, field, ok := cutIndex(rest)
	if !ok || len(r.annotations) >= 64 {
		return gOther
	}
	if r.annotations == nil {
		r.annotations = map[int]*annotation{}
	}
	a := r.annotations[n]
	if a == nil {
		a = &annotation{}
		r.annotations[n] = a
	}
	switch strings.TrimPrefix(field, "annotation.") {
	case "name":
		return r.str(&a.name, v, gUsed)
	case "label":
		return r.str(&a.label, v, gUsed)
	case "explanation":
		return r.str(&a.text, v, gUsed)
	case "annotator_kind", "kind":
		return r.str(&a.kind, v, gUsed)
	case "score":
		return r.floatPtr(&a.score, v, gUsed)
	}
	return gOther
}

// document takes one attribute of one retrieved document: "0.document.id" or
// "0.id".
func (r *reading) document(rest string, v pcommon.Value) group {
	n, field, ok := cutIndex(rest)
	if !ok {
		return gOther
	}
	r.retrievalish = true
	// Documents beyond the first free place would leave holes that a client
	// chooses the size of.
	if n > len(r.docs) {
		return gOther
	}
	if n == len(r.docs) {
		r.docs = append(r.docs, event.Document{Rank: n + 1})
	}
	d := &r.docs[n]
	switch strings.TrimPrefix(field, "document.") {
	case "id":
		return r.str(&d.ID, v, gRetrieval)
	case "content", "text":
		return r.str(&d.Text, v, gRetrieval)
	case "version":
		return r.str(&d.Version, v, gRetrieval)
	case "hash":
		return r.str(&d.Hash, v, gRetrieval)
	case "score":
		return r.floatPtr(&d.Score, v, gRetrieval)
	case "updated", "updated_time", "updated_at":
		t, ok := timeOf(v)
		if !ok {
			return gOther
		}
		d.Updated = &t
		return gRetrieval
	case "rank":
		if f, ok := number(v); ok && f >= 1 && f < 1<<31 {
			d.Rank = int(f)
			return gRetrieval
		}
	case "metadata":
		describe(d, jsonText(v)) // and stays an attribute
	}
	return gOther
}

// describe fills in what a document's metadata, JSON text, says of it.
func describe(d *event.Document, metadata json.RawMessage) {
	var m map[string]json.RawMessage
	if json.Unmarshal(metadata, &m) != nil {
		return
	}
	word := func(keys ...string) string {
		for _, k := range keys {
			var s string
			if json.Unmarshal(m[k], &s) == nil && s != "" {
				return s
			}
		}
		return ""
	}
	if d.ID == "" {
		d.ID = word("id", "doc_id", "document_id", "source")
	}
	if d.Version == "" {
		d.Version = word("version")
	}
	if d.Hash == "" {
		d.Hash = word("hash")
	}
	if d.Updated == nil {
		if t, err := time.Parse(time.RFC3339Nano, word("updated", "updated_at", "last_modified", "last_updated")); err == nil {
			t = t.UTC()
			d.Updated = &t
		}
	}
}

// timeOf reads a time: RFC 3339, a date, or seconds, milliseconds or nanoseconds
// since 1970.
func timeOf(v pcommon.Value) (time.Time, bool) {
	switch v.Type() {
	case pcommon.ValueTypeStr:
		for _, layout := range []string{time.RFC3339Nano, time.DateOnly} {
			if t, err := time.Parse(layout, v.Str()); err == nil {
				return t.UTC(), true
			}
		}
		n, err := strconv.ParseInt(v.Str(), 10, 64)
		if err != nil {
			return time.Time{}, false
		}
		return epoch(n)
	case pcommon.ValueTypeInt:
		return epoch(v.Int())
	case pcommon.ValueTypeDouble:
		if f := v.Double(); f > 0 && f < 1e11 {
			return time.UnixMilli(int64(f * 1000)).UTC(), true
		}
	}
	return time.Time{}, false
}

func epoch(n int64) (time.Time, bool) {
	switch {
	case n <= 0:
		return time.Time{}, false
	case n < 1e11:
		return time.Unix(n, 0).UTC(), true
	case n < 1e14:
		return time.UnixMilli(n).UTC(), true
	}
	return time.Unix(0, n).UTC(), true
}

func (r *reading) usageDetails(v pcommon.Value) group {
	var m map[string]float64
	if json.Unmarshal(jsonText(v), &m) != nil {
		return gOther
	}
	r.modelish = true
	all := len(m)
	for _, p := range []struct {
		to   *int64
		keys []string
	}{
		{&r.usage.Input, []string{"input_tokens", "input", "prompt_tokens", "promptTokens"}},
		{&r.usage.Output, []string{"output_tokens", "output", "completion_tokens", "completionTokens"}},
		{&r.usage.Total, []string{"total_tokens", "total", "totalTokens"}},
		{&r.usage.Cached, []string{"input_cached_tokens", "cache_read_input_tokens"}},
	} {
		for _, k := range p.keys {
			if n, ok := m[k]; ok && n >= 0 && n < 1<<53 && (*p.to == 0 || *p.to == int64(n)) {
				*p.to = int64(n)
				all--
			}
		}
	}
	if all > 0 {
		return gOther
	}
	return gModel
}

func (r *reading) costDetails(v pcommon.Value) group {
	var m map[string]float64
	if json.Unmarshal(jsonText(v), &m) != nil || r.cost != 0 {
		return gOther
	}
	total, ok := m["total"]
	if !ok {
		for _, k := range slices.Sorted(maps.Keys(m)) { // one order, one sum
			total += m[k]
		}
	}
	r.cost = total
	return gOther // its parts stay
}
