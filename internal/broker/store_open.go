package broker

import (
	"context"
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
	"github.com/looptape/looptape/internal/base/meta/metaurl"
)

// ErrConfig says that parts of a Config do not go together.
var ErrConfig = errors.New("invalid configuration")

// inCluster says that other brokers may share the metadata and the bucket.
func (c Config) inCluster() bool { return metaurl.Remote(c.Meta) }

// wal is where the log is kept.
func (c Config) wal() string {
	if c.WAL == "" && c.inCluster() {
		return "object"
	}
	if c.WAL == "" {
		return "file"
	}
	return c.WAL
}

// check finds what does not go together, before anything is touched.
func (c Config) check() error {
	switch {
	case c.wal() != "file" && c.wal() != "object":
		return fmt.Errorf("%w: the log is kept in %q; there are \"file\" and \"object\"", ErrConfig, c.WAL)
	case c.NodeID < 0:
		return fmt.Errorf("%w: node id %d is below 0", ErrConfig, c.NodeID)
	case c.inCluster() && c.Blob == "":
		return fmt.Errorf("%w: brokers that share metadata share the objects too: name their store, as s3://bucket/prefix", ErrConfig)
	}
	return nil
}

// openStore opens the store that cfg describes and recovers what an earlier
// process left there. When it returns, everything that was ever acknowledged can
// be read and appends can be taken; they are answered once Run runs.
func openStore(ctx context.Context, cfg Config, log *slog.Logger, reg prometheus.Registerer) (_ *Store, err error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
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
	parts := Parts{
		Files: files, Dir: filepath.Join(cfg.DataDir, "wal"), Blobs: blobs, Broker: cfg.NodeID,
		WAL: cfg.wal(), Cluster: cfg.inCluster(), Address: cfg.Advertised, Rack: cfg.Rack, Lease: cfg.Lease,
	}
	if cfg.Blob != "" {
		features, err := probe(ctx, blobs, log)
		if err != nil {
			return nil, fmt.Errorf("object store: %w", err)
		}
		if parts.Unconditional = !features.Conditional; parts.Unconditional {
			log.Warn("the object store has no conditional put: every put of the log is followed by a look at the metadata")
		}
	}
	path := cfg.Meta
	if path == "" {
		path = filepath.Join(cfg.DataDir, "meta.db")
	}
	var metadata meta.Store
	if metadata, err = metaurl.Open(ctx, path); err != nil {
		return nil, err
	}
	closers = append(closers, metadata)
	parts.Meta = metadata
	e, err := OpenStore(ctx, parts, cfg.Store, log)
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

// probe finds out what the object store can do. A start waits for a store that is
// away, as for everything else; one that refuses is an error.
func probe(ctx context.Context, blobs blob.Store, log *slog.Logger) (blob.Features, error) {
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		features, err := blob.Probe(ctx, blobs, "probe/")
		if err == nil || ctx.Err() != nil || errors.Is(err, blob.ErrRefused) || errors.Is(err, blob.ErrBadKey) {
			return features, err
		}
		log.Warn("start waits for the object store", "error", err, "pause", pause)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}
