package broker

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/blob/blobmem"
	"github.com/looptape/looptape/internal/broker/partition"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/object"
	"github.com/looptape/looptape/internal/broker/store/read"
)

// rot flips a bit in every tail section of a partition.
func (w *world) rot(t *testing.T, c *catalog.Catalog, p catalog.Partition) {
	t.Helper()
	for _, x := range c.Extents(p) {
		index, err := read.LoadIndex(t.Context(), w.blobs, c.ClusterID(), x.Object)
		if err != nil {
			t.Fatal(err)
		}
		key := object.Key(c.ClusterID(), x.Object.Name)
		b := make([]byte, x.Object.Size)
		if _, err := w.blobs.GetRange(t.Context(), key, 0, b); err != nil {
			t.Fatal(err)
		}
		for _, e := range index.Tails {
			if e.ComparePartition(p.Topic, p.Index) == 0 {
				b[e.Pos] ^= 1
			}
		}
		if err := errors.Join(w.blobs.Delete(t.Context(), key), w.blobs.Put(t.Context(), key, bytes.NewReader(b), int64(len(b)))); err != nil {
			t.Fatal(err)
		}
	}
}

// opens waits until the broker serves the partition.
func (p *process) opens(t *testing.T, id partition.ID) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		_, err := p.e.Partitions().Get(id)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("partition %s is not opened: %v", id, err)
		}
	}
}

// A damaged tail section keeps its partition offline and no other, at a start in
// place: with nothing in the log it is whole again when the object is; records in
// the log, which can't be given their place, are put aside.
func TestDamagedTailStopsOnePartition(t *testing.T) {
	for _, logged := range []bool{false, true} {
		w := newWorld()
		p := w.mustStart(t)
		topic := p.create(t, "events", 2, nil)
		add := func(index int32, value string) {
			t.Helper()
			if a := appendTo(p.partition(t, topic, index), partition.Append{Batches: plain(value)}); a.Err != nil {
				t.Fatal(a.Err)
			}
		}
		add(0, "a0")
		add(1, "b0")
		p.flush(t)
		if logged {
			add(1, "b1")
			add(0, "a1")
		}
		damaged := partition.ID{Topic: topic.ID, Index: 1}
		of := catalog.Partition{Topic: topic.ID, Index: 1}
		w.rot(t, p.e.Catalog(), of)
		p.kill(t, nil)
		for range 2 {
			p = w.mustStart(t)
			want := 1
			if logged {
				want = 2
			}
			if got := values(t, p.partition(t, topic, 0), 0, partition.Read{MaxBytes: 1 << 20}); len(got) != want {
				t.Errorf("logged %v: the whole partition has %v", logged, got)
			}
			if _, err := p.e.Partitions().Get(damaged); err == nil {
				t.Errorf("logged %v: the damaged partition is open", logged)
			}
			if q := p.e.Catalog().Quarantined(); logged != (q[of] != "") {
				t.Errorf("logged %v: quarantined are %v", logged, q)
			}
			if aside := w.keys("quarantine/"); logged != (len(aside) == 1) {
				t.Errorf("logged %v: put aside are %v", logged, aside)
			}
			p.flush(t)
			p.stop(t)
		}
		if logged {
			continue
		}
		w.rot(t, p.e.Catalog(), of) // the same bit again
		p = w.mustStart(t)
		if got := values(t, p.partition(t, topic, 1), 0, partition.Read{MaxBytes: 1 << 20}); len(got) != 1 {
			t.Errorf("mended: %v", got)
		}
		p.stop(t)
	}
}

// A take-over goes on past a partition with a damaged tail section: its records in
// the dead broker's log, and its opening, keep nobody waiting.
func TestDamagedTailInTakeOver(t *testing.T) {
	for _, logged := range []bool{false, true} {
		w := newClusterWorld()
		a := w.mustJoin(t, 1)
		b := w.mustJoin(t, 2)
		topic := a.create(t, "events", 2, nil)
		add := func(index int32, value string) {
			t.Helper()
			if r := appendTo(a.partition(t, topic, index), partition.Append{Batches: plain(value)}); r.Err != nil {
				t.Fatal(r.Err)
			}
		}
		add(0, "a0")
		add(1, "b0")
		a.flush(t)
		damaged := partition.ID{Topic: topic.ID, Index: 1}
		of := catalog.Partition{Topic: topic.ID, Index: 1}
		w.rot(t, a.e.Catalog(), of)
		if logged {
			add(1, "b1")
		}
		add(0, "a1")
		a.crash(t)
		b.opens(t, partition.ID{Topic: topic.ID})
		if got := values(t, b.partition(t, topic, 0), 0, partition.Read{MaxBytes: 1 << 20}); len(got) != 2 {
			t.Errorf("logged %v: the whole partition has %v", logged, got)
		}
		if q := b.e.Catalog().Quarantined(); logged != (q[of] != "") {
			t.Errorf("logged %v: quarantined are %v", logged, q)
		}
		// What another broker leaves later is opened too.
		c := w.mustJoin(t, 3)
		later := c.create(t, "later", 1, nil)
		if r := appendTo(c.partition(t, later, 0), partition.Append{Batches: plain("c0")}); r.Err != nil {
			t.Fatal(r.Err)
		}
		c.crash(t)
		b.opens(t, partition.ID{Topic: later.ID})
		if _, err := b.e.Partitions().Get(damaged); err == nil {
			t.Errorf("logged %v: the damaged partition is open", logged)
		}
		b.crash(t)
	}
}

// A catalog that can't go on past an object says which, once.
func TestIndexThatCannotBeReadIsNamed(t *testing.T) {
	var out bytes.Buffer
	e := &Store{log: slog.New(slog.NewTextHandler(&out, nil)), blobs: blobmem.New()}
	for range 2 {
		if _, err := e.ranges(t.Context(), "cluster", &catalog.Object{Name: "1-0000000001-f0000000007", IndexLen: 8}); !errors.Is(err, blob.ErrNotFound) {
			t.Fatal(err)
		}
	}
	if n := strings.Count(out.String(), "object=1-0000000001-f0000000007"); n != 1 {
		t.Errorf("said: %s", out.String())
	}
}
