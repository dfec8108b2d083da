package write

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/blob/blobmem"
	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/meta/metamem"
	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/object"
)

// world is a broker without log and partitions: it writes objects as a flusher
// would, runs jobs on them, and knows what must be read back.
type world struct {
	t     testing.TB
	r     *rand.Rand
	blobs *blobmem.Store
	meta  *metamem.Store
	now   time.Time
	cfg   BackgroundConfig

	c     *catalog.Catalog
	w     *catalog.Writer
	jobs  *Background
	stop  func()
	seq   int64
	lsn   int64
	parts []*modelPart
}

// modelPart is what a partition must hold.
type modelPart struct {
	p         catalog.Partition
	topic     string
	next      int64
	batches   []batch.Batch // all that was written, by offset
	producers map[int64]batch.Producer
	txns      batch.Transactions
	ended     []batch.EndedTxn
	depth     uint8
	written   bool
	touched   map[int64]bool
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func newWorld(t testing.TB, seed uint64) *world {
	t.Helper()
	w := &world{
		t: t, r: rand.New(rand.NewPCG(seed, 1)), blobs: blobmem.New(), meta: metamem.New(), now: time.Now(),
		cfg: BackgroundConfig{
			Merge:          MergeConfig{FanIn: 3, MiddleBytes: 20 << 10, LargeBytes: 60 << 10, LeaveBytes: 4 << 10, BlockBytes: 2 << 10, Memory: 1},
			BytesPerSecond: -1,
			Sweep:          SweepConfig{Grace: time.Nanosecond},
		},
	}
	w.cfg.Sweep.Now = func() time.Time { return w.now }
	w.start()
	return w
}

// raiser raises log starts in the catalog alone.
type raiser struct{ w *catalog.Writer }

func (r raiser) Raise(ctx context.Context, p catalog.Partition, before int64) error {
	_, err := r.w.SetLogStart(ctx, p, before)
	return err
}

// start begins a life of the process: a new epoch.
func (w *world) start() {
	w.t.Helper()
	if w.stop != nil {
		w.stop()
	}
	ctx := context.Background()
	c, err := catalog.Open(ctx, w.meta, catalog.Config{Now: func() time.Time { return w.now }, Ranges: func(ctx context.Context, cluster string, o *catalog.Object) ([]catalog.Range, error) {
		in, err := (&gets{w.blobs, nil, &JobStats{}}).open(ctx, cluster, catalog.Visible{Object: o})
		if err != nil {
			return nil, err
		}
		return ranges(in.index), nil
	}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.c = c
	writer, adopted, err := c.Register(ctx, catalog.Registration{Kind: catalog.FileLog, URI: "x"})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, a := range adopted {
		if err := writer.Finish(ctx, a.Log.Epoch); err != nil {
			w.t.Fatal(err)
		}
	}
	w.w, w.seq, w.lsn = writer, 0, 0
	run, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- c.Run(run) }()
	w.stop = func() {
		w.stop = nil
		cancel()
		<-done
	}
	w.jobs = NewBackground(&Base{Catalog: c, Writer: writer, Store: w.blobs, Nonce: [16]byte{byte(writer.Epoch())}, Names: NewNames(), Log: quiet}, raiser{writer}, w.cfg)
}

func (w *world) topic(name string, partitions int32, config map[string]string) catalog.TopicID {
	w.t.Helper()
	t, err := w.c.CreateTopic(context.Background(), catalog.Topic{Name: name, Partitions: partitions, Config: config})
	if err != nil {
		w.t.Fatal(err)
	}
	for i := range partitions {
		w.parts = append(w.parts, &modelPart{p: catalog.Partition{Topic: t.ID, Index: i}, topic: name, producers: map[int64]batch.Producer{}, touched: map[int64]bool{}})
	}
	return t.ID
}

// take gives a batch its offsets.
func (m *modelPart) take(b batch.Batch) batch.Batch {
	b.SetBaseOffset(m.next)
	b.SetLeaderEpoch(0)
	m.next = b.LastOffset() + 1
	m.batches = append(m.batches, b)
	if b.HasProducer() {
		p, ok := m.producers[b.ProducerID()]
		if !ok {
			p = batch.NewProducer(b.ProducerID())
		}
		if mk, ok := b.Marker(); ok {
			p.ApplyMarker(b.ProducerEpoch(), mk, b.MaxTimestamp())
		} else {
			p.Apply(b)
		}
		m.producers[p.ID] = p
		m.touched[p.ID] = true
	}
	if e, ok := m.txns.Apply(b); ok {
		m.ended = append(m.ended, e)
	}
	return b
}

// part packs batches, already taken, as a flush would.
func (m *modelPart) part(batches []batch.Batch, ended []batch.EndedTxn, base int64) object.Part {
	part := object.Part{Topic: m.p.Topic, Partition: m.p.Index}
	for _, b := range batches {
		part.Units = append(part.Units, object.Unit{Base: b.BaseOffset(), Last: b.LastOffset(), MaxTimestamp: b.MaxTimestamp(), Batches: 1, Bytes: b})
	}
	ids := slices.Sorted(maps.Keys(m.touched))
	if !m.written || m.depth >= object.MaxTailDepth {
		m.depth, ids = 0, slices.Sorted(maps.Keys(m.producers))
	} else {
		m.depth++
	}
	m.written = true
	m.touched = map[int64]bool{}
	part.Tail = object.Tail{
		TopicName: m.topic, Base: base, End: m.next, LastStable: m.txns.LastStable(m.next), Depth: m.depth,
		Open: m.txns.Open(), Ended: ended, Samples: []object.Sample{{Offset: m.next - 1, Timestamp: 5}},
	}
	for _, id := range ids {
		part.Tail.Producers = append(part.Tail.Producers, m.producers[id])
	}
	return part
}

// flush puts and commits what fn appends to each partition: one set, and singles
// for those it names.
func (w *world) flush(fn func(m *modelPart), single ...int) {
	w.t.Helper()
	var rest []object.Part
	var singles [][]object.Part
	for i, m := range w.parts {
		if _, ok := w.c.TopicByID(m.p.Topic); !ok {
			continue
		}
		n, e, base := len(m.batches), len(m.ended), m.next
		fn(m)
		if m.next == base {
			continue
		}
		part := m.part(m.batches[n:], slices.Clone(m.ended[e:]), base)
		if slices.Contains(single, i) {
			singles = append(singles, []object.Part{part})
		} else {
			rest = append(rest, part)
		}
	}
	if len(rest) > 0 {
		singles = append(singles, rest)
	}
	w.commit(singles, len(rest) > 0)
}

func (w *world) commit(groups [][]object.Part, lastIsSet bool) {
	w.t.Helper()
	ctx := context.Background()
	w.lsn++
	m := catalog.Commit{Epoch: w.w.Epoch(), LSN: w.lsn}
	for i, parts := range groups {
		w.seq++
		id := object.Identity{Cluster: w.c.ClusterID(), Broker: 0, Epoch: w.w.Epoch(), Kind: object.Flush, Seq: w.seq}
		p, err := object.Pack(object.Footer{Identity: id}, 1<<10, parts)
		if err != nil {
			w.t.Fatal(err)
		}
		if err := w.blobs.Put(ctx, object.Key(w.c.ClusterID(), id.Name()), p, p.Size()); err != nil {
			w.t.Fatal(err)
		}
		m.Objects = append(m.Objects, newObject(&packed{p, id.Name(), !lastIsSet || i < len(groups)-1}))
	}
	if err := w.w.Commit(ctx, m); err != nil {
		w.t.Fatal(err)
	}
}

// some appends a few batches of random kinds.
func (w *world) some(m *modelPart) {
	for range w.r.IntN(4) {
		h := batch.Plain
		if w.r.IntN(2) == 0 {
			id := int64(w.r.IntN(6))
			known, ok := m.producers[id]
			h = batch.Header{ProducerID: id}
			if ok && known.Count > 0 {
				h.Sequence = known.Spans[known.Count-1].LastSequence + 1
			}
		}
		m.take(w.build(h, 1+w.r.IntN(3), w.r.IntN(300)))
	}
}

func (w *world) build(h batch.Header, records, size int) batch.Batch {
	var kvs []batch.KV
	for range records {
		v := make([]byte, size)
		for i := range v {
			v[i] = byte(w.r.Uint32())
		}
		kvs = append(kvs, batch.KV{Timestamp: 1000 + int64(w.r.IntN(100)), Key: fmt.Append(nil, "k", w.r.IntN(10)), Value: v})
	}
	return batch.Build(h, kvs...)
}

// read returns the batches that the catalog's extents hold from offset on. It
// demands that extents tile the offsets from the log start on without holes, and
// every CRC.
func (w *world) read(c *catalog.Catalog, p catalog.Partition, from, end int64) ([]batch.Batch, error) {
	g := &gets{w.blobs, nil, &JobStats{}}
	var got []batch.Batch
	next := from
	for _, x := range c.Extents(p) {
		if x.End <= from {
			continue
		}
		if x.Base > next {
			return nil, fmt.Errorf("a hole at %d: the next extent is %d-%d of %s", next, x.Base, x.End, x.Object.Name)
		}
		in, err := g.open(context.Background(), c.ClusterID(), catalog.Visible{Object: x.Object})
		if err != nil {
			return nil, err
		}
		for _, e := range in.index.Partition(p.Topic, p.Index) {
			if e.Last < x.Base || e.Base >= x.End {
				continue
			}
			b, err := g.block(context.Background(), in, e)
			if err != nil {
				return nil, err
			}
			for h := range batch.Split(b) {
				if h.LastOffset() >= max(x.Base, from) && h.BaseOffset() < x.End {
					if err := h.CheckCRC(); err != nil {
						return nil, err
					}
					got = append(got, h)
				}
			}
		}
		if _, err := g.tail(context.Background(), in, p, x.SpanBase); err != nil {
			return nil, err
		}
		next = x.End
	}
	if next < end {
		return nil, fmt.Errorf("extents end at %d, want %d", next, end)
	}
	return got, nil
}

// state reads what an open would: end, producers, aborted transactions.
func (w *world) state(c *catalog.Catalog, p catalog.Partition) (end int64, producers map[int64]batch.Producer, open []batch.OpenTxn, ended []batch.EndedTxn, err error) {
	g := &gets{w.blobs, nil, &JobStats{}}
	tail := func(x catalog.Extent) (*object.Tail, error) {
		in, err := g.open(context.Background(), c.ClusterID(), catalog.Visible{Object: x.Object})
		if err != nil {
			return nil, err
		}
		return g.tail(context.Background(), in, p, x.SpanBase)
	}
	all := c.Extents(p)
	producers = map[int64]batch.Producer{}
	for i, x := range catalog.Chain(all) {
		t, err := tail(x)
		if err != nil {
			return 0, nil, nil, nil, err
		}
		if i == 0 {
			end, open = t.End, t.Open
		}
		for _, k := range t.Producers {
			if _, ok := producers[k.ID]; !ok {
				producers[k.ID] = k
			}
		}
	}
	for _, x := range all {
		t, err := tail(x)
		if err != nil {
			return 0, nil, nil, nil, err
		}
		ended = append(ended, t.Ended...)
	}
	return end, producers, open, ended, nil
}

// check reads everything back and compares it with what was written. exact is
// false for compacted topics, where only the state is compared.
func (w *world) check() {
	w.t.Helper()
	// Another reader, who has seen nothing before.
	c, err := catalog.Open(context.Background(), w.meta, catalog.Config{Ranges: func(ctx context.Context, cluster string, o *catalog.Object) ([]catalog.Range, error) {
		in, err := (&gets{w.blobs, nil, &JobStats{}}).open(ctx, cluster, catalog.Visible{Object: o})
		if err != nil {
			return nil, err
		}
		return ranges(in.index), nil
	}})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, m := range w.parts {
		topic, ok := c.TopicByID(m.p.Topic)
		if !ok {
			continue
		}
		start := c.Record(m.p).LogStart
		for _, c := range []*catalog.Catalog{c, w.c} {
			got, err := w.read(c, m.p, start, m.next)
			if err != nil {
				w.t.Fatalf("%s: %v", m.p, err)
			}
			if !topic.Settings().Compact {
				m.compare(w.t, got, start)
			}
			if !m.written {
				continue
			}
			end, producers, open, ended, err := w.state(c, m.p)
			if err != nil {
				w.t.Fatalf("%s: %v", m.p, err)
			}
			if end != m.next {
				w.t.Fatalf("%s: the next offset is %d, want %d", m.p, end, m.next)
			}
			if diff := cmp.Diff(m.producers, producers); diff != "" {
				w.t.Fatalf("%s: producers: %s", m.p, diff)
			}
			if diff := cmp.Diff(m.txns.Open(), open, cmpopts.EquateEmpty()); diff != "" {
				w.t.Fatalf("%s: open transactions: %s", m.p, diff)
			}
			m.checkEnded(w.t, ended, got)
		}
	}
}

func (m *modelPart) compare(t testing.TB, got []batch.Batch, start int64) {
	t.Helper()
	var want []batch.Batch
	for _, b := range m.batches {
		if b.LastOffset() >= start {
			want = append(want, b)
		}
	}
	for len(got) > len(want) && got[0].LastOffset() < start {
		got = got[1:]
	}
	if len(got) != len(want) {
		t.Fatalf("%s: %d batches, want %d", m.p, len(got), len(want))
	}
	for i := range want {
		if !bytes.Equal(got[i], want[i]) {
			t.Fatalf("%s: batch %d at offset %d differs", m.p, i, want[i].BaseOffset())
		}
	}
}

// checkEnded demands that every aborted transaction with a batch that is still
// there is told, and that nothing is told wrongly.
func (m *modelPart) checkEnded(t testing.TB, ended []batch.EndedTxn, got []batch.Batch) {
	t.Helper()
	for _, e := range ended {
		if !slices.Contains(m.ended, e) {
			t.Fatalf("%s: transaction %+v was never", m.p, e)
		}
	}
	for _, want := range m.ended {
		left := slices.ContainsFunc(got, func(b batch.Batch) bool {
			return !want.Commit && b.IsTransactional() && !b.IsControl() && b.Count() > 0 &&
				b.ProducerID() == want.ProducerID && b.BaseOffset() >= want.First && b.BaseOffset() < want.Marker
		})
		if left && !slices.Contains(ended, want) {
			t.Fatalf("%s: the abort of %+v is forgotten but its records are there", m.p, want)
		}
	}
}

// data returns the data objects in the store.
func (w *world) data() []string {
	return slices.DeleteFunc(w.blobs.Keys(), func(k string) bool { return !strings.HasPrefix(k, "data/") })
}

// clean sweeps until nothing more happens and demands that exactly the visible
// objects are left.
func (w *world) clean() {
	w.t.Helper()
	w.now = time.Now().Add(time.Minute)
	for range 4 {
		time.Sleep(time.Microsecond) // the grace; in a bubble no time passes by itself
		if err := w.jobs.Sweep(context.Background()); err != nil {
			w.t.Fatal(err)
		}
	}
	var want []string
	for _, v := range w.c.Visible() {
		want = append(want, object.Key(w.c.ClusterID(), v.Object.Name))
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, w.data(), cmpopts.EquateEmpty()); diff != "" {
		w.t.Fatalf("objects left and visible: %s", diff)
	}
}

// failAt makes the k-th remote call from now on fail, before or after its effect,
// and all calls after it: the process is dead. k counts from 1.
func (w *world) failAt(k int, after bool) (reached func() bool) {
	n := 0
	dead := errors.New("dead")
	w.blobs.SetFault(func(blobmem.Call) (f blobmem.Fault) {
		n++
		switch {
		case n == k && after:
			f.After = fmt.Errorf("%w: %w", blob.ErrBadKey, dead)
		case n >= k:
			f.Before = fmt.Errorf("%w: %w", blob.ErrBadKey, dead)
		}
		return f
	})
	w.meta.SetFault(func(metamem.Call) (f metamem.Fault) {
		n++
		switch {
		case n == k && after:
			f.After = fmt.Errorf("%w: %w", meta.ErrClosed, dead)
		case n >= k:
			f.Before = fmt.Errorf("%w: %w", meta.ErrClosed, dead)
		}
		return f
	})
	return func() bool { return n >= k }
}

func (w *world) heal() {
	w.blobs.SetFault(nil)
	w.meta.SetFault(nil)
}
