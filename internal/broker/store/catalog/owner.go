package catalog

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// LogKind says where an epoch's log is kept.
type LogKind uint8

// The kinds of logs. Only a log in objects can be recovered by another broker.
const (
	FileLog   LogKind = 1
	ObjectLog LogKind = 2
)

func (k LogKind) String() string {
	switch k {
	case FileLog:
		return "file"
	case ObjectLog:
		return "object"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// LogID names one epoch of one broker, and so its log. The zero one is none.
type LogID struct {
	Broker int32
	Epoch  int64
}

func (l LogID) String() string { return fmt.Sprintf("%d/%d", l.Broker, l.Epoch) }

// Broker is a broker that keeps its lease.
type Broker struct {
	ID      int32
	Epoch   int64
	Address string // host:port for clients
	Rack    string
}

// owners is the part of the index that says who lives, who leads and who
// recovers whom.
type owners struct {
	moves       int64 // counts changes of what is here, and of partition records and topics
	fences      map[LogID]fenceEntry
	kinds       map[LogID]LogKind
	live        map[int32]liveEntry
	controller  LogID // zero: none
	quarantined map[Partition]string
}

type fenceEntry struct {
	fence
	modRev int64
}

type liveEntry struct {
	Broker
	modRev int64
}

func newOwners() owners {
	return owners{
		fences: map[LogID]fenceEntry{}, kinds: map[LogID]LogKind{}, live: map[int32]liveEntry{},
		quarantined: map[Partition]string{},
	}
}

func (o *owners) apply(ch change) error {
	key := ch.key
	bad := func() error { return fmt.Errorf("%w: key %q", ErrCorrupt, key) }
	wrap := func(err error) error {
		if err != nil {
			err = fmt.Errorf("%s: %w", key, err)
		}
		return err
	}
	switch {
	case strings.HasPrefix(key, prefixFence):
		id, ok := parseLog(key[len(prefixFence):])
		if !ok {
			return bad()
		}
		o.moves++
		if ch.gone {
			delete(o.fences, id)
			return nil
		}
		f, err := decodeFence(ch.value)
		o.fences[id] = fenceEntry{f, ch.modRev}
		return wrap(err)
	case strings.HasPrefix(key, prefixWAL):
		id, ok := parseLog(key[len(prefixWAL):])
		if !ok {
			return bad()
		}
		if ch.gone {
			delete(o.kinds, id)
			return nil
		}
		r, err := decodeWAL(ch.value)
		o.kinds[id] = r.Kind
		return wrap(err)
	case strings.HasPrefix(key, prefixBrokers):
		id, ok := parseLive(key[len(prefixBrokers):])
		if !ok {
			return bad()
		}
		o.moves++
		if ch.gone {
			delete(o.live, id)
			return nil
		}
		b, err := decodeLive(ch.value)
		b.ID = id
		o.live[id] = liveEntry{b, ch.modRev}
		return wrap(err)
	case key == keyController:
		o.moves++
		if ch.gone {
			o.controller = LogID{}
			return nil
		}
		var err error
		o.controller, err = decodeLogID("controller", ch.value)
		return wrap(err)
	case strings.HasPrefix(key, prefixQuarantine):
		p, ok := parsePartition(key[len(prefixQuarantine):])
		if !ok {
			return bad()
		}
		o.moves++
		if ch.gone {
			delete(o.quarantined, p)
			return nil
		}
		why, err := decodeText("quarantine", ch.value)
		o.quarantined[p] = why
		return wrap(err)
	case strings.HasPrefix(key, prefixParts), strings.HasPrefix(key, prefixTopics):
		o.moves++
	}
	return nil
}

// owner follows a partition's record along the restarts in place of its broker:
// an epoch that its own broker sealed hands over to the epoch that sealed it (P3).
// It returns the last one and its fence.
func (o *owners) owner(p part) (LogID, fenceEntry) {
	id := LogID{p.Leader, p.BrokerEpoch}
	for {
		f := o.fences[id]
		if f.State == 0 || f.State == fenceActive || f.By != id.Broker || f.ByEpoch <= id.Epoch {
			return id, f
		}
		next := LogID{id.Broker, f.ByEpoch}
		if o.fences[next].State == 0 {
			return id, f // died between the two
		}
		id = next
	}
}

// alive says that the epoch may commit and keeps its lease.
func (o *owners) alive(id LogID) bool {
	return o.fences[id].State == fenceActive && o.live[id.Broker].Epoch == id.Epoch && o.live[id.Broker].modRev != 0
}

// Alive says whether the epoch is active and its live key is there.
func (c *Catalog) Alive(id LogID) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.ix.owners.alive(id)
}

// SealedBy returns who has taken the epoch over, if somebody has.
func (c *Catalog) SealedBy(id LogID) (by LogID, sealed bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	f := c.ix.owners.fences[id]
	return LogID{f.By, f.ByEpoch}, f.State == fenceSealed || f.State == fenceDone
}

// Owns says whether the broker that registered here leads the partition, as far
// as the index knows.
func (c *Catalog) Owns(p Partition) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	e, ok := c.ix.parts[p]
	if !ok {
		return false
	}
	id, f := c.ix.owners.owner(e.part)
	return f.State == fenceActive && id == c.self() && c.ix.owners.quarantined[p] == ""
}

// Owned returns the partitions that the broker registered here leads and that
// exist, in no order.
func (c *Catalog) Owned() []Partition {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var all []Partition
	for p, e := range c.ix.parts {
		if t, ok := c.ix.topics[p.Topic]; !ok || p.Index >= t.Partitions || c.ix.owners.quarantined[p] != "" {
			continue
		}
		if id, f := c.ix.owners.owner(e.part); f.State == fenceActive && id == c.self() {
			all = append(all, p)
		}
	}
	return all
}

// self is the epoch registered here. c.mu is held.
func (c *Catalog) self() LogID { return LogID{c.leader.Leader, c.leader.BrokerEpoch} }

// Leader returns who leads the partition and under which leader epoch. While
// nobody does, it names who will: the broker that recovers the log or, before
// there is one, the controller; serves says which. -1: nobody, and nobody will
// before an operator has decided.
func (c *Catalog) Leader(p Partition) (broker int32, leaderEpoch int32, serves bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	o := &c.ix.owners
	e, ok := c.ix.parts[p]
	if !ok || o.quarantined[p] != "" {
		return -1, -1, false
	}
	id, f := o.owner(e.part)
	if len(o.live) == 0 { // one process alone
		return id.Broker, e.LeaderEpoch, f.State == fenceActive
	}
	if o.alive(id) {
		return id.Broker, e.LeaderEpoch, true
	}
	if f.State == fenceActive && o.kinds[id] == FileLog {
		return -1, e.LeaderEpoch, false // it comes back on its volume, or an operator decides
	}
	next := o.controller
	if by := (LogID{f.By, f.ByEpoch}); f.State != fenceActive && o.alive(by) {
		next = by
	}
	if !o.alive(next) {
		return -1, e.LeaderEpoch, false
	}
	return next.Broker, e.LeaderEpoch, false
}

// Brokers returns the live brokers by id. None are without a lease.
func (c *Catalog) Brokers() []Broker {
	c.mu.RLock()
	defer c.mu.RUnlock()
	all := make([]Broker, 0, len(c.ix.owners.live))
	for _, b := range c.ix.owners.live {
		all = append(all, b.Broker)
	}
	slices.SortFunc(all, func(a, b Broker) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

// Controller returns the elected controller, the zero LogID while there is none.
func (c *Catalog) Controller() LogID {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.ix.owners.controller
}

// Quarantined returns the partitions that recovery found damaged, with what was
// found. Nobody leads them.
func (c *Catalog) Quarantined() map[Partition]string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return maps.Clone(c.ix.owners.quarantined)
}

// Moment is a state of what says who lives, leads and recovers; two that are
// equal are the same state.
type Moment struct {
	ix    *index
	moves int64
}

// AwaitMove waits until that state is another than since and returns it. The
// zero Moment is another.
func (c *Catalog) AwaitMove(ctx context.Context, since Moment) (Moment, error) {
	for {
		c.mu.RLock()
		now, changed := Moment{c.ix, c.ix.owners.moves}, c.changed
		c.mu.RUnlock()
		if now != since {
			return now, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return since, ctx.Err()
		}
	}
}

// DeadBroker is what a broker left behind: epochs that are not done and that nobody
// alive keeps or recovers, in ascending order.
type DeadBroker struct {
	Broker int32
	Epochs []int64
	// Stuck says that one of the logs is in files: only its own broker can
	// recover it, on its volume.
	Stuck bool
}

// DeadBrokers returns the brokers with such epochs, by id.
func (c *Catalog) DeadBrokers() []DeadBroker {
	c.mu.RLock()
	defer c.mu.RUnlock()
	o := &c.ix.owners
	found := map[int32]*DeadBroker{}
	for id, f := range o.fences {
		kept := f.State == fenceDone ||
			f.State == fenceActive && o.alive(id) ||
			f.State == fenceSealed && o.alive(LogID{f.By, f.ByEpoch})
		if kept {
			continue
		}
		d := found[id.Broker]
		if d == nil {
			d = &DeadBroker{Broker: id.Broker}
			found[id.Broker] = d
		}
		d.Epochs = append(d.Epochs, id.Epoch)
		d.Stuck = d.Stuck || o.kinds[id] != ObjectLog
	}
	var all []DeadBroker
	for _, d := range found {
		slices.Sort(d.Epochs)
		all = append(all, *d)
	}
	slices.SortFunc(all, func(a, b DeadBroker) int { return cmp.Compare(a.Broker, b.Broker) })
	return all
}

// Recovering returns the brokers other than the one registered here whose logs it
// is to recover, by id.
func (c *Catalog) Recovering() []int32 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	self := c.self()
	brokers := map[int32]bool{}
	for id, f := range c.ix.owners.fences {
		if f.State == fenceSealed && id.Broker != self.Broker && (LogID{f.By, f.ByEpoch}) == self {
			brokers[id.Broker] = true
		}
	}
	return slices.Sorted(maps.Keys(brokers))
}

// An Orphan is a partition without a leader whose data is all in objects. By is
// the live broker that recovered it, or none.
type Orphan struct {
	Partition Partition
	By        LogID
}

// Orphans returns the partitions that can be given a leader, sorted.
func (c *Catalog) Orphans() []Orphan {
	c.mu.RLock()
	defer c.mu.RUnlock()
	o := &c.ix.owners
	// A partition waits for all logs of its broker that another one recovers: a
	// later epoch may have written to it too.
	pending := map[int32]bool{}
	for id, f := range o.fences {
		if f.State == fenceSealed && f.By != id.Broker {
			pending[id.Broker] = true
		}
	}
	var all []Orphan
	for p, e := range c.ix.parts {
		if t, ok := c.ix.topics[p.Topic]; !ok || p.Index >= t.Partitions || o.quarantined[p] != "" || pending[e.Leader] {
			continue
		}
		id, f := o.owner(e.part)
		switch {
		case f.State == fenceDone && f.By != id.Broker: // its log is in objects
		case f.State == 0: // there never was such an epoch
		default:
			continue
		}
		n := Orphan{Partition: p}
		if by := (LogID{f.By, f.ByEpoch}); f.State != 0 && o.alive(by) {
			n.By = by
		}
		all = append(all, n)
	}
	slices.SortFunc(all, func(a, b Orphan) int {
		return cmp.Or(slices.Compare(a.Partition.Topic[:], b.Partition.Topic[:]), cmp.Compare(a.Partition.Index, b.Partition.Index))
	})
	return all
}

func encodeLive(b Broker) []byte {
	e := newEncoder()
	e.i64(b.Epoch)
	e.str(b.Address)
	e.str(b.Rack)
	return e.bytes()
}

// decodeLive leaves ID empty; the key has it.
func decodeLive(v []byte) (Broker, error) {
	d := newDecoder("live broker", v)
	b := Broker{Epoch: d.i64(), Address: d.str(), Rack: d.str()}
	return b, d.done()
}

func encodeLogID(l LogID) []byte {
	e := newEncoder()
	e.i32(l.Broker)
	e.i64(l.Epoch)
	return e.bytes()
}

func decodeLogID(what string, v []byte) (LogID, error) {
	d := newDecoder(what, v)
	l := LogID{Broker: d.i32(), Epoch: d.i64()}
	return l, d.done()
}

func encodeText(s string) []byte {
	e := newEncoder()
	e.str(s)
	return e.bytes()
}

func decodeText(what string, v []byte) (string, error) {
	d := newDecoder(what, v)
	s := d.str()
	return s, d.done()
}
