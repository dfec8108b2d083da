package catalog

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/meta/metamem"
)

// noisy is a store that others use, too: between any two calls its revision rises
// by more than one.
type noisy struct {
	meta.Store
	scans atomic.Int64
}

func (n *noisy) noise(ctx context.Context) error {
	for range 3 {
		if _, err := n.Store.Txn(ctx, meta.Txn{Then: []meta.Op{meta.Put("/others/key", nil)}}); err != nil {
			return err
		}
	}
	return nil
}

func (n *noisy) Txn(ctx context.Context, t meta.Txn) (meta.TxnResult, error) {
	if err := n.noise(ctx); err != nil {
		return meta.TxnResult{}, err
	}
	r, err := n.Store.Txn(ctx, t)
	if err == nil {
		err = n.noise(ctx)
	}
	if err == nil && !r.OK {
		// A refusal is answered at a revision that the watch gets nothing for.
		_, r.Rev, err = n.Store.Get(ctx)
	}
	return r, err
}

func (n *noisy) Scan(ctx context.Context, prefix string, fn func(meta.KV) error) (int64, error) {
	if prefix == root {
		n.scans.Add(1)
	}
	return n.Store.Scan(ctx, prefix, fn)
}

// Everything works where revisions rise by what others do, and without reading
// the whole store each time.
func TestSharedStore(t *testing.T) {
	store := &noisy{Store: metamem.New()}
	if life(t, store); store.scans.Load() != 4 {
		t.Errorf("%d full reads, want one for each Open and Register", store.scans.Load())
	}
}

// followed is open, once the catalog follows its watch.
func followed(t *testing.T, store meta.Store) *Catalog {
	t.Helper()
	c := open(t, store)
	for running := false; !running; runtime.Gosched() {
		c.mu.RLock()
		running = c.running
		c.mu.RUnlock()
	}
	return c
}

// life goes once through what a broker does with a catalog, and a second time as
// its successor.
func life(t *testing.T, store meta.Store) {
	t.Helper()
	ctx := t.Context()
	check := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	c := followed(t, store)
	w, _, err := c.Register(ctx, Registration{Broker: 1, Kind: FileLog, URI: "u"})
	check("register", err)
	topic, err := c.CreateTopic(ctx, Topic{Name: "a", Partitions: 300})
	check("create", err)
	if _, err := c.CreateTopic(ctx, Topic{Name: "a", Partitions: 1}); err == nil {
		t.Error("a name twice")
	}
	p := Partition{topic.ID, 7}
	for i := int64(1); i <= 3; i++ {
		check("commit", w.Commit(ctx, Commit{Epoch: 1, LSN: i, Objects: []NewObject{
			object("o"+string(rune('0'+i)), true, Range{Partition: p, Base: 10 * i, End: 10*i + 10}),
		}}))
		if x, ok := c.Find(p, 10*i); !ok || x.Base != 10*i {
			t.Errorf("a commit is not in the index: %+v", x)
		}
	}
	start, err := w.SetLogStart(ctx, p, 20)
	if check("log start", err); start != 20 || c.Record(p).LogStart != 20 {
		t.Errorf("log start %d", start)
	}
	next := followed(t, store)
	w2, adopted, err := next.Register(ctx, Registration{Broker: 1, Kind: FileLog, URI: "u"})
	if check("register again", err); len(adopted) != 1 || adopted[0].Committed != 3 {
		t.Errorf("adopted %+v", adopted)
	}
	check("finish", w2.Finish(ctx, 1))
	if err := w.Commit(ctx, Commit{Epoch: 1, LSN: 9}); err == nil {
		t.Error("a fenced writer committed")
	}
	check("delete", next.DeleteTopic(ctx, "a"))
	check("refusal", c.wait(ctx, next.Revision()))
	if _, ok := c.Topic("a"); ok {
		t.Error("a deleted topic is there")
	}
}
