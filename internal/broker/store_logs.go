package broker

import (
	"context"
	"fmt"
	"time"

	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/wal/slots"
)

// sweepDeadLogs runs SweepLogs from time to time.
func (e *Store) sweepDeadLogs(ctx context.Context) error {
	every := e.cfg.Sweep.Orphans
	if every <= 0 {
		every = time.Hour
	}
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
		if err := e.SweepLogs(ctx); err != nil && ctx.Err() == nil {
			e.log.Warn("slots of dead logs are left for later", "error", err)
		}
	}
}

// SweepLogs deletes the slots of logs that are done, whoever wrote them: a broker
// may have died between the commit of the last record and the deletion, and a put
// that was under way when its writer died may arrive at any time. Seals stay. Where
// one broker acts for all, others do nothing.
func (e *Store) SweepLogs(ctx context.Context) error {
	if !e.controls() {
		return nil
	}
	held, err := slots.Held(ctx, e.blobs, e.slotPrefix())
	if err != nil {
		return err
	}
	// Read after the listing: whose log is done by now has nothing in it that
	// anybody needs.
	logs, err := e.catalog.Logs(ctx)
	if err != nil {
		return err
	}
	var dead []catalog.LogID
	for _, l := range logs {
		if l.Done && l.Kind == catalog.ObjectLog && held[slots.Epoch{Broker: l.Log.Broker, Epoch: l.Log.Epoch}] > 0 {
			dead = append(dead, l.Log)
		}
	}
	if len(dead) == 0 {
		return nil
	}
	if err := e.catalog.Refresh(ctx); err != nil {
		return err
	}
	if len(e.catalog.Quarantined()) > 0 {
		return nil // an operator may need what is left
	}
	for _, id := range dead {
		n, err := slots.Sweep(ctx, e.blobs, e.slotPrefix(), id.Broker, id.Epoch)
		if n > 0 {
			e.log.Info("deleted what was left of a dead log", "log", id.String(), "slots", n)
		}
		if err != nil {
			return fmt.Errorf("log %s: %w", id, err)
		}
	}
	return nil
}
