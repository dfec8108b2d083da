package api

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/broker/front/wire"
)

// ApiVersions: v3 flexible, with the client's name, v5 with the cluster and node
// it means to reach. It has no shape: what a client says here is not used, and
// everybody must get an answer.
func init() {
	register(kmsg.ApiVersions, endpoint{min: 0, max: 5, serve: (*Server).apiVersions})
}

func (s *Server) apiVersions(r *wire.Request) {
	resp := kmsg.NewPtrApiVersionsResponse()
	resp.ApiKeys = Served()
	respond(r, resp)
}

// unsupportedVersion answers a version we do not know in the form that every
// client knows, with our ranges.
func (s *Server) unsupportedVersion(r *wire.Request) {
	s.obs.Error(r.Key, codeUnsupportedVersion)
	resp := kmsg.NewPtrApiVersionsResponse()
	resp.ErrorCode = codeUnsupportedVersion
	resp.ApiKeys = Served()
	resp.SetVersion(0)
	r.Respond(message{resp})
}
