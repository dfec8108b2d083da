package broker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/write"
)

// checkAge refuses metadata that is older than the object store: an old copy put
// in the place of a newer one, or an old snapshot restored (P13). Going on would
// write over offsets that were acknowledged, and sweep objects that the copy does
// not know. What tells is what only rises: each broker's epochs, which every start
// marks in the object store, and the numbers of snapshots.
//
// The object store is read first. Whatever it shows was in the metadata before,
// so what other brokers do meanwhile is no false alarm.
func (e *Store) checkAge(ctx context.Context) error {
	marked := map[int32]int64{}
	if err := e.retry(ctx, "list epochs", func() error {
		prefix := "epochs/" + e.catalog.ClusterID() + "/"
		return e.blobs.List(ctx, prefix, func(info blob.Info) error {
			b, n, _ := strings.Cut(strings.TrimPrefix(info.Key, prefix), "/")
			broker, err1 := strconv.ParseInt(b, 10, 32)
			epoch, err2 := strconv.ParseInt(n, 10, 64)
			if err1 == nil && err2 == nil {
				marked[int32(broker)] = max(marked[int32(broker)], epoch)
			}
			return nil
		})
	}); err != nil {
		return fmt.Errorf("check the age of the metadata: %w", err)
	}
	known, err := e.catalog.Epochs(ctx)
	if err != nil {
		return fmt.Errorf("check the age of the metadata: %w", err)
	}
	for broker, epoch := range marked {
		if epoch > known[broker] {
			return fmt.Errorf("%w: broker %d has had epoch %d, the metadata knows %d; %s", ErrBehind, broker, epoch, known[broker], newerCopy)
		}
	}
	var why error
	err = e.retry(ctx, "read the newest snapshot", func() (err error) {
		why, err = write.Outdated(ctx, e.blobs, e.catalog)
		if errors.Is(err, catalog.ErrCorrupt) {
			e.log.Error("the newest snapshot of the metadata is damaged and tells nothing of its age", "error", err)
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("check the age of the metadata: %w", err)
	}
	if why != nil {
		return fmt.Errorf("%w: %w; %s", ErrBehind, why, newerCopy)
	}
	return nil
}

// newerCopy is what to do about ErrBehind.
const newerCopy = "stop, and restore a newer copy of the metadata: a backup, or the newest snapshot under meta/ in the object store"
