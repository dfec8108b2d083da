package api

import (
	"net"
	"strconv"

	"github.com/looptape/looptape/internal/broker/front/coord"
	"github.com/looptape/looptape/internal/broker/front/wire"
	"github.com/looptape/looptape/internal/broker/store/catalog"
)

// broker is one of the cluster as clients see it.
type broker struct {
	id   int32
	host string
	port int32
	rack string
}

// brokers are the live ones and always this one, which is named as the client
// has reached it unless an address was configured.
func (s *Server) brokers(r *wire.Request) []broker {
	self := broker{id: s.cfg.NodeID, rack: s.cfg.Rack}
	self.host, self.port = s.cfg.Advertise(r.LocalAddr())
	all := []broker{self}
	if s.cfg.Cluster == nil {
		return all
	}
	for _, b := range s.cfg.Cluster.Brokers() {
		host, port, err := net.SplitHostPort(b.Address)
		n, perr := strconv.ParseUint(port, 10, 16)
		if b.ID == s.cfg.NodeID || err != nil || perr != nil {
			continue
		}
		all = append(all, broker{b.ID, host, int32(n), b.Rack})
	}
	return all
}

// controller is the broker that clients send administration to: any can do it.
func (s *Server) controller() int32 {
	if s.cfg.Cluster != nil {
		if c := s.cfg.Cluster.Controller(); c != (catalog.LogID{}) {
			return c.Broker
		}
	}
	return s.cfg.NodeID
}

// leader names a partition's leader, or who will be it, and its leader epoch; -1
// for nobody.
func (s *Server) leader(t catalog.Topic, index int32) (id, epoch int32) {
	id, epoch = s.cfg.NodeID, -1
	if s.cfg.Cluster != nil {
		id, epoch, _ = s.cfg.Cluster.Leader(catalog.Partition{Topic: t.ID, Index: index})
	}
	if id == s.cfg.NodeID {
		if log, err := s.open(t, index); err == nil {
			epoch = log.LeaderEpoch()
		}
	}
	return id, epoch
}

// coordinator returns the broker that coordinates a group: the leader of the
// partition that keeps it.
func (s *Server) coordinator(r *wire.Request, group string) (broker, error) {
	all := s.brokers(r)
	if s.cfg.Cluster == nil || len(s.cfg.Cluster.Brokers()) == 0 {
		return all[0], nil
	}
	t, ok := s.topics.Topic(coord.Topic)
	if !ok {
		return broker{}, errNoCoordinator
	}
	id, _, serves := s.cfg.Cluster.Leader(catalog.Partition{Topic: t.ID, Index: coord.PartitionOf(group)})
	for _, b := range all {
		if serves && b.id == id {
			return b, nil
		}
	}
	return broker{}, errNoCoordinator
}
