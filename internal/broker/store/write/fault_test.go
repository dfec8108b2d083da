package write

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/blob/blobmem"
	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/meta/metamem"
	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/store/object"
)

// rotten is a store of which one object has a wrong bit.
type rotten struct {
	blob.Store
	key string
	at  int64
}

func (r rotten) GetRange(ctx context.Context, key string, off int64, dst []byte) (int, error) {
	n, err := r.Store.GetRange(ctx, key, off, dst)
	if err == nil && key == r.key && off <= r.at && r.at < off+int64(len(dst)) {
		dst[r.at-off] ^= 1
	}
	return n, err
}

// A wrong bit is never copied: the job fails and its inputs stay; other jobs go on.
func TestWrongBitIsNotCopied(t *testing.T) {
	for _, policy := range []string{"delete", "compact"} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 1)
			w.topic("a", 1, map[string]string{"cleanup.policy": policy, "min.cleanable.dirty.ratio": "0", "retention.ms": "-1"})
			for range 3 {
				w.flush(func(m *modelPart) {
					m.take(batch.Build(batch.Plain, batch.KV{Key: []byte("k"), Value: make([]byte, 300)}))
				})
			}
			bad := w.c.Visible()[1].Object
			w.jobs.base.Store = rotten{w.blobs, object.Key(w.c.ClusterID(), bad.Name), object.HeaderSize + 100}
			before := len(w.data())
			if err := errors.Join(w.jobs.Merge(context.Background()), w.jobs.Compact(context.Background())); !errors.Is(err, object.ErrCorrupt) {
				t.Fatal(err)
			}
			if _, ok := w.c.Lookup(bad.Name); !ok {
				t.Error("the object is out of sight")
			}
			w.check()
			w.clean()
			if n := len(w.data()); n != before {
				t.Errorf("%d objects, %d before", n, before)
			}
			if w.jobs.Merger().Stats().Failures+w.jobs.Compactor().Stats().Failures == 0 {
				t.Error("no failure is counted")
			}
			w.stop()
		})
	}
}

// A store and a catalog that fail now and then, before or after the effect, cost
// time only.
func TestUnreliableStores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 9)
		w.cfg.Compact = CompactConfig{PieceBytes: 2000, GroupBytes: 4000, BlockBytes: 500}
		w.start()
		w.topic("keyed", 2, map[string]string{"cleanup.policy": "compact,delete", "min.cleanable.dirty.ratio": "0", "retention.ms": "-1"})
		w.topic("plain", 1, map[string]string{"retention.ms": "-1"})
		for range 25 {
			w.flush(w.lively)
			n := 0
			w.blobs.SetFault(func(c blobmem.Call) (f blobmem.Fault) {
				switch n++; {
				case n%7 == 0:
					f.Before = blob.ErrUnknown
				case n%11 == 0 && c.Method == "Put":
					f.After = blob.ErrUnknown
				}
				return f
			})
			w.meta.SetFault(func(c metamem.Call) (f metamem.Fault) {
				if n++; c.Method == "Txn" && n%3 == 0 {
					f.After = meta.ErrUnknown
				} else if c.Method == "Txn" && n%5 == 0 {
					f.Before = meta.ErrUnknown
				}
				return f
			})
			for _, round := range []func(context.Context) error{w.jobs.Merge, w.jobs.Compact} {
				if err := round(context.Background()); err != nil && !errors.Is(err, blob.ErrUnknown) {
					t.Fatal(err)
				}
			}
			w.heal()
			w.check()
			w.checkCompacted(w.parts[0])
		}
		w.rounds(w.jobs.Merge, w.jobs.Compact)
		w.clean()
		w.check()
		w.stop()
	})
}

// A sweep that dies at any call is taken up by the next life, and nothing that is
// visible is ever deleted.
func TestSweepDiesAtEveryCall(t *testing.T) {
	for _, after := range []bool{false, true} {
		for k := 1; ; k++ {
			w := newWorld(t, 6)
			w.topic("gone", 1, nil)
			w.topic("kept", 1, map[string]string{"retention.ms": "-1", "retention.bytes": "600"})
			for i := range 3 {
				w.flush(func(m *modelPart) { m.take(w.build(batch.Plain, 1, 300)) }, i%2)
			}
			// An orphan, too.
			id := object.Identity{Cluster: w.c.ClusterID(), Epoch: w.w.Epoch(), Kind: object.Merge, Seq: 77}
			if err := w.blobs.Put(context.Background(), object.Key(w.c.ClusterID(), id.Name()), strings.NewReader("torn"), 4); err != nil {
				t.Fatal(err)
			}
			if err := w.c.DeleteTopic(context.Background(), "gone"); err != nil {
				t.Fatal(err)
			}
			w.now = w.now.Add(1e9)
			reached := w.failAt(k, after)
			err := errors.Join(w.jobs.Sweep(context.Background()), w.jobs.Sweep(context.Background()))
			w.heal()
			if !reached() {
				if err != nil || k < 15 {
					t.Fatal(k, err)
				}
				w.stop()
				break
			}
			w.start()
			w.check()
			w.clean()
			w.check()
			w.stop()
		}
	}
}

var _ io.ReaderAt = (*joinedReader)(nil)
