package write

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/broker/store/object"
)

// errForeign says that an object under a name of ours is not ours; it is final.
var errForeign = errors.New("foreign object")

// putObject stores an object. One that exists is an earlier attempt of ours if
// its footer, nonce included, is ours; names are never used twice.
func putObject(ctx context.Context, store blob.Store, key string, body io.ReaderAt, size int64, footer *object.Footer) error {
	err := store.Put(ctx, key, body, size)
	if !errors.Is(err, blob.ErrExists) {
		return err
	}
	want, err := footer.Encode()
	if err != nil {
		return err
	}
	got := make([]byte, len(want))
	info, err := store.Stat(ctx, key)
	if err == nil && info.Size == size {
		_, err = store.GetRange(ctx, key, size-int64(len(want)), got)
	}
	if err != nil {
		return err
	}
	if string(got) != string(want) {
		return fmt.Errorf("%w: object %s exists and is not ours", errForeign, key)
	}
	return nil
}

// Names are the objects this process is putting or has put and not yet
// committed: no orphans, though no key names them.
type Names struct {
	mu  sync.Mutex
	all map[string]int
}

// NewNames returns an empty list.
func NewNames() *Names { return &Names{all: map[string]int{}} }

func (n *Names) add(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all[name]++
}

func (n *Names) remove(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.all, name)
}

func (n *Names) has(name string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.all[name] > 0
}
