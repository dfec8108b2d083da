package api

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/broker/front/coord"
	"github.com/looptape/looptape/internal/broker/front/wire"
)

// Heartbeat: v3 static members, v4 flexible.
func init() {
	register(kmsg.Heartbeat, endpoint{min: 0, max: 4, read: true, serve: decoded((*Server).heartbeat), shape: shape{
		str(), num(4), str(), str().from(3),
	}})
}

func (s *Server) heartbeat(r *wire.Request, req *kmsg.HeartbeatRequest) {
	h := coord.HeartbeatRequest{Group: req.Group, MemberID: req.MemberID, Instance: req.InstanceID, Generation: req.Generation}
	s.groups.Heartbeat(h, func(err error) {
		resp := kmsg.NewPtrHeartbeatResponse()
		resp.ErrorCode = s.code(r, err)
		respond(r, resp)
	})
}
