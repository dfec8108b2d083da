package api

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// maxSessionParts bounds the partitions of all sessions together.
const maxSessionParts = 200_000

// partitionKey names a partition as the client does: by topic name up to v12,
// by topic id from v13 on.
type partitionKey struct {
	topic string
	id    [16]byte
	index int32
}

func (k partitionKey) sameTopic(o partitionKey) bool { return k.topic == o.topic && k.id == o.id }

// A session (KIP-227) remembers what a client fetches, so that both sides send
// only what changed. While a fetch uses it, it is busy and nobody else's.
type session struct {
	id    int32
	byID  bool // topics are named by id
	parts []*sessionPart
	index map[partitionKey]*sessionPart

	// Guarded by sessions.mu.
	epoch int32
	busy  bool
	used  time.Time
	gone  bool
}

type sessionPart struct {
	partitionKey
	want              fetchWant
	sentHighWatermark int64
	sentLogStart      int64
}

// sessions is the cache of fetch sessions, bounded in sessions and partitions.
type sessions struct {
	max int
	age time.Duration

	mu    sync.Mutex // guards the rest
	byID  map[int32]*session
	parts int
}

func newSessions(limit int, age time.Duration) *sessions {
	return &sessions{max: limit, age: age, byID: map[int32]*session{}}
}

// open makes a session of the partitions, or returns nil when there is no room:
// the client then goes on without. The session is busy.
func (c *sessions) open(byID bool, parts []fetchPart) *session {
	s := &session{byID: byID, busy: true, epoch: 1, index: make(map[partitionKey]*sessionPart, len(parts))}
	for i := range parts {
		p := &parts[i]
		if s.index[p.partitionKey] != nil {
			return nil // named twice: such a client can keep its own books
		}
		p.sp = &sessionPart{partitionKey: p.partitionKey, want: p.want, sentHighWatermark: -1, sentLogStart: -1}
		s.index[p.partitionKey] = p.sp
		s.parts = append(s.parts, p.sp)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.used = time.Now()
	for len(c.byID) >= c.max || c.parts+len(s.parts) > maxSessionParts {
		if !c.evict(s.used) {
			return nil
		}
	}
	for s.id == 0 || c.byID[s.id] != nil {
		s.id = rand.Int32N(1<<31 - 1)
	}
	c.byID[s.id] = s
	c.parts += len(s.parts)
	return s
}

// evict removes the session that has been unused longest, if for long enough.
func (c *sessions) evict(now time.Time) bool {
	var oldest *session
	for _, s := range c.byID {
		if !s.busy && now.Sub(s.used) >= c.age && (oldest == nil || s.used.Before(oldest.used)) {
			oldest = s
		}
	}
	if oldest == nil {
		return false
	}
	c.remove(oldest)
	return true
}

func (c *sessions) remove(s *session) {
	delete(c.byID, s.id)
	c.parts -= len(s.parts)
	s.gone = true
}

// take makes a session busy for the request with that epoch.
func (c *sessions) take(id, epoch int32, byID bool) (*session, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.byID[id]
	switch {
	case s == nil:
		return nil, errSessionNotFound
	case s.busy || s.epoch != epoch:
		return nil, errSessionEpoch
	case s.byID != byID:
		return nil, errSessionTopicID
	}
	s.busy = true
	if s.epoch++; s.epoch < 1 {
		s.epoch = 1
	}
	return s, nil
}

// put gives a session back.
func (c *sessions) put(s *session) {
	c.mu.Lock()
	s.busy, s.used = false, time.Now()
	c.mu.Unlock()
}

// drop ends a session at its client's word.
func (c *sessions) drop(id int32) {
	c.mu.Lock()
	if s := c.byID[id]; s != nil && !s.busy {
		c.remove(s)
	}
	c.mu.Unlock()
}

// set adds a partition to a busy session, or changes what is wanted of it.
func (c *sessions) set(s *session, k partitionKey, w fetchWant) {
	if p := s.index[k]; p != nil {
		p.want = w
		return
	}
	p := &sessionPart{partitionKey: k, want: w, sentHighWatermark: -1, sentLogStart: -1}
	s.index[k] = p
	s.parts = append(s.parts, p)
	c.count(s, 1)
}

// forget removes a partition from a busy session.
func (c *sessions) forget(s *session, k partitionKey) {
	p := s.index[k]
	if p == nil {
		return
	}
	delete(s.index, k)
	s.parts = slices.DeleteFunc(s.parts, func(x *sessionPart) bool { return x == p })
	c.count(s, -1)
}

func (c *sessions) count(s *session, n int) {
	c.mu.Lock()
	if !s.gone {
		c.parts += n
	}
	c.mu.Unlock()
}

func (c *sessions) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.byID)
}

// rotate moves the partitions that gave records behind the others, so that all
// get their share of the byte limit in turn.
func (s *session) rotate(shown []*fetchPart) {
	served := make(map[*sessionPart]bool, len(shown))
	for _, p := range shown {
		if p.size > 0 && p.sp != nil {
			served[p.sp] = true
		}
	}
	if len(served) == 0 || len(served) == len(s.parts) {
		return
	}
	order, last := make([]*sessionPart, 0, len(s.parts)), make([]*sessionPart, 0, len(served))
	for _, p := range s.parts {
		if served[p] {
			last = append(last, p)
		} else {
			order = append(order, p)
		}
	}
	s.parts = append(order, last...)
}
