// Package bloburl opens an object store by its URL.
//
// A URL is file:///absolute/path, or a plain path, for a local directory. Another
// scheme is an error that names those known. It is a package of its own because
// it imports every implementation of package blob.
package bloburl

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/blob/blobdir"
)

// Open opens the store the URL names.
func Open(_ context.Context, rawURL string) (blob.Store, error) {
	if rawURL == "" {
		return nil, fmt.Errorf("object store URL is empty: want a path or file:///path")
	}
	if !strings.Contains(rawURL, "://") {
		return blobdir.Open(rawURL)
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, fmt.Errorf("object store URL does not parse: want a path or file:///path")
	}
	switch {
	case u.Scheme != "file":
		return nil, fmt.Errorf("object store URL has the scheme %q: want a path or file:///path", u.Scheme)
	case u.Host != "" && u.Host != "localhost", u.Path == "":
		return nil, fmt.Errorf("object store URL %q: want file:///path, with three slashes", u.Redacted())
	}
	return blobdir.Open(u.Path)
}
