package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/looptape/looptape/internal/broker/partition"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/wal"
	"github.com/looptape/looptape/internal/broker/store/wal/slots"
	"github.com/looptape/looptape/internal/broker/store/write"
)

// adopt takes the logs of this broker's earlier epochs: what is above their
// committed LSN goes into memory, ready to be served and flushed like anything
// new (P15), and the log of this epoch is opened.
func (e *Store) adopt(ctx context.Context) error {
	for _, a := range e.adopted {
		if a.Kind != e.on.kind() && !a.Closed {
			return fmt.Errorf("the log of epoch %d is kept in the other way (%s): start once more with --wal %s and stop with SIGTERM, then change it",
				a.Log.Epoch, a.Kind, a.Kind)
		}
	}
	if e.on.kind() == catalog.ObjectLog {
		return e.adoptSlots(ctx)
	}
	return e.adoptFiles(ctx)
}

// adoptFiles is adopt for a log in files.
func (e *Store) adoptFiles(ctx context.Context) error {
	id := wal.Identity{WALID: wal.IDOf(e.catalog.ClusterID(), e.on.Broker), Epoch: e.writer.Epoch()}
	committed := map[int64]wal.LSN{}
	logs := map[int64]catalog.LogID{}
	for _, a := range e.adopted {
		committed[a.Log.Epoch] = wal.LSN(a.Committed)
		logs[a.Log.Epoch] = a.Log
	}
	current := int64(0)
	last := map[int64]wal.LSN{}
	end := func(epoch int64) {
		if l, ok := last[epoch]; ok {
			e.set.Replayed(epoch, l)
			delete(committed, epoch) // its final cut marks it as done
		}
	}
	found, err := wal.Recover(ctx, e.on.Files, e.on.Dir, id.WALID, func(epoch int64, lsn wal.LSN, data []byte) error {
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
		return e.replay(ctx, logs[epoch], lsn, data)
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
	log, err := wal.Open(ctx, e.on.Files, e.on.Dir, id, e.cfg.Log, found)
	if err != nil {
		return err
	}
	e.wal = log
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

// slotPrefix is where the logs of all brokers are.
func (e *Store) slotPrefix() string { return "wal/" + e.catalog.ClusterID() }

// adoptSlots is adopt for a log in the object store.
func (e *Store) adoptSlots(ctx context.Context) error {
	var adopted []*slots.Recovered
	var empty []catalog.LogID
	for _, a := range e.adopted {
		if a.Closed {
			empty = append(empty, a.Log)
			continue
		}
		last := wal.LSN(a.Committed)
		r, err := e.readSlots(ctx, a, func(lsn wal.LSN, data []byte) error {
			last = lsn
			return e.replay(ctx, a.Log, lsn, data)
		})
		if err != nil {
			return fmt.Errorf("recover log: %w", err)
		}
		e.slots[a.Log.Epoch] = r
		adopted = append(adopted, r)
		if last == wal.LSN(a.Committed) {
			empty = append(empty, a.Log)
		} else {
			e.set.Replayed(a.Log.Epoch, last) // its final cut marks it as done
		}
	}
	cfg := e.cfg.Slots
	cfg.Store, cfg.Prefix, cfg.Broker, cfg.Epoch, cfg.Nonce = e.blobs, e.slotPrefix(), e.on.Broker, e.writer.Epoch(), e.nonce
	cfg.Conditional, cfg.StillMine, cfg.Adopted, cfg.Logger = !e.on.Unconditional, e.stillMine, adopted, e.log
	log, err := slots.Open(ctx, cfg)
	if err != nil {
		return err
	}
	e.wal = log
	e.closers = append(e.closers, log)
	e.set.Recovered()
	e.set.Serve(log)
	for _, id := range empty {
		if err := e.writer.Finish(ctx, id.Epoch); err != nil {
			return fmt.Errorf("close epoch %d: %w", id.Epoch, err)
		}
		if e.slots[id.Epoch] == nil {
			continue
		}
		if err := log.TrimEpoch(id.Epoch, e.slots[id.Epoch].Last); err != nil {
			return fmt.Errorf("trim log: %w", err)
		}
	}
	return nil
}

// readSlots ends the log of a sealed epoch, for ever and everywhere at the same
// slot, and hands out what is above its committed LSN (P1, P2).
func (e *Store) readSlots(ctx context.Context, a catalog.Adopted, fn func(wal.LSN, []byte) error) (*slots.Recovered, error) {
	end := a.End
	if end == 0 {
		sealed, err := slots.Seal(ctx, e.blobs, e.slotPrefix(), a.Log.Broker, a.Log.Epoch, a.Slot,
			slots.Writer{Broker: e.on.Broker, Epoch: e.writer.Epoch(), Nonce: e.nonce})
		if err != nil {
			return nil, err
		}
		if end, err = e.writer.EndLog(ctx, a.Log, sealed); err != nil {
			return nil, err
		}
	}
	next := wal.LSN(a.Committed) + 1
	r, err := slots.Read(ctx, e.blobs, e.slotPrefix(), a.Log.Broker, a.Log.Epoch, a.Slot+1, end, func(lsn wal.LSN, data []byte) error {
		if lsn < next {
			return nil // in objects
		}
		if lsn > next {
			return fmt.Errorf("%w: log %s continues at LSN %d, only %d is in objects", partition.ErrCorrupt, a.Log, lsn, next-1)
		}
		next++
		return fn(lsn, data)
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// stillMine is asked by a log whose store has no conditional puts.
func (e *Store) stillMine(ctx context.Context) error {
	err := e.writer.StillMine(ctx)
	if errors.Is(err, catalog.ErrFenced) {
		return fmt.Errorf("%w: %w", wal.ErrFenced, err)
	}
	return err
}

// trimmer is the log as the flusher sees it.
func (e *Store) trimmer() write.Trimmer { return ownLog{e.wal, e.writer.Epoch(), e.slots} }

type ownLog struct {
	wal.Log
	epoch   int64
	adopted map[int64]*slots.Recovered
}

// Place implements write.Trimmer.
func (l ownLog) Place(epoch int64, lsn wal.LSN) int64 {
	if epoch == l.epoch {
		return l.Log.Place(lsn)
	}
	if r := l.adopted[epoch]; r != nil {
		return r.Place(lsn)
	}
	return 0
}
