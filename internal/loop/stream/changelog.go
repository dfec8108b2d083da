package stream

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/looptape/looptape/internal/loop/event"
)

// The changelog of a partition number lies in the partition of that number:
//
//	key      kind | key        as in the store, without the partition
//	value    the value; none (a tombstone): the key is gone
//	epoch    header, 8 bytes   of the owner that wrote it: one more than all before it
//
// Each batch ends with a marker, the key "m", which holds the checkpoint. It is
// written after what the batch emitted is acknowledged. What follows the last
// marker belongs to a batch that was not finished: restored, it is state ahead of
// its positions, so those records are processed twice, as after any crash. (With
// transactions it would not be seen.) Records of an epoch older than one already
// read come from an owner that did not know it was none any more: they are
// passed over.
const epochHeader = "epoch"

func encodeEpoch(n int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }

func decodeEpoch(b string) int64 {
	if len(b) != 8 {
		return 0
	}
	return int64(binary.BigEndian.Uint64([]byte(b)))
}

func marker(cp *checkpoint) ([]byte, error) {
	m := *cp
	m.Changelog = 0
	b, err := json.Marshal(&m)
	if err != nil {
		return nil, fmt.Errorf("encode marker: %w", err)
	}
	return b, nil
}

// produceInOrder produces to one partition and returns the last record's offset.
func (c *Client) produceInOrder(ctx context.Context, recs []event.Record) (int64, error) {
	last := make(chan int64, 1)
	if n := len(recs) - 1; n > 0 {
		if err := c.Produce(ctx, recs[:n]...); err != nil {
			return 0, err
		}
	}
	var failed error
	c.produce(ctx, recs[len(recs)-1], func(r *kgo.Record, err error) {
		failed = err
		last <- r.Offset
	})
	offset := <-last
	return offset, failed
}

// log writes the batch's changes to the changelog, then the marker that says up
// to where they go, and returns the offset after it.
func (w *worker) log(ctx context.Context, cp *checkpoint) (int64, error) {
	t := w.task
	recs := make([]event.Record, 0, len(t.changed)+1)
	for k := range t.changed {
		v, done, err := t.batch.Get(append(storeKey(w.part, 0, nil)[:4], k...))
		switch {
		case errors.Is(err, pebble.ErrNotFound):
			recs = append(recs, w.entry([]byte(k), nil))
		case err != nil:
			return 0, fmt.Errorf("read state: %w", err)
		default:
			recs = append(recs, w.entry([]byte(k), append(make([]byte, 0, len(v)), v...)))
			if err := done.Close(); err != nil {
				return 0, err
			}
		}
	}
	mark, err := marker(cp)
	if err != nil {
		return 0, err
	}
	last, err := w.p.c.produceInOrder(ctx, append(recs, w.entry([]byte{kindMeta}, mark)))
	if err != nil {
		return 0, err
	}
	return last + 1, nil
}

func (w *worker) entry(key, value []byte) event.Record {
	return event.Record{
		Topic: w.p.cfg.Changelog, Partition: w.part, Key: key, Value: value,
		Headers: []event.Header{{Key: epochHeader, Value: encodeEpoch(w.cp.Epoch)}},
	}
}
