package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/bits"

	"github.com/looptape/looptape/internal/base/crc32c"
)

// The block, the unit of commit. All integers are big-endian.
//
//	 0  magic        4  "LTWB"
//	 4  version      1  1
//	 5  kind         1  see kind
//	 6  alignShift   1  blocks begin at, and are padded with zeros to, multiples of 1<<alignShift
//	 7  zero         1
//	 8  walID       16  whose log
//	24  epoch        8
//	32  segmentSeq   8  which segment of the epoch, from 1
//	40  firstLSN     8  of the block's records; without any: the next LSN
//	48  lastLSN      8  firstLSN-1 without any
//	56  prevDurable  8  every record of the epoch up to it was synced when this was written
//	64  segment      8  bytes of the epoch's ordinary segment file: none is shorter
//	72  bodyBytes    4
//	76  crc          4  CRC-32C of the body, then of the bytes 0 to 75
//	80  body
//
// A data block's body is records, one after the other: LSN (8), length (4), data.
const (
	headerBytes       = 80
	crcAt             = 76
	recordHeaderBytes = 12
	formatVersion     = 1
	minAlign          = 4096
	maxAlignShift     = 20
)

var (
	magic      = [4]byte{'L', 'T', 'W', 'B'}
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// kind says what a block is for.
type kind uint8

const (
	kindAdopt kind = 1 + iota // the first of an epoch: where the dead epochs ended
	kindData                  // records
	kindEnd                   // the segment is full, the log goes on in the next
	kindClose                 // the log was closed; nothing follows
	kindMark                  // at the end of the file: how far the segment goes
)

// header is a block's header, but for what is the same in all.
type header struct {
	kind        kind
	align       int
	id          Identity
	seq         int64
	first, last LSN
	prevDurable LSN
	segment     int64
	bodyBytes   int
	crc         uint32
}

// put writes the header into the first headerBytes of b, with the checksum, given
// that of the body.
func (h *header) put(b []byte, bodyCRC uint32) {
	copy(b, magic[:])
	b[4] = formatVersion
	b[5] = byte(h.kind)
	b[6] = byte(bits.TrailingZeros(uint(h.align)))
	b[7] = 0
	copy(b[8:], h.id.WALID[:])
	be := binary.BigEndian
	be.PutUint64(b[24:], uint64(h.id.Epoch))
	be.PutUint64(b[32:], uint64(h.seq))
	be.PutUint64(b[40:], uint64(h.first))
	be.PutUint64(b[48:], uint64(h.last))
	be.PutUint64(b[56:], uint64(h.prevDurable))
	be.PutUint64(b[64:], uint64(h.segment))
	be.PutUint32(b[72:], uint32(h.bodyBytes))
	be.PutUint32(b[crcAt:], crc32.Update(bodyCRC, castagnoli, b[:crcAt]))
}

// A mismatch says why bytes are no block of ours; it becomes part of a
// CorruptError, or of nothing when the log simply ends here.
type mismatch struct{ what, want, got string }

func (m *mismatch) Error() string {
	return fmt.Sprintf("%s: want %s, got %s", m.what, m.want, m.got)
}

func differs(what string, want, got any) error {
	return &mismatch{what, fmt.Sprint(want), fmt.Sprint(got)}
}

// parseHeader reads the header of a block that may be anything. What it returns
// is plausible only until the checksum was compared, too; room is the number of
// bytes from the block's start to the end of its segment.
func parseHeader(b []byte, id Identity, seq int64, room int64) (header, error) {
	if len(b) < headerBytes {
		return header{}, differs("bytes left", headerBytes, len(b))
	}
	be := binary.BigEndian
	h := header{
		kind:        kind(b[5]),
		id:          Identity{Epoch: int64(be.Uint64(b[24:]))},
		seq:         int64(be.Uint64(b[32:])),
		first:       LSN(be.Uint64(b[40:])),
		last:        LSN(be.Uint64(b[48:])),
		prevDurable: LSN(be.Uint64(b[56:])),
		segment:     int64(be.Uint64(b[64:])),
		crc:         be.Uint32(b[crcAt:]),
	}
	copy(h.id.WALID[:], b[8:])
	body := int64(be.Uint32(b[72:]))
	switch {
	case [4]byte(b) != magic:
		return header{}, differs("magic", fmt.Sprintf("%x", magic), fmt.Sprintf("%x", b[:4]))
	case b[4] != formatVersion:
		return header{}, differs("format version", formatVersion, b[4])
	case h.id.WALID != id.WALID:
		return header{}, differs("log id", fmt.Sprintf("%x", id.WALID), fmt.Sprintf("%x", h.id.WALID))
	case h.id.Epoch != id.Epoch:
		return header{}, differs("epoch", id.Epoch, h.id.Epoch)
	case h.seq != seq:
		return header{}, differs("segment number", seq, h.seq)
	case h.kind < kindAdopt || h.kind > kindMark:
		return header{}, differs("block kind", "1 to 5", byte(h.kind))
	case b[6] > maxAlignShift || 1<<b[6] < minAlign:
		return header{}, differs("alignment shift", "12 to 20", b[6])
	case b[7] != 0:
		return header{}, differs("reserved byte", 0, b[7])
	case h.first < 1 || h.last < h.first-1 || h.prevDurable < 0 || h.prevDurable >= h.first:
		return header{}, differs("LSNs", "prev < first <= last+1", fmt.Sprint(h.prevDurable, h.first, h.last))
	}
	h.align = 1 << b[6]
	if padded(headerBytes+body, h.align) > room {
		return header{}, differs("body bytes", fmt.Sprintf("at most %d", room), body)
	}
	h.bodyBytes = int(body)
	return h, nil
}

// bytes is the number of bytes the block takes in the file.
func (h *header) bytes() int64 { return padded(int64(headerBytes+h.bodyBytes), h.align) }

// checkCRC compares the checksum; b is the block from its first byte.
func (h *header) checkCRC(b []byte) error {
	got := checksum(b[headerBytes : headerBytes+h.bodyBytes])
	got = crc32.Update(got, castagnoli, b[:crcAt])
	if got != h.crc {
		return differs("checksum", fmt.Sprintf("%08x", h.crc), fmt.Sprintf("%08x", got))
	}
	return nil
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

func padded(n int64, align int) int64 { return (n + int64(align) - 1) &^ (int64(align) - 1) }

var errBody = errors.New("block body does not match its header")

// eachRecord calls fn for the records of a body whose LSNs have to be first to
// last. The slices are parts of body.
func eachRecord(body []byte, first, last LSN, fn func(LSN, []byte) error) error {
	for lsn := first; lsn <= last; lsn++ {
		if len(body) < recordHeaderBytes {
			return fmt.Errorf("%w: record %d begins beyond it", errBody, lsn)
		}
		got := LSN(binary.BigEndian.Uint64(body))
		n := int64(binary.BigEndian.Uint32(body[8:]))
		body = body[recordHeaderBytes:]
		if got != lsn || n > int64(len(body)) {
			return fmt.Errorf("%w: record %d says it is %d, with %d of %d bytes", errBody, lsn, got, n, len(body))
		}
		if err := fn(lsn, body[:n:n]); err != nil {
			return err
		}
		body = body[n:]
	}
	if len(body) != 0 {
		return fmt.Errorf("%w: %d bytes after the last record", errBody, len(body))
	}
	return nil
}

// A block is one being built. Its memory is aligned and used again and again.
type block struct {
	mem   []byte // header, body, room for padding
	lies  window // in which mem lies
	n     int    // bytes of mem used
	crc   uint32 // of the body so far
	kind  kind
	first LSN
	recs  []*Record
	bytes int // of the records' data
}

// newBlock returns an empty data block whose body takes bodyBytes.
func newBlock(bodyBytes, align int) *block {
	b := new(block)
	b.mem = b.lies.take(int(padded(int64(headerBytes+bodyBytes), align)), align)
	b.reset()
	return b
}

func (b *block) reset() {
	clear(b.recs)
	*b = block{mem: b.mem, lies: b.lies, n: headerBytes, kind: kindData, recs: b.recs[:0]}
}

// fits tells whether a record with n bytes of data has room.
func (b *block) fits(n int) bool { return b.n+recordHeaderBytes+n <= len(b.mem) }

// add copies the record into the block: the one copy of its bytes. The checksum is
// made here, while they are in the processor's cache and outside the time between
// two syncs.
func (b *block) add(lsn LSN, r *Record) {
	if len(b.recs) == 0 {
		b.first = lsn
	}
	start := b.n
	binary.BigEndian.PutUint64(b.mem[b.n:], uint64(lsn))
	binary.BigEndian.PutUint32(b.mem[b.n+8:], uint32(r.size()))
	b.n += recordHeaderBytes
	b.n += copy(b.mem[b.n:], r.Data[0])
	summed := b.n
	b.n += copy(b.mem[b.n:], r.Data[1])
	if r.Sum == 0 {
		summed = b.n
	}
	b.crc = crc32.Update(b.crc, castagnoli, b.mem[start:summed])
	if summed < b.n {
		b.crc = crc32c.Concat(b.crc, r.Sum, int64(b.n-summed))
	}
	b.recs = append(b.recs, r)
	b.bytes += r.size()
}

// write appends bytes to the body of a block that holds no records of its own.
func (b *block) write(p []byte) {
	b.crc = crc32.Update(b.crc, castagnoli, p)
	b.n += copy(b.mem[b.n:], p)
}

// last is the LSN of the last record, first-1 without any.
func (b *block) last() LSN { return b.first + LSN(len(b.recs)) - 1 }

// seal writes the header and the padding and returns the bytes for the file. What
// does not depend on the block comes in h.
func (b *block) seal(h header) []byte {
	h.kind, h.first, h.last, h.bodyBytes = b.kind, b.first, b.last(), b.n-headerBytes
	h.put(b.mem, b.crc)
	end := int(padded(int64(b.n), h.align))
	clear(b.mem[b.n:end]) // nothing of an earlier block goes to the file
	return b.mem[:end]
}
