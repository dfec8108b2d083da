package batch

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// attrDeleteHorizon says that the base timestamp is the delete horizon.
const attrDeleteHorizon = 0x40

// DeleteHorizon is when the batch's tombstones, or the marker it is, may go, in
// ms. Compaction sets it when it first sees them.
func (b Batch) DeleteHorizon() (ms int64, ok bool) {
	return b.BaseTimestamp(), b.Attributes()&attrDeleteHorizon != 0
}

// Filtered is what compaction makes of a batch.
type Filtered struct {
	Batch   Batch // the batch itself if nothing changed; nil when no record is left
	Kept    int
	Dropped int
}

// Filter returns the batch with those records that keep accepts. Base and last
// offset and all producer fields stay, so do the records' own bytes, offsets and
// timestamps; the codec is the same. A horizon of 0 or more is recorded as the
// delete horizon unless the batch has one. The batch is not changed.
// ErrCompression, ErrRecord: the records can't be read.
func (b Batch) Filter(keep func(Record) bool, horizon int64) (Filtered, error) {
	body, err := b.Body()
	if err != nil {
		return Filtered{}, err
	}
	if _, has := b.DeleteHorizon(); has {
		horizon = -1
	}
	base := b.BaseTimestamp()
	if horizon >= 0 {
		base = horizon
	}
	var f Filtered
	newest := int64(-1)
	out := make([]byte, HeaderSize, HeaderSize+len(body)+16*int(min(b.Count(), 1<<16)))
	for i := int32(0); i < b.Count(); i++ {
		r, rest, ok := nextRecord(body)
		if !ok {
			return Filtered{}, fmt.Errorf("%w: record %d of %d", ErrRecord, i, b.Count())
		}
		raw := body[:len(body)-len(rest)]
		body = rest
		if !keep(r) {
			f.Dropped++
			continue
		}
		f.Kept++
		newest = max(newest, b.BaseTimestamp()+r.TimestampDelta)
		if base == b.BaseTimestamp() {
			out = append(out, raw...)
		} else {
			out = appendShifted(out, raw, b.BaseTimestamp()+r.TimestampDelta-base)
		}
	}
	if len(body) != 0 {
		return Filtered{}, fmt.Errorf("%w: %d bytes after the last of %d records", ErrRecord, len(body), b.Count())
	}
	switch {
	case f.Kept == 0:
		return f, nil
	case f.Dropped == 0 && base == b.BaseTimestamp() && horizon < 0:
		f.Batch = b
		return f, nil
	}
	if out, err = b.pack(out); err != nil {
		return Filtered{}, err
	}
	copy(out, b[:HeaderSize])
	v := Batch(out)
	binary.BigEndian.PutUint32(out[posLength:], uint32(len(out)-lengthPrefix))
	binary.BigEndian.PutUint32(out[posCount:], uint32(f.Kept))
	binary.BigEndian.PutUint64(out[posBaseTime:], uint64(base))
	if horizon >= 0 {
		binary.BigEndian.PutUint16(out[posAttributes:], uint16(b.Attributes()|attrDeleteHorizon))
	}
	if !b.IsLogAppendTime() {
		binary.BigEndian.PutUint64(out[posMaxTime:], uint64(newest))
	}
	v.seal()
	f.Batch = v
	return f, nil
}

// appendShifted appends a record with another timestamp delta.
func appendShifted(out, raw []byte, delta int64) []byte {
	_, n := varint(raw) // its length
	attributes := raw[n]
	_, m := varint(raw[n+1:])
	rest := raw[n+1+m:]
	var scratch [binary.MaxVarintLen64]byte
	stamp := scratch[:binary.PutVarint(scratch[:], delta)]
	out = binary.AppendVarint(out, int64(1+len(stamp)+len(rest)))
	out = append(out, attributes)
	out = append(out, stamp...)
	return append(out, rest...)
}

// errNoCodec can't happen: such a batch could not be unpacked either.
var errNoCodec = errors.New("unknown codec")

// pack compresses what follows the header of out as b's records are.
func (b Batch) pack(out []byte) ([]byte, error) {
	if b.Compression() == 0 {
		return out, nil
	}
	framed := b.Compression() == 2 && isXerial(b[HeaderSize:])
	packed, err := compress(make([]byte, HeaderSize, HeaderSize+len(out)/2), b.Compression(), out[HeaderSize:], framed)
	if err != nil {
		return nil, fmt.Errorf("%w: codec %d: %w", ErrCompression, b.Compression(), err)
	}
	return packed, nil
}

// Empty returns the batch without its records: it only says that its offsets and
// its producer's sequences were used.
func (b Batch) Empty() Batch {
	out := append(Batch(nil), b[:HeaderSize]...)
	binary.BigEndian.PutUint32(out[posLength:], HeaderSize-lengthPrefix)
	binary.BigEndian.PutUint16(out[posAttributes:], uint16(b.Attributes()&^(attrCompression|attrDeleteHorizon)))
	binary.BigEndian.PutUint64(out[posBaseTime:], uint64(b.MaxTimestamp()))
	binary.BigEndian.PutUint32(out[posCount:], 0)
	out.seal()
	return out
}
