package partition

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/read"
	"github.com/looptape/looptape/internal/broker/store/wal"
)

// Config tunes a Set. The zero value is the default.
type Config struct {
	// SealBytes is the size at which a cut goes to the object store, or a 1024th
	// of it for each partition in it if that is more. Default 64 MiB.
	SealBytes int64
	// SealAfter is the age at which it does, whatever its size. Default 30 s.
	SealAfter time.Duration
	// MaxUnflushed bounds the bytes in memory that are not in objects; appends
	// wait above it. Default 128 MiB, at least 2 SealBytes.
	MaxUnflushed int64
	// ChunkBytes is the size of the pieces in which that memory is kept and used
	// again. Default 4 MiB.
	ChunkBytes int
	// RetainBytes bounds what stays in memory for readers after it is in objects.
	// It only uses what MaxUnflushed leaves. Default 32 MiB, negative none.
	RetainBytes int64
	// ProducerExpiry is how long a silent producer is remembered. Default 24 h.
	ProducerExpiry time.Duration
	// MaxProducers bounds the producers remembered of a partition. Default 10,000.
	MaxProducers int
	// Now is the wall clock. Default time.Now.
	Now func() time.Time
}

func (c Config) withDefaults() Config {
	if c.SealBytes <= 0 {
		c.SealBytes = 64 << 20
	}
	if c.SealAfter <= 0 {
		c.SealAfter = 30 * time.Second
	}
	if c.MaxUnflushed <= 0 {
		c.MaxUnflushed = 128 << 20
	}
	c.MaxUnflushed = max(c.MaxUnflushed, 2*c.SealBytes)
	if c.ChunkBytes <= 0 {
		c.ChunkBytes = 4 << 20
	}
	if c.RetainBytes == 0 {
		c.RetainBytes = 32 << 20
	}
	if c.ProducerExpiry <= 0 {
		c.ProducerExpiry = 24 * time.Hour
	}
	if c.MaxProducers <= 0 {
		c.MaxProducers = 10_000
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// sealShare keeps objects of very many partitions from being all index: a cut
// of n partitions has at least n of these shares of SealBytes.
const sealShare = 1024

// Starts changes log starts durably: *catalog.Writer.
type Starts interface {
	SetLogStart(ctx context.Context, p catalog.Partition, before int64) (int64, error)
}

// Set is all partitions this broker leads, with the memory they share.
type Set struct {
	catalog *catalog.Catalog
	reader  *read.Reader
	starts  Starts
	cfg     Config
	epoch   int64
	foreign bool    // it recovers another broker's log and serves nobody
	log     wal.Log // set by Serve
	room    room
	arena   arena
	closing atomic.Bool

	mu      sync.RWMutex
	parts   map[ID]*Partition
	damaged map[ID]error // could not be loaded, for what is in objects is corrupt

	cutMu    sync.Mutex
	open     *Cut
	ready    []*Cut // sealed, oldest first
	flushing int    // sealed or handed out, not yet committed
	retained []*Cut // committed, still in memory, oldest first
	kept     int64  // bytes of retained
	signal   chan struct{}
}

// NewSet returns a set without partitions for one broker epoch. Recovery fills
// it (Load, Replay), then Serve opens it.
func NewSet(cat *catalog.Catalog, reader *read.Reader, starts Starts, epoch int64, cfg Config) *Set {
	cfg = cfg.withDefaults()
	s := &Set{
		catalog: cat, reader: reader, starts: starts, cfg: cfg, epoch: epoch,
		parts: map[ID]*Partition{}, damaged: map[ID]error{}, signal: make(chan struct{}, 1),
	}
	s.room.init(cfg.MaxUnflushed)
	s.arena.bytes = cfg.ChunkBytes
	return s
}

// Serve gives the set its log; appends are possible from here on.
func (s *Set) Serve(log wal.Log) { s.log = log }

// Get returns a partition this broker leads. ErrUnknownPartition, ErrNotLeader,
// ErrLoading.
func (s *Set) Get(id ID) (*Partition, error) {
	s.mu.RLock()
	p := s.parts[id]
	s.mu.RUnlock()
	if p != nil {
		return p, nil
	}
	if s.closing.Load() {
		return nil, fmt.Errorf("%w: %s", ErrNotLeader, id)
	}
	t, ok := s.catalog.TopicByID(id.Topic)
	if !ok || id.Index < 0 || id.Index >= t.Partitions {
		return nil, fmt.Errorf("%w: %s", ErrUnknownPartition, id)
	}
	if !s.catalog.Owns(id.catalog()) {
		return nil, fmt.Errorf("%w: %s", ErrNotLeader, id)
	}
	if len(s.catalog.Extents(id.catalog())) > 0 {
		return nil, fmt.Errorf("%w: %s", ErrLoading, id)
	}
	// Nothing of it is in objects: it is new, or everything was deleted.
	record := s.catalog.Record(id.catalog())
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.parts[id]; p != nil {
		return p, nil
	}
	p = s.fresh(id, t.Name, record)
	p.closed = s.closing.Load()
	s.parts[id] = p
	return p, nil
}

func (s *Set) fresh(id ID, name string, r catalog.Record) *Partition {
	p := &Partition{
		id: id, name: name, set: s, next: r.LogStart, high: r.LogStart, logStart: r.LogStart,
		epoch: r.LeaderEpoch, appended: -1, producers: map[int64]*producer{},
	}
	return p
}

// Load opens a partition from what objects hold of it: its end, producer state
// and open transactions. It reads one tail section, seldom up to nine. When that is
// damaged, an ErrCorrupt: the partition stays closed, and Replay refuses its records.
func (s *Set) Load(ctx context.Context, id ID) error {
	p, err := s.load(ctx, id)
	if errors.Is(err, read.ErrCorrupt) {
		err = fmt.Errorf("%w: %w", ErrCorrupt, err)
		s.mu.Lock()
		s.damaged[id] = err
		s.mu.Unlock()
	}
	if err != nil {
		return fmt.Errorf("load partition: %w", err)
	}
	s.mu.Lock()
	s.parts[id] = p
	s.mu.Unlock()
	return nil
}

func (s *Set) load(ctx context.Context, id ID) (*Partition, error) {
	t, ok := s.catalog.TopicByID(id.Topic)
	if !ok {
		return nil, fmt.Errorf("%w: %s", ErrUnknownPartition, id)
	}
	state, err := s.reader.State(ctx, id.catalog())
	if err != nil {
		return nil, err
	}
	record := s.catalog.Record(id.catalog())
	p := s.fresh(id, t.Name, record)
	if state.Found {
		p.next, p.high = state.End, state.End
		p.epoch = max(p.epoch, state.LeaderEpoch)
		p.epochs = state.Epochs
		p.txns.Restore(state.Open)
		if t.Settings().LogAppendTime {
			p.appended = state.MaxTimestamp
		}
		p.book = book{depth: state.Depth, written: true, producers: make(map[int64]*batch.Producer, len(state.Producers))}
		now := s.cfg.Now().UnixMilli()
		for pid, known := range state.Producers {
			p.book.producers[pid] = &known
			p.producers[pid] = &producer{assigned: known, durable: &known, seen: now}
		}
		p.book.deltas = int(state.Depth) // at least one each; a full snapshot comes soon enough
	} else {
		p.next, p.high = 0, 0 // Replay starts at the first record it finds
	}
	return p, nil
}

// Drop closes the partitions of a deleted topic.
func (s *Set) Drop(topic catalog.TopicID) {
	var gone []*Partition
	s.mu.Lock()
	for id, p := range s.parts {
		if id.Topic == topic {
			gone = append(gone, p)
			delete(s.parts, id)
		}
	}
	s.mu.Unlock()
	for _, p := range gone {
		p.close()
	}
}

// All returns the open partitions, in no order.
func (s *Set) All() []ID {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := make([]ID, 0, len(s.parts))
	for id := range s.parts {
		all = append(all, id)
	}
	return all
}

// Close ends all partitions: no append is accepted any more.
func (s *Set) Close() {
	s.closing.Store(true)
	s.mu.RLock()
	all := make([]*Partition, 0, len(s.parts))
	for _, p := range s.parts {
		all = append(all, p)
	}
	s.mu.RUnlock()
	for _, p := range all {
		p.close()
	}
}

// Drain closes the set and waits until everything appended is in objects, or ctx
// ends.
func (s *Set) Drain(ctx context.Context) error {
	s.Close()
	s.poke()
	return s.room.empty(ctx)
}

// Replay takes a record of an earlier epoch's log that is not in objects, in the
// order of epochs and LSNs, and copies it. Records of deleted topics count for the
// log only.
// A hole in a partition's offsets is an error: something durable is missing.
func (s *Set) Replay(ctx context.Context, epoch int64, lsn wal.LSN, data []byte) error {
	r, err := DecodeRecord(data)
	if err != nil {
		return fmt.Errorf("replay LSN %d of epoch %d: %w", lsn, epoch, err)
	}
	s.cutMu.Lock()
	defer s.cutMu.Unlock()
	if s.open != nil && s.open.Epoch != epoch {
		return fmt.Errorf("replay LSN %d of epoch %d: epoch %d is not ended", lsn, epoch, s.open.Epoch)
	}
	cut := s.cut(epoch, lsn)
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.parts[r.ID]
	if p == nil {
		t, ok := s.catalog.TopicByID(r.ID.Topic)
		if !ok || r.ID.Index >= t.Partitions {
			return nil // deleted since
		}
		if skip, err := s.elsewhere(r); skip || err != nil {
			return err
		}
		if err := s.damaged[r.ID]; err != nil {
			return fmt.Errorf("replay LSN %d of epoch %d: %w", lsn, epoch, err)
		}
		p = s.fresh(r.ID, t.Name, s.catalog.Record(r.ID.catalog()))
		p.next, p.high = 0, 0
		s.parts[r.ID] = p
	}
	if err := p.replay(cut, r); err != nil {
		return fmt.Errorf("replay LSN %d of epoch %d: %w", lsn, epoch, err)
	}
	if cut.Bytes >= s.cfg.SealBytes {
		s.seal(false)
	}
	return nil
}

func (p *Partition) replay(cut *Cut, r Record) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.Last < p.next {
		return nil // an object has it already
	}
	if r.Base < p.next || r.Base > max(p.next, p.logStart) {
		return &GapError{r.ID, p.next, r.Base}
	}
	b, c := p.set.arena.take(len(r.Batches))
	copy(b, r.Batches)
	p.add(cut, b, c, r.LeaderEpoch, p.set.cfg.Now().UnixMilli())
	p.set.room.take(len(r.Batches))
	p.next = p.high
	return nil
}

// Replayed says that the epoch's log ends at last. It is called once for each
// adopted epoch, in order, also for those of which nothing was replayed.
func (s *Set) Replayed(epoch int64, last wal.LSN) {
	s.cutMu.Lock()
	defer s.cutMu.Unlock()
	if s.open == nil {
		s.open = &Cut{Epoch: epoch, First: last + 1, started: s.cfg.Now()}
	}
	s.open.Last = last
	s.seal(true)
}

// Recovered ends recovery: what was replayed is durable and can be served.
func (s *Set) Recovered() {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, p := range s.parts {
		p.recovered()
	}
}

// Exists says whether the partition's topic does.
func (s *Set) Exists(id ID) bool {
	_, ok := s.catalog.TopicByID(id.Topic)
	return ok
}

// recovered makes the state for checks equal to the durable one.
func (p *Partition) recovered() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.high < p.logStart {
		p.high = p.logStart
	}
	p.next = p.high
	for _, known := range p.producers {
		known.assigned = *known.durable
	}
	if n := len(p.tail); n > 0 {
		if t, ok := p.set.catalog.TopicByID(p.id.Topic); ok && t.Settings().LogAppendTime {
			p.appended = max(p.appended, p.tail[n-1].Max)
		}
	}
}

// cut returns the open cut with lsn in it. s.cutMu is held.
func (s *Set) cut(epoch int64, lsn wal.LSN) *Cut {
	if s.open == nil {
		s.open = &Cut{Epoch: epoch, First: lsn, started: s.cfg.Now()}
		s.poke() // the flusher arms its timer
	}
	s.open.Last = lsn
	return s.open
}

// publish makes a durable append visible. The log calls it in LSN order.
func (s *Set) publish(d *pending, lsn wal.LSN) {
	p := d.p
	s.cutMu.Lock()
	cut := s.cut(s.epoch, lsn)
	p.mu.Lock()
	p.add(cut, d.batches, d.chunk, batch.Batch(d.batches).LeaderEpoch(), s.cfg.Now().UnixMilli())
	out := Appended{Base: d.base, Last: d.last, LogAppendTime: d.stamp, LogStart: p.logStart}
	var repeats []repeat
	if len(p.repeats) > 0 {
		kept := p.repeats[:0:0]
		for _, r := range p.repeats {
			if r.last < p.high {
				repeats = append(repeats, r)
			} else {
				kept = append(kept, r)
			}
		}
		p.repeats = kept
	}
	p.mu.Unlock()
	switch {
	case cut.Bytes >= max(s.cfg.SealBytes, min(int64(len(cut.Segments))*(s.cfg.SealBytes/sealShare), s.cfg.MaxUnflushed/2)):
		s.seal(false)
	case s.room.waited() || s.closing.Load():
		s.poke()
	}
	s.cutMu.Unlock()
	d.done(out)
	for _, r := range repeats {
		out.Base, out.Last, out.Duplicate = r.base, r.last, true
		r.done(out)
	}
}

// seal hands the open cut to the flusher. s.cutMu is held.
func (s *Set) seal(final bool) {
	if s.open == nil {
		return
	}
	cut := s.open
	s.open = nil
	cut.Final = final
	for _, seg := range cut.Segments {
		seg.seal()
	}
	cut.sealed.Store(true)
	s.ready = append(s.ready, cut)
	s.flushing++
	s.poke()
}

func (s *Set) poke() {
	select {
	case s.signal <- struct{}{}:
	default:
	}
}

// Seal ends the open cut now, if there is one.
func (s *Set) Seal() {
	s.cutMu.Lock()
	defer s.cutMu.Unlock()
	s.seal(false)
}

// Next returns the next cut to put into objects, in log order. It waits until
// one is full, old enough, or wanted because appends wait for room.
func (s *Set) Next(ctx context.Context) (*Cut, error) {
	for {
		s.cutMu.Lock()
		var due time.Duration = -1
		if s.open != nil {
			due = max(0, s.open.started.Add(s.cfg.SealAfter).Sub(s.cfg.Now()))
			// A little more room helps nobody while larger cuts are on their way.
			if due == 0 || s.closing.Load() || s.room.waited() && s.flushing == 0 && s.open.Bytes > 0 {
				s.seal(false)
			}
		}
		if len(s.ready) > 0 {
			cut := s.ready[0]
			s.ready = slices.Delete(s.ready, 0, 1)
			s.cutMu.Unlock()
			return cut, nil
		}
		quiet := s.open == nil && s.flushing == 0
		s.cutMu.Unlock()
		if err := s.idle(ctx, due, quiet); err != nil {
			return nil, err
		}
	}
}

// idleAfter is how long nothing has to happen until free memory goes back to the
// system.
const idleAfter = 10 * time.Second

// idle waits for a signal or until something is due. With quiet set there is
// nothing that could become due.
func (s *Set) idle(ctx context.Context, due time.Duration, quiet bool) error {
	if quiet && s.arena.spare() {
		due = idleAfter
	}
	var timer <-chan time.Time
	if due >= 0 {
		t := time.NewTimer(due)
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-s.signal:
	case <-timer:
		if quiet {
			s.arena.trim()
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// Committed says that the cut is in objects and the catalog shows them. Cuts are
// committed in the order of Next. What memory allows stays for readers.
func (s *Set) Committed(cut *Cut) {
	s.cutMu.Lock()
	s.flushing--
	s.retained = append(s.retained, cut)
	s.kept += cut.Bytes
	used := s.room.give(cut.Bytes)
	var gone []*Cut
	for len(s.retained) > 0 && s.kept > max(0, min(s.cfg.RetainBytes, s.cfg.MaxUnflushed-used)) {
		gone = append(gone, s.retained[0])
		s.kept -= s.retained[0].Bytes
		s.retained = slices.Delete(s.retained, 0, 1)
	}
	waited := s.room.waited()
	s.cutMu.Unlock()
	for _, c := range gone {
		for _, seg := range c.Segments {
			seg.partition.forget(seg)
		}
	}
	if waited {
		s.poke()
	}
}

// forget drops a segment from memory; objects have it.
func (p *Partition) forget(seg *Segment) {
	p.mu.Lock()
	if at := slices.Index(p.tail, seg); at >= 0 {
		p.tail = slices.Delete(p.tail, at, at+1)
	}
	p.mu.Unlock()
	seg.chunks.release()
}

// Usage says how much memory the records take.
type Usage struct {
	Unflushed int64 // bytes not in objects yet, appends in flight included
	Retained  int64 // bytes in objects, kept for readers
	Waiting   int64 // appends that wait for room
	Cuts      int   // sealed, not committed
}

// Usage returns the gauges.
func (s *Set) Usage() Usage {
	s.cutMu.Lock()
	defer s.cutMu.Unlock()
	used, waiting := s.room.state()
	return Usage{Unflushed: used, Retained: s.kept, Waiting: waiting, Cuts: s.flushing}
}
