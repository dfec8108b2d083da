package api

import (
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/broker/front/coord"
	"github.com/looptape/looptape/internal/broker/front/wire"
)

// JoinGroup: v1 rebalance timeout, v4 the member id comes first, v5 static
// members, v6 flexible, v9 a leader may be told to keep assignments.
func init() {
	register(kmsg.JoinGroup, endpoint{min: 0, max: 9, read: true, maxBody: largeBody, serve: decoded((*Server).joinGroup), shape: shape{
		str(), num(4), num(4).from(1), str(), str().from(5), str(), arr(str(), raw()), str().from(8),
	}})
}

func (s *Server) joinGroup(r *wire.Request, req *kmsg.JoinGroupRequest) {
	join := coord.JoinRequest{
		Group: req.Group, MemberID: req.MemberID, Instance: req.InstanceID,
		ClientID: r.ClientID, ClientHost: clientHost(r.RemoteAddr()),
		ProtocolType:   req.ProtocolType,
		Session:        millis(req.SessionTimeoutMillis),
		Rebalance:      millis(req.RebalanceTimeoutMillis),
		RequireKnownID: r.Version >= 4,
		SkipAssignment: r.Version >= 9,
	}
	if r.Version < 1 || join.Rebalance <= 0 {
		join.Rebalance = join.Session
	}
	for _, p := range req.Protocols {
		join.Protocols = append(join.Protocols, coord.Protocol{Name: p.Name, Metadata: p.Metadata})
	}
	s.groups.Join(join, func(res coord.JoinResult) {
		resp := kmsg.NewPtrJoinGroupResponse()
		resp.ErrorCode = s.code(r, res.Err)
		resp.Generation, resp.LeaderID, resp.MemberID, resp.SkipAssignment = res.Generation, res.Leader, res.MemberID, res.SkipAssignment
		resp.Protocol = ptr(res.Protocol)
		if res.Err == nil {
			resp.ProtocolType = ptr(res.ProtocolType)
		} else if r.Version >= 7 {
			resp.Protocol = nil
		}
		for _, m := range res.Members {
			rm := kmsg.NewJoinGroupResponseMember()
			rm.MemberID, rm.InstanceID, rm.ProtocolMetadata = m.ID, m.Instance, m.Metadata
			resp.Members = append(resp.Members, rm)
		}
		respond(r, resp)
	})
}

func millis(ms int32) time.Duration { return time.Duration(ms) * time.Millisecond }

// clientHost is written as Kafka does.
func clientHost(a net.Addr) string {
	if host, _, err := net.SplitHostPort(a.String()); err == nil {
		return "/" + host
	}
	return "/" + a.String()
}
