package write

import "context"

// CompactConfig tunes a Compactor.
type CompactConfig struct{}

// Compactor compacts.
type Compactor struct {
	*Base
	stats JobStats
}

// NewCompactor returns a compactor.
func NewCompactor(base *Base, cfg CompactConfig) *Compactor { return &Compactor{Base: base} }

// Stats returns the counters.
func (c *Compactor) Stats() JobCounts { return c.stats.Counts() }

// Round compacts.
func (c *Compactor) Round(ctx context.Context) error { return nil }
