package api

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/broker/front/wire"
)

// OffsetForLeaderEpoch: v2 leader epochs are checked, v4 flexible. Offsets are
// never taken back here, so no answer ever means that records were lost.
func init() {
	register(kmsg.OffsetForLeaderEpoch, endpoint{min: 2, max: 4, read: true, serve: decoded((*Server).offsetForLeaderEpoch), shape: shape{
		num(4).from(3), arr(str(), arr(num(4), num(4), num(4))),
	}})
}

func (s *Server) offsetForLeaderEpoch(r *wire.Request, req *kmsg.OffsetForLeaderEpochRequest) {
	resp := kmsg.NewPtrOffsetForLeaderEpochResponse()
	for _, t := range req.Topics {
		rt := kmsg.NewOffsetForLeaderEpochResponseTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rp := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
			rp.Partition, rp.LeaderEpoch, rp.EndOffset = p.Partition, -1, -1
			log, err := s.find(t.Topic, p.Partition)
			if err == nil {
				err = checkEpoch(p.CurrentLeaderEpoch, log.LeaderEpoch())
			}
			if err == nil {
				rp.LeaderEpoch, rp.EndOffset = log.OffsetForEpoch(p.LeaderEpoch)
			}
			rp.ErrorCode = s.code(r, err)
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	respond(r, resp)
}
