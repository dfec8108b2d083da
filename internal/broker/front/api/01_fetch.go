package api

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/broker/front/wire"
	"github.com/looptape/looptape/internal/broker/partition"
	"github.com/looptape/looptape/internal/broker/store/catalog"
)

// Fetch: v4 isolation levels, v7 sessions, v12 flexible, v13 topic ids, v15-v18
// fields between brokers. The response is encoded by hand, so that record bytes
// are sent from where they lie.
func init() {
	register(kmsg.Fetch, endpoint{min: 4, max: 18, read: true, maxBody: largeBody, serve: decoded((*Server).fetch), shape: shape{
		num(4).to(14), num(4), num(4), num(4), num(1), num(4).from(7), num(4).from(7),
		arr(str().to(12), num(16).from(13), arr(num(4), num(4).from(9), num(8), num(4).from(12), num(8).from(5), num(4))),
		arr(str().to(12), num(16).from(13), listOf(num(4))).from(7),
		str().from(11),
		tag(1, num(4), num(8)),
	}})
}

// A fetch is one request under way. It may wait in its connection's writing
// goroutine.
type fetch struct {
	s         *Server
	r         *wire.Request
	req       *kmsg.FetchRequest
	session   *session // nil: none
	sessionID int32    // to answer with
	full      bool     // answer with all partitions, changed or not
	err       error    // of the whole request
	parts     []fetchPart
	size      int // bytes of records in parts
	most      int // that size may be
	counted   int // of them in Server.fetched
	ready     bool
	end       time.Time
}

type fetchPart struct {
	partitionKey
	want  fetchWant
	sp    *sessionPart   // nil without session
	of    *catalog.Topic // nil: unknown; shared by neighbours
	log   Log
	ahead bool // there is something to read
	err   error
	chunk partition.Chunk
	size  int
}

// fetchWant is what a client wants of a partition.
type fetchWant struct {
	offset      int64
	maxBytes    int32
	leaderEpoch int32
}

func (s *Server) fetch(r *wire.Request, req *kmsg.FetchRequest) {
	f := &fetch{s: s, r: r, req: req}
	wait := min(time.Duration(max(req.MaxWaitMillis, 0))*time.Millisecond, s.cfg.MaxFetchWait)
	f.end = r.Arrived.Add(wait)
	f.err = f.plan()
	if f.err == nil {
		f.collect(r.Context())
		f.ready = f.enough() || wait == 0
	}
	if f.err != nil || f.ready {
		r.Respond(fetched{f})
		return
	}
	r.Respond(f)
}

// fetched is a fetch that need not wait.
type fetched struct{ f *fetch }

func (f fetched) AppendTo(out *wire.Out) { f.f.AppendTo(out) }
func (f fetched) Release()               { f.f.Release() }

// plan lists the partitions to read: those of the request, or of its session.
func (f *fetch) plan() error {
	byID := f.r.Version >= 13
	wants := func(fn func(partitionKey, fetchWant)) {
		for i := range f.req.Topics {
			t := &f.req.Topics[i]
			for j := range t.Partitions {
				p := &t.Partitions[j]
				fn(partitionKey{t.Topic, t.TopicID, p.Partition}, fetchWant{p.FetchOffset, p.PartitionMaxBytes, p.CurrentLeaderEpoch})
			}
		}
	}
	id, epoch := f.req.SessionID, f.req.SessionEpoch
	if f.r.Version < 7 {
		id, epoch = 0, -1
	}
	if epoch <= 0 {
		// A full fetch: without a session, or the first of a new one.
		f.full = true
		if id != 0 {
			f.s.sessions.drop(id)
		}
		wants(func(k partitionKey, w fetchWant) { f.parts = append(f.parts, fetchPart{partitionKey: k, want: w}) })
		if epoch == 0 && len(f.parts) > 0 {
			f.session = f.s.sessions.open(byID, f.parts)
			if f.session != nil {
				f.sessionID = f.session.id
			}
		}
		return nil
	}
	ss, err := f.s.sessions.take(id, epoch, byID)
	if err != nil {
		return err
	}
	f.session, f.sessionID = ss, ss.id
	wants(func(k partitionKey, w fetchWant) { f.s.sessions.set(ss, k, w) })
	for i := range f.req.ForgottenTopics {
		t := &f.req.ForgottenTopics[i]
		for _, index := range t.Partitions {
			f.s.sessions.forget(ss, partitionKey{t.Topic, t.TopicID, index})
		}
	}
	f.parts = make([]fetchPart, 0, len(ss.parts))
	for _, sp := range ss.parts {
		f.parts = append(f.parts, fetchPart{partitionKey: sp.partitionKey, want: sp.want, sp: sp})
	}
	return nil
}

// resolve finds the partition's log. last is the part before: neighbours are
// mostly of one topic.
func (f *fetch) resolve(p, last *fetchPart) {
	p.of = nil
	if last != nil && last.of != nil && last.sameTopic(p.partitionKey) {
		p.of = last.of
	} else if t, ok := f.topicOf(p); ok {
		p.of = &t
	}
	switch {
	case p.of != nil:
		p.log, p.err = f.s.open(*p.of, p.index)
	case f.r.Version >= 13:
		p.err = errUnknownTopicID
	default:
		p.err = errUnknownTopic
	}
}

func (f *fetch) topicOf(p *fetchPart) (catalog.Topic, bool) {
	if f.r.Version >= 13 {
		return f.s.topics.TopicByID(p.id)
	}
	return f.s.topics.Topic(p.topic)
}

// collect reads what there is, within the byte limits. The first partition that
// has anything gives at least one batch, or no large batch would ever get out.
//
// At first nobody waits for the object store: what is not in memory is asked for,
// of all partitions together, and if the others have enough it comes with the
// next fetch. So a partition far behind does not hold up one at the tail. Only
// when they have not, the fetch waits for it.
func (f *fetch) collect(ctx context.Context) {
	f.release()
	limit := f.limit()
	f.most = limit
	waiting := 0 // parts with something to read
	var last *fetchPart
	for i := range f.parts {
		p := &f.parts[i]
		f.resolve(p, last)
		last = p
		if p.err == nil && f.ahead(p) {
			waiting++
		}
	}
	pending := 0
	for i := range f.parts {
		p := &f.parts[i]
		if p.err != nil {
			continue
		}
		share := 0
		if p.ahead && f.size < limit {
			// What the parts before left of their shares is for those after.
			share = max((limit-f.size)/waiting, min(minShare, limit-f.size))
			waiting--
		}
		f.read(ctx, p, share, true)
		if p.chunk.Pending {
			pending++
		}
	}
	for i := range f.parts {
		if p := &f.parts[i]; pending > 0 && p.err == nil && p.chunk.Pending && f.size < max(1, min(int(f.req.MinBytes), limit)) {
			f.forget(p)
			f.read(ctx, p, max((limit-f.size)/pending, min(minShare, limit-f.size)), false)
			pending--
		}
	}
	f.counted = f.size
	f.s.fetched.Add(int64(f.counted))
}

// minShare is what a partition may give in a fetch of very many; the others'
// turn comes with the next one.
const minShare = 64 << 10

// limit is how much the fetch may answer with. What all replies together hold is
// bounded: while others hold much, that is less, and at last the one batch that
// makes progress.
func (f *fetch) limit() int {
	limit := min(int(max(f.req.MaxBytes, 0)), f.s.cfg.MaxFetchBytes)
	if room := (f.s.cfg.MaxFetchMemory - f.s.fetched.Load()) / 2; int64(limit) > room {
		limit = int(max(room, 0))
	}
	return limit
}

// ahead says whether the part has anything to read, as far as offsets tell.
func (f *fetch) ahead(p *fetchPart) bool {
	_, high, stable := p.log.Offsets()
	if f.req.IsolationLevel == 1 {
		high = stable
	}
	p.ahead = p.want.offset < high
	return p.ahead
}

func (f *fetch) read(ctx context.Context, p *fetchPart, share int, glance bool) {
	p.chunk, p.err = p.log.Read(ctx, partition.Read{
		Offset:             p.want.offset,
		MaxBytes:           min(int(max(p.want.maxBytes, 0)), share),
		AtLeastOne:         f.size == 0,
		ReadCommitted:      f.req.IsolationLevel == 1,
		CurrentLeaderEpoch: p.want.leaderEpoch,
		Glance:             glance,
	})
	if p.err != nil {
		return
	}
	for _, b := range p.chunk.Records {
		p.size += len(b)
	}
	f.size += p.size
}

// enough says whether to answer at once: there is enough to read or more at once
// with the next fetch, or an error to tell, or a session to begin.
func (f *fetch) enough() bool {
	if f.size >= min(int(f.req.MinBytes), f.most) || len(f.parts) == 0 {
		return true
	}
	for i := range f.parts {
		// What is on its way is there at the next fetch.
		if p := &f.parts[i]; p.err != nil || p.chunk.Pending {
			return true
		}
	}
	return false
}

// Wait is the long poll: it sleeps until a partition has more than was seen, and
// looks again.
func (f *fetch) Wait(ctx context.Context) {
	w := partition.NewWaiter()
	timer := time.NewTimer(time.Until(f.end))
	defer timer.Stop()
	logs := make([]Log, len(f.parts)) // that w waits on
	seen := make([]int64, len(f.parts))
	defer func() {
		for _, log := range logs {
			if log != nil {
				log.Cancel(w)
			}
		}
	}()
	for {
		for i := range f.parts {
			// Who told has forgotten the waiter; the others still know it.
			if p := &f.parts[i]; logs[i] != p.log || seen[i] < p.chunk.HighWatermark {
				if logs[i] != nil && logs[i] != p.log {
					logs[i].Cancel(w)
				}
				logs[i], seen[i] = p.log, p.chunk.HighWatermark
				p.log.Notify(seen[i], w)
			}
		}
		timeout := false
		select {
		case <-w.C:
		case <-timer.C:
			timeout = true
		case <-ctx.Done():
			timeout = true
		}
		// At the time's end too: some may have come that was less than asked for.
		f.collect(context.WithoutCancel(ctx))
		if timeout || f.enough() {
			return
		}
	}
}

// forget gives back what was read of a part.
func (f *fetch) forget(p *fetchPart) {
	if p.chunk.Release != nil {
		p.chunk.Release()
	}
	f.size -= p.size
	p.chunk, p.size = partition.Chunk{}, 0
}

// release gives back what collect took.
func (f *fetch) release() {
	for i := range f.parts {
		f.forget(&f.parts[i])
	}
	f.s.fetched.Add(-int64(f.counted))
	f.size, f.counted = 0, 0
}

// Release ends the fetch. A session is still held if there was no reply.
func (f *fetch) Release() {
	f.release()
	if f.session != nil {
		f.s.sessions.put(f.session)
		f.session = nil
	}
}

// AppendTo encodes the response.
func (f *fetch) AppendTo(out *wire.Out) {
	e := encoder{out.Buf, f.r.Flexible()}
	version := f.r.Version
	e.i32(0) // throttle
	if version >= 7 {
		e.i16(f.s.code(f.r, f.err))
		e.i32(f.sessionID)
	}
	// Neighbours of one topic share an entry.
	shown := f.shown()
	topics := 0
	for i, p := range shown {
		if i == 0 || !shown[i-1].sameTopic(p.partitionKey) {
			topics++
		}
	}
	e.count(topics)
	for i := 0; i < len(shown); {
		n := i + 1
		for n < len(shown) && shown[n].sameTopic(shown[i].partitionKey) {
			n++
		}
		if version >= 13 {
			e.b = append(e.b, shown[i].id[:]...)
		} else {
			e.str(shown[i].topic)
		}
		e.count(n - i)
		for ; i < n; i++ {
			f.appendPart(&e, shown[i], out)
		}
		e.tags()
	}
	e.tags()
	out.Buf = e.b
	if f.session != nil {
		// Before the reply is out: the client's next fetch may be faster than
		// our Release.
		f.session.rotate(shown)
		f.s.sessions.put(f.session)
		f.session = nil
	}
}

func (f *fetch) appendPart(e *encoder, p *fetchPart, out *wire.Out) {
	version := f.r.Version
	code := f.s.code(f.r, p.err)
	c := &p.chunk
	if code != 0 {
		c.HighWatermark, c.LastStable, c.LogStart = -1, -1, -1
	}
	e.i32(p.index)
	e.i16(code)
	e.i64(c.HighWatermark)
	e.i64(c.LastStable)
	if version >= 5 {
		e.i64(c.LogStart)
	}
	if f.req.IsolationLevel == 1 {
		e.count(len(c.Aborted))
		for _, a := range c.Aborted {
			e.i64(a.ProducerID)
			e.i64(a.FirstOffset)
			e.tags()
		}
	} else if e.flexible {
		e.b = append(e.b, 0) // null
	} else {
		e.i32(-1)
	}
	if version >= 11 {
		e.i32(-1) // read from the leader
	}
	if e.flexible {
		e.b = binary.AppendUvarint(e.b, uint64(p.size)+1)
	} else {
		e.i32(int32(p.size))
	}
	out.Buf = e.b
	for _, b := range c.Records {
		out.Ref(b)
	}
	e.b = out.Buf
	e.tags()
	if p.sp != nil {
		p.sp.sentHighWatermark, p.sp.sentLogStart = c.HighWatermark, c.LogStart
	}
}

// shown are the partitions to answer with: in a session those with news.
func (f *fetch) shown() []*fetchPart {
	shown := make([]*fetchPart, 0, len(f.parts))
	for i := range f.parts {
		p := &f.parts[i]
		if f.full || p.sp == nil || p.err != nil || p.size > 0 ||
			p.sp.sentHighWatermark != p.chunk.HighWatermark || p.sp.sentLogStart != p.chunk.LogStart {
			shown = append(shown, p)
		}
	}
	if f.err != nil {
		return nil
	}
	return shown
}
