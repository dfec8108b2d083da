package api

import (
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/broker/front/coord"
	"github.com/looptape/looptape/internal/broker/front/wire"
	"github.com/looptape/looptape/internal/broker/store/catalog"
)

// CreateTopics: v5 flexible, with the topic's configuration in the answer, v7
// topic ids. Any replication factor above 0 is accepted and has no effect: the
// object store keeps the copies.
func init() {
	register(kmsg.CreateTopics, endpoint{min: 2, max: 7, serve: decoded((*Server).createTopics), shape: shape{
		arr(str(), num(4), num(2), arr(num(4), listOf(num(4))), arr(str(), str())), num(4), num(1),
	}})
}

// Bounds of what one request may create. Each topic is a transaction of the
// catalog, and a request of a megabyte can name sixty thousand of them.
const (
	maxCreatedTopics     = 1000
	maxCreatedPartitions = catalog.MaxPartitions
)

func (s *Server) createTopics(r *wire.Request, req *kmsg.CreateTopicsRequest) {
	resp := kmsg.NewPtrCreateTopicsResponse()
	tooMany := s.tooMany(req)
	seen := map[string]int{}
	for _, t := range req.Topics {
		seen[t.Topic]++
	}
	for _, t := range req.Topics {
		rt := kmsg.NewCreateTopicsResponseTopic()
		rt.Topic, rt.NumPartitions, rt.ReplicationFactor = t.Topic, -1, -1
		rt.Configs = []kmsg.CreateTopicsResponseTopicConfig{} // null would crash the Java client
		var created catalog.Topic
		err := tooMany
		if err == nil {
			created, err = s.newTopic(r, t, seen[t.Topic] > 1, req.ValidateOnly)
		}
		if err != nil {
			rt.ErrorCode, rt.ErrorMessage = s.code(r, err), ptr(err.Error())
		} else {
			rt.TopicID, rt.NumPartitions, rt.ReplicationFactor = created.ID, created.Partitions, 1
			for _, c := range topicConfigs(created) {
				rc := kmsg.NewCreateTopicsResponseTopicConfig()
				rc.Name, rc.Value, rc.Source = c.Name, c.Value, int8(c.Source)
				rt.Configs = append(rt.Configs, rc)
			}
		}
		resp.Topics = append(resp.Topics, rt)
	}
	respond(r, resp)
}

// tooMany is why none of the request's topics is created.
func (s *Server) tooMany(req *kmsg.CreateTopicsRequest) error {
	if len(req.Topics) > maxCreatedTopics {
		return fmt.Errorf("%w: %d topics in one request, %d are allowed", errRequest, len(req.Topics), maxCreatedTopics)
	}
	partitions := int64(0)
	for _, t := range req.Topics {
		if n := int64(t.NumPartitions); n > 0 && n <= maxCreatedPartitions { // others are refused by themselves
			partitions += n
		}
	}
	if partitions > maxCreatedPartitions {
		return fmt.Errorf("%w: %d partitions in one request, %d are allowed", errRequest, partitions, maxCreatedPartitions)
	}
	return nil
}

func (s *Server) newTopic(r *wire.Request, t kmsg.CreateTopicsRequestTopic, twice, validateOnly bool) (catalog.Topic, error) {
	n := catalog.Topic{Name: t.Topic, Partitions: t.NumPartitions, Config: map[string]string{}}
	switch {
	case twice:
		return n, fmt.Errorf("%w: topic is named twice", errRequest)
	case t.Topic == coord.Topic:
		return n, errInternalTopic
	case len(t.ReplicaAssignment) > 0:
		if t.NumPartitions != -1 || t.ReplicationFactor != -1 {
			return n, fmt.Errorf("%w: both an assignment and numbers are given", errRequest)
		}
		if err := s.checkAssignment(t.ReplicaAssignment); err != nil {
			return n, err
		}
		n.Partitions = int32(len(t.ReplicaAssignment))
	case t.ReplicationFactor != -1 && t.ReplicationFactor < 1:
		return n, errReplication
	case t.NumPartitions == -1:
		n.Partitions = s.cfg.DefaultPartitions
	}
	for _, c := range t.Configs {
		if c.Value == nil {
			return n, fmt.Errorf("%w: %s has no value", catalog.ErrBadConfig, c.Name)
		}
		n.Config[c.Name] = *c.Value
	}
	if validateOnly {
		if _, taken := s.topics.Topic(n.Name); taken {
			return n, catalog.ErrTopicExists
		}
		return n, catalog.CheckTopic(n)
	}
	return s.createTopic(r.Context(), n)
}

// checkAssignment wants partitions 0..n-1, each on this broker once.
func (s *Server) checkAssignment(as []kmsg.CreateTopicsRequestTopicReplicaAssignment) error {
	seen := make([]bool, len(as))
	for _, a := range as {
		if a.Partition < 0 || int(a.Partition) >= len(as) || seen[a.Partition] {
			return fmt.Errorf("%w: partitions must be 0 to %d", errAssignment, len(as)-1)
		}
		seen[a.Partition] = true
		if !slices.Equal(a.Replicas, []int32{s.cfg.NodeID}) {
			return fmt.Errorf("%w: the only broker is %d", errAssignment, s.cfg.NodeID)
		}
	}
	return nil
}
