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

// windowBytes is how much recovery reads at a time, in parts read side by side, and
// ahead of what it looks at: else the disk would stand idle. A variable for tests.
var windowBytes = 4 << 20

const partBytes = 1 << 20

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

// windows are the memory of readers that take turns: one window is looked at while
// the other is read.
type windows [2]window

func (w *windows) free() {
	w[0].free()
	w[1].free()
}

// A reader reads a segment past the page cache, which may show what the device
// does not have.
type reader struct {
	file  disk.File
	path  string
	size  int64
	until int64 // nobody will look beyond it; at most size
	step  int   // bytes to read at a time
	mem   *windows
	in    int    // the window with have
	have  []byte // of the file from byte at on
	at    int64
	ahead *stretchAhead // being read into the other window; nil: nothing
}

// stretchAhead is a stretch of the file that is being read. There is room in front
// of it for the begin of a block that ends in it.
type stretchAhead struct {
	start int64
	front int // bytes in front
	mem   []byte
	got   int
	err   error
	done  chan struct{}
}

func openReader(fs disk.FS, path string, step int, mem *windows) (*reader, error) {
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
	return &reader{file: f, path: path, size: size, until: size, step: step, mem: mem}, nil
}

func (r *reader) close() error {
	r.take()
	return r.file.Close()
}

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

func (r *reader) align() int64 { return int64(max(minAlign, r.file.DirectAlign())) }

// fill makes have begin at off or before, with n bytes at least.
func (r *reader) fill(off int64, n int) error {
	align := r.align()
	start := off &^ (align - 1)
	if a := r.take(); a == nil || !r.join(a, start, off+int64(n)) {
		end := max(padded(off+int64(n), int(align)), min(start+int64(r.step), padded(r.until, int(align))))
		w := r.mem[r.in].take(int(end-start), int(align))
		r.have = nil
		total, err := r.read(w, start)
		if err != nil {
			return err
		}
		if int64(total) < off-start+int64(n) {
			return fmt.Errorf("read %s at byte %d: %w", r.path, start, io.ErrUnexpectedEOF)
		}
		r.have, r.at = w[:total], start
	}
	r.readAhead(r.at + int64(len(r.have)))
	return nil
}

// take waits for what is being read ahead, and returns it.
func (r *reader) take() *stretchAhead {
	a := r.ahead
	if a != nil {
		<-a.done
		r.ahead = nil
	}
	return a
}

// join makes the stretch that was read ahead the one to look at, with what it takes
// of the one before in front of it, and tells whether that makes what is wanted.
func (r *reader) join(a *stretchAhead, start, end int64) bool {
	front := a.start - start
	if a.err != nil || front < 0 || front > int64(a.front) || start < r.at || end > a.start+int64(a.got) {
		return false
	}
	copy(a.mem[a.front-int(front):], r.have[start-r.at:])
	r.have, r.at = a.mem[a.front-int(front):a.front+a.got], start
	r.in = 1 - r.in
	return true
}

// readAhead starts to read the next stretch, if there is one.
func (r *reader) readAhead(start int64) {
	align := r.align()
	end := min(start+int64(r.step), padded(r.until, int(align)))
	if r.step != windowBytes || start%align != 0 || start >= end {
		return
	}
	a := &stretchAhead{start: start, front: int(padded(int64(r.step), int(align))), done: make(chan struct{})}
	a.mem = r.mem[1-r.in].take(a.front+int(end-start), int(align))
	r.ahead = a
	go func() {
		defer close(a.done)
		a.got, a.err = r.read(a.mem[a.front:], start)
	}()
}

// read fills w from the file, as far as it goes.
func (r *reader) read(w []byte, start int64) (total int, err error) {
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
	for i := range parts {
		if errs[i] != nil && errs[i] != io.EOF {
			return total, fmt.Errorf("read %s at byte %d: %w", r.path, start+int64(i*partBytes), errs[i])
		}
		if total += got[i]; got[i] < partBytes {
			break
		}
	}
	return total, nil
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
