package sim

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"sync"
	"time"
)

// kept is how many of the last events a failure shows.
const kept = 80

// history is what happened, in order. Its hash tells two runs apart.
type history struct {
	mu     sync.Mutex
	began  time.Time
	events []string // the last ones
	count  int
	sum    hash.Hash
	all    bool // keep every event
	broken []string
}

func newHistory(all bool) *history {
	return &history{began: time.Now(), sum: sha256.New(), all: all}
}

// add writes an event down, with the virtual time since the start.
func (h *history) add(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.note(fmt.Sprintf("%12s  ", time.Since(h.began)) + fmt.Sprintf(format, args...))
}

// note is add under the lock.
func (h *history) note(line string) {
	h.sum.Write([]byte(line))
	h.sum.Write([]byte{'\n'})
	h.count++
	h.events = append(h.events, line)
	if !h.all && len(h.events) > 2*kept {
		h.events = append(h.events[:0], h.events[len(h.events)-kept:]...)
	}
}

// maxViolations bounds what is kept of a run that is wrong all over.
const maxViolations = 20

// violate says that the system broke a promise.
func (h *history) violate(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	line := fmt.Sprintf(format, args...)
	if len(h.broken) < maxViolations {
		h.broken = append(h.broken, line)
	}
	h.note(fmt.Sprintf("%12s  ", time.Since(h.began)) + "VIOLATION " + line)
}

func (h *history) violated() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.broken) > 0
}

// hash is the digest of all events so far.
func (h *history) hash() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return hex.EncodeToString(h.sum.Sum(nil))[:16]
}

func (h *history) tail() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.all {
		return append([]string(nil), h.events...)
	}
	return append([]string(nil), h.events[max(0, len(h.events)-kept):]...)
}
