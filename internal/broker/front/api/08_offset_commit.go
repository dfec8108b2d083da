package api

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/broker/front/coord"
	"github.com/looptape/looptape/internal/broker/front/wire"
)

// OffsetCommit: v6 leader epochs, v7 static members, v8 flexible.
func init() {
	register(kmsg.OffsetCommit, endpoint{min: 2, max: 9, read: true, maxBody: largeBody, serve: decoded((*Server).offsetCommit), shape: shape{
		str(), num(4), str(), str().from(7), num(8).to(4),
		arr(str(), arr(num(4), num(8), num(4).from(6), str())),
	}})
}

func (s *Server) offsetCommit(r *wire.Request, req *kmsg.OffsetCommitRequest) {
	c := coord.CommitRequest{Group: req.Group, MemberID: req.MemberID, Instance: req.InstanceID, Generation: req.Generation,
		Offsets: map[coord.TopicPartition]coord.Offset{}}
	resp := kmsg.NewPtrOffsetCommitResponse()
	resp.Topics = make([]kmsg.OffsetCommitResponseTopic, 0, len(req.Topics))
	for _, t := range req.Topics {
		rt := kmsg.NewOffsetCommitResponseTopic()
		rt.Topic = t.Topic
		topic, known := s.topics.Topic(t.Topic)
		for _, p := range t.Partitions {
			rp := kmsg.NewOffsetCommitResponseTopicPartition()
			rp.Partition = p.Partition
			o := coord.Offset{Offset: p.Offset, LeaderEpoch: p.LeaderEpoch}
			if p.Metadata != nil {
				o.Metadata = *p.Metadata
			}
			switch {
			case !known || p.Partition < 0 || p.Partition >= topic.Partitions:
				rp.ErrorCode = s.code(r, errUnknownTopic)
			case s.groups.TooLarge(o.Metadata):
				rp.ErrorCode = s.code(r, errMetadataTooLarge)
			default:
				c.Offsets[coord.TopicPartition{Topic: t.Topic, Partition: p.Partition}] = o
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	s.groups.Commit(c, func(err error) {
		if code := s.code(r, err); code != 0 {
			for i := range resp.Topics {
				for j := range resp.Topics[i].Partitions {
					if p := &resp.Topics[i].Partitions[j]; p.ErrorCode == 0 {
						p.ErrorCode = code
					}
				}
			}
		}
		respond(r, resp)
	})
}
