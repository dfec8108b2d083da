package api

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/broker/front/coord"
	"github.com/looptape/looptape/internal/broker/front/wire"
)

// LeaveGroup: v3 many members, v4 flexible, v5 with a reason.
func init() {
	register(kmsg.LeaveGroup, endpoint{min: 0, max: 5, read: true, serve: decoded((*Server).leaveGroup), shape: shape{
		str(), str().to(2), arr(str(), str(), str().from(5)).from(3),
	}})
}

func (s *Server) leaveGroup(r *wire.Request, req *kmsg.LeaveGroupRequest) {
	leave := coord.LeaveRequest{Group: req.Group}
	if r.Version < 3 {
		leave.Members = []coord.Leaver{{MemberID: req.MemberID}}
	}
	for _, m := range req.Members {
		leave.Members = append(leave.Members, coord.Leaver{MemberID: m.MemberID, Instance: m.InstanceID})
	}
	s.groups.Leave(leave, func(errs []error, err error) {
		resp := kmsg.NewPtrLeaveGroupResponse()
		resp.ErrorCode = s.code(r, err)
		for i, e := range errs {
			code := s.code(r, e)
			if r.Version < 3 {
				resp.ErrorCode = code
				break
			}
			m := kmsg.NewLeaveGroupResponseMember()
			m.MemberID, m.InstanceID, m.ErrorCode = leave.Members[i].MemberID, leave.Members[i].Instance, code
			resp.Members = append(resp.Members, m)
		}
		respond(r, resp)
	})
}
