package stream

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/cockroachdb/pebble/v2"
)

// A store is the local state of one processor: the keys of all its partition
// numbers side by side in one pebble database, so that their checkpoints share
// syncs.
//
//	4 bytes partition, big endian | 1 byte kind | key
//
//	kind m   the checkpoint of the partition (JSON), key empty;
//	         of partition -1 the instance name, key "instance"
//	kind s   the handler's state
//	kind t   a timer: 8 bytes time (ns since 1970, big endian, sign flipped) | key
type store struct {
	db    *pebble.DB
	cache *pebble.Cache
}

const (
	kindMeta  = 'm'
	kindState = 's'
	kindTimer = 't'
)

// A checkpoint says how far the state of a partition number has come. It is
// written in the batch that holds the state, so the two never disagree.
type checkpoint struct {
	Next      map[string]int64 `json:"next"`                // next offset to process, by topic
	Time      int64            `json:"time"`                // stream time, ns since 1970
	Epoch     int64            `json:"epoch,omitempty"`     // of the changelog's writer: grows with every owner
	Changelog int64            `json:"changelog,omitempty"` // next offset of the changelog that is not in this state
	Restoring bool             `json:"restoring,omitempty"` // the state is half restored: read on before using it
}

func openStore(dir string, cacheBytes int64, log *slog.Logger) (*store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	cache := pebble.NewCache(cacheBytes)
	db, err := pebble.Open(dir, &pebble.Options{
		Cache:              cache,
		FormatMajorVersion: pebble.FormatNewest,
		MemTableSize:       16 << 20,
		Logger:             storeLog{log},
	})
	if err != nil {
		cache.Unref()
		return nil, fmt.Errorf("open state %s (if it is damaged, remove it: it is restored from the cluster): %w", dir, err)
	}
	return &store{db, cache}, nil
}

func (s *store) close() error {
	err := s.db.Close()
	s.cache.Unref()
	if err != nil {
		return fmt.Errorf("close state: %w", err)
	}
	return nil
}

func storeKey(part int32, kind byte, key []byte) []byte {
	b := make([]byte, 5, 5+len(key))
	binary.BigEndian.PutUint32(b, uint32(part))
	b[4] = kind
	return append(b, key...)
}

// keyEnd is the first key after all keys with that prefix.
func keyEnd(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		end[i]++
		if end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

// instance is the name of this state directory in its consumer group, made once:
// a process that comes back on it, after a crash too, takes over its own place in
// the group at once instead of waiting for the session of the dead one to end.
func (s *store) instance() (string, error) {
	key := storeKey(-1, kindMeta, []byte("instance"))
	v, done, err := s.db.Get(key)
	if err == nil {
		defer done.Close()
		return string(v), nil
	}
	if !errors.Is(err, pebble.ErrNotFound) {
		return "", fmt.Errorf("read instance name: %w", err)
	}
	name := rand.Text()
	if err := s.db.Set(key, []byte(name), pebble.Sync); err != nil {
		return "", fmt.Errorf("write instance name: %w", err)
	}
	return name, nil
}

// load is the checkpoint of a partition number, or nil where there is none.
func (s *store) load(part int32) (*checkpoint, error) {
	v, done, err := s.db.Get(storeKey(part, kindMeta, nil))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read checkpoint: %w", err)
	}
	defer done.Close()
	var cp checkpoint
	if err := json.Unmarshal(v, &cp); err != nil {
		return nil, fmt.Errorf("checkpoint is damaged: %w", err)
	}
	return &cp, nil
}

func saveCheckpoint(b *pebble.Batch, part int32, cp *checkpoint) error {
	v, err := json.Marshal(cp)
	if err != nil {
		return fmt.Errorf("encode checkpoint: %w", err)
	}
	if err := b.Set(storeKey(part, kindMeta, nil), v, nil); err != nil {
		return fmt.Errorf("write checkpoint: %w", err)
	}
	return nil
}

// wipe removes everything of a partition number.
func (s *store) wipe(part int32) error {
	from := storeKey(part, 0, nil)[:4]
	if err := s.db.DeleteRange(from, keyEnd(from), pebble.Sync); err != nil {
		return fmt.Errorf("wipe state: %w", err)
	}
	return nil
}

// storeLog keeps the database's chatter for debugging.
type storeLog struct{ log *slog.Logger }

func (l storeLog) Infof(format string, args ...any) {}

func (l storeLog) Errorf(format string, args ...any) {
	l.log.Error("state: " + fmt.Sprintf(format, args...))
}

// Fatalf is called when the database can not go on without breaking its promises
// (a write of its log failed).
func (l storeLog) Fatalf(format string, args ...any) {
	panic("state: " + fmt.Sprintf(format, args...))
}
