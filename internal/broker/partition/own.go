package partition

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/read"
)

// A GapError says that a log's next record of a partition does not continue what
// is known of it: something durable is missing. It is an ErrCorrupt.
type GapError struct {
	ID         ID
	Want, Base int64 // offset expected, and of the record
}

func (e *GapError) Error() string {
	return fmt.Sprintf("%s continues at offset %d, the log's next record starts at %d", e.ID, e.Want, e.Base)
}

func (e *GapError) Unwrap() error { return ErrCorrupt }

// NewRecovery returns a set that takes the log of a dead broker: Prepare and
// Replay fill it, Next and Committed bring it into objects. It serves nobody; who
// leads the partitions afterwards opens them from the objects.
func NewRecovery(cat *catalog.Catalog, reader *read.Reader, cfg Config) *Set {
	cfg.RetainBytes = -1
	s := NewSet(cat, reader, nil, 0, cfg)
	s.foreign = true
	return s
}

// RecordID returns the partition of a log record, without a look at the rest of it.
func RecordID(data []byte) (ID, bool) {
	if len(data) < recordHeader || data[0] != recordVersion {
		return ID{}, false
	}
	var id ID
	copy(id.Topic[:], data[4:])
	id.Index = int32(binary.BigEndian.Uint32(data[20:]))
	return id, true
}

// Prepare loads a partition that records of are about to be replayed, from what
// objects hold of it. It may be called from many goroutines.
func (s *Set) Prepare(ctx context.Context, id ID) error {
	if len(s.catalog.Extents(id.catalog())) == 0 {
		return nil // Replay starts with the log's first record
	}
	err := s.Load(ctx, id)
	if errors.Is(err, ErrUnknownPartition) {
		return nil // deleted; so are its records
	}
	return err
}

// Idle says that nothing is on its way to objects.
func (s *Set) Idle() bool {
	s.cutMu.Lock()
	defer s.cutMu.Unlock()
	return s.open == nil && s.flushing == 0
}

// elsewhere tells whether a record of our own log belongs to a partition that
// another broker leads by now. It can be left out then: a partition moves only
// when all of it is in objects.
func (s *Set) elsewhere(r Record) (bool, error) {
	if s.foreign || s.catalog.Owns(r.ID.catalog()) {
		return false, nil
	}
	end := s.catalog.Record(r.ID.catalog()).LogStart
	if all := s.catalog.Extents(r.ID.catalog()); len(all) > 0 {
		end = max(end, all[len(all)-1].End)
	}
	if r.Last >= end {
		return false, fmt.Errorf("%w: %s is led by another broker, which has it up to offset %d, and our log has %d", ErrCorrupt, r.ID, end, r.Last)
	}
	return true, nil
}

// Open makes a partition ready that this broker has become the leader of. Until
// then Get answers ErrLoading. The index shows everything that was committed
// before the partition was assigned, so what is read is all there is: no log is
// read and no high watermark is guessed.
func (s *Set) Open(ctx context.Context, id ID) error {
	p, err := s.load(ctx, id)
	if err != nil {
		return fmt.Errorf("open partition: %w", err)
	}
	p.recovered()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.parts[id] != nil || !s.Exists(id) {
		return nil
	}
	p.closed = s.closing.Load()
	s.parts[id] = p
	return nil
}

// Leave closes a partition that another broker leads now.
func (s *Set) Leave(id ID) {
	s.mu.Lock()
	p := s.parts[id]
	delete(s.parts, id)
	s.mu.Unlock()
	if p != nil {
		p.leave()
	}
}

// leave ends the partition for its users, who are told to look for the leader.
func (p *Partition) leave() {
	p.mu.Lock()
	p.left = true
	p.mu.Unlock()
	p.close()
}

// gone is why a closed partition takes nothing. p.mu is held.
func (p *Partition) gone() error {
	if p.left || p.set.closing.Load() {
		return ErrNotLeader
	}
	return ErrUnknownPartition
}

// EncodeRecord returns what precedes the batches in a log record.
func EncodeRecord(id ID, epoch int32, base, last int64, batches int32) []byte {
	return encodeRecord(make([]byte, 0, recordHeader), id, epoch, base, last, batches)
}
