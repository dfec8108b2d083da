// Package catalog is the one truth about what exists: the cluster's id, its
// topics and partitions, which broker epoch may write, and which object holds
// which offsets. It lives in a meta.Store under /v1/ (docs/format/catalog.md has
// every key and value) and is mirrored in memory, fed by one watch.
//
// What it promises. Every change is one guarded transaction. An object is
// visible only from the commit that names it, and a commit happens only while
// the writer's epoch is not fenced and nobody else moved its committed LSN
// (Writer.Commit). A commit is repeated byte for byte until its outcome is known;
// an outcome is never guessed from a read (P6). When a method that changes
// something returns nil, the in-memory index shows the change.
//
// How it fails. ErrFenced means that another epoch took over: the process has to
// end. Errors of the store are returned wrapped; nothing has to be undone. A
// watch that ends or falls behind makes the index stale for the time of one full
// read. ErrWentBack means that the store itself is older than before.
//
// The index is guarded by one RWMutex that is never held across I/O.
package catalog

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/looptape/looptape/internal/base/meta"
)

var (
	// ErrTopicExists says that the name is taken.
	ErrTopicExists = errors.New("topic exists")
	// ErrUnknownTopic says that no topic has the name or id.
	ErrUnknownTopic = errors.New("unknown topic")
	// ErrBadName says that a topic name is not one Kafka allows.
	ErrBadName = errors.New("invalid topic name")
	// ErrBadPartitions says that a partition count is out of range.
	ErrBadPartitions = errors.New("invalid partition count")
	// ErrBadConfig says that a topic configuration is unknown or has a bad value.
	ErrBadConfig = errors.New("invalid topic configuration")
	// ErrFenced says that this writer's epoch may no longer commit.
	ErrFenced = errors.New("writer epoch is fenced")
	// ErrCorrupt says that a value in the store is malformed.
	ErrCorrupt = errors.New("corrupt catalog value")
)

// TopicID identifies a topic for ever; a topic recreated under its old name has
// another one.
type TopicID [16]byte

func (id TopicID) String() string { return hex.EncodeToString(id[:]) }

// NewTopicID returns a random id (UUID version 4).
func NewTopicID() TopicID {
	var id TopicID
	rand.Read(id[:])
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id
}

// Partition names one partition of one topic.
type Partition struct {
	Topic TopicID
	Index int32
}

func (p Partition) String() string { return fmt.Sprintf("%s/%d", p.Topic, p.Index) }

// Object is a data object as the catalog knows it: enough to read its index with
// one ranged GET.
type Object struct {
	Name       string // broker-epoch-kind+seq, see package object
	Size       int64  // bytes
	Generation int32  // 0 as flushed; merging raises it
	Partitions int32  // with a span in it
	IndexPos   int64
	IndexLen   int64
	IndexCRC   uint32
	Blocks     int32 // block entries in the index
}

// Range is the span of one partition in one object.
type Range struct {
	Partition    Partition
	Base, End    int64 // offsets [Base, End); sparse ones allowed
	MaxTimestamp int64 // ms, -1 when no batch has one
	Bytes        int64 // of batches
	TailDepth    uint8 // extents before this one that its producer state builds on; 0 is a full snapshot
}

// Extent is what readers see of a Range, with its object. Where objects overlap,
// the one with the higher generation holds the offsets and the other is clipped;
// extents of a partition never overlap.
type Extent struct {
	Base, End    int64
	SpanBase     int64 // of the object's range: [SpanBase, SpanEnd), with one tail section
	SpanEnd      int64
	MaxTimestamp int64
	Bytes        int64
	TailDepth    uint8
	Object       *Object
}

// Config is what a Catalog needs beside the store.
type Config struct {
	// Ranges reads the ranges of a multi-partition object from the object
	// itself. It is called for objects this process did not commit, also during
	// Open; cluster is ClusterID.
	Ranges func(ctx context.Context, cluster string, o *Object) ([]Range, error)
	// Deleted, if set, is told of a topic that has gone, after the index has
	// dropped it, from the goroutine of Run.
	Deleted func(TopicID)
	// Raised, if set, is told of a log start that rose, whoever raised it, before the
	// index shows it and anything that may follow from it. It must not block.
	Raised func(Partition, int64)
	// Entomb, if set, is called before the deletion of a topic is committed; it
	// makes the deletion known to the object store (P13).
	Entomb func(context.Context, Topic) error
	// Now is the wall clock; default time.Now.
	Now func() time.Time
}

// Catalog is the in-memory index and the transactions. Use Open.
type Catalog struct {
	store   meta.Store
	cfg     Config
	cluster string

	mu      sync.RWMutex
	ix      *index
	rev     int64
	changed chan struct{} // closed and replaced when rev rises
	running bool
	leader  part               // what new partitions get: this broker and its epoch
	known   map[string][]Range // ranges of objects this process is committing

	reading chan struct{} // holds a token while the store is read in full
	// readsBegun counts full reads, readsDone is the number of the last that was
	// done.
	readsBegun, readsDone int64

	unknown atomic.Int64 // transactions repeated
	full    atomic.Bool  // the store has no space
}

// Open reads the whole catalog at one revision, creating the cluster's id in an
// empty store. It starts nothing: Run keeps the index fresh.
func Open(ctx context.Context, store meta.Store, cfg Config) (*Catalog, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	c := &Catalog{store: store, cfg: cfg, changed: make(chan struct{}), reading: make(chan struct{}, 1), known: map[string][]Range{}}
	if err := c.openCluster(ctx); err != nil {
		return nil, fmt.Errorf("open catalog: %w", err)
	}
	if err := c.refresh(ctx); err != nil {
		return nil, fmt.Errorf("open catalog: %w", err)
	}
	return c, nil
}

// ClusterID is the cluster's id: 22 characters of base64url, made once.
func (c *Catalog) ClusterID() string { return c.cluster }

func (c *Catalog) openCluster(ctx context.Context) error {
	var fresh [16]byte
	rand.Read(fresh[:])
	for {
		found, _, err := c.store.Get(ctx, keyCluster)
		if err != nil {
			return fmt.Errorf("read cluster id: %w", err)
		}
		if kv, ok := found[keyCluster]; ok {
			id, err := decodeCluster(kv.Value)
			if err != nil {
				return err
			}
			c.cluster = base64.RawURLEncoding.EncodeToString(id[:])
			return nil
		}
		// Whether this one wins or another's, the next read tells.
		_, err = c.store.Txn(ctx, meta.Txn{
			If:   []meta.Cmp{meta.Absent(keyCluster)},
			Then: []meta.Op{meta.Put(keyCluster, encodeCluster(fresh))},
		})
		if err != nil && !errors.Is(err, meta.ErrUnknown) {
			return fmt.Errorf("create cluster id: %w", err)
		}
	}
}
