package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// telemetry is one release's OpenTelemetry set-up: the standard SDK with the
// OTLP/HTTP exporter, as any instrumented application has it. The two releases
// are two deployments, so each has its own resource.
type telemetry struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
}

func newTelemetry(ctx context.Context, endpoint, release string) (*telemetry, error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, fmt.Errorf("OTLP endpoint: %w", err)
	}
	opts := []otlptracehttp.Option{otlptracehttp.WithEndpoint(u.Host), otlptracehttp.WithCompression(otlptracehttp.GzipCompression)}
	if u.Scheme == "http" {
		opts = append(opts, otlptracehttp.WithInsecure())
	}
	exporter, err := otlptracehttp.New(ctx, opts...)
	if err != nil {
		return nil, fmt.Errorf("OTLP exporter: %w", err)
	}
	res := resource.NewSchemaless(
		attribute.String("service.name", appName),
		attribute.String("service.version", release),
		attribute.String("deployment.environment.name", "demo"),
	)
	p := sdktrace.NewTracerProvider(
		sdktrace.WithResource(res),
		sdktrace.WithBatcher(exporter, sdktrace.WithBatchTimeout(200*time.Millisecond), sdktrace.WithMaxQueueSize(16<<10)),
	)
	return &telemetry{provider: p, tracer: p.Tracer("looptape.demo")}, nil
}

// A turn is one question of a conversation and how it was answered.
type turn struct {
	conversation, user string
	number             int
	arm                string
	share              float64 // P(candidate) when the conversation was drawn
	question           question
	lib                *library
	hits               []hit
	answer             string
	cited              []string
	response           string // provider's response id
	trace              string
}

// request runs one turn under its spans: the root that the user sees, the
// retrieval and the model call.
func (t *telemetry) request(ctx context.Context, deployment string, q *turn) {
	ctx, root := t.tracer.Start(ctx, "answer_question", trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(
		attribute.String("session.id", q.conversation),
		attribute.String("user.id", q.user),
		attribute.String("feature_flag.key", "docs-assistant-release"),
		attribute.String("feature_flag.result.variant", q.arm),
		attribute.String("feature_flag.context.id", q.conversation),
		attribute.String("looptape.unit_kind", "conversation"),
		attribute.Float64("looptape.propensity", q.share),
		attribute.String("looptape.stage", stageName),
		attribute.String("looptape.assignment", q.conversation),
		attribute.String("looptape.salt", deployment),
		attribute.String("looptape.deployment", deployment),
	))
	defer root.End()
	q.trace = root.SpanContext().TraceID().String()

	_, span := t.tracer.Start(ctx, "retrieve docs", trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
		attribute.String("gen_ai.operation.name", "retrieval"),
		attribute.String("gen_ai.data_source.id", "docs"),
		attribute.String("gen_ai.retrieval.query.text", q.question.text),
		attribute.String("looptape.retrieval.index_version", q.lib.version),
		attribute.String("looptape.retrieval.index_time", q.lib.built.UTC().Format(time.RFC3339)),
		attribute.Int("looptape.retrieval.k", passages),
	))
	q.hits = q.lib.search(q.question.text, passages)
	for i, h := range q.hits {
		p := fmt.Sprintf("retrieval.documents.%d.document.", i)
		span.SetAttributes(
			attribute.String(p+"id", h.id),
			attribute.String(p+"content", h.text),
			attribute.Float64(p+"score", h.score),
		)
	}
	span.End()

	prompt := "Question: " + q.question.text
	for _, h := range q.hits {
		prompt += "\n\n[" + h.id + "] " + h.text
	}
	q.response = "answer-" + q.conversation + fmt.Sprintf("-%d", q.number)
	_, span = t.tracer.Start(ctx, "chat extractive-1", trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
		attribute.String("gen_ai.operation.name", "chat"),
		attribute.String("gen_ai.provider.name", "looptape.demo"),
		attribute.String("gen_ai.request.model", "extractive-1"),
		attribute.String("gen_ai.response.model", "extractive-1"),
		attribute.String("gen_ai.response.id", q.response),
		attribute.String("gen_ai.conversation.id", q.conversation),
		attribute.String("gen_ai.input.messages", messages("system", systemPrompt, "user", prompt)),
	))
	q.answer, q.cited = compose(q.question.text, q.hits)
	span.SetAttributes(
		attribute.String("gen_ai.output.messages", messages("assistant", q.answer)),
		attribute.StringSlice("gen_ai.response.finish_reasons", []string{"stop"}),
		attribute.Int("gen_ai.usage.input_tokens", tokens(systemPrompt+prompt)),
		attribute.Int("gen_ai.usage.output_tokens", tokens(q.answer)),
	)
	span.End()
}

// messages is the JSON form of OpenTelemetry's gen_ai messages.
func messages(roleAndText ...string) string {
	type part struct {
		Type    string `json:"type"`
		Content string `json:"content"`
	}
	type message struct {
		Role  string `json:"role"`
		Parts []part `json:"parts"`
	}
	var ms []message
	for i := 0; i+1 < len(roleAndText); i += 2 {
		ms = append(ms, message{roleAndText[i], []part{{"text", roleAndText[i+1]}}})
	}
	b, _ := json.Marshal(ms) // plain strings always encode
	return string(b)
}

// tokens estimates a token count: four characters each.
func tokens(s string) int { return (len(s) + 3) / 4 }
