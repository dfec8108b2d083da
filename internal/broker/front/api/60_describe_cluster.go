package api

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/broker/front/wire"
)

// DescribeCluster: v1 brokers or controllers, v2 fenced brokers. Controllers
// have no endpoint of their own.
func init() {
	register(kmsg.DescribeCluster, endpoint{min: 0, max: 2, serve: decoded((*Server).describeCluster), shape: shape{
		num(1), num(1).from(1), num(1).from(2),
	}})
}

func (s *Server) describeCluster(r *wire.Request, req *kmsg.DescribeClusterRequest) {
	resp := kmsg.NewPtrDescribeClusterResponse()
	resp.EndpointType = 1
	resp.ClusterAuthorizedOperations = noOperations
	resp.ClusterID, resp.ControllerID = s.topics.ClusterID(), s.cfg.NodeID
	if r.Version >= 1 && req.EndpointType != 1 {
		resp.EndpointType = req.EndpointType
		resp.ErrorCode, resp.ErrorMessage = s.code(r, errEndpoint), ptr(errEndpoint.Error())
		respond(r, resp)
		return
	}
	b := kmsg.NewDescribeClusterResponseBroker()
	b.NodeID = s.cfg.NodeID
	b.Host, b.Port = s.cfg.Advertise(r.LocalAddr())
	if s.cfg.Rack != "" {
		b.Rack = ptr(s.cfg.Rack)
	}
	resp.Brokers = append(resp.Brokers, b)
	respond(r, resp)
}
