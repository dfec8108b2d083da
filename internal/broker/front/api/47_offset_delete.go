package api

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/broker/front/coord"
	"github.com/looptape/looptape/internal/broker/front/wire"
)

// OffsetDelete forgets committed offsets of topics nobody in the group reads.
func init() {
	register(kmsg.OffsetDelete, endpoint{min: 0, max: 0, read: true, serve: decoded((*Server).offsetDelete), shape: shape{
		str(), arr(str(), arr(num(4))),
	}})
}

func (s *Server) offsetDelete(r *wire.Request, req *kmsg.OffsetDeleteRequest) {
	var parts []coord.TopicPartition
	for _, t := range req.Topics {
		for _, p := range t.Partitions {
			parts = append(parts, coord.TopicPartition{Topic: t.Topic, Partition: p.Partition})
		}
	}
	s.groups.DeleteOffsets(req.Group, parts, func(errs []error, err error) {
		resp := kmsg.NewPtrOffsetDeleteResponse()
		resp.ErrorCode = s.code(r, err)
		at := 0
		for _, t := range req.Topics {
			rt := kmsg.NewOffsetDeleteResponseTopic()
			rt.Topic = t.Topic
			for _, p := range t.Partitions {
				rp := kmsg.NewOffsetDeleteResponseTopicPartition()
				rp.Partition = p.Partition
				if err == nil {
					rp.ErrorCode = s.code(r, errs[at])
				}
				at++
				rt.Partitions = append(rt.Partitions, rp)
			}
			if err == nil {
				resp.Topics = append(resp.Topics, rt)
			}
		}
		respond(r, resp)
	})
}
