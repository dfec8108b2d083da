package write

import (
	"context"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/broker/store/catalog"
)

// TombPrefix is what the keys of the cluster's tombs start with: "{topic}" of a
// deleted topic, and those of TrimTomb.
func TombPrefix(cluster string) string { return "tomb/" + cluster + "/" }

// TrimTomb says in the object store that records below an offset were deleted: an
// object is put before the deletion is acknowledged (P13).
type TrimTomb struct {
	Partition catalog.Partition
	Before    int64
}

// Key is the tomb's key in the object store.
func (t TrimTomb) Key(cluster string) string {
	return fmt.Sprintf("%s%s-%d-%020d", TombPrefix(cluster), t.Partition.Topic, t.Partition.Index, t.Before)
}

// ParseTrimTomb reads what follows TombPrefix in a key.
func ParseTrimTomb(name string) (t TrimTomb, ok bool) {
	parts := strings.Split(name, "-")
	if len(parts) != 3 {
		return t, false
	}
	id, err := hex.DecodeString(parts[0])
	if err != nil || len(id) != len(t.Partition.Topic) {
		return t, false
	}
	index, err1 := strconv.ParseInt(parts[1], 10, 32)
	before, err2 := strconv.ParseInt(parts[2], 10, 64)
	t = TrimTomb{catalog.Partition{Topic: catalog.TopicID(id), Index: int32(index)}, before}
	return t, err1 == nil && err2 == nil && t.Key("") == TombPrefix("")+name
}

// sweepTombs deletes the tombs of trimmed records that say nothing any more: a
// later one of the partition says more, or the topic is gone, which has its own.
func (s *Sweeper) sweepTombs(ctx context.Context) error {
	prefix := TombPrefix(s.Catalog.ClusterID())
	newest := map[catalog.Partition]TrimTomb{}
	topics := map[catalog.TopicID]bool{} // deleted ones
	var old []TrimTomb
	err := s.Store.List(ctx, prefix, func(info blob.Info) error {
		name := info.Key[len(prefix):]
		t, ok := ParseTrimTomb(name)
		if !ok {
			if id, err := hex.DecodeString(name); err == nil && len(id) == len(catalog.TopicID{}) {
				topics[catalog.TopicID(id)] = true
			}
			return nil
		}
		if last, ok := newest[t.Partition]; ok { // keys ascend
			old = append(old, last)
		}
		newest[t.Partition] = t
		return nil
	})
	if err != nil {
		return fmt.Errorf("list tombs: %w", err)
	}
	for p, t := range newest {
		if _, exists := s.Catalog.TopicByID(p.Topic); !exists && topics[p.Topic] {
			old = append(old, t)
		}
	}
	for _, t := range old[:min(len(old), perRound)] {
		if err := s.Store.Delete(ctx, t.Key(s.Catalog.ClusterID())); err != nil {
			return fmt.Errorf("delete tomb: %w", err)
		}
	}
	return nil
}
