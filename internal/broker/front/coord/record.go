package coord

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/broker/batch"
)

// Records are in Kafka's encodings: the key's version says what a record is.
//
//	key 1  {group, topic, partition}  value 3 {offset, leader epoch, metadata, time}
//	key 2  {group}                    value 3 {generation, protocol, leader, members}
//
// A null value is a tombstone.
const (
	offsetKeyVersion   = 1
	groupKeyVersion    = 2
	offsetValueVersion = 3
	groupValueVersion  = 3
)

var errRecord = errors.New("malformed group record")

func offsetKey(group string, tp TopicPartition) []byte {
	k := kmsg.OffsetCommitKey{Version: offsetKeyVersion, Group: group, Topic: tp.Topic, Partition: tp.Partition}
	return k.AppendTo(nil)
}

func groupKey(group string) []byte {
	k := kmsg.GroupMetadataKey{Version: groupKeyVersion, Group: group}
	return k.AppendTo(nil)
}

func offsetValue(o Offset) []byte {
	v := kmsg.OffsetCommitValue{Version: offsetValueVersion, Offset: o.Offset, LeaderEpoch: o.LeaderEpoch, Metadata: o.Metadata, CommitTimestamp: o.Committed.UnixMilli()}
	return v.AppendTo(nil)
}

// store writes the group's metadata with the given assignments, or with those
// the members have.
func (g *group) store(now time.Time, assignments map[string][]byte, x *effects, then func(time.Time, *effects, error)) {
	v := kmsg.GroupMetadataValue{Version: groupValueVersion, ProtocolType: g.protocolType, Generation: g.generation, CurrentStateTimestamp: g.since.UnixMilli()}
	if g.protocol != "" {
		v.Protocol = &g.protocol
	}
	if g.leader != "" {
		v.Leader = &g.leader
	}
	for _, id := range g.order {
		m := g.members[id]
		a := m.assignment
		if assignments != nil {
			a = assignments[id]
		}
		v.Members = append(v.Members, kmsg.GroupMetadataValueMember{
			MemberID: m.id, InstanceID: m.instance, ClientID: m.clientID, ClientHost: m.clientHost,
			RebalanceTimeoutMillis: int32(m.rebalance.Milliseconds()), SessionTimeoutMillis: int32(m.session.Milliseconds()),
			Subscription: notNil(m.metadata(g.protocol)), Assignment: notNil(a),
		})
	}
	value := v.AppendTo(nil)
	g.write([]batch.KV{{Timestamp: now.UnixMilli(), Key: groupKey(g.id), Value: value}}, x,
		func(now time.Time, x *effects, _ int64, err error) {
			if err == nil {
				g.metadata = value
			}
			then(now, x, err)
		})
}

func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// restore takes on the group's metadata as the log has it. Members get a whole
// session to be heard of.
func (g *group) restore(value []byte, now time.Time) error {
	if len(value) < 2 || value[0] != 0 || value[1] > 4 {
		return fmt.Errorf("%w: metadata of group %q has an unknown version", errRecord, g.id)
	}
	var v kmsg.GroupMetadataValue
	if err := v.ReadFrom(value); err != nil {
		return fmt.Errorf("%w: metadata of group %q: %w", errRecord, g.id, err)
	}
	g.metadata = slices.Clone(value)
	g.generation, g.protocolType, g.protocol, g.leader = v.Generation, v.ProtocolType, "", ""
	if v.Protocol != nil {
		g.protocol = *v.Protocol
	}
	clear(g.members)
	clear(g.instances)
	g.order = nil
	g.state, g.since = Empty, now
	if v.CurrentStateTimestamp >= 0 {
		g.since = time.UnixMilli(v.CurrentStateTimestamp)
	}
	for _, vm := range v.Members {
		m := &member{id: vm.MemberID, instance: vm.InstanceID, clientID: vm.ClientID, clientHost: vm.ClientHost,
			session: time.Duration(vm.SessionTimeoutMillis) * time.Millisecond, rebalance: time.Duration(vm.RebalanceTimeoutMillis) * time.Millisecond,
			protocols: []Protocol{{g.protocol, slices.Clone(vm.Subscription)}}, assignment: slices.Clone(vm.Assignment)}
		if m.rebalance < 0 {
			m.rebalance = m.session
		}
		if g.members[m.id] != nil {
			return fmt.Errorf("%w: group %q has a member twice", errRecord, g.id)
		}
		g.insert(m)
		g.alive(m, now)
		g.state = Stable
	}
	if v.Leader != nil && g.members[*v.Leader] != nil {
		g.leader = *v.Leader
	}
	return nil
}

// load applies one record of the log.
func (s *shard) load(r batch.Record, offset int64, now time.Time) error {
	if len(r.Key) < 2 {
		return fmt.Errorf("%w: key of %d bytes", errRecord, len(r.Key))
	}
	switch version := binary.BigEndian.Uint16(r.Key); version {
	case 0, offsetKeyVersion:
		var k kmsg.OffsetCommitKey
		if err := k.ReadFrom(r.Key); err != nil {
			return fmt.Errorf("%w: offset key: %w", errRecord, err)
		}
		tp := TopicPartition{k.Topic, k.Partition}
		if r.Value == nil {
			if g := s.groups[k.Group]; g != nil {
				delete(g.offsets, tp)
			}
			return nil
		}
		if len(r.Value) < 2 || r.Value[0] != 0 || r.Value[1] > 4 {
			return fmt.Errorf("%w: offset of group %q has an unknown version", errRecord, k.Group)
		}
		v := kmsg.NewOffsetCommitValue()
		if err := v.ReadFrom(r.Value); err != nil {
			return fmt.Errorf("%w: offset of group %q: %w", errRecord, k.Group, err)
		}
		epoch := int32(-1)
		if v.Version >= 3 {
			epoch = v.LeaderEpoch
		}
		s.restored(k.Group, now).take(tp, Offset{v.Offset, epoch, v.Metadata, time.UnixMilli(v.CommitTimestamp)}, offset)
	case groupKeyVersion:
		var k kmsg.GroupMetadataKey
		if err := k.ReadFrom(r.Key); err != nil {
			return fmt.Errorf("%w: group key: %w", errRecord, err)
		}
		if r.Value == nil {
			if g := s.groups[k.Group]; g != nil {
				fresh := newGroup(s.cfg, k.Group, now)
				fresh.offsets = g.offsets
				s.groups[k.Group] = fresh
			}
			return nil
		}
		return s.restored(k.Group, now).restore(r.Value, now)
	}
	// Keys of later versions belong to protocols this coordinator does not
	// speak; they are kept in the log and otherwise left alone.
	return nil
}

// restored is the group as far as it is loaded. Without metadata its age is that
// of its offsets, which expire looks at too.
func (s *shard) restored(id string, now time.Time) *group {
	g := s.groups[id]
	if g == nil {
		g = newGroup(s.cfg, id, time.UnixMilli(0))
		s.groups[id] = g
	}
	return g
}
