package view

import "sync"

// A Change tells what one committed batch brought. Lists are shared between
// subscribers: read only.
type Change struct {
	Tenant     string     // whose change it is; "" for a Resync
	Events     []EventRow // the newest of the batch, at most liveEvents, oldest first
	EventCount int        // of the whole batch
	Cases      int        // cases made or revised
	Points     []Point    // evidence, oldest first; the newest of each release
	Decisions  []DecisionRow
	Resync     bool // changes were lost (or tables were rebuilt): read anew
}

const (
	liveEvents = 40 // events told of one batch; the rest is a number
	liveQueue  = 64 // changes waiting for one subscriber
)

// A hub hands changes to subscribers. It never waits for one: the queue of a
// subscriber that is too slow is emptied and replaced by a Resync.
type hub struct {
	mu   sync.Mutex // guards subs and the sending side of their channels
	subs map[*Subscription]struct{}
}

// A Subscription receives the changes of one tenant. Use View.Subscribe.
type Subscription struct {
	tenant string
	c      chan Change
	v      *View
}

// C gives the changes. It is never closed.
func (s *Subscription) C() <-chan Change { return s.c }

// Close ends the subscription.
func (s *Subscription) Close() {
	s.v.hub.mu.Lock()
	defer s.v.hub.mu.Unlock()
	if _, ok := s.v.hub.subs[s]; ok {
		delete(s.v.hub.subs, s)
		s.v.metrics.subscribers.Dec()
	}
}

// Subscribe starts to listen to a tenant's changes, from the next batch on.
func (v *View) Subscribe(tenant string) *Subscription {
	s := &Subscription{tenant: tenant, c: make(chan Change, liveQueue), v: v}
	v.hub.mu.Lock()
	defer v.hub.mu.Unlock()
	if v.hub.subs == nil {
		v.hub.subs = map[*Subscription]struct{}{}
	}
	v.hub.subs[s] = struct{}{}
	v.metrics.subscribers.Inc()
	return s
}

func (h *hub) publish(c Change) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.subs {
		if !c.Resync && s.tenant != c.Tenant {
			continue
		}
		select {
		case s.c <- c:
		default:
			s.v.metrics.resyncs.Inc()
			s.empty()
			select {
			case s.c <- Change{Resync: true}: // there is room: only publish sends, and it holds the lock
			default:
			}
		}
	}
}

func (s *Subscription) empty() {
	for {
		select {
		case <-s.c:
		default:
			return
		}
	}
}
