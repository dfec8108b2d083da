package coord

import (
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A stage plays a transcript against one group. Each line is an input; what it
// causes is written below it, indented. Times are fake, writes stay open until
// "durable" or "fail".
//
//	join WHO [id=ID] [static=NAME] [v3] [skip] PROTOCOL...    (a new id is the name of WHO plus a number)
//	sync WHO id=ID gen=N [MEMBER=ASSIGNMENT...]
//	beat id=ID gen=N [static=NAME]
//	leave [id=ID] [static=NAME]
//	commit WHO [id=ID] gen=N PARTITION=OFFSET...
//	after DURATION
//	durable | fail
//	show
//	restart
type stage struct {
	cfg    Config
	g      *group
	now    time.Time
	open   []write
	out    []string
	ids    map[string]int
	offset int64
}

func newStage(initial time.Duration) *stage {
	s := &stage{cfg: Config{InitialDelay: initial}, now: time.UnixMilli(1_000_000), ids: map[string]int{}}
	s.cfg.defaults()
	s.g = newGroup(&s.cfg, "g", s.now)
	return s
}

func (s *stage) say(format string, args ...any) {
	s.out = append(s.out, "  "+fmt.Sprintf(format, args...))
}

func (s *stage) effects(x *effects) {
	for _, w := range x.writes {
		if len(w.records) == 0 {
			var y effects
			w.then(s.now, &y, 0, nil)
			s.effects(&y)
			continue
		}
		s.say("write %d", len(w.records))
		s.open = append(s.open, w)
	}
	for _, fn := range x.answers {
		fn()
	}
}

type args struct {
	who, id   string
	instance  *string
	gen       int32
	v3, skip  bool
	words     []string
	pairs     map[string]string
	pairOrder []string
}

func parse(words []string) args {
	a := args{pairs: map[string]string{}}
	for i, w := range words {
		k, v, pair := strings.Cut(w, "=")
		switch {
		case k == "id":
			a.id = v
		case k == "static":
			a.instance = &v
		case k == "gen":
			n, _ := strconv.Atoi(v)
			a.gen = int32(n)
		case pair:
			a.pairs[k] = v
			a.pairOrder = append(a.pairOrder, k)
		case w == "v3":
			a.v3 = true
		case w == "skip":
			a.skip = true
		case i == 0:
			a.who = w
		default:
			a.words = append(a.words, w)
		}
	}
	return a
}

func (s *stage) play(line string) {
	s.out = append(s.out, line)
	f := strings.Fields(line)
	a := parse(f[1:])
	var x effects
	switch f[0] {
	case "join":
		s.ids[a.who]++
		r := JoinRequest{Group: "g", MemberID: a.id, Instance: a.instance, ClientID: a.who, ProtocolType: "consumer",
			Session: 10 * time.Second, Rebalance: 60 * time.Second, RequireKnownID: !a.v3, SkipAssignment: a.skip, freshID: fmt.Sprint(a.who, s.ids[a.who])}
		for _, p := range a.words {
			name, meta, _ := strings.Cut(p, ":")
			r.Protocols = append(r.Protocols, Protocol{name, []byte(meta)})
		}
		s.g.join(&r, s.now, &x, func(j JoinResult) {
			if j.Err != nil {
				s.say("%s: %v (id %q)", a.who, j.Err, j.MemberID)
				return
			}
			var members []string
			for _, m := range j.Members {
				members = append(members, m.ID+":"+string(m.Metadata))
			}
			skip := ""
			if j.SkipAssignment {
				skip = " keep assignments"
			}
			s.say("%s: is %s in generation %d, %s, leader %s %v%s", a.who, j.MemberID, j.Generation, j.Protocol, j.Leader, members, skip)
		})
	case "sync":
		r := SyncRequest{Group: "g", MemberID: a.id, Instance: a.instance, Generation: a.gen, Assignments: map[string][]byte{}}
		for k, v := range a.pairs {
			r.Assignments[k] = []byte(v)
		}
		s.g.sync(&r, s.now, &x, func(r SyncResult) {
			if r.Err != nil {
				s.say("%s: %v", a.who, r.Err)
				return
			}
			s.say("%s: gets %q", a.who, r.Assignment)
		})
	case "beat":
		if err := s.g.heartbeat(&HeartbeatRequest{MemberID: a.id, Instance: a.instance, Generation: a.gen}, s.now, &x); err != nil {
			s.say("%v", err)
		} else {
			s.say("ok")
		}
	case "leave":
		errs := make([]error, 1)
		s.g.leave([]Leaver{{a.id, a.instance}}, errs, s.now, &x)
		if errs[0] != nil {
			s.say("%v", errs[0])
		}
	case "commit":
		r := CommitRequest{MemberID: a.id, Instance: a.instance, Generation: a.gen, Offsets: map[TopicPartition]Offset{}}
		for k, v := range a.pairs {
			p, _ := strconv.Atoi(k)
			o, _ := strconv.ParseInt(v, 10, 64)
			r.Offsets[TopicPartition{"t", int32(p)}] = Offset{Offset: o, LeaderEpoch: -1}
		}
		s.g.commit(&r, s.now, &x, func(err error) {
			if err != nil {
				s.say("%s: %v", a.who, err)
			} else {
				s.say("%s: committed", a.who)
			}
		})
	case "after":
		d, _ := time.ParseDuration(f[1])
		for end := s.now.Add(d); ; {
			if s.g.wake.IsZero() || s.g.wake.After(end) {
				s.now = end
				break
			}
			if s.g.wake.After(s.now) {
				s.now = s.g.wake
			}
			s.g.tick(s.now, &x)
			s.effects(&x)
			x = effects{}
		}
	case "durable", "fail":
		w := s.open[0]
		s.open = s.open[1:]
		var err error
		if f[0] == "fail" {
			err = ErrNotAvailable
		}
		base := s.offset
		s.offset += int64(len(w.records))
		w.then(s.now, &x, base, err)
	case "show":
		var members []string
		for _, id := range s.g.order {
			members = append(members, id+":"+string(s.g.members[id].assignment))
		}
		s.say("%s generation %d leader %q %v", s.g.state, s.g.generation, s.g.leader, members)
		var offsets []string
		for tp, o := range s.g.offsets {
			offsets = append(offsets, fmt.Sprintf("%d=%d", tp.Partition, o.Offset.Offset))
		}
		sort.Strings(offsets)
		if len(offsets) > 0 {
			s.say("offsets %v", offsets)
		}
	case "restart":
		old := s.g
		s.g = newGroup(&s.cfg, "g", s.now)
		if old.metadata != nil {
			if err := s.g.restore(old.metadata, s.now); err != nil {
				s.say("%v", err)
			}
		}
		for tp, o := range old.offsets {
			s.g.take(tp, o.Offset, o.at)
		}
		s.open = nil
	default:
		s.say("what is %q?", f[0])
	}
	s.effects(&x)
}

func TestTranscripts(t *testing.T) {
	for _, test := range []struct {
		name    string
		initial time.Duration
		want    string
	}{
		{"one member", -1, `
join a range:A
  a: join again with the given member id (id "a1")
join a id=a1 range:A
  a: is a1 in generation 1, range, leader a1 [a1:A]
sync a id=a1 gen=1 a1=P0
  write 1
beat id=a1 gen=1
  ok
durable
  a: gets "P0"
commit a id=a1 gen=1 0=5 1=7
  write 2
durable
  a: committed
commit a id=a1 gen=0 0=4
  a: not the group's generation
leave id=a1
  write 1
show
  Empty generation 2 leader "" []
  offsets [0=5 1=7]
`},
		{"second member joins and the leader dies", -1, `
join a v3 range:A
  a: is a1 in generation 1, range, leader a1 [a1:A]
sync a id=a1 gen=1 a1=ALL
  write 1
durable
  a: gets "ALL"
join b v3 range:B
beat id=a1 gen=1
  group is rebalancing
join a id=a1 v3 range:A
  a: is a1 in generation 2, range, leader a1 [a1:A b1:B]
  b: is b1 in generation 2, range, leader a1 []
sync b id=b1 gen=2
sync a id=a1 gen=2 a1=P0 b1=P1
  write 1
durable
  a: gets "P0"
  b: gets "P1"
after 6s
beat id=b1 gen=2
  ok
after 5s
show
  PreparingRebalance generation 2 leader "b1" [b1:P1]
beat id=b1 gen=2
  group is rebalancing
join b id=b1 v3 range:B
  b: is b1 in generation 3, range, leader b1 [b1:B]
sync a id=a1 gen=2
  a: unknown group member
`},
		{"a member that falls silent during a rebalance is out", -1, `
join a v3 range:A
  a: is a1 in generation 1, range, leader a1 [a1:A]
sync a id=a1 gen=1 a1=ALL
  write 1
durable
  a: gets "ALL"
join b v3 range:B
after 9s
beat id=a1 gen=1
  group is rebalancing
after 9s
beat id=a1 gen=1
  group is rebalancing
after 11s
  b: is b1 in generation 2, range, leader b1 [b1:B]
beat id=a1 gen=1
  unknown group member
`},
		{"the log fails at the leader's sync", -1, `
join a v3 range:A
  a: is a1 in generation 1, range, leader a1 [a1:A]
join b v3 range:B
join a id=a1 range:A
  a: is a1 in generation 2, range, leader a1 [a1:A b1:B]
  b: is b1 in generation 2, range, leader a1 []
sync a id=a1 gen=2 a1=P0 b1=P1
  write 1
fail
  a: coordinator is not available
show
  PreparingRebalance generation 2 leader "a1" [a1: b1:]
`},
		{"the log's answer comes too late for its generation", -1, `
join a v3 range:A
  a: is a1 in generation 1, range, leader a1 [a1:A]
sync a id=a1 gen=1 a1=ALL
  write 1
join b v3 range:B
  a: group is rebalancing
durable
show
  PreparingRebalance generation 1 leader "a1" [a1: b1:]
`},
		{"a new group waits for more members", 3 * time.Second, `
join a v3 range:A
after 2s
join b v3 range:B
after 1s
join c v3 range:C
after 2s
show
  PreparingRebalance generation 0 leader "a1" [a1: b1: c1:]
after 5s
  a: is a1 in generation 1, range, leader a1 [a1:A b1:B c1:C]
  b: is b1 in generation 1, range, leader a1 []
  c: is c1 in generation 1, range, leader a1 []
`},
		{"an id that was given out and never used", -1, `
join a range:A
  a: join again with the given member id (id "a1")
join b range:B
  b: join again with the given member id (id "b1")
join a id=a1 range:A
after 11s
  a: is a1 in generation 1, range, leader a1 [a1:A]
join b id=b1 range:B
  b: unknown group member (id "b1")
`},
		{"static member comes back", -1, `
join a v3 static=S range:A
  a: is a1 in generation 1, range, leader a1 [a1:A]
sync a id=a1 static=S gen=1 a1=P0
  write 1
durable
  a: gets "P0"
join a v3 skip static=S range:A
  write 1
durable
  a: is a2 in generation 1, range, leader a2 [a2:A] keep assignments
beat id=a1 static=S gen=1
  static member was replaced
beat id=a2 static=S gen=1
  ok
join a v3 static=S range:A
  write 1
durable
  a: is a3 in generation 1, range, leader a2 []
sync a id=a3 static=S gen=1
  a: gets "P0"
join a v3 static=S range:OTHER
  a: is a4 in generation 2, range, leader a4 [a4:OTHER]
leave static=S
  write 1
show
  Empty generation 3 leader "" []
`},
		{"static member that is away keeps its place until its session ends", -1, `
join a v3 static=S range:A
  a: is a1 in generation 1, range, leader a1 [a1:A]
sync a id=a1 static=S gen=1 a1=P0
  write 1
durable
  a: gets "P0"
after 9s
show
  Stable generation 1 leader "a1" [a1:P0]
after 2s
  write 1
show
  Empty generation 2 leader "" []
`},
		{"protocols", -1, `
join a v3 sticky:1 range:1
  a: is a1 in generation 1, sticky, leader a1 [a1:1]
join b v3 roundrobin:1
  b: protocol does not fit the group (id "")
join c v3 range:1
join a id=a1 v3 sticky:1 range:1
  a: is a1 in generation 2, range, leader a1 [a1:1 c1:1]
  c: is c1 in generation 2, range, leader a1 []
`},
		{"lost answers are given again", -1, `
join a v3 range:A
  a: is a1 in generation 1, range, leader a1 [a1:A]
join a id=a1 v3 range:A
  a: is a1 in generation 1, range, leader a1 [a1:A]
sync a id=a1 gen=1 a1=P
  write 1
sync a id=a1 gen=1 a1=P
  write 1
  a: group is rebalancing
durable
  a: gets "P"
durable
sync a id=a1 gen=1 a1=P
  a: gets "P"
show
  Stable generation 1 leader "a1" [a1:P]
`},
		{"who may commit", -1, `
commit x gen=-1 0=1
  write 1
durable
  x: committed
join a v3 range:A
  a: is a1 in generation 1, range, leader a1 [a1:A]
commit x gen=-1 0=2
  x: unknown group member
commit a id=a1 gen=1 0=2
  a: group is rebalancing
sync a id=a1 gen=1 a1=P
  write 1
durable
  a: gets "P"
commit a id=a1 gen=1 0=3
  write 1
commit a id=a1 gen=1 0=4
  write 1
durable
  a: committed
fail
  a: coordinator is not available
show
  Stable generation 1 leader "a1" [a1:P]
  offsets [0=3]
`},
		{"restart", -1, `
join a v3 range:A
  a: is a1 in generation 1, range, leader a1 [a1:A]
sync a id=a1 gen=1 a1=P0
  write 1
durable
  a: gets "P0"
commit a id=a1 gen=1 0=3
  write 1
durable
  a: committed
restart
show
  Stable generation 1 leader "a1" [a1:P0]
  offsets [0=3]
beat id=a1 gen=1
  ok
sync a id=a1 gen=1
  a: gets "P0"
after 9s
beat id=a1 gen=1
  ok
after 20s
  write 1
show
  Empty generation 2 leader "" []
  offsets [0=3]
`},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newStage(test.initial)
			want := strings.Split(strings.Trim(test.want, "\n"), "\n")
			for _, line := range want {
				if !strings.HasPrefix(line, " ") {
					s.play(line)
				}
			}
			if diff := cmp.Diff(want, s.out); diff != "" {
				t.Errorf("transcript (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPartitionOfIsKafkas(t *testing.T) {
	// Utils.abs("...".hashCode()) % 50 of Java.
	for group, want := range map[string]int32{"": 0, "a": 47, "test": 48, "polygenelubricants": 0} {
		if got := PartitionOf(group); got != want {
			t.Errorf("PartitionOf(%q) = %d, want %d", group, got, want)
		}
	}
}

func TestListingSorts(t *testing.T) {
	var got []string
	l := &listing{left: 2, done: func(all []Description, err error) {
		for _, d := range all {
			got = append(got, d.Group)
		}
	}}
	l.add([]Description{{Group: "b"}}, nil)
	l.add([]Description{{Group: "a"}}, nil)
	if !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("got %v", got)
	}
}
