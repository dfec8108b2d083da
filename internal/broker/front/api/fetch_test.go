package api

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/partition"
)

// filled is a front with a topic of some partitions, each with batches of about
// size bytes.
func filled(t *testing.T, partitions int32, batches, size int) (f *front, logs []*memLog) {
	t.Helper()
	f = startFront(t, newMemTape())
	if _, err := kadm.NewClient(f.client(t)).CreateTopic(testCtx(t), partitions, 1, nil, "s"); err != nil {
		t.Fatal(err)
	}
	topic, _ := f.tape.Topic("s")
	for i := range partitions {
		l := f.tape.logs[partition.ID{Topic: topic.ID, Index: i}]
		for range batches {
			if err := l.append(record(string(make([]byte, size)))); err != nil {
				t.Fatal(err)
			}
		}
		logs = append(logs, l)
	}
	return f, logs
}

// answer sends a fetch and returns the bytes of records by partition.
func answer(t *testing.T, f *front, req *kmsg.FetchRequest) map[int32]int {
	t.Helper()
	c := f.raw(t)
	c.send(req, 12, 1)
	resp := kmsg.NewPtrFetchResponse()
	c.receive(resp, 12)
	got := map[int32]int{}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			got[p.Partition] = len(p.RecordBatches)
		}
	}
	return got
}

// What is not in memory comes when it is there; who has something else goes on
// with that, and nobody else waits at all but for one partition.
func TestFetchOfColdPartitions(t *testing.T) {
	f, logs := filled(t, 3, 4, 1000)
	logs[0].cold, logs[2].cold = true, true
	req := fetchRequest(0, -1, want(0, 0), want(1, 0), want(2, 0))
	got := answer(t, f, req)
	if got[0] != 0 || got[1] == 0 || got[2] != 0 || logs[0].waited+logs[2].waited != 0 {
		t.Errorf("%v, waited %d and %d times", got, logs[0].waited, logs[2].waited)
	}
	logs[0].cold = false // its load is done
	if got := answer(t, f, req); got[0] == 0 || got[1] == 0 || logs[2].waited != 0 {
		t.Errorf("%v, waited %d times", got, logs[2].waited)
	}
	// More is wanted than there is in memory: it waits, and for no more than that.
	logs[0].cold = true
	req.MinBytes, req.MaxWaitMillis = 6000, 20_000
	if got := answer(t, f, req); got[0] == 0 || got[1] == 0 || got[2] != 0 || logs[0].waited != 1 || logs[2].waited != 0 {
		t.Errorf("%v, waited %d and %d times", got, logs[0].waited, logs[2].waited)
	}
	// Nothing is in memory, and nothing more will come.
	for _, l := range logs {
		l.cold, l.waited = true, 0
	}
	req.MinBytes = 1
	if got := answer(t, f, req); got[0] == 0 || logs[0].waited != 1 || logs[1].waited+logs[2].waited != 0 {
		t.Errorf("%v, waited %d, %d and %d times", got, logs[0].waited, logs[1].waited, logs[2].waited)
	}
	f.stop() // replies are given back after they were written
	for i, l := range logs {
		if l.held != 0 {
			t.Errorf("partition %d: %d chunks are still held", i, l.held)
		}
	}
}

// Partitions share the byte limit; those at their end leave their share to the
// others.
func TestFetchIsFair(t *testing.T) {
	f, logs := filled(t, 4, 400, 1000)
	end := logs[3].end
	for _, c := range []struct {
		offsets [4]int64
		max     int32
		least   [4]int
	}{
		{[4]int64{}, 400 << 10, [4]int{98 << 10, 98 << 10, 98 << 10, 98 << 10}},
		{[4]int64{0, end, end, end}, 400 << 10, [4]int{398 << 10, 0, 0, 0}},
		{[4]int64{end - 1, 0, 0, end}, 400 << 10, [4]int{1000, 196 << 10, 196 << 10, 0}},
		{[4]int64{0, 0, 0, 0}, 100 << 10, [4]int{62 << 10, 34 << 10, 0, 0}}, // too little for all
	} {
		req := fetchRequest(0, -1, want(0, 0))
		req.MaxBytes = c.max
		var parts []kmsg.FetchRequestTopicPartition
		for i, o := range c.offsets {
			p := want(int32(i), o)
			p.PartitionMaxBytes = 1 << 20
			parts = append(parts, p)
		}
		req.Topics[0].Partitions = parts
		got, total := answer(t, f, req), 0
		for i, least := range c.least {
			if total += got[int32(i)]; got[int32(i)] < least {
				t.Errorf("%+v: partition %d gave %d bytes", c, i, got[int32(i)])
			}
		}
		if total > int(c.max) {
			t.Errorf("%+v: %d bytes", c, total)
		}
	}
}

// Trap 15: the first batch comes whole however little is allowed, also when the
// replies of others hold all memory, and it is the only one then.
func TestTrap15FirstBatch(t *testing.T) {
	f, _ := filled(t, 2, 4, 5000)
	one := len(record(string(make([]byte, 5000))))
	for name, change := range map[string]func(*kmsg.FetchRequest){
		"of the fetch":     func(r *kmsg.FetchRequest) { r.MaxBytes = 0 },
		"of the partition": func(r *kmsg.FetchRequest) { r.Topics[0].Partitions[0].PartitionMaxBytes = 1 },
	} {
		req := fetchRequest(0, -1, want(0, 2), want(1, 1))
		req.MaxBytes = int32(one)
		change(req)
		if got := answer(t, f, req); got[0] != one || got[1] != 0 {
			t.Errorf("limit %s: %v, want one batch of %d", name, got, one)
		}
	}
	s := &Server{}
	s.cfg.defaults()
	s.fetched.Store(s.cfg.MaxFetchMemory + 1)
	if n := (&fetch{s: s, req: &kmsg.FetchRequest{MaxBytes: 1 << 20}}).limit(); n != 0 {
		t.Errorf("limit is %d while others hold everything", n)
	}
	s.fetched.Store(s.cfg.MaxFetchMemory - 2000)
	if n := (&fetch{s: s, req: &kmsg.FetchRequest{MaxBytes: 1 << 20}}).limit(); n != 1000 {
		t.Errorf("limit is %d", n)
	}
}

// A session serves those first that had nothing the last time, in one pass.
func TestSessionRotates(t *testing.T) {
	s := &session{}
	for i := range int32(6) {
		s.parts = append(s.parts, &sessionPart{partitionKey: partitionKey{index: i}})
	}
	s.rotate([]*fetchPart{{sp: s.parts[0], size: 1}, {sp: s.parts[2], size: 1}, {sp: s.parts[3]}})
	var order []int32
	for _, p := range s.parts {
		order = append(order, p.index)
	}
	for i, want := range []int32{1, 3, 4, 5, 0, 2} {
		if order[i] != want {
			t.Fatalf("order %v", order)
		}
	}
}

// BenchmarkFetchManyPartitions is a long poll over 10,000 partitions in a
// session, in which one has news.
func BenchmarkFetchManyPartitions(b *testing.B) {
	tape := newMemTape()
	f := startFront(b, tape)
	const n = 10_000
	if _, err := kadm.NewClient(f.client(b)).CreateTopic(testCtx(b), n, 1, nil, "s"); err != nil {
		b.Fatal(err)
	}
	topic, _ := tape.Topic("s")
	c := f.raw(b)
	var all []kmsg.FetchRequestTopicPartition
	for i := range int32(n) {
		all = append(all, want(i, 0))
	}
	req := fetchRequest(0, 0, all...)
	c.send(req, 12, 1)
	resp := kmsg.NewPtrFetchResponse()
	c.receive(resp, 12)
	l := tape.logs[partition.ID{Topic: topic.ID, Index: 5000}]
	epoch := int32(0)
	for b.Loop() {
		epoch++
		next := fetchRequest(resp.SessionID, epoch, want(5000, l.end))
		next.MinBytes, next.MaxWaitMillis = 1, 1000
		if err := l.append(batch.Build(batch.Plain, batch.KV{Value: []byte("x")})); err != nil {
			b.Fatal(err)
		}
		c.send(next, 12, 2)
		c.receive(kmsg.NewPtrFetchResponse(), 12)
	}
}
