// Package bloburl opens an object store by its URL.
//
// A URL is file:///absolute/path, or a plain path, for a local directory, and
// s3://bucket/prefix?endpoint=URL&region=REGION&style=path|host&ca=FILE for a
// bucket of an S3-compatible store. Another scheme is an error that names those
// known. It is a package of its own because it imports every implementation of
// package blob.
package bloburl

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/blob/blobdir"
	"github.com/looptape/looptape/internal/base/blob/blobs3"
)

// Open opens the store the URL names. A bucket that is missing or denied is an
// error that wraps blob.ErrRefused; one whose server does not answer is none.
func Open(ctx context.Context, rawURL string) (blob.Store, error) {
	if rawURL == "" {
		return nil, fmt.Errorf("object store URL is empty: want a path, file:///path or %s", blobs3.Form)
	}
	scheme, _, ok := strings.Cut(rawURL, "://")
	if !ok {
		return blobdir.Open(rawURL)
	}
	switch scheme {
	case "s3":
		cfg, err := blobs3.ParseURL(rawURL)
		if err != nil {
			return nil, err
		}
		return blobs3.Open(ctx, cfg)
	case "file":
		u, err := url.Parse(rawURL)
		if err != nil || u.Host != "" && u.Host != "localhost" || u.Path == "" {
			return nil, fmt.Errorf("object store URL: want file:///path, with three slashes")
		}
		return blobdir.Open(u.Path)
	}
	return nil, fmt.Errorf("object store URL has the scheme %q: want a path, file:///path or %s", scheme, blobs3.Form)
}
