package catalog

import (
	"context"
	"errors"
	"testing"

	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/meta/metamem"
)

// A set that is replaced and deleted while a broker reads the catalog is not
// missing; one that the catalog still names is.
func TestOpenWhileASetIsReplaced(t *testing.T) {
	lost := errors.New("object not found")
	for name, replaced := range map[string]bool{"replaced": true, "lost": false} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			store := metamem.New()
			key := setKey("1-0000000001-f0000000001")
			if _, err := store.Txn(ctx, meta.Txn{Then: []meta.Op{meta.Put(key, encodeSet(&Object{Name: "1-0000000001-f0000000001", Size: 100, Partitions: 2}))}}); err != nil {
				t.Fatal(err)
			}
			reads := 0
			_, err := Open(ctx, store, Config{Ranges: func(ctx context.Context, _ string, o *Object) ([]Range, error) {
				reads++
				if replaced {
					if _, err := store.Txn(ctx, meta.Txn{Then: []meta.Op{meta.Delete(key)}}); err != nil {
						t.Error(err)
					}
				}
				return nil, lost
			}})
			if want := map[bool]error{true: nil, false: lost}[replaced]; !errors.Is(err, want) || reads != 1 {
				t.Errorf("open: %v after %d reads", err, reads)
			}
		})
	}
}
