// Package inspect looks at a store from outside: what is in it, whether every byte
// of it is what was written, and whether what it stands on is fit. It is for
// operators, and works beside running brokers.
//
// A Source joins the object store with the catalog. The catalog comes as entries,
// from wherever they could be read: the metadata file of a stopped process, etcd,
// or a running server. Without any catalog the objects still speak for themselves:
// each has the topics, partitions and offsets it holds in its footer and index.
//
// It promises to change nothing; only Doctor's probe of the object store puts a few
// small objects, and deletes them. Reading a large store is done in bounded memory.
//
// How it fails. What is damaged is reported with key and offset and does not end
// the work. An error means that something could not be looked at, so nothing is
// said of it.
package inspect

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/object"
	"github.com/looptape/looptape/internal/broker/store/read"
)

// Where a Source has its catalog from.
const (
	FromMetadata = "metadata"
	FromServer   = "server"
	FromObjects  = "objects"
)

// ErrEmpty says that the metadata holds nothing.
var ErrEmpty = errors.New("the metadata is empty: no server was ever started on it")

// A Source is a store to look at.
type Source struct {
	Blobs   blob.Store
	Cluster string
	From    string           // FromMetadata, FromServer or FromObjects
	Catalog *catalog.Catalog // nil with FromObjects

	reload  func(context.Context) ([]catalog.Entry, error)
	garbage map[string]bool // names of retired objects that still are to be deleted
	logs    []catalog.LogState
}

// Open joins an object store and a catalog whose entries load returns. It may be
// called again, when objects were replaced meanwhile.
func Open(ctx context.Context, blobs blob.Store, from string, load func(context.Context) ([]catalog.Entry, error)) (*Source, error) {
	s := &Source{Blobs: blobs, From: from, reload: load}
	if err := s.Reload(ctx); err != nil {
		return nil, err
	}
	s.Cluster = s.Catalog.ClusterID()
	return s, nil
}

// Reload reads the catalog anew.
func (s *Source) Reload(ctx context.Context) error {
	entries, err := s.reload(ctx)
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		return ErrEmpty
	}
	s.garbage = map[string]bool{}
	store := newFrozen(entries)
	s.Catalog, err = catalog.Open(ctx, store, catalog.Config{Ranges: s.ranges})
	if err != nil {
		return err
	}
	if s.logs, err = s.Catalog.Logs(ctx); err != nil {
		return err
	}
	garbage, err := s.Catalog.Garbage(ctx, math.MaxInt64, math.MaxInt)
	if err != nil {
		return err
	}
	for _, g := range garbage {
		s.garbage[g.Object] = true
	}
	return nil
}

// ranges reads what an object holds. One that can't be read holds nothing then: a
// damaged index must not hide all others, and Verify finds it.
func (s *Source) ranges(ctx context.Context, cluster string, o *catalog.Object) ([]catalog.Range, error) {
	x, err := read.LoadIndex(ctx, s.Blobs, cluster, o)
	switch {
	case err == nil:
		return read.Ranges(x), nil
	case errors.Is(err, object.ErrCorrupt), errors.Is(err, blob.ErrNotFound), errors.Is(err, blob.ErrRange):
		return nil, nil
	}
	return nil, err
}

// OpenObjects takes the cluster's id from the object store and has no catalog.
func OpenObjects(ctx context.Context, blobs blob.Store) (*Source, error) {
	b, err := small(ctx, blobs, "cluster", 64)
	if errors.Is(err, blob.ErrNotFound) {
		return nil, errors.New("the object store holds no cluster: there is no object named cluster in it (is the prefix right?)")
	}
	if err != nil {
		return nil, err
	}
	return &Source{Blobs: blobs, Cluster: string(b), From: FromObjects}, nil
}

// small reads a whole small object.
func small(ctx context.Context, blobs blob.Store, key string, most int64) ([]byte, error) {
	info, err := blobs.Stat(ctx, key)
	if err != nil {
		return nil, err
	}
	if info.Size > most {
		return nil, fmt.Errorf("%s has %d bytes, at most %d were expected", key, info.Size, most)
	}
	b := make([]byte, info.Size)
	_, err = blobs.GetRange(ctx, key, 0, b)
	return b, err
}

// Scan reads the entries of a metadata store.
func Scan(ctx context.Context, store meta.Store) ([]catalog.Entry, error) {
	var all []catalog.Entry
	_, err := store.Scan(ctx, catalogRoot, func(kv meta.KV) error {
		all = append(all, catalog.Entry{Key: kv.Key, Value: kv.Value})
		return nil
	})
	return all, err
}

// Entries turns what is in a metadata file into entries.
func Entries(all []meta.KV) []catalog.Entry {
	var entries []catalog.Entry
	for _, kv := range all {
		if strings.HasPrefix(kv.Key, catalogRoot) {
			entries = append(entries, catalog.Entry{Key: kv.Key, Value: kv.Value})
		}
	}
	return entries
}

// catalogRoot is what the catalog's keys start with (docs/format/catalog.md).
const catalogRoot = "/v1/"

// shown are the keys that a server shows who asks: what says where records are,
// and nothing of users.
var shown = []string{"cluster", "topics/", "names/", "parts/", "objs/", "sets/", "fence/", "wal/", "walend/", "gc/", "deleted/", "swept/", "quarantine/"}

// Shown leaves out of a snapshot what is nobody's business.
func Shown(s catalog.Snapshot) catalog.Snapshot {
	var kept []catalog.Entry
	for _, e := range s.Entries {
		for _, prefix := range shown {
			if strings.HasPrefix(e.Key, catalogRoot+prefix) {
				kept = append(kept, e)
				break
			}
		}
	}
	s.Entries = kept
	return s
}

// keys calls fn for every key that starts with prefix.
func (s *Source) keys(ctx context.Context, prefix string, fn func(key string)) error {
	return s.Blobs.List(ctx, prefix, func(i blob.Info) error {
		fn(i.Key)
		return nil
	})
}
