package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/broker/front/wire"
	"github.com/looptape/looptape/internal/broker/partition"
)

// DeleteRecords: v2 flexible. It is answered when the new start is committed.
func init() {
	register(kmsg.DeleteRecords, endpoint{min: 0, max: 2, serve: decoded((*Server).deleteRecords), shape: shape{
		arr(str(), arr(num(4), num(8))), num(4),
	}})
}

func (s *Server) deleteRecords(r *wire.Request, req *kmsg.DeleteRecordsRequest) {
	resp := kmsg.NewPtrDeleteRecordsResponse()
	for _, t := range req.Topics {
		rt := kmsg.NewDeleteRecordsResponseTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rp := kmsg.NewDeleteRecordsResponseTopicPartition()
			rp.Partition = p.Partition
			low, err := s.deleteBefore(r, t.Topic, p)
			rp.LowWatermark, rp.ErrorCode = low, s.code(r, err)
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	respond(r, resp)
}

func (s *Server) deleteBefore(r *wire.Request, topic string, p kmsg.DeleteRecordsRequestTopicPartition) (int64, error) {
	if t, ok := s.topics.Topic(topic); ok && t.Internal {
		return -1, errInternalTopic
	}
	log, err := s.find(topic, p.Partition)
	if err != nil {
		return -1, err
	}
	_, end, _ := log.Offsets()
	before := p.Offset
	if before == -1 {
		before = end
	}
	if before < 0 || before > end {
		return -1, partition.ErrOffsetOutOfRange
	}
	low, err := log.DeleteRecords(context.WithoutCancel(r.Context()), before)
	if err != nil {
		return -1, err
	}
	return low, nil
}
