package blobdir

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/looptape/looptape/internal/base/disk"
)

// pieceBytes is how much of a large object is copied and written at a time. Small
// enough to leave the disk to others in between, a log's commits above all.
const pieceBytes = 1 << 20

// directFrom is the size from which an object is written past the page cache:
// fresh pages of the cache cost more than the copy, while a small object is one
// write either way.
const directFrom = 128 << 10

// pieces is how many large objects are written at the same time; more wait.
const pieces = 3

// A stage writes temporary files. Its pieces of memory are aligned for direct I/O,
// made at first use and kept.
type stage struct {
	fs   disk.FS
	free chan []byte // pieces in stock; nil: may be made
}

func newStage(fs disk.FS) *stage {
	s := &stage{fs: fs, free: make(chan []byte, pieces)}
	for range pieces {
		s.free <- nil
	}
	return s
}

// write makes the file tmp with the body, durably but for its name.
func (s *stage) write(ctx context.Context, tmp string, body io.ReaderAt, size int64) error {
	if size < directFrom {
		return s.fill(tmp, disk.Mode{}, func(f disk.File) error {
			return copyBody(ctx, f, body, size, make([]byte, size))
		})
	}
	var piece []byte
	select {
	case piece = <-s.free:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { s.free <- piece }()
	return s.fill(tmp, disk.Mode{Direct: true}, func(f disk.File) error {
		if a := max(1, f.DirectAlign()); piece == nil || disk.AlignedTo(piece, a) != 0 || pieceBytes%a != 0 {
			piece = disk.Aligned(max(pieceBytes, a), max(a, 4096))
		}
		return copyBody(ctx, f, body, size, piece)
	})
}

func (s *stage) fill(tmp string, mode disk.Mode, fn func(disk.File) error) error {
	mode.Write, mode.Create, mode.Excl = true, true, true
	f, err := s.fs.OpenFile(tmp, mode)
	if err != nil {
		return err
	}
	err = fn(f)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// copyBody writes the body through piece. Under direct I/O the last piece is
// padded with zeros, which are cut off again.
func copyBody(ctx context.Context, f disk.File, body io.ReaderAt, size int64, piece []byte) error {
	align := max(1, f.DirectAlign())
	for at := int64(0); at < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		p := piece[:min(size-at, int64(len(piece)))]
		if n, err := body.ReadAt(p, at); n < len(p) {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read body at byte %d of %d: %w", at, size, err)
		}
		whole := (len(p) + align - 1) &^ (align - 1)
		clear(piece[len(p):whole])
		if _, err := f.WriteAt(piece[:whole], at); err != nil {
			return err
		}
		at += int64(len(p))
	}
	if size%int64(align) != 0 {
		if err := f.Truncate(size); err != nil {
			return err
		}
	}
	return ctx.Err()
}
