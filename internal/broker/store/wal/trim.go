package wal

import (
	"context"
	"errors"
	"fmt"
)

// Trim implements Log.
func (l *FileLog) Trim(upto LSN) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if upto > l.durable {
		return fmt.Errorf("trim log up to %d: only %d is durable", upto, l.durable)
	}
	if upto <= l.released[l.id.Epoch] {
		return nil
	}
	l.released[l.id.Epoch] = upto
	n := 0
	for n < len(l.written) && l.written[n].last <= upto {
		l.stats.UncommittedBytes -= l.written[n].bytes
		n++
	}
	l.written = l.written[n:]
	l.trimmedNow()
	return nil
}

// TrimEpoch implements Log.
func (l *FileLog) TrimEpoch(epoch int64, upto LSN) error {
	if epoch == l.id.Epoch {
		return l.Trim(upto)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	before, ok := l.released[epoch]
	if !ok {
		return fmt.Errorf("trim log: %w: %d was not adopted", ErrEpoch, epoch)
	}
	if upto <= before {
		return nil
	}
	l.released[epoch] = upto
	for i := range l.files {
		f := &l.files[i]
		if f.epoch == epoch && f.last <= upto {
			l.stats.UncommittedBytes -= f.used
			f.used = 0
		}
	}
	l.trimmedNow()
	return nil
}

// trimmedNow lets waiting Reserve calls look again and the segment goroutine take
// back files. Call with l.mu held.
func (l *FileLog) trimmedNow() {
	l.letIn()
	select {
	case l.trimmed <- struct{}{}:
	default: // it will look anyway
	}
}

// releasable returns the oldest file if nobody needs it any more. Files go in
// order, epoch by epoch: so no gap appears, and what the first segment of an epoch
// says about older ones stays as long as they do. The current segment stays.
func (l *FileLog) releasable() (segment, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.files) < 2 {
		return segment{}, false
	}
	f := l.files[0]
	if f.last > l.released[f.epoch] {
		return segment{}, false
	}
	// The segment after it is begun only when it has a durable block.
	if next := l.files[1]; next.epoch == f.epoch && f.epoch == l.id.Epoch && l.durable <= f.last {
		return segment{}, false
	}
	l.files = l.files[1:]
	return f, true
}

// release takes back the files that nobody needs.
func (l *FileLog) release(ctx context.Context) error {
	for ctx.Err() == nil {
		f, ok := l.releasable()
		if !ok {
			return nil
		}
		if err := l.pool.put(f.path, f.size); err != nil {
			return fmt.Errorf("release segment %s: %w", f.path, err)
		}
	}
	return nil
}

// prepareSegments keeps the next segment ready, so that the writer never waits for
// more than a name, and takes back the trimmed ones. It is the only one to work in
// the directory. That a segment can't be prepared ends the log only when the writer
// needs it; it is tried again after the next trim, which may have made room.
func (l *FileLog) prepareSegments(ctx context.Context) error {
	seq := l.current.seq // read before the writer moves on: see Run
	var ready preparation
	defer func() {
		if ready.segment != nil {
			ready.segment.file.Close()
		}
	}()
	for {
		if err := l.release(ctx); err != nil {
			return err
		}
		if ready.segment == nil {
			ready.segment, ready.err = l.pool.take(l.id.Epoch, seq+1, l.cfg.SegmentBytes)
			if ready.err != nil && !errors.Is(ready.err, errPrewrite) {
				return ready.err // names may be durable or not: final
			}
		}
		select {
		case l.prepared <- ready:
			if ready.err == nil {
				seq++
			}
			ready = preparation{}
		case <-l.trimmed:
		case <-ctx.Done():
			return nil
		}
	}
}
