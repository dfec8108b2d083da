// Package api answers the Kafka APIs: one numbered file for each API key, with
// the versions served, the shape of the request and what is done.
//
// What it promises:
//
//   - A request is walked through and found well-formed before anything is
//     decoded or allocated for it (shape.go); a request that is not, an API key
//     or a version that is not served close the connection, as Kafka does. Only
//     ApiVersions answers any version, so that clients can find the common one.
//   - Produced record bytes are handed on as they lie in the frame; fetched ones
//     go out as they lie in the partition. Neither is looked into here.
//   - Every error code comes from errors.go.
//   - A waiting fetch holds a channel and a timer in its connection's writing
//     goroutine; nothing polls.
//   - Internal topics can be read and not written.
//
// How it fails: what goes wrong for one topic or partition is that entry's error
// code and leaves the others alone.
package api

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/broker/front/coord"
	"github.com/looptape/looptape/internal/broker/front/wire"
	"github.com/looptape/looptape/internal/broker/partition"
	"github.com/looptape/looptape/internal/broker/store/catalog"
)

// A Log is what the APIs need of a partition: *partition.Partition.
type Log interface {
	Append(ctx context.Context, a partition.Append)
	Read(ctx context.Context, r partition.Read) (partition.Chunk, error)
	Notify(after int64, w *partition.Waiter)
	Cancel(w *partition.Waiter)
	Offsets() (logStart, highWatermark, lastStable int64)
	LeaderEpoch() int32
	OffsetForTime(ctx context.Context, ts int64) (offset, timestamp int64, err error)
	OffsetForEpoch(epoch int32) (endEpoch int32, endOffset int64)
	DeleteRecords(ctx context.Context, before int64) (logStart int64, err error)
}

// Topics is what the APIs need of the catalog.
type Topics interface {
	Topic(name string) (catalog.Topic, bool)
	TopicByID(id catalog.TopicID) (catalog.Topic, bool)
	Topics() []catalog.Topic
	CreateTopic(ctx context.Context, t catalog.Topic) (catalog.Topic, error)
	DeleteTopicID(ctx context.Context, id catalog.TopicID) error
	ClusterID() string
	NextProducerIDs(ctx context.Context) (first, n int64, err error)
}

// Groups is what the APIs need of the coordinator: *coord.Coordinator.
type Groups interface {
	Join(r coord.JoinRequest, done func(coord.JoinResult))
	Sync(r coord.SyncRequest, done func(coord.SyncResult))
	Heartbeat(r coord.HeartbeatRequest, done func(error))
	Leave(r coord.LeaveRequest, done func([]error, error))
	Commit(r coord.CommitRequest, done func(error))
	TooLarge(metadata string) bool
	Offsets(group string, partitions []coord.TopicPartition, done func(map[coord.TopicPartition]coord.Offset, error))
	DeleteOffsets(group string, partitions []coord.TopicPartition, done func([]error, error))
	Delete(group string, done func(error))
	ForgetTopic(topic string)
	Describe(group string, done func(coord.Description, error))
	List(done func([]coord.Description, error))
}

// Cluster is what the APIs need to know of the other brokers: *catalog.Catalog.
type Cluster interface {
	// Brokers are the live ones; none when this process is alone.
	Brokers() []catalog.Broker
	// Leader of a partition; while it has none, who will be it. -1: nobody.
	Leader(p catalog.Partition) (broker, leaderEpoch int32, serves bool)
	Controller() catalog.LogID
}

// An Observer counts error codes given to clients, for metrics.
type Observer interface {
	Error(key, code int16)
}

// Config of a Server. Zero values take the defaults.
type Config struct {
	NodeID            int32
	Rack              string
	AutoCreate        bool  // create a topic when metadata is asked for it
	DefaultPartitions int32 // of a topic whose creator does not say; default 1
	// Advertise names this broker to a client that reached it at local.
	Advertise       func(local net.Addr) (host string, port int32)
	MaxFetchBytes   int           // of one fetch; default 55 MiB, as Kafka
	MaxFetchMemory  int64         // of replies not yet written, over all connections; default 64 MiB
	MaxFetchWait    time.Duration // default 5 min
	FetchSessions   int           // fetch sessions kept; default 1000, as Kafka
	SessionEvictAge time.Duration // a session unused as long may make room; default 2 min

	Cluster Cluster // default: there is no other broker
	// Serving is asked right before a reply to a read or of a coordinator is
	// written, Acking before one to Produce. When they say no, somebody else may
	// have taken over, and the connection is closed instead. Default: always.
	Serving, Acking func() bool
}

func (c *Config) defaults() {
	def(&c.DefaultPartitions, 1)
	def(&c.MaxFetchBytes, 55<<20)
	def(&c.MaxFetchMemory, 64<<20)
	def(&c.MaxFetchWait, 5*time.Minute)
	def(&c.FetchSessions, 1000)
	def(&c.SessionEvictAge, 2*time.Minute)
}

func def[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

// A Server is the wire.Handler of a broker.
type Server struct {
	cfg      Config
	logs     func(partition.ID) (Log, error)
	topics   Topics
	groups   Groups
	obs      Observer
	log      *slog.Logger
	sessions *sessions
	fetched  atomic.Int64 // bytes in fetch replies not yet written

	pids struct {
		sync.Mutex // guards the block of producer ids in hand
		next, end  int64
	}
}

// New returns a server over the given parts. logs finds a partition that this
// broker leads.
func New(cfg Config, logs func(partition.ID) (Log, error), topics Topics, groups Groups, obs Observer, log *slog.Logger) *Server {
	cfg.defaults()
	return &Server{cfg: cfg, logs: logs, topics: topics, groups: groups, obs: obs, log: log,
		sessions: newSessions(cfg.FetchSessions, cfg.SessionEvictAge)}
}

// An endpoint is one API: what is served of it and by whom.
type endpoint struct {
	min, max int16
	maxBody  int   // bytes; 0: defaultBody
	shape    shape // nil: serve looks itself
	read     bool  // the answer is only right while this broker is the leader
	serve    func(*Server, *wire.Request)
}

// Limits of request bodies. Produce alone may fill a frame.
const (
	defaultBody = 1 << 20
	largeBody   = 8 << 20
)

// table is filled by the numbered files.
var table [128]*endpoint

func register(key kmsg.Key, e endpoint) {
	if e.maxBody == 0 {
		e.maxBody = defaultBody
	}
	table[key.Int16()] = &e
}

// Served returns the name and the range of versions of every API served, by key.
func Served() (all []kmsg.ApiVersionsResponseApiKey) {
	for key, e := range table {
		if e != nil {
			all = append(all, kmsg.ApiVersionsResponseApiKey{ApiKey: int16(key), MinVersion: e.min, MaxVersion: e.max})
		}
	}
	return all
}

// Handle answers a request.
func (s *Server) Handle(r *wire.Request) {
	e := table[r.Key]
	if e == nil {
		r.Abort()
		return
	}
	if r.Version < e.min || r.Version > e.max {
		if r.Key == kmsg.ApiVersions.Int16() {
			s.unsupportedVersion(r)
			return
		}
		r.Abort()
		return
	}
	if len(r.Body) > e.maxBody || e.shape != nil && !e.shape.fits(r.Body, r.Version, r.Flexible()) {
		r.Abort()
		return
	}
	switch {
	case e.read:
		r.Gate = s.cfg.Serving
	case r.Key == kmsg.Produce.Int16():
		r.Gate = s.cfg.Acking
	}
	e.serve(s, r)
}

// decoded makes an endpoint's serve of a function that takes the decoded
// request.
func decoded[T any, P interface {
	*T
	kmsg.Request
}](fn func(s *Server, r *wire.Request, req P)) func(*Server, *wire.Request) {
	return func(s *Server, r *wire.Request) {
		req := P(new(T))
		req.SetVersion(r.Version)
		if err := req.ReadFrom(r.Body); err != nil {
			r.Abort()
			return
		}
		fn(s, r, req)
	}
}

// respond sends a response of the codec.
func respond(r *wire.Request, resp kmsg.Response) {
	resp.SetVersion(r.Version)
	r.Respond(message{resp})
}

type message struct{ resp kmsg.Response }

func (m message) AppendTo(out *wire.Out) { out.Buf = m.resp.AppendTo(out.Buf) }
func (m message) Release()               {}

// code turns an error into its code and counts it.
func (s *Server) code(r *wire.Request, err error) int16 {
	if err == nil {
		return 0
	}
	c := codeOf(err)
	s.obs.Error(r.Key, c)
	if c == codeUnknownServer {
		s.log.Error("request failed", "api", kmsg.NameForKey(r.Key), "err", err)
	}
	return c
}

// find returns the partition's log.
func (s *Server) find(topic string, index int32) (Log, error) {
	t, ok := s.topics.Topic(topic)
	if !ok {
		return nil, errUnknownTopic
	}
	return s.open(t, index)
}

func (s *Server) open(t catalog.Topic, index int32) (Log, error) {
	if index < 0 || index >= t.Partitions {
		return nil, errUnknownTopic
	}
	return s.logs(partition.ID{Topic: t.ID, Index: index})
}

func ptr[T any](v T) *T { return &v }

// Sessions is the number of fetch sessions kept, for metrics.
func (s *Server) Sessions() int { return s.sessions.size() }

// FetchBytes are the record bytes in fetch replies not yet written, for metrics.
func (s *Server) FetchBytes() int64 { return s.fetched.Load() }
