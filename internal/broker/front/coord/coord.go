// Package coord coordinates consumer groups: who is a member, who gets which
// assignment in which generation, and which offsets are committed.
//
// A group is a plain state machine (group.go): a step takes state, an input and
// the time, and leaves effects - answers to give, records to write. It knows no
// clock, no goroutine and no socket. Groups are spread over shards, one for each
// partition of the internal topic __consumer_offsets, by Kafka's own hash; a
// shard's goroutine owns its groups and turns effects into deeds (shard.go).
//
//	Empty ──join──▶ Preparing ──all in, or time up──▶ Completing ──leader's
//	  ▲                ▲  ▲                              │          sync stored
//	  └── nobody left ─┘  └── member joins, leaves, dies ┴──────────▶ Stable
//
// What it promises:
//
//   - A commit is answered only after its record is durable in the log, and a
//     member learns its assignment only after the group's metadata is. Both are
//     kept in Kafka's own encodings, so a restart finds generation, members and
//     offsets as they were, and consumers go on without noticing more than a
//     broken connection.
//   - What a restart finds is what memory held: memory takes on a commit when,
//     and in the order in which, the log has it.
//   - A member of an older generation, a member that was removed and a static
//     member that was replaced are told so and change nothing.
//
// The log stays small without a log cleaner: when enough has been written over,
// a shard writes its whole state again at the log's end and, once that is
// durable, deletes the records before it.
//
// A shard serves while this broker leads its partition. It reads its log when the
// leadership comes and forgets its groups when it goes; the leader epoch of the
// partition keeps a late append of the former coordinator out.
//
// How it fails: while a shard reads its log it answers ErrLoading, while another
// broker leads its partition ErrNotCoordinator; when an append fails, everything that waited for it gets ErrNotAvailable and memory
// keeps what the log last had.
package coord

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"
	"unicode/utf16"

	"github.com/looptape/looptape/internal/base/run"
)

// Topic is the internal topic that keeps groups and offsets, Partitions the
// number of its partitions, as in Kafka.
const (
	Topic      = "__consumer_offsets"
	Partitions = 50
)

// What a request may be answered with.
var (
	ErrUnknownMember        = errors.New("unknown group member")
	ErrMemberIDRequired     = errors.New("join again with the given member id")
	ErrFencedInstance       = errors.New("static member was replaced")
	ErrIllegalGeneration    = errors.New("not the group's generation")
	ErrRebalance            = errors.New("group is rebalancing")
	ErrInconsistentProtocol = errors.New("protocol does not fit the group")
	ErrInvalidGroup         = errors.New("invalid group id")
	ErrInvalidSession       = errors.New("session timeout out of range")
	ErrGroupFull            = errors.New("group has its maximum of members")
	ErrNotEmpty             = errors.New("group has members")
	ErrNotFound             = errors.New("group does not exist")
	ErrSubscribed           = errors.New("group is subscribed to the topic")
	ErrMetadataTooLarge     = errors.New("offset metadata is too large")
	ErrLoading              = errors.New("coordinator is loading")
	ErrNotCoordinator       = errors.New("another broker coordinates the group")
	ErrNotAvailable         = errors.New("coordinator is not available")
)

// A Log is one partition of Topic.
type Log interface {
	// Append hands over one batch, which it may patch. done is called once, from
	// another goroutine's point of view at any time, when the batch is durable or
	// never will be; batches become durable in the order of Append.
	Append(ctx context.Context, batch []byte, done func(base int64, err error))
	// Bounds are the first offset kept and the one after the last durable.
	Bounds() (start, end int64)
	// Read returns whole batches from the one that holds offset on, at least one
	// if there is any; release gives them back.
	Read(ctx context.Context, offset int64, maxBytes int) (batches [][]byte, release func(), err error)
	// Trim deletes what lies before offset. It may keep some of it.
	Trim(ctx context.Context, before int64) error
}

// Logs are the partitions of Topic.
type Logs interface {
	// Create makes the topic if there is none.
	Create(ctx context.Context) error
	// Leads says of each partition whether this broker leads it. Await returns
	// when the answer may be another than the last time.
	Leads() []bool
	Await(ctx context.Context) error
	// Open returns a partition; it waits while it is being opened here.
	// ErrNotCoordinator: another broker leads it.
	Open(ctx context.Context, index int32) (Log, error)
}

// Config of a Coordinator. Zero values take the defaults.
type Config struct {
	MinSession      time.Duration // default 6 s, as Kafka
	MaxSession      time.Duration // default 30 min
	InitialDelay    time.Duration // how long a new group waits for more members; default 100 ms (Kafka: 3 s); negative: not at all
	MaxMembers      int           // of one group; default 10,000
	MaxMetadata     int           // bytes of metadata with an offset; default 4096
	Retention       time.Duration // of offsets of a group without members; default 7 days
	ExpireEvery     time.Duration // default 10 min
	CheckpointBytes int64         // written since the last checkpoint; default 8 MiB
}

func (c *Config) defaults() {
	def(&c.MinSession, 6*time.Second)
	def(&c.MaxSession, 30*time.Minute)
	def(&c.InitialDelay, 100*time.Millisecond)
	def(&c.MaxMembers, 10_000)
	def(&c.MaxMetadata, 4096)
	def(&c.Retention, 7*24*time.Hour)
	def(&c.ExpireEvery, 10*time.Minute)
	def(&c.CheckpointBytes, 8<<20)
}

func def[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

// A Coordinator answers for all groups of the cluster.
type Coordinator struct {
	cfg    Config
	logs   Logs
	log    *slog.Logger
	shards []*shard
}

// New returns a coordinator that answers ErrLoading until Run has loaded.
func New(cfg Config, logs Logs, log *slog.Logger) *Coordinator {
	cfg.defaults()
	c := &Coordinator{cfg: cfg, logs: logs, log: log}
	for i := range Partitions {
		c.shards = append(c.shards, newShard(int32(i), &c.cfg, log))
	}
	return c
}

// Run loads the groups of the partitions that this broker leads and serves them
// until ctx ends; whoever waits then is told ErrNotAvailable.
func (c *Coordinator) Run(ctx context.Context) error {
	g := run.New(ctx)
	err := c.logs.Create(ctx)
	leads := c.logs.Leads()
	if err == nil && len(leads) != len(c.shards) {
		err = fmt.Errorf("topic %s has %d partitions, want %d", Topic, len(leads), len(c.shards))
	}
	if err != nil {
		for _, s := range c.shards {
			s.shut(stopped, ErrNotAvailable)
		}
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("open %s: %w", Topic, err)
	}
	loading := make(chan struct{}, 4) // shards that read their logs at the same time
	for i, s := range c.shards {
		s.lead(leads[i])
		g.Go(fmt.Sprintf("group shard %d", i), func(ctx context.Context) error {
			return s.run(ctx, c.logs, loading)
		})
	}
	g.Go("group leaders", func(ctx context.Context) error {
		for {
			if err := c.logs.Await(ctx); err != nil {
				return err
			}
			for i, led := range c.logs.Leads() {
				c.shards[i].lead(led)
			}
		}
	})
	return g.Wait()
}

// Depth is the number of inputs that wait for their shard, for metrics.
func (c *Coordinator) Depth() int {
	n := 0
	for _, s := range c.shards {
		n += s.depth()
	}
	return n
}

// PartitionOf is the partition of Topic that keeps a group: Kafka's hash.
func PartitionOf(group string) int32 {
	var h int32
	for _, u := range utf16.Encode([]rune(group)) {
		h = 31*h + int32(u)
	}
	switch {
	case h == -1<<31:
		h = 0
	case h < 0:
		h = -h
	}
	return h % Partitions
}

func (c *Coordinator) shard(group string) *shard { return c.shards[PartitionOf(group)] }

// freshID is a member id nobody has.
func freshID(prefix string) string {
	var b [16]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	h := hex.EncodeToString(b[:])
	return prefix + "-" + h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// Join asks for membership. done is called once, from a shard's goroutine, as
// are those of the other methods; it must not block.
func (c *Coordinator) Join(r JoinRequest, done func(JoinResult)) {
	fail := func(err error) { done(JoinResult{Err: err, MemberID: r.MemberID, Generation: -1}) }
	switch {
	case r.Group == "":
		fail(ErrInvalidGroup)
		return
	case r.Session < c.cfg.MinSession || r.Session > c.cfg.MaxSession:
		fail(ErrInvalidSession)
		return
	}
	if r.MemberID == "" {
		prefix := r.ClientID
		if r.Instance != nil {
			prefix = *r.Instance
		}
		r.freshID = freshID(prefix)
	}
	c.shard(r.Group).post(func(s *shard, now time.Time, x *effects) {
		// A member id that was given out before a restart is forgotten with it:
		// such a client starts over.
		g := s.group(r.Group, r.MemberID == "")
		if g == nil {
			x.answer(func() { fail(ErrUnknownMember) })
			return
		}
		g.join(&r, now, x, done)
	}, fail)
}

// Sync hands in the leader's assignments, or asks for one's own.
func (c *Coordinator) Sync(r SyncRequest, done func(SyncResult)) {
	fail := func(err error) { done(SyncResult{Err: err}) }
	if r.Group == "" {
		fail(ErrInvalidGroup)
		return
	}
	c.shard(r.Group).post(func(s *shard, now time.Time, x *effects) {
		if g := s.group(r.Group, false); g != nil {
			g.sync(&r, now, x, done)
			return
		}
		x.answer(func() { fail(ErrUnknownMember) })
	}, fail)
}

// Heartbeat keeps a member alive.
func (c *Coordinator) Heartbeat(r HeartbeatRequest, done func(error)) {
	if r.Group == "" {
		done(ErrInvalidGroup)
		return
	}
	c.shard(r.Group).post(func(s *shard, now time.Time, x *effects) {
		err := ErrUnknownMember
		if g := s.group(r.Group, false); g != nil {
			err = g.heartbeat(&r, now, x)
		}
		x.answer(func() { done(err) })
	}, done)
}

// Leave removes members; done gets one error for each, or one for all.
func (c *Coordinator) Leave(r LeaveRequest, done func([]error, error)) {
	fail := func(err error) { done(nil, err) }
	if r.Group == "" {
		fail(ErrInvalidGroup)
		return
	}
	c.shard(r.Group).post(func(s *shard, now time.Time, x *effects) {
		errs := make([]error, len(r.Members))
		if g := s.group(r.Group, false); g != nil {
			g.leave(r.Members, errs, now, x)
		} else {
			for i := range errs {
				errs[i] = ErrUnknownMember
			}
		}
		x.answer(func() { done(errs, nil) })
	}, fail)
}

// Commit stores offsets; done is called when they are durable. It gets one error
// for all offsets; those with too large metadata get theirs from TooLarge.
func (c *Coordinator) Commit(r CommitRequest, done func(error)) {
	if r.Group == "" {
		done(ErrInvalidGroup)
		return
	}
	c.shard(r.Group).post(func(s *shard, now time.Time, x *effects) {
		g := s.group(r.Group, r.Generation < 0)
		if g == nil {
			x.answer(func() { done(ErrIllegalGeneration) })
			return
		}
		g.commit(&r, now, x, done)
	}, done)
}

// TooLarge says that an offset's metadata is above the limit.
func (c *Coordinator) TooLarge(metadata string) bool { return len(metadata) > c.cfg.MaxMetadata }

// Offsets reads committed offsets: those of partitions, or all when it is nil.
// A partition without one is absent from the result.
func (c *Coordinator) Offsets(group string, partitions []TopicPartition, done func(map[TopicPartition]Offset, error)) {
	fail := func(err error) { done(nil, err) }
	c.shard(group).post(func(s *shard, now time.Time, x *effects) {
		found := map[TopicPartition]Offset{}
		if g := s.group(group, false); g != nil {
			if partitions == nil {
				for tp, o := range g.offsets {
					found[tp] = o.Offset
				}
			}
			for _, tp := range partitions {
				if o, ok := g.offsets[tp]; ok {
					found[tp] = o.Offset
				}
			}
		}
		x.answer(func() { done(found, nil) })
	}, fail)
}

// DeleteOffsets forgets offsets of a group, except of topics that a member of
// the group subscribes to.
func (c *Coordinator) DeleteOffsets(group string, partitions []TopicPartition, done func([]error, error)) {
	fail := func(err error) { done(nil, err) }
	c.shard(group).post(func(s *shard, now time.Time, x *effects) {
		g := s.group(group, false)
		if g == nil {
			x.answer(func() { fail(ErrNotFound) })
			return
		}
		g.deleteOffsets(partitions, now, x, done)
	}, fail)
}

// Delete removes a group that has no members.
func (c *Coordinator) Delete(group string, done func(error)) {
	if group == "" {
		done(ErrInvalidGroup)
		return
	}
	c.shard(group).post(func(s *shard, now time.Time, x *effects) {
		g := s.group(group, false)
		if g == nil {
			x.answer(func() { done(ErrNotFound) })
			return
		}
		g.remove(now, x, done)
	}, done)
}

// ForgetTopic removes the offsets of a deleted topic from every group.
func (c *Coordinator) ForgetTopic(topic string) {
	for _, s := range c.shards {
		s.post(func(s *shard, now time.Time, x *effects) {
			for _, g := range s.groups {
				g.forgetTopic(topic, now, x)
			}
		}, func(error) {})
	}
}

// Describe returns a group as it is now.
func (c *Coordinator) Describe(group string, done func(Description, error)) {
	fail := func(err error) { done(Description{Group: group}, err) }
	if group == "" {
		fail(ErrInvalidGroup)
		return
	}
	c.shard(group).post(func(s *shard, now time.Time, x *effects) {
		g := s.group(group, false)
		if g == nil {
			x.answer(func() { fail(ErrNotFound) })
			return
		}
		d := g.describe()
		x.answer(func() { done(d, nil) })
	}, fail)
}

// List returns every group that this broker coordinates, without its members. It
// fails with ErrLoading while any shard loads.
func (c *Coordinator) List(done func([]Description, error)) {
	l := &listing{left: len(c.shards), done: done}
	for _, s := range c.shards {
		s.post(func(s *shard, now time.Time, x *effects) {
			part := make([]Description, 0, len(s.groups))
			for _, g := range s.groups {
				part = append(part, Description{Group: g.id, State: g.state, ProtocolType: g.protocolType})
			}
			x.answer(func() { l.add(part, nil) })
		}, func(err error) {
			if errors.Is(err, ErrNotCoordinator) {
				err = nil // another broker lists them
			}
			l.add(nil, err)
		})
	}
}
