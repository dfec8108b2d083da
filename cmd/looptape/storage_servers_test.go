//go:build servers

package main

import (
	"strings"
	"testing"

	"github.com/looptape/looptape/test/rig"
)

// The commands on a real bucket and a real etcd.
func TestStorageOnServers(t *testing.T) {
	bucket, etcd := rig.S3(t).URL("tape", "prefix"), rig.Etcd(t).URL("looptape")
	s := newStore(t, etcd, bucket)
	defer s.meta.Close()
	where := []string{"--blob", bucket, "--meta", etcd, "--data", t.TempDir(), "--api=http://127.0.0.1:1"}
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"stats"}, []string{"catalog from the metadata", "data        2", "epoch 1: file, active"}},
		{[]string{"objects", "--class=data"}, []string{s.objects[0][len("data/"+s.catalog.ClusterID()):]}},
		{[]string{"verify", "-q"}, []string{"read 2 objects", "everything is as it was written"}},
		{[]string{"doctor"}, []string{"ok    object store", "ok    clock", "ok    bucket rules", "ok    cluster", "etcd compaction"}},
	} {
		got, code := s.run(append(c.args, where...)...)
		if code != 0 {
			t.Errorf("%v: exit code %d: %s", c.args, code, got)
		}
		for _, want := range c.want {
			if !strings.Contains(got, want) {
				t.Errorf("%v: no %q in\n%s", c.args, want, got)
			}
		}
	}
	s.damage()
	got, code := s.run(append([]string{"verify", "-q"}, where...)...)
	if code != 1 || !strings.Contains(got, "byte 32: piece at 32: crc X, want Y; it holds orders/0, offsets 0 to 4") {
		t.Errorf("damage: exit code %d: %s", code, got)
	}
	got, code = s.run(append([]string{"verify", "-q", "--blob", strings.Replace(bucket, "/prefix", "/elsewhere", 1)}, where[2:]...)...)
	if code != 1 {
		t.Errorf("another prefix: exit code %d: %s", code, got)
	}
}
