package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/disk/diskmem"
	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/partition"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/wal"
)

// logRecord is what a partition writes to the log for a batch of one record.
func logRecord(topic catalog.Topic, index int32, offset int64, value string) []byte {
	b := batch.Batch(plain(value))
	b.SetBaseOffset(offset)
	head := append([]byte{1, 0, 0, 0}, topic.ID[:]...)
	head = binary.BigEndian.AppendUint32(head, uint32(index))
	head = binary.BigEndian.AppendUint32(head, 0)
	head = binary.BigEndian.AppendUint64(head, uint64(offset))
	head = binary.BigEndian.AppendUint64(head, uint64(offset))
	head = binary.BigEndian.AppendUint32(head, 1)
	return append(head, b...)
}

// A gap in one partition takes that one offline, durably, and no other; what comes
// after the gap is put aside.
func TestGapQuarantinesOnePartition(t *testing.T) {
	w := newWorld()
	p := w.mustStart(t)
	topic := p.create(t, "events", 2, nil)
	id, epoch := wal.IDOf(p.e.Catalog().ClusterID(), 0), p.e.writer.Epoch()
	p.kill(t, nil)
	// The log of that epoch as a broker with a flaw would have left it.
	w.files = diskmem.New(512)
	log, err := wal.Open(context.Background(), w.files, "/wal", wal.Identity{WALID: id, Epoch: epoch}, w.cfg.Log, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range [][]byte{
		logRecord(topic, 0, 0, "a0"), logRecord(topic, 1, 0, "b0"), logRecord(topic, 1, 5, "b5"),
		logRecord(topic, 0, 1, "a1"), logRecord(topic, 1, 6, "b6"),
	} {
		if _, err := log.Append(&wal.Record{Data: [2][]byte{r}}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	stop() // commits what there is, and closes
	if err := errors.Join(log.Run(ctx), log.Close()); err != nil {
		t.Fatal(err)
	}
	for start := range 3 {
		p = w.mustStart(t)
		if got := values(t, p.partition(t, topic, 0), 0, partition.Read{MaxBytes: 1 << 20}); len(got) != 2+start {
			t.Errorf("start %d: the whole partition has %v", start, got)
		}
		if a := appendTo(p.partition(t, topic, 0), partition.Append{Batches: plain("more")}); a.Err != nil {
			t.Error(a.Err)
		}
		if _, err := p.e.Partitions().Get(partition.ID{Topic: topic.ID, Index: 1}); !errors.Is(err, partition.ErrNotLeader) {
			t.Errorf("start %d: the damaged partition: %v", start, err)
		}
		if q := p.e.Catalog().Quarantined(); len(q) != 1 || q[catalog.Partition{Topic: topic.ID, Index: 1}] == "" {
			t.Errorf("start %d: quarantined are %v", start, q)
		}
		aside := 0
		if err := w.blobs.List(t.Context(), "quarantine/", func(blob.Info) error { aside++; return nil }); err != nil || aside != 2 {
			t.Errorf("start %d: %d records are put aside, %v", start, aside, err)
		}
		if start == 1 {
			p.kill(t, nil)
		} else {
			p.flush(t)
			p.stop(t)
		}
	}
}
