package gate

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/cockroachdb/pebble/v2"

	"github.com/looptape/looptape/internal/loop/event"
)

// A store keeps the engine's state, the offsets at which it was reached and the
// events that are still to be sent, so that the three never disagree:
//
//	e <key>            the engine's (state.go)
//	o <8 bytes>        the outbox: records in the order in which they are sent
//	p                  next offsets by topic and partition (JSON)
//	v                  format
type store struct {
	db     *pebble.DB
	outbox uint64 // key of the next record
}

const storeFormat = "1"

// positions are next offsets by topic and partition.
type positions = map[string]map[int32]int64

func openStore(dir string, log *slog.Logger) (*store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open gate state: %w", err)
	}
	db, err := pebble.Open(dir, &pebble.Options{
		FormatMajorVersion: pebble.FormatNewest, MemTableSize: 8 << 20, Logger: quietLog{log},
	})
	if err != nil {
		return nil, fmt.Errorf("open gate state %s: %w", dir, err)
	}
	s := &store{db: db}
	v, done, err := db.Get([]byte("v"))
	switch {
	case errors.Is(err, pebble.ErrNotFound):
		err = db.Set([]byte("v"), []byte(storeFormat), pebble.Sync)
	case err == nil && string(v) != storeFormat:
		err = fmt.Errorf("it has format %q, this program knows %q", v, storeFormat)
		done.Close()
	case err == nil:
		done.Close()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open gate state %s: %w", dir, err), db.Close())
	}
	return s, nil
}

// quietLog drops what pebble tells of its routine and keeps its failures.
type quietLog struct{ log *slog.Logger }

func (q quietLog) Infof(string, ...any) {}
func (q quietLog) Errorf(format string, args ...any) {
	q.log.Error("gate state: " + fmt.Sprintf(format, args...))
}
func (q quietLog) Fatalf(format string, args ...any) {
	panic("gate state: " + fmt.Sprintf(format, args...))
}

func (s *store) close() error {
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("close gate state: %w", err)
	}
	return nil
}

// load restores the engine and returns the positions and the unsent records.
func (s *store) load(e *Engine) (next positions, unsent []event.Record, err error) {
	next = positions{}
	v, done, err := s.db.Get([]byte("p"))
	if err == nil {
		err = json.Unmarshal(v, &next)
		done.Close()
	} else if errors.Is(err, pebble.ErrNotFound) {
		err = nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("load gate positions: %w", err)
	}
	if err := e.Restore(func(yield func(key, value []byte) error) error {
		return s.scan("e", func(key, value []byte) error { return yield(key, value) })
	}); err != nil {
		return nil, nil, err
	}
	err = s.scan("o", func(key, value []byte) error {
		if len(key) != 8 {
			return fmt.Errorf("outbox key of %d bytes", len(key))
		}
		var r event.Record
		if err := json.Unmarshal(value, &r); err != nil {
			return fmt.Errorf("outbox record: %w", err)
		}
		unsent = append(unsent, r)
		s.outbox = binary.BigEndian.Uint64(key) + 1
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("load gate state: %w", err)
	}
	return next, unsent, nil
}

func (s *store) scan(prefix string, fn func(key, value []byte) error) error {
	end := []byte(prefix)
	end[len(end)-1]++
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte(prefix), UpperBound: end})
	if err != nil {
		return err
	}
	for ok := it.First(); ok; ok = it.Next() {
		if err := fn(it.Key()[len(prefix):], it.Value()); err != nil {
			return errors.Join(err, it.Close())
		}
	}
	return it.Close()
}

// commit makes the engine's state, the positions and the records to be sent
// durable in one step. From here on the records will be sent, crash or not.
func (s *store) commit(e *Engine, next positions, records []event.Record) error {
	b := s.db.NewBatch()
	defer b.Close()
	err := e.Flush(func(key, value []byte) error {
		k := append([]byte("e"), key...)
		if value == nil {
			return b.Delete(k, nil)
		}
		return b.Set(k, value, nil)
	})
	if err != nil {
		return fmt.Errorf("commit gate state: %w", err)
	}
	if err := b.Set([]byte("p"), mustJSON(next), nil); err != nil {
		return fmt.Errorf("commit gate state: %w", err)
	}
	for i := range records {
		if err := b.Set(outboxKey(s.outbox), mustJSON(&records[i]), nil); err != nil {
			return fmt.Errorf("commit gate state: %w", err)
		}
		s.outbox++
	}
	if err := b.Commit(pebble.Sync); err != nil {
		return fmt.Errorf("commit gate state: %w", err)
	}
	return nil
}

// sent empties the outbox. It need not be durable at once: what comes back after
// a crash is sent again, the same.
func (s *store) sent() error {
	if err := s.db.DeleteRange(outboxKey(0), outboxKey(s.outbox), pebble.NoSync); err != nil {
		return fmt.Errorf("empty gate outbox: %w", err)
	}
	return nil
}

func outboxKey(n uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte("o"), n)
}
