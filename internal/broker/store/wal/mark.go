package wal

import (
	"encoding/binary"
	"fmt"

	"github.com/looptape/looptape/internal/base/disk"
)

// The mark of a segment lies in its last 4096 bytes and is a block like the others,
// but rewritten again and again. It tells a recovery what it need not read:
//
//	limit     8  no block was synced at or beyond this byte of the segment; if it is
//	             less than the file's size, none was in a later segment either
//	startSeq  8  the first block that somebody may still need: its segment
//	startAt   8  its place there
//	startLSN  8  its first LSN; everything before was trimmed
//
// A block beyond the last limit is synced together with a mark that covers it. A
// mark that is torn, or of an earlier life of the file, is as good as none: then all
// is read.
const markBodyBytes = 32

// mark is the content of a mark.
type mark struct {
	durable  LSN // its prevDurable
	limit    int64
	startSeq int64
	startAt  int64
	startLSN LSN
}

// markEvery is how many blocks of the usual largest size go by between two marks;
// a limit lies twice as far ahead.
const markEvery = 1

// encodeMark makes the last bytes of a segment, of the log's alignment.
func encodeMark(buf []byte, h header, m mark) []byte {
	clear(buf)
	b := buf[len(buf)-minAlign:]
	body := b[headerBytes : headerBytes+markBodyBytes]
	be := binary.BigEndian
	be.PutUint64(body, uint64(m.limit))
	be.PutUint64(body[8:], uint64(m.startSeq))
	be.PutUint64(body[16:], uint64(m.startAt))
	be.PutUint64(body[24:], uint64(m.startLSN))
	h.kind, h.align, h.bodyBytes = kindMark, minAlign, markBodyBytes
	h.first, h.last, h.prevDurable = m.durable+1, m.durable, m.durable
	h.put(b, checksum(body))
	return buf
}

// parseMark reads a mark's body.
func parseMark(h header, body []byte, size int64) (*mark, error) {
	be := binary.BigEndian
	if h.kind != kindMark || len(body) != markBodyBytes {
		return nil, differs("block kind", "mark", byte(h.kind))
	}
	m := &mark{h.prevDurable, int64(be.Uint64(body)), int64(be.Uint64(body[8:])), int64(be.Uint64(body[16:])), LSN(be.Uint64(body[24:]))}
	switch {
	case m.limit < 0 || m.limit > size || m.limit%minAlign != 0:
		return nil, differs("limit", fmt.Sprintf("a multiple of %d up to %d", minAlign, size), m.limit)
	case m.startSeq < 1 || m.startSeq > h.seq || m.startAt < 0 || m.startAt%minAlign != 0 || m.startLSN < 1 || m.startLSN > m.durable+1:
		return nil, differs("start", fmt.Sprintf("up to segment %d, LSN %d", h.seq, m.durable+1), fmt.Sprint(m.startSeq, m.startAt, m.startLSN))
	}
	return m, nil
}

// room is where the blocks of a segment end: before the mark.
func (s *openSegment) room(align int) int64 { return s.size - int64(align) }

// writeMark writes the segment's mark, which no sync has made durable yet.
func (l *FileLog) writeMark(b *block, limit int64) error {
	s := l.current
	m := mark{durable: b.first - 1, limit: limit}
	m.startSeq, m.startAt, m.startLSN = s.seq, s.used, b.first
	l.mu.Lock()
	if len(l.written) > 0 {
		w := l.written[0]
		m.startSeq, m.startAt, m.startLSN = w.seq, w.at, w.first
	}
	l.mu.Unlock()
	if l.markMem == nil {
		l.markMem = disk.Aligned(l.align, l.align)
	}
	buf := encodeMark(l.markMem, header{id: l.id, seq: s.seq, segment: l.cfg.SegmentBytes}, m)
	at := s.room(l.align)
	if _, err := s.file.WriteAt(buf, at); err != nil {
		return fmt.Errorf("write mark at byte %d of %s: %w", at, s.path, err)
	}
	return nil
}

// cover sees to it that the mark covers the block about to be written, which ends
// at byte end, and returns the limit that will hold once it is synced.
func (l *FileLog) cover(b *block, end int64) (int64, error) {
	s := l.current
	step := padded(int64(headerBytes+l.cfg.MaxBatch), l.align)
	limit := min(end+2*markEvery*step, s.room(l.align))
	if b.kind == kindEnd {
		limit = s.size
	}
	switch {
	case b.kind == kindAdopt:
		return s.limit, nil // the first thing written; a mark would vouch for it
	case end > s.limit, b.kind == kindEnd, limit > s.limit && end+step > s.limit, end-s.marked >= markEvery*step:
		// The block's sync makes both durable: no block beyond a limit is
		// acknowledged, and whether others are found makes no difference.
		if err := l.writeMark(b, limit); err != nil {
			return 0, err
		}
	default:
		return s.limit, nil
	}
	s.marked = end
	return limit, nil
}
