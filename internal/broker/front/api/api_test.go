package api

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/base/run"
	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/front/coord"
	"github.com/looptape/looptape/internal/broker/front/wire"
)

type nothing struct{}

func (nothing) Opened()                                   {}
func (nothing) Closed(string)                             {}
func (nothing) Gone()                                     {}
func (nothing) Read(int)                                  {}
func (nothing) Wrote(int)                                 {}
func (nothing) InFlight(int, int64)                       {}
func (nothing) Served(int16, int16, time.Duration, int64) {}
func (nothing) Error(int16, int16)                        {}

// A front is the whole front over a tape in memory.
type front struct {
	*wire.PipeListener
	tape *memTape
	stop func()
}

func startFront(t testing.TB, tape *memTape) *front {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	c := coord.New(coord.Config{InitialDelay: -1}, tape, log)
	s := New(Config{NodeID: 7, AutoCreate: true, Advertise: func(net.Addr) (string, int32) { return "tape", 9092 }},
		tape.log, tape, c, nothing{}, log)
	ln := wire.NewPipeListener()
	w := wire.NewServer(wire.Config{DrainTimeout: 200 * time.Millisecond}, s, nothing{}, log)
	g := run.New(context.Background())
	g.Go("groups", c.Run)
	g.Go("wire", func(ctx context.Context) error { return w.Run(ctx, ln) })
	f := &front{PipeListener: ln, tape: tape}
	f.stop = sync.OnceFunc(func() {
		g.Stop()
		if err := g.Wait(); err != nil {
			t.Errorf("stop front: %v", err)
		}
	})
	t.Cleanup(f.stop)
	return f
}

func (f *front) client(t testing.TB, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers("tape:9092"), kgo.Dialer(f.Dial), kgo.MetadataMinAge(10 * time.Millisecond), kgo.AllowAutoTopicCreation()}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func testCtx(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func produceN(t testing.TB, cl *kgo.Client, topic string, from, n int) {
	t.Helper()
	var records []*kgo.Record
	for i := range n {
		records = append(records, &kgo.Record{Topic: topic, Key: fmt.Append(nil, from+i), Value: fmt.Append(nil, "value ", from+i)})
	}
	if err := cl.ProduceSync(testCtx(t), records...).FirstErr(); err != nil {
		t.Fatalf("produce: %v", err)
	}
}

func consumeN(t testing.TB, cl *kgo.Client, n int) map[string]int {
	t.Helper()
	ctx := testCtx(t)
	seen := map[string]int{}
	for got := 0; got < n; {
		fs := cl.PollFetches(ctx)
		if err := fs.Err0(); err != nil {
			t.Fatalf("poll after %d of %d: %v", got, n, err)
		}
		fs.EachError(func(topic string, p int32, err error) { t.Fatalf("fetch %s/%d: %v", topic, p, err) })
		fs.EachRecord(func(r *kgo.Record) {
			seen[string(r.Key)]++
			got++
		})
	}
	return seen
}

func TestProduceAndConsume(t *testing.T) {
	f := startFront(t, newMemTape())
	for _, test := range []struct {
		name string
		opts []kgo.Opt
	}{
		{"idempotent", nil},
		{"acks 1", []kgo.Opt{kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.LeaderAck())}},
		{"no session", []kgo.Opt{kgo.DisableFetchSessions()}},
		{"read committed", []kgo.Opt{kgo.FetchIsolationLevel(kgo.ReadCommitted())}},
	} {
		t.Run(test.name, func(t *testing.T) {
			topic := "t-" + fmt.Sprintf("%x", test.name)
			cl := f.client(t, append(test.opts, kgo.ConsumeTopics(topic))...)
			for i := range 10 {
				produceN(t, cl, topic, i*20, 20)
			}
			seen := consumeN(t, cl, 200)
			if len(seen) != 200 {
				t.Fatalf("got %d different keys, want 200", len(seen))
			}
		})
	}
}

func TestAcksNone(t *testing.T) {
	f := startFront(t, newMemTape())
	cl := f.client(t, kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.NoAck()), kgo.ConsumeTopics("none"))
	produceN(t, cl, "none", 0, 50)
	consumeN(t, cl, 50)
}

func TestGroupRebalances(t *testing.T) {
	tape := newMemTape()
	f := startFront(t, tape)
	admin := kadm.NewClient(f.client(t))
	if _, err := admin.CreateTopic(testCtx(t), 6, 1, nil, "g"); err != nil {
		t.Fatal(err)
	}
	p := f.client(t)
	member := func(opts ...kgo.Opt) *kgo.Client {
		return f.client(t, append(opts, kgo.ConsumerGroup("grp"), kgo.ConsumeTopics("g"), kgo.HeartbeatInterval(50*time.Millisecond), kgo.DisableAutoCommit())...)
	}
	a := member()
	produceN(t, p, "g", 0, 100)
	consumeN(t, a, 100)
	if err := a.CommitUncommittedOffsets(testCtx(t)); err != nil {
		t.Fatal(err)
	}
	b := member()
	ctx := testCtx(t)
	for {
		d, err := admin.DescribeGroups(ctx, "grp")
		if err != nil {
			t.Fatal(err)
		}
		g := d["grp"]
		if g.State == "Stable" && len(g.Members) == 2 {
			parts := 0
			for _, m := range g.Members {
				c, _ := m.Assigned.AsConsumer()
				for _, at := range c.Topics {
					parts += len(at.Partitions)
				}
			}
			if parts == 6 {
				break
			}
		}
		// Polling lets the members take part.
		pctx, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		a.PollFetches(pctx)
		b.PollFetches(pctx)
		cancel()
		if ctx.Err() != nil {
			t.Fatal("the group did not become stable with two members")
		}
	}
	a.Close()
	b.Close()

	// A third takes over at the committed offsets, after a restart of the broker.
	f.stop()
	f = startFront(t, tape)
	p = f.client(t)
	produceN(t, p, "g", 100, 10)
	c := f.client(t, kgo.ConsumerGroup("grp"), kgo.ConsumeTopics("g"), kgo.DisableAutoCommit())
	for key := range consumeN(t, c, 10) {
		if len(key) != 3 {
			t.Errorf("got record %s again, which was committed", key)
		}
	}
	lag, err := kadm.NewClient(p).Lag(testCtx(t), "grp")
	grp := lag["grp"]
	if err != nil || grp.Error() != nil {
		t.Fatalf("lag: %v, %v", err, grp.Error())
	}
}

func TestAdmin(t *testing.T) {
	f := startFront(t, newMemTape())
	admin := kadm.NewClient(f.client(t))
	ctx := testCtx(t)
	created, err := admin.CreateTopic(ctx, 3, 3, map[string]*string{"retention.ms": kmsg.StringPtr("1000")}, "a")
	if err != nil || created.NumPartitions != 3 || created.ID == (kadm.TopicID{}) {
		t.Fatalf("create: %+v, %v", created, err)
	}
	for name, want := range map[string]error{"a": kerr.TopicAlreadyExists, "bad name": kerr.InvalidTopicException, coord.Topic: kerr.InvalidTopicException} {
		if _, err := admin.CreateTopic(ctx, 1, 1, nil, name); !errors.Is(err, want) {
			t.Errorf("create %q: %v, want %v", name, err, want)
		}
	}
	if _, err := admin.CreateTopic(ctx, 1, 1, map[string]*string{"no.such": kmsg.StringPtr("1")}, "b"); !errors.Is(err, kerr.InvalidConfig) {
		t.Errorf("unknown config: %v", err)
	}
	configs, err := admin.DescribeTopicConfigs(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	on, _ := configs.On("a", nil)
	found := false
	for _, c := range on.Configs {
		if c.Key == "retention.ms" {
			found = c.MaybeValue() == "1000" && c.Source == kmsg.ConfigSourceDynamicTopicConfig
		}
	}
	if !found {
		t.Errorf("retention.ms is not described: %+v", on)
	}
	if brokers, err := admin.ListBrokers(ctx); err != nil || len(brokers) != 1 || brokers[0].NodeID != 7 {
		t.Errorf("brokers: %v, %v", brokers, err)
	}
	produceN(t, f.client(t), "a", 0, 30)
	ends, err := admin.ListEndOffsets(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	sum := int64(0)
	ends.Each(func(o kadm.ListedOffset) { sum += o.Offset })
	if sum != 30 {
		t.Errorf("end offsets add up to %d, want 30", sum)
	}
	if _, err := admin.DeleteRecords(ctx, ends.Offsets()); err != nil {
		t.Fatal(err)
	}
	starts, err := admin.ListStartOffsets(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	starts.Each(func(o kadm.ListedOffset) { sum -= o.Offset })
	if sum != 0 {
		t.Errorf("start offsets did not follow: %d", sum)
	}
	if del, err := admin.DeleteTopic(ctx, "a"); err != nil || del.Err != nil {
		t.Errorf("delete: %v, %v", del, err)
	}
	if del, _ := admin.DeleteTopic(ctx, coord.Topic); !errors.Is(del.Err, kerr.InvalidTopicException) {
		t.Errorf("delete of the internal topic: %v", del.Err)
	}
	groups, err := admin.ListGroups(ctx)
	if err != nil || len(groups) != 0 {
		t.Errorf("groups: %v, %v", groups, err)
	}
}

// A rawConn speaks frames.
type rawConn struct {
	net.Conn
	t testing.TB
}

func (f *front) raw(t testing.TB) rawConn {
	c, err := f.Dial(testCtx(t), "", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return rawConn{c, t}
}

func (c rawConn) send(req kmsg.Request, version int16, correlation int32) {
	c.t.Helper()
	req.SetVersion(version)
	if _, err := c.Write(kmsg.NewRequestFormatter(kmsg.FormatterClientID("raw")).AppendRequest(nil, req, correlation)); err != nil {
		c.t.Fatalf("write: %v", err)
	}
}

func (c rawConn) receive(resp kmsg.Response, version int16) (correlation int32) {
	c.t.Helper()
	var size [4]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		c.t.Fatalf("read: %v", err)
	}
	b := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(c, b); err != nil {
		c.t.Fatalf("read: %v", err)
	}
	resp.SetVersion(version)
	body := b[4:]
	if resp.IsFlexible() && resp.Key() != 18 {
		body = body[1:]
	}
	if err := resp.ReadFrom(body); err != nil {
		c.t.Fatalf("decode %T v%d: %v", resp, version, err)
	}
	return int32(binary.BigEndian.Uint32(b))
}

func (c rawConn) closed() {
	c.t.Helper()
	if n, err := c.Read(make([]byte, 1)); err == nil {
		c.t.Fatalf("connection lives: read %d bytes", n)
	}
}

func TestApiVersionsOfTheFuture(t *testing.T) {
	c := startFront(t, newMemTape()).raw(t)
	c.send(kmsg.NewPtrApiVersionsRequest(), 9, 42)
	resp := kmsg.NewPtrApiVersionsResponse()
	if got := c.receive(resp, 0); got != 42 {
		t.Fatalf("correlation %d, want 42", got)
	}
	if resp.ErrorCode != 35 || len(resp.ApiKeys) < 20 {
		t.Fatalf("got code %d and %d keys, want 35 and our ranges", resp.ErrorCode, len(resp.ApiKeys))
	}
	for v := int16(0); v <= 5; v++ {
		c.send(kmsg.NewPtrApiVersionsRequest(), v, 1)
		resp := kmsg.NewPtrApiVersionsResponse()
		if c.receive(resp, v); resp.ErrorCode != 0 {
			t.Errorf("v%d: code %d", v, resp.ErrorCode)
		}
	}
	c.send(kmsg.NewPtrFetchRequest(), 3, 2)
	c.closed()
}

func record(value string) []byte {
	return batch.Build(batch.Plain, batch.KV{Timestamp: 1, Value: []byte(value)})
}

func produceRequest(topic string, id [16]byte, records ...[]byte) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Acks = -1
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic, rt.TopicID = topic, id
	for i, r := range records {
		rp := kmsg.NewProduceRequestTopicPartition()
		rp.Partition, rp.Records = int32(i), r
		rt.Partitions = append(rt.Partitions, rp)
	}
	req.Topics = append(req.Topics, rt)
	return req
}

// Every version of the two APIs that are coded by hand speaks as the codec does.
func TestProduceAndFetchVersions(t *testing.T) {
	f := startFront(t, newMemTape())
	ctx := testCtx(t)
	created, err := kadm.NewClient(f.client(t)).CreateTopic(ctx, 2, 1, nil, "v")
	if err != nil {
		t.Fatal(err)
	}
	c := f.raw(t)
	next := int64(0)
	for v := int16(3); v <= 13; v++ {
		good := record(fmt.Sprint("version ", v))
		bad := record("bad")
		bad[len(bad)-1] ^= 1
		c.send(produceRequest("v", created.ID, good, bad), v, int32(v))
		resp := kmsg.NewPtrProduceResponse()
		if got := c.receive(resp, v); got != int32(v) {
			t.Fatalf("v%d: correlation %d", v, got)
		}
		ps := resp.Topics[0].Partitions
		if ps[0].ErrorCode != 0 || ps[0].BaseOffset != next || ps[0].LogAppendTime != -1 || ps[1].ErrorCode != 2 || ps[1].BaseOffset != -1 {
			t.Fatalf("v%d: %+v", v, ps)
		}
		if v >= 8 && ps[1].ErrorMessage == nil {
			t.Errorf("v%d: a corrupt batch is not explained", v)
		}
		next++
	}
	for v := int16(4); v <= 18; v++ {
		req := kmsg.NewPtrFetchRequest()
		req.MaxBytes, req.SessionEpoch, req.MinBytes = 1<<20, -1, 1
		rt := kmsg.NewFetchRequestTopic()
		rt.Topic, rt.TopicID = "v", created.ID
		for i := range int32(3) {
			rp := kmsg.NewFetchRequestTopicPartition()
			rp.Partition, rp.PartitionMaxBytes = i, 1<<20
			rt.Partitions = append(rt.Partitions, rp)
		}
		req.Topics = append(req.Topics, rt)
		c.send(req, v, int32(v))
		resp := kmsg.NewPtrFetchResponse()
		c.receive(resp, v)
		if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 3 {
			t.Fatalf("v%d: %+v", v, resp)
		}
		p := resp.Topics[0].Partitions
		if p[0].HighWatermark != next || p[0].ErrorCode != 0 || p[1].ErrorCode != 0 || p[2].ErrorCode != 3 {
			t.Fatalf("v%d: %+v", v, p)
		}
		count := 0
		for b := range batch.Split(p[0].RecordBatches) {
			if err := batch.Check(b); err != nil {
				t.Fatalf("v%d: %v", v, err)
			}
			count++
		}
		if count != int(next) {
			t.Fatalf("v%d: %d batches, want %d", v, count, next)
		}
	}
}

func TestProduceErrors(t *testing.T) {
	tape := newMemTape()
	f := startFront(t, tape)
	if _, err := kadm.NewClient(f.client(t)).CreateTopic(testCtx(t), 1, 1, nil, "e"); err != nil {
		t.Fatal(err)
	}
	c := f.raw(t)
	code := func(req *kmsg.ProduceRequest, v int16) int16 {
		t.Helper()
		c.send(req, v, 1)
		resp := kmsg.NewPtrProduceResponse()
		c.receive(resp, v)
		return resp.Topics[0].Partitions[0].ErrorCode
	}
	two := produceRequest("e", [16]byte{}, record("x"))
	two.Acks = 2
	txn := produceRequest("e", [16]byte{}, record("x"))
	txn.TransactionID = kmsg.StringPtr("t")
	got := []int16{
		code(produceRequest("absent", [16]byte{}, record("x")), 9),
		code(produceRequest("", [16]byte{1}, record("x")), 13),
		code(produceRequest(coord.Topic, [16]byte{}, record("x")), 9),
		code(produceRequest("e", [16]byte{}, nil), 9),
		code(two, 9),
		code(txn, 9),
		code(produceRequest("e", [16]byte{}, record("x")), 9),
	}
	if diff := cmp.Diff([]int16{3, 100, 17, 87, 21, 48, 0}, got); diff != "" {
		t.Errorf("codes (-want +got):\n%s", diff)
	}
	// With acks=0 there is no reply; an error closes the connection.
	none := produceRequest("absent", [16]byte{}, record("x"))
	none.Acks = 0
	c.send(none, 9, 1)
	c.closed()
}

func fetchRequest(id, epoch int32, parts ...kmsg.FetchRequestTopicPartition) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.MaxBytes, req.MinBytes, req.SessionID, req.SessionEpoch = 1<<20, 0, id, epoch
	if len(parts) > 0 {
		rt := kmsg.NewFetchRequestTopic()
		rt.Topic, rt.Partitions = "s", parts
		req.Topics = append(req.Topics, rt)
	}
	return req
}

func want(partition int32, offset int64) kmsg.FetchRequestTopicPartition {
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes = partition, offset, 1<<20
	return p
}

func TestFetchSession(t *testing.T) {
	tape := newMemTape()
	f := startFront(t, tape)
	if _, err := kadm.NewClient(f.client(t)).CreateTopic(testCtx(t), 3, 1, nil, "s"); err != nil {
		t.Fatal(err)
	}
	c := f.raw(t)
	do := func(req *kmsg.FetchRequest) (*kmsg.FetchResponse, []int32) {
		t.Helper()
		c.send(req, 12, 1)
		resp := kmsg.NewPtrFetchResponse()
		c.receive(resp, 12)
		var parts []int32
		for _, rt := range resp.Topics {
			for _, p := range rt.Partitions {
				parts = append(parts, p.Partition)
			}
		}
		return resp, parts
	}
	produce := func(parts ...[]byte) {
		c.send(produceRequest("s", [16]byte{}, parts...), 9, 1)
		c.receive(kmsg.NewPtrProduceResponse(), 9)
	}
	check := func(what string, got []int32, want ...int32) {
		t.Helper()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: partitions (-want +got):\n%s", what, diff)
		}
	}
	first, parts := do(fetchRequest(0, 0, want(0, 0), want(1, 0), want(2, 0)))
	id := first.SessionID
	if id == 0 {
		t.Fatal("no session")
	}
	check("full", parts, 0, 1, 2)
	_, parts = do(fetchRequest(id, 1))
	check("nothing new", parts)
	produce(record("a"))
	_, parts = do(fetchRequest(id, 2))
	check("one has news", parts, 0)
	_, parts = do(fetchRequest(id, 3, want(0, 1)))
	check("it was read", parts)
	produce(record("b"), record("c"))
	req := fetchRequest(id, 4)
	req.ForgottenTopics = []kmsg.FetchRequestForgottenTopic{{Topic: "s", Partitions: []int32{1}}}
	_, parts = do(req)
	check("one is forgotten", parts, 0)
	if resp, _ := do(fetchRequest(id, 9)); resp.ErrorCode != 71 {
		t.Errorf("wrong epoch: code %d, want 71", resp.ErrorCode)
	}
	if resp, _ := do(fetchRequest(id+1, 1)); resp.ErrorCode != 70 {
		t.Errorf("unknown session: code %d, want 70", resp.ErrorCode)
	}
	byID := fetchRequest(id, 5)
	c.send(byID, 13, 1)
	resp := kmsg.NewPtrFetchResponse()
	if c.receive(resp, 13); resp.ErrorCode != 106 {
		t.Errorf("topic ids in a session of names: code %d, want 106", resp.ErrorCode)
	}
	do(fetchRequest(id, -1))
	if resp, _ := do(fetchRequest(id, 5)); resp.ErrorCode != 70 {
		t.Errorf("closed session: code %d, want 70", resp.ErrorCode)
	}
	_, parts = do(fetchRequest(0, -1, want(0, 99)))
	check("out of range", parts, 0)

	for id, l := range tape.logs {
		l.mu.Lock()
		if l.held != 0 || len(l.waiters) != 0 {
			t.Errorf("%v: %d chunks and %d waiters are left behind", id, l.held, len(l.waiters))
		}
		l.mu.Unlock()
	}
}

func TestLongPollWakes(t *testing.T) {
	f := startFront(t, newMemTape())
	if _, err := kadm.NewClient(f.client(t)).CreateTopic(testCtx(t), 2, 1, nil, "s"); err != nil {
		t.Fatal(err)
	}
	c, p := f.raw(t), f.raw(t)
	for i := range int64(20) {
		req := fetchRequest(0, -1, want(0, i), want(1, 0))
		req.MinBytes, req.MaxWaitMillis = 1, 15_000
		c.send(req, 12, 1)
		p.send(produceRequest("s", [16]byte{}, record("x")), 9, 1)
		start := time.Now()
		p.receive(kmsg.NewPtrProduceResponse(), 9)
		resp := kmsg.NewPtrFetchResponse()
		c.receive(resp, 12)
		if d := time.Since(start); d > 5*time.Second {
			t.Fatalf("woke after %v", d)
		}
		if resp.Topics[0].Partitions[0].HighWatermark != i+1 || len(resp.Topics[0].Partitions[0].RecordBatches) == 0 {
			t.Fatalf("round %d: %+v", i, resp.Topics[0].Partitions[0])
		}
	}
	// Replies keep the order of requests, though the first waits.
	req := fetchRequest(0, -1, want(1, 0))
	req.MinBytes, req.MaxWaitMillis = 1, 100
	c.send(req, 12, 1)
	c.send(kmsg.NewPtrMetadataRequest(), 0, 2)
	if got := c.receive(kmsg.NewPtrFetchResponse(), 12); got != 1 {
		t.Fatalf("correlation %d, want 1", got)
	}
	if got := c.receive(kmsg.NewPtrMetadataResponse(), 0); got != 2 {
		t.Fatalf("correlation %d, want 2", got)
	}
}

func TestMetadataVersions(t *testing.T) {
	f := startFront(t, newMemTape())
	c := f.raw(t)
	for v := int16(0); v <= 13; v++ {
		name := fmt.Sprint("auto-", v)
		req := kmsg.NewPtrMetadataRequest()
		req.AllowAutoTopicCreation = v%2 == 0
		rt := kmsg.NewMetadataRequestTopic()
		rt.Topic = &name
		req.Topics = append(req.Topics, rt)
		c.send(req, v, 1)
		resp := kmsg.NewPtrMetadataResponse()
		c.receive(resp, v)
		wantCode := int16(0)
		if v >= 4 && v%2 == 1 {
			wantCode = 3
		}
		if got := resp.Topics[0]; got.ErrorCode != wantCode || wantCode == 0 && len(got.Partitions) != 1 {
			t.Errorf("v%d: %+v, want code %d", v, got, wantCode)
		}
	}
	req := kmsg.NewPtrMetadataRequest()
	rt := kmsg.NewMetadataRequestTopic()
	rt.TopicID = [16]byte{9}
	req.Topics = append(req.Topics, rt)
	c.send(req, 12, 1)
	resp := kmsg.NewPtrMetadataResponse()
	if c.receive(resp, 12); resp.Topics[0].ErrorCode != 100 {
		t.Errorf("unknown id: code %d, want 100", resp.Topics[0].ErrorCode)
	}
}
