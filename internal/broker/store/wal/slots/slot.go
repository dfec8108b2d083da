package slots

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"sort"
	"sync"
	"time"

	"github.com/looptape/looptape/internal/broker/store/wal"
)

// copyBelow is the size from which data is sent from where it is instead of being
// copied beside its record header.
const copyBelow = 2048

// A slot gathers records, is frozen at its first attempt, and is put until the
// outcome is definite. While it takes records the log's mutex guards it, then the
// goroutine that puts it has it, then the loop.
type slot struct {
	since time.Time // the first record came
	first wal.LSN
	recs  []*wal.Record
	body  int64 // bytes of the records with their headers
	data  int64 // bytes of the records' data

	seq     int64 // given when it is started
	trimmed wal.LSN
	done    bool  // stored, by us
	err     error // why it will not be

	mu      sync.Mutex // between who puts it and who gives it up
	frozen  *frozen
	attempt *attempt
	revoked bool
}

// last is the LSN of the last record.
func (s *slot) last() wal.LSN { return s.first + wal.LSN(len(s.recs)) - 1 }

// bytes is the size of the object.
func (s *slot) bytes() int64 { return headerBytes + s.body }

// add puts a record behind the others.
func (s *slot) add(r *wal.Record) {
	n := size(r)
	s.recs = append(s.recs, r)
	s.data += n
	s.body += recordHeaderBytes + n
}

// size is the number of bytes of the record's data.
func size(r *wal.Record) int64 { return int64(len(r.Data[0]) + len(r.Data[1])) }

// frozen is a slot as bytes, which no longer change: pieces of memory one after
// the other. The large ones belong to the records.
type frozen struct {
	pieces [][]byte
	starts []int64 // of the pieces, in the object
	bytes  int64
}

// freeze makes the bytes of the slot. Every attempt sends exactly these (P11).
func (s *slot) freeze(of series, by Writer) *frozen {
	small := headerBytes + recordHeaderBytes*len(s.recs)
	for _, r := range s.recs {
		for _, d := range r.Data {
			if len(d) < copyBelow {
				small += len(d)
			}
		}
	}
	f := &frozen{}
	mem := make([]byte, headerBytes, small) // never grows: pieces point into it
	from := 0
	flush := func() {
		if from < len(mem) {
			f.add(mem[from:len(mem):len(mem)])
			from = len(mem)
		}
	}
	for i, r := range s.recs {
		mem = binary.BigEndian.AppendUint64(mem, uint64(s.first)+uint64(i))
		mem = binary.BigEndian.AppendUint32(mem, uint32(size(r)))
		for _, d := range r.Data {
			if len(d) < copyBelow {
				mem = append(mem, d...)
				continue
			}
			flush()
			f.add(d)
		}
	}
	flush()
	h := header{kind: kindData, writer: by, first: s.first, last: s.last(), trimmed: s.trimmed, bodyBytes: int(s.body)}
	h.bodyCRC = crc32.Checksum(f.pieces[0][headerBytes:], castagnoli)
	for _, p := range f.pieces[1:] {
		h.bodyCRC = crc32.Update(h.bodyCRC, castagnoli, p)
	}
	h.put(mem, of, s.seq)
	return f
}

func (f *frozen) add(p []byte) {
	f.pieces = append(f.pieces, p)
	f.starts = append(f.starts, f.bytes)
	f.bytes += int64(len(p))
}

// head is the slot's header. The first piece holds it whole.
func (f *frozen) head() []byte { return f.pieces[0][:headerBytes] }

func (f *frozen) readAt(p []byte, off int64) (n int, err error) {
	if off < 0 || off >= f.bytes {
		return 0, io.EOF
	}
	i := sort.Search(len(f.starts), func(i int) bool { return f.starts[i] > off }) - 1
	for n < len(p) && i < len(f.pieces) {
		n += copy(p[n:], f.pieces[i][off+int64(n)-f.starts[i]:])
		i++
	}
	if n < len(p) {
		err = io.EOF
	}
	return n, err
}

// begin returns the bytes for one attempt. The first call freezes them.
func (s *slot) begin(of series, by Writer) (*attempt, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.revoked {
		return nil, errOver
	}
	if s.frozen == nil {
		s.frozen = s.freeze(of, by)
	}
	s.attempt = &attempt{frozen: s.frozen}
	return s.attempt, nil
}

// revoke ends the attempts: when it returns, nobody reads the records any more.
func (s *slot) revoke() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revoked = true
	if s.attempt != nil {
		s.attempt.end()
	}
}

var errOver = errors.New("the slot is not to be put any more")

// An attempt is a slot's bytes for the time of one Put. A transport that still
// reads when Put has returned gets an error instead of memory that may be used
// again: it can't store anything but the frozen bytes.
type attempt struct {
	mu     sync.RWMutex
	frozen *frozen // nil: over
}

// ReadAt implements io.ReaderAt.
func (a *attempt) ReadAt(p []byte, off int64) (int, error) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.frozen == nil {
		return 0, errOver
	}
	return a.frozen.readAt(p, off)
}

func (a *attempt) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.frozen = nil
}
