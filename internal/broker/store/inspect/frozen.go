package inspect

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/broker/store/catalog"
)

// errFrozen answers everything that would change a frozen store.
var errFrozen = errors.New("metadata was opened for reading")

// frozen is a meta.Store of given entries that never changes.
type frozen struct{ all []meta.KV }

var _ meta.Store = (*frozen)(nil)

func newFrozen(entries []catalog.Entry) *frozen {
	f := &frozen{}
	for _, e := range entries {
		f.all = append(f.all, meta.KV{Key: e.Key, Value: e.Value, CreateRev: 1, ModRev: 1})
	}
	slices.SortFunc(f.all, func(a, b meta.KV) int { return strings.Compare(a.Key, b.Key) })
	return f
}

func (f *frozen) Get(_ context.Context, keys ...string) (map[string]meta.KV, int64, error) {
	found := map[string]meta.KV{}
	for _, k := range keys {
		at, ok := slices.BinarySearchFunc(f.all, k, func(kv meta.KV, k string) int { return strings.Compare(kv.Key, k) })
		if ok {
			found[k] = f.all[at]
		}
	}
	return found, 1, nil
}

func (f *frozen) Scan(ctx context.Context, prefix string, fn func(meta.KV) error) (int64, error) {
	for _, kv := range f.all {
		if !strings.HasPrefix(kv.Key, prefix) {
			continue
		}
		if err := fn(kv); err != nil {
			return 0, err
		}
	}
	return 1, ctx.Err()
}

func (*frozen) Txn(context.Context, meta.Txn) (meta.TxnResult, error) {
	return meta.TxnResult{}, errFrozen
}

func (*frozen) Watch(context.Context, string, int64) <-chan meta.Batch {
	c := make(chan meta.Batch, 1)
	c <- meta.Batch{Err: errFrozen}
	close(c)
	return c
}

func (*frozen) Progress(context.Context) error { return errFrozen }

func (*frozen) Grant(context.Context, time.Duration) (meta.LeaseID, error) { return 0, errFrozen }

func (*frozen) KeepAlive(context.Context, meta.LeaseID) (time.Duration, error) { return 0, errFrozen }

func (*frozen) Revoke(context.Context, meta.LeaseID) error { return errFrozen }

func (*frozen) Close() error { return nil }
