package broker

import (
	"context"
	"time"

	"github.com/looptape/looptape/internal/broker/store/inspect"
)

// Storage is what an operator asks of the running store, see package inspect.
func (b *Broker) Storage() inspect.Live {
	e := b.engine
	l, c, f := e.wal.Stats(), e.reader.Stats(), e.flusher.Stats()
	return inspect.Live{
		Cluster: e.catalog.ClusterID(), Broker: e.writer.Broker(), Epoch: e.writer.Epoch(), Since: e.since.UTC().Truncate(time.Millisecond), Calls: e.calls.Counts(),
		WAL: inspect.LiveLog{
			Records: l.Records, WrittenBytes: l.WrittenBytes, QueuedBytes: l.QueuedBytes, UncommittedBytes: l.UncommittedBytes, Waits: l.ReserveWaits,
		},
		Cache:   inspect.LiveCache{Bytes: c.CacheBytes, Hits: c.Hits, Misses: c.Misses, Gets: c.Gets, ReadBytes: c.Bytes},
		Flushed: inspect.LiveFlush{Objects: f.Objects, Bytes: f.Bytes, Failures: f.Failures, Stalled: f.Stalled},
	}
}

// CatalogSnapshot is the catalog as of now, in the form of the snapshots in the
// object store, without what is nobody's business.
func (b *Broker) CatalogSnapshot(ctx context.Context) ([]byte, error) {
	s, err := b.engine.catalog.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	return inspect.Shown(s).Encode()
}
