package inspect

import (
	"bytes"
	"context"
	"fmt"
	"io"
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
	"github.com/looptape/looptape/internal/broker/store/read"
)

// world is a small store: a topic of two partitions in two objects, and one object
// of every other class.
type world struct {
	*testing.T
	blobs   *blobmem.Store
	meta    meta.Store
	catalog *catalog.Catalog
	writer  *catalog.Writer
	topic   catalog.Topic
	seq     int64
}

func newWorld(t *testing.T) *world {
	w := &world{T: t, blobs: blobmem.New(), meta: metamem.New()}
	ctx := t.Context()
	var err error
	w.catalog, err = catalog.Open(ctx, w.meta, catalog.Config{Ranges: func(ctx context.Context, cluster string, o *catalog.Object) ([]catalog.Range, error) {
		x, err := read.LoadIndex(ctx, w.blobs, cluster, o)
		if err != nil {
			return nil, err
		}
		return read.Ranges(x), nil
	}})
	w.check(err)
	w.writer, _, err = w.catalog.Register(ctx, catalog.Registration{Broker: 1, Kind: catalog.FileLog, URI: "wal"})
	w.check(err)
	w.topic, err = w.catalog.CreateTopic(ctx, catalog.Topic{Name: "orders", Partitions: 2})
	w.check(err)
	w.put("cluster", []byte(w.catalog.ClusterID()))
	w.put(fmt.Sprintf("epochs/%s/1/%020d", w.catalog.ClusterID(), 1), make([]byte, 16))
	return w
}

func (w *world) check(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) put(key string, b []byte) {
	w.Helper()
	w.check(w.blobs.Put(w.Context(), key, bytes.NewReader(b), int64(len(b))))
}

// piece is what one partition has in an object: batches of two records each.
func (w *world) piece(index int32, base, end int64) object.Part {
	p := object.Part{Topic: w.topic.ID, Partition: index, Tail: object.Tail{TopicName: w.topic.Name, Base: base, End: end, LastStable: end}}
	for o := base; o < end; o += 2 {
		b := batch.Build(batch.Header{BaseOffset: o, ProducerID: -1}, batch.KV{Value: fmt.Appendf(nil, "record %d", o)}, batch.KV{Value: []byte("and the next")})
		p.Units = append(p.Units, object.Unit{Base: o, Last: o + 1, MaxTimestamp: 7, Batches: 1, Bytes: b})
	}
	return p
}

// object puts an object without telling the catalog, and returns what to tell it.
func (w *world) object(parts ...object.Part) catalog.NewObject {
	w.Helper()
	w.seq++
	p, err := object.Pack(object.Footer{
		Identity: object.Identity{Cluster: w.catalog.ClusterID(), Broker: 1, Epoch: 1, Kind: object.Flush, Seq: w.seq}, WALEpoch: 1,
	}, 1, parts)
	w.check(err)
	b, err := io.ReadAll(io.NewSectionReader(p, 0, p.Size()))
	w.check(err)
	f := p.Footer
	w.put(object.Key(w.catalog.ClusterID(), f.Identity.Name()), b)
	return catalog.NewObject{
		Object: &catalog.Object{Name: f.Identity.Name(), Size: p.Size(), Partitions: int32(len(parts)), IndexPos: f.IndexPos, IndexLen: f.IndexLen, IndexCRC: f.IndexCRC, Blocks: f.Blocks},
		Ranges: read.Ranges(&p.Index), Single: len(parts) == 1,
	}
}

func (w *world) commit(objects ...catalog.NewObject) {
	w.Helper()
	w.check(w.writer.Commit(w.Context(), catalog.Commit{Epoch: 1, LSN: w.writer.Committed(1) + 1, Objects: objects}))
}

// fill puts two objects, one of both partitions and one of the first alone.
func (w *world) fill() (both, single catalog.NewObject) {
	both = w.object(w.piece(0, 0, 6), w.piece(1, 0, 4))
	single = w.object(w.piece(0, 6, 10))
	w.commit(both, single)
	return both, single
}

func (w *world) source() *Source {
	w.Helper()
	s, err := Open(w.Context(), w.blobs, FromMetadata, func(ctx context.Context) ([]catalog.Entry, error) { return Scan(ctx, w.meta) })
	w.check(err)
	return s
}

func (w *world) verify(s *Source) *Report {
	w.Helper()
	r, err := s.Verify(w.Context(), VerifyConfig{Parallel: 2, Window: 100})
	w.check(err)
	return r
}

// replace puts other bytes in an object's place.
func (w *world) replace(key string, b []byte) {
	w.Helper()
	w.check(w.blobs.Delete(w.Context(), key))
	w.put(key, b)
}

func (w *world) bytes(key string) []byte {
	w.Helper()
	b, err := small(w.Context(), w.blobs, key, 1<<20)
	w.check(err)
	return b
}

func TestVerify(t *testing.T) {
	w := newWorld(t)
	w.fill()
	snapshot, err := w.catalog.Snapshot(t.Context())
	w.check(err)
	b, err := snapshot.Encode()
	w.check(err)
	w.put(fmt.Sprintf("meta/%s/%020d", w.catalog.ClusterID(), snapshot.Number), b)
	want := &Report{
		Cluster: w.catalog.ClusterID(), From: FromMetadata,
		Objects: 2, Blocks: 7, Batches: 7, Records: 14, Snapshots: 1, Partitions: 2, Damages: []Damage{},
	}
	var last, total int64
	got, err := w.source().Verify(t.Context(), VerifyConfig{Progress: func(done, all int64) { last, total = done, all }})
	w.check(err)
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(Report{}, "Bytes")); diff != "" {
		t.Error(diff)
	}
	if total == 0 || last != total || got.Bytes == 0 || got.Bytes >= total {
		t.Errorf("progress ended at %d of %d, objects have %d", last, total, got.Bytes)
	}
	// Without a catalog the objects say the same.
	s, err := OpenObjects(t.Context(), w.blobs)
	w.check(err)
	want.From = FromObjects
	if diff := cmp.Diff(want, w.verify(s), cmpopts.IgnoreFields(Report{}, "Bytes")); diff != "" {
		t.Error(diff)
	}
}

// Every bit of an object and every length it may be cut to is noticed, and the
// place that is named is in the piece that was hit, or where its checksum is.
func TestVerifyEveryByte(t *testing.T) {
	w := newWorld(t)
	both, _ := w.fill()
	key := object.Key(w.catalog.ClusterID(), both.Object.Name)
	good := w.bytes(key)
	sources := map[string]*Source{"catalog": w.source()}
	var err error
	sources["objects"], err = OpenObjects(t.Context(), w.blobs)
	w.check(err)
	find := func(s *Source) *Damage {
		for _, d := range w.verify(s).Damages {
			if d.Key == key {
				return &d
			}
		}
		return nil
	}
	for name, s := range sources {
		for i := range good {
			b := bytes.Clone(good)
			b[i] ^= 1 << (i % 8)
			w.replace(key, b)
			if d := find(s); d == nil || d.Offset > int64(i) && d.Offset < int64(len(good))-object.TrailerSize {
				t.Fatalf("%s: byte %d of %d flipped: %v", name, i, len(good), d)
			}
		}
		for n := range good {
			w.replace(key, good[:n])
			if find(s) == nil {
				t.Fatalf("%s: cut to %d bytes: nothing", name, n)
			}
		}
		w.replace(key, good)
		if d := find(s); d != nil {
			t.Fatalf("%s: restored: %v", name, d)
		}
	}
}

func TestVerifyDamages(t *testing.T) {
	for name, c := range map[string]struct {
		hurt func(w *world, both, single catalog.NewObject)
		want []string // parts of the damages, in order
	}{
		"missing object": {func(w *world, both, single catalog.NewObject) {
			w.check(w.blobs.Delete(w.Context(), object.Key(w.catalog.ClusterID(), single.Object.Name)))
		}, []string{"does not have it"}},
		"another object in its place": {func(w *world, both, single catalog.NewObject) {
			b := w.bytes(object.Key(w.catalog.ClusterID(), both.Object.Name))
			w.replace(object.Key(w.catalog.ClusterID(), single.Object.Name), b)
		}, []string{"the catalog says"}},
		"hole": {func(w *world, both, single catalog.NewObject) {
			w.commit(w.object(w.piece(0, 14, 16)))
		}, []string{"orders/0, offset 10: offsets 10 to 13 are in no object"}},
		"damaged index": {func(w *world, both, single catalog.NewObject) {
			key := object.Key(w.catalog.ClusterID(), both.Object.Name)
			b := w.bytes(key)
			b[both.Object.IndexPos] ^= 1
			w.replace(key, b)
		}, []string{"index: crc", "orders/0, offset 0: offsets 0 to 5"}},
		"batch with a wrong checksum in a block with a right one": {func(w *world, both, single catalog.NewObject) {
			p := w.piece(1, 4, 6)
			p.Units[0].Bytes[40] ^= 1
			w.commit(w.object(p))
		}, []string{"CRC"}},
		"offsets outside of the block": {func(w *world, both, single catalog.NewObject) {
			p := w.piece(1, 4, 8)
			p.Units[1].Bytes = w.piece(1, 10, 12).Units[0].Bytes
			w.commit(w.object(p))
		}, []string{"offsets 10 to 11"}},
		"slot of the log": {func(w *world, both, single catalog.NewObject) {
			w.put("wal/"+w.catalog.ClusterID()+"/1/1/00000000000000000001", []byte("LTWS and no slot"))
		}, []string{"00000000000000000001, byte 0: bytes of the header"}},
		"snapshot": {func(w *world, both, single catalog.NewObject) {
			w.put("meta/"+w.catalog.ClusterID()+"/1", []byte("LTMS and what is no snapshot, long enough to be looked at: 0123456789012345678901234567890123456789"))
		}, []string{"snapshot"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			both, single := w.fill()
			c.hurt(w, both, single)
			got := w.verify(w.source()).Damages
			if len(got) != len(c.want) {
				t.Fatalf("got %v", got)
			}
			for i, d := range got {
				if !strings.Contains(d.String(), c.want[i]) {
					t.Errorf("%s, want %q", d, c.want[i])
				}
			}
		})
	}
}

// An object that is replaced and deleted while we read is no damage.
func TestVerifyWhileObjectsGo(t *testing.T) {
	w := newWorld(t)
	_, single := w.fill()
	s := w.source()
	w.check(w.writer.Retire(t.Context(), []catalog.Visible{func() catalog.Visible { v, _ := w.catalog.Lookup(single.Object.Name); return v }()}, 1))
	w.check(w.blobs.Delete(t.Context(), object.Key(w.catalog.ClusterID(), single.Object.Name)))
	if r := w.verify(s); len(r.Damages) != 0 || r.Gone != 1 || r.Objects != 1 {
		t.Errorf("%+v", r)
	}
}

func TestVerifyStoreFails(t *testing.T) {
	w := newWorld(t)
	w.fill()
	s := w.source()
	w.blobs.SetFault(func(c blobmem.Call) blobmem.Fault {
		if c.Method == "GetRange" {
			return blobmem.Fault{Before: blob.ErrUnknown}
		}
		return blobmem.Fault{}
	})
	if r, err := s.Verify(t.Context(), VerifyConfig{}); err == nil {
		t.Errorf("a store that can't be read is said to be whole: %+v", r)
	}
}

func TestStatsAndObjects(t *testing.T) {
	w := newWorld(t)
	cluster := w.catalog.ClusterID()
	w.fill()
	gone := w.object(w.piece(1, 4, 6))
	w.commit(gone)
	v, _ := w.catalog.Lookup(gone.Object.Name)
	w.check(w.writer.Retire(t.Context(), []catalog.Visible{v}, 1))
	w.object(w.piece(1, 4, 8)) // an orphan
	w.put("wal/"+cluster+"/1/00000000000000000001/00000000000000000001", make([]byte, sealBytes+1))
	w.put("wal/"+cluster+"/1/00000000000000000001/00000000000000000002", make([]byte, sealBytes))
	w.put("tomb/"+cluster+"/"+strings.Repeat("0", 32), []byte("dead"))
	w.put("data/another-cluster/1-0000000001-f0000000001", []byte("?"))
	s := w.source()
	now := time.Now()
	count := func(now time.Time) map[Class]int64 {
		st, err := s.Stats(t.Context(), now, S3Prices, nil)
		w.check(err)
		got := map[Class]int64{}
		for _, c := range st.Classes {
			got[c.Class] = c.Objects
		}
		return got
	}
	want := map[Class]int64{Data: 2, Garbage: 1, Young: 1, Log: 1, Seal: 1, Tomb: 1, Mark: 2, Other: 1}
	if diff := cmp.Diff(want, count(now)); diff != "" {
		t.Error(diff)
	}
	delete(want, Young)
	want[Orphan] = 1
	if diff := cmp.Diff(want, count(now.Add(time.Hour))); diff != "" {
		t.Error(diff)
	}
	live := &Live{Since: now.Add(-time.Hour), Calls: blob.Counts{Puts: 1000, Gets: 10_000}}
	st, err := s.Stats(t.Context(), now, S3Prices, live)
	w.check(err)
	if st.Topics != 1 || st.Partitions != 2 || st.Total.Objects != 10 || len(st.Logs) != 1 || st.Logs[0].State != "active" || st.Logs[0].Committed != 2 {
		t.Errorf("%+v", st)
	}
	if want := 720 * (0.005 + 0.004); st.USDMonth < want-1e-9 || st.USDMonth > want+1e-9 {
		t.Errorf("%v dollars a month, want %v", st.USDMonth, want)
	}
	var names []string
	w.check(s.Objects(t.Context(), now, Data, func(i Item) error {
		names = append(names, fmt.Sprint(strings.TrimPrefix(i.Key, "data/"+cluster+"/"), " ", i.Partitions, " ", i.Offsets))
		return nil
	}))
	if diff := cmp.Diff([]string{"1-0000000001-f0000000001 2 10", "1-0000000001-f0000000002 1 4"}, names); diff != "" {
		t.Error(diff)
	}
	if err := s.Objects(t.Context(), now, "nonsense", func(Item) error { return nil }); err == nil {
		t.Error("a class that is none")
	}
}

// What a server shows of its catalog is enough, and holds nothing else.
func TestShown(t *testing.T) {
	w := newWorld(t)
	w.fill()
	_, err := w.meta.Txn(t.Context(), meta.Txn{Then: []meta.Op{meta.Put("/v1/scram/alice", []byte("secret")), meta.Put("/v1/pids/next", []byte("x"))}})
	w.check(err)
	snapshot, err := w.catalog.Snapshot(t.Context())
	w.check(err)
	snapshot = Shown(snapshot)
	if slices.ContainsFunc(snapshot.Entries, func(e catalog.Entry) bool { return strings.Contains(e.Key, "scram") }) {
		t.Error("a secret is shown")
	}
	s, err := Open(t.Context(), w.blobs, FromServer, func(context.Context) ([]catalog.Entry, error) { return snapshot.Entries, nil })
	w.check(err)
	if r := w.verify(s); len(r.Damages) != 0 || r.Objects != 2 || r.Partitions != 2 {
		t.Errorf("%+v", r)
	}
}
