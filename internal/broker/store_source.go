package broker

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/partition"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/object"
	"github.com/looptape/looptape/internal/broker/store/write"
)

// source hands the partitions' cuts to the flusher: partition knows nothing of
// objects, and write nothing of partitions.
type source struct {
	set *partition.Set
}

// Next implements write.Source.
func (s source) Next(ctx context.Context) (*write.Cut, error) {
	cut, err := s.set.Next(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now().UnixMilli()
	out := &write.Cut{Epoch: cut.Epoch, First: cut.First, Last: cut.Last, Final: cut.Final, Origin: cut}
	for _, seg := range cut.Segments {
		// The book goes on also for a topic that has just been deleted.
		depth, producers := seg.Producers(object.MaxTailDepth, now)
		if !s.set.Exists(seg.ID) {
			continue
		}
		part := object.Part{
			Topic: seg.ID.Topic, Partition: seg.ID.Index,
			Units: make([]object.Unit, len(seg.Entries)),
			Tail: object.Tail{
				TopicName: seg.TopicName, LogStart: seg.LogStart, Base: seg.Base, End: seg.End, LastStable: seg.LastStable,
				LeaderEpoch: seg.LeaderEpoch, Epochs: seg.Epochs, Depth: depth, Producers: producers, Open: seg.Open, Ended: seg.Ended,
			},
		}
		for i, e := range seg.Entries {
			part.Units[i] = object.Unit{Base: e.Base, Last: e.Last, MaxTimestamp: e.MaxTimestamp, Batches: 1, Bytes: e.Bytes, Sum: batch.Batch(e.Bytes).Sum()}
		}
		part.Tail.Samples = samples(seg.Entries)
		out.Parts = append(out.Parts, part)
	}
	return out, nil
}

// Committed implements write.Source.
func (s source) Committed(cut *write.Cut) { s.set.Committed(cut.Origin.(*partition.Cut)) }

// maxSamples keeps a tail section small.
const maxSamples = 16

// samples says at evenly spread offsets how late timestamps were by then.
func samples(entries []partition.Entry) []object.Sample {
	step := (len(entries) + maxSamples - 1) / maxSamples
	var all []object.Sample
	latest := int64(-1)
	for i, e := range entries {
		latest = max(latest, e.MaxTimestamp)
		if i%step == step-1 || i == len(entries)-1 {
			all = append(all, object.Sample{Offset: e.Last, Timestamp: latest})
		}
	}
	return all
}

// starts raises log starts through the partitions, so that readers see it at once.
type starts struct {
	set *partition.Set
}

// Raise implements write.Starts.
func (s starts) Raise(ctx context.Context, p catalog.Partition, before int64) error {
	part, err := s.set.Get(partition.ID{Topic: p.Topic, Index: p.Index})
	if err != nil {
		return err
	}
	_, err = part.DeleteRecords(context.WithValue(ctx, expiry{}, true), before)
	return err
}

// expiry marks what retention does and nobody asked for: metadata that was rebuilt
// finds it by itself, so it needs no tomb.
type expiry struct{}

// trims changes log starts. What was asked for gets a tomb in the object store
// first, so that metadata restored from an old copy or rebuilt from objects does
// not bring deleted records back (P13).
type trims struct {
	e *Store
}

// SetLogStart implements partition.Starts.
func (t trims) SetLogStart(ctx context.Context, p catalog.Partition, before int64) (int64, error) {
	e := t.e
	if ctx.Value(expiry{}) == nil && before > e.catalog.Record(p).LogStart {
		tomb := write.TrimTomb{Partition: p, Before: before}
		if _, err := e.putOnce(ctx, tomb.Key(e.catalog.ClusterID()), strconv.AppendInt(nil, before, 10)); err != nil {
			return 0, fmt.Errorf("put tomb of %s: %w", p, err)
		}
	}
	return e.writer.SetLogStart(ctx, p, before)
}

// Background are the jobs that keep the store small, for who wants to run a round
// of one at once.
func (e *Store) Background() *write.Background { return e.jobs }

// background is the configuration of the jobs: they yield to writers that wait.
func (e *Store) background() write.BackgroundConfig {
	cfg := e.cfg.Background
	cfg.Sweep = e.cfg.Sweep
	cfg.Sweep.SnapshotEvery = e.cfg.Snapshots.Interval()
	if cfg.Sweep.Collects == nil {
		cfg.Sweep.Collects = e.controls
	}
	cfg.Busy = func() bool { return e.set.Usage().Waiting > 0 || e.flusher.Stats().Stalled > 0 }
	return cfg
}

// controls says whether what one broker does for all is this one's work.
func (e *Store) controls() bool {
	return e.member == nil || e.catalog.Controller() == (catalog.LogID{Broker: e.writer.Broker(), Epoch: e.writer.Epoch()})
}

// snapshots is the configuration of who saves the metadata.
func (e *Store) snapshots() write.SnapshotConfig {
	cfg := e.cfg.Snapshots
	if cfg.Mine == nil {
		cfg.Mine = e.controls
	}
	return cfg
}
