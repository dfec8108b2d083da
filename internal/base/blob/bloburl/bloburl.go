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
	cfg, dir, err := parse(rawURL)
	switch {
	case err != nil:
		return nil, err
	case dir != "":
		return blobdir.Open(dir)
	}
	return blobs3.Open(ctx, cfg)
}

// View opens the store the URL names for reading, beside whoever writes to it. A
// directory that does not exist is not created.
func View(ctx context.Context, rawURL string) (blob.Store, error) {
	cfg, dir, err := parse(rawURL)
	switch {
	case err != nil:
		return nil, err
	case dir != "":
		return blobdir.View(dir)
	}
	s, err := blobs3.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return blob.ReadOnly(s), nil
}

// parse returns the directory, or where the bucket is.
func parse(rawURL string) (cfg blobs3.Config, dir string, err error) {
	if rawURL == "" {
		return cfg, "", fmt.Errorf("object store URL is empty: want a path, file:///path or %s", blobs3.Form)
	}
	scheme, _, ok := strings.Cut(rawURL, "://")
	switch {
	case !ok:
		return cfg, rawURL, nil
	case scheme == "s3":
		cfg, err = blobs3.ParseURL(rawURL)
		return cfg, "", err
	case scheme == "file":
		u, err := url.Parse(rawURL)
		if err != nil || u.Host != "" && u.Host != "localhost" || u.Path == "" {
			return cfg, "", fmt.Errorf("object store URL: want file:///path, with three slashes")
		}
		return cfg, u.Path, nil
	}
	return cfg, "", fmt.Errorf("object store URL has the scheme %q: want a path, file:///path or %s", scheme, blobs3.Form)
}
