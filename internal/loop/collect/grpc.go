package collect

import (
	"context"
	"fmt"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/gzip" // exporters compress with it
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// GRPCOptions are what a server must be made with to serve OTLP within the
// collector's limits: the size of a message, and a codec that looks at its depth
// before it is decoded.
func (c *Collector) GRPCOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(int(c.cfg.Limits.BodyBytes)),
		grpc.MaxConcurrentStreams(64),
		grpc.ForceServerCodecV2(guardedCodec{encoding.GetCodecV2("proto"), c}),
	}
}

// RegisterGRPC adds the OTLP trace and log services to a server made with
// GRPCOptions.
func (c *Collector) RegisterGRPC(s *grpc.Server) {
	ptraceotlp.RegisterGRPCServer(s, &traceServer{c: c})
	plogotlp.RegisterGRPCServer(s, &logServer{c: c})
}

// guardedCodec checks depth and number of values of an OTLP message before it is
// decoded.
type guardedCodec struct {
	encoding.CodecV2
	c *Collector
}

func (g guardedCodec) Unmarshal(data mem.BufferSlice, v any) error {
	var s *shape
	// The messages' types are internal to their module; their names are those of
	// the protocol. Other services' messages have limits of their own.
	switch name := fmt.Sprintf("%T", v); {
	case strings.HasSuffix(name, ".ExportTraceServiceRequest"):
		s = traceShape
	case strings.HasSuffix(name, ".ExportLogsServiceRequest"):
		s = logShape
	default:
		return g.CodecV2.Unmarshal(data, v)
	}
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	check := g.c.guard()
	if err := check.proto(buf.ReadOnlyData(), s, 0); err != nil {
		return err
	}
	return g.CodecV2.Unmarshal(mem.BufferSlice{buf}, v)
}

type traceServer struct {
	ptraceotlp.UnimplementedGRPCServer
	c *Collector
}

func (s *traceServer) Export(ctx context.Context, req ptraceotlp.ExportRequest) (ptraceotlp.ExportResponse, error) {
	resp := ptraceotlp.NewExportResponse()
	n, why, err := s.c.exportGRPC(ctx, "grpc_traces", int64(req.Traces().SpanCount())*spanBytes, func(tenant string) ([fates]int, string, error) {
		return s.c.ingestTraces(ctx, tenant, req.Traces())
	})
	if n[rejected] > 0 && err == nil {
		resp.PartialSuccess().SetRejectedSpans(int64(n[rejected]))
		resp.PartialSuccess().SetErrorMessage(why)
	}
	return resp, err
}

type logServer struct {
	plogotlp.UnimplementedGRPCServer
	c *Collector
}

func (s *logServer) Export(ctx context.Context, req plogotlp.ExportRequest) (plogotlp.ExportResponse, error) {
	resp := plogotlp.NewExportResponse()
	n, why, err := s.c.exportGRPC(ctx, "grpc_logs", int64(req.Logs().LogRecordCount())*spanBytes, func(tenant string) ([fates]int, string, error) {
		return s.c.ingestLogs(ctx, tenant, req.Logs())
	})
	if n[rejected] > 0 && err == nil {
		resp.PartialSuccess().SetRejectedLogRecords(int64(n[rejected]))
		resp.PartialSuccess().SetErrorMessage(why)
	}
	return resp, err
}

// spanBytes is what a span or record is taken to weigh: gRPC has decoded it
// before it is here, and its bytes are gone.
const spanBytes = 2 << 10

func (c *Collector) exportGRPC(ctx context.Context, endpoint string, bytes int64, ingest func(tenant string) ([fates]int, string, error)) ([fates]int, string, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	tenant, err := c.tenant(func(name string) string {
		if v := md.Get(name); len(v) > 0 {
			return v[0]
		}
		return ""
	})
	var n [fates]int
	var why string
	switch {
	case err != nil:
		err = unauthorized
	case !c.inFlight.acquire(bytes):
		err = busy
	default:
		defer c.inFlight.release(bytes)
		n, why, err = ingest(tenant)
	}
	if err == nil {
		return n, why, nil
	}
	p := asProblem(err)
	c.metrics.refused.WithLabelValues(endpoint, p.Code).Inc()
	st := status.New(grpcCode(p), p.Message)
	if st.Code() == codes.Unavailable {
		// The delay tells exporters that a retry is welcome.
		if with, err := st.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(time.Second)}); err == nil {
			st = with
		}
	}
	return n, why, st.Err()
}
