package diskmem

import (
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"github.com/looptape/looptape/internal/base/disk"
)

// handle is an open file.
type handle struct {
	fs    *FS
	name  string
	file  *inode
	align int
	write bool

	closed bool // guarded by fs.mu
}

// check refuses what a file open for direct I/O refuses.
func (h *handle) check(op string, p []byte, off int64) error {
	if h.closed {
		return pathError(op, h.name, fs.ErrClosed)
	}
	if off < 0 {
		return pathError(op, h.name, fs.ErrInvalid)
	}
	if a := h.align; a > 0 && (off%int64(a) != 0 || len(p)%a != 0 || disk.AlignedTo(p, a) != 0) {
		return pathError(op, h.name, fmt.Errorf("%w: %d bytes at %d not aligned to %d", fs.ErrInvalid, len(p), off, a))
	}
	return nil
}

func (h *handle) ReadAt(p []byte, off int64) (int, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if err := h.check("read", p, off); err != nil {
		return 0, err
	}
	if off >= int64(len(h.file.now)) {
		return 0, io.EOF
	}
	n := copy(p, h.file.now[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// writable is check for what changes the file. Call with fs.mu held.
func (h *handle) writable(op string, p []byte, off int64) error {
	if err := h.check(op, p, off); err != nil {
		return err
	}
	if !h.write {
		return pathError(op, h.name, fs.ErrPermission)
	}
	return nil
}

func (h *handle) WriteAt(p []byte, off int64) (int, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if err := h.writable("write", p, off); err != nil {
		return 0, err
	}
	err := h.fs.step()
	if err != nil {
		p = p[:len(p)/2/sectorBytes*sectorBytes] // the rest never left the machine
	}
	if end := int(off) + len(p); end > len(h.file.now) {
		h.file.now = append(h.file.now, make([]byte, end-len(h.file.now))...)
	}
	copy(h.file.now[off:], p)
	h.file.modified = time.Now()
	if err != nil {
		return len(p), pathError("write", h.name, err)
	}
	return len(p), nil
}

func (h *handle) Truncate(size int64) error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if err := h.writable("truncate", nil, 0); err != nil {
		return err
	}
	if err := h.fs.step(); err != nil {
		return pathError("truncate", h.name, err)
	}
	if n := int(size); n <= len(h.file.now) {
		h.file.now = slices.Clone(h.file.now[:n])
	} else {
		h.file.now = append(h.file.now, make([]byte, n-len(h.file.now))...)
	}
	return nil
}

func (h *handle) Datasync() error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if h.closed {
		return pathError("fdatasync", h.name, fs.ErrClosed)
	}
	if err := h.fs.step(); err != nil {
		return pathError("fdatasync", h.name, err)
	}
	h.file.synced = slices.Clone(h.file.now)
	return nil
}

func (h *handle) Sync() error { return h.Datasync() }

func (h *handle) Size() (int64, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	return int64(len(h.file.now)), nil
}

func (h *handle) DirectAlign() int { return h.align }

func (h *handle) DropCache() error { return nil }

func (h *handle) Close() error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if h.closed {
		return pathError("close", h.name, fs.ErrClosed)
	}
	h.closed = true
	return nil
}
