package read

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/looptape/looptape/internal/base/blob/blobmem"
	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/object"
)

const cluster = "AAAAAAAAAAAAAAAAAAAAAA"

// shelf is a catalog in memory: extents as readers see them, and as they are.
type shelf struct {
	mu        sync.Mutex
	seen      map[catalog.Partition][]catalog.Extent
	is        map[catalog.Partition][]catalog.Extent
	refreshes int
}

func (s *shelf) ClusterID() string { return cluster }

func (s *shelf) Extents(p catalog.Partition) []catalog.Extent {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen[p]
}

func (s *shelf) Refresh(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refreshes++
	s.seen = map[catalog.Partition][]catalog.Extent{}
	for p, all := range s.is {
		s.seen[p] = slices.Clone(all)
	}
	return nil
}

// world is a store with objects, hand-made.
type world struct {
	*shelf
	blobs *blobmem.Store
	seq   int64
}

func newWorld() *world {
	return &world{shelf: &shelf{is: map[catalog.Partition][]catalog.Extent{}}, blobs: blobmem.New()}
}

func part(i int32) catalog.Partition { return catalog.Partition{Topic: catalog.TopicID{1}, Index: i} }

// span is what an object gets of a partition: batches, in order, and what its
// tail says of transactions.
type span struct {
	p       catalog.Partition
	batches [][]byte
	ended   []batch.EndedTxn
	open    []batch.OpenTxn
	stable  int64 // last stable offset, -1: the end
}

// plain is n batches of one record each, of size bytes, from base on.
func plain(base int64, n, size int) [][]byte {
	var all [][]byte
	for i := range n {
		h := batch.Plain
		h.BaseOffset = base + int64(i)
		all = append(all, batch.Build(h, batch.KV{Timestamp: h.BaseOffset, Value: bytes.Repeat([]byte{byte(h.BaseOffset)}, size)}))
	}
	return all
}

// add stores an object and shows it in the catalog; hidden from readers until
// they refresh. It takes the place of what it overlaps.
func (w *world) add(t testing.TB, generation int32, blockBytes int, spans ...span) *catalog.Object {
	t.Helper()
	w.seq++
	var parts []object.Part
	for _, s := range spans {
		first, last := batch.Batch(s.batches[0]), batch.Batch(s.batches[len(s.batches)-1])
		p := object.Part{Topic: s.p.Topic, Partition: s.p.Index, Tail: object.Tail{
			TopicName: "t", Base: first.BaseOffset(), End: last.LastOffset() + 1, LastStable: s.stable, Open: s.open, Ended: s.ended,
		}}
		if s.stable < 0 {
			p.Tail.LastStable = p.Tail.End
		}
		for _, b := range s.batches {
			b := batch.Batch(b)
			p.Units = append(p.Units, object.Unit{Base: b.BaseOffset(), Last: b.LastOffset(), MaxTimestamp: b.MaxTimestamp(), Batches: 1, Bytes: b})
		}
		parts = append(parts, p)
	}
	packed, err := object.Pack(object.Footer{
		Identity: object.Identity{Cluster: cluster, Broker: 1, Epoch: 1, Kind: object.Flush, Seq: w.seq}, Generation: generation,
	}, blockBytes, parts)
	if err != nil {
		t.Fatal(err)
	}
	f := packed.Footer
	o := &catalog.Object{
		Name: f.Identity.Name(), Size: packed.Size(), Generation: generation, Partitions: int32(len(spans)),
		IndexPos: f.IndexPos, IndexLen: f.IndexLen, IndexCRC: f.IndexCRC, Blocks: f.Blocks,
	}
	if err := w.blobs.Put(context.Background(), object.Key(cluster, o.Name), packed, packed.Size()); err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range Ranges(&packed.Index) {
		all := []catalog.Extent{{
			Base: r.Base, End: r.End, SpanBase: r.Base, SpanEnd: r.End, MaxTimestamp: r.MaxTimestamp, Bytes: r.Bytes, Object: o,
		}}
		for _, x := range w.is[r.Partition] {
			if left := x; x.Base < r.Base {
				left.End = min(left.End, r.Base)
				all = append(all, left)
			}
			if right := x; x.End > r.End {
				right.Base = max(right.Base, r.End)
				all = append(all, right)
			}
		}
		slices.SortFunc(all, func(a, b catalog.Extent) int { return int(a.Base - b.Base) })
		w.is[r.Partition] = all
	}
	return o
}

func (w *world) remove(t testing.TB, o *catalog.Object) {
	t.Helper()
	if err := w.blobs.Delete(context.Background(), object.Key(cluster, o.Name)); err != nil {
		t.Fatal(err)
	}
}

// reader returns a reader that has seen everything.
func (w *world) reader(cfg Config) *Reader {
	_ = w.Refresh(context.Background())
	w.refreshes = 0
	return New(w.blobs, w, cfg)
}

// running is reader with Run, until the test ends.
func (w *world) running(t testing.TB, cfg Config) *Reader {
	r := w.reader(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return r
}

// offsets reads [from, end) to its end, at most maxBytes at a time, and returns
// the base offsets of the batches.
func offsets(t testing.TB, r *Reader, p catalog.Partition, from, end int64, maxBytes int) (all []int64) {
	t.Helper()
	for next := from; next < end; {
		res, err := r.Read(context.Background(), Query{Partition: p, Offset: next, End: end, MaxBytes: maxBytes, AtLeastOne: true})
		if err != nil {
			t.Fatal(err)
		}
		if res.Next <= next {
			t.Fatalf("no progress at %d: %+v", next, res)
		}
		for _, run := range res.Records {
			for b := range batch.Split(run) {
				if err := b.CheckCRC(); err != nil {
					t.Fatal(err)
				}
				all = append(all, b.BaseOffset())
			}
		}
		next = res.Next
		res.Release()
	}
	return all
}

func sequence(from, to int64) (all []int64) {
	for ; from < to; from++ {
		all = append(all, from)
	}
	return all
}

// corrupt flips a byte of a stored object.
func (w *world) corrupt(t testing.TB, o *catalog.Object, pos int64) {
	t.Helper()
	ctx, key := context.Background(), object.Key(cluster, o.Name)
	b := make([]byte, o.Size)
	if _, err := w.blobs.GetRange(ctx, key, 0, b); err != nil {
		t.Fatal(err)
	}
	b[pos] ^= 1
	w.remove(t, o)
	if err := w.blobs.Put(ctx, key, bytes.NewReader(b), o.Size); err != nil {
		t.Fatal(err)
	}
}

func same(t testing.TB, what string, got, want []int64) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %s, want %s", what, short(got), short(want))
	}
}

func short(all []int64) string {
	if len(all) > 12 {
		return fmt.Sprintf("%d offsets %d...%d", len(all), all[:6], all[len(all)-6:])
	}
	return fmt.Sprint(all)
}
