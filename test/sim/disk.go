package sim

import (
	"io"

	"github.com/looptape/looptape/internal/base/disk"
	"github.com/looptape/looptape/internal/base/disk/diskmem"
)

// files is the disk as one process reaches it.
type files struct {
	*diskmem.FS
	p *process
}

// do is one call to the disk. Only what can be durable takes time.
func (f files) do(subject string, slow, grows bool, effect func() error) error {
	w := f.p.node.w
	weather := w.sky.get().disk
	if slow {
		r := w.dice.about(f.p.name + " disk " + subject)
		// The process can't give up a system call: no context here.
		if err := f.p.sleep(f.p.ctx, tail(r, 20_000, weather.slow)); err != nil && f.p.wait() != nil {
			return errDead
		}
	}
	if grows && weather.full {
		return errFull
	}
	return f.p.step(effect)
}

func (f files) OpenFile(name string, mode disk.Mode) (h disk.File, err error) {
	err = f.do("open", false, mode.Create, func() (err error) {
		h, err = f.FS.OpenFile(name, mode)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &file{h, f, name}, nil
}

func (f files) Remove(name string) error {
	return f.do("remove", false, false, func() error { return f.FS.Remove(name) })
}

func (f files) Rename(from, to string) error {
	return f.do("rename", false, false, func() error { return f.FS.Rename(from, to) })
}

func (f files) Link(from, to string) error {
	return f.do("link", false, true, func() error { return f.FS.Link(from, to) })
}

func (f files) MkdirAll(dir string) error {
	return f.do("mkdir", false, false, func() error { return f.FS.MkdirAll(dir) })
}

func (f files) SyncDir(dir string) error {
	return f.do("sync "+dir, true, false, func() error { return f.FS.SyncDir(dir) })
}

func (f files) Lock(name string) (l io.Closer, err error) {
	err = f.do("lock", false, false, func() (err error) {
		if l, err = f.FS.Lock(name); err == nil {
			f.p.holds(l)
		}
		return err
	})
	return l, err
}

type file struct {
	disk.File
	files files
	name  string
}

func (f *file) WriteAt(b []byte, off int64) (n int, err error) {
	size, err := f.File.Size()
	if err != nil {
		return 0, err
	}
	err = f.files.do("write", false, off+int64(len(b)) > size, func() (err error) {
		n, err = f.File.WriteAt(b, off)
		return err
	})
	return n, err
}

func (f *file) Datasync() error { return f.sync(f.File.Datasync) }
func (f *file) Sync() error     { return f.sync(f.File.Sync) }

func (f *file) sync(fn func() error) error {
	w := f.files.p.node.w
	return f.files.do("fsync", true, false, func() error {
		if w.sky.tearSync() {
			w.hist.add("%s fsync of %s fails", f.files.p.name, f.name)
			return errSync
		}
		return fn()
	})
}
