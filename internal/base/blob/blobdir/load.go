package blobdir

import (
	"container/list"
	"context"
	"fmt"
	"sync"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/disk"
)

const (
	// bounceBytes is how much is read at a time, and bounces how many ranges are.
	// Disks put reads before writes: with the system's own read-ahead a log's
	// commit waits for tens of milliseconds, with two of these for more than twice
	// as long as with one, which reads two thirds to nine tenths as fast.
	bounceBytes = 256 << 10
	bounces     = 1
	// turnBytes is how much one reader reads before the next has its turn.
	turnBytes = 2 << 20
	// keptOpen bounds the objects kept open for the next read.
	keptOpen = 32
)

// A loader reads objects past the page cache, piece by piece through aligned
// memory, one range after the other: readers together never ask for much at a time. Where
// there is no direct I/O it reads through the cache, in the same pieces.
type loader struct {
	fs     disk.FS
	bounce chan []byte // pieces of memory; nil: not made yet

	mu    sync.Mutex // guards the rest
	order list.List  // of *opened, newest at the front
	files map[string]*list.Element
}

// opened is an object's file. It is closed when it has left files and the last
// reader is done.
type opened struct {
	disk.File
	path  string
	entry disk.Entry
	users int // and one while it is in files
}

func newLoader(fs disk.FS) *loader {
	l := &loader{fs: fs, bounce: make(chan []byte, bounces), files: map[string]*list.Element{}}
	for range bounces {
		l.bounce <- nil
	}
	return l
}

// read fills dst with the bytes at off of the file, which e describes.
func (l *loader) read(ctx context.Context, path string, e disk.Entry, off int64, dst []byte) error {
	if off < 0 || off > e.Size || int64(len(dst)) > e.Size-off {
		return fmt.Errorf("%w: %d bytes at %d of %d", blob.ErrRange, len(dst), off, e.Size)
	}
	f, err := l.open(path, e)
	if err != nil {
		return notFound(err)
	}
	defer l.release(f)
	for len(dst) > 0 {
		n := min(len(dst), turnBytes)
		if err := l.turn(ctx, f, off, dst[:n]); err != nil {
			return err
		}
		off, dst = off+int64(n), dst[n:]
	}
	return nil
}

// turn waits for its turn and fills dst.
func (l *loader) turn(ctx context.Context, f disk.File, off int64, dst []byte) error {
	var b []byte
	select {
	case b = <-l.bounce:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { l.bounce <- b }()
	align := f.DirectAlign()
	if align > 0 && (b == nil || disk.AlignedTo(b, align) != 0 || len(b)%align != 0) {
		b = disk.Aligned(max(bounceBytes, 2*align), max(align, 4096))
	}
	for len(dst) > 0 {
		n, err := piece(f, align, off, dst, b)
		if err != nil {
			return err
		}
		off, dst = off+int64(n), dst[n:]
	}
	return nil
}

// piece reads the first of dst, as much as b takes.
func piece(f disk.File, align int, off int64, dst, b []byte) (n int, err error) {
	if align == 0 {
		n = min(len(dst), bounceBytes)
		if m, err := f.ReadAt(dst[:n], off); m < n {
			return 0, err
		}
		return n, nil
	}
	skip := int(off & int64(align-1))
	n = min(len(dst), len(b)-skip)
	whole := b[:(skip+n+align-1)&^(align-1)]
	// At the end of the file the last block is short.
	if m, err := f.ReadAt(whole, off-int64(skip)); m < skip+n {
		return 0, fmt.Errorf("%d of %d bytes at %d: %w", m, len(whole), off-int64(skip), err)
	}
	return copy(dst, b[skip:skip+n]), nil
}

// open returns the file for one reader; release gives it back.
func (l *loader) open(path string, e disk.Entry) (*opened, error) {
	l.mu.Lock()
	if el, ok := l.files[path]; ok {
		f := el.Value.(*opened)
		if f.entry.Size == e.Size && f.entry.Modified.Equal(e.Modified) {
			l.order.MoveToFront(el)
			f.users++
			l.mu.Unlock()
			return f, nil
		}
	}
	l.mu.Unlock()
	file, err := l.fs.OpenFile(path, disk.Mode{Direct: true})
	if err != nil {
		return nil, err
	}
	f := &opened{File: file, path: path, entry: e, users: 2}
	l.mu.Lock()
	gone := l.remove(path)
	l.files[path] = l.order.PushFront(f)
	if l.order.Len() > keptOpen {
		gone = append(gone, l.remove(l.order.Back().Value.(*opened).path)...)
	}
	l.mu.Unlock()
	for _, f := range gone {
		l.release(f)
	}
	if _, err := l.fs.Stat(path); err != nil {
		l.forget(path) // deleted meanwhile: don't keep its room on the disk
	}
	return f, nil
}

// remove takes a file out of files; the caller releases what it returns.
func (l *loader) remove(path string) []*opened {
	el, ok := l.files[path]
	if !ok {
		return nil
	}
	delete(l.files, path)
	return []*opened{l.order.Remove(el).(*opened)}
}

// forget closes the file of an object that is deleted.
func (l *loader) forget(path string) {
	l.mu.Lock()
	gone := l.remove(path)
	l.mu.Unlock()
	for _, f := range gone {
		l.release(f)
	}
}

func (l *loader) release(f *opened) {
	l.mu.Lock()
	f.users--
	last := f.users == 0
	l.mu.Unlock()
	if last {
		f.Close() // it was only read
	}
}
