package wal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/looptape/looptape/internal/base/disk"
	"github.com/looptape/looptape/internal/base/pages"
)

// windowBytes is how much recovery reads at a time, in parts read side by side:
// one after the other they would leave the disk idle.
const (
	windowBytes = 8 << 20
	partBytes   = 1 << 20
)

// searchBytes is the same for a search, which has several readers.
const searchBytes = 1 << 20

// A window is memory for reading, used again for each stretch of a file.
type window struct {
	run *pages.Run
	mem []byte
}

// take returns n bytes aligned to align; what it returned before is overwritten.
func (w *window) take(n, align int) []byte {
	if len(w.mem) < n || disk.AlignedTo(w.mem, align) != 0 {
		w.free()
		if w.run = pages.New(max(n, minAlign)); disk.AlignedTo(w.run.Bytes, align) == 0 {
			w.mem = w.run.Bytes
		} else {
			w.mem = disk.Aligned(n, align)
		}
	}
	return w.mem[:n]
}

func (w *window) free() {
	if w.run != nil {
		w.run.Free()
	}
	w.run, w.mem = nil, nil
}

// A reader reads a segment past the page cache, which may show what the device
// does not have.
type reader struct {
	file disk.File
	path string
	size int64
	step int     // bytes to read at a time
	mem  *window // shared by readers that take turns
	have []byte  // of the file from byte at on; a part of mem
	at   int64
}

func openReader(fs disk.FS, path string, step int, mem *window) (*reader, error) {
	f, err := fs.OpenFile(path, disk.Mode{Direct: true})
	if err != nil {
		return nil, err
	}
	if f.DirectAlign() == 0 {
		err = f.Sync()
		if err == nil {
			err = f.DropCache()
		}
	}
	size, serr := f.Size()
	if err = errors.Join(err, serr); err != nil {
		return nil, errors.Join(fmt.Errorf("read %s: %w", path, err), f.Close())
	}
	return &reader{file: f, path: path, size: size, step: step, mem: mem}, nil
}

func (r *reader) close() error { return r.file.Close() }

// bytes returns n bytes at off, which lie in the file. They stay as they are until
// the next call.
func (r *reader) bytes(off int64, n int) ([]byte, error) {
	if off < r.at || off+int64(n) > r.at+int64(len(r.have)) {
		if err := r.fill(off, n); err != nil {
			return nil, err
		}
	}
	return r.have[off-r.at:][:n:n], nil
}

// fill reads from off on, n bytes at least.
func (r *reader) fill(off int64, n int) error {
	align := int64(max(minAlign, r.file.DirectAlign()))
	start := off &^ (align - 1)
	size := padded(r.size, int(align))
	end := max(padded(off+int64(n), int(align)), min(start+int64(r.step), size))
	w := r.mem.take(int(end-start), int(align))
	r.have = nil
	parts := (len(w) + partBytes - 1) / partBytes
	got, errs := make([]int, parts), make([]error, parts)
	var g sync.WaitGroup
	for i := range parts {
		from := i * partBytes
		part := w[from:min(from+partBytes, len(w))]
		read := func() { got[i], errs[i] = r.file.ReadAt(part, start+int64(from)) }
		if i == parts-1 {
			read()
		} else {
			g.Go(read)
		}
	}
	g.Wait()
	total := 0
	for i := range parts {
		if errs[i] != nil && errs[i] != io.EOF {
			return fmt.Errorf("read %s at byte %d: %w", r.path, start+int64(i*partBytes), errs[i])
		}
		if total += got[i]; got[i] < partBytes {
			break
		}
	}
	if int64(total) < off-start+int64(n) {
		return fmt.Errorf("read %s at byte %d: %w", r.path, start, io.ErrUnexpectedEOF)
	}
	r.have, r.at = w[:total], start
	return nil
}

// block reads and checks the block at off. A *mismatch error says that there is
// none of this log, epoch and segment; any other that the disk failed.
func (r *reader) block(off int64, id Identity, seq int64) (header, []byte, error) {
	if r.size-off < headerBytes {
		return header{}, nil, differs("bytes left", headerBytes, r.size-off)
	}
	b, err := r.bytes(off, headerBytes)
	if err != nil {
		return header{}, nil, err
	}
	h, err := parseHeader(b, id, seq, r.size-off)
	if err != nil {
		return header{}, nil, err
	}
	if b, err = r.bytes(off, headerBytes+h.bodyBytes); err != nil {
		return header{}, nil, err
	}
	return h, b[headerBytes:], h.checkCRC(b)
}

// mark reads the segment's mark; a *mismatch error says that there is none.
func (r *reader) mark(id Identity, seq int64) (*mark, error) {
	h, body, err := r.block(r.size-minAlign, id, seq)
	if err != nil {
		return nil, err
	}
	return parseMark(h, body, r.size)
}

// find looks for a valid block of this log, epoch and segment from off up to end,
// at every place where one may begin, that says that records up to durable were
// synced when it was written. It returns its place, -1 if there is none.
func (r *reader) find(ctx context.Context, off, end int64, id Identity, seq int64, durable LSN) (int64, error) {
	for ; off < end && off+headerBytes <= r.size; off += minAlign {
		if off < r.at || off+headerBytes > r.at+int64(len(r.have)) {
			if err := ctx.Err(); err != nil {
				return 0, err
			}
		}
		b, err := r.bytes(off, headerBytes)
		if err != nil {
			return 0, err
		}
		if [4]byte(b) != magic {
			continue
		}
		h, err := parseHeader(b, id, seq, r.size-off)
		if err != nil || h.prevDurable < durable {
			continue
		}
		if _, _, err = r.block(off, id, seq); err == nil {
			return off, nil
		}
		if !isMismatch(err) {
			return 0, err
		}
	}
	return -1, nil
}

func isMismatch(err error) bool {
	var m *mismatch
	return errors.As(err, &m)
}
