package sim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/partition"
	"github.com/looptape/looptape/internal/broker/store/wal"
)

// patience is how long a client waits for an answer.
const patience = 4 * time.Second

var (
	errNobody = errors.New("nobody can be reached")
	errNever  = errors.New("no answer: the outcome is not known")
)

// attempt is one try of one batch, on its way.
type attempt struct {
	p      *process
	answer chan partition.Appended
	err    error // nobody took it
}

// send hands a batch to the partition's leader. It returns when the leader has
// it, which may take until ctx ends.
func (w *world) send(ctx context.Context, id partition.ID, bytes []byte, internal bool) attempt {
	p, store := w.leader(id)
	if store == nil || p.wait() != nil {
		return attempt{err: errNobody}
	}
	at, err := store.Partitions().Get(id)
	if err != nil {
		return attempt{err: err}
	}
	a := attempt{p: p, answer: make(chan partition.Appended, 1)}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	at.Append(ctx, partition.Append{
		Batches: append([]byte(nil), bytes...), Internal: internal, Verified: true,
		Done: func(out partition.Appended) {
			// As the front does: a verdict on a producer may be out of date.
			judged := errors.Is(out.Err, partition.ErrOutOfOrderSequence) || errors.Is(out.Err, partition.ErrInvalidEpoch)
			if p.hears() && store.Acking() && (!judged || store.Serving()) {
				a.answer <- out
			}
		},
	})
	return a
}

// wait waits for the answer.
func (a attempt) wait() (partition.Appended, error) {
	if a.err != nil {
		return partition.Appended{}, a.err
	}
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case out := <-a.answer:
		return out, out.Err
	case <-a.p.died:
	case <-t.C:
	}
	select {
	case out := <-a.answer: // it came first
		return out, out.Err
	default:
		return partition.Appended{}, errNever
	}
}

// gone says that the partition's topic was deleted, which ends a client's work on
// it without a fault.
func (w *world) gone(p *part, err error) bool {
	unknown := errors.Is(err, partition.ErrUnknownPartition)
	if errors.Is(err, errNobody) {
		if _, store := w.any(); store != nil {
			_, known := store.Catalog().TopicByID(p.id.Topic)
			unknown = !known
		}
	}
	return unknown && w.model.deleting(p)
}

// expected says whether a client has to live with the error and try again. What
// it doesn't know is a promise broken.
func expected(err error) bool {
	for _, e := range []error{
		errNobody, errNever, partition.ErrStorage, partition.ErrNotLeader, partition.ErrLoading, partition.ErrUnknownPartition,
		wal.ErrClosed, context.DeadlineExceeded, context.Canceled,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// deliver sends batches of one producer to one partition, in order and as many at
// a time as Kafka's clients do, again and again until all are acknowledged. false:
// the topic is gone.
func (w *world) deliver(who string, all []*sent, internal bool) bool {
	r := w.dice.about(who + " pauses")
	for try := 0; len(all) > 0; try++ {
		attempts := make([]attempt, len(all))
		for i, s := range all {
			// One connection: what can't be sent holds back what follows.
			if i > 0 && attempts[i-1].err != nil {
				attempts[i] = attempts[i-1]
				continue
			}
			attempts[i] = w.send(context.Background(), s.part.id, s.bytes, internal)
		}
		var left []*sent
		refused := false // one of left was, for certain
		for i, s := range all {
			out, err := attempts[i].wait()
			switch {
			case err == nil:
				w.hist.add("%s batch %d of %s at %d", who, s.number, s.part.id, out.Base)
				w.model.acknowledged(s, out)
				if refused && s.pid >= 0 {
					w.hist.violate("I5: %s: batch %d is written, %d before it is not", who, s.number, left[0].number)
				}
				continue
			case w.gone(s.part, err):
				w.hist.add("%s %s is gone", who, s.part.id)
				return false
			case errors.Is(err, partition.ErrOutOfOrderSequence) && len(left) > 0:
			case !expected(err):
				w.hist.violate("I5: %s: batch %d of %s (sequence %d): %v", who, s.number, s.part.id, s.seq, err)
				return false
			default:
				w.hist.add("%s batch %d: %s", who, s.number, brief(err))
			}
			left = append(left, s)
			refused = refused || !errors.Is(err, errNever)
		}
		all = left
		if len(all) > 0 {
			time.Sleep(between(r, 10*time.Millisecond, 500*time.Millisecond))
			if w.late() {
				w.hist.violate("liveness: %s still can't write batch %d of %s after %s without faults; %s", who, all[0].number, all[0].part.id, settle, w.opinions(all[0].part))
				return false
			}
		}
	}
	return true
}

// stream is an idempotent producer on one partition.
func (w *world) stream(n int) {
	who := fmt.Sprintf("stream %d", n)
	r := w.dice.about(who)
	pid := int64(1000 + n)
	for !w.over() {
		t := w.pick(r)
		if t == nil {
			time.Sleep(between(r, 0, time.Second))
			continue
		}
		p := t.parts[r.IntN(len(t.parts))]
		// A while on this one. Its sequence goes on where it was left.
		for range 1 + r.IntN(12) {
			// As clients do: more than one batch in flight only when one has come
			// through, since any sequence is good for a first.
			many := 1
			if w.model.wrote(p, pid) {
				many += r.IntN(batch.Window)
			}
			var window []*sent
			for range many {
				count := 1 + r.IntN(3)
				window = append(window, w.model.write(p, pid, 0, w.sequence(p, pid, count), count, w.size(r), nil))
			}
			if !w.deliver(who, window, false) {
				break
			}
			time.Sleep(between(r, 0, 300*time.Millisecond))
			if w.over() {
				break
			}
		}
	}
}

// plainly is a producer that is not idempotent: what it doesn't know stays unknown.
func (w *world) plainly(n int) {
	who := fmt.Sprintf("plain %d", n)
	r := w.dice.about(who)
	for !w.over() {
		if t := w.pick(r); t != nil {
			p := t.parts[r.IntN(len(t.parts))]
			s := w.model.write(p, -1, -1, -1, 1+r.IntN(4), w.size(r), nil)
			out, err := w.send(context.Background(), p.id, s.bytes, false).wait()
			switch {
			case err == nil:
				w.hist.add("%s batch %d of %s at %d", who, s.number, p.id, out.Base)
				w.model.acknowledged(s, out)
			case w.gone(p, err):
			case !expected(err):
				w.hist.violate("I1: %s: batch %d: %v", who, s.number, err)
			default:
				w.hist.add("%s batch %d: %s", who, s.number, brief(err))
			}
		}
		time.Sleep(between(r, 0, 200*time.Millisecond))
	}
}

// transact is a transactional producer with its coordinator: a few batches here
// and there, then the markers. Sometimes the coordinator fences it in the middle.
func (w *world) transact(n int) {
	who := fmt.Sprintf("transaction %d", n)
	r := w.dice.about(who)
	pid, epoch, coordinator := int64(2000+n), int16(0), int32(0)
	for !w.over() {
		t := w.pick(r)
		if t == nil {
			time.Sleep(between(r, 0, time.Second))
			continue
		}
		x := &txn{pid: pid, epoch: epoch}
		touched := map[*part]bool{}
		var order []*part
		for range 1 + r.IntN(3) {
			p := t.parts[r.IntN(len(t.parts))]
			if !touched[p] {
				touched[p] = true
				order = append(order, p)
			}
			count := 1 + r.IntN(3)
			if !w.deliver(who, []*sent{w.model.write(p, pid, epoch, w.epochSequence(p, pid, epoch, count), count, w.size(r), x)}, false) {
				break
			}
			time.Sleep(between(r, 0, time.Second))
		}
		commit := chance(r, 0.6)
		fence := !commit && chance(r, 0.4)
		if fence || chance(r, 0.2) {
			epoch++ // by the coordinator, or as with KIP-890
		}
		if chance(r, 0.1) {
			coordinator++
		}
		w.model.mu.Lock()
		x.ending, x.commit = true, commit
		w.model.mu.Unlock()
		w.hist.add("%s ends, commit %t, epoch %d", who, commit, epoch)
		for _, p := range order {
			mark := batch.BuildMarker(pid, epoch, commit, coordinator, time.Now().UnixMilli())
			if !w.mark(who, p, mark, r.IntN(3) == 0) {
				break
			}
			if fence {
				// The producer has not heard of it yet.
				w.stale(who, p, pid, x)
			}
		}
		time.Sleep(between(r, 0, 500*time.Millisecond))
	}
}

// mark writes a marker until it is acknowledged, sometimes twice.
func (w *world) mark(who string, p *part, marker []byte, twice bool) bool {
	r := w.dice.about(who + " marker pauses")
	for {
		out, err := w.send(context.Background(), p.id, marker, true).wait()
		switch {
		case err == nil && !twice:
			w.hist.add("%s marker in %s at %d", who, p.id, out.Base)
			return true
		case err == nil:
			twice = false
			continue
		case w.gone(p, err):
			return false
		case !expected(err):
			w.hist.violate("I6: %s: marker in %s: %v", who, p.id, err)
			return false
		}
		time.Sleep(between(r, 10*time.Millisecond, 500*time.Millisecond))
		if w.late() {
			w.hist.violate("liveness: %s still can't write a marker to %s after %s without faults", who, p.id, settle)
			return false
		}
	}
}

// stale is a batch of an epoch that a marker has fenced: it must not be taken.
func (w *world) stale(who string, p *part, pid int64, x *txn) {
	s := w.model.write(p, pid, x.epoch, w.epochSequence(p, pid, x.epoch, 1), 1, 10, x)
	_, err := w.send(context.Background(), p.id, s.bytes, false).wait()
	if err == nil {
		w.hist.violate("I6: %s: %s takes a batch of epoch %d, which was fenced", who, p.id, x.epoch)
	}
}
