package disk

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"testing"
)

func TestOSFile(t *testing.T) {
	for _, direct := range []bool{false, true} {
		dir := filepath.Join(t.TempDir(), "a", "b")
		fs := OS{}
		if err := errors.Join(fs.MkdirAll(dir), fs.MkdirAll(dir)); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, "f")
		if _, err := fs.OpenFile(name, Mode{Write: true, Direct: direct}); !Missing(err) {
			t.Fatalf("open of a missing file: %v", err)
		}
		f, err := fs.OpenFile(name, Mode{Write: true, Create: true, Excl: true, Direct: direct})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fs.OpenFile(name, Mode{Write: true, Create: true, Excl: true, Direct: direct}); !Exists(err) {
			t.Fatalf("exclusive create of an existing file: %v", err)
		}
		align := max(1, f.DirectAlign())
		if !direct && align != 1 {
			t.Errorf("buffered file wants alignment %d", align)
		}
		block := Aligned(2*4096, align)
		if AlignedTo(block, align) != 0 {
			t.Errorf("memory not aligned to %d", align)
		}
		copy(block[4096:], "data")
		if _, err := f.WriteAt(block, 4096); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Datasync(), f.Sync(), f.DropCache(), fs.SyncDir(dir)); err != nil {
			t.Fatal(err)
		}
		got := Aligned(2*4096, align)
		if _, err := f.ReadAt(got, 4096); err != nil || !bytes.Equal(got, block) {
			t.Errorf("read back: %v", err)
		}
		if n, err := f.ReadAt(got, 2*4096); n != 4096 || err != io.EOF {
			t.Errorf("read over the end: %d, %v", n, err)
		}
		if size, err := f.Size(); size != 3*4096 || err != nil {
			t.Errorf("size %d, %v", size, err)
		}
		if err := errors.Join(f.Truncate(4096), f.Close(), fs.Link(name, name+"2")); err != nil {
			t.Fatal(err)
		}
		if err := fs.Link(name, name+"2"); !Exists(err) {
			t.Errorf("link to a taken name: %v", err)
		}
		if err := errors.Join(fs.Rename(name, name+"3"), fs.Remove(name+"2")); err != nil {
			t.Fatal(err)
		}
		entries, err := fs.ReadDir(filepath.Dir(dir))
		if err != nil || len(entries) != 1 || !entries[0].Dir || entries[0].Name != "b" {
			t.Errorf("directory: %+v, %v", entries, err)
		}
		if e, err := fs.Stat(name + "3"); err != nil || e.Size != 4096 || e.Name != "f3" || e.Modified.IsZero() {
			t.Errorf("stat: %+v, %v", e, err)
		}
		if err := fs.MkdirAll(filepath.Join(name+"3", "x")); !Exists(err) {
			t.Errorf("directory below a file: %v", err)
		}
	}
}

func TestOSLock(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	l, err := OS{}.Lock(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (OS{}).Lock(name); !errors.Is(err, ErrLocked) {
		t.Errorf("second lock: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l, err = (OS{}).Lock(name); err != nil {
		t.Fatal(err)
	}
	l.Close()
}
