package collect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"

	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

const (
	typeProtobuf = "application/x-protobuf"
	typeJSON     = "application/json"
)

// A signal is one of OTLP's.
type signal struct {
	name  string
	kind  string
	shape *shape
	// ingest decodes a body and puts it on the tape; it returns how many items
	// were rejected and why.
	ingest func(c *Collector, ctx context.Context, tenant string, body []byte, isJSON bool) (n [fates]int, why string, err error)
	// answer encodes the response of the protocol.
	answer func(isJSON bool, rejected int64, why string) ([]byte, error)
}

var traces = signal{
	name: "traces", kind: kindSpan, shape: traceShape,
	ingest: func(c *Collector, ctx context.Context, tenant string, body []byte, isJSON bool) ([fates]int, string, error) {
		req := ptraceotlp.NewExportRequest()
		if err := decode(isJSON, body, req.UnmarshalJSON, req.UnmarshalProto); err != nil {
			return [fates]int{}, "", err
		}
		return c.ingestTraces(ctx, tenant, req.Traces())
	},
	answer: func(isJSON bool, rejected int64, why string) ([]byte, error) {
		resp := ptraceotlp.NewExportResponse()
		if rejected > 0 {
			resp.PartialSuccess().SetRejectedSpans(rejected)
			resp.PartialSuccess().SetErrorMessage(why)
		}
		if isJSON {
			return resp.MarshalJSON()
		}
		return resp.MarshalProto()
	},
}

var logs = signal{
	name: "logs", kind: kindLog, shape: logShape,
	ingest: func(c *Collector, ctx context.Context, tenant string, body []byte, isJSON bool) ([fates]int, string, error) {
		req := plogotlp.NewExportRequest()
		if err := decode(isJSON, body, req.UnmarshalJSON, req.UnmarshalProto); err != nil {
			return [fates]int{}, "", err
		}
		return c.ingestLogs(ctx, tenant, req.Logs())
	},
	answer: func(isJSON bool, rejected int64, why string) ([]byte, error) {
		resp := plogotlp.NewExportResponse()
		if rejected > 0 {
			resp.PartialSuccess().SetRejectedLogRecords(rejected)
			resp.PartialSuccess().SetErrorMessage(why)
		}
		if isJSON {
			return resp.MarshalJSON()
		}
		return resp.MarshalProto()
	},
}

// decode runs a decoder of somebody else's on hostile bytes: a panic in it is a
// bad body, not the end of the program.
func decode(isJSON bool, body []byte, fromJSON, fromProto func([]byte) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = badBody(isJSON)
		}
	}()
	if isJSON {
		err = fromJSON(body)
	} else {
		err = fromProto(body)
	}
	if err != nil {
		return badBody(isJSON)
	}
	return nil
}

func badBody(isJSON bool) *problem {
	if isJSON {
		return problemf(http.StatusBadRequest, "bad_json", "The body is not valid OTLP JSON; ids are hex and field names are lowerCamelCase.")
	}
	return problemf(http.StatusBadRequest, "bad_protobuf", "The body is not a valid OTLP protobuf message of this endpoint; check the path and the encoding.")
}

// tooLargeText is why an item is rejected when there is no object store.
const tooLargeText = "An item is too large for a record and no object store is configured."

func (c *Collector) ingestTraces(ctx context.Context, tenant string, td ptrace.Traces) (n [fates]int, why string, err error) {
	if td.SpanCount() > c.cfg.Limits.Items {
		return n, "", c.guardProblem(errTooMany)
	}
	b := c.newBatch(ctx, tenant)
	w := spanWriter{b: b}
	marshal := ptrace.JSONMarshaler{}
	for _, rs := range td.ResourceSpans().All() {
		w.withResource(rs.Resource())
		for _, ss := range rs.ScopeSpans().All() {
			w.withScope(ss.Scope())
			for _, span := range ss.Spans().All() {
				m := b.mark()
				f, err := w.write(span, func() (json.RawMessage, error) {
					one := ptrace.NewTraces()
					rs2 := one.ResourceSpans().AppendEmpty()
					rs.Resource().CopyTo(rs2.Resource())
					rs2.SetSchemaUrl(rs.SchemaUrl())
					ss2 := rs2.ScopeSpans().AppendEmpty()
					ss.Scope().CopyTo(ss2.Scope())
					ss2.SetSchemaUrl(ss.SchemaUrl())
					copied := ss2.Spans().AppendEmpty()
					span.CopyTo(copied)
					b.hidePeople(rs2.Resource().Attributes(), copied.Attributes())
					return marshal.MarshalTraces(one)
				})
				if f, err = b.settle(m, f, err); err != nil {
					return c.failed(kindSpan, td.SpanCount(), err)
				}
				n[f]++
			}
		}
	}
	return c.append(b, kindSpan, n, td.SpanCount())
}

func (c *Collector) ingestLogs(ctx context.Context, tenant string, ld plog.Logs) (n [fates]int, why string, err error) {
	if ld.LogRecordCount() > c.cfg.Limits.Items {
		return n, "", c.guardProblem(errTooMany)
	}
	b := c.newBatch(ctx, tenant)
	w := logWriter{b: b}
	marshal := plog.JSONMarshaler{}
	for _, rl := range ld.ResourceLogs().All() {
		w.withResource(rl.Resource())
		for _, sl := range rl.ScopeLogs().All() {
			w.withScope(sl.Scope())
			for _, rec := range sl.LogRecords().All() {
				m := b.mark()
				f, err := w.write(rec, func() (json.RawMessage, error) {
					one := plog.NewLogs()
					rl2 := one.ResourceLogs().AppendEmpty()
					rl.Resource().CopyTo(rl2.Resource())
					rl2.SetSchemaUrl(rl.SchemaUrl())
					sl2 := rl2.ScopeLogs().AppendEmpty()
					sl.Scope().CopyTo(sl2.Scope())
					sl2.SetSchemaUrl(sl.SchemaUrl())
					copied := sl2.LogRecords().AppendEmpty()
					rec.CopyTo(copied)
					b.hidePeople(rl2.Resource().Attributes(), copied.Attributes())
					return marshal.MarshalLogs(one)
				})
				if f, err = b.settle(m, f, err); err != nil {
					return c.failed(kindLog, ld.LogRecordCount(), err)
				}
				n[f]++
			}
		}
	}
	return c.append(b, kindLog, n, ld.LogRecordCount())
}

// settle gives an item its fate: an error that concerns it alone rejects it and
// takes its events back.
func (b *batch) settle(m mark, f fate, err error) (fate, error) {
	if errors.Is(err, errTooLarge) {
		b.undo(m)
		return rejected, nil
	}
	return f, err
}

// append puts a batch on the tape and books the fates of its items.
func (c *Collector) append(b *batch, kind string, n [fates]int, items int) ([fates]int, string, error) {
	if err := b.flush(); err != nil {
		return c.failed(kind, items, err)
	}
	c.metrics.count(kind, n)
	why := ""
	if n[rejected] > 0 {
		why = tooLargeText
	}
	return n, why, nil
}

// failed books all items of a request that could not be put on the tape as
// rejected: its sender is told so and sends it again.
func (c *Collector) failed(kind string, items int, err error) ([fates]int, string, error) {
	var n [fates]int
	n[rejected] = items
	c.metrics.count(kind, n)
	c.cfg.Logger.Error("events could not be appended", "kind", kind, "items", items, "error", err)
	return n, "", fmt.Errorf("%w: %w", unavailable, err)
}

func (c *Collector) serveOTLP(s signal) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		isJSON, p := otlpEncoding(r)
		if p == nil {
			p = c.handleOTLP(w, r, s, isJSON)
		}
		if p != nil {
			c.metrics.refused.WithLabelValues(s.name, p.Code).Inc()
			writeStatus(w, p, isJSON)
		}
	}
}

func (c *Collector) handleOTLP(w http.ResponseWriter, r *http.Request, s signal, isJSON bool) *problem {
	tenant, err := c.tenant(r.Header.Get)
	if err != nil {
		return unauthorized
	}
	body, release, p := c.readBody(r)
	defer release()
	if p != nil {
		return p
	}
	g := c.guard()
	if isJSON {
		err = g.json(body, 8*c.cfg.Limits.Depth, c.cfg.Limits.jsonValues())
		if err == nil && g.trailing {
			// The decoder would stop after the first value and lose the rest.
			return problemf(http.StatusBadRequest, "bad_json", "The body holds more than one JSON value; send each export in a request of its own.")
		}
	} else {
		err = g.proto(body, s.shape, 0)
	}
	if err != nil {
		return c.guardProblem(err)
	}
	n, why, err := s.ingest(c, r.Context(), tenant, body, isJSON)
	if err != nil {
		return asProblem(err)
	}
	answer, err := s.answer(isJSON, int64(n[rejected]), why)
	if err != nil {
		// Everything is on the tape; an answer that can't be encoded changes nothing.
		answer = nil
	}
	w.Header().Set("Content-Type", contentType(isJSON))
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(answer)
	return nil
}

func asProblem(err error) *problem {
	var p *problem
	if errors.As(err, &p) {
		return p
	}
	return unavailable
}

func contentType(isJSON bool) string {
	if isJSON {
		return typeJSON
	}
	return typeProtobuf
}

func otlpEncoding(r *http.Request) (isJSON bool, p *problem) {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	isJSON = err != nil || media != typeProtobuf && media != "application/protobuf"
	switch {
	case r.Method != http.MethodPost:
		return isJSON, notPost
	case err == nil && (media == typeJSON || !isJSON):
		return isJSON, nil
	}
	return true, problemf(http.StatusUnsupportedMediaType, "unsupported_type", "Content-Type must be application/x-protobuf or application/json.")
}

var notPost = problemf(http.StatusMethodNotAllowed, "method_not_allowed", "Use POST.")

// writeStatus answers with google.rpc.Status, as the protocol asks, in the
// encoding of the request.
func writeStatus(w http.ResponseWriter, p *problem, isJSON bool) {
	code := grpcCode(p)
	var body []byte
	if isJSON {
		body, _ = encode(struct {
			Code    int    `json:"code"`
			Reason  string `json:"reason"`
			Message string `json:"message"`
		}{int(code), p.Code, p.Message})
	} else {
		body, _ = proto.Marshal(&statuspb.Status{Code: int32(code), Message: p.Message})
	}
	writeProblem(w, p, contentType(isJSON), body)
}

func writeProblem(w http.ResponseWriter, p *problem, contentType string, body []byte) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("X-Content-Type-Options", "nosniff")
	if p.Retry {
		h.Set("Retry-After", "1")
	}
	if p.Status == http.StatusMethodNotAllowed {
		h.Set("Allow", http.MethodPost)
	}
	w.WriteHeader(p.Status)
	_, _ = w.Write(body)
}

func grpcCode(p *problem) codes.Code {
	switch {
	case p.Retry:
		return codes.Unavailable
	case p.Status == http.StatusUnauthorized:
		return codes.Unauthenticated
	case p.Status == http.StatusRequestEntityTooLarge:
		return codes.ResourceExhausted
	case p.Status == 499:
		return codes.Canceled
	}
	return codes.InvalidArgument
}
