package bloburl

import (
	"path/filepath"
	"strings"
	"testing"
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
