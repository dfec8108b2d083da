package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/broker/partition"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/wal"
)

// replay takes a record of an adopted log of our own. Where a partition's records
// do not continue what is known of it, something durable is missing: that partition
// is taken offline until an operator has decided, and the others go on (P2). The
// record, and those that follow it, are put aside in the object store, one object
// each, so that the log itself can be trimmed.
func (e *Store) replay(ctx context.Context, log catalog.LogID, lsn wal.LSN, data []byte) error {
	err := e.set.Replay(ctx, log.Epoch, lsn, data)
	if !errors.Is(err, partition.ErrCorrupt) {
		return err
	}
	id, ok := partition.RecordID(data)
	if !ok {
		return err
	}
	key := fmt.Sprintf("quarantine/%s/%s/%d/%020d-%020d", e.catalog.ClusterID(), id.Topic, id.Index, log.Epoch, lsn)
	if perr := e.retry(ctx, "put "+key, func() error {
		perr := e.blobs.Put(ctx, key, bytes.NewReader(data), int64(len(data)))
		if errors.Is(perr, blob.ErrExists) {
			return nil // by a start that did not come to its end
		}
		return perr
	}); perr != nil {
		return errors.Join(err, fmt.Errorf("put a quarantined record aside: %w", perr))
	}
	if e.damaged[id] {
		return nil
	}
	if qerr := e.writer.Quarantine(ctx, log, catalog.Partition{Topic: id.Topic, Index: id.Index}, err.Error()); qerr != nil {
		return errors.Join(err, qerr)
	}
	if e.damaged == nil {
		e.damaged = map[partition.ID]bool{}
	}
	e.damaged[id] = true
	e.set.Leave(id)
	e.log.Error("partition is damaged and taken offline; its records from here on are put aside in the object store",
		"partition", id.String(), "log", log.String(), "lsn", int64(lsn), "first", key, "error", err)
	return nil
}
