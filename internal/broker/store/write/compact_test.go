package write

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/looptape/looptape/internal/broker/batch"
)

// rec is one record as a reader sees it.
type rec struct {
	offset, time int64
	key          string
	value        []byte // nil: a tombstone
	keyless      bool
}

// records reads the records of batches, without control records.
func recordsOf(t testing.TB, all []batch.Batch) (out []rec) {
	t.Helper()
	for _, b := range all {
		if b.IsControl() {
			continue
		}
		body, err := b.Body()
		if err != nil {
			t.Fatal(err)
		}
		if err := batch.WalkRecords(body, b.Count(), func(r batch.Record) bool {
			out = append(out, rec{b.BaseOffset() + int64(r.OffsetDelta), b.BaseTimestamp() + r.TimestampDelta, string(r.Key), bytes.Clone(r.Value), r.Key == nil})
			return true
		}); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// stable leaves out what a read-committed reader skips, by the aborted
// transactions that tails tell.
func stable(all []batch.Batch, ended []batch.EndedTxn) []batch.Batch {
	return slices.DeleteFunc(slices.Clone(all), func(b batch.Batch) bool {
		return b.IsTransactional() && !b.IsControl() && slices.ContainsFunc(ended, func(e batch.EndedTxn) bool {
			return !e.Commit && e.ProducerID == b.ProducerID() && e.First <= b.BaseOffset() && b.BaseOffset() < e.Marker
		})
	})
}

// checkCompacted compares a compacted partition with the naive model: all that was
// written, in memory.
func (w *world) checkCompacted(m *modelPart) {
	w.t.Helper()
	start := w.c.Record(m.p).LogStart
	got, err := w.read(w.c, m.p, start, m.next)
	if err != nil {
		w.t.Fatal(err)
	}
	_, _, _, ended, err := w.state(w.c, m.p)
	if err != nil {
		w.t.Fatal(err)
	}
	var wrote []batch.Batch
	for _, b := range m.batches {
		if b.LastOffset() >= start {
			wrote = append(wrote, b)
		}
	}
	// What is read was written, with the same offset, time, key and value.
	written := map[int64]rec{}
	for _, r := range recordsOf(w.t, wrote) {
		written[r.offset] = r
	}
	visible := stable(got, ended)
	for _, r := range recordsOf(w.t, got) {
		x, ok := written[r.offset]
		if !ok || x.key != r.key || !bytes.Equal(x.value, r.value) || (x.value == nil) != (r.value == nil) || x.time != r.time {
			w.t.Fatalf("%s: record %+v was written as %+v", m.p, r, x)
		}
	}
	// Below the last stable offset: every key's newest record is there, unless it is
	// a tombstone, and no older one of a key comes after its newest.
	lso := m.txns.LastStable(m.next)
	newest, found := map[string]rec{}, map[string]rec{}
	for _, r := range recordsOf(w.t, stable(wrote, m.ended)) {
		if r.offset < lso && !r.keyless {
			newest[r.key] = r
		}
	}
	for _, r := range recordsOf(w.t, visible) {
		if r.offset < lso && !r.keyless {
			found[r.key] = r
		}
	}
	for key, want := range newest {
		r, ok := found[key]
		switch {
		case ok && r.offset == want.offset:
		case want.value == nil && !ok:
		default:
			w.t.Fatalf("%s: the newest of %q is at %d, found %+v", m.p, key, want.offset, r)
		}
	}
	// Headers: offsets ascend, and what is left of a batch says the same of its
	// producer; the newest batch of each producer is there.
	for i, b := range got {
		if i > 0 && b.BaseOffset() <= got[i-1].LastOffset() {
			w.t.Fatalf("%s: batch at %d follows %d", m.p, b.BaseOffset(), got[i-1].LastOffset())
		}
		at := slices.IndexFunc(m.batches, func(x batch.Batch) bool { return x.BaseOffset() == b.BaseOffset() })
		if at < 0 {
			w.t.Fatalf("%s: no batch was written at %d", m.p, b.BaseOffset())
		}
		x := m.batches[at]
		if b.LastOffset() != x.LastOffset() || b.ProducerID() != x.ProducerID() || b.ProducerEpoch() != x.ProducerEpoch() || b.BaseSequence() != x.BaseSequence() ||
			b.IsTransactional() != x.IsTransactional() || b.IsControl() != x.IsControl() || b.Count() > 0 && b.Compression() != x.Compression() {
			w.t.Fatalf("%s: header of the batch at %d changed", m.p, b.BaseOffset())
		}
	}
	for _, p := range m.producers {
		if p.Count == 0 || p.Spans[p.Count-1].LastOffset < start {
			continue
		}
		if !slices.ContainsFunc(got, func(b batch.Batch) bool {
			return b.ProducerID() == p.ID && b.LastOffset() == p.Spans[p.Count-1].LastOffset
		}) {
			w.t.Fatalf("%s: the last batch of producer %d is gone", m.p, p.ID)
		}
	}
	// A transaction of which records are left has its marker.
	for _, e := range m.ended {
		left := slices.ContainsFunc(got, func(b batch.Batch) bool {
			return b.IsTransactional() && !b.IsControl() && b.Count() > 0 && b.ProducerID() == e.ProducerID && b.BaseOffset() >= e.First && b.BaseOffset() < e.Marker
		})
		if left && !slices.ContainsFunc(got, func(b batch.Batch) bool { return b.IsControl() && b.BaseOffset() == e.Marker }) {
			w.t.Fatalf("%s: the marker of %+v is gone and its records are not", m.p, e)
		}
	}
}

// keysOnce demands that below limit no key has two records that a reader sees.
func (w *world) keysOnce(m *modelPart, limit int64) {
	w.t.Helper()
	got, err := w.read(w.c, m.p, w.c.Record(m.p).LogStart, m.next)
	if err != nil {
		w.t.Fatal(err)
	}
	seen := map[string]int64{}
	for _, r := range recordsOf(w.t, got) {
		if r.offset >= limit {
			break
		}
		if before, twice := seen[r.key]; twice {
			w.t.Fatalf("%s: key %q is at %d and at %d", m.p, r.key, before, r.offset)
		}
		seen[r.key] = r.offset
	}
}

// lively appends random keyed batches: plain, idempotent and transactional ones
// that end in any flush, tombstones, holes in the offsets.
func (w *world) lively(m *modelPart) {
	for range w.r.IntN(5) {
		if w.r.IntN(12) == 0 {
			m.next += int64(w.r.IntN(5))
		}
		id := int64(w.r.IntN(4))
		p, known := m.producers[id]
		h := batch.Plain
		open := slices.ContainsFunc(m.txns.Open(), func(o batch.OpenTxn) bool { return o.ProducerID == id })
		switch kind := w.r.IntN(5); {
		case kind == 0 && open || open && w.r.IntN(4) == 0:
			m.take(batch.BuildMarker(id, p.Epoch, w.r.IntN(2) == 0, 1, 2000))
			continue
		case kind >= 2 || open:
			h = batch.Header{ProducerID: id}
			if id%2 == 1 {
				h.Attributes = batch.Transactional
			}
			if known && p.Count > 0 {
				h.Sequence = p.Spans[p.Count-1].LastSequence + 1
			}
		}
		var kvs []batch.KV
		for range 1 + w.r.IntN(4) {
			kv := batch.KV{Timestamp: 1000 + int64(w.r.IntN(500)), Key: strconv.AppendInt(nil, int64(w.r.IntN(25)), 10), Value: fmt.Append(nil, m.next, w.r.Uint32())}
			if w.r.IntN(6) == 0 {
				kv.Value = nil
			}
			kvs = append(kvs, kv)
		}
		m.take(batch.Build(h, kvs...))
	}
}

// TestCompactAgainstModel runs random histories of writing, merging, compacting,
// expiring and restarting, and compares with the naive model after each step.
func TestCompactAgainstModel(t *testing.T) {
	seeds := uint64(20)
	if testing.Short() {
		seeds = 10
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { history(t, seed) })
	}
}

func history(t *testing.T, seed uint64) {
	w := newWorld(t, seed)
	w.cfg.Compact = CompactConfig{KeyBytes: int64(4+w.r.IntN(60)) * keyEntryBytes, PieceBytes: 500 + int64(w.r.IntN(2000)), GroupBytes: 3000, BlockBytes: 400}
	w.start()
	w.topic("keyed", 2, map[string]string{"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0", "delete.retention.ms": "1000"})
	w.topic("plain", 1, nil)
	for range 40 {
		switch w.r.IntN(9) {
		case 0, 1, 2, 3:
			var single []int
			if w.r.IntN(3) == 0 {
				single = []int{w.r.IntN(3)}
			}
			w.flush(w.lively, single...)
			continue
		case 4:
			w.rounds(w.jobs.Merge)
		case 5, 6:
			w.rounds(w.jobs.Compact)
		case 7:
			w.now = w.now.Add(time.Duration(w.r.IntN(1500)) * time.Millisecond)
			w.rounds(w.jobs.Sweep)
		case 8:
			if w.r.IntN(3) == 0 {
				m := w.parts[w.r.IntN(2)]
				if _, err := w.w.SetLogStart(context.Background(), m.p, w.r.Int64N(m.txns.LastStable(m.next)+1)); err != nil {
					t.Fatal(err)
				}
			}
			w.start()
		}
		w.check()
		w.checkCompacted(w.parts[0])
		w.checkCompacted(w.parts[1])
	}
	// Once all transactions have ended, cleanings come to an end, and every key is
	// there once.
	w.flush(func(m *modelPart) {
		for _, o := range m.txns.Open() {
			p := m.producers[o.ProducerID]
			m.take(batch.BuildMarker(p.ID, p.Epoch, true, 1, 2000))
		}
		m.take(batch.Build(batch.Plain, batch.KV{Timestamp: 1, Key: []byte("last")}))
	})
	w.rounds(w.jobs.Merge, w.jobs.Compact, w.jobs.Merge)
	for _, m := range w.parts[:2] {
		w.checkCompacted(m)
		limit := int64(0)
		for _, x := range w.c.Extents(m.p) {
			if !compacted(x.Object) && x.End > w.c.Record(m.p).LogStart && x.Base < x.End {
				break
			}
			limit = x.End
		}
		if w.cfg.Compact.KeyBytes > 30*keyEntryBytes && limit < m.next {
			t.Fatalf("%s is compacted to %d of %d", m.p, limit, m.next)
		}
		w.keysOnce(m, limit)
	}
	if s := w.jobs.Compactor().Stats(); s.Unreadable != 0 || s.Failures != 0 {
		t.Fatalf("%+v", s)
	}
	w.clean()
	w.check()
	w.stop()
}

// A process that dies at any remote call of a cleaning loses nothing.
func TestCompactDiesAtEveryCall(t *testing.T) {
	for _, after := range []bool{false, true} {
		for k := 1; ; k += 4 {
			w := newWorld(t, 4)
			w.cfg.Compact = CompactConfig{KeyBytes: 20 * keyEntryBytes, PieceBytes: 1000, GroupBytes: 2000, BlockBytes: 400}
			w.start()
			w.topic("keyed", 1, map[string]string{"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0"})
			for i := range 8 {
				if i%2 == 0 {
					w.flush(w.lively, 0)
				} else {
					w.flush(w.lively)
				}
			}
			reached := w.failAt(k, after)
			err := w.jobs.Compact(context.Background())
			w.heal()
			if !reached() {
				if err != nil || k < 20 {
					t.Fatal(k, err)
				}
				w.stop()
				break
			}
			w.start()
			w.check()
			w.checkCompacted(w.parts[0])
			w.rounds(w.jobs.Compact)
			w.checkCompacted(w.parts[0])
			w.clean()
			w.check()
			w.stop()
		}
	}
}

// sparse gives a batch the largest last offset delta there is.
func sparse(b batch.Batch) batch.Batch {
	binary.BigEndian.PutUint32(b[23:], math.MaxInt32)
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// TestTrap15Offsets: offsets far above 2^31, holes above 2^31 between batches and
// inside of them survive packing, merging, filtering and reading.
func TestTrap15Offsets(t *testing.T) {
	w := newWorld(t, 1)
	w.topic("keyed", 1, map[string]string{"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0"})
	w.topic("plain", 1, map[string]string{"retention.ms": "-1"})
	for i := range 12 {
		w.flush(func(m *modelPart) {
			for k := range 3 {
				if i > 0 {
					m.next += 1<<31 + int64(i)*1<<33
				}
				b := batch.Build(batch.Plain, batch.KV{Key: fmt.Append(nil, k), Value: fmt.Append(nil, i)}, batch.KV{Key: fmt.Append(nil, "x", i, k), Value: []byte("v")})
				if k == 1 {
					b = sparse(b)
				}
				m.take(b)
			}
		}, i%3)
	}
	w.check()
	w.rounds(w.jobs.Merge)
	w.check()
	w.rounds(w.jobs.Compact)
	w.check()
	w.checkCompacted(w.parts[0])
	w.keysOnce(w.parts[0], w.parts[0].next)
	w.rounds(w.jobs.Merge)
	w.clean()
	w.check()
	w.checkCompacted(w.parts[0])
	if last := w.parts[0].batches[len(w.parts[0].batches)-1]; last.BaseOffset() < 1<<36 {
		t.Error("the test does not reach far")
	}
	for _, m := range w.parts {
		for _, b := range m.batches { // every offset of every batch finds its extent
			for _, o := range []int64{b.BaseOffset(), b.LastOffset()} {
				if x, ok := w.c.Find(m.p, o); !ok || x.Base > o || x.End <= o {
					t.Fatalf("offset %d is in %+v", o, x)
				}
			}
		}
	}
	w.stop()
}

func TestCompactWhen(t *testing.T) {
	w := newWorld(t, 1)
	w.topic("ratio", 1, map[string]string{"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.5"})
	w.topic("late", 1, map[string]string{"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "1", "max.compaction.lag.ms": "60000"})
	w.topic("young", 1, map[string]string{"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0", "min.compaction.lag.ms": "60000"})
	write := func() {
		w.flush(func(m *modelPart) {
			m.take(batch.Build(batch.Plain, batch.KV{Timestamp: w.now.UnixMilli(), Key: []byte(m.topic), Value: make([]byte, 100)},
				batch.KV{Timestamp: w.now.UnixMilli(), Key: strconv.AppendInt(nil, m.next, 10), Value: make([]byte, 100)}))
		})
	}
	cleaned := func() (all []bool) {
		for _, m := range w.parts {
			xs := w.c.Extents(m.p)
			all = append(all, compacted(xs[len(xs)-1].Object))
		}
		return all
	}
	step := func(what string, want ...bool) {
		t.Helper()
		w.rounds(w.jobs.Compact)
		w.check()
		if got := cleaned(); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	write()
	step("at first", true, false, false)
	write()
	step("half is dirty", false, false, false)
	write()
	step("more than half", true, false, false)
	w.now = w.now.Add(2 * time.Minute)
	step("later", true, true, true)
	w.stop()
}

// Tombstones and markers stay until delete.retention.ms have passed since a
// cleaning first saw them, then they go.
func TestTombstonesAndMarkers(t *testing.T) {
	w := newWorld(t, 1)
	w.topic("keyed", 1, map[string]string{"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0", "delete.retention.ms": "10000"})
	m := w.parts[0]
	n := 0
	flush := func(batches ...batch.Batch) {
		w.flush(func(m *modelPart) {
			for _, b := range batches {
				m.take(b)
			}
			n++
			m.take(batch.Build(batch.Plain, batch.KV{Key: []byte("busy"), Value: []byte{byte(n)}}))
		})
	}
	txn := func(id int64, seq int32, key string) batch.Batch {
		return batch.Build(batch.Header{Attributes: batch.Transactional, ProducerID: id, Sequence: seq}, batch.KV{Key: []byte(key), Value: []byte("v")})
	}
	flush(
		batch.Build(batch.Plain, batch.KV{Key: []byte("a"), Value: []byte("1")}),
		batch.Build(batch.Plain, batch.KV{Key: []byte("a")}), // tombstone
		txn(1, 0, "b"), batch.BuildMarker(1, 0, true, 1, 5), // stays
		txn(2, 0, "c"), batch.BuildMarker(2, 0, false, 1, 5), // aborted
		txn(3, 0, "d"), batch.BuildMarker(3, 0, true, 1, 5), txn(3, 1, "e"), batch.BuildMarker(3, 0, true, 1, 5),
		batch.Build(batch.Plain, batch.KV{Key: []byte("d"), Value: []byte("2")}), // so the first of 3 loses its record
	)
	state := func() (tombstones, markers, emptied int, ended int) {
		got, err := w.read(w.c, m.p, 0, m.next)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range got {
			switch {
			case b.IsControl():
				markers++
			case b.Count() == 0:
				emptied++
			}
		}
		for _, r := range recordsOf(t, got) {
			if r.value == nil {
				tombstones++
			}
			if r.key == "c" {
				t.Error("an aborted record is left")
			}
		}
		_, _, _, all, err := w.state(w.c, m.p)
		if err != nil {
			t.Fatal(err)
		}
		return tombstones, markers, emptied, len(all)
	}
	expect := func(what string, want ...int) {
		t.Helper()
		w.rounds(w.jobs.Compact)
		w.check()
		w.checkCompacted(m)
		a, b, c, d := state()
		if got := []int{a, b, c, d}; !slices.Equal(got, want) {
			t.Errorf("%s: tombstones, markers, empty batches, transactions %v, want %v", what, got, want)
		}
	}
	expect("first cleaning", 1, 4, 1, 4)
	flush()
	expect("second, at once", 1, 4, 1, 4) // sees that the aborted one has no record left
	w.now = w.now.Add(11 * time.Second)
	flush()
	// The tombstone goes, and the marker of 3's first transaction, which the first
	// cleaning found empty; 2's was found empty by the second.
	expect("third", 0, 2, 1, 2)
	w.stop()
}

// A transaction over five flushes that is aborted at last: a cold reader of any
// part of it is told of the abort, whatever was merged or compacted meanwhile (P9).
func TestAbortOverFiveFlushes(t *testing.T) {
	for _, policy := range []string{"delete", "compact"} {
		w := newWorld(t, 1)
		w.topic("a", 1, map[string]string{"cleanup.policy": policy, "min.cleanable.dirty.ratio": "0"})
		m := w.parts[0]
		for i := range int32(5) {
			w.flush(func(m *modelPart) {
				m.take(batch.Build(batch.Header{Attributes: batch.Transactional, ProducerID: 9, Sequence: i}, batch.KV{Key: fmt.Append(nil, i), Value: []byte("no")}))
				m.take(batch.Build(batch.Plain, batch.KV{Key: fmt.Append(nil, "p", i), Value: []byte("yes")}))
			})
			w.rounds(w.jobs.Compact) // nothing: all of it is above the last stable offset
			if i == 2 {
				w.rounds(w.jobs.Merge)
			}
			w.check()
		}
		w.flush(func(m *modelPart) { m.take(batch.BuildMarker(9, 0, false, 1, 1)) })
		for _, job := range []func(context.Context) error{w.jobs.Merge, w.jobs.Compact, w.jobs.Merge, w.jobs.Compact} {
			got, err := w.read(w.c, m.p, 0, m.next)
			if err != nil {
				t.Fatal(err)
			}
			_, _, _, ended, err := w.state(w.c, m.p)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range recordsOf(t, stable(got, ended)) {
				if string(r.value) != "yes" {
					t.Fatalf("%s: aborted record at %d", policy, r.offset)
				}
			}
			w.check()
			w.rounds(job)
		}
		w.clean()
		w.stop()
	}
}

// What can't be read is kept as it is.
func TestUnreadableBatchStays(t *testing.T) {
	w := newWorld(t, 1)
	w.topic("keyed", 1, map[string]string{"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0"})
	b := batch.Batch(batch.Build(batch.Plain, batch.KV{Key: []byte("k"), Value: []byte("v")}))
	b[22] |= 4 // zstd, which it is not
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	w.flush(func(m *modelPart) {
		m.take(bytes.Clone(b))
		m.take(batch.Build(batch.Plain, batch.KV{Key: []byte("k"), Value: []byte("w")}))
	})
	w.rounds(w.jobs.Compact)
	got, err := w.read(w.c, w.parts[0].p, 0, 2)
	if err != nil || len(got) != 2 || !bytes.Equal(got[0][61:], b[61:]) {
		t.Fatal(len(got), err)
	}
	if s := w.jobs.Compactor().Stats(); s.Unreadable != 1 || s.Cleanings != 1 {
		t.Errorf("%+v", s)
	}
	w.stop()
}

// A cleaning whose partition changed hands or lost records meanwhile changes
// nothing.
func TestCompactConflict(t *testing.T) {
	w := newWorld(t, 1)
	w.topic("keyed", 1, map[string]string{"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0"})
	for range 4 {
		w.flush(func(m *modelPart) { m.take(batch.Build(batch.Plain, batch.KV{Key: []byte("k"), Value: []byte("v")})) })
	}
	m := w.parts[0]
	w.between(func() {
		if _, err := w.w.SetLogStart(context.Background(), m.p, 1); err != nil {
			t.Fatal(err)
		}
	})
	w.rounds(w.jobs.Compact)
	w.blobs.SetFault(nil)
	if s := w.jobs.Compactor().Stats(); s.Conflicts != 1 || s.Jobs != 0 {
		t.Errorf("%+v", s)
	}
	w.checkCompacted(m)
	w.rounds(w.jobs.Compact)
	w.keysOnce(m, m.next)
	w.clean()
	w.check()
	w.stop()
}
