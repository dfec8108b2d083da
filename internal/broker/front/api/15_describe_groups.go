package api

import (
	"errors"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/broker/front/coord"
	"github.com/looptape/looptape/internal/broker/front/wire"
)

// DescribeGroups: v4 static members, v5 flexible, v6 says when a group does not
// exist (before, it is described as dead).
func init() {
	register(kmsg.DescribeGroups, endpoint{min: 0, max: 6, read: true, serve: decoded((*Server).describeGroups), shape: shape{
		listOf(str()), num(1).from(3),
	}})
}

func (s *Server) describeGroups(r *wire.Request, req *kmsg.DescribeGroupsRequest) {
	resp := kmsg.NewPtrDescribeGroupsResponse()
	resp.Groups = make([]kmsg.DescribeGroupsResponseGroup, len(req.Groups))
	all := gather{left: len(req.Groups) + 1, done: func() { respond(r, resp) }}
	for i, name := range req.Groups {
		s.groups.Describe(name, func(d coord.Description, err error) {
			g := kmsg.NewDescribeGroupsResponseGroup()
			g.Group, g.AuthorizedOperations = name, noOperations
			switch {
			case errors.Is(err, coord.ErrNotFound):
				g.State = string(coord.Dead)
				if r.Version >= 6 {
					g.ErrorCode, g.ErrorMessage = s.code(r, err), ptr(err.Error())
				}
			case err != nil:
				g.ErrorCode = s.code(r, err)
			default:
				g.State, g.ProtocolType, g.Protocol = string(d.State), d.ProtocolType, d.Protocol
			}
			for _, m := range d.Members {
				gm := kmsg.NewDescribeGroupsResponseGroupMember()
				gm.MemberID, gm.InstanceID, gm.ClientID, gm.ClientHost = m.ID, m.Instance, m.ClientID, m.ClientHost
				gm.ProtocolMetadata, gm.MemberAssignment = m.Metadata, m.Assignment
				g.Members = append(g.Members, gm)
			}
			resp.Groups[i] = g
			all.one()
		})
	}
	all.one()
}
