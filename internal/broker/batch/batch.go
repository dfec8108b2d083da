// Package batch is what travels through the tape: Kafka record batches of
// format 2 as bytes. It checks them, reads and patches their headers, iterates
// over them and their records, and holds the two pure state machines that
// depend on headers alone: a producer's sequence window (Producer) and a
// partition's transactions (Transactions).
//
// It does no I/O, reads no clock and takes no lock. A batch is never
// re-encoded; what may change in one is what tape.md P20 lists:
//
//	 0 base offset      int64  patched when offsets are given
//	 8 length           int32  bytes after this field
//	12 leader epoch     int32  patched when offsets are given
//	16 magic            int8   2
//	17 crc              uint32 CRC32C of everything from attributes on
//	21 attributes       int16  0-2 compression, 3 time type, 4 transactional, 5 control, 6 delete horizon
//	23 last offset delta int32
//	27 base timestamp   int64  ms
//	35 max timestamp    int64  ms, patched under LogAppendTime
//	43 producer id      int64  -1 none
//	51 producer epoch   int16
//	53 base sequence    int32
//	57 record count     int32
//	61 records
//
// Bytes are hostile until Check has passed: every reading method of Batch may
// be called only on bytes that Next or Check accepted, then none can panic.
package batch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"
	"math"

	"github.com/looptape/looptape/internal/base/crc32c"
)

// HeaderSize is the length of a batch without records, in bytes.
const HeaderSize = 61

// lengthPrefix is what the length field does not count: base offset and itself.
const lengthPrefix = 12

const (
	posLength      = 8
	posLeaderEpoch = 12
	posMagic       = 16
	posCRC         = 17
	posAttributes  = 21
	posLastDelta   = 23
	posBaseTime    = 27
	posMaxTime     = 35
	posProducerID  = 43
	posProdEpoch   = 51
	posSequence    = 53
	posCount       = 57
)

const (
	attrCompression   = 0x07
	attrLogAppendTime = 0x08
	attrTransactional = 0x10
	attrControl       = 0x20
)

// What can be wrong with the bytes of a batch. Errors of this package wrap one
// of them.
var (
	ErrShort       = errors.New("batch is cut short")
	ErrMagic       = errors.New("batch is not of format 2")
	ErrLength      = errors.New("batch has an impossible length")
	ErrCRC         = errors.New("batch fails its CRC32C")
	ErrCount       = errors.New("batch has an impossible record count")
	ErrCompression = errors.New("batch has an unknown compression")
	ErrRecord      = errors.New("batch holds a malformed record")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Batch is the bytes of exactly one batch, as returned by Next or accepted by Check.
type Batch []byte

func (b Batch) BaseOffset() int64      { return int64(binary.BigEndian.Uint64(b)) }
func (b Batch) Length() int32          { return int32(binary.BigEndian.Uint32(b[posLength:])) }
func (b Batch) LeaderEpoch() int32     { return int32(binary.BigEndian.Uint32(b[posLeaderEpoch:])) }
func (b Batch) CRC() uint32            { return binary.BigEndian.Uint32(b[posCRC:]) }
func (b Batch) Attributes() int16      { return int16(binary.BigEndian.Uint16(b[posAttributes:])) }
func (b Batch) LastOffsetDelta() int32 { return int32(binary.BigEndian.Uint32(b[posLastDelta:])) }
func (b Batch) BaseTimestamp() int64   { return int64(binary.BigEndian.Uint64(b[posBaseTime:])) }
func (b Batch) MaxTimestamp() int64    { return int64(binary.BigEndian.Uint64(b[posMaxTime:])) }
func (b Batch) ProducerID() int64      { return int64(binary.BigEndian.Uint64(b[posProducerID:])) }
func (b Batch) ProducerEpoch() int16   { return int16(binary.BigEndian.Uint16(b[posProdEpoch:])) }
func (b Batch) BaseSequence() int32    { return int32(binary.BigEndian.Uint32(b[posSequence:])) }
func (b Batch) Count() int32           { return int32(binary.BigEndian.Uint32(b[posCount:])) }

// LastOffset is the offset of the batch's last record slot.
func (b Batch) LastOffset() int64 { return b.BaseOffset() + int64(b.LastOffsetDelta()) }

// LastSequence is the sequence number of the last record; sequences wrap from
// the largest int32 to 0.
func (b Batch) LastSequence() int32 { return addSequence(b.BaseSequence(), b.LastOffsetDelta()) }

func (b Batch) IsControl() bool       { return b.Attributes()&attrControl != 0 }
func (b Batch) IsTransactional() bool { return b.Attributes()&attrTransactional != 0 }
func (b Batch) IsLogAppendTime() bool { return b.Attributes()&attrLogAppendTime != 0 }

// HasProducer reports whether the batch was written by an idempotent producer.
func (b Batch) HasProducer() bool { return b.ProducerID() >= 0 }

// Compression returns 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
func (b Batch) Compression() int { return int(b.Attributes() & attrCompression) }

// SetBaseOffset patches the base offset, which the CRC does not cover.
func (b Batch) SetBaseOffset(offset int64) { binary.BigEndian.PutUint64(b, uint64(offset)) }

// SetLeaderEpoch patches the leader epoch, which the CRC does not cover.
func (b Batch) SetLeaderEpoch(epoch int32) {
	binary.BigEndian.PutUint32(b[posLeaderEpoch:], uint32(epoch))
}

// SetLogAppendTime marks the batch as stamped by the log at ms and recomputes
// the CRC. The CRC of the bytes as they came must have been checked before.
func (b Batch) SetLogAppendTime(ms int64) {
	binary.BigEndian.PutUint16(b[posAttributes:], uint16(b.Attributes()|attrLogAppendTime))
	binary.BigEndian.PutUint64(b[posMaxTime:], uint64(ms))
	b.seal()
}

func (b Batch) seal() {
	binary.BigEndian.PutUint32(b[posCRC:], crc32.Checksum(b[posAttributes:], castagnoli))
}

// Next cuts the first batch off b. The batch is complete, of format 2, and its
// header fields are possible; its CRC is not checked.
func Next(b []byte) (first Batch, rest []byte, err error) {
	if len(b) < HeaderSize {
		// The magic byte says more than "short" when it is there.
		if len(b) > posMagic && b[posMagic] != 2 {
			return nil, b, fmt.Errorf("%w: magic %d", ErrMagic, int8(b[posMagic]))
		}
		return nil, b, fmt.Errorf("%w: %d bytes, a header has %d", ErrShort, len(b), HeaderSize)
	}
	if b[posMagic] != 2 {
		return nil, b, fmt.Errorf("%w: magic %d", ErrMagic, int8(b[posMagic]))
	}
	h := Batch(b)
	n := int64(h.Length())
	if n < HeaderSize-lengthPrefix {
		return nil, b, fmt.Errorf("%w: %d", ErrLength, n)
	}
	if size := n + lengthPrefix; size > int64(len(b)) {
		return nil, b, fmt.Errorf("%w: %d bytes of %d", ErrShort, len(b), size)
	}
	first, rest = Batch(b[:n+lengthPrefix:n+lengthPrefix]), b[n+lengthPrefix:]
	delta, count := first.LastOffsetDelta(), first.Count()
	// Compaction leaves holes, so fewer records than offsets are possible; more never.
	if delta < 0 || count < 0 || int64(count) > int64(delta)+1 {
		return nil, b, fmt.Errorf("%w: %d records, last offset delta %d", ErrCount, count, delta)
	}
	if base := first.BaseOffset(); base > math.MaxInt64-int64(delta)-1 {
		return nil, b, fmt.Errorf("%w: base offset %d with delta %d", ErrCount, base, delta)
	}
	return first, rest, nil
}

// Check accepts b if it is exactly one complete batch whose CRC is right.
func Check(b []byte) error {
	first, rest, err := Next(b)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return fmt.Errorf("%w: %d bytes follow the batch", ErrLength, len(rest))
	}
	return first.CheckCRC()
}

// CheckCRC compares the stored CRC with that of the bytes.
func (b Batch) CheckCRC() error {
	if got, want := crc32.Checksum(b[posAttributes:], castagnoli), b.CRC(); got != want {
		return fmt.Errorf("%w: stored %08x, computed %08x", ErrCRC, want, got)
	}
	return nil
}

// sumFrom is the size from which it is cheaper to derive a batch's checksum than
// to compute it.
const sumFrom = 16 << 10

// Sum is the CRC-32C of all bytes of a large batch whose own CRC is right, which
// covers everything from the attributes on and is not computed again; 0 for a
// batch so small that computing it costs less.
func (b Batch) Sum() uint32 {
	if len(b) < sumFrom {
		return 0
	}
	return crc32c.Concat(crc32c.Sum(b[:posAttributes]), b.CRC(), int64(len(b)-posAttributes))
}

// CheckProduced is what a batch must fulfil beyond Check to be appended: at
// least one record, an offset for each and no other, a known compression, and,
// where the records are not compressed, well-formed records with consecutive
// offset deltas. Compressed records are opaque to the broker.
func (b Batch) CheckProduced() error {
	if b.Compression() > 4 {
		return fmt.Errorf("%w: %d", ErrCompression, b.Compression())
	}
	if b.Count() < 1 || b.Count()-1 != b.LastOffsetDelta() {
		return fmt.Errorf("%w: %d records, last offset delta %d", ErrCount, b.Count(), b.LastOffsetDelta())
	}
	if b.Compression() != 0 {
		return nil
	}
	return b.checkRecords()
}

// Split iterates over the complete batches of b and ends at the first bytes
// that are none.
func Split(b []byte) iter.Seq[Batch] {
	return func(yield func(Batch) bool) {
		for len(b) > 0 {
			first, rest, err := Next(b)
			if err != nil || !yield(first) {
				return
			}
			b = rest
		}
	}
}
