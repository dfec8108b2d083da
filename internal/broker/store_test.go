package broker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/blob/blobmem"
	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/meta/metamem"
	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/partition"
	"github.com/looptape/looptape/internal/broker/store/catalog"
)

func numbered(n int) map[int64]string {
	all := map[int64]string{}
	for i := range n {
		all[int64(i)] = fmt.Sprintf("value-%04d-%s", i, strings.Repeat("x", 100))
	}
	return all
}

// fill appends want one record at a time, in order.
func fill(t testing.TB, part *partition.Partition, want map[int64]string, from int64) {
	t.Helper()
	for o := from; o < int64(len(want)); o++ {
		if out := appendTo(part, partition.Append{Batches: plain(want[o])}); out.Err != nil || out.Base != o || out.Last != o {
			t.Fatalf("append %d: %+v", o, out)
		}
	}
}

func TestAppendReadRestart(t *testing.T) {
	w := newWorld()
	p := w.mustStart(t)
	topic := p.create(t, "events", 2, nil)
	want := numbered(300)
	fill(t, p.partition(t, topic, 0), want, 0)
	check := func(when string) {
		t.Helper()
		part := w.proc.partition(t, topic, 0)
		for _, size := range []int{1, 700, 1 << 20} {
			if diff := cmp.Diff(want, values(t, part, 0, partition.Read{MaxBytes: size})); diff != "" {
				t.Fatalf("%s, %d bytes at a time: %s", when, size, diff)
			}
		}
		if _, high, _ := part.Offsets(); high != int64(len(want)) {
			t.Fatalf("%s: high watermark %d", when, high)
		}
	}
	check("running")
	p.kill(t, nil)
	p = w.mustStart(t)
	check("after a crash")
	p.flush(t)
	check("flushed")
	p.kill(t, nil)
	p = w.mustStart(t)
	check("after a crash when all is in objects")
	p.stop(t)
	p = w.mustStart(t)
	check("after a clean stop")
	if n := p.e.Partitions().Usage().Unflushed; n != 0 {
		t.Errorf("a clean stop left %d bytes to recover", n)
	}
	more := numbered(310)
	fill(t, p.partition(t, topic, 0), more, 300)
	want = more
	check("appended to")
	p.stop(t)
}

func TestIdempotentProducer(t *testing.T) {
	w := newWorld()
	p := w.mustStart(t)
	topic := p.create(t, "events", 1, nil)
	part := p.partition(t, topic, 0)
	send := func(epoch int16, seq int32, values ...string) partition.Appended {
		return appendTo(w.proc.partition(t, topic, 0), partition.Append{Batches: idempotent(7, epoch, seq, values...)})
	}
	for i := range int32(8) {
		if out := send(0, 2*i, "a", "b"); out.Err != nil || out.Duplicate || out.Base != int64(2*i) {
			t.Fatalf("batch %d: %+v", i, out)
		}
	}
	verify := func(when string) {
		t.Helper()
		for i := int32(3); i < 8; i++ {
			if out := send(0, 2*i, "a", "b"); out.Err != nil || !out.Duplicate || out.Base != int64(2*i) || out.Last != int64(2*i+1) {
				t.Errorf("%s: repeat of batch %d: %+v", when, i, out)
			}
		}
		if out := send(0, 4, "a", "b"); !errors.Is(out.Err, partition.ErrOutOfOrderSequence) {
			t.Errorf("%s: older than the window: %+v", when, out)
		}
		if out := send(0, 17, "a"); !errors.Is(out.Err, partition.ErrOutOfOrderSequence) {
			t.Errorf("%s: hole in the sequence: %+v", when, out)
		}
		if _, high, _ := w.proc.partition(t, topic, 0).Offsets(); high != 16 {
			t.Errorf("%s: high watermark %d", when, high)
		}
	}
	verify("running")
	p.kill(t, nil)
	p = w.mustStart(t)
	verify("after a crash")
	p.flush(t)
	p.kill(t, nil)
	p = w.mustStart(t)
	verify("state from a tail section")
	part = p.partition(t, topic, 0)
	// Other producers make deltas; the first one's state lies ever further back.
	for i := range 25 {
		for j := range int64(4) {
			if out := appendTo(part, partition.Append{Batches: idempotent(100+j, 0, int32(i), "c")}); out.Err != nil {
				t.Fatal(out.Err)
			}
		}
		if i%3 == 0 {
			appendTo(part, partition.Append{Batches: idempotent(1000+int64(i), 0, 0, "d")})
		}
		p.flush(t)
	}
	p.kill(t, nil)
	p = w.mustStart(t)
	part = p.partition(t, topic, 0)
	if out := send(0, 14, "a", "b"); out.Err != nil || !out.Duplicate || out.Base != 14 {
		t.Errorf("state from deltas: %+v", out)
	}
	if out := send(1, 5, "a"); !errors.Is(out.Err, partition.ErrOutOfOrderSequence) {
		t.Errorf("new epoch not from 0: %+v", out)
	}
	if out := send(1, 0, "a"); out.Err != nil || out.Duplicate {
		t.Errorf("new epoch: %+v", out)
	}
	if out := send(0, 16, "a"); !errors.Is(out.Err, partition.ErrInvalidEpoch) {
		t.Errorf("old epoch: %+v", out)
	}
	p.stop(t)
}

func TestRefusals(t *testing.T) {
	w := newWorld()
	p := w.mustStart(t)
	topic := p.create(t, "events", 1, map[string]string{"max.message.bytes": "200"})
	compacted := p.create(t, "compacted", 1, map[string]string{"cleanup.policy": "compact"})
	part := p.partition(t, topic, 0)
	bad := plain("x")
	bad[len(bad)-1] ^= 1
	keyless := batch.Build(batch.Plain, batch.KV{Timestamp: 1, Value: []byte("v")})
	future := batch.Build(batch.Plain, batch.KV{Timestamp: time.Now().Add(2 * time.Hour).UnixMilli()})
	cut := plain("x")
	txn := batch.Plain
	txn.Attributes, txn.ProducerID, txn.ProducerEpoch, txn.Sequence = batch.Transactional, 1, 0, 0
	for _, c := range []struct {
		name  string
		topic catalog.Topic
		bytes []byte
		want  error
	}{
		{"crc", topic, bad, partition.ErrCorrupt},
		{"too large", topic, plain(strings.Repeat("x", 300)), partition.ErrTooLarge},
		{"empty", topic, nil, partition.ErrInvalidRecord},
		{"cut short", topic, cut[:len(cut)-1], partition.ErrCorrupt},
		{"timestamp", topic, future, partition.ErrTimestamp},
		{"no key", compacted, keyless, partition.ErrInvalidRecord},
		{"control batch", topic, batch.BuildMarker(1, 0, true, 0, 1), partition.ErrInvalidRecord},
		{"unverified transaction", topic, build(txn, "x"), partition.ErrInvalidRecord},
		{"two batches of a producer", topic, append(idempotent(1, 0, 0, "x"), idempotent(1, 0, 1, "y")...), partition.ErrInvalidRecord},
	} {
		out := appendTo(p.partition(t, c.topic, 0), partition.Append{Batches: c.bytes})
		if !errors.Is(out.Err, c.want) || out.Base != -1 {
			t.Errorf("%s: %+v, want %v", c.name, out, c.want)
		}
	}
	if _, high, _ := part.Offsets(); high != 0 {
		t.Errorf("high watermark %d", high)
	}
	if _, err := part.Read(context.Background(), partition.Read{Offset: 1, CurrentLeaderEpoch: -1}); !errors.Is(err, partition.ErrOffsetOutOfRange) {
		t.Errorf("read above: %v", err)
	}
	if _, err := part.Read(context.Background(), partition.Read{CurrentLeaderEpoch: 1}); !errors.Is(err, partition.ErrUnknownEpoch) {
		t.Errorf("unknown epoch: %v", err)
	}
	if _, err := p.e.Partitions().Get(partition.ID{Topic: topic.ID, Index: 1}); !errors.Is(err, partition.ErrUnknownPartition) {
		t.Errorf("unknown partition: %v", err)
	}
	p.stop(t)
	if out := appendTo(part, partition.Append{Batches: plain("x")}); out.Err == nil {
		t.Error("append after the end")
	}
}

func TestLogAppendTime(t *testing.T) {
	w := newWorld()
	now := time.UnixMilli(5_000_000)
	w.cfg.Partitions.Now = func() time.Time { return now }
	p := w.mustStart(t)
	topic := p.create(t, "stamped", 1, map[string]string{"message.timestamp.type": "LogAppendTime"})
	part := p.partition(t, topic, 0)
	out := appendTo(part, partition.Append{Batches: plain("a")})
	if out.Err != nil || out.LogAppendTime != 5_000_000 {
		t.Fatalf("%+v", out)
	}
	p.flush(t)
	p.kill(t, nil)
	now = now.Add(-time.Minute) // the clock went back
	p = w.mustStart(t)
	part = p.partition(t, topic, 0)
	if out = appendTo(part, partition.Append{Batches: plain("b")}); out.LogAppendTime != 5_000_000 {
		t.Errorf("append time ran backwards: %+v", out)
	}
	if got := values(t, part, 0, partition.Read{MaxBytes: 1 << 20}); len(got) != 2 { // checks CRCs
		t.Errorf("%v", got)
	}
	p.stop(t)
}

func TestIdleMakesNoObjects(t *testing.T) {
	w := newWorld()
	w.cfg.Partitions.SealAfter = time.Millisecond
	p := w.mustStart(t)
	topic := p.create(t, "events", 1, nil)
	appendTo(p.partition(t, topic, 0), partition.Append{Batches: plain("x")})
	for p.e.Partitions().Usage().Unflushed > 0 { // sealed by age
		time.Sleep(time.Millisecond)
	}
	before := len(w.blobs.Keys())
	p.stop(t)
	p = w.mustStart(t)
	p.stop(t)
	if after := len(w.blobs.Keys()); after != before+1 { // the mark of the epoch
		t.Errorf("%d objects, then %d: %v", before, after, w.blobs.Keys())
	}
}

func TestTransactionsAcrossObjects(t *testing.T) {
	w := newWorld()
	w.cfg.Partitions.RetainBytes = -1 // cold reads only
	p := w.mustStart(t)
	topic := p.create(t, "events", 1, nil)
	txn := func(id int64, seq int32, value string) {
		t.Helper()
		h := batch.Header{LeaderEpoch: -1, Attributes: batch.Transactional, ProducerID: id, Sequence: seq}
		if out := appendTo(w.proc.partition(t, topic, 0), partition.Append{Batches: build(h, value), Verified: true}); out.Err != nil {
			t.Fatal(out.Err)
		}
	}
	end := func(id int64, commit bool) {
		t.Helper()
		if out := appendTo(w.proc.partition(t, topic, 0), partition.Append{Batches: batch.BuildMarker(id, 0, commit, 3, 1000), Internal: true}); out.Err != nil {
			t.Fatal(out.Err)
		}
	}
	want := map[int64]string{}
	for i := range int32(5) { // offsets 3i: aborted, 3i+1: committed, 3i+2: plain
		txn(1, i, "aborted")
		txn(2, i, "committed")
		appendTo(w.proc.partition(t, topic, 0), partition.Append{Batches: plain("plain")})
		want[int64(3*i)+1], want[int64(3*i)+2] = "committed", "plain"
		p.flush(t)
		if i == 2 {
			p.kill(t, nil)
			p = w.mustStart(t)
		}
		if _, high, stable := p.partition(t, topic, 0).Offsets(); high != int64(3*i+3) || stable != 0 {
			t.Fatalf("open transactions: high %d, stable %d", high, stable)
		}
	}
	committed := partition.Read{MaxBytes: 1 << 20, ReadCommitted: true}
	if got := values(t, p.partition(t, topic, 0), 0, committed); len(got) != 0 {
		t.Fatalf("undecided records were read: %v", got)
	}
	end(2, true)
	p.flush(t)
	end(1, false)
	for _, when := range []string{"marker in memory", "in the log", "in objects", "cold"} {
		switch when {
		case "in the log", "cold":
			p.kill(t, nil)
			p = w.mustStart(t)
		case "in objects":
			p.flush(t)
		}
		part := p.partition(t, topic, 0)
		for _, size := range []int{1, 1 << 20} {
			committed.MaxBytes = size
			if diff := cmp.Diff(want, values(t, part, 0, committed)); diff != "" {
				t.Errorf("%s, %d bytes at a time: %s", when, size, diff)
			}
		}
		if _, high, stable := part.Offsets(); high != 17 || stable != 17 {
			t.Errorf("%s: high %d, stable %d", when, high, stable)
		}
		if got := values(t, part, 0, partition.Read{MaxBytes: 1 << 20}); len(got) != 15 {
			t.Errorf("%s: uncommitted read has %d records", when, len(got))
		}
	}
	// A marker of an older coordinator is refused, an equal one changes nothing.
	if out := appendTo(p.partition(t, topic, 0), partition.Append{Batches: batch.BuildMarker(1, 0, true, 2, 1000), Internal: true}); !errors.Is(out.Err, partition.ErrInvalidEpoch) {
		t.Errorf("marker of an old coordinator: %+v", out)
	}
	end(1, false)
	if _, high, stable := p.partition(t, topic, 0).Offsets(); high != 18 || stable != 18 {
		t.Errorf("second marker: high %d, stable %d", high, stable)
	}
	p.stop(t)
}

func TestDeleteRecordsAndTopics(t *testing.T) {
	ctx := context.Background()
	w := newWorld()
	p := w.mustStart(t)
	forever := map[string]string{"retention.ms": "-1"} // the records are of 1970
	topic := p.create(t, "events", 2, forever)
	other := p.create(t, "other", 1, forever)
	want := numbered(60)
	fill(t, p.partition(t, topic, 0), want, 0)
	p.flush(t)
	fill(t, p.partition(t, other, 0), numbered(3), 0)
	start, err := p.partition(t, topic, 0).DeleteRecords(ctx, 45)
	if err != nil || start != 45 {
		t.Fatal(start, err)
	}
	if _, err := p.partition(t, topic, 0).Read(ctx, partition.Read{Offset: 44, MaxBytes: 1, CurrentLeaderEpoch: -1}); !errors.Is(err, partition.ErrOffsetOutOfRange) {
		t.Errorf("read below the log start: %v", err)
	}
	before := len(w.blobs.Keys())
	sweep := func() {
		t.Helper()
		for range 2 { // retire, then delete
			if err := w.proc.e.jobs.Sweeper().Round(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	sweep()
	if after := len(w.blobs.Keys()); after >= before {
		t.Errorf("%d objects before, %d after", before, after)
	}
	for o := range want {
		if o < 45 {
			delete(want, o)
		}
	}
	p.kill(t, nil)
	p = w.mustStart(t)
	if diff := cmp.Diff(want, values(t, p.partition(t, topic, 0), 45, partition.Read{MaxBytes: 1 << 20})); diff != "" {
		t.Error(diff)
	}
	// All records gone: offsets go on where they were.
	if start, err = p.partition(t, topic, 0).DeleteRecords(ctx, -1); err != nil || start != 60 {
		t.Fatal(start, err)
	}
	p.flush(t)
	sweep()
	p.kill(t, nil)
	p = w.mustStart(t)
	if out := appendTo(p.partition(t, topic, 0), partition.Append{Batches: plain("x")}); out.Base != 60 {
		t.Errorf("%+v", out)
	}
	waiter := partition.NewWaiter()
	part := p.partition(t, topic, 0)
	part.Notify(61, waiter)
	if err := p.e.Catalog().DeleteTopic(ctx, "events"); err != nil {
		t.Fatal(err)
	}
	<-waiter.C
	if _, err := part.Read(ctx, partition.Read{Offset: 60, CurrentLeaderEpoch: -1}); !errors.Is(err, partition.ErrUnknownPartition) {
		t.Errorf("read of a deleted topic: %v", err)
	}
	if err := p.e.Catalog().DeleteTopic(ctx, "events"); !errors.Is(err, catalog.ErrUnknownTopic) {
		t.Errorf("second deletion: %v", err)
	}
	again := p.create(t, "events", 1, nil)
	if out := appendTo(p.partition(t, again, 0), partition.Append{Batches: plain("new")}); out.Base != 0 {
		t.Errorf("the recreated topic starts at %d", out.Base)
	}
	p.flush(t)
	if err := p.e.Catalog().DeleteTopic(ctx, "events"); err != nil {
		t.Fatal(err)
	}
	if err := p.e.Catalog().DeleteTopic(ctx, "other"); err != nil {
		t.Fatal(err)
	}
	sweep()
	for _, key := range w.blobs.Keys() {
		if strings.HasPrefix(key, "data/") {
			t.Errorf("%s is left though every topic is deleted", key)
		}
	}
	p.stop(t)
	if _, err := w.meta.Scan(ctx, "/v1/", func(kv meta.KV) error {
		for _, prefix := range []string{"/v1/parts/", "/v1/topics/", "/v1/objs/", "/v1/sets/", "/v1/gc/", "/v1/deleted/"} {
			if strings.HasPrefix(kv.Key, prefix) {
				t.Errorf("key %s is left", kv.Key)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestRetention(t *testing.T) {
	ctx := context.Background()
	w := newWorld()
	p := w.mustStart(t)
	bySize := p.create(t, "size", 1, map[string]string{"retention.bytes": "1000", "retention.ms": "-1"})
	byTime := p.create(t, "time", 1, map[string]string{"retention.ms": "60000"})
	for i := range 30 {
		ts := time.Now().UnixMilli()
		if i < 15 {
			ts -= 120_000
		}
		for _, topic := range []catalog.Topic{bySize, byTime} {
			b := batch.Build(batch.Plain, batch.KV{Timestamp: ts, Value: make([]byte, 100)})
			if out := appendTo(p.partition(t, topic, 0), partition.Append{Batches: b}); out.Err != nil {
				t.Fatal(out.Err)
			}
		}
		if i%5 == 4 {
			p.flush(t)
		}
	}
	for range 2 {
		if err := p.e.jobs.Sweeper().Round(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if start, _, _ := p.partition(t, byTime, 0).Offsets(); start != 15 {
		t.Errorf("by time: log start %d", start)
	}
	if start, _, _ := p.partition(t, bySize, 0).Offsets(); start != 20 {
		t.Errorf("by size: log start %d", start)
	}
	p.stop(t)
}

func TestOffsets(t *testing.T) {
	ctx := context.Background()
	w := newWorld()
	w.cfg.Partitions.RetainBytes = -1
	p := w.mustStart(t)
	topic := p.create(t, "events", 1, nil)
	part := p.partition(t, topic, 0)
	if o, ts, err := part.OffsetForTime(ctx, 0); o != -1 || ts != -1 || err != nil {
		t.Errorf("empty: %d %d %v", o, ts, err)
	}
	for i := range int64(40) {
		b := batch.Build(batch.Plain, batch.KV{Timestamp: 1000 + 10*i, Value: []byte("x")}, batch.KV{Timestamp: 1005 + 10*i, Value: []byte("y")})
		if i == 7 {
			b = batch.Build(batch.Plain, batch.KV{Timestamp: 9000}, batch.KV{Timestamp: 1})
		}
		if out := appendTo(part, partition.Append{Batches: b}); out.Err != nil {
			t.Fatal(out.Err)
		}
		if i%10 == 9 && i < 39 {
			p.flush(t)
		}
	}
	for _, c := range []struct{ ts, offset, timestamp int64 }{
		{0, 0, 1000}, {1000, 0, 1000}, {1001, 1, 1005}, {1056, 12, 1060}, {1066, 14, 9000}, {1071, 14, 9000},
		{9000, 14, 9000}, {9001, -1, -1}, {partition.MaxTimestamp, 14, 9000}, {partition.Latest, 80, -1}, {partition.Earliest, 0, -1},
	} {
		if o, ts, err := part.OffsetForTime(ctx, c.ts); err != nil || o != c.offset || ts != c.timestamp {
			t.Errorf("time %d: %d %d %v, want %d %d", c.ts, o, ts, err, c.offset, c.timestamp)
		}
	}
	if _, err := part.DeleteRecords(ctx, 15); err != nil {
		t.Fatal(err)
	}
	if o, ts, err := part.OffsetForTime(ctx, 1386); err != nil || o != 78 || ts != 1390 {
		t.Errorf("in memory: %d %d %v", o, ts, err)
	}
	if o, ts, err := part.OffsetForTime(ctx, 5); err != nil || o != 16 || ts != 1080 {
		t.Errorf("above the log start: %d %d %v", o, ts, err)
	}
	for _, c := range []struct {
		epoch, wantEpoch int32
		want             int64
	}{{0, 0, 80}, {1, -1, -1}, {-1, -1, -1}} {
		if e, o := part.OffsetForEpoch(c.epoch); e != c.wantEpoch || o != c.want {
			t.Errorf("epoch %d: %d %d", c.epoch, e, o)
		}
	}
	p.stop(t)
}

// A stalled object store stops writers; nothing is lost, and all goes on later.
func TestBackPressure(t *testing.T) {
	w := newWorld()
	p := w.mustStart(t)
	topic := p.create(t, "events", 1, nil)
	part := p.partition(t, topic, 0)
	w.blobs.SetFault(func(c blobmem.Call) blobmem.Fault {
		if c.Method == "Put" {
			return blobmem.Fault{Before: errors.New("503")}
		}
		return blobmem.Fault{}
	})
	ctx, cancel := context.WithCancel(context.Background())
	accepted, total := 0, 0
	out := make(chan partition.Appended, 4000)
	const bound = 64 << 10
	for b := plain(strings.Repeat("x", 500)); p.e.Partitions().Usage().Unflushed+int64(len(b)) <= bound; total++ {
		part.Append(ctx, partition.Append{Batches: b, Done: func(a partition.Appended) { out <- a }})
	}
	go func() {
		for p.e.Partitions().Usage().Waiting == 0 || p.e.flusher.Stats().Failures == 0 {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	refused := appendCtx(ctx, part, plain(strings.Repeat("x", 500)))
	if u := p.e.Partitions().Usage(); u.Unflushed > bound {
		t.Errorf("%d bytes in memory, the bound is %d", u.Unflushed, bound)
	}
	if !errors.Is(refused.Err, context.Canceled) {
		t.Errorf("append above the bound: %+v", refused)
	}
	w.blobs.SetFault(nil)
	if late := appendTo(part, partition.Append{Batches: plain("late")}); late.Err != nil || late.Base != int64(total) {
		t.Errorf("after the stall: %+v", late)
	}
	for range total {
		if a := <-out; a.Err == nil {
			accepted++
		}
	}
	if accepted != total {
		t.Errorf("%d of %d accepted", accepted, total)
	}
	p.stop(t)
	p = w.mustStart(t)
	if got := values(t, p.partition(t, topic, 0), 0, partition.Read{MaxBytes: 1 << 20}); len(got) != total+1 {
		t.Errorf("%d records of %d", len(got), total+1)
	}
	p.stop(t)
}

func appendCtx(ctx context.Context, part *partition.Partition, b []byte) partition.Appended {
	out := make(chan partition.Appended, 1)
	part.Append(ctx, partition.Append{Batches: b, Done: func(a partition.Appended) { out <- a }})
	return <-out
}

// Ambiguous outcomes of puts and commits are repeated and found to be ours.
func TestAmbiguousOutcomes(t *testing.T) {
	w := newWorld()
	p := w.mustStart(t)
	topic := p.create(t, "events", 3, nil)
	r, m := rand.New(rand.NewPCG(1, 2)), rand.New(rand.NewPCG(3, 4)) // each store asks under its own lock
	w.blobs.SetFault(func(c blobmem.Call) blobmem.Fault {
		if c.Method != "Put" || r.IntN(2) == 0 {
			return blobmem.Fault{}
		}
		if r.IntN(2) == 0 {
			return blobmem.Fault{Before: blob.ErrUnknown}
		}
		return blobmem.Fault{After: blob.ErrUnknown}
	})
	w.meta.SetFault(func(c metamem.Call) metamem.Fault {
		if c.Method != "Txn" || m.IntN(2) == 0 {
			return metamem.Fault{}
		}
		if m.IntN(2) == 0 {
			return metamem.Fault{Before: meta.ErrUnknown}
		}
		return metamem.Fault{After: meta.ErrUnknown}
	})
	want := numbered(120)
	for i := range int32(3) {
		fill(t, p.partition(t, topic, i), want, 0)
	}
	p.flush(t)
	seen := map[int64]bool{}
	for range 3 {
		first, n, err := p.e.Catalog().NextProducerIDs(context.Background())
		if err != nil || n != 1000 || seen[first] {
			t.Fatal(first, n, err)
		}
		seen[first] = true
	}
	w.blobs.SetFault(nil)
	w.meta.SetFault(nil)
	p.kill(t, nil)
	p = w.mustStart(t)
	for i := range int32(3) {
		if diff := cmp.Diff(want, values(t, p.partition(t, topic, i), 0, partition.Read{MaxBytes: 1 << 20})); diff != "" {
			t.Error(diff)
		}
	}
	p.stop(t)
}

// A zombie of an older epoch can neither commit nor change anything.
func TestZombieIsFenced(t *testing.T) {
	w := newWorld()
	old := w.mustStart(t)
	topic := old.create(t, "events", 1, nil)
	fill(t, old.partition(t, topic, 0), numbered(10), 0)
	disk := w.files
	w.files = disk.Crash(nil)
	next := w.mustStart(t) // the old process lives on, paused
	zombie := old.partition(t, topic, 0)
	if _, err := zombie.DeleteRecords(context.Background(), 5); !errors.Is(err, catalog.ErrFenced) {
		t.Errorf("delete records: %v", err)
	}
	old.e.Partitions().Seal()
	if <-old.done; !errors.Is(old.err, catalog.ErrFenced) {
		t.Errorf("the zombie ended with %v", old.err)
	}
	if diff := cmp.Diff(numbered(10), values(t, next.partition(t, topic, 0), 0, partition.Read{MaxBytes: 1 << 20})); diff != "" {
		t.Error(diff)
	}
	next.flush(t)
	next.stop(t)
	// What the zombie had put is an orphan; the next life sweeps it.
	w.cfg.Sweep.Grace = time.Nanosecond
	next = w.mustStart(t)
	if err := next.e.jobs.Sweeper().SweepOrphans(context.Background()); err != nil {
		t.Fatal(err)
	}
	if n := next.e.jobs.Sweeper().Stats().Deleted; n != 1 {
		t.Errorf("%d orphans deleted, keys %v", n, w.blobs.Keys())
	}
	if diff := cmp.Diff(numbered(10), values(t, next.partition(t, topic, 0), 0, partition.Read{MaxBytes: 1 << 20})); diff != "" {
		t.Error(diff)
	}
	next.stop(t)
}

// Metadata from before the last life of the broker is refused.
func TestMetadataWentBack(t *testing.T) {
	w := newWorld()
	w.mustStart(t).stop(t)
	w.meta = metamem.New()
	if _, err := w.start(0, false); !errors.Is(err, ErrBehind) {
		t.Errorf("lost metadata: %v", err)
	}
}

// An object that vanishes behind the reader's back makes it look again.
func TestReadWhileRetired(t *testing.T) {
	ctx := context.Background()
	w := newWorld()
	w.cfg.Partitions.RetainBytes = -1
	p := w.mustStart(t)
	topic := p.create(t, "events", 1, nil)
	part := p.partition(t, topic, 0)
	want := numbered(20)
	fill(t, part, want, 0)
	p.flush(t)
	for _, key := range w.blobs.Keys() {
		if strings.HasPrefix(key, "data/") {
			if err := w.blobs.Delete(ctx, key); err != nil {
				t.Fatal(err)
			}
		}
	}
	// The catalog still names it: an error, never an empty answer.
	if _, err := readValues(part, 0, partition.Read{MaxBytes: 100}); err == nil {
		t.Error("a missing object was read as nothing")
	}
	p.stop(t)
}
