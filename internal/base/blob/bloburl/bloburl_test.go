package bloburl

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/looptape/looptape/internal/base/blob"
)

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	for _, url := range []string{dir, filepath.Join(dir, "new"), "file://" + dir, "file://localhost" + dir} {
		s, err := Open(t.Context(), url)
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		if err := s.Put(t.Context(), strings.NewReplacer(":", "", "/", "_").Replace("k"+url), strings.NewReader("x"), 1); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
	for _, url := range []string{
		"", "file://host/path", "ftp://host/path",
		"s3://bucket/prefix?no=such", "s3://key:secret@bucket/prefix", "s3://B!/", "s3://bucket?style=secret", "s3://bucket?endpoint=ftp://secret", "file://", "http://user:secret@host/%zz",
	} {
		_, err := Open(t.Context(), url)
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestView(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "objects")
	if _, err := View(t.Context(), dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	w, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Put(t.Context(), "k", strings.NewReader("x"), 1); err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(dir, ".tmp", "7") // of a process that is writing
	if err := os.WriteFile(half, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := View(t.Context(), "file://"+dir)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := r.Stat(t.Context(), "k"); err != nil || info.Size != 1 {
		t.Error(info, err)
	}
	for name, err := range map[string]error{
		"put":    r.Put(t.Context(), "k2", strings.NewReader("x"), 1),
		"delete": r.Delete(t.Context(), "k"),
	} {
		if !errors.Is(err, blob.ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Stat(half); err != nil {
		t.Errorf("looking took what another process writes: %v", err)
	}
}
