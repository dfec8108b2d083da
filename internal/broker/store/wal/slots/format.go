package slots

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/looptape/looptape/internal/broker/store/wal"
)

// The slot, the unit of commit: one object. All integers are big-endian.
//
//	  0  magic         4  "LTWS"
//	  4  version       1  1
//	  5  kind          1  1 data, 2 seal
//	  6  zero          2
//	  8  logID        16  SHA-256 of the log's key prefix, its first half
//	 24  broker        4  whose log
//	 28  writerBroker  4  who wrote the slot: the same, or the one who sealed
//	 32  epoch         8  of the log
//	 40  writerEpoch   8  of who wrote the slot
//	 48  nonce        16  of the process that wrote it
//	 64  seq           8  the slot's number in the epoch, from 1
//	 72  firstLSN      8  of the slot's records; 0 in a seal
//	 80  lastLSN       8
//	 88  trimmedLSN    8  what was committed elsewhere when this was written
//	 96  bodyBytes     4
//	100  bodyCRC       4  CRC-32C of the body
//	104  headerCRC     4  CRC-32C of the bytes 0 to 103
//	108  body
//
// A data slot's body is records, one after the other: LSN (8), length (4), data.
// It has one at least. A seal has no body: it is the only slot of exactly
// headerBytes, so a listing tells it from data.
const (
	headerBytes       = 108
	headerCRCAt       = 104
	recordHeaderBytes = 12
	formatVersion     = 1

	// maxBodyBytes bounds what a reader allocates for one slot.
	maxBodyBytes = 128 << 20
)

var (
	magic      = [4]byte{'L', 'T', 'W', 'S'}
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

type kind uint8

const (
	kindData kind = 1 + iota
	kindSeal
)

// A Writer is one process of a broker: who wrote a slot.
type Writer struct {
	Broker int32
	Epoch  int64
	Nonce  [16]byte // made once per process
}

// series says which epoch of which log a slot belongs to.
type series struct {
	prefix string
	broker int32
	epoch  int64
}

// dir is what the keys of all slots of the epoch begin with.
func (e series) dir() string { return fmt.Sprintf("%s/%d/%d/", e.prefix, e.broker, e.epoch) }

func (e series) key(seq int64) string { return fmt.Sprintf("%s%020d", e.dir(), seq) }

// id is the same in all slots under the prefix and in none under another.
func (e series) id() [16]byte {
	sum := sha256.Sum256([]byte(e.prefix))
	return [16]byte(sum[:])
}

// header is a slot's header, but for what its key says.
type header struct {
	kind        kind
	writer      Writer
	first, last wal.LSN
	trimmed     wal.LSN
	bodyBytes   int
	bodyCRC     uint32
}

// put writes the header of the slot seq into the first headerBytes of b.
func (h *header) put(b []byte, of series, seq int64) {
	clear(b[:headerBytes])
	be := binary.BigEndian
	id := of.id()
	copy(b, magic[:])
	b[4] = formatVersion
	b[5] = byte(h.kind)
	copy(b[8:], id[:])
	be.PutUint32(b[24:], uint32(of.broker))
	be.PutUint32(b[28:], uint32(h.writer.Broker))
	be.PutUint64(b[32:], uint64(of.epoch))
	be.PutUint64(b[40:], uint64(h.writer.Epoch))
	copy(b[48:], h.writer.Nonce[:])
	be.PutUint64(b[64:], uint64(seq))
	be.PutUint64(b[72:], uint64(h.first))
	be.PutUint64(b[80:], uint64(h.last))
	be.PutUint64(b[88:], uint64(h.trimmed))
	be.PutUint32(b[96:], uint32(h.bodyBytes))
	be.PutUint32(b[100:], h.bodyCRC)
	be.PutUint32(b[headerCRCAt:], crc32.Checksum(b[:headerCRCAt], castagnoli))
}

// A mismatch says why bytes are no slot of ours.
type mismatch struct {
	at              int64
	what, want, got string
}

func (m *mismatch) Error() string {
	return fmt.Sprintf("%s: want %s, got %s", m.what, m.want, m.got)
}

func differs(at int64, what string, want, got any) error {
	return &mismatch{at, what, fmt.Sprint(want), fmt.Sprint(got)}
}

// corrupt makes the mismatch in err the caller's *wal.CorruptError.
func corrupt(key string, err error) error {
	var m *mismatch
	if !errors.As(err, &m) {
		return err
	}
	return &wal.CorruptError{File: key, Offset: m.at, What: m.what, Want: m.want, Got: m.got}
}

// parseHeader reads the header of an object of size bytes that may be anything.
// What it returns is what somebody wrote, whole, as the slot seq of the series.
func parseHeader(b []byte, size int64, of series, seq int64) (header, error) {
	if len(b) < headerBytes {
		return header{}, differs(0, "bytes of the header", headerBytes, len(b))
	}
	be := binary.BigEndian
	id := of.id()
	h := header{
		kind:    kind(b[5]),
		writer:  Writer{Broker: int32(be.Uint32(b[28:])), Epoch: int64(be.Uint64(b[40:])), Nonce: [16]byte(b[48:])},
		first:   wal.LSN(be.Uint64(b[72:])),
		last:    wal.LSN(be.Uint64(b[80:])),
		trimmed: wal.LSN(be.Uint64(b[88:])),
		bodyCRC: be.Uint32(b[100:]),
	}
	body := int64(be.Uint32(b[96:]))
	want, got := be.Uint32(b[headerCRCAt:]), crc32.Checksum(b[:headerCRCAt], castagnoli)
	switch {
	case [4]byte(b) != magic:
		return header{}, differs(0, "magic", fmt.Sprintf("%x", magic), fmt.Sprintf("%x", b[:4]))
	case b[4] != formatVersion:
		return header{}, differs(4, "format version", formatVersion, b[4])
	case want != got:
		return header{}, differs(headerCRCAt, "checksum of the header", fmt.Sprintf("%08x", want), fmt.Sprintf("%08x", got))
	case [16]byte(b[8:]) != id:
		return header{}, differs(8, "log id", fmt.Sprintf("%x", id), fmt.Sprintf("%x", b[8:24]))
	case int32(be.Uint32(b[24:])) != of.broker:
		return header{}, differs(24, "broker", of.broker, int32(be.Uint32(b[24:])))
	case int64(be.Uint64(b[32:])) != of.epoch:
		return header{}, differs(32, "epoch", of.epoch, int64(be.Uint64(b[32:])))
	case int64(be.Uint64(b[64:])) != seq:
		return header{}, differs(64, "slot number", seq, int64(be.Uint64(b[64:])))
	case b[6] != 0 || b[7] != 0:
		return header{}, differs(6, "reserved bytes", 0, fmt.Sprintf("%x", b[6:8]))
	case h.kind != kindData && h.kind != kindSeal:
		return header{}, differs(5, "kind", "1 or 2", byte(h.kind))
	case body > maxBodyBytes:
		return header{}, differs(96, "body bytes", fmt.Sprint("at most ", maxBodyBytes), body)
	case size != headerBytes+body:
		return header{}, differs(96, "object bytes", headerBytes+body, size)
	}
	h.bodyBytes = int(body)
	if h.kind == kindSeal {
		if body != 0 || h.bodyCRC != 0 || h.first != 0 || h.last != 0 || h.trimmed != 0 {
			return header{}, differs(72, "content of a seal", "none", fmt.Sprint(h.first, h.last, h.trimmed, body))
		}
		return h, nil
	}
	// Not last-first: that could overflow.
	if h.first < 1 || h.last < h.first || h.trimmed < 0 || h.trimmed >= h.first ||
		h.last > h.first+wal.LSN(body/recordHeaderBytes)-1 {
		return header{}, differs(72, "LSNs", fmt.Sprintf("trimmed < first <= last, in %d bytes", body), fmt.Sprint(h.trimmed, h.first, h.last))
	}
	return h, nil
}

// checkBody compares the body's checksum.
func (h *header) checkBody(body []byte) error {
	if got := crc32.Checksum(body, castagnoli); got != h.bodyCRC {
		return differs(100, "checksum of the body", fmt.Sprintf("%08x", h.bodyCRC), fmt.Sprintf("%08x", got))
	}
	return nil
}

// eachRecord calls fn for the records of a body, whose LSNs have to be first to
// last. The slices are parts of body.
func eachRecord(body []byte, first, last wal.LSN, fn func(wal.LSN, []byte) error) error {
	at := int64(headerBytes)
	for lsn := first; lsn <= last; lsn++ {
		if len(body) < recordHeaderBytes {
			return differs(at, fmt.Sprintf("bytes of record %d", lsn), recordHeaderBytes, len(body))
		}
		got := wal.LSN(binary.BigEndian.Uint64(body))
		n := int64(binary.BigEndian.Uint32(body[8:]))
		if got != lsn {
			return differs(at, "LSN", lsn, got)
		}
		body = body[recordHeaderBytes:]
		if n > int64(len(body)) {
			return differs(at+8, fmt.Sprintf("length of record %d", lsn), fmt.Sprint("at most ", len(body)), n)
		}
		if err := fn(lsn, body[:n:n]); err != nil {
			return err
		}
		body = body[n:]
		at += recordHeaderBytes + n
	}
	if len(body) != 0 {
		return differs(at, "bytes after the last record", 0, len(body))
	}
	return nil
}

// parseData reads the header of a whole data slot and checks every byte of it but
// the records' framing.
func parseData(b []byte, of series, seq int64) (header, error) {
	h, err := parseHeader(b, int64(len(b)), of, seq)
	switch {
	case err != nil:
		return header{}, err
	case h.kind != kindData:
		return header{}, differs(5, "kind", "data", "seal")
	case h.writer.Broker != of.broker || h.writer.Epoch != of.epoch:
		return header{}, differs(28, "writer", fmt.Sprint(of.broker, of.epoch), fmt.Sprint(h.writer.Broker, h.writer.Epoch))
	}
	return h, h.checkBody(b[headerBytes:])
}
