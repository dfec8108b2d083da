package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/broker/front/wire"
	"github.com/looptape/looptape/internal/broker/store/catalog"
)

// DeleteTopics: v4 flexible, v6 by name or topic id.
func init() {
	register(kmsg.DeleteTopics, endpoint{min: 1, max: 6, serve: decoded((*Server).deleteTopics), shape: shape{
		listOf(str()).to(5), arr(str(), num(16)).from(6), num(4),
	}})
}

func (s *Server) deleteTopics(r *wire.Request, req *kmsg.DeleteTopicsRequest) {
	resp := kmsg.NewPtrDeleteTopicsResponse()
	for _, name := range req.TopicNames {
		req.Topics = append(req.Topics, kmsg.DeleteTopicsRequestTopic{Topic: ptr(name)})
	}
	for _, t := range req.Topics {
		rt := kmsg.NewDeleteTopicsResponseTopic()
		rt.Topic, rt.TopicID = t.Topic, t.TopicID
		gone, err := s.deleteTopic(r, t)
		if err != nil {
			rt.ErrorCode, rt.ErrorMessage = s.code(r, err), ptr(err.Error())
		} else {
			rt.Topic, rt.TopicID = ptr(gone.Name), gone.ID
		}
		resp.Topics = append(resp.Topics, rt)
	}
	respond(r, resp)
}

func (s *Server) deleteTopic(r *wire.Request, want kmsg.DeleteTopicsRequestTopic) (catalog.Topic, error) {
	var t catalog.Topic
	var ok bool
	if want.Topic != nil {
		if t, ok = s.topics.Topic(*want.Topic); !ok {
			return t, errUnknownTopic
		}
	} else if t, ok = s.topics.TopicByID(want.TopicID); !ok {
		return t, errUnknownTopicID
	}
	if t.Internal {
		return t, errInternalTopic
	}
	if err := s.topics.DeleteTopicID(context.WithoutCancel(r.Context()), t.ID); err != nil {
		return t, err
	}
	// A new topic of the same name must not inherit positions.
	s.groups.ForgetTopic(t.Name)
	return t, nil
}
