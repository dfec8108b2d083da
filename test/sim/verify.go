package sim

import (
	"context"
	"fmt"

	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/inspect"
)

// damaged looks at the store as `looptape storage verify` does: every byte against
// its checksums, objects against the catalog, partitions from object to object.
func (w *world) damaged() (found []string) {
	ctx := context.Background()
	s, err := inspect.Open(ctx, w.blobs, inspect.FromMetadata, func(ctx context.Context) ([]catalog.Entry, error) { return inspect.Scan(ctx, w.meta) })
	if err != nil {
		return []string{fmt.Sprintf("I3: the store can't be looked at: %v", err)}
	}
	r, err := s.Verify(ctx, inspect.VerifyConfig{})
	if err != nil {
		return []string{fmt.Sprintf("I3: the store can't be read: %v", err)}
	}
	for _, d := range r.Damages {
		found = append(found, "I3: damaged: "+d.String())
	}
	return found
}
