package coord

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// A JoinRequest asks for membership.
type JoinRequest struct {
	Group                string
	MemberID             string  // empty: give me one
	Instance             *string // of a static member
	ClientID, ClientHost string
	ProtocolType         string
	Protocols            []Protocol // in order of preference
	Session, Rebalance   time.Duration
	RequireKnownID       bool // the client understands ErrMemberIDRequired
	SkipAssignment       bool // the client understands JoinResult.SkipAssignment

	freshID string
}

// A Protocol is one way of assignment a member knows, with the member's data
// for it (a consumer's subscription).
type Protocol struct {
	Name     string
	Metadata []byte
}

// A JoinResult answers a join when the group's next generation begins.
type JoinResult struct {
	Err            error
	Generation     int32
	ProtocolType   string
	Protocol       string
	Leader         string
	MemberID       string
	SkipAssignment bool         // the leader keeps the assignments
	Members        []JoinMember // the leader's only
}

// A JoinMember is a member as its leader sees it.
type JoinMember struct {
	ID       string
	Instance *string
	Metadata []byte
}

// A SyncRequest hands in assignments (the leader) or asks for one.
type SyncRequest struct {
	Group                  string
	MemberID               string
	Instance               *string
	Generation             int32
	ProtocolType, Protocol *string           // nil: not said
	Assignments            map[string][]byte // by member id
}

// A SyncResult carries a member's assignment.
type SyncResult struct {
	Err                    error
	ProtocolType, Protocol string
	Assignment             []byte
}

// A HeartbeatRequest keeps a member alive.
type HeartbeatRequest struct {
	Group      string
	MemberID   string
	Instance   *string
	Generation int32
}

// A LeaveRequest removes members.
type LeaveRequest struct {
	Group   string
	Members []Leaver
}

// A Leaver is named by its id, or as a static member by its instance.
type Leaver struct {
	MemberID string
	Instance *string
}

// TopicPartition names what an offset is about.
type TopicPartition struct {
	Topic     string
	Partition int32
}

// An Offset is a committed position.
type Offset struct {
	Offset      int64
	LeaderEpoch int32 // -1: unknown
	Metadata    string
	Committed   time.Time // to the millisecond
}

// A CommitRequest stores offsets. Generation is -1 from a client that is no
// member.
type CommitRequest struct {
	Group      string
	MemberID   string
	Instance   *string
	Generation int32
	Offsets    map[TopicPartition]Offset // Committed is set by the coordinator
}

// A Description is what there is to know about a group.
type Description struct {
	Group        string
	State        State
	ProtocolType string
	Protocol     string
	Members      []MemberDescription
}

// A MemberDescription is what there is to know about a member.
type MemberDescription struct {
	ID, ClientID, ClientHost string
	Instance                 *string
	Metadata, Assignment     []byte
}

// A listing gathers the shards' answers.
type listing struct {
	done func([]Description, error)

	mu   sync.Mutex // guards the rest
	left int
	all  []Description
	err  error
}

func (l *listing) add(part []Description, err error) {
	l.mu.Lock()
	l.all = append(l.all, part...)
	if err != nil {
		l.err = err
	}
	l.left--
	last := l.left == 0
	l.mu.Unlock()
	if !last {
		return
	}
	slices.SortFunc(l.all, func(a, b Description) int { return cmp.Compare(a.Group, b.Group) })
	l.done(l.all, l.err)
}
