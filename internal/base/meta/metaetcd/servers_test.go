//go:build servers

package metaetcd

import (
	"fmt"
	"sync/atomic"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/meta/metatest"
	"github.com/looptape/looptape/test/rig"
)

var stores atomic.Int64

// openOn opens an empty store of its own on the server.
func openOn(t *testing.T, server *rig.EtcdServer) *Store {
	t.Helper()
	return openURL(t, server.URL(fmt.Sprintf("test/%d", stores.Add(1))))
}

func openURL(t *testing.T, url string) *Store {
	t.Helper()
	cfg, err := Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), cfg)
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

func compact(t *testing.T, s meta.Store) {
	t.Helper()
	_, rev, err := s.Get(t.Context())
	if err == nil {
		_, err = s.(*Store).client.Compact(t.Context(), rev, clientv3.WithCompactPhysical())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestSuite(t *testing.T) {
	server := rig.Etcd(t)
	metatest.Suite{
		Open:    func(t *testing.T) meta.Store { return openOn(t, server) },
		Compact: compact,
	}.Run(t)
}
