package catalog

import (
	"context"
	"fmt"
	"strings"

	"github.com/looptape/looptape/internal/base/meta"
)

// LogState is what the store says of the log of one epoch of one broker.
type LogState struct {
	Log       LogID
	Kind      LogKind
	URI       string
	Committed int64  // LSN up to which it is in objects
	Slot      int64  // of a log of slots: the last one that lies wholly at or below Committed
	Done      bool   // nothing of it is needed any more
	Fence     string // active, sealed or done
	By        LogID  // who sealed it
}

// Logs reads the state of every log from the store, by broker and epoch.
func (c *Catalog) Logs(ctx context.Context) ([]LogState, error) {
	fences := map[LogID]fence{}
	if _, err := c.store.Scan(ctx, prefixFence, func(kv meta.KV) error {
		l, ok := parseLog(strings.TrimPrefix(kv.Key, prefixFence))
		f, err := decodeFence(kv.Value)
		if !ok || err != nil {
			return fmt.Errorf("%w: fence %q", ErrCorrupt, kv.Key)
		}
		fences[l] = f
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read fences: %w", err)
	}
	var all []LogState
	if _, err := c.store.Scan(ctx, prefixWAL, func(kv meta.KV) error {
		l, ok := parseLog(strings.TrimPrefix(kv.Key, prefixWAL))
		w, err := decodeWAL(kv.Value)
		if !ok || err != nil {
			return fmt.Errorf("%w: log record %q", ErrCorrupt, kv.Key)
		}
		f := fences[l]
		all = append(all, LogState{
			Log: l, Kind: w.Kind, URI: w.URI, Committed: w.Committed, Slot: w.Slot, Done: w.Done,
			Fence: map[fenceState]string{fenceActive: "active", fenceSealed: "sealed", fenceDone: "done"}[f.State],
			By:    LogID{f.By, f.ByEpoch},
		})
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read log records: %w", err)
	}
	return all, nil
}
