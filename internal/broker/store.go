package broker

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/blob/bloburl"
	"github.com/looptape/looptape/internal/base/disk"
	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/meta/metalocal"
	"github.com/looptape/looptape/internal/base/run"
	"github.com/looptape/looptape/internal/broker/partition"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/object"
	"github.com/looptape/looptape/internal/broker/store/read"
	"github.com/looptape/looptape/internal/broker/store/wal"
	"github.com/looptape/looptape/internal/broker/store/write"
)

// StoreConfig tunes the store. The zero value is the default.
type StoreConfig struct {
	Log        wal.Config
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
	log     *slog.Logger
	files   disk.FS
	blobs   blob.Store
	calls   *blob.Counters // of blobs
	since   time.Time      // when it was opened
	meta    meta.Store
	catalog *catalog.Catalog
	writer  *catalog.Writer
	reader  *read.Reader
	set     *partition.Set
	wal     *wal.FileLog
	flusher *write.Flusher
	jobs    *write.Background
	sweeper *write.Sweeper // of jobs
	saver   *write.Snapshotter
	adopted []catalog.Adopted
	closers []io.Closer // in the order of opening
}

// Partitions are the partitions this broker leads.
func (e *Store) Partitions() *partition.Set { return e.set }

// Catalog is the cluster's catalog.
func (e *Store) Catalog() *catalog.Catalog { return e.catalog }

// openStore opens the store in cfg.DataDir and recovers what an earlier process
// left there. When it returns, everything that was ever acknowledged can be read
// and appends can be taken; they are answered once Run runs.
func openStore(ctx context.Context, cfg Config, log *slog.Logger, reg prometheus.Registerer) (_ *Store, err error) {
	files := disk.OS{}
	if err := files.MkdirAll(cfg.DataDir); err != nil {
		return nil, fmt.Errorf("create data directory: %w", err)
	}
	lock, err := files.Lock(filepath.Join(cfg.DataDir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("lock data directory %s (is another broker running on it?): %w", cfg.DataDir, err)
	}
	closers := []io.Closer{lock}
	defer func() {
		if err != nil {
			err = errors.Join(err, closeAll(closers))
		}
	}()
	url := cfg.Blob
	if url == "" {
		url = filepath.Join(cfg.DataDir, "objects")
	}
	blobs, err := bloburl.Open(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("open object store: %w", err)
	}
	metadata, err := metalocal.Open(filepath.Join(cfg.DataDir, "meta.db"))
	if err != nil {
		return nil, fmt.Errorf("open metadata: %w", err)
	}
	closers = append(closers, metadata)
	e, err := OpenStore(ctx, Parts{
		Files: files, Dir: filepath.Join(cfg.DataDir, "wal"), Blobs: blobs, Meta: metadata, Broker: cfg.NodeID,
	}, cfg.Store, log)
	if err != nil {
		return nil, err
	}
	e.closers = append(closers, e.closers...)
	if err := e.register(reg); err != nil {
		closers = e.closers
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return e, nil
}

// Parts is what a Store stands on. Its owner closes them after the Store.
type Parts struct {
	Files  disk.FS
	Dir    string // of the log
	Blobs  blob.Store
	Meta   meta.Store
	Broker int32
}

// OpenStore is openStore on given parts. The caller holds the broker's lock.
func OpenStore(ctx context.Context, on Parts, cfg StoreConfig, log *slog.Logger) (_ *Store, err error) {
	began := time.Now()
	e := &Store{cfg: cfg.withDefaults(), log: log, files: on.Files, meta: on.Meta, since: began}
	on.Blobs, e.calls = blob.Counted(on.Blobs)
	e.blobs = on.Blobs
	defer func() {
		if err != nil {
			err = errors.Join(err, closeAll(e.closers))
		}
	}()
	if e.catalog, err = catalog.Open(ctx, on.Meta, catalog.Config{
		Ranges: e.ranges, Deleted: func(id catalog.TopicID) { e.set.Drop(id) }, Entomb: e.entomb, Now: cfg.Partitions.Now,
	}); err != nil {
		return nil, err
	}
	if err := e.claimBucket(ctx); err != nil {
		return nil, err
	}
	if err := e.checkAge(ctx); err != nil {
		return nil, err
	}
	var nonce [16]byte
	rand.Read(nonce[:])
	if e.writer, e.adopted, err = e.catalog.Register(ctx, catalog.Registration{Broker: on.Broker, Kind: catalog.FileLog, URI: on.Dir}); err != nil {
		return nil, err
	}
	// From here on nothing of an earlier epoch can be committed but by us.
	if err := e.markEpoch(ctx, nonce); err != nil {
		return nil, err
	}
	e.reader = read.New(on.Blobs, e.catalog, e.cfg.Read)
	e.set = partition.NewSet(e.catalog, e.reader, e.writer, e.writer.Epoch(), e.cfg.Partitions)
	if err := e.load(ctx); err != nil {
		return nil, err
	}
	if err := e.recover(ctx, on); err != nil {
		return nil, err
	}
	names := write.NewNames()
	e.cfg.Flush.Names = names
	e.flusher = write.NewFlusher(source{e.set}, on.Blobs, e.writer, trimmer{e.wal, e.writer.Epoch()}, e.catalog.ClusterID(), nonce, e.cfg.Flush, log)
	e.jobs = write.NewBackground(&write.Base{
		Catalog: e.catalog, Writer: e.writer, Store: on.Blobs, Nonce: nonce, Names: names, Log: log,
	}, starts{e.set}, e.background())
	e.sweeper = e.jobs.Sweeper()
	e.saver = write.NewSnapshotter(e.catalog, on.Blobs, e.cfg.Snapshots, log)
	log.Info("store is open", "epoch", e.writer.Epoch(), "topics", len(e.catalog.Topics()),
		"recovered_bytes", e.set.Usage().Unflushed, "took", time.Since(began))
	return e, nil
}

// trimmer is the log as the flusher sees it.
type trimmer struct {
	wal.Log
	epoch int64
}

// Place implements write.Trimmer.
func (t trimmer) Place(epoch int64, lsn wal.LSN) int64 {
	if epoch != t.epoch {
		return 0 // what was known of it stays
	}
	return t.Log.Place(lsn)
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

// load opens the partitions that objects hold something of.
func (e *Store) load(ctx context.Context) error {
	all := e.catalog.Partitions()
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
				if err := e.retry(ctx, "open partition", func() error { return e.set.Load(ctx, id) }); err != nil {
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

// walID never changes for a broker of a cluster.
func walID(cluster string, broker int32) [16]byte {
	sum := sha256.Sum256(binary.BigEndian.AppendUint32([]byte(cluster), uint32(broker)))
	return [16]byte(sum[:])
}

// recover adopts the logs of earlier epochs: what is above their committed LSN
// goes into memory, ready to be served and flushed like anything new (P15).
func (e *Store) recover(ctx context.Context, on Parts) error {
	id := wal.Identity{WALID: walID(e.catalog.ClusterID(), on.Broker), Epoch: e.writer.Epoch()}
	committed := map[int64]wal.LSN{}
	for _, a := range e.adopted {
		committed[a.Log.Epoch] = wal.LSN(a.Committed)
	}
	current := int64(0)
	last := map[int64]wal.LSN{}
	end := func(epoch int64) {
		if l, ok := last[epoch]; ok {
			e.set.Replayed(epoch, l)
			delete(committed, epoch) // its final cut marks it as done
		}
	}
	found, err := wal.Recover(ctx, on.Files, on.Dir, id.WALID, func(epoch int64, lsn wal.LSN, data []byte) error {
		from, ours := committed[epoch]
		if !ours || lsn <= from {
			return nil // in objects; an epoch that is done has nothing else
		}
		if epoch != current {
			end(current)
			current = epoch
		}
		if prev := max(last[epoch], from); lsn != prev+1 {
			return fmt.Errorf("recover log: epoch %d continues at LSN %d, only %d is in objects", epoch, lsn, prev)
		}
		last[epoch] = lsn
		return e.set.Replay(ctx, epoch, lsn, data)
	})
	if err != nil {
		return fmt.Errorf("recover log: %w", err)
	}
	end(current)
	for _, f := range found.Epochs {
		if e.writer.Adopts(f.Epoch) && int64(f.First) > e.writer.Committed(f.Epoch)+1 {
			return fmt.Errorf("recover log: epoch %d begins at LSN %d, only %d is in objects", f.Epoch, f.First, e.writer.Committed(f.Epoch))
		}
	}
	if e.wal, err = wal.Open(ctx, on.Files, on.Dir, id, e.cfg.Log, found); err != nil {
		return err
	}
	e.closers = append(e.closers, e.wal)
	// Only now is all that was replayed known to be durable.
	e.set.Recovered()
	e.set.Serve(e.wal)
	for epoch := range committed {
		if err := e.writer.Finish(ctx, epoch); err != nil {
			return fmt.Errorf("close epoch %d: %w", epoch, err)
		}
	}
	for _, f := range found.Epochs {
		upto := f.Last // all of it is in objects, unless
		if e.writer.Adopts(f.Epoch) {
			upto = wal.LSN(e.writer.Committed(f.Epoch)) // the rest is flushed soon
		}
		if err := e.wal.TrimEpoch(f.Epoch, upto); err != nil {
			return fmt.Errorf("trim log: %w", err)
		}
	}
	return nil
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
	select {
	case <-ctx.Done():
		drain, cancel := context.WithTimeout(g.Context(), e.cfg.DrainTimeout)
		if err := e.set.Drain(drain); err != nil && g.Context().Err() == nil {
			e.log.Warn("stopped before everything was in objects; the log has the rest", "bytes", e.set.Usage().Unflushed)
		}
		cancel()
	case <-g.Context().Done():
		e.set.Close()
	}
	// The log ends cleanly, then everything else.
	stopLog()
	g.Stop()
	return errors.Join(g.Wait(), e.Close())
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
