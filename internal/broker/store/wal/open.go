package wal

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/looptape/looptape/internal/base/disk"
)

// minSegmentBytes holds an adopt block, a data block, an end block and the mark.
const minSegmentBytes = 4 * minAlign

// freeSegments is how many files are kept for later above what MaxUncommitted
// needs.
const freeSegments = 2

// Open opens the log in dir for a new epoch, which is above all others in dir, and
// starts nothing. recovered is what Recover found just before; nil says that there
// is nothing, and is an error if there are records. When Open returns, where the
// dead epochs ended is durable, and so is every record that Recover handed out.
func Open(ctx context.Context, fs disk.FS, dir string, id Identity, cfg Config, recovered *Recovered) (*FileLog, error) {
	l, err := open(ctx, fs, dir, id, cfg.withDefaults(), recovered)
	if err != nil {
		return nil, fmt.Errorf("open log in %s: %w", dir, err)
	}
	return l, nil
}

func open(ctx context.Context, fs disk.FS, dir string, id Identity, cfg Config, recovered *Recovered) (_ *FileLog, err error) {
	if id.Epoch < 1 {
		return nil, fmt.Errorf("%w: %d", ErrEpoch, id.Epoch)
	}
	if err := fs.MkdirAll(dir); err != nil {
		return nil, err
	}
	lock, err := fs.Lock(filepath.Join(dir, lockName))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Close())
		}
	}()
	if recovered == nil {
		recovered, err = recoverDir(ctx, fs, dir, id.WALID, func(epoch int64, _ LSN, _ []byte) error {
			return fmt.Errorf("there are records of epoch %d that nobody recovered", epoch)
		})
		if err != nil {
			return nil, err
		}
	}
	l := &FileLog{
		cfg: cfg, id: id, lock: lock,
		prepared: make(chan preparation),
		trimmed:  make(chan struct{}, 1),
		next:     1,
		files:    recovered.kept,
		released: map[int64]LSN{id.Epoch: 0},
		pool: pool{
			fs: fs, dir: dir, bytes: cfg.SegmentBytes, buffered: cfg.Buffered,
			maxFree: int(cfg.MaxUncommitted/cfg.SegmentBytes) + freeSegments,
		},
	}
	l.wake.L = &l.mu
	if err := l.tidy(recovered); err != nil {
		return nil, err
	}
	if err := l.begin(recovered); err != nil {
		return nil, err
	}
	for _, e := range recovered.Epochs {
		l.released[e.Epoch] = e.First - 1
		if e.First <= e.Last {
			l.stats.UncommittedBytes += e.Bytes
		}
	}
	l.fill = newBlock(l.cfg.MaxBatch, l.align)
	for range blocks - 1 {
		l.spare = append(l.spare, newBlock(l.cfg.MaxBatch, l.align))
	}
	return l, nil
}

// tidy brings the directory in order: half-made files go, and what was never begun
// becomes free. From the back, so that no gap appears.
func (l *FileLog) tidy(recovered *Recovered) error {
	found, err := list(l.pool.fs, l.pool.dir)
	if err != nil {
		return err
	}
	for _, s := range found.segments {
		if s.epoch >= l.id.Epoch {
			return fmt.Errorf("%w: %d is not above %d of %s", ErrEpoch, l.id.Epoch, s.epoch, s.path)
		}
	}
	for _, path := range found.unfit {
		if err := l.pool.fs.Remove(path); err != nil {
			return err
		}
	}
	for _, f := range found.free {
		var n int
		if _, err := fmt.Sscanf(filepath.Base(f.path), freeForm, &n); err != nil {
			return err
		}
		l.pool.next = max(l.pool.next, n+1)
		if f.size == l.pool.bytes && len(l.pool.free) < l.pool.maxFree {
			l.pool.free = append(l.pool.free, f.path)
		} else if err := l.pool.fs.Remove(f.path); err != nil {
			return err
		}
	}
	for i := len(recovered.spare) - 1; i >= 0; i-- {
		if err := l.pool.put(recovered.spare[i].path, recovered.spare[i].size); err != nil {
			return err
		}
	}
	return nil
}

// begin makes the epoch's first segment and writes the adopt block. When that is
// synced, the ends of the dead epochs are fixed for ever.
func (l *FileLog) begin(recovered *Recovered) error {
	a := adoption{carry: recovered.carry}
	for _, e := range recovered.Epochs {
		a.ends = append(a.ends, epochEnd{e.Epoch, e.Last})
	}
	if len(a.ends) > maxAdopted {
		return fmt.Errorf("%d dead epochs hold records, at most %d", len(a.ends), maxAdopted)
	}
	// Usually one of the ordinary size; larger if the carried block needs it.
	need := padded(int64(headerBytes+a.bodyBytes()), minAlign) + 3*minAlign
	var err error
	if l.current, err = l.pool.take(l.id.Epoch, 1, max(l.cfg.SegmentBytes, need)); err != nil {
		return err
	}
	l.align = max(minAlign, l.current.file.DirectAlign())
	if l.align > 1<<maxAlignShift || l.cfg.SegmentBytes%int64(l.align) != 0 || l.cfg.SegmentBytes < 4*int64(l.align) {
		err = fmt.Errorf("segments of %d bytes do not suit the disk's alignment of %d", l.cfg.SegmentBytes, l.align)
		return errors.Join(err, l.current.file.Close())
	}
	// The largest block fits into an empty segment with the end block and the mark
	// after it.
	room := int(l.cfg.SegmentBytes) - 2*l.align - headerBytes
	l.cfg.MaxBatch = min(l.cfg.MaxBatch, room)
	l.largest = min(l.cfg.MaxRecord, room-recordHeaderBytes)
	b := newBlock(a.bodyBytes(), l.align)
	a.put(b)
	if err := l.commitTo(b); err != nil {
		return errors.Join(err, l.current.file.Close())
	}
	l.files = append(l.files, l.current.segment)
	l.stats.Segments++
	return nil
}

// Largest is the number of bytes of the largest record the log takes.
func (l *FileLog) Largest() int { return l.largest }
