package wal

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/looptape/looptape/internal/base/disk"
)

// The names in a log's directory.
//
//	EPOCH-SEQ.wal   segment SEQ of an epoch, 20 and 10 digits; only its blocks say
//	                whether it was begun, since it is named before it is used
//	free-N.wal      a segment to be used again
//	new-N.tmp       a segment being written for the first time
//	lock            the exclusive lock
//
// A .wal file was written from end to end and synced before it got its name, so
// that no commit changes a file's size or blocks.
const (
	lockName    = "lock"
	segmentForm = "%020d-%010d.wal"
	freeForm    = "free-%d.wal"
	newForm     = "new-%d.tmp"
)

// prewriteBytes is how much of a new segment is written at a time.
const prewriteBytes = 1 << 20

// A segment is one file of an epoch.
type segment struct {
	epoch, seq int64
	path       string
	size       int64 // of the file
	used       int64 // bytes of blocks
	last       LSN   // of the records in it or before it
}

// listing is what a log's directory holds.
type listing struct {
	segments []segment // by epoch and number
	free     []segment
	unfit    []string // half-made files: to be removed
}

func list(fs disk.FS, dir string) (listing, error) {
	entries, err := fs.ReadDir(dir)
	if err != nil {
		return listing{}, err
	}
	var l listing
	for _, e := range entries {
		if e.Dir {
			continue
		}
		s := segment{path: filepath.Join(dir, e.Name), size: e.Size}
		var n int64
		switch {
		case scans(e.Name, segmentForm, &s.epoch, &s.seq) && s.epoch > 0 && s.seq > 0:
			l.segments = append(l.segments, s)
		case scans(e.Name, freeForm, &n):
			l.free = append(l.free, s)
		case scans(e.Name, newForm, &n):
			l.unfit = append(l.unfit, s.path)
		}
	}
	slices.SortFunc(l.segments, func(a, b segment) int {
		if a.epoch != b.epoch {
			return cmpInt(a.epoch, b.epoch)
		}
		return cmpInt(a.seq, b.seq)
	})
	return l, nil
}

func cmpInt(a, b int64) int {
	if a < b {
		return -1
	}
	if a > b {
		return 1
	}
	return 0
}

// scans tells whether name is exactly what form gives for some numbers, and sets
// them.
func scans(name, form string, numbers ...any) bool {
	if n, err := fmt.Sscanf(name, form, numbers...); err != nil || n != len(numbers) {
		return false
	}
	values := make([]any, len(numbers))
	for i, p := range numbers {
		values[i] = *p.(*int64)
	}
	return name == fmt.Sprintf(form, values...)
}

// A pool makes segments and takes back those no longer needed. It has one owner:
// Open, then the log's segment goroutine.
type pool struct {
	fs       disk.FS
	dir      string
	bytes    int64 // of a segment
	buffered bool
	maxFree  int
	free     []string // full-size files under free names
	next     int      // number of the next free or new file
}

// take returns a file of the pool, or a new one, under the name of a segment,
// durably named and with the size that commits need.
func (p *pool) take(epoch, seq, size int64) (*openSegment, error) {
	s := segment{epoch: epoch, seq: seq, size: size, path: filepath.Join(p.dir, fmt.Sprintf(segmentForm, epoch, seq))}
	from := ""
	if n := len(p.free); n > 0 && size == p.bytes {
		from, p.free = p.free[n-1], p.free[:n-1]
	} else {
		from = filepath.Join(p.dir, fmt.Sprintf(newForm, p.next))
		p.next++
		if err := p.prewrite(from, size); err != nil {
			return nil, err
		}
	}
	if err := p.fs.Rename(from, s.path); err != nil {
		return nil, err
	}
	if err := p.fs.SyncDir(p.dir); err != nil {
		return nil, err
	}
	f, err := p.fs.OpenFile(s.path, disk.Mode{Write: true, Direct: !p.buffered})
	if err != nil {
		return nil, err
	}
	return &openSegment{segment: s, file: f}, nil
}

// prewrite makes a file of zeros, synced. On failure it leaves none, as far as it
// can: the disk may be full.
func (p *pool) prewrite(path string, size int64) error {
	f, err := p.fs.OpenFile(path, disk.Mode{Write: true, Create: true, Direct: !p.buffered})
	if err != nil {
		return fmt.Errorf("%w: %w", errPrewrite, err)
	}
	zeros := disk.Aligned(int(min(size, prewriteBytes)), max(minAlign, f.DirectAlign()))
	for at := int64(0); at < size && err == nil; at += int64(len(zeros)) {
		zeros = zeros[:min(int64(len(zeros)), size-at)]
		_, err = f.WriteAt(zeros, at)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		_ = p.fs.Remove(path) // else the next Open does
		return fmt.Errorf("%w %s: %w", errPrewrite, path, err)
	}
	return nil
}

// errPrewrite says that there is no new segment, as when the disk is full; nothing
// is wrong with the others.
var errPrewrite = errors.New("prepare segment")

// put takes back a segment's file. When it returns nil, the file's old name is
// durably gone: segments vanish in order, so those left have no gap.
func (p *pool) put(path string, size int64) error {
	if size == p.bytes && len(p.free) < p.maxFree {
		to := filepath.Join(p.dir, fmt.Sprintf(freeForm, p.next))
		p.next++
		if err := p.fs.Rename(path, to); err != nil {
			return err
		}
		p.free = append(p.free, to)
	} else if err := p.fs.Remove(path); err != nil && !disk.Missing(err) {
		return err
	}
	return p.fs.SyncDir(p.dir)
}

// An openSegment is the one being written.
type openSegment struct {
	segment
	file   disk.File
	limit  int64 // that the durable mark says; 0: there is no mark yet
	marked int64 // bytes of blocks at the last mark
}

// commit writes the block at the end and makes it durable. After an error nothing
// is known about it, and the log has failed.
func (s *openSegment) commit(b []byte) error {
	if _, err := s.file.WriteAt(b, s.used); err != nil {
		return fmt.Errorf("write %d bytes at byte %d of %s: %w", len(b), s.used, s.path, err)
	}
	if err := s.file.Datasync(); err != nil {
		return fmt.Errorf("sync %s: %w", s.path, err)
	}
	s.used += int64(len(b))
	return nil
}
