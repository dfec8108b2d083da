package catalog

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/looptape/looptape/internal/base/meta"
)

// Writer is one epoch of one broker: the right to commit until it is fenced.
// Commits come from one goroutine at a time, the other methods from any.
type Writer struct {
	c        *Catalog
	broker   int32
	epoch    int64
	fenceRev int64

	mu     sync.Mutex
	epochs map[int64]*epochState // own and adopted
}

// epochState is what a commit compares for the log of one epoch.
type epochState struct {
	fenceRev  int64
	walRev    int64
	uri       string
	committed int64
}

// Adopted is an earlier epoch of the same broker whose log may still hold
// records above Committed.
type Adopted struct {
	Epoch     int64
	Committed int64 // LSN
}

// Register takes the broker's next epoch: it seals the earlier ones that are
// not done, so that nothing they still try can be committed, and creates its own
// fence and log record. The caller must hold the lock of the broker's data
// directory. ErrFenced when another broker recovers this one's log.
func (c *Catalog) Register(ctx context.Context, broker int32, uri string) (*Writer, []Adopted, error) {
	w := &Writer{c: c, broker: broker, epochs: map[int64]*epochState{}}
	for {
		adopted, ok, err := w.register(ctx, uri)
		if err != nil {
			return nil, nil, fmt.Errorf("register broker %d: %w", broker, err)
		}
		if ok {
			c.mu.Lock()
			c.leader = part{Leader: broker, BrokerEpoch: w.epoch}
			c.mu.Unlock()
			return w, adopted, nil
		}
	}
}

func (w *Writer) register(ctx context.Context, uri string) (adopted []Adopted, ok bool, err error) {
	type old struct {
		epoch  int64
		fence  fence
		modRev int64
	}
	var olds []old
	var newest int64
	prefix := fmt.Sprintf("%s%d/", prefixFence, w.broker)
	if _, err := w.c.store.Scan(ctx, prefix, func(kv meta.KV) error {
		_, rest, _ := strings.Cut(kv.Key[len(prefixFence):], "/")
		epoch, _, ok := parseNumbered(rest + "/")
		if !ok {
			return fmt.Errorf("%w: key %q", ErrCorrupt, kv.Key)
		}
		f, err := decodeFence(kv.Value)
		if err != nil {
			return fmt.Errorf("%s: %w", kv.Key, err)
		}
		newest = max(newest, epoch)
		if f.State != fenceDone {
			olds = append(olds, old{epoch, f, kv.ModRev})
		}
		return nil
	}); err != nil {
		return nil, false, fmt.Errorf("read fences: %w", err)
	}
	w.epoch = newest + 1
	sealed := encodeFence(fence{State: fenceSealed, By: w.broker, ByEpoch: w.epoch})
	for _, o := range olds {
		if o.fence.State == fenceSealed && o.fence.By != w.broker {
			return nil, false, fmt.Errorf("%w: epoch %d is being recovered by broker %d", ErrFenced, o.epoch, o.fence.By)
		}
		key := fenceKey(w.broker, o.epoch)
		res, err := w.c.txn(ctx, meta.Txn{
			If: []meta.Cmp{meta.ModRevIs(key, o.modRev)}, Then: []meta.Op{meta.Put(key, sealed)}, ElseGet: []string{key},
		})
		if err != nil {
			return nil, false, fmt.Errorf("seal epoch %d: %w", o.epoch, err)
		}
		rev, mine := outcome(res, key, sealed)
		if !mine {
			return nil, false, nil // changed under us: look again
		}
		found, _, err := w.c.store.Get(ctx, walKey(w.broker, o.epoch))
		if err != nil {
			return nil, false, fmt.Errorf("read log record of epoch %d: %w", o.epoch, err)
		}
		kv := found[walKey(w.broker, o.epoch)]
		rec, err := decodeWAL(kv.Value)
		if err != nil {
			return nil, false, fmt.Errorf("log record of epoch %d: %w", o.epoch, err)
		}
		w.epochs[o.epoch] = &epochState{fenceRev: rev, walRev: kv.ModRev, uri: rec.URI, committed: rec.Committed}
		adopted = append(adopted, Adopted{o.epoch, rec.Committed})
	}
	fkey, wkey := fenceKey(w.broker, w.epoch), walKey(w.broker, w.epoch)
	active := encodeFence(fence{State: fenceActive, By: w.broker, ByEpoch: w.epoch})
	res, err := w.c.txn(ctx, meta.Txn{
		If:      []meta.Cmp{meta.Absent(fkey)},
		Then:    []meta.Op{meta.Put(fkey, active), meta.Put(wkey, encodeWAL(walRecord{Kind: walFile, URI: uri}))},
		ElseGet: []string{fkey},
	})
	if err != nil {
		return nil, false, fmt.Errorf("create epoch %d: %w", w.epoch, err)
	}
	rev, mine := outcome(res, fkey, active)
	if !mine {
		return nil, false, nil
	}
	w.fenceRev = rev
	w.epochs[w.epoch] = &epochState{fenceRev: rev, walRev: rev, uri: uri}
	return adopted, true, nil
}

// outcome says whether the key now has the value that a transaction wanted to
// put, by this attempt or an earlier identical one, and since which revision.
func outcome(res meta.TxnResult, key string, value []byte) (rev int64, mine bool) {
	if res.OK {
		return res.Rev, true
	}
	for _, kv := range res.Else {
		if kv.Key == key && bytes.Equal(kv.Value, value) {
			return kv.ModRev, true
		}
	}
	return 0, false
}

// Epoch is this writer's epoch, 1 or above.
func (w *Writer) Epoch() int64 { return w.epoch }

// Broker is the broker's id.
func (w *Writer) Broker() int32 { return w.broker }

func (w *Writer) fenceKey() string { return fenceKey(w.broker, w.epoch) }

// active is the comparison every transaction of a writer starts with.
func (w *Writer) active() meta.Cmp { return meta.ModRevIs(w.fenceKey(), w.fenceRev) }

// fenced says whether the fence among kvs is no longer the one this writer made.
func (w *Writer) fenced(kvs []meta.KV) bool {
	for _, kv := range kvs {
		if kv.Key == w.fenceKey() {
			return kv.ModRev != w.fenceRev
		}
	}
	return true
}

// Committed is the last committed LSN of an epoch's log.
func (w *Writer) Committed(epoch int64) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s, ok := w.epochs[epoch]; ok {
		return s.committed
	}
	return 0
}

// Adopts says whether the epoch is an earlier one that is not done.
func (w *Writer) Adopts(epoch int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.epochs[epoch]
	return ok && epoch != w.epoch
}

// Finish marks an adopted epoch as done whose log holds nothing above its
// committed LSN.
func (w *Writer) Finish(ctx context.Context, epoch int64) error {
	return w.Commit(ctx, Commit{Epoch: epoch, LSN: w.Committed(epoch), Done: true})
}
