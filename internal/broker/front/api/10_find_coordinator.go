package api

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/broker/front/wire"
)

// FindCoordinator: v1 kinds of coordinators, v3 flexible, v4 many keys at once.
func init() {
	register(kmsg.FindCoordinator, endpoint{min: 0, max: 6, serve: decoded((*Server).findCoordinator), shape: shape{
		str().to(3), num(1).from(1), listOf(str()).from(4),
	}})
}

func (s *Server) findCoordinator(r *wire.Request, req *kmsg.FindCoordinatorRequest) {
	resp := kmsg.NewPtrFindCoordinatorResponse()
	host, port := s.cfg.Advertise(r.LocalAddr())
	var err error
	if req.CoordinatorType != 0 {
		err = errTransactions // nor share groups
		if req.CoordinatorType != 1 {
			err = errRequest
		}
	}
	code := s.code(r, err)
	var text *string
	if err != nil {
		text = ptr(err.Error())
		// InvalidRequest is what ends a client's search.
		code = codeInvalidRequest
		host, port = "", -1
	}
	node := s.cfg.NodeID
	if err != nil {
		node = -1
	}
	resp.ErrorCode, resp.ErrorMessage, resp.NodeID, resp.Host, resp.Port = code, text, node, host, port
	for _, key := range req.CoordinatorKeys {
		c := kmsg.NewFindCoordinatorResponseCoordinator()
		c.Key, c.ErrorCode, c.ErrorMessage, c.NodeID, c.Host, c.Port = key, code, text, node, host, port
		resp.Coordinators = append(resp.Coordinators, c)
	}
	respond(r, resp)
}
