// Package diskmem is a disk.FS in memory that forgets what was not synced.
//
// It keeps, beside what a program sees, what a crash could not take away: the
// bytes each file had at its last sync and the names each directory had at its
// last SyncDir. Crash returns what the disk may hold after a power cut: of each
// file's unsynced 512-byte sectors some are there and some not, and of the unsynced
// changes of names any, in whatever order they were made, but for what builds on
// one that is lost. FailAt and StopAt make the k-th call that changes something
// fail, once or for ever, so that a test can try all k.
package diskmem

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/looptape/looptape/internal/base/disk"
)

// ErrStopped is the error of every call after StopAt's.
var ErrStopped = errors.New("disk stopped")

// sectorBytes is the unit a crash keeps or drops.
const sectorBytes = 512

// inode is the contents of a file, whatever its names.
type inode struct {
	now    []byte // what reads see
	synced []byte // what a crash keeps for certain

	modified time.Time
}

// A change is one change of names: name now leads to file, or to nothing.
type change struct {
	name string
	file *inode // nil: removed
}

// op is one call's changes of names, which survive together or not at all.
type op struct {
	dir     string
	changes []change
}

// FS is a file system in memory. Use New. Its mutex guards everything, the files
// too.
type FS struct {
	mu      sync.Mutex
	align   int
	names   map[string]*inode
	dirs    map[string]bool
	durable map[string]*inode
	pending []op // changes of names that no SyncDir made durable
	locks   map[string]bool
	calls   int
	failAt  int
	failErr error
	stopAt  int
}

var _ disk.FS = (*FS)(nil)

// New returns an empty file system whose files, if opened with Mode.Direct, want
// alignment align (0: no direct I/O).
func New(align int) *FS {
	return &FS{
		align:   align,
		names:   map[string]*inode{},
		dirs:    map[string]bool{"/": true, ".": true},
		durable: map[string]*inode{},
		locks:   map[string]bool{},
	}
}

// Calls is the number of calls so far that change something: create, write,
// truncate, sync, remove, rename, link, SyncDir. A read is none.
func (m *FS) Calls() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls
}

// FailAt makes the k-th such call (1: the next) fail with err. A write that fails
// has written a part; a sync that fails has synced nothing.
func (m *FS) FailAt(k int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failAt, m.failErr = m.calls+k, err
}

// StopAt makes the k-th such call (1: the next) and all after it fail with
// ErrStopped, as if the machine had stopped there. Crash then tells what is left.
func (m *FS) StopAt(k int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stopAt = m.calls + k
}

// step counts a call and says whether it fails. Call with m.mu held.
func (m *FS) step() error {
	m.calls++
	if m.stopAt > 0 && m.calls >= m.stopAt {
		return ErrStopped
	}
	if m.calls == m.failAt {
		return m.failErr
	}
	return nil
}

// Crash returns a new file system with what may be left after a power cut now:
// what was synced, and a part, drawn from r, of what was not. A nil r keeps
// nothing that was not synced. Locks are free. The old file system is unharmed.
func (m *FS) Crash(r *rand.Rand) *FS {
	m.mu.Lock()
	defer m.mu.Unlock()
	after := New(m.align)
	maps.Copy(after.dirs, m.dirs)
	names := maps.Clone(m.durable)
	lost := map[string]bool{} // names with a lost change; later ones are lost as well
	for _, o := range m.pending {
		keep := r != nil && r.IntN(2) == 0
		for _, c := range o.changes {
			keep = keep && !lost[c.name]
		}
		if keep {
			apply(names, o)
			continue
		}
		for _, c := range o.changes {
			lost[c.name] = true
		}
	}
	copies := map[*inode]*inode{} // a file may have more names
	for _, name := range slices.Sorted(maps.Keys(names)) {
		file := names[name]
		if copies[file] == nil {
			b := file.left(r)
			copies[file] = &inode{now: b, synced: slices.Clone(b), modified: file.modified}
		}
		after.names[name] = copies[file]
		after.durable[name] = copies[file]
	}
	return after
}

// left is what a crash leaves of the file.
func (f *inode) left(r *rand.Rand) []byte {
	b := slices.Clone(f.synced)
	if r == nil || slices.Equal(f.now, f.synced) {
		return b
	}
	switch r.IntN(4) {
	case 0: // nothing of what was not synced
		return b
	case 1: // all of it
		return slices.Clone(f.now)
	}
	if len(f.now) < len(b) && r.IntN(2) == 0 {
		b = b[:len(f.now)]
	}
	for at := 0; at < len(f.now); at += sectorBytes {
		if r.IntN(2) == 0 {
			continue
		}
		end := min(at+sectorBytes, len(f.now))
		if end > len(b) {
			b = append(b, make([]byte, end-len(b))...)
		}
		copy(b[at:end], f.now[at:end])
	}
	return b
}

func apply(names map[string]*inode, o op) {
	for _, c := range o.changes {
		if c.file == nil {
			delete(names, c.name)
		} else {
			names[c.name] = c.file
		}
	}
}

// change applies an op to what is seen and keeps it pending. Call with m.mu held.
func (m *FS) change(o op) {
	apply(m.names, o)
	m.pending = append(m.pending, o)
}

func pathError(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// OpenFile implements disk.FS.
func (m *FS) OpenFile(name string, mode disk.Mode) (disk.File, error) {
	name = filepath.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	file := m.names[name]
	switch {
	case m.dirs[name]:
		return nil, pathError("open", name, errors.New("is a directory"))
	case file != nil && mode.Create && mode.Excl:
		return nil, pathError("open", name, fs.ErrExist)
	case file == nil && !mode.Create, !m.dirs[filepath.Dir(name)]:
		return nil, pathError("open", name, fs.ErrNotExist)
	case file == nil:
		if err := m.step(); err != nil {
			return nil, pathError("open", name, err)
		}
		file = &inode{modified: time.Now()}
		m.change(op{filepath.Dir(name), []change{{name, file}}})
	}
	h := &handle{fs: m, name: name, file: file, write: mode.Write}
	if mode.Direct {
		h.align = m.align
	}
	return h, nil
}

// Remove implements disk.FS.
func (m *FS) Remove(name string) error {
	name = filepath.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.names[name] == nil {
		return pathError("remove", name, fs.ErrNotExist)
	}
	if err := m.step(); err != nil {
		return pathError("remove", name, err)
	}
	m.change(op{filepath.Dir(name), []change{{name, nil}}})
	return nil
}

// Rename implements disk.FS.
func (m *FS) Rename(from, to string) error {
	from, to = filepath.Clean(from), filepath.Clean(to)
	m.mu.Lock()
	defer m.mu.Unlock()
	file := m.names[from]
	if file == nil || !m.dirs[filepath.Dir(to)] {
		return pathError("rename", from, fs.ErrNotExist)
	}
	if err := m.step(); err != nil {
		return pathError("rename", from, err)
	}
	m.change(op{filepath.Dir(to), []change{{from, nil}, {to, file}}})
	return nil
}

// Link implements disk.FS.
func (m *FS) Link(from, to string) error {
	from, to = filepath.Clean(from), filepath.Clean(to)
	m.mu.Lock()
	defer m.mu.Unlock()
	file := m.names[from]
	switch {
	case file == nil, !m.dirs[filepath.Dir(to)]:
		return pathError("link", from, fs.ErrNotExist)
	case m.names[to] != nil:
		return pathError("link", to, fs.ErrExist)
	}
	if err := m.step(); err != nil {
		return pathError("link", to, err)
	}
	m.change(op{filepath.Dir(to), []change{{to, file}}})
	return nil
}

// MkdirAll implements disk.FS.
func (m *FS) MkdirAll(dir string) error {
	dir = filepath.Clean(dir)
	m.mu.Lock()
	defer m.mu.Unlock()
	for d := dir; !m.dirs[d]; d = filepath.Dir(d) {
		if m.names[d] != nil {
			return pathError("mkdir", d, fs.ErrExist)
		}
		m.dirs[d] = true
	}
	return nil
}

// ReadDir implements disk.FS.
func (m *FS) ReadDir(dir string) ([]disk.Entry, error) {
	dir = filepath.Clean(dir)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.dirs[dir] {
		return nil, pathError("readdir", dir, fs.ErrNotExist)
	}
	var entries []disk.Entry
	for name, file := range m.names {
		if filepath.Dir(name) == dir {
			entries = append(entries, disk.Entry{Name: filepath.Base(name), Size: int64(len(file.now)), Modified: file.modified})
		}
	}
	for name := range m.dirs {
		if name != dir && filepath.Dir(name) == dir {
			entries = append(entries, disk.Entry{Name: filepath.Base(name), Dir: true})
		}
	}
	slices.SortFunc(entries, func(a, b disk.Entry) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return entries, nil
}

// SyncDir implements disk.FS.
func (m *FS) SyncDir(dir string) error {
	dir = filepath.Clean(dir)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.dirs[dir] {
		return pathError("sync", dir, fs.ErrNotExist)
	}
	if err := m.step(); err != nil {
		return pathError("sync", dir, err)
	}
	var rest []op
	for _, o := range m.pending {
		if o.dir == dir {
			apply(m.durable, o)
		} else {
			rest = append(rest, o)
		}
	}
	m.pending = rest
	return nil
}

// Stat implements disk.FS.
func (m *FS) Stat(name string) (disk.Entry, error) {
	name = filepath.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dirs[name] {
		return disk.Entry{Name: filepath.Base(name), Dir: true}, nil
	}
	file := m.names[name]
	if file == nil {
		return disk.Entry{}, pathError("stat", name, fs.ErrNotExist)
	}
	return disk.Entry{Name: filepath.Base(name), Size: int64(len(file.now)), Modified: file.modified}, nil
}

// Lock implements disk.FS.
func (m *FS) Lock(name string) (io.Closer, error) {
	name = filepath.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.locks[name] {
		return nil, fmt.Errorf("lock %s: %w", name, disk.ErrLocked)
	}
	m.locks[name] = true
	return &held{m, name}, nil
}

type held struct {
	fs   *FS
	name string
}

func (l *held) Close() error {
	l.fs.mu.Lock()
	defer l.fs.mu.Unlock()
	delete(l.fs.locks, l.name)
	return nil
}

// Bytes returns a copy of a file's contents, nil if there is no such file.
func (m *FS) Bytes(name string) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f := m.names[filepath.Clean(name)]; f != nil {
		return append([]byte{}, f.now...)
	}
	return nil
}

// SetBytes replaces a file's contents, durably: damage for a test.
func (m *FS) SetBytes(name string, b []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name = filepath.Clean(name)
	f := &inode{now: slices.Clone(b), synced: slices.Clone(b)}
	m.names[name], m.durable[name] = f, f
}
