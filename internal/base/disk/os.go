package disk

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// OS is the operating system's file system.
type OS struct{}

var _ FS = OS{}

// OpenFile implements FS. Where Mode.Direct is refused by the file system, the
// file is opened through the page cache and DirectAlign says 0.
func (OS) OpenFile(name string, mode Mode) (File, error) {
	flags := os.O_RDONLY
	if mode.Write {
		flags = os.O_RDWR
	}
	if mode.Create {
		flags |= os.O_CREATE
	}
	if mode.Excl {
		flags |= os.O_EXCL
	}
	if mode.Create {
		if err := fault("create"); err != nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
	}
	if mode.Direct {
		if f := openDirect(name, flags); f != nil {
			return f, nil
		}
	}
	f, err := os.OpenFile(name, flags, 0o600)
	if err != nil {
		return nil, err
	}
	return &osFile{File: f}, nil
}

// Remove implements FS.
func (OS) Remove(name string) error { return os.Remove(name) }

// Rename implements FS.
func (OS) Rename(from, to string) error { return os.Rename(from, to) }

// Link implements FS.
func (OS) Link(from, to string) error { return os.Link(from, to) }

// MkdirAll implements FS.
func (o OS) MkdirAll(dir string) error {
	dir = filepath.Clean(dir)
	if info, err := os.Stat(dir); err == nil {
		if !info.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: dir, Err: fs.ErrExist}
		}
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := o.MkdirAll(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !Exists(err) {
		return err
	}
	return o.SyncDir(parent)
}

// ReadDir implements FS.
func (OS) ReadDir(dir string) ([]Entry, error) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, 0, len(names))
	for _, n := range names {
		info, err := n.Info()
		if Missing(err) {
			continue // removed since
		}
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry(info))
	}
	return entries, nil
}

// SyncDir implements FS.
func (OS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	if err := d.Sync(); err != nil {
		d.Close()
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return d.Close()
}

// Stat implements FS.
func (OS) Stat(name string) (Entry, error) {
	info, err := os.Stat(name)
	if err != nil {
		return Entry{}, err
	}
	return entry(info), nil
}

// Lock implements FS.
func (OS) Lock(name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lock(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return f, nil
}

func entry(info fs.FileInfo) Entry {
	e := Entry{Name: info.Name(), Dir: info.IsDir(), Modified: info.ModTime()}
	if !e.Dir {
		e.Size = info.Size()
	}
	return e
}

// osFile is a File of the operating system.
type osFile struct {
	*os.File
	align int
}

func (f *osFile) DirectAlign() int { return f.align }

func (f *osFile) WriteAt(b []byte, off int64) (int, error) {
	if err := fault("write"); err != nil {
		return 0, &fs.PathError{Op: "write", Path: f.Name(), Err: err}
	}
	return f.File.WriteAt(b, off)
}

func (f *osFile) Datasync() error {
	err := fault("fdatasync")
	if err == nil {
		err = datasync(f.File)
	}
	if err != nil {
		return &fs.PathError{Op: "fdatasync", Path: f.Name(), Err: err}
	}
	return nil
}

func (f *osFile) DropCache() error {
	if f.align > 0 {
		return nil
	}
	return dropCache(f.File)
}

func (f *osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
