package api

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/broker/front/wire"
)

// DeleteGroups: v2 flexible.
func init() {
	register(kmsg.DeleteGroups, endpoint{min: 0, max: 2, read: true, serve: decoded((*Server).deleteGroups), shape: shape{listOf(str())}})
}

func (s *Server) deleteGroups(r *wire.Request, req *kmsg.DeleteGroupsRequest) {
	resp := kmsg.NewPtrDeleteGroupsResponse()
	resp.Groups = make([]kmsg.DeleteGroupsResponseGroup, len(req.Groups))
	all := gather{left: len(req.Groups) + 1, done: func() { respond(r, resp) }}
	for i, name := range req.Groups {
		s.groups.Delete(name, func(err error) {
			g := kmsg.NewDeleteGroupsResponseGroup()
			g.Group, g.ErrorCode = name, s.code(r, err)
			resp.Groups[i] = g
			all.one()
		})
	}
	all.one()
}
