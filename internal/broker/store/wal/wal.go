// Package wal makes records durable: one log for everything a broker appends.
//
// Many callers append; the log commits what has gathered as one block with one
// sync, and only then calls each record's Done, in LSN order. While a sync is in
// flight the next block fills; there is no timer. Records are opaque bytes.
//
// Each start of a broker is an epoch. An epoch writes only its own segments, and
// its LSNs count from 1 without a gap. Before a new epoch opens, Recover reads
// what the dead ones left; Open then writes down where each of them ended,
// together with their last block, whose sync nobody can vouch for, so that every
// later recovery comes to the same end. A segment stays until Trim or TrimEpoch
// says that all of it is committed elsewhere, and is then used again.
//
// How it fails. A failed write or sync is final: the outcome of what was in
// flight is unknown, every record from there on is answered with the error, Run
// returns it, and the process has to end and recover. Recovery drops a torn last
// block, which was never acknowledged, and refuses anything else that is damaged
// with a *CorruptError; it never skips a record and never invents one.
// A full disk stops nothing at once: segments are written from end to end before
// they are used, and used again. While the next one can't be made, appends go on
// in the current one; when that is full, too, the log fails and says why, and
// nothing that was acknowledged is lost. A trim in time makes room.
//
// FileLog is the log in local files; docs/format/wal.md draws its bytes.
package wal

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// An LSN is the place of a record in the log of one epoch: 1, 2, 3 ...; 0 is
// before the first.
type LSN int64

// A Record is one thing to make durable. It belongs to the log from Append until
// its Done was called.
type Record struct {
	// Data is written one after the other and comes back as one from Recover.
	// It must not change between Append and Done.
	Data [2][]byte

	// Sum is the CRC-32C of Data[1] if the caller knows it, else 0: it saves
	// computing it again. A wrong one makes the log unreadable.
	Sum uint32

	// Reserved is how many of the bytes that Reserve set aside the record stands
	// for: they are free again, for its own bytes, when Append returned no error.
	Reserved int

	// Done is called exactly once, in LSN order, from the one goroutine of the
	// log: with nil when the record and all before it are durable, else with the
	// log's final error, after which it is unknown whether a recovery will find
	// the record. It must not block and must not call Reserve. It is not called
	// when Append returned an error.
	Done func(LSN, error)
}

// size is the number of bytes of the record's data.
func (r *Record) size() int { return len(r.Data[0]) + len(r.Data[1]) }

// Identity says whose log it is. WALID never changes for a data directory; Epoch
// is above every earlier one.
type Identity struct {
	WALID [16]byte
	Epoch int64
}

// A Log makes records durable.
type Log interface {
	// Run does the log's work until ctx ends, then commits what was appended,
	// closes the log cleanly and returns nil. An error is final, see the
	// package's doc. Run is called once.
	Run(ctx context.Context) error

	// Reserve waits until there is room for n more bytes, in memory and below the
	// bound of what is not yet trimmed, and sets them aside, in the order of the
	// calls. A record more than there is room for at all gets through alone. Say
	// so in Record.Reserved, or give them back with Return. Call it before taking
	// any lock that Done needs.
	Reserve(ctx context.Context, n int) error

	// Return gives back bytes that Reserve set aside and no record will use.
	Return(n int)

	// Append gives the record the next LSN. The order of the calls is the order
	// of the LSNs. It never waits for the disk. ErrClosed after the end of Run,
	// ErrTooLarge for a record above Config.MaxRecord, the final error after a
	// failure; Done is then not called.
	Append(*Record) (LSN, error)

	// Durable is the last LSN that is durable, with all before it.
	Durable() LSN

	// Trim says that all records of the log's own epoch up to and including upto
	// are committed elsewhere and nobody will read them here again.
	Trim(upto LSN) error

	// TrimEpoch is Trim for an epoch that was adopted, see Recover.
	TrimEpoch(epoch int64, upto LSN) error

	// Place says where a recovery of this epoch may begin when everything up to
	// and including lsn is committed: for a log of slots the number of the last
	// slot that lies wholly at or below lsn, 0 when there is none. A log in files
	// finds its place itself and says 0.
	Place(lsn LSN) int64

	// Stats returns the log's counters and gauges.
	Stats() Stats

	// Close lets go of what the log holds. Call it after Run returned, or instead
	// of Run.
	Close() error
}

var (
	// ErrClosed says that the log takes no records, since Run ended or is ending.
	ErrClosed = errors.New("log closed")
	// ErrTooLarge says that a record is above the configured maximum.
	ErrTooLarge = errors.New("record too large for the log")
	// ErrFailed is wrapped by every answer after a failed write or sync.
	ErrFailed = errors.New("log failed")
	// ErrEpoch says that an epoch is not above those in the directory, or is
	// none of the adopted ones.
	ErrEpoch = errors.New("wrong epoch")
	// ErrFenced says that another broker has taken this log over: it takes no
	// record any more, nothing that was not answered yet may be acknowledged, and
	// the process has to end.
	ErrFenced = errors.New("log taken over by another broker")
)

// IDOf is the id of a broker's log in files. It never changes.
func IDOf(cluster string, broker int32) [16]byte {
	sum := sha256.Sum256(binary.BigEndian.AppendUint32([]byte(cluster), uint32(broker)))
	return [16]byte(sum[:])
}

// A CorruptError says that what was durable is damaged. Nothing repairs it; an
// operator has to decide.
type CorruptError struct {
	File   string
	Offset int64 // of the block, in bytes
	What   string
	Want   string
	Got    string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("corrupt log: %s at byte %d: %s: want %s, got %s", e.File, e.Offset, e.What, e.Want, e.Got)
}

// Config tunes a FileLog. The zero value is the default.
type Config struct {
	// SegmentBytes is the size of a segment file. Two exist at least. Default
	// 128 MiB.
	SegmentBytes int64
	// MaxUncommitted bounds the bytes that are not trimmed; Reserve waits above
	// it. Default 512 MiB.
	MaxUncommitted int64
	// MaxBatch is the size of a commit buffer and so of the usual largest block.
	// Default 4 MiB.
	MaxBatch int
	// MaxRecord is the largest record. Above MaxBatch a record gets a block of
	// its own. Default 64 MiB, and never more than a segment holds.
	MaxRecord int
	// Buffered keeps the log in the page cache instead of writing past it.
	Buffered bool
}

func (c Config) withDefaults() Config {
	if c.SegmentBytes <= 0 {
		c.SegmentBytes = 128 << 20
	}
	c.SegmentBytes = max(minSegmentBytes, padded(c.SegmentBytes, minAlign))
	if c.MaxUncommitted <= 0 {
		c.MaxUncommitted = 512 << 20
	}
	if c.MaxBatch <= 0 {
		c.MaxBatch = 4 << 20
	}
	if c.MaxRecord <= 0 {
		c.MaxRecord = 64 << 20
	}
	return c
}

// Stats are a log's counters since Open, and gauges.
type Stats struct {
	Records          int64 // made durable
	RecordBytes      int64 // of data made durable
	Commits          int64 // blocks written and synced
	WrittenBytes     int64 // to the files, with headers and padding
	CommitNanos      int64 // spent in write and sync
	Segments         int64 // begun
	SegmentStalls    int64 // commits that waited for a segment to be prepared
	ReserveWaits     int64 // Reserve calls that had to wait
	QueuedBytes      int64 // gauge: appended, not yet durable
	UncommittedBytes int64 // gauge: not yet trimmed, adopted epochs included
}
