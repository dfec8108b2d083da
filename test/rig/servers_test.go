//go:build servers

package rig

import (
	"os"
	"path/filepath"
	"testing"
)

// Servers come up, keep their data through a kill, and are gone with the test.
func TestServers(t *testing.T) {
	s3 := S3(t)
	s3.URL("b", "")
	s3.Restart()
	if _, err := os.Stat(filepath.Join(s3.Dir, "b")); err != nil {
		t.Error(err)
	}
	etcd := Etcd(t)
	etcd.Pause()
	etcd.Resume()
	etcd.Restart()
}
