package sim

import (
	"hash/fnv"
	"math/rand/v2"
	"sync"
	"time"
)

// dice decides what goes wrong. A decision depends on the seed, on what it is
// about and on how often that was asked before, but not on what other goroutines
// ask meanwhile: so the faults of a seed stay the same when something else moves.
type dice struct {
	seed  uint64
	mu    sync.Mutex
	asked map[string]uint64
}

func newDice(seed uint64) *dice { return &dice{seed: seed, asked: map[string]uint64{}} }

// about returns a generator for the next decision on a subject.
func (d *dice) about(subject string) *rand.Rand {
	d.mu.Lock()
	n := d.asked[subject]
	d.asked[subject] = n + 1
	d.mu.Unlock()
	h := fnv.New64a()
	h.Write([]byte(subject))
	return rand.New(rand.NewPCG(d.seed^h.Sum64(), n))
}

// chance is true with probability p.
func chance(r *rand.Rand, p float64) bool { return p > 0 && r.Float64() < p }

// between draws a duration, with nanoseconds: two that end together are rare.
func between(r *rand.Rand, low, high time.Duration) time.Duration {
	if high <= low {
		return low
	}
	return low + time.Duration(r.Int64N(int64(high-low)))
}

// tail draws a duration that is usually near low and sometimes near high.
func tail(r *rand.Rand, low, high time.Duration) time.Duration {
	x := r.Float64()
	return low + time.Duration(x*x*x*x*float64(high-low)) + time.Duration(r.Int64N(1000))
}
