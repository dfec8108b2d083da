package catalog

import (
	"bytes"
	"context"
	"fmt"

	"github.com/looptape/looptape/internal/base/meta"
)

// MaxSingles bounds the single-partition objects of one commit, so that a
// commit stays small whatever the partitions (P7).
const MaxSingles = 8

// NewObject is an object to make visible. A Single one holds one partition, its
// only range; the others are sets.
type NewObject struct {
	Object *Object
	Ranges []Range
	Single bool
}

// Commit says: the log of Epoch is in objects up to and including LSN.
type Commit struct {
	Epoch   int64 // of the log: the writer's own or an adopted one
	Of      LogID // instead of Epoch: another broker's log that this writer recovers
	LSN     int64
	Slot    int64 // wal.Log.Place(LSN)
	Done    bool  // the epoch's log ends at LSN; only for an adopted epoch
	Objects []NewObject
	// Grace is how long an object lives that turns out not to be needed (its
	// topic was deleted meanwhile), in milliseconds.
	Grace int64
}

// Commit makes objects visible and moves the log's committed LSN, both or
// neither. When it returns nil, both are durable, the index shows the objects,
// and the log may be trimmed up to LSN. A retried commit is idempotent.
// ErrFenced: this epoch may no longer commit, the process must end.
func (w *Writer) Commit(ctx context.Context, m Commit) error {
	if m.Of == (LogID{}) {
		m.Of = LogID{w.broker, m.Epoch}
	}
	w.mu.Lock()
	state, ok := w.logs[m.Of]
	w.mu.Unlock()
	if !ok {
		return fmt.Errorf("commit: epoch %s is none of this writer's", m.Of)
	}
	if m.LSN < state.committed {
		return fmt.Errorf("commit: LSN %d of epoch %s is below the committed %d", m.LSN, m.Of, state.committed)
	}
	c := w.c
	defer c.announce(m.Objects)()
	dropped := map[string]bool{} // objects whose topic is gone
	for {
		rev, gone, err := w.commit(ctx, m, state, dropped)
		if err != nil {
			return fmt.Errorf("commit LSN %d of epoch %s: %w", m.LSN, m.Of, err)
		}
		if len(gone) > 0 {
			for _, name := range gone {
				dropped[name] = true
			}
			continue
		}
		w.mu.Lock()
		state.walRev, state.committed, state.slot = rev, m.LSN, max(state.slot, m.Slot)
		if m.Done {
			delete(w.logs, m.Of)
		}
		w.mu.Unlock()
		// True now: the objects are the truth for their ranges, here and in the store.
		if err := c.wait(ctx, rev); err != nil {
			return fmt.Errorf("commit LSN %d of epoch %s: %w", m.LSN, m.Of, err)
		}
		return nil
	}
}

// commit runs one transaction. It returns the revision at which it is applied,
// or the objects that have to be left out since their topic is gone.
func (w *Writer) commit(ctx context.Context, m Commit, state *logState, dropped map[string]bool) (rev int64, gone []string, err error) {
	wkey := walKey(m.Of.Broker, m.Of.Epoch)
	record := encodeWAL(walRecord{Kind: state.kind, URI: state.uri, Committed: m.LSN, Slot: max(state.slot, m.Slot), Done: m.Done})
	t := meta.Txn{
		If:      []meta.Cmp{w.active(), meta.ModRevIs(wkey, state.walRev)},
		Then:    []meta.Op{meta.Put(wkey, record)},
		ElseGet: []string{w.fenceKey(), wkey},
	}
	if m.Of != w.ID() {
		fkey := fenceKey(m.Of.Broker, m.Of.Epoch)
		t.If = append(t.If, meta.ModRevIs(fkey, state.fenceRev))
		if m.Done {
			t.Then = append(t.Then, meta.Put(fkey, encodeFence(fence{State: fenceDone, By: w.broker, ByEpoch: w.epoch, FinalLSN: m.LSN})))
		}
	}
	topics := map[string][]string{} // topic key -> singles of it
	for _, o := range m.Objects {
		name := o.Object.Name
		op, err := visibleOp(o)
		if err != nil {
			return 0, nil, err
		}
		t.If = append(t.If, meta.Absent(sweptKey(name)))
		switch {
		case dropped[name]:
			t.Then = append(t.Then, meta.Put(gcKey(w.c.cfg.Now().UnixMilli()+m.Grace, name), encodeInt(0)))
		case o.Single:
			key := topicKey(o.Ranges[0].Partition.Topic)
			if topics[key] == nil {
				t.If = append(t.If, meta.Exists(key))
				t.ElseGet = append(t.ElseGet, key)
			}
			topics[key] = append(topics[key], name)
			t.Then = append(t.Then, op)
		default:
			t.Then = append(t.Then, op)
		}
	}
	res, err := w.c.txn(ctx, t)
	if err != nil {
		return 0, nil, err
	}
	if res.OK {
		return res.Rev, nil, nil
	}
	found := map[string]meta.KV{}
	for _, kv := range res.Else {
		found[kv.Key] = kv
	}
	if kv := found[wkey]; kv.ModRev > state.walRev && bytes.Equal(kv.Value, record) {
		return kv.ModRev, nil, nil // an earlier attempt of this very commit
	}
	if w.fenced(res.Else) {
		return 0, nil, ErrFenced
	}
	for key, names := range topics {
		if _, ok := found[key]; !ok {
			gone = append(gone, names...)
		}
	}
	if len(gone) == 0 {
		return 0, nil, fmt.Errorf("%w: the guard fails though the fence is active and no topic is gone; log record at revision %d, expected %d",
			ErrFenced, found[wkey].ModRev, state.walRev)
	}
	return 0, gone, nil
}
