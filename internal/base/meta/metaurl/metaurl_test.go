package metaurl

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/looptape/looptape/internal/base/meta"
)

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	for i, url := range []string{filepath.Join(dir, "a b.db"), "file://" + dir + "/a%20b.db"} {
		if Remote(url) {
			t.Errorf("%s is remote", url)
		}
		s, err := Open(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		r, err := s.Txn(t.Context(), meta.Txn{Then: []meta.Op{meta.Put("k", nil)}})
		if err != nil || r.Rev != int64(i+1) {
			t.Errorf("%s: %+v, %v", url, r, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if !Remote("etcd://a:1/p") {
		t.Error("etcd is not remote")
	}
}

func TestRefused(t *testing.T) {
	for url, why := range map[string]string{
		"":                        "no path",
		"file://relative.db":      "absolute",
		"file:///%zz":             "absolute",
		"zk://a:1":                `"zk"`,
		"etcd://u:hunter2@a":      "host:port",
		"etcd://u:hunter2@a:1/:/": "prefix",
	} {
		_, err := Open(t.Context(), url)
		if err == nil || !strings.Contains(err.Error(), why) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", url, err)
		}
	}
}
