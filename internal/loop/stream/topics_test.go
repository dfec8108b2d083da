package stream

import (
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A broker that has just made a partition answers NOT_LEADER for a moment, as a
// real Apache Kafka does; Offsets asks again.
func TestOffsetsWaitForLeaders(t *testing.T) {
	k, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	c := dial(t, k.ListenAddrs())
	ensure(t, c, 2, "fresh")
	var refused atomic.Int64
	k.ControlKey(kmsg.ListOffsets.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
		k.KeepControl()
		if refused.Add(1) > 2 {
			return nil, nil, false
		}
		req := r.(*kmsg.ListOffsetsRequest)
		resp := req.ResponseKind().(*kmsg.ListOffsetsResponse)
		for _, rt := range req.Topics {
			st := kmsg.NewListOffsetsResponseTopic()
			st.Topic = rt.Topic
			for _, rp := range rt.Partitions {
				sp := kmsg.NewListOffsetsResponseTopicPartition()
				sp.Partition, sp.ErrorCode = rp.Partition, kerr.NotLeaderForPartition.Code
				st.Partitions = append(st.Partitions, sp)
			}
			resp.Topics = append(resp.Topics, st)
		}
		return resp, nil, true
	})
	start, end, err := c.Offsets(t.Context(), "fresh")
	if err != nil {
		t.Fatal(err)
	}
	if len(start["fresh"]) != 2 || len(end["fresh"]) != 2 {
		t.Errorf("start %v, end %v: want both partitions", start, end)
	}
	if refused.Load() < 3 {
		t.Errorf("asked %d times: the refusals were not seen", refused.Load())
	}
}
