package coord

import (
	"cmp"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/broker/batch"
)

func (g *group) commit(r *CommitRequest, now time.Time, x *effects, done func(error)) {
	if err := g.mayCommit(r, now); err != nil {
		x.answer(func() { done(err) })
		return
	}
	if len(r.Offsets) == 0 {
		x.answer(func() { done(nil) })
		return
	}
	stamp := time.UnixMilli(now.UnixMilli())
	order := make([]TopicPartition, 0, len(r.Offsets))
	for tp := range r.Offsets {
		order = append(order, tp)
	}
	slices.SortFunc(order, func(a, b TopicPartition) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	records := make([]batch.KV, 0, len(order))
	for _, tp := range order {
		o := r.Offsets[tp]
		o.Committed = stamp
		records = append(records, batch.KV{Timestamp: stamp.UnixMilli(), Key: offsetKey(g.id, tp), Value: offsetValue(o)})
	}
	g.write(records, x, func(_ time.Time, x *effects, base int64, err error) {
		if err == nil {
			for i, tp := range order {
				o := r.Offsets[tp]
				o.Committed = stamp
				g.take(tp, o, base+int64(i))
			}
		}
		x.answer(func() { done(err) })
	})
}

// take applies an offset that the log has at place at; the later record counts.
func (g *group) take(tp TopicPartition, o Offset, at int64) {
	if old, ok := g.offsets[tp]; !ok || old.at <= at {
		g.offsets[tp] = storedOffset{o, at}
	}
}

func (g *group) mayCommit(r *CommitRequest, now time.Time) error {
	if r.Generation < 0 && r.MemberID == "" && r.Instance == nil {
		if g.state != Empty {
			return ErrUnknownMember // partitions of a living group are its members'
		}
		return nil
	}
	m, err := g.check(r.MemberID, r.Instance)
	if err != nil {
		return err
	}
	if r.Generation != g.generation {
		return ErrIllegalGeneration
	}
	if g.state == Completing {
		return ErrRebalance
	}
	g.alive(m, now)
	return nil
}

// tombstones are the records that make the log forget offsets.
func (g *group) tombstones(partitions []TopicPartition, now time.Time) []batch.KV {
	var records []batch.KV
	for _, tp := range partitions {
		records = append(records, batch.KV{Timestamp: now.UnixMilli(), Key: offsetKey(g.id, tp)})
	}
	return records
}

// forget removes offsets from the log and then from memory, where nothing newer
// was committed meanwhile.
func (g *group) forget(partitions []TopicPartition, now time.Time, x *effects, done func(*effects, error)) {
	if len(partitions) == 0 {
		done(x, nil)
		return
	}
	g.write(g.tombstones(partitions, now), x, func(_ time.Time, x *effects, base int64, err error) {
		if err == nil {
			for i, tp := range partitions {
				if o, ok := g.offsets[tp]; ok && o.at < base+int64(i) {
					delete(g.offsets, tp)
				}
			}
		}
		done(x, err)
	})
}

func (g *group) deleteOffsets(partitions []TopicPartition, now time.Time, x *effects, done func([]error, error)) {
	errs := make([]error, len(partitions))
	var gone []TopicPartition
	for i, tp := range partitions {
		if g.subscribes(tp.Topic) {
			errs[i] = ErrSubscribed
		} else if _, ok := g.offsets[tp]; ok {
			gone = append(gone, tp)
		}
	}
	g.forget(gone, now, x, func(x *effects, err error) {
		x.answer(func() { done(errs, err) })
	})
}

func (g *group) forgetTopic(topic string, now time.Time, x *effects) {
	var gone []TopicPartition
	for tp := range g.offsets {
		if tp.Topic == topic {
			gone = append(gone, tp)
		}
	}
	g.forget(gone, now, x, func(*effects, error) {})
}

// subscribes says whether a member names topic in its subscription. In a group
// that is not of consumers nobody can tell, so all are.
func (g *group) subscribes(topic string) bool {
	for _, m := range g.members {
		if g.protocolType != "consumer" {
			return true
		}
		for _, p := range m.protocols {
			var s kmsg.ConsumerMemberMetadata
			if err := s.ReadFrom(p.Metadata); err != nil || slices.Contains(s.Topics, topic) {
				return true
			}
		}
	}
	return false
}

// expire drops the offsets of a group that has had no members for the whole
// retention, and says whether nothing is left of the group.
func (g *group) expire(now time.Time, x *effects) {
	if g.state != Empty || g.inFlight > 0 || now.Sub(g.since) < g.cfg.Retention {
		return
	}
	var gone []TopicPartition
	for tp, o := range g.offsets {
		if now.Sub(o.Committed) >= g.cfg.Retention {
			gone = append(gone, tp)
		}
	}
	if len(gone) == len(g.offsets) {
		if g.metadata != nil || len(gone) > 0 {
			g.remove(now, x, func(error) {})
		}
		return
	}
	g.forget(gone, now, x, func(*effects, error) {})
}
