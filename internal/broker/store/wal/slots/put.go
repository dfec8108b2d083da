package slots

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/broker/store/wal"
)

// put stores the slot. It returns nil when it is stored, by this log; wal.ErrFenced
// when its number is somebody else's; another error when ctx ended or repeating
// can't help.
func (l *Log) put(ctx context.Context, s *slot) error {
	began := time.Now()
	for p := l.pauses(); ; {
		err := l.attempt(ctx, s)
		if errors.Is(err, blob.ErrExists) {
			// The number is taken: by an earlier attempt of ours whose answer was
			// lost, or for good.
			err = l.mine(ctx, s)
		}
		if err == nil {
			l.sped(time.Since(began))
			return nil
		}
		if ctx.Err() != nil || errors.Is(err, errOver) || errors.Is(err, wal.ErrFenced) || errors.Is(err, blob.ErrBadKey) {
			return err
		}
		l.slowed()
		if p.loud() {
			l.cfg.Logger.Warn("log repeats a put", "slot", s.seq, "bytes", s.bytes(), "attempts", p.n, "error", err)
		}
		if err := p.wait(ctx); err != nil {
			return fmt.Errorf("put slot %d: %w", s.seq, err)
		}
	}
}

// attempt sends the slot's bytes once. It always ends: at a deadline the outcome is
// unknown, and the same bytes are sent again.
func (l *Log) attempt(ctx context.Context, s *slot) error {
	body, err := s.begin(l.epoch, l.writer)
	if err != nil {
		return err
	}
	defer body.end()
	ctx, cancel := context.WithTimeout(ctx, l.deadline(s.bytes()))
	defer cancel()
	began := time.Now()
	l.mu.Lock()
	l.budget.spend(began)
	l.mu.Unlock()
	err = l.cfg.Store.Put(ctx, l.epoch.key(s.seq), body, s.bytes())
	l.mu.Lock()
	l.stats.Puts++
	took := time.Since(began)
	l.stats.PutNanos += took.Nanoseconds()
	switch {
	case err == nil && l.putTime == 0:
		l.putTime = took
	case err == nil:
		l.putTime += (took - l.putTime) / 8
	}
	l.mu.Unlock()
	return err
}

func (l *Log) deadline(bytes int64) time.Duration {
	return l.cfg.PutTimeout + time.Duration(bytes>>20)*time.Second
}

// mine looks at who took the slot's number. nil: this log, with these bytes.
func (l *Log) mine(ctx context.Context, s *slot) error {
	key := l.epoch.key(s.seq)
	ctx, cancel := context.WithTimeout(ctx, l.cfg.PutTimeout)
	defer cancel()
	info, err := l.cfg.Store.Stat(ctx, key)
	if err != nil {
		return err // it may be gone or hidden: the put is repeated
	}
	head := make([]byte, min(headerBytes, info.Size))
	if _, err := l.cfg.Store.GetRange(ctx, key, 0, head); err != nil {
		return err
	}
	// Equal headers say everything: nonce, number, LSNs, length and the body's checksum.
	if info.Size == s.bytes() && bytes.Equal(head, s.frozen.head()) {
		return nil
	}
	h, err := parseHeader(head, info.Size, l.epoch, s.seq)
	switch {
	case err != nil:
		return fmt.Errorf("%w: slot %s is taken by something else: %w", wal.ErrFenced, key, err)
	case h.kind == kindSeal:
		return fmt.Errorf("%w: slot %s is sealed by broker %d, epoch %d", wal.ErrFenced, key, h.writer.Broker, h.writer.Epoch)
	default:
		return fmt.Errorf("%w: slot %s is taken by another process of broker %d, epoch %d", wal.ErrFenced, key, h.writer.Broker, h.writer.Epoch)
	}
}

// slowed says that an attempt failed: half as many slots are started from now on,
// and callers get less room.
func (l *Log) slowed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.window = max(1, l.window/2)
	l.stats.Retries++
}

// sped says that a slot was stored: one more may be started.
func (l *Log) sped(took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats.CommitNanos += took.Nanoseconds()
	if l.window < l.cfg.InFlight {
		l.window++
		l.letIn()
	}
}

// pauses grow with each failure, up to a bound, with jitter: who failed together
// does not come back together.
type pauses struct {
	n        int // failures
	min, max time.Duration
	rand     func() float64
}

func (l *Log) pauses() pauses {
	return pauses{min: l.cfg.RetryMin, max: l.cfg.RetryMax, rand: l.cfg.Rand}
}

// wait sleeps after a failure. An error only when ctx ended.
func (p *pauses) wait(ctx context.Context) error {
	d := p.max
	if p.n < 20 && p.min<<p.n < p.max {
		d = p.min << p.n
	}
	p.n++
	t := time.NewTimer(d/2 + time.Duration(p.rand()*float64(d/2)))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// loud tells whether to say something: after 1, 2, 4, 8 ... failures.
func (p *pauses) loud() bool { return p.n&(p.n-1) == 0 }
