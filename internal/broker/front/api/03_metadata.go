package api

import (
	"context"
	"errors"
	"math"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/broker/front/coord"
	"github.com/looptape/looptape/internal/broker/front/wire"
	"github.com/looptape/looptape/internal/broker/store/catalog"
)

// Metadata: v1 null means all topics, v4 auto-creation is asked for (before, it
// is implied), v9 flexible, v10 topic ids, v13 an error for all.
func init() {
	register(kmsg.Metadata, endpoint{min: 0, max: 13, serve: decoded((*Server).metadata), shape: shape{
		arr(num(16).from(10), str()), num(1).from(4), num(1).from(8).to(10), num(1).from(8),
	}})
}

// noOperations says that authorized operations were not asked for or are not
// known.
const noOperations = math.MinInt32

func (s *Server) metadata(r *wire.Request, req *kmsg.MetadataRequest) {
	resp := kmsg.NewPtrMetadataResponse()
	resp.ClusterID = ptr(s.topics.ClusterID())
	resp.ControllerID = s.controller()
	resp.AuthorizedOperations = noOperations
	for _, known := range s.brokers(r) {
		b := kmsg.NewMetadataResponseBroker()
		b.NodeID, b.Host, b.Port = known.id, known.host, known.port
		if known.rack != "" {
			b.Rack = ptr(known.rack)
		}
		resp.Brokers = append(resp.Brokers, b)
	}

	if req.Topics == nil || r.Version == 0 && len(req.Topics) == 0 {
		for _, t := range s.topics.Topics() {
			resp.Topics = append(resp.Topics, s.describeTopic(t))
		}
		respond(r, resp)
		return
	}
	create := s.cfg.AutoCreate && (req.AllowAutoTopicCreation || r.Version < 4)
	// A client that asks for thousands of unknown topics is not about to write to
	// them: it gets to know which exist.
	create = create && s.unknown(req.Topics) <= maxCreatedTopics
	for _, t := range req.Topics {
		resp.Topics = append(resp.Topics, s.metadataTopic(r, t, create))
	}
	respond(r, resp)
}

// unknown counts the topics that would be created.
func (s *Server) unknown(want []kmsg.MetadataRequestTopic) (n int) {
	for _, t := range want {
		if t.Topic == nil {
			continue
		}
		if _, ok := s.topics.Topic(*t.Topic); !ok {
			n++
		}
	}
	return n
}

func (s *Server) metadataTopic(r *wire.Request, want kmsg.MetadataRequestTopic, create bool) kmsg.MetadataResponseTopic {
	fail := func(err error) kmsg.MetadataResponseTopic {
		t := kmsg.NewMetadataResponseTopic()
		t.Topic, t.TopicID = want.Topic, want.TopicID
		if t.Topic == nil && r.Version < 12 {
			t.Topic = ptr("") // not nullable yet
		}
		t.AuthorizedOperations = noOperations
		t.ErrorCode = s.code(r, err)
		return t
	}
	if want.Topic == nil {
		t, ok := s.topics.TopicByID(want.TopicID)
		if !ok {
			return fail(errUnknownTopicID)
		}
		return s.describeTopic(t)
	}
	if t, ok := s.topics.Topic(*want.Topic); ok {
		return s.describeTopic(t)
	}
	if err := catalog.CheckName(*want.Topic); err != nil {
		return fail(err)
	}
	if !create || *want.Topic == coord.Topic {
		return fail(errUnknownTopic)
	}
	// The topic is usable when this answer is given: clients need no second try.
	t, err := s.createTopic(r.Context(), catalog.Topic{Name: *want.Topic, Partitions: s.cfg.DefaultPartitions})
	if errors.Is(err, catalog.ErrTopicExists) {
		var ok bool
		if t, ok = s.topics.Topic(*want.Topic); ok {
			err = nil
		}
	}
	if err != nil {
		return fail(err)
	}
	return s.describeTopic(t)
}

func (s *Server) createTopic(ctx context.Context, t catalog.Topic) (catalog.Topic, error) {
	// A client that hangs up must not leave the outcome open.
	return s.topics.CreateTopic(context.WithoutCancel(ctx), t)
}

func (s *Server) describeTopic(t catalog.Topic) kmsg.MetadataResponseTopic {
	m := kmsg.NewMetadataResponseTopic()
	m.Topic, m.TopicID, m.IsInternal = ptr(t.Name), t.ID, t.Internal
	m.AuthorizedOperations = noOperations
	m.Partitions = make([]kmsg.MetadataResponseTopicPartition, 0, t.Partitions)
	for i := range t.Partitions {
		p := kmsg.NewMetadataResponseTopicPartition()
		p.Partition = i
		p.Leader, p.LeaderEpoch = s.leader(t, i)
		// Storage is shared: the leader stands for all replicas. It is named
		// while it still opens, and the next one while it takes over; a request
		// then gets NOT_LEADER and is tried again.
		p.Replicas, p.OfflineReplicas = []int32{p.Leader}, []int32{}
		p.ISR = p.Replicas
		if p.Leader < 0 {
			p.ErrorCode = codeLeaderNotAvailable
			p.Replicas, p.ISR = []int32{}, []int32{}
		}
		m.Partitions = append(m.Partitions, p)
	}
	return m
}
