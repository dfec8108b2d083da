package batch

import (
	"encoding/binary"
	"fmt"
)

// Record is a view of one record of an uncompressed batch. Key and Value are
// nil when the record has none; they alias the batch.
type Record struct {
	OffsetDelta    int32
	TimestampDelta int64
	Key, Value     []byte
}

// Records calls fn for each record of an uncompressed batch until fn returns
// false. It returns ErrRecord at the first malformed one and ErrCompression for
// a compressed batch.
func (b Batch) Records(fn func(Record) bool) error {
	if b.Compression() != 0 {
		return fmt.Errorf("%w: records are compressed", ErrCompression)
	}
	return WalkRecords(b[HeaderSize:], b.Count(), fn)
}

// WalkRecords does the same over count records as they stand after a header,
// for a caller that has decompressed them.
func WalkRecords(body []byte, count int32, fn func(Record) bool) error {
	for i := int32(0); i < count; i++ {
		r, rest, ok := nextRecord(body)
		if !ok {
			return fmt.Errorf("%w: record %d of %d", ErrRecord, i, count)
		}
		if !fn(r) {
			return nil
		}
		body = rest
	}
	if len(body) != 0 {
		return fmt.Errorf("%w: %d bytes after the last of %d records", ErrRecord, len(body), count)
	}
	return nil
}

// checkRecords walks the records of an uncompressed batch without a callback,
// since it runs for every produced batch.
func (b Batch) checkRecords() error {
	body, count := []byte(b[HeaderSize:]), b.Count()
	for i := int32(0); i < count; i++ {
		r, rest, ok := nextRecord(body)
		if !ok {
			return fmt.Errorf("%w: record %d of %d", ErrRecord, i, count)
		}
		if r.OffsetDelta != i {
			return fmt.Errorf("%w: record %d has offset delta %d", ErrRecord, i, r.OffsetDelta)
		}
		body = rest
	}
	if len(body) != 0 {
		return fmt.Errorf("%w: %d bytes after the last of %d records", ErrRecord, len(body), count)
	}
	return nil
}

// HasKeys reports whether every record has a key. Records that can't be read
// have none.
func (b Batch) HasKeys() bool {
	body, err := b.Body()
	if err != nil {
		return false
	}
	keyed := true
	err = WalkRecords(body, b.Count(), func(r Record) bool { keyed = r.Key != nil; return keyed })
	return err == nil && keyed
}

func nextRecord(b []byte) (r Record, rest []byte, ok bool) {
	size, n := varint(b)
	if n <= 0 || size < 0 || size > int64(len(b)-n) {
		return r, nil, false
	}
	b, rest = b[n:n+int(size)], b[n+int(size):]
	if len(b) < 1 {
		return r, nil, false
	}
	b = b[1:] // attributes, unused
	if r.TimestampDelta, n = varint(b); n <= 0 {
		return r, nil, false
	}
	b = b[n:]
	delta, n := varint(b)
	if n <= 0 || delta < 0 || delta > 1<<31-1 {
		return r, nil, false
	}
	r.OffsetDelta, b = int32(delta), b[n:]
	if r.Key, b, ok = nullable(b); !ok {
		return r, nil, false
	}
	if r.Value, b, ok = nullable(b); !ok {
		return r, nil, false
	}
	headers, n := varint(b)
	// A header takes two bytes at least.
	if n <= 0 || headers < 0 || headers > int64(len(b)-n)/2 {
		return r, nil, false
	}
	b = b[n:]
	for ; headers > 0; headers-- {
		var name []byte
		if name, b, ok = nullable(b); !ok || name == nil {
			return r, nil, false
		}
		if _, b, ok = nullable(b); !ok {
			return r, nil, false
		}
	}
	return r, rest, len(b) == 0
}

// nullable reads a length-prefixed field; length -1 is nil.
func nullable(b []byte) (field, rest []byte, ok bool) {
	size, n := varint(b)
	if n <= 0 || size < -1 || size > int64(len(b)-n) {
		return nil, nil, false
	}
	b = b[n:]
	if size < 0 {
		return nil, b, true
	}
	return b[:size:size], b[size:], true
}

// varint has the zigzag encoding of Kafka and protobuf; one-byte values, which
// most are, take the short way.
func varint(b []byte) (int64, int) {
	if len(b) > 0 && b[0] < 0x80 {
		u := uint64(b[0])
		return int64(u>>1) ^ -int64(u&1), 1
	}
	return binary.Varint(b)
}
