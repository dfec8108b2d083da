//go:build e2e

package hostile

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/looptape/looptape/test/rig"
)

// A complaint book takes what goes wrong for a well-behaved client.
type complaints struct {
	mu   sync.Mutex
	list []string
	slow time.Duration // the slowest answer since the last look
}

func (c *complaints) add(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.list) < 20 {
		c.list = append(c.list, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
	}
}

func (c *complaints) took(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slow = max(c.slow, d)
}

// report hands the complaints to t, once, and wants the client to have been
// served in time.
func (c *complaints) report(t *testing.T, who string) {
	t.Helper()
	c.mu.Lock()
	list, slow := c.list, c.slow
	c.list, c.slow = nil, 0
	c.mu.Unlock()
	for _, s := range list {
		t.Errorf("the %s noticed: %s", who, s)
	}
	if slow > slowestAnswer {
		t.Errorf("the %s waited %s for an answer", who, slow)
	} else if slow > time.Second {
		t.Logf("the %s waited %s for an answer", who, slow.Round(time.Millisecond))
	}
}

const (
	goodTopic      = "hostile.good"
	goodPartitions = 3
)

// kafkaLoad is a producer and a consumer group that behave well. The client
// library hides lost connections by trying again, so its hooks are watched.
type kafkaLoad struct {
	complaints
	producer, consumer *kgo.Client
	stopping           atomic.Bool
	stopProducer       context.CancelFunc
	stopConsumer       context.CancelFunc
	producing          sync.WaitGroup
	consuming          sync.WaitGroup
	acked, got         [goodPartitions]atomic.Int64
}

func startKafkaLoad(t *testing.T, s *rig.Server) *kafkaLoad {
	t.Helper()
	k := &kafkaLoad{}
	ctx, cancel := context.WithCancel(context.Background())
	k.stopProducer = cancel
	consuming, cancel := context.WithCancel(context.Background())
	k.stopConsumer = cancel
	dial := func(opts ...kgo.Opt) *kgo.Client {
		cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(s.Kafka), kgo.WithHooks(k), kgo.ConnIdleTimeout(10 * time.Minute), kgo.RecordDeliveryTimeout(30 * time.Second)}, opts...)...)
		if err != nil {
			t.Fatal(err)
		}
		return cl
	}
	k.producer = dial(kgo.DefaultProduceTopic(goodTopic), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RequiredAcks(kgo.AllISRAcks()))
	if _, err := kadm.NewClient(k.producer).CreateTopic(ctx, goodPartitions, -1, nil, goodTopic); err != nil {
		t.Fatal(err)
	}
	k.consumer = dial(kgo.ConsumeTopics(goodTopic), kgo.ConsumerGroup(goodTopic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(time.Second))
	k.producing.Go(func() { k.produce(ctx) })
	k.consuming.Go(func() { k.consume(consuming) })
	t.Cleanup(k.stop)
	return k
}

func (k *kafkaLoad) stop() {
	if !k.stopping.Swap(true) {
		k.stopProducer()
		k.producing.Wait() // then the consumer has an end to reach
		k.stopConsumer()
		k.consuming.Wait()
		k.producer.Close()
		k.consumer.Close()
	}
}

// OnBrokerE2E is called after each request.
func (k *kafkaLoad) OnBrokerE2E(_ kgo.BrokerMetadata, key int16, e kgo.BrokerE2E) {
	if err := e.Err(); err != nil && !k.stopping.Load() && !errors.Is(err, context.Canceled) {
		k.add("request of API key %d: %v", key, err)
	}
}

// OnBrokerDisconnect is called for each connection that ends.
func (k *kafkaLoad) OnBrokerDisconnect(m kgo.BrokerMetadata, _ net.Conn) {
	if !k.stopping.Load() {
		k.add("the connection to broker %d ended", m.NodeID)
	}
}

func (k *kafkaLoad) produce(ctx context.Context) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for i := int64(0); ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		p := i % goodPartitions
		began := time.Now()
		res := k.producer.ProduceSync(context.Background(), &kgo.Record{Partition: int32(p), Value: binary.BigEndian.AppendUint64(nil, uint64(i/goodPartitions))})
		if err := res.FirstErr(); err != nil {
			k.add("produce: %v", err)
			continue
		}
		k.took(time.Since(began))
		if got := res[0].Record.Offset; got != i/goodPartitions {
			k.add("record %d of partition %d got offset %d", i/goodPartitions, p, got)
		}
		k.acked[p].Add(1)
	}
}

func (k *kafkaLoad) consume(ctx context.Context) {
	for {
		fetches := k.consumer.PollFetches(ctx)
		for _, e := range fetches.Errors() {
			if ctx.Err() == nil {
				k.add("fetch %s/%d: %v", e.Topic, e.Partition, e.Err)
			}
		}
		fetches.EachRecord(k.take)
		// After the stop it reads on until it has what was acknowledged.
		if ctx.Err() != nil {
			k.catchUp()
			return
		}
	}
}

func (k *kafkaLoad) catchUp() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for k.behind() != nil && ctx.Err() == nil {
		k.consumer.PollFetches(ctx).EachRecord(k.take)
	}
}

func (k *kafkaLoad) take(r *kgo.Record) {
	want := k.got[r.Partition].Load()
	if len(r.Value) != 8 || int64(binary.BigEndian.Uint64(r.Value)) != want || r.Offset != want {
		k.add("read offset %d with value %x from partition %d, want record %d", r.Offset, r.Value, r.Partition, want)
		return
	}
	k.got[r.Partition].Add(1)
}

func (k *kafkaLoad) behind() error {
	for p := range k.acked {
		if acked, got := k.acked[p].Load(), k.got[p].Load(); got < acked {
			return fmt.Errorf("partition %d: %d records acknowledged, %d read", p, acked, got)
		}
	}
	return nil
}

func (k *kafkaLoad) unhurt(t *testing.T) {
	t.Helper()
	k.report(t, "Kafka client")
}

func (k *kafkaLoad) verify(t *testing.T) {
	t.Helper()
	if err := k.behind(); err != nil {
		t.Error(err)
	}
	t.Logf("well-behaved Kafka client: %d, %d and %d records acknowledged and read in order", k.got[0].Load(), k.got[1].Load(), k.got[2].Load())
}

// otlpLoad is an application with instrumentation that behaves well. It sends
// as exporters do: protobuf and JSON over HTTP, and gRPC.
type otlpLoad struct {
	complaints
	url    string
	http   *http.Client
	conn   *grpc.ClientConn
	grpc   ptraceotlp.GRPCClient
	cancel context.CancelFunc
	work   sync.WaitGroup
	once   sync.Once
	sent   atomic.Int64 // spans that were acknowledged
}

func startOTLPLoad(t *testing.T, s *rig.Server) *otlpLoad {
	t.Helper()
	conn, err := grpc.NewClient(s.OTLPGRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	o := &otlpLoad{url: s.OTLP + "/v1/traces", conn: conn, grpc: ptraceotlp.NewGRPCClient(conn), cancel: cancel,
		http: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{}}}
	o.work.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for n := int64(1); ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			began := time.Now()
			if err := o.export(n); err != nil {
				o.add("export %d: %v", n, err)
				continue
			}
			o.took(time.Since(began))
			o.sent.Store(n)
		}
	})
	t.Cleanup(o.stop)
	return o
}

func (o *otlpLoad) stop() {
	o.once.Do(func() {
		o.cancel()
		o.work.Wait()
		o.conn.Close()
		o.http.CloseIdleConnections()
	})
}

// goodTrace is the trace id of the n-th span.
func goodTrace(n int64) pcommon.TraceID {
	var id pcommon.TraceID
	id[0] = 0x90
	binary.BigEndian.PutUint64(id[8:], uint64(n))
	return id
}

func (o *otlpLoad) export(n int64) error {
	td := ptrace.NewTraces()
	span := td.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans().AppendEmpty()
	span.SetTraceID(goodTrace(n))
	span.SetSpanID(pcommon.SpanID{1, 2, 3, 4, 5, 6, 7, 8})
	span.SetName("chat")
	span.SetKind(ptrace.SpanKindServer)
	now := time.Now()
	span.SetStartTimestamp(pcommon.NewTimestampFromTime(now.Add(-250 * time.Millisecond)))
	span.SetEndTimestamp(pcommon.NewTimestampFromTime(now))
	span.Attributes().PutStr("app.request.ref", fmt.Sprintf("good-%d", n))
	span.Attributes().PutStr("gen_ai.operation.name", "chat")
	span.Attributes().PutStr("gen_ai.request.model", "good-1")
	req := ptraceotlp.NewExportRequestFromTraces(td)

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if n%3 == 0 {
		res, err := o.grpc.Export(ctx, req)
		if err == nil && res.PartialSuccess().RejectedSpans() != 0 {
			err = errors.New("a span was rejected")
		}
		return err
	}
	body, err := req.MarshalProto()
	contentType := "application/x-protobuf"
	if n%3 == 1 {
		body, err = req.MarshalJSON()
		contentType = "application/json"
	}
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, o.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", contentType)
	res, err := o.http.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		return fmt.Errorf("%d %s %w", res.StatusCode, b, err)
	}
	return nil
}

func (o *otlpLoad) unhurt(t *testing.T) {
	t.Helper()
	o.report(t, "OTLP exporter")
}

// verify wants the case of every span.
func (o *otlpLoad) verify(t *testing.T, w *world) {
	t.Helper()
	client := &http.Client{Timeout: 30 * time.Second}
	is := func(name, request string) error {
		res, err := client.Get(w.s.API + "/v1/cases/" + name)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		var a struct{ Case struct{ Request string } }
		if err := json.NewDecoder(res.Body).Decode(&a); err != nil || res.StatusCode != http.StatusOK || a.Case.Request != request {
			return fmt.Errorf("the case of %s: %d, it is that of %q, want %q (%v)", name, res.StatusCode, a.Case.Request, request, err)
		}
		return nil
	}
	next := int64(1)
	rig.Until(t, 60*time.Second, func() error {
		for ; next <= o.sent.Load(); next++ {
			trace := goodTrace(next).String()
			if err := errors.Join(is(trace, trace), is(fmt.Sprintf("good-%d", next), trace)); err != nil {
				return err
			}
		}
		return nil
	})
	t.Logf("well-behaved exporter: %d spans acknowledged, each has its case", o.sent.Load())
}
