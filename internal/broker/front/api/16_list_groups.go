package api

import (
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/broker/front/coord"
	"github.com/looptape/looptape/internal/broker/front/wire"
)

// ListGroups: v3 flexible, v4 by state, v5 by type.
func init() {
	register(kmsg.ListGroups, endpoint{min: 0, max: 5, read: true, serve: decoded((*Server).listGroups), shape: shape{
		listOf(str()).from(4), listOf(str()).from(5),
	}})
}

func (s *Server) listGroups(r *wire.Request, req *kmsg.ListGroupsRequest) {
	match := func(filter []string, v string) bool {
		return len(filter) == 0 || slices.ContainsFunc(filter, func(f string) bool { return strings.EqualFold(f, v) })
	}
	s.groups.List(func(all []coord.Description, err error) {
		resp := kmsg.NewPtrListGroupsResponse()
		resp.ErrorCode = s.code(r, err)
		for _, d := range all {
			if !match(req.StatesFilter, string(d.State)) || !match(req.TypesFilter, "classic") {
				continue
			}
			g := kmsg.NewListGroupsResponseGroup()
			g.Group, g.ProtocolType, g.GroupState, g.GroupType = d.Group, d.ProtocolType, string(d.State), "classic"
			resp.Groups = append(resp.Groups, g)
		}
		respond(r, resp)
	})
}
