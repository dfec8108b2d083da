package read

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/blob/blobmem"
	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/object"
)

// Everything is read once and in order, whatever the sizes of blocks, chunks,
// cache and answers, with and without reading ahead.
func TestReadsEverything(t *testing.T) {
	w := newWorld()
	for i := range int64(4) {
		w.add(t, 0, 300, span{part(0), plain(25*i, 25, 80), nil, nil, -1}, span{part(1), plain(10*i, 10, 200), nil, nil, -1})
	}
	w.add(t, 0, 1000, span{part(0), plain(100, 50, 400), nil, nil, -1})
	for _, cfg := range []Config{{}, {CacheBytes: 16 << 10}, {CacheBytes: 4 << 10, Ahead: -1}, {CacheBytes: 100 << 10, ChunkBytes: 2000, Ahead: 8000}} {
		for _, maxBytes := range []int{1, 1000, 1 << 20} {
			r := w.running(t, cfg)
			same(t, fmt.Sprintf("%+v %d", cfg, maxBytes), offsets(t, r, part(0), 0, 150, maxBytes), sequence(0, 150))
			same(t, "second partition", offsets(t, r, part(1), 3, 35, maxBytes), sequence(3, 35))
			if size := r.Stats().CacheBytes; size > r.cfg.CacheBytes {
				t.Errorf("%d bytes in a cache of %d", size, r.cfg.CacheBytes)
			}
		}
	}
}

// Trap 13: an object that is gone, or that the catalog's copy does not show,
// means a stale index, never an empty answer.
func TestTrap13StaleIndex(t *testing.T) {
	ctx := context.Background()
	t.Run("merged", func(t *testing.T) {
		w := newWorld()
		a := w.add(t, 0, 300, span{part(0), plain(0, 20, 80), nil, nil, -1})
		b := w.add(t, 0, 300, span{part(0), plain(20, 20, 80), nil, nil, -1})
		r := w.reader(Config{})
		w.add(t, 1, 300, span{part(0), plain(0, 40, 80), nil, nil, -1})
		w.remove(t, a)
		w.remove(t, b)
		same(t, "after the merge", offsets(t, r, part(0), 0, 40, 500), sequence(0, 40))
		if w.refreshes != 1 {
			t.Errorf("%d refreshes", w.refreshes)
		}
	})
	t.Run("merged while it is read", func(t *testing.T) {
		w := newWorld()
		a := w.add(t, 0, 300, span{part(0), plain(0, 40, 80), nil, nil, -1})
		r := w.reader(Config{CacheBytes: 2 << 10, Ahead: -1})
		res, err := r.Read(ctx, Query{Partition: part(0), End: 40, MaxBytes: 500, AtLeastOne: true})
		if err != nil || res.Next >= 40 || res.Next == 0 {
			t.Fatal(res, err)
		}
		res.Release()
		w.add(t, 1, 300, span{part(0), plain(0, 40, 80), nil, nil, -1})
		w.remove(t, a)
		same(t, "the rest", offsets(t, r, part(0), res.Next, 40, 500), sequence(res.Next, 40))
	})
	t.Run("not shown yet", func(t *testing.T) {
		w := newWorld()
		w.add(t, 0, 300, span{part(0), plain(0, 20, 80), nil, nil, -1})
		r := w.reader(Config{})
		w.add(t, 0, 300, span{part(0), plain(20, 20, 80), nil, nil, -1})
		same(t, "the new object too", offsets(t, r, part(0), 0, 40, 500), sequence(0, 40))
	})
	t.Run("lost", func(t *testing.T) {
		w := newWorld()
		a := w.add(t, 0, 300, span{part(0), plain(0, 20, 80), nil, nil, -1})
		w.add(t, 0, 300, span{part(0), plain(30, 10, 80), nil, nil, -1})
		r := w.reader(Config{})
		for name, q := range map[string]Query{
			"hole":        {Partition: part(0), Offset: 20, End: 40, MaxBytes: 1 << 20, AtLeastOne: true},
			"at the end":  {Partition: part(0), Offset: 40, End: 41, MaxBytes: 1 << 20},
			"unknown":     {Partition: part(9), Offset: 0, End: 1, MaxBytes: 1 << 20},
			"at a glance": {Partition: part(9), Offset: 0, End: 1, MaxBytes: 1 << 20, Glance: true},
		} {
			if res, err := r.Read(ctx, q); !errors.Is(err, ErrLost) {
				t.Errorf("%s: %+v, %v", name, res, err)
			}
		}
		w.remove(t, a)
		if res, err := r.Read(ctx, Query{Partition: part(0), End: 20, MaxBytes: 1 << 20}); !errors.Is(err, ErrLost) || !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("object gone: %+v, %v", res, err)
		}
		for name, err := range map[string]error{
			"AtTime":  second(r.AtTime(ctx, part(0), 3, 0, 20)),
			"Newest":  last(r.Newest(ctx, part(0), 0, 5)),
			"State":   last(newWorldWithout(t).State(ctx, part(0))),
			"Aborted": second(r.Aborted(ctx, part(0), 0, 20)),
		} {
			if !errors.Is(err, ErrLost) {
				t.Errorf("%s of an object that is gone: %v", name, err)
			}
		}
	})
}

func newWorldWithout(t *testing.T) *Reader {
	w := newWorld()
	o := w.add(t, 0, 300, span{part(0), plain(0, 20, 80), nil, nil, -1})
	w.remove(t, o)
	return w.reader(Config{})
}

func second[A, B any](_ A, _ B, err error) error { return err }
func last[A any](_ A, err error) error           { return err }

// Where objects overlap every offset is read once, from the object that the
// catalog names for it, though blocks reach beyond it.
func TestClippedExtents(t *testing.T) {
	w := newWorld()
	w.add(t, 0, 1000, span{part(0), plain(0, 40, 100), nil, nil, -1})
	newer := plain(10, 7, 150) // 17 to 19 were compacted away
	w.add(t, 1, 1000, span{part(0), newer, nil, nil, -1})
	w.is[part(0)][1].End, w.is[part(0)][2].Base = 20, 20
	for _, cfg := range []Config{{}, {CacheBytes: 8 << 10}} {
		r := w.running(t, cfg)
		want := append(sequence(0, 17), sequence(20, 40)...)
		for _, maxBytes := range []int{1, 700, 1 << 20} {
			same(t, fmt.Sprint(maxBytes), offsets(t, r, part(0), 0, 40, maxBytes), want)
			same(t, "from the middle", offsets(t, r, part(0), 12, 30, maxBytes), append(sequence(12, 17), sequence(20, 30)...))
		}
		res, err := r.Read(context.Background(), Query{Partition: part(0), Offset: 10, End: 17, MaxBytes: 1 << 20})
		if err != nil || res.Bytes != 7*len(newer[0]) || res.Next != 17 {
			t.Errorf("%+v, %v", res, err)
		}
		res.Release()
		if o, ts, err := r.AtTime(context.Background(), part(0), 18, 0, 40); o != 20 || ts != 20 || err != nil {
			t.Error(o, ts, err)
		}
		if ts, err := r.Newest(context.Background(), part(0), 0, 20); ts != 16 || err != nil {
			t.Error(ts, err)
		}
	}
}

// Many readers that find the index stale share one reading of the catalog.
func TestRefreshIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		o := w.add(t, 0, 300, span{part(0), plain(0, 20, 80), nil, nil, -1})
		r := w.reader(Config{})
		w.add(t, 1, 300, span{part(0), plain(0, 20, 80), nil, nil, -1})
		w.remove(t, o)
		w.blobs.SetFault(func(blobmem.Call) blobmem.Fault { return blobmem.Fault{Delay: time.Millisecond} })
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() { same(t, "read", offsets(t, r, part(0), 0, 20, 1<<20), sequence(0, 20)) })
		}
		wg.Wait()
		if w.refreshes != 1 {
			t.Errorf("%d refreshes", w.refreshes)
		}
	})
}

// Trap 15: a fetch inside a batch gets the whole batch, and the first batch comes
// whole also above the limit.
func TestTrap15InsideABatch(t *testing.T) {
	w := newWorld()
	const big = int64(1) << 40 // offsets do not fit into 32 bits
	var batches [][]byte
	for i := range int64(5) {
		h := batch.Plain
		h.BaseOffset = big + 10*i
		var kvs []batch.KV
		for k := range 10 {
			kvs = append(kvs, batch.KV{Timestamp: int64(k), Value: make([]byte, 50)})
		}
		batches = append(batches, batch.Build(h, kvs...))
	}
	w.add(t, 0, 1000, span{part(0), batches, nil, nil, -1})
	r := w.reader(Config{})
	for _, c := range []struct {
		offset   int64
		maxBytes int
		one      bool
		want     []int64 // base offsets
		full     bool
	}{
		{big + 13, 1 << 20, true, []int64{big + 10, big + 20, big + 30, big + 40}, false},
		{big + 19, 1, true, []int64{big + 10}, true},
		{big + 19, 0, true, []int64{big + 10}, true},
		{big + 10, len(batches[0])*2 + 5, true, []int64{big + 10, big + 20}, true},
		{big + 49, 1, true, []int64{big + 40}, false},
		{big + 19, 1, false, nil, true},
		{big + 19, 0, false, nil, true},
		{big + 19, len(batches[0]) - 1, false, nil, true},
	} {
		res, err := r.Read(context.Background(), Query{Partition: part(0), Offset: c.offset, End: big + 50, MaxBytes: c.maxBytes, AtLeastOne: c.one})
		if err != nil {
			t.Fatal(err)
		}
		var got []int64
		for _, run := range res.Records {
			for b := range batch.Split(run) {
				got = append(got, b.BaseOffset())
			}
		}
		if !slices.Equal(got, c.want) || res.Full != c.full {
			t.Errorf("%+v: %d, full %v", c, got, res.Full)
		}
		if len(got) > 0 && res.Next != got[len(got)-1]+10 {
			t.Errorf("%+v: next is %d", c, res.Next)
		}
		res.Release()
	}
}

// P9: one transaction over five flushes, aborted in the last. A reader anywhere
// in it is told, from objects alone, before and after they are merged; and so is
// one whose answer ends before the marker's object.
func TestAbortedAcrossObjects(t *testing.T) {
	ctx := context.Background()
	const pid = 7
	inTxn := func(offset int64) []byte {
		h := batch.Header{BaseOffset: offset, LeaderEpoch: -1, Attributes: batch.Transactional, ProducerID: pid, Sequence: int32(offset)}
		return batch.Build(h, batch.KV{Timestamp: offset, Value: make([]byte, 100)})
	}
	marker := batch.Batch(batch.BuildMarker(pid, 0, false, 0, 1))
	marker.SetBaseOffset(50)
	other := plain(0, 60, 100)
	aborted := batch.EndedTxn{ProducerID: pid, First: 5, Marker: 50, LastStable: 51}
	committed := batch.EndedTxn{ProducerID: 8, First: 52, Marker: 53, LastStable: 54, Commit: true}
	open := []batch.OpenTxn{{ProducerID: pid, First: 5}}
	w := newWorld()
	var objects []*catalog.Object
	var all [][]byte
	for i := range int64(5) {
		var bs [][]byte
		for o := 10 * i; o < 10*i+10; o++ {
			if o%10 == 5 {
				bs = append(bs, inTxn(o))
			} else {
				bs = append(bs, other[o])
			}
		}
		s := span{part(0), bs, nil, open, 5}
		if i == 4 {
			s.batches = append(s.batches, marker, other[51], other[52], other[53])
			s.ended, s.open, s.stable = []batch.EndedTxn{aborted, committed}, nil, -1
		}
		all = append(all, s.batches...)
		objects = append(objects, w.add(t, 0, 500, s))
	}
	r := w.reader(Config{})
	check := func(what string) {
		t.Helper()
		for _, c := range []struct {
			from, upto int64
			want       int
		}{{0, 10, 1}, {5, 6, 1}, {25, 30, 1}, {0, 54, 1}, {49, 51, 1}, {0, 5, 0}, {51, 54, 0}, {0, 4, 0}} {
			got, complete, err := r.Aborted(ctx, part(0), c.from, c.upto)
			if err != nil || len(got) != c.want || !complete || c.want > 0 && got[0] != aborted {
				t.Errorf("%s: [%d, %d): %v, complete %v, %v", what, c.from, c.upto, got, complete, err)
			}
		}
	}
	check("five objects")
	before := r.Stats().Gets + r.Stats().Indexes
	check("from memory")
	if now := r.Stats().Gets + r.Stats().Indexes; now != before {
		t.Errorf("%d GETs for what is in memory", now-before)
	}
	w.add(t, 1, 500, span{part(0), all, []batch.EndedTxn{aborted, committed}, nil, -1})
	for _, o := range objects {
		w.remove(t, o)
	}
	r = New(w.blobs, w, Config{}) // cold, and with a stale index
	check("merged")
	if w.refreshes != 1 {
		t.Errorf("%d refreshes", w.refreshes)
	}
	// While nothing at or above upto is decided in objects, the rest is in memory.
	w = newWorld()
	w.add(t, 0, 500, span{part(0), all[:20], nil, open, 5})
	if got, complete, err := w.reader(Config{}).Aborted(ctx, part(0), 0, 20); len(got) > 0 || complete || err != nil {
		t.Error(got, complete, err)
	}
}

// A glance never waits; what it misses is there for the next one.
func TestGlance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.add(t, 0, 300, span{part(0), plain(0, 20, 80), nil, nil, -1})
		ctx, cancel := context.WithCancel(context.Background())
		r := w.reader(Config{})
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		w.blobs.SetFault(func(blobmem.Call) blobmem.Fault { return blobmem.Fault{Delay: time.Second} })
		glance := func() Result {
			began := time.Now()
			res, err := r.Read(ctx, Query{Partition: part(0), End: 20, MaxBytes: 1 << 20, AtLeastOne: true, Glance: true})
			if err != nil || time.Since(began) > 0 {
				t.Fatal("waited", time.Since(began), err)
			}
			return res
		}
		for i := range 3 { // index, block, all there
			res := glance()
			if i < 2 && (!res.Pending || res.Bytes > 0) || i == 2 && (res.Pending || res.Next != 20) {
				t.Errorf("glance %d: %+v", i, res)
			}
			res.Release()
			time.Sleep(2 * time.Second)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Neighbours are read with one GET, and many partitions open with few.
func TestManyPartitions(t *testing.T) {
	const n = 1000
	w := newWorld()
	var spans []span
	for i := range int32(n) {
		spans = append(spans, span{part(i), plain(0, 3, 600), nil, nil, -1})
	}
	w.add(t, 0, 4<<10, spans...)
	r := w.reader(Config{})
	gets := 0
	w.blobs.SetFault(func(blobmem.Call) blobmem.Fault { gets++; return blobmem.Fault{} })
	for i := range int32(n) {
		if s, err := r.State(context.Background(), part(i)); err != nil || s.End != 3 {
			t.Fatal(s, err)
		}
	}
	if gets > 4 {
		t.Errorf("%d GETs to open %d partitions", gets, n)
	}
	gets = 0
	for i := range int32(n) {
		same(t, "read", offsets(t, r, part(i), 0, 3, 1<<20), sequence(0, 3))
	}
	if gets > 6 {
		t.Errorf("%d GETs for 2 MB of %d partitions", gets, n)
	}
}

// A damaged block fails alone, and is read again when it is asked for again.
func TestDamagedBlock(t *testing.T) {
	w := newWorld()
	o := w.add(t, 0, 300, span{part(0), plain(0, 4, 250), nil, nil, -1})
	w.corrupt(t, o, object.HeaderSize+400) // the second block
	r := w.reader(Config{})
	same(t, "before the damage", offsets(t, r, part(0), 0, 1, 1<<20), sequence(0, 1))
	same(t, "after the damage", offsets(t, r, part(0), 2, 4, 1<<20), sequence(2, 4))
	if _, err := r.Read(context.Background(), Query{Partition: part(0), Offset: 1, End: 4, MaxBytes: 1 << 20}); !errors.Is(err, object.ErrCorrupt) {
		t.Error(err)
	}
	w.corrupt(t, o, object.HeaderSize+400) // mended
	same(t, "mended", offsets(t, r, part(0), 0, 4, 1<<20), sequence(0, 4))
}

// The window doubles while a reader goes on, and what is read ahead is read once.
func TestReadAheadGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		const objects, per, size = 8, 64, 4 << 10
		for i := range int64(objects) {
			w.add(t, 0, size, span{part(0), plain(per*i, per, size-100), nil, nil, -1})
		}
		ctx, cancel := context.WithCancel(context.Background())
		r := w.reader(Config{CacheBytes: 1 << 20, ChunkBytes: size, Ahead: 128 << 10})
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		gets := 0
		w.blobs.SetFault(func(blobmem.Call) blobmem.Fault { gets++; return blobmem.Fault{Delay: 10 * time.Millisecond} })
		var windows []int64
		waited := 0
		for next := int64(0); next < objects*per; {
			began := time.Now()
			res, err := r.Read(ctx, Query{Partition: part(0), Offset: next, End: objects * per, MaxBytes: 2 * size, AtLeastOne: true})
			if err != nil {
				t.Fatal(err)
			}
			if time.Since(began) > 0 {
				waited++
			}
			next = res.Next
			res.Release()
			r.streams.mu.Lock()
			windows = append(windows, r.streams.order.Front().Value.(*stream).window>>10)
			r.streams.mu.Unlock()
			time.Sleep(20 * time.Millisecond) // the reader does something with it
		}
		for i, want := range []int64{4, 8, 16, 32, 64, 128, 128} {
			if windows[i] != want {
				t.Errorf("windows in KiB %v", windows)
				break
			}
		}
		if want := objects * (per/2 + 1); gets != want { // two blocks are a chunk
			t.Errorf("%d GETs for %d blocks and indexes", gets, want)
		}
		if waited > objects {
			t.Errorf("the reader waited %d times", waited)
		}
		if s := r.Stats(); s.AheadBytes != 0 {
			t.Errorf("%d bytes still count as read ahead", s.AheadBytes)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// The memory of blocks is bounded also while answers hold all of it: everybody
// gets a batch, and nothing is lost.
func TestMemoryIsBounded(t *testing.T) {
	w := newWorld()
	const block = 64 << 10
	w.add(t, 0, block, span{part(0), plain(0, 200, block-100), nil, nil, -1})
	r := w.running(t, Config{CacheBytes: 16 * block, ChunkBytes: block})
	ctx := context.Background()
	var held []Result
	for i := range int64(40) { // clients that do not read their answers
		res, err := r.Read(ctx, Query{Partition: part(0), Offset: 5 * i, End: 200, MaxBytes: 1 << 30, AtLeastOne: true})
		if err != nil || res.Bytes == 0 {
			t.Fatal(i, res, err)
		}
		held = append(held, res)
	}
	if size := r.Stats().CacheBytes; size > r.cfg.CacheBytes+block {
		t.Errorf("%d bytes of %d are in use", size, r.cfg.CacheBytes)
	}
	if res, err := r.Read(ctx, Query{Partition: part(0), Offset: 1, End: 200, MaxBytes: 1 << 30}); err != nil || !res.Full && res.Bytes == 0 {
		t.Error(res, err)
	}
	for i := range held {
		for _, run := range held[i].Records {
			if batch.Batch(run).BaseOffset() < int64(5*i) || batch.Batch(run[:batch.Batch(run).Length()+12]).CheckCRC() != nil {
				t.Fatalf("answer %d changed", i)
			}
		}
		held[i].Release()
	}
	same(t, "afterwards", offsets(t, r, part(0), 0, 200, 1<<20), sequence(0, 200))
}

// While answers use more than half of the memory, each gets a chunk and not more,
// instead of some all and others copies of single batches.
func TestCrowdedAnswersAreSmall(t *testing.T) {
	w := newWorld()
	const block = 64 << 10
	w.add(t, 0, block, span{part(0), plain(0, 200, block-100), nil, nil, -1})
	r := w.running(t, Config{CacheBytes: 16 * block, ChunkBytes: block / 2, Ahead: -1})
	var got []int
	for i := range int64(9) {
		for range 5 { // what is not there at once comes later
			res, err := r.Read(context.Background(), Query{Partition: part(0), Offset: 20 * i, End: 200, MaxBytes: 1 << 30, AtLeastOne: true})
			if err != nil {
				t.Fatal(err)
			}
			defer res.Release()
			got = append(got, len(res.Records))
			time.Sleep(time.Millisecond)
			if res.Full || i > 3 {
				break
			}
		}
	}
	r.blocks.mu.Lock()
	defer r.blocks.mu.Unlock()
	if r.blocks.pinned > r.blocks.size || r.blocks.size > r.cfg.CacheBytes+block {
		t.Errorf("%d pinned of %d bytes", r.blocks.pinned, r.blocks.size)
	}
	for _, n := range got[len(got)-3:] {
		if n != 1 {
			t.Errorf("runs of the answers: %d", got)
		}
	}
}

// Readers at the tail find a place whatever others do; who waits goes in the
// order of classes; one that gives up leaves nothing behind.
func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(8)
		ctx := context.Background()
		holds := func(c Class, want int) {
			t.Helper()
			tight, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			n := 0
			for g.enter(tight, c) == nil {
				n++
			}
			if n != want {
				t.Errorf("class %d got %d places, want %d", c, n, want)
			}
		}
		holds(Background, 2)
		holds(ahead, 2)
		holds(CatchUp, 2)
		holds(Tail, 2)
		var order []Class
		var mu sync.Mutex
		for _, c := range []Class{Background, ahead, CatchUp, Tail, CatchUp} {
			go func() {
				if g.enter(ctx, c) == nil {
					mu.Lock()
					order = append(order, c)
					mu.Unlock()
				}
			}()
			synctest.Wait()
		}
		for _, c := range []Class{Tail, Tail, CatchUp, CatchUp, ahead, ahead, Background, Background} {
			g.leave(c)
			synctest.Wait()
		}
		if want := []Class{Tail, CatchUp, CatchUp, ahead, Background}; !slices.Equal(order, want) {
			t.Errorf("entered in the order %v, want %v", order, want)
		}
		for _, c := range order {
			g.leave(c)
		}
		if g.held != [classes]int{} {
			t.Errorf("%v are held", g.held)
		}
	})
}

// Callers of one index share a GET; one that goes away leaves the others alone.
func TestIndexLoadsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		o := w.add(t, 0, 300, span{part(0), plain(0, 20, 80), nil, nil, -1})
		r := w.reader(Config{})
		var gets atomic.Int32
		w.blobs.SetFault(func(c blobmem.Call) blobmem.Fault {
			if strings.HasPrefix(c.Key, "data/") {
				gets.Add(1)
			}
			return blobmem.Fault{Delay: time.Second}
		})
		gone, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := r.index(gone, o, Tail); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		})
		synctest.Wait()
		for range 20 {
			wg.Go(func() {
				if _, err := r.index(context.Background(), o, Tail); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := gets.Load(); n != 2 { // the one given up, and one for all others
			t.Errorf("%d GETs", n)
		}
	})
}
