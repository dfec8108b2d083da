package wal

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/looptape/looptape/internal/base/disk"
)

// windowBytes is how much recovery reads at a time.
const windowBytes = 2 << 20

// A reader reads a segment past the page cache, which may show what the device
// does not have.
type reader struct {
	file   disk.File
	path   string
	size   int64
	window []byte // of the file from byte at on
	at     int64
}

func openReader(fs disk.FS, path string) (*reader, error) {
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
	return &reader{file: f, path: path, size: size}, nil
}

func (r *reader) close() error { return r.file.Close() }

// bytes returns n bytes at off, which lie in the file. They stay as they are while
// anybody holds them.
func (r *reader) bytes(off int64, n int) ([]byte, error) {
	if off < r.at || off+int64(n) > r.at+int64(len(r.window)) {
		r.window = nil
		w := disk.Aligned(r.windowFor(off, n), max(minAlign, r.file.DirectAlign()))
		if err := r.fill(w, off, n); err != nil {
			return nil, err
		}
	}
	return r.window[off-r.at:][:n:n], nil
}

// windowFor is the length of a window with n bytes at off in it.
func (r *reader) windowFor(off int64, n int) int {
	align := int64(max(minAlign, r.file.DirectAlign()))
	start := off &^ (align - 1)
	end := padded(off+int64(n), int(align))
	return int(max(end, min(start+windowBytes, padded(r.size, int(align)))) - start)
}

// fill makes w the window, with n bytes at off in it.
func (r *reader) fill(w []byte, off int64, n int) error {
	align := int64(max(minAlign, r.file.DirectAlign()))
	start := off &^ (align - 1)
	got, err := r.file.ReadAt(w, start)
	if err != nil && err != io.EOF {
		return fmt.Errorf("read %s at byte %d: %w", r.path, start, err)
	}
	if int64(got) < off-start+int64(n) {
		return fmt.Errorf("read %s at byte %d: %w", r.path, start, io.ErrUnexpectedEOF)
	}
	r.window, r.at = w[:got], start
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

// find looks for a valid block of this log, epoch and segment from off up to end,
// at every place where one may begin, that says that records up to durable were
// synced when it was written. It returns its place, -1 if there is none.
func (r *reader) find(ctx context.Context, off, end int64, id Identity, seq int64, durable LSN) (int64, error) {
	align := max(minAlign, r.file.DirectAlign())
	buf := disk.Aligned(int(min(windowBytes, padded(r.size, align))), align)
	for ; off < end && off+headerBytes <= r.size; off += minAlign {
		if off < r.at || off+headerBytes > r.at+int64(len(r.window)) {
			if err := ctx.Err(); err != nil {
				return 0, err
			}
			r.window = nil
			if err := r.fill(buf[:min(len(buf), r.windowFor(off, headerBytes))], off, headerBytes); err != nil {
				return 0, err
			}
		}
		b := r.window[off-r.at:]
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
