// Package blobdir is a blob.Store in a directory.
//
//	ROOT/a/b/c      the object with the key a/b/c, plain bytes
//	ROOT/.tmp/N     an object being written
//
// Put writes a temporary file, syncs it, links it to its place (which fails if
// the place is taken, so nothing is ever replaced) and syncs the directory: a
// crash at any moment leaves the whole object or none of it. What a crash leaves
// in .tmp is removed by the next Open. Use one Store at a time for a directory.
// Large objects go past the page cache where the file system can, through a few
// pieces of memory that are used again and again.
//
// How it fails: after a failed link or directory sync the object may be there now
// and after a crash, or not; Put says blob.ErrUnknown. A Put that finds its key
// taken makes the name it found durable before it says blob.ErrExists, since that
// may be its own first attempt.
package blobdir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/disk"
)

// tmpDir can't be the first segment of a key, which starts with no dot.
const tmpDir = ".tmp"

// Store is a blob.Store in a directory. Use Open.
type Store struct {
	fs    disk.FS
	root  string
	stage *stage
	load  *loader
	next  atomic.Int64 // number of the next temporary file
	made  sync.Map     // directories whose own names are durable
}

var _ blob.Store = (*Store)(nil)

// Open opens the store in the directory root of the operating system, which is
// created if absent.
func Open(root string) (*Store, error) { return OpenFS(disk.OS{}, root) }

// OpenFS is Open on another file system.
func OpenFS(fs disk.FS, root string) (*Store, error) {
	s := &Store{fs: fs, root: filepath.Clean(root), stage: newStage(fs), load: newLoader(fs)}
	tmp := filepath.Join(s.root, tmpDir)
	if err := fs.MkdirAll(tmp); err != nil {
		return nil, fmt.Errorf("open object store %s: %w", root, err)
	}
	left, err := fs.ReadDir(tmp)
	if err != nil {
		return nil, fmt.Errorf("open object store %s: %w", root, err)
	}
	for _, e := range left {
		if e.Dir {
			continue
		}
		if err := fs.Remove(filepath.Join(tmp, e.Name)); err != nil && !disk.Missing(err) {
			return nil, fmt.Errorf("open object store %s: sweep: %w", root, err)
		}
	}
	return s, nil
}

func (s *Store) path(key string) string { return filepath.Join(s.root, filepath.FromSlash(key)) }

// Put implements blob.Store.
func (s *Store) Put(ctx context.Context, key string, body io.ReaderAt, size int64) error {
	if err := blob.CheckKey(key); err != nil {
		return err
	}
	if err := s.put(ctx, key, body, size); err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	return nil
}

func (s *Store) put(ctx context.Context, key string, body io.ReaderAt, size int64) error {
	path := s.path(key)
	dir := filepath.Dir(path)
	if e, err := s.fs.Stat(path); err == nil {
		return s.taken(e, dir)
	}
	if err := s.makeDir(dir); disk.Exists(err) {
		return fmt.Errorf("%w: part of its path is an object", blob.ErrBadKey)
	} else if err != nil {
		return err
	}
	tmp := filepath.Join(s.root, tmpDir, strconv.FormatInt(s.next.Add(1), 10))
	err := s.stage.write(ctx, tmp, body, size)
	if err != nil {
		s.drop(tmp)
		return err
	}
	// The bytes are durable, without a name yet.
	err = s.fs.Link(tmp, path)
	if disk.Exists(err) {
		s.drop(tmp)
		e, serr := s.fs.Stat(path)
		if serr != nil {
			return errors.Join(blob.ErrUnknown, serr)
		}
		return s.taken(e, dir)
	}
	if err == nil {
		err = s.fs.SyncDir(dir)
	}
	s.drop(tmp)
	if err != nil {
		return fmt.Errorf("%w: %w", blob.ErrUnknown, err)
	}
	return nil
}

// makeDir makes a directory and its parents and their names durable, also if they
// were made by another Put, or before a crash, that did not come to that.
func (s *Store) makeDir(dir string) error {
	if _, ok := s.made.Load(dir); ok {
		return nil
	}
	if err := s.fs.MkdirAll(dir); err != nil {
		return err
	}
	if dir != s.root {
		parent := filepath.Dir(dir)
		if err := s.makeDir(parent); err != nil {
			return err
		}
		if err := s.fs.SyncDir(parent); err != nil {
			return err
		}
	}
	s.made.Store(dir, true)
	return nil
}

// taken answers a Put whose key is taken: once the name found is durable.
func (s *Store) taken(e disk.Entry, dir string) error {
	if e.Dir {
		return fmt.Errorf("%w: it is part of the path of another object", blob.ErrBadKey)
	}
	if err := s.fs.SyncDir(dir); err != nil {
		return fmt.Errorf("%w: %w", blob.ErrUnknown, err)
	}
	return blob.ErrExists
}

// drop removes a temporary file; what can't be removed now is swept by the next
// Open.
func (s *Store) drop(tmp string) { _ = s.fs.Remove(tmp) }

// GetRange implements blob.Store.
func (s *Store) GetRange(ctx context.Context, key string, off int64, dst []byte) (int, error) {
	if err := s.check(ctx, key); err != nil {
		return 0, err
	}
	if err := s.read(ctx, key, off, dst); err != nil {
		return 0, fmt.Errorf("get %s: %w", key, err)
	}
	return len(dst), nil
}

func (s *Store) read(ctx context.Context, key string, off int64, dst []byte) error {
	e, err := s.stat(key)
	if err != nil {
		return err
	}
	return s.load.read(ctx, s.path(key), e, off, dst)
}

// check is what every call on one key begins with.
func (s *Store) check(ctx context.Context, key string) error {
	if err := blob.CheckKey(key); err != nil {
		return err
	}
	return ctx.Err()
}

// Stat implements blob.Store.
func (s *Store) Stat(ctx context.Context, key string) (blob.Info, error) {
	if err := s.check(ctx, key); err != nil {
		return blob.Info{}, err
	}
	e, err := s.stat(key)
	if err != nil {
		return blob.Info{}, fmt.Errorf("stat %s: %w", key, err)
	}
	return blob.Info{Key: key, Size: e.Size, Modified: e.Modified}, nil
}

func (s *Store) stat(key string) (disk.Entry, error) {
	e, err := s.fs.Stat(s.path(key))
	if err != nil {
		return disk.Entry{}, notFound(err)
	}
	if e.Dir {
		return disk.Entry{}, blob.ErrNotFound
	}
	return e, nil
}

// List implements blob.Store.
func (s *Store) List(ctx context.Context, prefix string, fn func(blob.Info) error) error {
	if err := blob.CheckPrefix(prefix); err != nil {
		return err
	}
	start := "" // the deepest directory that holds all of the prefix
	if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
		start = prefix[:i+1]
	}
	return s.list(ctx, start, prefix, fn)
}

// list goes through the directory dir, "" or ending in "/", in the order of keys.
func (s *Store) list(ctx context.Context, dir, prefix string, fn func(blob.Info) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	entries, err := s.fs.ReadDir(s.path(dir))
	if disk.Missing(err) || notDirectory(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list %s: %w", dir, err)
	}
	keys := make(map[string]disk.Entry, len(entries))
	order := make([]string, 0, len(entries))
	for _, e := range entries {
		key := dir + e.Name
		if e.Dir {
			key += "/" // as the keys in it begin, so that the order is theirs
		}
		if strings.HasPrefix(e.Name, ".") || !related(key, prefix) {
			continue
		}
		keys[key] = e
		order = append(order, key)
	}
	slices.Sort(order)
	for _, key := range order {
		e := keys[key]
		if e.Dir {
			err = s.list(ctx, key, prefix, fn)
		} else {
			err = fn(blob.Info{Key: key, Size: e.Size, Modified: e.Modified})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// related tells whether an object with the key, or one in the directory key, may
// start with the prefix.
func related(key, prefix string) bool {
	return strings.HasPrefix(key, prefix) || strings.HasSuffix(key, "/") && strings.HasPrefix(prefix, key)
}

// Delete implements blob.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := s.check(ctx, key); err != nil {
		return err
	}
	if err := s.remove(key); err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	return nil
}

func (s *Store) remove(key string) error {
	path := s.path(key)
	if _, err := s.stat(key); err == nil {
		err = s.fs.Remove(path)
		s.load.forget(path)
		if err != nil && !disk.Missing(err) {
			return err
		}
	} else if !errors.Is(err, blob.ErrNotFound) {
		return err
	}
	// Also if it was gone already: that removal may not be durable yet.
	err := s.fs.SyncDir(filepath.Dir(path))
	if disk.Missing(err) || notDirectory(err) {
		return nil
	}
	return err
}

// notFound turns the error of a missing file into the contract's.
func notFound(err error) error {
	if disk.Missing(err) || notDirectory(err) {
		return blob.ErrNotFound
	}
	return err
}
