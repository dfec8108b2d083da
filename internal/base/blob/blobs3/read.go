package blobs3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/minio/minio-go/v7"

	"github.com/looptape/looptape/internal/base/blob"
)

// GetRange implements blob.Store.
func (s *Store) GetRange(ctx context.Context, key string, off int64, dst []byte) (int, error) {
	full, err := s.key(key)
	if err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, fmt.Errorf("get %s: %w: %d bytes at %d", key, blob.ErrRange, len(dst), off)
	}
	err = s.attempts(ctx, s.within(int64(len(dst))), func(ctx context.Context) error {
		if len(dst) == 0 { // no request asks for nothing
			info, err := s.stat(ctx, full)
			if err == nil && off > info.Size {
				err = blob.ErrRange
			}
			return err
		}
		return s.get(ctx, full, off, dst)
	})
	if err != nil {
		return 0, fmt.Errorf("get %s: %d bytes at %d: %w", key, len(dst), off, s.explain(err))
	}
	return len(dst), nil
}

func (s *Store) get(ctx context.Context, key string, off int64, dst []byte) error {
	last := off + int64(len(dst)) - 1
	if last < off {
		return blob.ErrRange
	}
	var opts minio.GetObjectOptions
	if err := opts.SetRange(off, last); err != nil {
		return err
	}
	body, _, header, err := s.core.GetObject(ctx, s.cfg.Bucket, key, opts)
	if err != nil {
		switch status(err) {
		case http.StatusRequestedRangeNotSatisfiable:
			return blob.ErrRange
		case http.StatusNotFound:
			return missing(err)
		}
		return err
	}
	defer body.Close()
	if err := checkRange(header, off, last); err != nil {
		return err
	}
	if _, err := io.ReadFull(body, dst); err != nil {
		return &cutError{err}
	}
	// To its end, so that the connection can be used again.
	if n, _ := body.Read(make([]byte, 1)); n > 0 {
		return wrong("the store sent more bytes than it said")
	}
	return nil
}

// checkRange makes sure that an answer holds the bytes from off to last: servers
// shorten a range at the end of the object, and some know no ranges at all.
func checkRange(header http.Header, off, last int64) error {
	text := header.Get("Content-Range")
	if text == "" && header.Get("Content-Length") == "0" {
		return blob.ErrRange // of an empty object; most say 416
	}
	var from, to int64
	var total string
	if n, err := fmt.Sscanf(text, "bytes %d-%d/%s", &from, &to, &total); n != 3 || err != nil {
		return wrong("the store does not answer ranges: it sent Content-Range %q", clean(text))
	}
	switch {
	case from == off && to == last:
		return nil
	case from == off && to < last && total == fmt.Sprint(to+1):
		return blob.ErrRange // the object ends there
	}
	return wrong("the store sent another range: asked for %d-%d, got %s", off, last, clean(text))
}

// missing tells a missing object from a missing bucket.
func missing(err error) error {
	if r, _ := answer(err); r.Code == minio.NoSuchBucket {
		return err
	}
	return blob.ErrNotFound
}

// Stat implements blob.Store.
func (s *Store) Stat(ctx context.Context, key string) (blob.Info, error) {
	full, err := s.key(key)
	if err != nil {
		return blob.Info{}, err
	}
	var info blob.Info
	err = s.attempts(ctx, s.cfg.Timeout, func(ctx context.Context) error {
		var err error
		info, err = s.stat(ctx, full)
		return err
	})
	if err != nil {
		return blob.Info{}, fmt.Errorf("stat %s: %w", key, s.explain(err))
	}
	return info, nil
}

func (s *Store) stat(ctx context.Context, full string) (blob.Info, error) {
	o, err := s.client.StatObject(ctx, s.cfg.Bucket, full, minio.StatObjectOptions{})
	if err != nil {
		if status(err) == http.StatusNotFound {
			return blob.Info{}, missing(err)
		}
		return blob.Info{}, err
	}
	if o.Size < 0 {
		return blob.Info{}, wrong("the store does not say how long the object is")
	}
	return blob.Info{Key: strings.TrimPrefix(full, s.prefix), Size: o.Size, Modified: o.LastModified}, nil
}

// pageKeys is how many keys one request of a listing asks for.
const pageKeys = 1000

// List implements blob.Store. fn takes its time between requests.
func (s *Store) List(ctx context.Context, prefix string, fn func(blob.Info) error) error {
	if err := blob.CheckPrefix(prefix); err != nil {
		return err
	}
	after := ""
	for more := true; more; {
		var infos []blob.Info
		err := s.attempts(ctx, s.cfg.Timeout, func(ctx context.Context) error {
			var err error
			infos, more, err = s.page(ctx, prefix, after, pageKeys)
			return err
		})
		if err != nil {
			return fmt.Errorf("list %s: %w", prefix, s.explain(err))
		}
		for _, i := range infos {
			if i.Key <= after {
				return fmt.Errorf("list %s: the store lists %s after %s: its keys are not in order", prefix, i.Key, after)
			}
			after = i.Key
			if err := fn(i); err != nil {
				return err
			}
		}
	}
	return nil
}

// page returns up to n keys that start with prefix and come after the key after,
// and whether there may be more.
func (s *Store) page(ctx context.Context, prefix, after string, n int) (infos []blob.Info, more bool, err error) {
	opts := minio.ListObjectsOptions{Prefix: s.prefix + prefix, Recursive: true, MaxKeys: n, FetchOwner: new(bool)}
	if after != "" {
		opts.StartAfter = s.prefix + after
	}
	for o := range s.client.ListObjectsIter(ctx, s.cfg.Bucket, opts) {
		if o.Err != nil {
			return nil, false, o.Err
		}
		key, ours := strings.CutPrefix(o.Key, s.prefix)
		if !ours || !strings.HasPrefix(key, prefix) {
			return nil, false, wrong("the store lists keys that were not asked for")
		}
		if blob.CheckKey(key) != nil {
			continue // no Put made it: the mark of a directory, or somebody else's
		}
		infos = append(infos, blob.Info{Key: key, Size: o.Size, Modified: o.LastModified})
		if len(infos) == n {
			return infos, true, nil
		}
	}
	return infos, false, ctx.Err() // when it ends, the library ends the listing without a word
}

// Delete implements blob.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	full, err := s.key(key)
	if err != nil {
		return err
	}
	err = s.attempts(ctx, s.cfg.Timeout, func(ctx context.Context) error {
		err := s.client.RemoveObject(ctx, s.cfg.Bucket, full, minio.RemoveObjectOptions{})
		if status(err) == http.StatusNotFound && errors.Is(missing(err), blob.ErrNotFound) {
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("delete %s: %w", key, s.explain(err))
	}
	return nil
}
