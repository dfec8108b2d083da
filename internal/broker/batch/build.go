package batch

import (
	"encoding/binary"
	"math"
)

// Header is what Build needs beside the records. The zero value is a batch of
// no producer only with ProducerID -1, ProducerEpoch -1 and Sequence -1; see
// Plain.
type Header struct {
	BaseOffset    int64
	LeaderEpoch   int32
	Attributes    int16
	ProducerID    int64
	ProducerEpoch int16
	Sequence      int32
}

// Plain is the header of a batch without producer.
var Plain = Header{LeaderEpoch: -1, ProducerID: -1, ProducerEpoch: -1, Sequence: -1}

// KV is one record to build. A nil Key or Value is null.
type KV struct {
	Timestamp  int64 // ms
	Key, Value []byte
}

// Build returns a new uncompressed batch of records, which must be at least one.
func Build(h Header, records ...KV) []byte {
	b := make([]byte, HeaderSize, HeaderSize+64*len(records))
	base, last := records[0].Timestamp, int64(math.MinInt64)
	var scratch []byte
	for i, r := range records {
		last = max(last, r.Timestamp)
		scratch = append(scratch[:0], 0)
		scratch = binary.AppendVarint(scratch, r.Timestamp-base)
		scratch = binary.AppendVarint(scratch, int64(i))
		scratch = appendNullable(scratch, r.Key)
		scratch = appendNullable(scratch, r.Value)
		scratch = binary.AppendVarint(scratch, 0)
		b = binary.AppendVarint(b, int64(len(scratch)))
		b = append(b, scratch...)
	}
	v := Batch(b)
	v.SetBaseOffset(h.BaseOffset)
	binary.BigEndian.PutUint32(b[posLength:], uint32(len(b)-lengthPrefix))
	v.SetLeaderEpoch(h.LeaderEpoch)
	b[posMagic] = 2
	binary.BigEndian.PutUint16(b[posAttributes:], uint16(h.Attributes))
	binary.BigEndian.PutUint32(b[posLastDelta:], uint32(len(records)-1))
	binary.BigEndian.PutUint64(b[posBaseTime:], uint64(base))
	binary.BigEndian.PutUint64(b[posMaxTime:], uint64(last))
	binary.BigEndian.PutUint64(b[posProducerID:], uint64(h.ProducerID))
	binary.BigEndian.PutUint16(b[posProdEpoch:], uint16(h.ProducerEpoch))
	binary.BigEndian.PutUint32(b[posSequence:], uint32(h.Sequence))
	binary.BigEndian.PutUint32(b[posCount:], uint32(len(records)))
	v.seal()
	return b
}

func appendNullable(b, field []byte) []byte {
	if field == nil {
		return binary.AppendVarint(b, -1)
	}
	return append(binary.AppendVarint(b, int64(len(field))), field...)
}

// BuildMarker returns the control batch that ends a producer's transaction.
func BuildMarker(producerID int64, producerEpoch int16, commit bool, coordinatorEpoch int32, timestamp int64) []byte {
	key := make([]byte, 4) // version 0, type
	if commit {
		key[3] = 1
	}
	value := binary.BigEndian.AppendUint32(make([]byte, 2, 6), uint32(coordinatorEpoch))
	h := Header{LeaderEpoch: -1, Attributes: attrControl | attrTransactional, ProducerID: producerID, ProducerEpoch: producerEpoch, Sequence: -1}
	return Build(h, KV{Timestamp: timestamp, Key: key, Value: value})
}

// Transactional is the attribute bit of a batch that belongs to a transaction.
const Transactional int16 = attrTransactional

// Marker is what a transaction's control batch says.
type Marker struct {
	Commit           bool
	CoordinatorEpoch int32
}

// Marker reads a control batch; ok is false for a control batch of another kind
// or a malformed one.
func (b Batch) Marker() (m Marker, ok bool) {
	if !b.IsControl() || b.Compression() != 0 {
		return m, false
	}
	err := b.Records(func(r Record) bool {
		if len(r.Key) < 4 || binary.BigEndian.Uint16(r.Key) != 0 {
			return false
		}
		kind := binary.BigEndian.Uint16(r.Key[2:])
		if kind > 1 || len(r.Value) < 6 {
			return false
		}
		m = Marker{Commit: kind == 1, CoordinatorEpoch: int32(binary.BigEndian.Uint32(r.Value[2:]))}
		ok = true
		return false
	})
	return m, ok && err == nil
}
