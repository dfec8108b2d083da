package coord

import (
	"bytes"
	"maps"
	"slices"
	"time"

	"github.com/looptape/looptape/internal/broker/batch"
)

// A State is where a group stands, in Kafka's words.
type State string

// The states of a group. A dead group has left its shard and is met only by
// what was under way.
const (
	Empty      State = "Empty"
	Preparing  State = "PreparingRebalance"
	Completing State = "CompletingRebalance"
	Stable     State = "Stable"
	Dead       State = "Dead"
)

// effects are what a step asks for. They are carried out after the step, in
// order.
type effects struct {
	answers []func()
	writes  []write
}

// A write is appended to the log as one batch. then is a step of its own, run
// when the batch is durable or has failed; base is the batch's first offset.
type write struct {
	records []batch.KV
	then    func(now time.Time, x *effects, base int64, err error)
}

func (x *effects) answer(fn func()) { x.answers = append(x.answers, fn) }

func (x *effects) write(records []batch.KV, then func(time.Time, *effects, int64, error)) {
	x.writes = append(x.writes, write{records, then})
}

// A member of a group.
type member struct {
	id                   string
	instance             *string
	clientID, clientHost string
	session, rebalance   time.Duration
	protocols            []Protocol
	assignment           []byte
	deadline             time.Time // silent until then: dead
	join                 func(JoinResult)
	sync                 func(SyncResult)
}

// waits says that the member waits for the group: it is not its turn to speak,
// and it can't be late.
func (m *member) waits() bool { return m.join != nil || m.sync != nil }

func (m *member) metadata(protocol string) []byte {
	for _, p := range m.protocols {
		if p.Name == protocol {
			return p.Metadata
		}
	}
	return nil
}

func (m *member) answerJoin(x *effects, r JoinResult) {
	if done := m.join; done != nil {
		m.join = nil
		x.answer(func() { done(r) })
	}
}

func (m *member) answerSync(x *effects, r SyncResult) {
	if done := m.sync; done != nil {
		m.sync = nil
		x.answer(func() { done(r) })
	}
}

// storedOffset is an offset with the place of its record in the log.
type storedOffset struct {
	Offset
	at int64
}

// A group is one group's state. Its methods are steps.
type group struct {
	cfg          *Config
	id           string
	state        State
	since        time.Time // in state Empty since
	generation   int32
	protocolType string
	protocol     string
	leader       string
	members      map[string]*member
	order        []string             // of joining
	instances    map[string]string    // static members' ids
	pending      map[string]time.Time // ids given out, and until when they are good
	offsets      map[TopicPartition]storedOffset
	inFlight     int    // writes not yet durable
	metadata     []byte // the group's record as the log has it last; nil: none

	initial  time.Time // Preparing: a new group waits for more members; zero: it does not
	newcomer bool      // a member was added during that wait
	joinEnd  time.Time // Preparing: those who have not rejoined are out
	syncEnd  time.Time // Completing: those who have not synced are out
	wake     time.Time // nothing is due before; zero: nothing is due
}

func newGroup(cfg *Config, id string, now time.Time) *group {
	return &group{cfg: cfg, id: id, state: Empty, since: now, members: map[string]*member{}, instances: map[string]string{},
		pending: map[string]time.Time{}, offsets: map[TopicPartition]storedOffset{}}
}

// idle says that nothing would be lost if the group were forgotten.
func (g *group) idle() bool {
	return g.state == Empty && len(g.pending) == 0 && len(g.offsets) == 0 && g.metadata == nil && g.inFlight == 0
}

func (g *group) arm(at time.Time) {
	if g.wake.IsZero() || at.Before(g.wake) {
		g.wake = at
	}
}

// alive notes that a member has been heard of.
func (g *group) alive(m *member, now time.Time) {
	m.deadline = now.Add(m.session)
	g.arm(m.deadline)
}

// check finds the member that a request names.
func (g *group) check(id string, instance *string) (*member, error) {
	if instance != nil {
		current, ok := g.instances[*instance]
		if !ok {
			return nil, ErrUnknownMember
		}
		if current != id {
			return nil, ErrFencedInstance
		}
	}
	m := g.members[id]
	if m == nil {
		return nil, ErrUnknownMember
	}
	return m, nil
}

// supports says whether a member with these protocols can live with the others.
func (g *group) supports(r *JoinRequest) bool {
	if r.ProtocolType == "" || len(r.Protocols) == 0 {
		return false
	}
	if len(g.members) == 0 {
		return true
	}
	if r.ProtocolType != g.protocolType {
		return false
	}
	for _, p := range r.Protocols {
		if g.allKnow(p.Name, r.MemberID) {
			return true
		}
	}
	return false
}

func (g *group) allKnow(protocol, except string) bool {
	for _, m := range g.members {
		if m.id != except && !slices.ContainsFunc(m.protocols, func(p Protocol) bool { return p.Name == protocol }) {
			return false
		}
	}
	return true
}

// choose picks the protocol: of those that all know, the one most members
// like best; of equals the one an earlier member likes.
func (g *group) choose() string {
	votes := map[string]int{}
	best := ""
	for _, id := range g.order {
		for _, p := range g.members[id].protocols {
			if g.allKnow(p.Name, "") {
				votes[p.Name]++
				break
			}
		}
	}
	for _, id := range g.order {
		for _, p := range g.members[id].protocols {
			if votes[p.Name] > votes[best] {
				best = p.Name
			}
		}
	}
	return best
}

func (g *group) join(r *JoinRequest, now time.Time, x *effects, done func(JoinResult)) {
	fail := func(err error, id string) {
		x.answer(func() { done(JoinResult{Err: err, MemberID: id, Generation: -1}) })
	}
	if !g.supports(r) {
		fail(ErrInconsistentProtocol, r.MemberID)
		return
	}
	if r.MemberID == "" {
		if r.Instance != nil {
			if old, ok := g.instances[*r.Instance]; ok {
				g.replace(g.members[old], r, now, x, done)
				return
			}
		}
		if len(g.members)+len(g.pending) >= g.cfg.MaxMembers {
			fail(ErrGroupFull, "")
			return
		}
		if r.Instance == nil && r.RequireKnownID {
			g.pending[r.freshID] = now.Add(r.Session)
			g.arm(now.Add(r.Session))
			fail(ErrMemberIDRequired, r.freshID)
			return
		}
		g.add(r.freshID, r, now, x, done)
		return
	}
	if _, ok := g.pending[r.MemberID]; ok && r.Instance == nil {
		g.add(r.MemberID, r, now, x, done)
		return
	}
	m, err := g.check(r.MemberID, r.Instance)
	if err != nil {
		fail(err, r.MemberID)
		return
	}
	same := slices.EqualFunc(m.protocols, r.Protocols, func(a, b Protocol) bool {
		return a.Name == b.Name && bytes.Equal(a.Metadata, b.Metadata)
	})
	switch {
	case g.state == Completing && same, g.state == Stable && same && m.id != g.leader:
		// It did not hear of the generation it is in.
		g.alive(m, now)
		res := g.joined(m)
		x.answer(func() { done(res) })
	case g.state == Empty || g.state == Dead:
		fail(ErrUnknownMember, r.MemberID)
	default:
		m.update(r)
		g.await(m, x, done)
		g.rebalance(now, x)
	}
}

func (m *member) update(r *JoinRequest) {
	m.protocols, m.session, m.rebalance = r.Protocols, r.Session, r.Rebalance
	m.clientID, m.clientHost = r.ClientID, r.ClientHost
}

// await parks a join. An older one of the same member is a lost connection's.
func (g *group) await(m *member, x *effects, done func(JoinResult)) {
	m.answerJoin(x, JoinResult{Err: ErrUnknownMember, MemberID: m.id, Generation: -1})
	m.join = done
}

func (g *group) add(id string, r *JoinRequest, now time.Time, x *effects, done func(JoinResult)) {
	delete(g.pending, id)
	m := &member{id: id, instance: r.Instance}
	m.update(r)
	g.insert(m)
	g.protocolType = r.ProtocolType
	g.newcomer = true
	g.await(m, x, done)
	g.alive(m, now)
	g.rebalance(now, x)
}

func (g *group) insert(m *member) {
	g.members[m.id] = m
	g.order = append(g.order, m.id)
	if m.instance != nil {
		g.instances[*m.instance] = m.id
	}
	if g.leader == "" {
		g.leader = m.id
	}
}

// drop takes a member out and tells those who wait in its name.
func (g *group) drop(m *member, x *effects, why error) {
	m.answerJoin(x, JoinResult{Err: why, MemberID: m.id, Generation: -1})
	m.answerSync(x, SyncResult{Err: why})
	delete(g.members, m.id)
	if m.instance != nil && g.instances[*m.instance] == m.id {
		delete(g.instances, *m.instance)
	}
	g.order = slices.DeleteFunc(g.order, func(id string) bool { return id == m.id })
	if g.leader == m.id {
		g.leader = ""
		if len(g.order) > 0 {
			g.leader = g.order[0]
		}
	}
}

// replace lets a static member that came back take over from its former self,
// without a rebalance where nothing changes for the others.
func (g *group) replace(m *member, r *JoinRequest, now time.Time, x *effects, done func(JoinResult)) {
	old, chosen := m.id, m.metadata(g.protocol)
	m.answerJoin(x, JoinResult{Err: ErrFencedInstance, MemberID: old, Generation: -1})
	m.answerSync(x, SyncResult{Err: ErrFencedInstance})
	delete(g.members, old)
	m.id = r.freshID
	g.members[m.id] = m
	g.order[slices.Index(g.order, old)] = m.id
	g.instances[*m.instance] = m.id
	wasLeader := g.leader == old
	if wasLeader {
		g.leader = m.id
	}
	m.update(r)
	g.alive(m, now)
	if g.state != Stable || g.choose() != g.protocol || !bytes.Equal(chosen, m.metadata(g.protocol)) {
		g.await(m, x, done)
		g.rebalance(now, x)
		return
	}
	res := g.joined(m)
	if wasLeader {
		// It must not assign anew. Clients that can't be told so are not told
		// that they lead.
		if res.SkipAssignment = r.SkipAssignment; !r.SkipAssignment {
			res.Leader, res.Members = old, nil
		}
	}
	generation := g.generation
	g.store(now, nil, x, func(_ time.Time, x *effects, err error) {
		if err != nil || g.generation != generation || g.members[m.id] != m {
			res = JoinResult{Err: ErrUnknownMember, MemberID: res.MemberID, Generation: -1}
		}
		x.answer(func() { done(res) })
	})
}

// joined is what member m is told about the current generation.
func (g *group) joined(m *member) JoinResult {
	r := JoinResult{Generation: g.generation, ProtocolType: g.protocolType, Protocol: g.protocol, Leader: g.leader, MemberID: m.id}
	if m.id == g.leader {
		for _, id := range g.order {
			o := g.members[id]
			r.Members = append(r.Members, JoinMember{ID: o.id, Instance: o.instance, Metadata: o.metadata(g.protocol)})
		}
	}
	return r
}

// rebalance begins one, or goes on with it.
func (g *group) rebalance(now time.Time, x *effects) {
	if g.state != Preparing {
		if g.state == Completing {
			for _, m := range g.members {
				m.assignment = nil
				m.answerSync(x, SyncResult{Err: ErrRebalance})
			}
		}
		g.initial = time.Time{}
		g.joinEnd = now.Add(g.patience())
		if g.state == Empty && g.cfg.InitialDelay > 0 {
			g.newcomer = false
			g.initial = now.Add(min(g.cfg.InitialDelay, g.patience()))
			g.arm(g.initial)
		}
		g.state = Preparing
		g.arm(g.joinEnd)
	}
	if !g.initial.IsZero() || len(g.pending) > 0 {
		return
	}
	for _, m := range g.members {
		if m.join == nil {
			return
		}
	}
	g.begin(now, x)
}

// patience is the longest rebalance time a member asks for.
func (g *group) patience() time.Duration {
	var d time.Duration
	for _, m := range g.members {
		d = max(d, m.rebalance)
	}
	return d
}

// begin starts the next generation with those who have joined.
func (g *group) begin(now time.Time, x *effects) {
	for _, id := range slices.Clone(g.order) {
		if m := g.members[id]; m.join == nil && m.instance == nil {
			g.drop(m, x, ErrUnknownMember)
		}
	}
	if l := g.members[g.leader]; l != nil && l.join == nil {
		i := slices.IndexFunc(g.order, func(id string) bool { return g.members[id].join != nil })
		if i < 0 {
			// Only static members that are away: wait until their sessions end.
			g.joinEnd = now.Add(max(g.patience(), time.Second))
			g.arm(g.joinEnd)
			return
		}
		g.leader = g.order[i]
	}
	g.initial, g.joinEnd, g.newcomer = time.Time{}, time.Time{}, false
	g.generation++
	if len(g.members) == 0 {
		g.state, g.since, g.protocol, g.leader = Empty, now, "", ""
		g.store(now, nil, x, func(time.Time, *effects, error) {})
		return
	}
	g.protocol = g.choose()
	g.state = Completing
	g.syncEnd = now.Add(g.patience())
	g.arm(g.syncEnd)
	for _, id := range g.order {
		m := g.members[id]
		m.assignment = nil
		if m.join != nil {
			g.alive(m, now)
			m.answerJoin(x, g.joined(m))
		}
	}
}

func (g *group) sync(r *SyncRequest, now time.Time, x *effects, done func(SyncResult)) {
	fail := func(err error) { x.answer(func() { done(SyncResult{Err: err}) }) }
	m, err := g.check(r.MemberID, r.Instance)
	switch {
	case err != nil:
		fail(err)
	case r.Generation != g.generation:
		fail(ErrIllegalGeneration)
	case r.ProtocolType != nil && *r.ProtocolType != g.protocolType, r.Protocol != nil && *r.Protocol != g.protocol:
		fail(ErrInconsistentProtocol)
	case g.state == Preparing:
		fail(ErrRebalance)
	case g.state == Stable:
		g.alive(m, now)
		res := g.synced(m)
		x.answer(func() { done(res) })
	case g.state == Completing:
		m.answerSync(x, SyncResult{Err: ErrRebalance})
		m.sync = done
		g.alive(m, now)
		if m.id == g.leader {
			g.assign(r.Assignments, now, x)
		}
	default:
		fail(ErrUnknownMember)
	}
}

func (g *group) synced(m *member) SyncResult {
	return SyncResult{ProtocolType: g.protocolType, Protocol: g.protocol, Assignment: m.assignment}
}

// assign makes the leader's assignments durable; the group is stable when they
// are, unless it has moved on.
func (g *group) assign(assignments map[string][]byte, now time.Time, x *effects) {
	generation := g.generation
	g.store(now, assignments, x, func(now time.Time, x *effects, err error) {
		if g.state != Completing || g.generation != generation {
			return
		}
		if err != nil {
			for _, m := range g.members {
				m.answerSync(x, SyncResult{Err: ErrNotAvailable})
			}
			g.rebalance(now, x)
			return
		}
		g.state, g.syncEnd = Stable, time.Time{}
		for _, id := range g.order {
			m := g.members[id]
			m.assignment = assignments[id]
			if m.sync != nil {
				g.alive(m, now)
				m.answerSync(x, g.synced(m))
			}
		}
	})
}

func (g *group) heartbeat(r *HeartbeatRequest, now time.Time, x *effects) error {
	m, err := g.check(r.MemberID, r.Instance)
	if err != nil {
		return err
	}
	if r.Generation != g.generation {
		return ErrIllegalGeneration
	}
	switch g.state {
	case Preparing:
		g.alive(m, now)
		return ErrRebalance
	case Completing, Stable:
		g.alive(m, now)
		return nil
	}
	return ErrUnknownMember
}

func (g *group) leave(who []Leaver, errs []error, now time.Time, x *effects) {
	changed := false
	for i, w := range who {
		id := w.MemberID
		if id == "" && w.Instance != nil {
			id = g.instances[*w.Instance]
		}
		if _, ok := g.pending[id]; ok && w.Instance == nil {
			delete(g.pending, id)
			changed = changed || g.state == Preparing
			continue
		}
		m, err := g.check(id, w.Instance)
		if err != nil {
			errs[i] = err
			continue
		}
		g.drop(m, x, ErrUnknownMember)
		changed = true
	}
	if changed && g.state != Empty {
		g.rebalance(now, x)
	}
}

// tick does what has become due, and notes when to be called next.
func (g *group) tick(now time.Time, x *effects) {
	if g.wake.IsZero() || now.Before(g.wake) {
		return
	}
	changed := false
	for id, until := range g.pending {
		if !now.Before(until) {
			delete(g.pending, id)
			changed = true
		}
	}
	for _, id := range slices.Clone(g.order) {
		m := g.members[id]
		late := g.state == Completing && !g.syncEnd.IsZero() && !now.Before(g.syncEnd) && m.sync == nil
		if !now.Before(m.deadline) && !m.waits() || late {
			g.drop(m, x, ErrUnknownMember)
			changed = true
		}
	}
	if g.state == Preparing {
		switch {
		case !g.initial.IsZero() && !now.Before(g.initial):
			if g.newcomer && now.Before(g.joinEnd) {
				g.newcomer = false
				g.initial = now.Add(min(g.cfg.InitialDelay, g.joinEnd.Sub(now)))
			} else {
				g.begin(now, x)
			}
		case !now.Before(g.joinEnd):
			g.begin(now, x)
		case changed:
			g.rebalance(now, x)
		}
	} else if changed && g.state != Empty {
		g.rebalance(now, x)
	} else if g.state == Completing && !now.Before(g.syncEnd) {
		g.syncEnd = now.Add(max(g.patience(), time.Second)) // all have synced: the log is slow
	}
	g.wake = g.due()
}

func (g *group) due() time.Time {
	var at time.Time
	soonest := func(t time.Time) {
		if !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	for _, until := range g.pending {
		soonest(until)
	}
	for _, m := range g.members {
		if !m.waits() {
			soonest(m.deadline)
		}
	}
	switch g.state {
	case Preparing:
		soonest(g.initial)
		soonest(g.joinEnd)
	case Completing:
		soonest(g.syncEnd)
	}
	return at
}

func (g *group) describe() Description {
	d := Description{Group: g.id, State: g.state, ProtocolType: g.protocolType}
	if g.state == Stable {
		d.Protocol = g.protocol
	}
	for _, id := range g.order {
		m := g.members[id]
		md := MemberDescription{ID: m.id, ClientID: m.clientID, ClientHost: m.clientHost, Instance: m.instance}
		if g.state == Stable {
			md.Metadata, md.Assignment = m.metadata(g.protocol), m.assignment
		}
		d.Members = append(d.Members, md)
	}
	return d
}

// remove deletes a group without members from memory at once and answers when
// the log has forgotten it too.
func (g *group) remove(now time.Time, x *effects, done func(error)) {
	if g.state != Empty {
		x.answer(func() { done(ErrNotEmpty) })
		return
	}
	records := g.tombstones(slices.Collect(maps.Keys(g.offsets)), now)
	if g.metadata != nil || g.inFlight > 0 {
		records = append(records, batch.KV{Timestamp: now.UnixMilli(), Key: groupKey(g.id)})
	}
	g.state = Dead
	g.write(records, x, func(_ time.Time, x *effects, _ int64, err error) {
		x.answer(func() { done(err) })
	})
}

// write appends records and counts them as in flight.
func (g *group) write(records []batch.KV, x *effects, then func(time.Time, *effects, int64, error)) {
	g.inFlight++
	x.write(records, func(now time.Time, x *effects, base int64, err error) {
		g.inFlight--
		then(now, x, base, err)
	})
}
