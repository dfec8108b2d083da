//go:build e2e

package hostile

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/broker/batch"
)

// wantCode wants one of Kafka's errors.
func wantCode(t *testing.T, what string, got int16, want ...*kerr.Error) {
	t.Helper()
	for _, w := range want {
		if got == w.Code {
			return
		}
	}
	t.Errorf("%s: %v, want %v", what, kerr.ErrorForCode(got), want)
}

func produceTo(topic string, partition int32, records []byte) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, 10_000
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Partition, rp.Records = partition, records
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return req
}

func fetchFrom(topic string, partition int32, offset int64, partitionMax int32) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = 500, 1, 1<<20, -1
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes, rp.CurrentLeaderEpoch = partition, offset, partitionMax, -1
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	return req
}

func metadataOf(names ...string) *kmsg.MetadataRequest {
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{}
	for _, name := range names {
		rt := kmsg.NewMetadataRequestTopic()
		rt.Topic = kmsg.StringPtr(name)
		req.Topics = append(req.Topics, rt)
	}
	return req
}

func createTopic(name string, partitions int32, replicas int16) *kmsg.CreateTopicsRequest {
	req := kmsg.NewPtrCreateTopicsRequest()
	req.TimeoutMillis = 10_000
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = name, partitions, replicas
	req.Topics = append(req.Topics, rt)
	return req
}

// victim is a topic of the attacks' own.
const victim = "hostile.victim"

// requests: well-formed requests that ask for what is not there or not possible.
func (w *world) requests(t *testing.T) {
	c := w.dial(t)
	wantCode(t, "create", must[*kmsg.CreateTopicsResponse](t, c, createTopic(victim, 1, 1), 5).Topics[0].ErrorCode, &kerr.Error{})
	good := batch.Build(batch.Plain, batch.KV{Timestamp: time.Now().UnixMilli(), Value: []byte("good")})
	produced := func(t *testing.T, c *kafkaConn, req *kmsg.ProduceRequest, version int16) kmsg.ProduceResponseTopicPartition {
		t.Helper()
		return must[*kmsg.ProduceResponse](t, c, req, version).Topics[0].Partitions[0]
	}
	fetched := func(t *testing.T, c *kafkaConn, req *kmsg.FetchRequest, version int16) kmsg.FetchResponseTopicPartition {
		t.Helper()
		return must[*kmsg.FetchResponse](t, c, req, version).Topics[0].Partitions[0]
	}

	w.attack(t, "topic: unknown", func(t *testing.T) {
		wantCode(t, "produce", produced(t, c, produceTo("hostile.nobody", 0, good), 9).ErrorCode, kerr.UnknownTopicOrPartition)
		wantCode(t, "fetch", fetched(t, c, fetchFrom("hostile.nobody", 0, 0, 1<<20), 12).ErrorCode, kerr.UnknownTopicOrPartition)
		req := metadataOf("hostile.nobody")
		req.AllowAutoTopicCreation = false
		wantCode(t, "metadata", must[*kmsg.MetadataResponse](t, c, req, 9).Topics[0].ErrorCode, kerr.UnknownTopicOrPartition)
		lo := kmsg.NewPtrListOffsetsRequest()
		lt := kmsg.NewListOffsetsRequestTopic()
		lt.Topic = "hostile.nobody"
		lt.Partitions = append(lt.Partitions, kmsg.NewListOffsetsRequestTopicPartition())
		lo.Topics = append(lo.Topics, lt)
		wantCode(t, "list offsets", must[*kmsg.ListOffsetsResponse](t, c, lo, 6).Topics[0].Partitions[0].ErrorCode, kerr.UnknownTopicOrPartition)
	})
	w.attack(t, "topic: impossible partitions", func(t *testing.T) {
		for _, p := range []int32{-1, 1, math.MaxInt32, math.MinInt32} {
			wantCode(t, fmt.Sprint("produce to ", p), produced(t, c, produceTo(victim, p, good), 9).ErrorCode, kerr.UnknownTopicOrPartition)
			wantCode(t, fmt.Sprint("fetch from ", p), fetched(t, c, fetchFrom(victim, p, 0, 1<<20), 12).ErrorCode, kerr.UnknownTopicOrPartition)
		}
	})
	w.attack(t, "topic: names that are none", func(t *testing.T) {
		for _, name := range []string{"", ".", "..", "../../etc/passwd", "a/b", "a b", "a\x00b", "a\nb", "<script>", strings.Repeat("a", 250), "\xff\xfe"} {
			resp := must[*kmsg.CreateTopicsResponse](t, c, createTopic(name, 1, 1), 5).Topics[0]
			wantCode(t, fmt.Sprintf("create %q", name), resp.ErrorCode, kerr.InvalidTopicException)
			wantCode(t, fmt.Sprintf("metadata of %q", name), must[*kmsg.MetadataResponse](t, c, metadataOf(name), 8).Topics[0].ErrorCode, kerr.InvalidTopicException)
		}
	})
	w.attack(t, "topic: impossible sizes", func(t *testing.T) {
		for _, n := range []int32{0, -2, math.MinInt32, math.MaxInt32, 100_001} {
			wantCode(t, fmt.Sprint(n, " partitions"), must[*kmsg.CreateTopicsResponse](t, c, createTopic("hostile.sizes", n, 1), 5).Topics[0].ErrorCode, kerr.InvalidPartitions)
		}
		wantCode(t, "-7 replicas", must[*kmsg.CreateTopicsResponse](t, c, createTopic("hostile.sizes", 1, -7), 5).Topics[0].ErrorCode, kerr.InvalidReplicationFactor)
		req := createTopic("hostile.sizes", 1, 1)
		for _, v := range []string{"-9", "9999999999999999999999", secret} {
			req.Topics[0].Configs = []kmsg.CreateTopicsRequestTopicConfig{{Name: "retention.ms", Value: &v}}
			if v == "-9" {
				req.Topics[0].Configs[0].Name = "max.message.bytes"
			}
			wantCode(t, "config "+v, must[*kmsg.CreateTopicsResponse](t, c, req, 5).Topics[0].ErrorCode, kerr.InvalidConfig)
		}
	})
	w.attack(t, "topic: the broker's own", func(t *testing.T) {
		wantCode(t, "produce", produced(t, c, produceTo("__consumer_offsets", 0, good), 9).ErrorCode, kerr.InvalidTopicException, kerr.UnknownTopicOrPartition)
		wantCode(t, "create", must[*kmsg.CreateTopicsResponse](t, c, createTopic("__consumer_offsets", 1, 1), 5).Topics[0].ErrorCode, kerr.InvalidTopicException, kerr.TopicAlreadyExists)
		del := kmsg.NewPtrDeleteTopicsRequest()
		del.TopicNames = []string{"__consumer_offsets"}
		if resp := must[*kmsg.DeleteTopicsResponse](t, c, del, 4); resp.Topics[0].ErrorCode == 0 {
			t.Error("the offsets' topic was deleted")
		}
	})
	for name, version := range map[string]int16{"by metadata": 8, "by metadata, flexible": 9} {
		w.attack(t, "topic: 100,000 in one request "+name, func(t *testing.T) {
			names := make([]string, 100_000)
			for i := range names {
				names[i] = fmt.Sprintf("h%d", i)
			}
			req := metadataOf(names...)
			req.AllowAutoTopicCreation = true
			c := w.dial(t)
			before, began := topics(t, w), time.Now()
			resp, err := c.ask(req, version)
			if took := time.Since(began); took > slowestAnswer {
				t.Errorf("the answer took %s", took)
			}
			if err != nil && !closed(err) {
				t.Errorf("no answer and no close: %v", err)
			}
			if err == nil {
				refused := 0
				for _, rt := range resp.(*kmsg.MetadataResponse).Topics {
					if rt.ErrorCode != 0 {
						refused++
					}
				}
				t.Logf("%d topics refused", refused)
			}
			if made := topics(t, w) - before; made > 1000 {
				t.Errorf("one request made %d topics", made)
			}
		})
	}
	w.attack(t, "topic: 40,000 in one request by creation", func(t *testing.T) {
		req := kmsg.NewPtrCreateTopicsRequest()
		for i := range 40_000 {
			req.Topics = append(req.Topics, createTopic(fmt.Sprintf("g%d", i), 1, 1).Topics...)
		}
		c := w.dial(t)
		before, began := topics(t, w), time.Now()
		_, err := c.ask(req, 5)
		if err != nil && !closed(err) {
			t.Errorf("no answer and no close: %v", err)
		}
		if took := time.Since(began); took > slowestAnswer {
			t.Errorf("the answer took %s", took)
		}
		if made := topics(t, w) - before; made > 1000 {
			t.Errorf("one request made %d topics", made)
		}
	})
	w.attack(t, "version: unsupported", func(t *testing.T) {
		c := w.dial(t)
		req := kmsg.NewPtrApiVersionsRequest()
		req.SetVersion(127)
		if _, err := c.Write([]byte(header(18, 127, "\x00\x02x\x02y\x00"))); err != nil {
			t.Fatal(err)
		}
		b, err := c.frame()
		if err != nil {
			t.Fatal(err)
		}
		resp := kmsg.NewPtrApiVersionsResponse() // version 0, which everybody can read
		if err := resp.ReadFrom(b[4:]); err != nil {
			t.Fatal(err)
		}
		wantCode(t, "ApiVersions", resp.ErrorCode, kerr.UnsupportedVersion)
		if len(resp.ApiKeys) == 0 {
			t.Error("the answer does not say what is supported")
		}
		for _, old := range []string{header(0, 0, strings.Repeat("\x00", 20)), header(1, 0, strings.Repeat("\x00", 20)), header(19, 0, strings.Repeat("\x00", 20))} {
			closes(t, w.s.Kafka, old)
		}
	})

	w.attack(t, "fetch: absurd sizes", func(t *testing.T) {
		big := batch.Build(batch.Plain, batch.KV{Timestamp: time.Now().UnixMilli(), Value: make([]byte, 1<<20-1024)})
		for range 80 {
			wantCode(t, "produce", produced(t, c, produceTo(victim, 0, big), 9).ErrorCode, &kerr.Error{})
		}
		before := w.memory(t)
		for _, size := range []int32{math.MaxInt32, math.MinInt32, -1, 0} {
			req := fetchFrom(victim, 0, 0, size)
			req.MaxBytes, req.MinBytes = size, math.MaxInt32
			p := fetched(t, c, req, 12)
			wantCode(t, fmt.Sprint("fetch of ", size), p.ErrorCode, &kerr.Error{})
			if len(p.RecordBatches) == 0 || len(p.RecordBatches) > 60<<20 {
				t.Errorf("a fetch of %d bytes got %d", size, len(p.RecordBatches))
			}
		}
		// The same partition a thousand times in one request.
		req := fetchFrom(victim, 0, 0, math.MaxInt32)
		req.MaxBytes = math.MaxInt32
		for range 1000 {
			req.Topics[0].Partitions = append(req.Topics[0].Partitions, req.Topics[0].Partitions[0])
		}
		resp := must[*kmsg.FetchResponse](t, c, req, 12)
		size := 0
		for _, p := range resp.Topics[0].Partitions {
			size += len(p.RecordBatches)
		}
		if size > 60<<20 {
			t.Errorf("%d MiB for the same partition a thousand times", size>>20)
		}
		if grown := w.memory(t) - before; grown > maxGrowth {
			t.Errorf("the server grew by %d MiB", grown>>20)
		}
	})
	w.attack(t, "fetch: impossible offsets", func(t *testing.T) {
		for _, offset := range []int64{-1, -2, math.MinInt64, math.MaxInt64, 1 << 40} {
			wantCode(t, fmt.Sprint("fetch at ", offset), fetched(t, c, fetchFrom(victim, 0, offset, 1<<20), 12).ErrorCode, kerr.OffsetOutOfRange)
		}
	})
	w.attack(t, "fetch: waiting for ever", func(t *testing.T) {
		// A hundred clients wait for bytes that never come, and hang up.
		for range 100 {
			c := w.dial(t)
			req := fetchFrom(victim, 0, 80, 1<<20)
			req.MinBytes, req.MaxWaitMillis = math.MaxInt32, math.MaxInt32
			req.SetVersion(12)
			if _, err := c.Write(kmsg.NewRequestFormatter().AppendRequest(nil, req, 1)); err != nil {
				t.Fatal(err)
			}
			c.Close()
		}
	})
	w.attack(t, "fetch: sessions nobody has", func(t *testing.T) {
		req := fetchFrom(victim, 0, 0, 1<<20)
		req.SessionID, req.SessionEpoch = 12345, 7
		wantCode(t, "unknown session", must[*kmsg.FetchResponse](t, c, req, 12).ErrorCode, kerr.FetchSessionIDNotFound)
		req.SessionID, req.SessionEpoch = 0, -99
		if _, err := c.ask(req, 12); err != nil {
			t.Errorf("a negative epoch: %v", err)
		}
		for range 3000 { // more sessions than are kept
			req := fetchFrom(victim, 0, 0, 1)
			req.SessionEpoch, req.MaxWaitMillis, req.MinBytes, req.MaxBytes = 0, 0, 0, 1
			req.Topics[0].Partitions[0].FetchOffset = 80
			must[*kmsg.FetchResponse](t, c, req, 12)
		}
	})

	group64k := strings.Repeat("g", 64<<10)
	w.attack(t, "group: a name of 64 KiB", func(t *testing.T) {
		join := func(group string, version int16) (int16, error) {
			req := kmsg.NewPtrJoinGroupRequest()
			req.Group, req.ProtocolType, req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = group, "consumer", 10_000, 10_000
			p := kmsg.NewJoinGroupRequestProtocol()
			p.Name = "range"
			req.Protocols = append(req.Protocols, p)
			resp, err := w.dial(t).ask(req, version)
			if err != nil {
				return 0, err
			}
			return resp.(*kmsg.JoinGroupResponse).ErrorCode, nil
		}
		code, err := join(group64k, 9)
		if err != nil && !closed(err) {
			t.Error(err)
		} else if err == nil {
			wantCode(t, "join", code, kerr.InvalidGroupID)
		}
		code, err = join("", 9)
		if err != nil {
			t.Error(err)
		}
		wantCode(t, "join with no name", code, kerr.InvalidGroupID)

		commit := kmsg.NewPtrOffsetCommitRequest()
		commit.Group, commit.Generation = group64k, -1
		ct := kmsg.NewOffsetCommitRequestTopic()
		ct.Topic = victim
		ct.Partitions = append(ct.Partitions, kmsg.NewOffsetCommitRequestTopicPartition())
		commit.Topics = append(commit.Topics, ct)
		resp, err := w.dial(t).ask(commit, 8)
		if err != nil && !closed(err) {
			t.Error(err)
		} else if err == nil {
			wantCode(t, "commit", resp.(*kmsg.OffsetCommitResponse).Topics[0].Partitions[0].ErrorCode, kerr.InvalidGroupID)
		}
		commit.Group = "hostile.group"
		commit.Topics[0].Partitions[0].Metadata = kmsg.StringPtr(strings.Repeat("m", 30_000))
		wantCode(t, "commit with 30 kB of metadata", must[*kmsg.OffsetCommitResponse](t, w.dial(t), commit, 8).Topics[0].Partitions[0].ErrorCode, kerr.OffsetMetadataTooLarge)
	})
	w.attack(t, "group: members nobody knows", func(t *testing.T) {
		hb := kmsg.NewPtrHeartbeatRequest()
		hb.Group, hb.MemberID, hb.Generation = goodTopic, secret, 1
		wantCode(t, "heartbeat", must[*kmsg.HeartbeatResponse](t, c, hb, 4).ErrorCode, kerr.UnknownMemberID)
		sync := kmsg.NewPtrSyncGroupRequest()
		sync.Group, sync.MemberID, sync.Generation = goodTopic, secret, 1
		wantCode(t, "sync", must[*kmsg.SyncGroupResponse](t, c, sync, 4).ErrorCode, kerr.UnknownMemberID)
		leave := kmsg.NewPtrLeaveGroupRequest()
		leave.Group = goodTopic
		m := kmsg.NewLeaveGroupRequestMember()
		m.MemberID = secret
		leave.Members = append(leave.Members, m)
		wantCode(t, "leave", must[*kmsg.LeaveGroupResponse](t, c, leave, 4).Members[0].ErrorCode, kerr.UnknownMemberID)
		join := kmsg.NewPtrJoinGroupRequest()
		join.Group, join.ProtocolType, join.SessionTimeoutMillis = "hostile.group", "consumer", 1
		p := kmsg.NewJoinGroupRequestProtocol()
		p.Name = "range"
		join.Protocols = append(join.Protocols, p)
		wantCode(t, "join with a session of 1 ms", must[*kmsg.JoinGroupResponse](t, c, join, 7).ErrorCode, kerr.InvalidSessionTimeout)
		join.Group, join.SessionTimeoutMillis = goodTopic, 10_000
		join.ProtocolType = "connect"
		wantCode(t, "join with another protocol", must[*kmsg.JoinGroupResponse](t, c, join, 3).ErrorCode, kerr.InconsistentGroupProtocol)
	})
}

// topics counts the topics there are.
func topics(t *testing.T, w *world) int {
	t.Helper()
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = nil
	return len(must[*kmsg.MetadataResponse](t, w.dial(t), req, 9).Topics)
}
