package api

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/broker/front/wire"
)

// InitProducerId: v2 flexible, v3 a producer may name the id it has. Without
// transactions every call gets a new id at epoch 0, as in Kafka.
func init() {
	register(kmsg.InitProducerID, endpoint{min: 0, max: 5, serve: decoded((*Server).initProducerID), shape: shape{
		str(), num(4), num(8).from(3), num(2).from(3),
	}})
}

func (s *Server) initProducerID(r *wire.Request, req *kmsg.InitProducerIDRequest) {
	resp := kmsg.NewPtrInitProducerIDResponse()
	resp.ProducerID, resp.ProducerEpoch = -1, -1
	if req.TransactionalID != nil {
		resp.ErrorCode = s.code(r, errTransactions)
		respond(r, resp)
		return
	}
	id, err := s.producerID(r.Context())
	if err != nil {
		resp.ErrorCode = s.code(r, err)
	} else {
		resp.ProducerID, resp.ProducerEpoch = id, 0
	}
	respond(r, resp)
}

// producerID hands out ids of the block in hand. Blocks are fetched outside the
// lock; when two are, the ids of the earlier are lost, which is no harm.
func (s *Server) producerID(ctx context.Context) (int64, error) {
	p := &s.pids
	p.Lock()
	if p.next < p.end {
		defer p.Unlock()
		p.next++
		return p.next - 1, nil
	}
	p.Unlock()
	first, n, err := s.topics.NextProducerIDs(context.WithoutCancel(ctx))
	if err != nil {
		return 0, err
	}
	p.Lock()
	defer p.Unlock()
	p.next, p.end = first+1, first+n
	return first, nil
}
