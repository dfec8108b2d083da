package inspect

import (
	"context"
	"errors"
	"fmt"

	"github.com/looptape/looptape/internal/base/disk"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/wal"
)

// logFiles reads a log in files as a start does, and changes nothing: what is in no
// object yet is only there. A server that runs has the files locked.
func (v *verifier) logFiles(ctx context.Context) error {
	if v.Catalog == nil {
		v.report.LogUnread = "without the metadata it is not known whose they are"
		return nil
	}
	logs, err := v.Catalog.Logs(ctx)
	if err != nil {
		return err
	}
	brokers, committed := map[int32]bool{}, map[int64]wal.LSN{}
	broker := int32(0)
	for _, l := range logs {
		if l.Kind != catalog.FileLog {
			continue
		}
		broker, brokers[l.Log.Broker] = l.Log.Broker, true
		if !l.Done {
			committed[l.Log.Epoch] = wal.LSN(l.Committed)
		}
	}
	if len(brokers) != 1 {
		v.report.LogUnread = fmt.Sprintf("the metadata knows %d brokers with a log in files", len(brokers))
		return nil
	}
	found, err := wal.Recover(ctx, v.cfg.Files, v.cfg.LogDir, wal.IDOf(v.Cluster, broker), func(int64, wal.LSN, []byte) error {
		v.report.LogRecords++
		return nil
	})
	var bad *wal.CorruptError
	switch {
	case errors.As(err, &bad):
		v.damage(Damage{Key: bad.File, Offset: bad.Offset, Problem: fmt.Sprintf("%s: want %s, got %s", bad.What, bad.Want, bad.Got)})
		return nil
	case errors.Is(err, disk.ErrLocked):
		v.report.LogUnread = "a server has them open"
		return nil
	case err != nil:
		return err
	}
	for _, e := range found.Epochs {
		if from, ok := committed[e.Epoch]; ok && e.First > from+1 {
			v.damage(Damage{Key: v.cfg.LogDir, Problem: fmt.Sprintf("epoch %d begins at record %d, only %d is in objects", e.Epoch, e.First, from)})
		}
	}
	return nil
}
