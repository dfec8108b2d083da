//go:build servers

package blobs3

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/blob/blobtest"
	"github.com/looptape/looptape/test/rig"
)

func openURL(t *testing.T, url string) *Store {
	t.Helper()
	cfg, err := ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSuite(t *testing.T) {
	server := rig.S3(t)
	var n atomic.Int32
	for _, prefix := range []string{"", "some/prefix"} {
		t.Run("prefix "+prefix, func(t *testing.T) {
			blobtest.Run(t, func(t *testing.T) blob.Store {
				return openURL(t, server.URL(fmt.Sprintf("bucket-%d", n.Add(1)), prefix))
			})
		})
	}
}

func TestFeaturesOfServer(t *testing.T) {
	s := openURL(t, rig.S3(t).URL("bucket", ""))
	f, err := blob.Probe(t.Context(), s, "probe/")
	if err != nil || !f.Conditional {
		t.Errorf("%+v, %v", f, err)
	}
	now, err := s.Now(t.Context())
	if d := time.Since(now); err != nil || d < -2*time.Second || d > 2*time.Second {
		t.Errorf("the server's time is %v, %v", now, err)
	}
}

func TestServerGoesAndComes(t *testing.T) {
	server := rig.S3(t)
	s := openURL(t, server.URL("bucket", ""))
	put := func(key string) error { return s.Put(t.Context(), key, strings.NewReader("x"), 1) }
	if err := put("a"); err != nil {
		t.Fatal(err)
	}
	server.Kill()
	if err := put("b"); !errors.Is(err, blob.ErrUnknown) {
		t.Errorf("put while it is down: %v", err)
	}
	if _, err := s.Stat(t.Context(), "a"); err == nil || errors.Is(err, blob.ErrNotFound) {
		t.Errorf("stat while it is down: %v", err)
	}
	if s := openURL(t, server.URL("bucket", "")); s == nil {
		t.Error("a store that is down can't be opened")
	}
	server.Start()
	if err := put("b"); err != nil {
		t.Errorf("after the start: %v", err)
	}
	if err := put("a"); !errors.Is(err, blob.ErrExists) {
		t.Errorf("after the start: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	server := rig.S3(t)
	cfg, err := ParseURL(server.URL("bucket", ""))
	if err != nil {
		t.Fatal(err)
	}
	missing := cfg
	missing.Bucket = "no-such-bucket"
	wrongKey := cfg
	wrongKey.Credentials = static("unknown-access-key", "the-secret")
	wrongSecret := cfg
	wrongSecret.Credentials = static(rig.S3AccessKey, "the-secret")
	https := cfg
	https.Endpoint = strings.Replace(cfg.Endpoint, "http:", "https:", 1)
	for name, c := range map[string]struct {
		cfg  Config
		want string
	}{
		"bucket": {missing, "does not exist: create it"},
		"key":    {wrongKey, "credentials are not accepted"},
		"secret": {wrongSecret, "credentials are not accepted"},
		"https":  {https, "speaks http"},
	} {
		_, err := Open(t.Context(), c.cfg)
		if !errors.Is(err, blob.ErrRefused) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
