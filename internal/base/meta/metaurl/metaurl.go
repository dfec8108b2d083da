// Package metaurl opens the coordinating store that a URL names.
//
//	(empty)                            nothing: the caller has a default path
//	/var/lib/x/meta.db, x/meta.db      metalocal in that file
//	file:///var/lib/x/meta.db          the same
//	etcd://host:port,host:port/prefix  metaetcd, see there for the options
//
// An unknown scheme is an error that names those there are. Passwords are best
// given by other means than the URL; errors never show them.
package metaurl

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/meta/metaetcd"
	"github.com/looptape/looptape/internal/base/meta/metalocal"
)

// Remote tells whether the URL names a store that several processes share.
func Remote(rawURL string) bool { return strings.HasPrefix(rawURL, "etcd://") }

// Open opens the store. The caller closes it.
func Open(ctx context.Context, rawURL string) (meta.Store, error) {
	switch scheme, rest, ok := strings.Cut(rawURL, "://"); {
	case rawURL == "":
		return nil, errors.New("open metadata: no path and no URL")
	case !ok:
		return metalocal.Open(rawURL)
	case scheme == "file":
		path, err := url.PathUnescape(rest)
		if err != nil || !strings.HasPrefix(path, "/") {
			return nil, errors.New("open metadata: a file:// URL needs an absolute path, as in file:///var/lib/looptape/meta.db")
		}
		return metalocal.Open(path)
	case scheme == "etcd":
		cfg, err := metaetcd.Parse(rawURL)
		if err != nil {
			return nil, fmt.Errorf("open metadata: %w", err)
		}
		return metaetcd.Open(ctx, cfg)
	default:
		return nil, fmt.Errorf("open metadata: unknown scheme %q, there are file:// and etcd://", scheme)
	}
}
