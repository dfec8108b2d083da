package broker

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/disk"
	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/run"
	"github.com/looptape/looptape/internal/broker/cluster"
	"github.com/looptape/looptape/internal/broker/partition"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/object"
	"github.com/looptape/looptape/internal/broker/store/read"
	"github.com/looptape/looptape/internal/broker/store/wal"
	"github.com/looptape/looptape/internal/broker/store/wal/slots"
	"github.com/looptape/looptape/internal/broker/store/write"
)

// StoreConfig tunes the store. The zero value is the default.
type StoreConfig struct {
	Log        wal.Config   // of a log in files
	Slots      slots.Config // of a log in the object store; what it is and where is filled in
	Partitions partition.Config
	Read       read.Config
	Flush      write.Config
	Sweep      write.SweepConfig
	Background write.BackgroundConfig // its Sweep is the one above
	Snapshots  write.SnapshotConfig
	// DrainTimeout bounds how long a clean stop waits for the object store. What
	// is not in objects by then is in the log and recovered by the next start.
	// Default 10 s.
	DrainTimeout time.Duration
}

func (c StoreConfig) withDefaults() StoreConfig {
	if c.DrainTimeout <= 0 {
		c.DrainTimeout = 10 * time.Second
	}
	if c.Log.SegmentBytes <= 0 {
		// Small segments: a restart reads the last one from its start, committed
		// records included.
		c.Log.SegmentBytes = 32 << 20
	}
	if c.Partitions.SealBytes <= 0 {
		// Half of the usual 64 MiB: it halves what is held in memory and what a
		// kill leaves to read back, for 32 puts a GiB instead of 16.
		c.Partitions.SealBytes = 32 << 20
	}
	return c
}

// ErrBehind says that the object store knows of a later life of this broker than
// the metadata does: the metadata was lost or restored from an old copy.
var ErrBehind = errors.New("metadata is older than the object store")

// Store is the store of one broker: log, objects, catalog and the partitions on
// top. openStore recovers it, Run keeps it going.
type Store struct {
	cfg     StoreConfig
	on      Parts
	log     *slog.Logger
	nonce   [16]byte // of this process
	files   disk.FS
	blobs   blob.Store
	calls   *blob.Counters // of blobs
	since   time.Time      // when it was opened
	meta    meta.Store
	catalog *catalog.Catalog
	writer  *catalog.Writer
	reader  *read.Reader
	set     *partition.Set
	wal     wal.Log
	flusher *write.Flusher
	jobs    *write.Background
	saver   *write.Snapshotter
	adopted []catalog.Adopted
	damaged map[partition.ID]bool      // partitions with a gap in an adopted log
	slots   map[int64]*slots.Recovered // adopted epochs with a log of slots
	closed  sync.Map                   // partition.IDs said to be damaged in objects
	blind   sync.Map                   // names of objects said to have no index
	seq     atomic.Int64               // of object names
	lease   *cluster.Lease             // nil for a process alone
	member  *cluster.Member            // nil for a process alone
	closers []io.Closer                // in the order of opening
}

// Partitions are the partitions this broker leads.
func (e *Store) Partitions() *partition.Set { return e.set }

// Catalog is the cluster's catalog.
func (e *Store) Catalog() *catalog.Catalog { return e.catalog }

// Parts is what a Store stands on. Its owner closes them after the Store.
type Parts struct {
	Files  disk.FS
	Dir    string // of a log in files
	Blobs  blob.Store
	Meta   meta.Store
	Broker int32
	WAL    string // "file" or "object": where the log is kept; default file
	// Unconditional says that Blobs has no create-only Put, see blob.Features.
	Unconditional bool

	// Cluster says that other brokers share Blobs and Meta: this one keeps a
	// lease, and takes over what dead ones leave.
	Cluster bool
	Address string        // host:port for clients, told to the others
	Rack    string        // told to the others
	Lease   time.Duration // default 6 s
	Clock   cluster.Clock // default cluster.BootClock
	Members cluster.Config
}

func (p Parts) kind() catalog.LogKind {
	if p.WAL == "object" {
		return catalog.ObjectLog
	}
	return catalog.FileLog
}

// OpenStore is openStore on given parts. The caller holds the broker's lock.
func OpenStore(ctx context.Context, on Parts, cfg StoreConfig, log *slog.Logger) (_ *Store, err error) {
	e := &Store{cfg: cfg.withDefaults(), log: log, files: on.Files, meta: on.Meta, since: time.Now(), slots: map[int64]*slots.Recovered{}}
	on.Blobs, e.calls = blob.Counted(on.Blobs)
	e.on, e.blobs = on, on.Blobs
	rand.Read(e.nonce[:])
	defer func() {
		if err != nil {
			err = errors.Join(err, closeAll(e.closers))
		}
	}()
	if e.catalog, err = catalog.Open(ctx, on.Meta, catalog.Config{
		Ranges: e.ranges, Deleted: e.dropped, Raised: e.raised, Entomb: e.entomb, Now: cfg.Partitions.Now,
	}); err != nil {
		return nil, err
	}
	if err := e.claimBucket(ctx); err != nil {
		return nil, err
	}
	if err := e.checkAge(ctx); err != nil {
		return nil, err
	}
	if !on.Cluster {
		return e, e.open(ctx)
	}
	// The lease is kept while the broker opens: recovery may take longer than it
	// lives.
	if e.lease, err = cluster.Acquire(ctx, on.Meta, on.lease(), on.Clock, log); err != nil {
		return nil, err
	}
	e.closers = append(e.closers, leaseCloser{e.lease})
	if err := e.lease.During(ctx, e.open); err != nil {
		return nil, err
	}
	e.member = cluster.New(e.catalog, e.writer, e.lease, e.registration(), host{e}, on.Members, log)
	return e, nil
}

// open registers the broker and recovers what its earlier epochs left.
func (e *Store) open(ctx context.Context) (err error) {
	began := time.Now()
	if err := e.enroll(ctx); err != nil {
		return err
	}
	// From here on nothing of an earlier epoch can be committed but by us.
	if err := e.markEpoch(ctx, e.nonce); err != nil {
		return err
	}
	e.reader = read.New(e.blobs, e.catalog, e.cfg.Read)
	e.set = partition.NewSet(e.catalog, e.reader, trims{e}, e.writer.Epoch(), e.cfg.Partitions)
	if err := e.load(ctx); err != nil {
		return err
	}
	if err := e.adopt(ctx); err != nil {
		return err
	}
	names := write.NewNames()
	e.cfg.Flush.Names = names
	e.flusher = e.newFlusher(source{e.set}, e.cfg.Flush, e.trimmer())
	e.jobs = write.NewBackground(&write.Base{
		Catalog: e.catalog, Writer: e.writer, Store: e.blobs, Nonce: e.nonce, Names: names, Log: e.log,
	}, starts{e.set}, e.background())
	e.saver = write.NewSnapshotter(e.catalog, e.blobs, e.snapshots(), e.log)
	e.log.Info("store is open", "broker", e.on.Broker, "epoch", e.writer.Epoch(), "log", e.on.kind(), "topics", len(e.catalog.Topics()),
		"recovered_bytes", e.set.Usage().Unflushed, "took", time.Since(began))
	return nil
}

// dropped is told of deleted topics.
func (e *Store) dropped(id catalog.TopicID) {
	if e.set != nil { // it is opening
		e.set.Drop(id)
	}
}

// raised is told of log starts.
func (e *Store) raised(p catalog.Partition, logStart int64) {
	if e.set != nil { // it is opening
		e.set.Trim(p, logStart)
	}
}

func (e *Store) newFlusher(from write.Source, cfg write.Config, trim write.Trimmer) *write.Flusher {
	cfg.Seq = &e.seq
	return write.NewFlusher(from, e.blobs, e.writer, trim, e.catalog.ClusterID(), e.nonce, cfg, e.log)
}

// ranges reads what an object holds from its index.
func (e *Store) ranges(ctx context.Context, cluster string, o *catalog.Object) ([]catalog.Range, error) {
	var rs []catalog.Range
	err := e.retry(ctx, "read index of "+o.Name, func() error {
		x, err := read.LoadIndex(ctx, e.blobs, cluster, o)
		if err == nil {
			rs = read.Ranges(x)
		}
		return err
	})
	if _, said := e.blind.Load(o.Name); err != nil && ctx.Err() == nil && !said {
		e.blind.Store(o.Name, true)
		e.log.Error("the catalog stands still: an object's index can't be read; see `looptape storage verify`", "object", o.Name, "error", err)
	}
	return rs, err
}

// retry repeats fn while the object store fails: a start waits for it, like
// everything else here. What waiting can't mend is returned.
func (e *Store) retry(ctx context.Context, what string, fn func() error) error {
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		err := fn()
		switch {
		case err == nil, ctx.Err() != nil, errors.Is(err, blob.ErrNotFound), errors.Is(err, blob.ErrRefused), errors.Is(err, blob.ErrBadKey), errors.Is(err, blob.ErrRange),
			errors.Is(err, object.ErrCorrupt), errors.Is(err, partition.ErrUnknownPartition), errors.Is(err, meta.ErrClosed):
			return err
		}
		e.log.Warn("start waits for the object store", "step", what, "error", err, "pause", pause)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// putOnce stores a small object that may be there already, and returns what is
// stored then.
func (e *Store) putOnce(ctx context.Context, key string, body []byte) (stored []byte, err error) {
	err = e.retry(ctx, "put "+key, func() error {
		err := e.blobs.Put(ctx, key, bytes.NewReader(body), int64(len(body)))
		if !errors.Is(err, blob.ErrExists) {
			stored = body
			return err
		}
		info, err := e.blobs.Stat(ctx, key)
		if err != nil {
			return err
		}
		if info.Size > 1<<16 {
			return fmt.Errorf("%w: %s has %d bytes", object.ErrCorrupt, key, info.Size)
		}
		stored = make([]byte, info.Size)
		_, err = e.blobs.GetRange(ctx, key, 0, stored)
		return err
	})
	return stored, err
}

// claimBucket ties the object store to the cluster (P13).
func (e *Store) claimBucket(ctx context.Context) error {
	got, err := e.putOnce(ctx, "cluster", []byte(e.catalog.ClusterID()))
	if err != nil {
		return fmt.Errorf("claim object store: %w", err)
	}
	if string(got) != e.catalog.ClusterID() {
		return fmt.Errorf("%w: the object store belongs to cluster %q, the metadata says %q", ErrBehind, got, e.catalog.ClusterID())
	}
	return nil
}

// markEpoch leaves a mark of this epoch in the object store. If one of this or a
// later epoch is there, the metadata has gone back in time.
func (e *Store) markEpoch(ctx context.Context, nonce [16]byte) error {
	prefix := fmt.Sprintf("epochs/%s/%d/", e.catalog.ClusterID(), e.writer.Broker())
	key := fmt.Sprintf("%s%020d", prefix, e.writer.Epoch())
	got, err := e.putOnce(ctx, key, nonce[:])
	if err != nil {
		return fmt.Errorf("mark epoch %d: %w", e.writer.Epoch(), err)
	}
	newest := key
	if err := e.blobs.List(ctx, prefix, func(info blob.Info) error { newest = max(newest, info.Key); return nil }); err != nil {
		return fmt.Errorf("list epochs: %w", err)
	}
	if string(got) != string(nonce[:]) || newest != key {
		return fmt.Errorf("%w: it knows %s, the metadata gave out epoch %d", ErrBehind, newest, e.writer.Epoch())
	}
	return nil
}

// entomb makes a topic's deletion known to the object store, so that metadata
// rebuilt from objects does not bring it back (P13).
func (e *Store) entomb(ctx context.Context, t catalog.Topic) error {
	_, err := e.putOnce(ctx, "tomb/"+e.catalog.ClusterID()+"/"+t.ID.String(), []byte(t.Name))
	return err
}

// loaders bounds the partitions opened at the same time.
const loaders = 16

// load opens the partitions that this broker leads and objects hold something of.
func (e *Store) load(ctx context.Context) error {
	all := slices.DeleteFunc(e.catalog.Partitions(), func(p catalog.Partition) bool { return !e.catalog.Owns(p) })
	next := make(chan catalog.Partition, len(all))
	for _, p := range all {
		next <- p
	}
	close(next)
	g := run.New(ctx)
	for range min(loaders, len(all)) {
		g.Go("open partitions", func(ctx context.Context) error {
			for p := range next {
				id := partition.ID{Topic: p.Topic, Index: p.Index}
				err := e.retry(ctx, "open partition", func() error { return e.set.Load(ctx, id) })
				switch {
				case err == nil, errors.Is(err, partition.ErrUnknownPartition): // deleted meanwhile
				case errors.Is(err, partition.ErrCorrupt):
					e.damage(id, err) // it must not stop the others (P2)
				default:
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// damage says once that a partition stays closed since an object that is needed to
// open it is damaged.
func (e *Store) damage(id partition.ID, err error) {
	if _, said := e.closed.LoadOrStore(id, true); !said {
		e.log.Error("partition stays offline: an object that it needs is damaged; see `looptape storage verify`", "partition", id.String(), "error", err)
	}
}

// Run keeps the store going until ctx ends; then it takes no more appends, puts
// what it has into objects, and closes. An error means that the process must end.
func (e *Store) Run(ctx context.Context) error {
	// The parts outlive ctx: what was appended is still to be flushed.
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g := run.New(inner)
	logCtx, stopLog := context.WithCancel(g.Context())
	defer stopLog()
	g.Go("log", func(context.Context) error { return e.wal.Run(logCtx) })
	g.Go("snapshots", e.saver.Run)
	g.Go("catalog", e.catalog.Run)
	g.Go("reader", e.reader.Run)
	g.Go("flusher", e.flusher.Run)
	g.Go("background", e.jobs.Run)
	g.Go("sweep logs", e.sweepDeadLogs)
	if e.member != nil {
		g.Go("cluster", e.member.Run)
	}
	drained := false
	select {
	case <-ctx.Done():
		drain, cancel := context.WithTimeout(g.Context(), e.cfg.DrainTimeout)
		err := e.set.Drain(drain)
		if drained = err == nil; !drained && g.Context().Err() == nil {
			e.log.Warn("stopped before everything was in objects; the log has the rest", "bytes", e.set.Usage().Unflushed)
		}
		cancel()
	case <-g.Context().Done():
		e.set.Close()
	}
	// The log ends cleanly, then everything else.
	stopLog()
	if drained {
		drained = e.finish(g.Context()) == nil
	}
	g.Stop()
	return errors.Join(g.Wait(), e.Close())
}

// finish says that the epoch's log holds nothing that is not in objects: whoever
// takes over need not look.
func (e *Store) finish(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	epoch := e.writer.Epoch()
	if int64(e.wal.Durable()) != e.writer.Committed(epoch) {
		return nil // an append that was refused at the last moment
	}
	return e.writer.Finish(ctx, epoch)
}

// Close lets go of files and locks. Run does it at its end.
func (e *Store) Close() error {
	err := closeAll(e.closers)
	e.closers = nil
	return err
}

// closeAll closes the last opened first.
func closeAll(all []io.Closer) error {
	var errs []error
	for i := len(all) - 1; i >= 0; i-- {
		errs = append(errs, all[i].Close())
	}
	return errors.Join(errs...)
}
