package api

import (
	"errors"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/broker/front/wire"
	"github.com/looptape/looptape/internal/broker/partition"
)

// ListOffsets: v2 isolation levels, v4 leader epochs, v6 flexible, v7 the
// record of the largest timestamp, v8 and v9 tiered offsets, v10 a timeout.
func init() {
	register(kmsg.ListOffsets, endpoint{min: 1, max: 10, read: true, serve: decoded((*Server).listOffsets), shape: shape{
		num(4), num(1).from(2),
		arr(str(), arr(num(4), num(4).from(4), num(8))),
		num(4).from(10),
	}})
}

// Timestamps that are none.
const (
	latest         = -1
	earliest       = -2
	maxTimestamp   = -3
	earliestLocal  = -4 // all offsets are local: storage has no second tier
	latestInRemote = -5
)

func (s *Server) listOffsets(r *wire.Request, req *kmsg.ListOffsetsRequest) {
	resp := kmsg.NewPtrListOffsetsResponse()
	for _, t := range req.Topics {
		rt := kmsg.NewListOffsetsResponseTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rp := kmsg.NewListOffsetsResponseTopicPartition()
			rp.Partition = p.Partition
			rp.Offset, rp.Timestamp, rp.LeaderEpoch = -1, -1, -1
			rp.ErrorCode = s.code(r, s.listOffset(r, req, t.Topic, p, &rp))
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	respond(r, resp)
}

func (s *Server) listOffset(r *wire.Request, req *kmsg.ListOffsetsRequest, topic string, p kmsg.ListOffsetsRequestTopicPartition, rp *kmsg.ListOffsetsResponseTopicPartition) error {
	log, err := s.find(topic, p.Partition)
	if errors.Is(err, partition.ErrLoading) {
		return errNoLeader // a high watermark is never guessed
	}
	if err != nil {
		return err
	}
	epoch := log.LeaderEpoch()
	if err := checkEpoch(p.CurrentLeaderEpoch, epoch); err != nil {
		return err
	}
	start, end, stable := log.Offsets()
	if req.IsolationLevel == 1 {
		end = stable
	}
	switch p.Timestamp {
	case latest:
		rp.Offset = end
	case earliest, earliestLocal:
		rp.Offset = start
	case latestInRemote:
		rp.Offset = -1
	default:
		if p.Timestamp < maxTimestamp {
			return errRequest
		}
		offset, timestamp, err := log.OffsetForTime(r.Context(), p.Timestamp)
		if err != nil && !errors.Is(err, partition.ErrOffsetOutOfRange) {
			return err
		}
		if err != nil || offset < 0 || offset >= end {
			return nil // no such record yet
		}
		rp.Offset, rp.Timestamp = offset, timestamp
	}
	rp.LeaderEpoch = epoch
	return nil
}

// checkEpoch compares the leader epoch a client believes in, or -1, with ours.
func checkEpoch(theirs, ours int32) error {
	switch {
	case theirs == -1 || theirs == ours:
		return nil
	case theirs < ours:
		return partition.ErrFencedEpoch
	}
	return partition.ErrUnknownEpoch
}
