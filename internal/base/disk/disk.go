// Package disk is the contract of a file system whose durability is explicit.
//
// Nothing is durable until it was synced: the bytes of a file by File.Datasync or
// File.Sync, the names in a directory (created, renamed, removed) by SyncDir. A
// crash keeps any subset of what was not synced, torn at any sector. After a
// failed sync the state of what it covered is unknown for ever: no later sync
// that succeeds proves anything, so a writer must stop and recover.
//
// OS is the operating system's file system, with O_DIRECT where it works. Package
// diskmem has one in memory that crashes at the k-th call.
package disk

import (
	"errors"
	"io"
	"io/fs"
	"time"
)

// ErrLocked says that another process, or another part of this one, holds a lock.
var ErrLocked = errors.New("locked by another process")

// Mode says how OpenFile opens.
type Mode struct {
	Write  bool // for reading and writing; otherwise reading only
	Create bool // create it if it is absent
	Excl   bool // with Create: fs.ErrExist if it is there
	Direct bool // past the page cache, where the file system can; see File.DirectAlign
}

// An Entry is a name in a directory.
type Entry struct {
	Name string
	Size int64 // bytes; 0 for a directory
	Dir  bool
	// Modified is when the contents changed last.
	Modified time.Time
}

// FS is a file system. Names are paths of the operating system. Errors for a
// missing or an existing name match fs.ErrNotExist and fs.ErrExist.
type FS interface {
	OpenFile(name string, mode Mode) (File, error)

	// Remove removes a file. Durable after SyncDir of its directory.
	Remove(name string) error

	// Rename gives a file another name, replacing what had it. Durable after
	// SyncDir of the new name's directory (and the old one's, if another).
	Rename(from, to string) error

	// Link gives a file a further name, in the same or another directory, or
	// returns fs.ErrExist if it is taken. Durable after SyncDir of the new name's
	// directory.
	Link(from, to string) error

	// MkdirAll creates a directory and its missing parents, durably.
	MkdirAll(dir string) error

	// ReadDir lists a directory in the order of the names.
	ReadDir(dir string) ([]Entry, error)

	// SyncDir makes the names in dir durable.
	SyncDir(dir string) error

	// Stat describes a name.
	Stat(name string) (Entry, error)

	// Lock takes the exclusive lock kept in the file name, which is created if
	// absent, or returns ErrLocked at once. Closing the result gives it back, and
	// so does the end of the process.
	Lock(name string) (io.Closer, error)
}

// A File is an open file. ReadAt and WriteAt may run at the same time.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer

	// Datasync makes all bytes written so far durable, with the file's size if it
	// grew. A failure is final, see the package's doc.
	Datasync() error

	// Sync is Datasync and the file's other metadata.
	Sync() error

	Truncate(size int64) error
	Size() (int64, error)

	// DirectAlign is the alignment in bytes that offset, length and memory of
	// every ReadAt and WriteAt must have, because the file is open past the page
	// cache; 0 when it is not and any will do.
	DirectAlign() int

	// DropCache forgets the file's clean cached pages, as far as the system can,
	// so that a read comes from the device. Without effect when DirectAlign > 0.
	DropCache() error
}

// Exists tells whether err says that a name was there already.
func Exists(err error) bool { return errors.Is(err, fs.ErrExist) }

// Missing tells whether err says that a name was not there.
func Missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
