//go:build servers

package catalog

import (
	"fmt"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/meta/metaetcd"
	"github.com/looptape/looptape/test/rig"
)

// The catalog on a real etcd, which others use at the same time.
func TestEtcd(t *testing.T) {
	server := rig.Etcd(t)
	openStore := func(prefix string) meta.Store {
		cfg, err := metaetcd.Parse(server.URL(prefix))
		if err != nil {
			t.Fatal(err)
		}
		s, err := metaetcd.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return s
	}
	store := &noisy{Store: openStore("one")}
	life(t, store)
	if n := store.scans.Load(); n != 4 {
		t.Errorf("%d full reads, want one for each Open and Register", n)
	}
	other := open(t, openStore("two"))
	if len(other.Topics()) != 0 || other.ClusterID() == "" {
		t.Error("clusters see each other")
	}
	// The history is compacted and the server killed: the index follows.
	c := followed(t, store.Store)
	admin, err := clientv3.New(clientv3.Config{Endpoints: []string{server.Addr}})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	for i := range 5 {
		if _, err := c.CreateTopic(t.Context(), Topic{Name: fmt.Sprint("t", i), Partitions: 200}); err != nil {
			t.Fatal(err)
		}
		server.Kill()
		time.Sleep(50 * time.Millisecond)
		server.Start()
		if _, err := admin.Compact(t.Context(), c.Revision()-1); err != nil && i == 0 {
			t.Error(err)
		}
	}
	began := time.Now()
	if _, err := c.CreateTopic(t.Context(), Topic{Name: "last", Partitions: 1}); err != nil {
		t.Fatal(err)
	}
	if n := len(c.Topics()); n != 6 {
		t.Errorf("%d topics", n)
	}
	t.Logf("%+v, the last topic took %v", c.Stats(), time.Since(began).Round(time.Millisecond))
}
