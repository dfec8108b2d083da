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
	resp.ClusterID, resp.ControllerID = s.topics.ClusterID(), s.controller()
	if r.Version >= 1 && req.EndpointType != 1 {
		resp.EndpointType = req.EndpointType
		resp.ErrorCode, resp.ErrorMessage = s.code(r, errEndpoint), ptr(errEndpoint.Error())
		respond(r, resp)
		return
	}
	for _, known := range s.brokers(r) {
		b := kmsg.NewDescribeClusterResponseBroker()
		b.NodeID, b.Host, b.Port = known.id, known.host, known.port
		if known.rack != "" {
			b.Rack = ptr(known.rack)
		}
		resp.Brokers = append(resp.Brokers, b)
	}
	respond(r, resp)
}
