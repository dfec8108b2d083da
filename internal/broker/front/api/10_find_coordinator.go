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
	find := func(key string) (code int16, text *string, b broker) {
		err := errTransactions // nor share groups
		switch req.CoordinatorType {
		case 0:
			b, err = s.coordinator(r, key)
		case 1:
		default:
			err = errRequest
		}
		if code = s.code(r, err); err == nil {
			return 0, nil, b
		}
		if req.CoordinatorType != 0 {
			code = codeInvalidRequest // what ends a client's search
		}
		return code, ptr(err.Error()), broker{id: -1, port: -1}
	}
	if r.Version < 4 {
		code, text, b := find(req.CoordinatorKey)
		resp.ErrorCode, resp.ErrorMessage, resp.NodeID, resp.Host, resp.Port = code, text, b.id, b.host, b.port
	}
	for _, key := range req.CoordinatorKeys {
		c := kmsg.NewFindCoordinatorResponseCoordinator()
		code, text, b := find(key)
		c.Key, c.ErrorCode, c.ErrorMessage, c.NodeID, c.Host, c.Port = key, code, text, b.id, b.host, b.port
		resp.Coordinators = append(resp.Coordinators, c)
	}
	respond(r, resp)
}
