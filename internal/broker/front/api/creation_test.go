package api

import (
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// One request cannot flood the catalog: neither by creating nor by asking.
func TestOneRequestCreatesFew(t *testing.T) {
	f := startFront(t, newMemTape())
	cl := f.client(t)
	count := func() int {
		req := kmsg.NewPtrMetadataRequest()
		resp, err := req.RequestWith(testCtx(t), cl)
		if err != nil {
			t.Fatal(err)
		}
		return len(resp.Topics)
	}
	create := func(topics int, partitions int32) *kmsg.CreateTopicsResponse {
		req := kmsg.NewPtrCreateTopicsRequest()
		for i := range topics {
			rt := kmsg.NewCreateTopicsRequestTopic()
			rt.Topic, rt.NumPartitions, rt.ReplicationFactor = fmt.Sprintf("c%d", i), partitions, 1
			req.Topics = append(req.Topics, rt)
		}
		resp, err := req.RequestWith(testCtx(t), cl)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	before := count()
	for name, resp := range map[string]*kmsg.CreateTopicsResponse{"topics": create(maxCreatedTopics+1, 1), "partitions": create(3, maxCreatedPartitions/2)} {
		for _, rt := range resp.Topics {
			if rt.ErrorCode != kerr.InvalidRequest.Code || rt.ErrorMessage == nil {
				t.Fatalf("too many %s: %v %v", name, kerr.ErrorForCode(rt.ErrorCode), rt.ErrorMessage)
			}
		}
	}
	ask := func(n int) *kmsg.MetadataResponse {
		req := kmsg.NewPtrMetadataRequest()
		req.AllowAutoTopicCreation = true
		for i := range n {
			rt := kmsg.NewMetadataRequestTopic()
			rt.Topic = kmsg.StringPtr(fmt.Sprintf("m%d", i))
			req.Topics = append(req.Topics, rt)
		}
		resp, err := req.RequestWith(testCtx(t), cl)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	for _, rt := range ask(maxCreatedTopics + 1).Topics {
		if rt.ErrorCode != kerr.UnknownTopicOrPartition.Code {
			t.Fatalf("metadata of too many: %v", kerr.ErrorForCode(rt.ErrorCode))
		}
	}
	if got := count(); got != before {
		t.Errorf("%d topics, there were %d", got, before)
	}
	for _, rt := range create(3, 5).Topics {
		if rt.ErrorCode != 0 {
			t.Errorf("three topics: %v", kerr.ErrorForCode(rt.ErrorCode))
		}
	}
	for _, rt := range ask(3).Topics {
		if rt.ErrorCode != 0 {
			t.Errorf("metadata of three: %v", kerr.ErrorForCode(rt.ErrorCode))
		}
	}
}
