package wal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/looptape/looptape/internal/base/run"
)

// queueFactor times MaxBatch is what Reserve lets in before the disk has it.
const queueFactor = 4

// blocks is how many blocks there are: one being written, one full, one filling.
const blocks = 3

// A FileLog is a Log in local files. Use Open.
//
// A few blocks of aligned memory take turns: Append copies records into one while
// another is written and synced. What fits in none waits in a queue. The mutex
// guards what Append, Reserve, Trim and the writer share and is never held across
// I/O; the writer goroutine alone writes, syncs and calls Done.
type FileLog struct {
	cfg      Config
	id       Identity
	align    int
	largest  int // bytes of data of the largest record
	lock     io.Closer
	pool     pool         // owned by Open, then by the segment goroutine
	current  *openSegment // owned by Open, then by the writer
	prepared chan preparation
	trimmed  chan struct{} // told of each Trim; holds one
	markMem  []byte        // of the writer

	mu       sync.Mutex
	wake     sync.Cond // the writer waits for work
	waiting  []*waiter // Reserve calls, first come first served
	reserved int64     // bytes set aside for records to come
	fill     *block    // takes appends
	full     []*block  // to be written before it, in order
	spare    []*block  // empty
	queue    []*Record // appended after all blocks were full
	next     LSN       // of the next record
	durable  LSN
	ending   bool  // no more appends
	err      error // final
	files    []segment
	released map[int64]LSN // what was trimmed, by epoch
	written  []written
	stats    Stats
}

var _ Log = (*FileLog)(nil)

// written is a durable block that is not trimmed yet.
type written struct {
	first, last LSN
	seq, at     int64 // segment and place
	bytes       int64
}

// preparation is the next segment, ready to use, or why there is none.
type preparation struct {
	segment *openSegment
	err     error
}

// Run implements Log.
func (l *FileLog) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, l.end)
	defer stop()
	// The segment goroutine has to outlive ctx: what was appended until then is
	// still to be written.
	g := run.New(context.WithoutCancel(ctx))
	g.Go("wal-segments", l.prepareSegments)
	g.Go("wal-writer", func(ctx context.Context) error {
		defer g.Stop()
		return l.write(ctx)
	})
	// If the segment goroutine fails, the writer ends with what it can.
	stopFailed := context.AfterFunc(g.Context(), l.end)
	defer stopFailed()
	err := g.Wait()
	if err != nil {
		l.fail(err, nil)
	}
	return err
}

// end makes the log refuse appends and the writer finish.
func (l *FileLog) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ending = true
	l.wake.Signal()
	l.letIn()
}

// Close implements Log: it lets go of the files and the lock.
func (l *FileLog) Close() error {
	l.end()
	err := l.current.file.Close()
	if err = errors.Join(err, l.lock.Close()); err != nil {
		return fmt.Errorf("close log: %w", err)
	}
	return nil
}

// letIn lets waiting Reserve calls through, as far as there is room, or all of
// them to their refusal. Call with l.mu held.
func (l *FileLog) letIn() {
	refused := l.refusal() != nil
	for len(l.waiting) > 0 && (refused || l.hasRoom(l.waiting[0].n)) {
		w := l.waiting[0]
		l.waiting[0] = nil
		l.waiting = l.waiting[1:]
		if !refused {
			l.reserved += w.n
		}
		w.granted = !refused
		close(w.ch)
	}
}

// A waiter is a Reserve call that waits.
type waiter struct {
	n       int64
	granted bool // set before ch is closed
	ch      chan struct{}
}

// Reserve implements Log.
func (l *FileLog) Reserve(ctx context.Context, n int) error {
	l.mu.Lock()
	if err := l.refusal(); err != nil {
		l.mu.Unlock()
		return err
	}
	if len(l.waiting) == 0 && l.hasRoom(int64(n)) {
		l.reserved += int64(n)
		l.mu.Unlock()
		return nil
	}
	w := &waiter{n: int64(n), ch: make(chan struct{})}
	l.waiting = append(l.waiting, w)
	l.stats.ReserveWaits++
	l.mu.Unlock()
	select {
	case <-w.ch:
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if at := slices.Index(l.waiting, w); at >= 0 {
		l.waiting = slices.Delete(l.waiting, at, at+1)
		l.letIn() // it may have stood before somebody smaller
		return fmt.Errorf("wait for room in the log: %w", ctx.Err())
	}
	if !w.granted {
		return l.refusal()
	}
	return nil
}

// Return implements Log.
func (l *FileLog) Return(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reserved -= int64(n)
	l.letIn()
}

// refusal is why the log takes no records; nil when it does. Call with l.mu held.
func (l *FileLog) refusal() error {
	if l.err == nil && l.ending {
		return ErrClosed
	}
	return l.err
}

// hasRoom tells whether n more bytes may come. One record always may when nothing
// else is there. Call with l.mu held.
func (l *FileLog) hasRoom(n int64) bool {
	queued, held := l.stats.QueuedBytes+l.reserved, l.stats.UncommittedBytes
	if queued > 0 && queued+n > queueFactor*int64(l.cfg.MaxBatch) {
		return false
	}
	return queued+held == 0 || queued+held+n <= l.cfg.MaxUncommitted
}

// Append implements Log.
func (l *FileLog) Append(r *Record) (LSN, error) {
	n := r.size()
	if n > l.largest {
		return 0, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, n, l.largest)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.refusal(); err != nil {
		return 0, err
	}
	lsn := l.next
	l.next++
	l.stats.QueuedBytes += int64(n)
	l.reserved -= int64(r.Reserved)
	if len(l.queue) > 0 || !l.place(lsn, r) {
		l.queue = append(l.queue, r)
	}
	l.wake.Signal()
	return lsn, nil
}

// Durable implements Log.
func (l *FileLog) Durable() LSN {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.durable
}

// Place implements Log.
func (l *FileLog) Place(LSN) int64 { return 0 }

// Stats implements Log.
func (l *FileLog) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stats
}

// write is the writer: it commits what has gathered, again and again. The context
// ends only when there will be no further segment.
func (l *FileLog) write(ctx context.Context) error {
	for {
		b := l.take()
		if b == nil {
			return l.close()
		}
		if err := l.commit(ctx, b); err != nil {
			l.fail(err, b)
			return err
		}
		l.publish(b)
	}
}

// place copies the record into the block that takes appends, or into a new one,
// and tells whether there was room. Call with l.mu held.
func (l *FileLog) place(lsn LSN, r *Record) bool {
	if !l.fill.fits(r.size()) {
		n := len(l.spare)
		if n == 0 || len(l.fill.recs) == 0 || !l.spare[n-1].fits(r.size()) {
			return false
		}
		l.full = append(l.full, l.fill)
		l.fill, l.spare = l.spare[n-1], l.spare[:n-1]
	}
	l.fill.add(lsn, r)
	return true
}

// take waits for records and returns them as a block; nil: the log ends and all
// is written. The sync in flight was the clock: whatever came meanwhile goes
// together. No block is being written now, so at least one is spare or full.
func (l *FileLog) take() *block {
	l.mu.Lock()
	for len(l.full) == 0 && len(l.fill.recs) == 0 && len(l.queue) == 0 {
		if l.ending {
			l.mu.Unlock()
			return nil
		}
		l.wake.Wait()
	}
	var b *block
	if len(l.full) > 0 {
		b = l.full[0]
		l.full = append(l.full[:0], l.full[1:]...)
	} else if n := len(l.spare); len(l.fill.recs) > 0 {
		b = l.fill
		l.fill, l.spare = l.spare[n-1], l.spare[:n-1]
	}
	if b != nil {
		l.refill()
		l.mu.Unlock()
		return b
	}
	// Only a record that is larger than a block is left in the queue while the
	// blocks are empty. It gets a block for itself, made without the lock: appends
	// go on behind it.
	r, lsn := l.queue[0], l.next-LSN(len(l.queue))
	l.queue[0] = nil
	l.queue = l.queue[1:]
	l.refill()
	l.mu.Unlock()
	b = newBlock(recordHeaderBytes+r.size(), l.align)
	b.add(lsn, r)
	return b
}

// refill moves records from the queue into blocks, as far as they fit. Call with
// l.mu held.
func (l *FileLog) refill() {
	for len(l.queue) > 0 && l.place(l.next-LSN(len(l.queue)), l.queue[0]) {
		l.queue[0] = nil
		l.queue = l.queue[1:]
	}
	if len(l.queue) == 0 {
		l.queue = nil
	}
}

// commit makes the block durable.
func (l *FileLog) commit(ctx context.Context, b *block) error {
	n := padded(int64(b.n), l.align)
	if l.current.used+n > l.current.room(l.align)-int64(l.align) { // the end block has to fit, too
		if err := l.nextSegment(ctx); err != nil {
			return err
		}
	}
	start := time.Now()
	err := l.commitTo(b)
	took := time.Since(start)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &l.stats
	s.Commits++
	s.WrittenBytes += n
	s.CommitNanos += took.Nanoseconds()
	return nil
}

func (l *FileLog) commitTo(b *block) error {
	durable := b.first - 1 // all before this block was synced before it was taken
	s := l.current
	sealed := b.seal(header{
		align: l.align, id: l.id, seq: s.seq, segment: l.cfg.SegmentBytes, prevDurable: durable,
	})
	limit, err := l.cover(b, s.used+int64(len(sealed)))
	if err != nil {
		return err
	}
	if err := s.commit(sealed); err != nil {
		return err
	}
	s.limit = limit
	return nil
}

// punctuate writes a block without records: the end of the segment or of the log.
func (l *FileLog) punctuate(k kind) error {
	b := newBlock(0, l.align)
	b.kind, b.first = k, l.durable+1 // the writer alone changes durable
	return l.commitTo(b)
}

// nextSegment ends the current segment and goes on in the prepared one.
func (l *FileLog) nextSegment(ctx context.Context) error {
	if err := l.punctuate(kindEnd); err != nil {
		return err
	}
	var p preparation
	stalled := false
	select {
	case p = <-l.prepared:
	default:
		stalled = true
		select {
		case p = <-l.prepared:
		case <-ctx.Done():
			p.err = fmt.Errorf("no segment to go on in: %w", context.Cause(ctx))
		}
	}
	if p.err != nil {
		return p.err
	}
	if err := l.current.file.Close(); err != nil {
		return fmt.Errorf("close segment: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.current = p.segment
	l.files[len(l.files)-1].last = l.durable
	l.files = append(l.files, l.current.segment)
	l.stats.Segments++
	if stalled {
		l.stats.SegmentStalls++
	}
	return nil
}

// publish tells everybody that the block is durable.
func (l *FileLog) publish(b *block) {
	l.mu.Lock()
	l.durable = b.last()
	n := padded(int64(b.n), l.align)
	l.written = append(l.written, written{b.first, b.last(), l.current.seq, l.current.used - n, n})
	s := &l.stats
	s.Records += int64(len(b.recs))
	s.RecordBytes += int64(b.bytes)
	s.QueuedBytes -= int64(b.bytes)
	s.UncommittedBytes += n
	l.letIn()
	l.mu.Unlock()
	// True now: a crash keeps every record of the block.
	for i, r := range b.recs {
		if r.Done != nil {
			r.Done(b.first+LSN(i), nil)
		}
	}
	b.reset()
	l.mu.Lock()
	if len(l.spare)+len(l.full)+1 < blocks { // else it was made for one record
		l.spare = append(l.spare, b)
	}
	l.mu.Unlock()
}

// close ends the log cleanly. That it is closed is written only now that every
// record is durable.
func (l *FileLog) close() error {
	if err := l.punctuate(kindClose); err != nil {
		err = fmt.Errorf("close log: %w", err)
		l.fail(err, nil)
		return err
	}
	return nil
}

// fail makes err the end of the log: the block that was being committed, if any,
// and all that was appended since are answered with it, in order. Only the first
// failure counts. It runs on the writer's goroutine, or after that has ended.
func (l *FileLog) fail(err error, b *block) {
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return
	}
	l.err = fmt.Errorf("%w: %w", ErrFailed, err)
	var recs []*Record
	if b != nil {
		recs = append(recs, b.recs...)
	}
	for _, f := range l.full {
		recs = append(recs, f.recs...)
	}
	recs = append(recs, l.fill.recs...)
	recs = append(recs, l.queue...)
	l.fill.reset()
	l.full, l.queue = nil, nil
	l.stats.QueuedBytes = 0
	first := l.next - LSN(len(recs))
	l.letIn()
	l.mu.Unlock()
	for i, r := range recs {
		if r.Done != nil {
			r.Done(first+LSN(i), l.err)
		}
	}
}
