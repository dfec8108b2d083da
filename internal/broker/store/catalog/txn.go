package catalog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/run"
)

// txn runs t until its outcome is known: an unknown one is repeated byte for
// byte, for as long as ctx lasts, so that a full or unreachable store slows its
// callers down and nothing else. The answer of a repetition may be "compare
// failed" because the first attempt was applied; callers look at Else. An error
// that wraps meta.ErrUnknown leaves it unknown.
func (c *Catalog) txn(ctx context.Context, t meta.Txn) (meta.TxnResult, error) {
	unknown := false
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		res, err := c.store.Txn(ctx, t)
		if !errors.Is(err, meta.ErrUnknown) {
			c.full.Store(false)
			if unknown && err != nil {
				// This attempt was refused; an earlier one may have been applied.
				err = fmt.Errorf("%w: %w", meta.ErrUnknown, err)
			}
			return res, err
		}
		unknown = true
		c.unknown.Add(1)
		c.full.Store(errors.Is(err, meta.ErrNoSpace))
		if serr := run.Sleep(ctx, pause); serr != nil {
			return res, fmt.Errorf("outcome of a transaction is still unknown: %w", errors.Join(err, serr))
		}
	}
}

// Stats says how the catalog and its store get on.
type Stats struct {
	Revision  int64 // that the index shows
	FullReads int64 // of the whole store
	Unknown   int64 // transactions whose outcome was unknown and that were repeated
	Full      bool  // the store takes nothing more: an operator has to make space
}

// Stats says how the catalog and its store get on.
func (c *Catalog) Stats() Stats {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return Stats{Revision: c.rev, FullReads: c.readsDone, Unknown: c.unknown.Load(), Full: c.full.Load()}
}
