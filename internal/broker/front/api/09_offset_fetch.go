package api

import (
	"cmp"
	"slices"
	"sync"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/broker/front/coord"
	"github.com/looptape/looptape/internal/broker/front/wire"
)

// OffsetFetch: v2 null means all partitions, v5 leader epochs, v6 flexible, v8
// many groups at once, v9 members of the newer protocol.
func init() {
	register(kmsg.OffsetFetch, endpoint{min: 1, max: 9, read: true, maxBody: largeBody, serve: decoded((*Server).offsetFetch), shape: shape{
		str().to(7), arr(str(), listOf(num(4))).to(7),
		arr(str(), str().from(9), num(4).from(9), arr(str(), listOf(num(4)))).from(8),
		num(1).from(7),
	}})
}

func (s *Server) offsetFetch(r *wire.Request, req *kmsg.OffsetFetchRequest) {
	if r.Version < 8 {
		g := kmsg.NewOffsetFetchRequestGroup()
		g.Group = req.Group
		if req.Topics != nil {
			g.Topics = []kmsg.OffsetFetchRequestGroupTopic{}
		}
		for _, t := range req.Topics {
			gt := kmsg.NewOffsetFetchRequestGroupTopic()
			gt.Topic, gt.Partitions = t.Topic, t.Partitions
			g.Topics = append(g.Topics, gt)
		}
		s.groupOffsets(r, g, func(res kmsg.OffsetFetchResponseGroup) { respond(r, oldOffsets(res, r.Version)) })
		return
	}
	resp := kmsg.NewPtrOffsetFetchResponse()
	resp.Groups = make([]kmsg.OffsetFetchResponseGroup, len(req.Groups))
	all := gather{left: len(req.Groups) + 1, done: func() { respond(r, resp) }}
	for i, g := range req.Groups {
		s.groupOffsets(r, g, func(res kmsg.OffsetFetchResponseGroup) {
			resp.Groups[i] = res
			all.one()
		})
	}
	all.one()
}

// gather calls done when one has been called left times.
type gather struct {
	mu   sync.Mutex // guards left
	left int
	done func()
}

func (g *gather) one() {
	g.mu.Lock()
	g.left--
	last := g.left == 0
	g.mu.Unlock()
	if last {
		g.done()
	}
}

func (s *Server) groupOffsets(r *wire.Request, g kmsg.OffsetFetchRequestGroup, done func(kmsg.OffsetFetchResponseGroup)) {
	var wanted []coord.TopicPartition
	if g.Topics != nil {
		wanted = []coord.TopicPartition{}
	}
	for _, t := range g.Topics {
		for _, p := range t.Partitions {
			wanted = append(wanted, coord.TopicPartition{Topic: t.Topic, Partition: p})
		}
	}
	s.groups.Offsets(g.Group, wanted, func(found map[coord.TopicPartition]coord.Offset, err error) {
		res := kmsg.NewOffsetFetchResponseGroup()
		res.Group = g.Group
		res.ErrorCode = s.code(r, err)
		if wanted == nil {
			for tp := range found {
				wanted = append(wanted, tp)
			}
			slices.SortFunc(wanted, func(a, b coord.TopicPartition) int {
				return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
			})
		}
		for i, tp := range wanted {
			if i == 0 || wanted[i-1].Topic != tp.Topic {
				t := kmsg.NewOffsetFetchResponseGroupTopic()
				t.Topic = tp.Topic
				res.Topics = append(res.Topics, t)
			}
			p := kmsg.NewOffsetFetchResponseGroupTopicPartition()
			p.Partition, p.Offset, p.LeaderEpoch, p.Metadata = tp.Partition, -1, -1, ptr("")
			if o, ok := found[tp]; ok {
				p.Offset, p.LeaderEpoch, p.Metadata = o.Offset, o.LeaderEpoch, ptr(o.Metadata)
			}
			t := &res.Topics[len(res.Topics)-1]
			t.Partitions = append(t.Partitions, p)
		}
		done(res)
	})
}

// oldOffsets is the form for a single group. v1 has the error with each
// partition only.
func oldOffsets(g kmsg.OffsetFetchResponseGroup, version int16) *kmsg.OffsetFetchResponse {
	resp := kmsg.NewPtrOffsetFetchResponse()
	resp.ErrorCode = g.ErrorCode
	for _, t := range g.Topics {
		rt := kmsg.NewOffsetFetchResponseTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rp := kmsg.NewOffsetFetchResponseTopicPartition()
			rp.Partition, rp.Offset, rp.LeaderEpoch, rp.Metadata = p.Partition, p.Offset, p.LeaderEpoch, p.Metadata
			if version < 2 {
				rp.ErrorCode = g.ErrorCode
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}
