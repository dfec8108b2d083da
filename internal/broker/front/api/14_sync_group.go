package api

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/broker/front/coord"
	"github.com/looptape/looptape/internal/broker/front/wire"
)

// SyncGroup: v3 static members, v4 flexible, v5 the protocol is checked.
func init() {
	register(kmsg.SyncGroup, endpoint{min: 0, max: 5, read: true, maxBody: largeBody, serve: decoded((*Server).syncGroup), shape: shape{
		str(), num(4), str(), str().from(3), str().from(5), str().from(5), arr(str(), raw()),
	}})
}

func (s *Server) syncGroup(r *wire.Request, req *kmsg.SyncGroupRequest) {
	sync := coord.SyncRequest{
		Group: req.Group, MemberID: req.MemberID, Instance: req.InstanceID, Generation: req.Generation,
		ProtocolType: req.ProtocolType, Protocol: req.Protocol, Assignments: map[string][]byte{},
	}
	for _, a := range req.GroupAssignment {
		sync.Assignments[a.MemberID] = a.MemberAssignment
	}
	s.groups.Sync(sync, func(res coord.SyncResult) {
		resp := kmsg.NewPtrSyncGroupResponse()
		resp.ErrorCode = s.code(r, res.Err)
		if res.Err == nil {
			resp.ProtocolType, resp.Protocol, resp.MemberAssignment = ptr(res.ProtocolType), ptr(res.Protocol), res.Assignment
		}
		respond(r, resp)
	})
}
