package slots

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/run"
	"github.com/looptape/looptape/internal/broker/store/wal"
)

// deleters is how many deletions run at a time.
const deleters = 4

// doomed are slots to be deleted, from the lowest number on; sweep: whatever data
// slots the dead epoch has.
type doomed struct {
	of       series
	from, to int64
	sweep    bool
}

// adopted is a dead epoch whose records are being committed.
type adopted struct {
	*Recovered
	upto  wal.LSN // trimmed
	given int     // slots given to deletion
	swept bool
}

// Trim implements wal.Log. Slots that lie wholly at or below upto are deleted in
// the background, but the newest: numbers are never used again, and a listing shows
// that the epoch was in use.
func (l *Log) Trim(upto wal.LSN) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if upto > l.durable {
		return fmt.Errorf("trim log up to %d: only %d is durable", upto, l.durable)
	}
	if upto <= l.trimmed {
		return nil
	}
	l.trimmed = upto
	n := 0
	for n < len(l.written) && l.written[n].last <= upto {
		if w := l.written[n]; w.seq > l.released {
			l.released = w.seq
			l.stats.UncommittedBytes -= w.bytes
		}
		n++
	}
	l.letIn()
	if n == len(l.written) {
		n-- // keep the newest
	}
	if n > 0 {
		l.doom(doomed{of: l.epoch, from: l.written[0].seq, to: l.written[n-1].seq})
		l.behind = l.written[n-1]
		l.written = append(l.written[:0:0], l.written[n:]...)
	}
	return nil
}

// TrimEpoch implements wal.Log. When all of an adopted epoch is trimmed, everything
// of it but its seal is deleted.
func (l *Log) TrimEpoch(epoch int64, upto wal.LSN) error {
	if epoch == l.epoch.epoch {
		return l.Trim(upto)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.adopted[epoch]
	if a == nil {
		return fmt.Errorf("trim log: %w: %d was not adopted", wal.ErrEpoch, epoch)
	}
	if upto < a.upto || a.swept {
		return nil
	}
	a.upto = upto
	of := l.epoch
	of.epoch = epoch
	first := a.given
	for a.given < len(a.slots) && a.slots[a.given].last <= upto {
		l.stats.UncommittedBytes -= a.slots[a.given].bytes
		a.given++
	}
	l.letIn()
	switch {
	case a.given == len(a.slots):
		a.swept = true
		l.doom(doomed{of: of, sweep: true})
	case a.given > first:
		l.doom(doomed{of: of, from: a.slots[first].seq, to: a.slots[a.given-1].seq})
	}
	return nil
}

// doom gives slots to deletion. Call with l.mu held.
func (l *Log) doom(d doomed) {
	if n := len(l.doomed); n > 0 && !d.sweep && l.doomed[n-1].of == d.of && l.doomed[n-1].to == d.from-1 {
		l.doomed[n-1].to = d.to
	} else {
		l.doomed = append(l.doomed, d)
	}
	signal(l.trimWake)
}

// deleteTrimmed deletes what was trimmed, a few at a time and not too fast. A
// deletion that fails is repeated later; what is left when the log ends is for
// Sweep, when the epoch is dead.
func (l *Log) deleteTrimmed(ctx context.Context) error {
	for p := l.pauses(); ; {
		l.mu.Lock()
		var d doomed
		if len(l.doomed) > 0 {
			d = l.doomed[0]
		}
		l.mu.Unlock()
		if d == (doomed{}) {
			select {
			case <-l.trimWake:
				continue
			case <-ctx.Done():
				return nil
			}
		}
		n, err := l.deleteSome(ctx, d)
		l.deleted(d, n, err)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			p.n = 0
			err = pause(ctx, time.Duration(n)*time.Second/time.Duration(l.cfg.DeletesPerSecond))
		} else {
			if p.loud() {
				l.cfg.Logger.Warn("log repeats the deletion of trimmed slots", "attempts", p.n, "error", err)
			}
			err = p.wait(ctx)
		}
		if err != nil {
			return nil
		}
	}
}

// deleteSome deletes the first few and says how many of them are gone for sure, or
// all of a sweep.
func (l *Log) deleteSome(ctx context.Context, d doomed) (int64, error) {
	if d.sweep {
		n, err := sweep(ctx, l.cfg.Store, d.of)
		return int64(n), err
	}
	n := min(deleters, d.to-d.from+1)
	errs := make([]error, n)
	g := run.New(ctx)
	for i := range n {
		g.Go("wal-delete", func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, l.cfg.PutTimeout)
			defer cancel()
			errs[i] = l.cfg.Store.Delete(ctx, d.of.key(d.from+i))
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	for i, err := range errs {
		if err != nil {
			return int64(i), fmt.Errorf("delete slot %d: %w", d.from+int64(i), err)
		}
	}
	return n, nil
}

// deleted notes that the first n slots of d are gone.
func (l *Log) deleted(d doomed, n int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats.Deletes += n
	if err != nil {
		l.stats.DeleteFail++
	}
	first := &l.doomed[0] // the one d is a copy of; its end may have moved on
	first.from += n
	if d.sweep && err == nil || !d.sweep && first.from > first.to {
		l.doomed[0] = doomed{}
		l.doomed = l.doomed[1:]
	}
}

// Sweep deletes the data slots of a dead epoch, and keeps every seal, for ever
// (P1). It is for an epoch whose end is known and whose records are committed: by
// who recovered it, and again from time to time, since a put that was under way
// when its writer died may arrive late.
func Sweep(ctx context.Context, store blob.Store, prefix string, broker int32, epoch int64) (deleted int, err error) {
	return sweep(ctx, store, series{prefix, broker, epoch})
}

func sweep(ctx context.Context, store blob.Store, of series) (deleted int, err error) {
	var keys []string
	err = store.List(ctx, of.dir(), func(i blob.Info) error {
		// Nothing as small as a seal is touched: it may be one.
		if _, ok := of.seq(i.Key); ok && i.Size > headerBytes {
			keys = append(keys, i.Key)
		}
		return nil
	})
	for _, k := range keys {
		if err != nil {
			break
		}
		if err = store.Delete(ctx, k); err == nil {
			deleted++
		}
	}
	if err != nil {
		return deleted, fmt.Errorf("sweep %s: %w", of.dir(), err)
	}
	return deleted, nil
}

// An Epoch is one start of one broker.
type Epoch struct {
	Broker int32
	Epoch  int64
}

// Held says which epochs have data slots under the prefix, and how many: the
// living ones, and what Sweep still has to delete of dead ones. It is one listing.
func Held(ctx context.Context, store blob.Store, prefix string) (map[Epoch]int, error) {
	held := map[Epoch]int{}
	err := store.List(ctx, prefix+"/", func(i blob.Info) error {
		e, ok := parseEpoch(prefix, i.Key)
		if ok && i.Size > headerBytes {
			held[e]++
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list slots in %s: %w", prefix, err)
	}
	return held, nil
}

// parseEpoch says whose slot has the key.
func parseEpoch(prefix, key string) (Epoch, bool) {
	parts := strings.Split(strings.TrimPrefix(key, prefix+"/"), "/")
	if len(parts) != 3 {
		return Epoch{}, false
	}
	broker, err1 := strconv.ParseInt(parts[0], 10, 32)
	epoch, err2 := strconv.ParseInt(parts[1], 10, 64)
	of := series{prefix, int32(broker), epoch}
	_, ok := of.seq(key)
	return Epoch{int32(broker), epoch}, ok && err1 == nil && err2 == nil
}

func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
