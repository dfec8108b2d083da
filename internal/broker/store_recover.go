package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/looptape/looptape/internal/base/run"
	"github.com/looptape/looptape/internal/broker/partition"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/wal"
	"github.com/looptape/looptape/internal/broker/store/wal/slots"
	"github.com/looptape/looptape/internal/broker/store/write"
)

// recovery brings the sealed logs of one dead broker into objects. A crash at any
// moment leaves what the next recovery, here or elsewhere, goes on from: a log is
// done only with its last commit.
type recovery struct {
	e       *Store
	broker  int32
	set     *partition.Set
	final   chan int64 // epochs whose last cut is committed
	known   map[partition.ID]bool
	damaged map[partition.ID]bool

	// Of the log being read.
	epoch int64
	first wal.LSN // of data
	data  [][]byte
	bytes int
}

// recoverBytes is how much of a foreign log is taken at a time.
const recoverBytes = 16 << 20

// Recover implements cluster.Host: it reads the sealed logs of a dead broker, the
// oldest first, replays what is not in objects on top of what is, and commits it
// under the fences sealed by this broker. Nothing is served from here: whoever is
// made the leader opens the partitions from the objects.
func (h host) Recover(ctx context.Context, broker int32) error {
	e := h.e
	logs, err := e.writer.Recover(ctx, broker)
	if err != nil {
		return err
	}
	r := &recovery{
		e: e, broker: broker, set: partition.NewRecovery(e.catalog, e.reader, e.cfg.Partitions),
		final: make(chan int64, len(logs)), known: map[partition.ID]bool{}, damaged: map[partition.ID]bool{},
	}
	cfg := e.cfg.Flush
	cfg.Of = &broker
	flusher := e.newFlusher(recovered{source{r.set}, r.final}, cfg, foreignLog{})
	g := run.New(ctx)
	g.Go("flush recovered", flusher.Run)
	g.Go("read log", func(ctx context.Context) error {
		defer g.Stop()
		for _, a := range logs {
			if err := r.take(ctx, a); err != nil {
				return fmt.Errorf("log %s: %w", a.Log, err)
			}
		}
		return nil
	})
	if err := errors.Join(g.Wait(), ctx.Err()); err != nil {
		return err
	}
	if len(r.damaged) == 0 { // what a quarantined partition needs stays
		e.sweepLogs(ctx, logs)
	}
	return nil
}

// take brings one log into objects and returns when the last of it is committed.
func (r *recovery) take(ctx context.Context, a catalog.Adopted) error {
	switch {
	case a.Closed:
		return r.e.writer.Commit(ctx, catalog.Commit{Of: a.Log, LSN: a.Committed, Slot: a.Slot, Done: true})
	case a.Kind != catalog.ObjectLog:
		return fmt.Errorf("it is kept in %s of broker %d, which has to recover it", a.URI, a.Log.Broker)
	}
	r.epoch = a.Log.Epoch
	last := wal.LSN(a.Committed)
	_, err := r.e.readSlots(ctx, a, func(lsn wal.LSN, data []byte) error {
		if len(r.data) == 0 {
			r.first = lsn
		}
		last = lsn
		r.data = append(r.data, data)
		if r.bytes += len(data); r.bytes < recoverBytes {
			return nil
		}
		return r.replay(ctx, a.Log)
	})
	if err != nil {
		return err
	}
	if err := r.replay(ctx, a.Log); err != nil {
		return err
	}
	// The log is whole: its final cut marks it as done.
	r.set.Replayed(r.epoch, last)
	select {
	case <-r.final:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// replay takes what was read. Partitions are loaded first, many at a time.
func (r *recovery) replay(ctx context.Context, log catalog.LogID) error {
	data := r.data
	r.data, r.bytes = nil, 0
	if err := r.prepare(ctx, data); err != nil {
		return err
	}
	for i, d := range data {
		id, ok := partition.RecordID(d)
		if r.damaged[id] {
			continue
		}
		lsn := r.first + wal.LSN(i)
		err := r.set.Replay(ctx, r.epoch, lsn, d)
		if ok && errors.Is(err, partition.ErrCorrupt) {
			// It must not stop the others (P2).
			r.e.log.Error("partition is damaged and taken offline", "partition", id.String(), "log", log.String(), "lsn", int64(lsn), "error", err)
			err = r.e.writer.Quarantine(ctx, log, catalog.Partition{Topic: id.Topic, Index: id.Index}, err.Error())
			r.damaged[id] = true
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *recovery) prepare(ctx context.Context, data [][]byte) error {
	var missing []partition.ID
	for _, d := range data {
		if id, ok := partition.RecordID(d); ok && !r.known[id] {
			r.known[id] = true
			missing = append(missing, id)
		}
	}
	next := make(chan partition.ID, len(missing))
	for _, id := range missing {
		next <- id
	}
	close(next)
	g := run.New(ctx)
	for range min(loaders, len(missing)) {
		g.Go("load partitions", func(ctx context.Context) error {
			for id := range next {
				err := r.set.Prepare(ctx, id)
				if errors.Is(err, partition.ErrCorrupt) {
					continue // Replay says so of its first record
				}
				if err != nil {
					return fmt.Errorf("load partition %s: %w", id, err)
				}
			}
			return nil
		})
	}
	return errors.Join(g.Wait(), ctx.Err())
}

// recovered is the source of a recovery's flusher.
type recovered struct {
	source
	final chan<- int64 // holds all
}

// Committed implements write.Source.
func (r recovered) Committed(cut *write.Cut) {
	r.source.Committed(cut)
	if cut.Final {
		r.final <- cut.Epoch
	}
}

// foreignLog is a dead broker's log as the flusher sees it: it stays whole until
// all of it is in objects.
type foreignLog struct{}

// TrimEpoch implements write.Trimmer.
func (foreignLog) TrimEpoch(int64, wal.LSN) error { return nil }

// Place implements write.Trimmer.
func (foreignLog) Place(int64, wal.LSN) int64 { return 0 }

// sweepLogs deletes the slots of recovered logs. What it leaves is for the
// sweeper, which comes by again.
func (e *Store) sweepLogs(ctx context.Context, logs []catalog.Adopted) {
	for _, a := range logs {
		if a.Kind != catalog.ObjectLog {
			continue
		}
		if n, err := slots.Sweep(ctx, e.blobs, e.slotPrefix(), a.Log.Broker, a.Log.Epoch); err != nil {
			e.log.Warn("slots of a recovered log are left for later", "log", a.Log.String(), "deleted", n, "error", err)
		}
	}
}
