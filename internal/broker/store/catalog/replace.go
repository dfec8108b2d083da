package catalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/looptape/looptape/internal/base/meta"
)

// ErrChanged says that a replacement was not made, since something it was
// planned on is no longer so: an input was replaced or retired, a topic is gone,
// or a sweeper took an output for an orphan. Its outputs can never become
// visible any more.
var ErrChanged = errors.New("objects changed meanwhile")

// MaxInputs bounds the objects that one replacement takes out of sight.
const MaxInputs = 50

// Replace exchanges objects for others that hold what is needed of them.
type Replace struct {
	Inputs []Visible // go out of sight, and to the collector
	// Covered stay visible and are only compared: an output holds part of their
	// ranges under a higher generation.
	Covered []Visible
	Outputs []NewObject
	// Steady are partitions whose records, so leader and log start, must be as they
	// were, too.
	Steady []Steady
	// Deadline is when the inputs may be deleted, in ms.
	Deadline int64
}

// Steady is a partition's record at a moment.
type Steady struct {
	Partition Partition
	Record    Record
	rev       int64
}

// Steady returns a partition's record as it is now.
func (c *Catalog) Steady(p Partition) Steady {
	c.mu.RLock()
	defer c.mu.RUnlock()
	e := c.ix.parts[p]
	return Steady{p, Record{e.Leader, e.LeaderEpoch, e.LogStart, e.Epochs}, e.modRev}
}

// Replace makes the outputs visible and the inputs invisible, both or neither.
// Inputs and covered objects must be as they were when the caller looked. When
// it returns nil, the change is durable and in the index. ErrChanged, ErrFenced;
// meta.ErrTooLarge for one that needs more than one transaction (Stage).
// Repeated with the same bytes until the outcome is known (P6).
func (w *Writer) Replace(ctx context.Context, r Replace) error {
	if len(r.Inputs) > MaxInputs {
		return fmt.Errorf("replace objects: %w: %d inputs, at most %d", meta.ErrTooLarge, len(r.Inputs), MaxInputs)
	}
	t, proof, err := w.replacement(r)
	if err != nil {
		return fmt.Errorf("replace objects: %w", err)
	}
	done := w.c.announce(r.Outputs)
	defer done()
	res, err := w.c.txn(ctx, t)
	if err != nil {
		return fmt.Errorf("replace %d objects: %w", len(r.Inputs), err)
	}
	if !res.OK {
		for _, kv := range res.Else {
			if kv.Key == proof.Key && bytes.Equal(kv.Value, proof.Value) {
				res.OK, res.Rev = true, max(res.Rev, kv.ModRev) // an earlier attempt of this very one
			}
		}
	}
	if !res.OK && w.fenced(res.Else) {
		return fmt.Errorf("replace %d objects: %w", len(r.Inputs), ErrFenced)
	}
	if err := w.c.wait(ctx, res.Rev); err != nil {
		return fmt.Errorf("replace %d objects: %w", len(r.Inputs), err)
	}
	if !res.OK {
		return fmt.Errorf("replace %d objects: %w", len(r.Inputs), ErrChanged)
	}
	return nil
}

// announce keeps the ranges of objects at hand that are about to be visible, so
// that nobody has to read them from the objects.
func (c *Catalog) announce(objects []NewObject) (done func()) {
	c.mu.Lock()
	for _, o := range objects {
		c.known[o.Object.Name] = o.Ranges
	}
	c.mu.Unlock()
	return func() {
		c.mu.Lock()
		for _, o := range objects {
			delete(c.known, o.Object.Name)
		}
		c.mu.Unlock()
	}
}

// replacement builds the transaction. proof is a write that only this one makes.
func (w *Writer) replacement(r Replace) (t meta.Txn, proof meta.Op, err error) {
	t = meta.Txn{If: []meta.Cmp{w.active()}, ElseGet: []string{w.fenceKey()}}
	leaving := map[string]bool{}
	for _, v := range r.Inputs {
		leaving[v.key] = true
		t.If = append(t.If, meta.ModRevIs(v.key, v.Rev))
		t.Then = append(t.Then, meta.Put(gcKey(r.Deadline, v.Object.Name), encodeInt(0)))
	}
	for _, v := range r.Covered {
		t.If = append(t.If, meta.ModRevIs(v.key, v.Rev))
	}
	for _, s := range r.Steady {
		t.If = append(t.If, meta.ModRevIs(partKey(s.Partition), s.rev))
	}
	topics := map[string]bool{}
	for _, o := range r.Outputs {
		name := o.Object.Name
		op, err := visibleOp(o)
		if err != nil {
			return t, proof, err
		}
		t.If = append(t.If, meta.Absent(sweptKey(name)))
		if o.Single {
			if key := topicKey(o.Ranges[0].Partition.Topic); !topics[key] {
				topics[key] = true
				t.If = append(t.If, meta.Exists(key))
			}
			if !leaving[op.Key] {
				// Nobody's offsets are hidden by overwriting a key.
				t.If = append(t.If, meta.Absent(op.Key))
			}
			delete(leaving, op.Key)
		}
		t.Then = append(t.Then, op)
	}
	for _, v := range r.Inputs {
		if leaving[v.key] {
			t.Then = append(t.Then, meta.Delete(v.key))
		}
	}
	switch {
	case len(r.Outputs) > 0:
		proof = t.Then[len(r.Inputs)]
	case len(r.Inputs) > 0:
		proof = t.Then[0]
	default:
		return t, proof, errors.New("nothing to replace")
	}
	t.ElseGet = append(t.ElseGet, proof.Key)
	return t, proof, t.Check()
}

// visibleOp makes an object visible.
func visibleOp(o NewObject) (meta.Op, error) {
	if !o.Single {
		return meta.Put(setKey(o.Object.Name), encodeSet(o.Object)), nil
	}
	if len(o.Ranges) != 1 {
		return meta.Op{}, fmt.Errorf("object %s has %d ranges, a single-partition object has one", o.Object.Name, len(o.Ranges))
	}
	r := o.Ranges[0]
	return meta.Put(objKey(r.Partition, r.Base), encodeObj(o.Object, r)), nil
}

// Discard hands objects to the collector that were put and will never be
// visible: outputs of a replacement that ended with ErrChanged.
func (w *Writer) Discard(ctx context.Context, names []string, deadline int64) error {
	t := meta.Txn{If: []meta.Cmp{w.active()}, ElseGet: []string{w.fenceKey()}}
	for _, name := range names {
		t.If = append(t.If, meta.Absent(setKey(name)))
		t.Then = append(t.Then, meta.Put(gcKey(deadline, name), encodeInt(0)))
	}
	res, err := w.c.txn(ctx, t)
	if err != nil {
		return fmt.Errorf("discard %d objects: %w", len(names), err)
	}
	if !res.OK && w.fenced(res.Else) {
		return fmt.Errorf("discard %d objects: %w", len(names), ErrFenced)
	}
	return nil
}
