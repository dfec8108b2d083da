package catalog

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/looptape/looptape/internal/base/meta"
)

// Recover takes hold of the logs of another broker that are sealed by this
// writer and not done, oldest first: from here on Commit can move what they hold
// into objects. It may be called again, by this writer or, after a crash, by
// whoever the fences were sealed by then.
func (w *Writer) Recover(ctx context.Context, broker int32) ([]Adopted, error) {
	var logs []Adopted
	sealed := map[LogID]*logState{}
	prefix := fmt.Sprintf("%s%d/", prefixFence, broker)
	_, err := w.c.store.Scan(ctx, prefix, func(kv meta.KV) error {
		log, ok := parseLog(kv.Key[len(prefixFence):])
		if !ok {
			return fmt.Errorf("%w: key %q", ErrCorrupt, kv.Key)
		}
		f, err := decodeFence(kv.Value)
		if err != nil {
			return fmt.Errorf("%s: %w", kv.Key, err)
		}
		if f.State == fenceSealed && (LogID{f.By, f.ByEpoch}) == w.ID() {
			sealed[log] = &logState{fenceRev: kv.ModRev}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read fences of broker %d: %w", broker, err)
	}
	// The log records are read after the seals: nobody else moves them any more.
	for log, s := range sealed {
		a, err := w.readLog(ctx, log, s)
		if err != nil {
			return nil, err
		}
		logs = append(logs, a)
	}
	w.mu.Lock()
	for log, s := range sealed {
		w.logs[log] = s
	}
	w.mu.Unlock()
	slices.SortFunc(logs, func(a, b Adopted) int { return int(max(-1, min(1, a.Log.Epoch-b.Log.Epoch))) })
	return logs, nil
}

// sealedByMe are the comparisons that this epoch may commit and recovers the log.
func (w *Writer) sealedByMe(log LogID) ([]meta.Cmp, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, ok := w.logs[log]
	if !ok {
		return nil, fmt.Errorf("log %s is not recovered here", log)
	}
	return []meta.Cmp{w.active(), meta.ModRevIs(fenceKey(log.Broker, log.Epoch), s.fenceRev)}, nil
}

// EndLog writes down, once and for ever, at which slot a sealed log ends, and
// returns the slot that holds: an earlier recoverer's if there was one (P2).
func (w *Writer) EndLog(ctx context.Context, log LogID, slot int64) (int64, error) {
	key := walEndKey(log)
	cond, err := w.sealedByMe(log)
	if err != nil {
		return 0, fmt.Errorf("end log: %w", err)
	}
	res, err := w.c.txn(ctx, meta.Txn{
		If: append(cond, meta.Absent(key)), Then: []meta.Op{meta.Put(key, encodeInt(slot))},
		ElseGet: []string{key, w.fenceKey(), fenceKey(log.Broker, log.Epoch)},
	})
	if err != nil {
		return 0, fmt.Errorf("end log %s: %w", log, err)
	}
	if res.OK {
		return slot, nil
	}
	for _, kv := range res.Else {
		if kv.Key == key {
			return decodeInt("end of log", kv.Value)
		}
	}
	return 0, fmt.Errorf("end log %s: %w", log, ErrFenced)
}

// Quarantine takes a partition out of service whose log has a gap: nobody leads
// it until an operator has decided (P2). It is durable when it returns.
func (w *Writer) Quarantine(ctx context.Context, log LogID, p Partition, why string) error {
	key := quarantineKey(p)
	cond, err := w.sealedByMe(log)
	if err != nil {
		return fmt.Errorf("quarantine %s: %w", p, err)
	}
	res, err := w.c.txn(ctx, meta.Txn{If: cond, Then: []meta.Op{meta.Put(key, encodeText(why))}})
	if err == nil && !res.OK {
		err = ErrFenced
	}
	if err != nil {
		return fmt.Errorf("quarantine %s: %w", p, err)
	}
	return w.c.wait(ctx, res.Rev)
}

// Release ends a quarantine; the controller gives the partition a leader then.
func (c *Catalog) Release(ctx context.Context, p Partition) error {
	res, err := c.txn(ctx, meta.Txn{Then: []meta.Op{meta.Delete(quarantineKey(p))}})
	if err != nil {
		return fmt.Errorf("release %s: %w", p, err)
	}
	return c.wait(ctx, res.Rev)
}

// ErrDeposed says that another broker is the controller, or nobody.
var ErrDeposed = errors.New("not the controller")

// Controller is the right to seal dead epochs and to give partitions to brokers,
// while the election key is the one this broker made.
type Controller struct {
	w   *Writer
	rev int64 // revision that created the election key
}

// Campaign tries to become the controller, for as long as the lease lives. It
// returns nil when somebody else is.
func (w *Writer) Campaign(ctx context.Context, lease meta.LeaseID) (*Controller, error) {
	mine := encodeLogID(w.ID())
	res, err := w.c.txn(ctx, meta.Txn{
		If: []meta.Cmp{meta.Absent(keyController), w.active()}, Then: []meta.Op{meta.Put(keyController, mine).WithLease(lease)},
		ElseGet: []string{keyController, w.fenceKey()},
	})
	if err != nil {
		return nil, fmt.Errorf("campaign: %w", err)
	}
	if res.OK {
		return &Controller{w, res.Rev}, nil
	}
	if w.fenced(res.Else) {
		return nil, fmt.Errorf("campaign: %w", ErrFenced)
	}
	for _, kv := range res.Else {
		if kv.Key == keyController && string(kv.Value) == string(mine) {
			return &Controller{w, kv.CreateRev}, nil
		}
	}
	return nil, nil
}

func (k *Controller) elected() meta.Cmp { return meta.CreateRevIs(keyController, k.rev) }

// Seal hands a dead broker's epochs to a recoverer, all or none (P3): from here
// on nothing of theirs can be committed but by it. It returns false when the
// index was stale; look again then.
func (k *Controller) Seal(ctx context.Context, d DeadBroker, by LogID) (bool, error) {
	c := k.w.c
	sealed := encodeFence(fence{State: fenceSealed, By: by.Broker, ByEpoch: by.Epoch})
	c.mu.RLock()
	o := &c.ix.owners
	target := o.fences[by]
	live := o.live[d.Broker]
	t := meta.Txn{
		If: []meta.Cmp{
			k.elected(), k.w.active(),
			meta.ModRevIs(fenceKey(by.Broker, by.Epoch), target.modRev),
			meta.ModRevIs(liveKey(d.Broker), live.modRev), // absent, or of another epoch
		},
		ElseGet: []string{keyController},
	}
	stale := target.State != fenceActive
	// The newest first, so that what does not fit is what nobody serves from.
	for _, epoch := range slices.Backward(d.Epochs) {
		id := LogID{d.Broker, epoch}
		f, ok := o.fences[id]
		stale = stale || !ok || f.State == fenceDone || live.modRev != 0 && live.Epoch == epoch
		if len(t.Then) == partsPerAssign {
			break
		}
		t.If = append(t.If, meta.ModRevIs(fenceKey(id.Broker, id.Epoch), f.modRev))
		t.Then = append(t.Then, meta.Put(fenceKey(id.Broker, id.Epoch), sealed))
	}
	c.mu.RUnlock()
	if stale {
		return false, nil
	}
	if k.w.ID() == by {
		t.If = slices.Delete(t.If, 2, 3) // compared already
	}
	res, err := c.txn(ctx, t)
	if err != nil {
		return false, fmt.Errorf("seal broker %d: %w", d.Broker, err)
	}
	return k.applied(ctx, "seal", res)
}

// partsPerAssign partitions, each compared and put, and the rest of the guard
// fit into one transaction (P17).
const partsPerAssign = (meta.MaxOps - 8) / 2

// Assign makes the broker the leader of partitions that have none, under the next
// leader epoch, in transactions of at most 46. Those that changed meanwhile are
// left; false says that there are some, look again then.
func (k *Controller) Assign(ctx context.Context, all []Partition, to LogID) (bool, error) {
	c := k.w.c
	complete := true
	for batch := range slices.Chunk(all, partsPerAssign) {
		c.mu.RLock()
		target := c.ix.owners.fences[to]
		t := meta.Txn{If: []meta.Cmp{k.elected()}, ElseGet: []string{keyController}}
		t.If = append(t.If, meta.ModRevIs(fenceKey(to.Broker, to.Epoch), target.modRev))
		for _, p := range batch {
			e, ok := c.ix.parts[p]
			if !ok {
				continue
			}
			next := e.part
			next.Leader, next.BrokerEpoch, next.LeaderEpoch = to.Broker, to.Epoch, e.LeaderEpoch+1
			t.If = append(t.If, meta.ModRevIs(partKey(p), e.modRev))
			t.Then = append(t.Then, meta.Put(partKey(p), encodePart(next)))
		}
		c.mu.RUnlock()
		if target.State != fenceActive {
			return false, nil
		}
		if len(t.Then) == 0 {
			continue
		}
		res, err := c.txn(ctx, t)
		if err != nil {
			return false, fmt.Errorf("assign %d partitions to broker %d: %w", len(t.Then), to.Broker, err)
		}
		ok, err := k.applied(ctx, "assign", res)
		if err != nil {
			return false, err
		}
		complete = complete && ok
	}
	return complete, nil
}

// applied tells a stale index from a lost election.
func (k *Controller) applied(ctx context.Context, what string, res meta.TxnResult) (bool, error) {
	if !res.OK {
		elected := false
		for _, kv := range res.Else {
			elected = elected || kv.Key == keyController && kv.CreateRev == k.rev
		}
		if !elected {
			return false, fmt.Errorf("%s: %w", what, ErrDeposed)
		}
	}
	return res.OK, k.w.c.wait(ctx, res.Rev)
}
