package sim

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/meta"
)

// weather is what the outside is like now. The nemesis changes it.
type weather struct {
	blobs remote
	list  time.Duration // a listing takes up to that much longer
	meta  remote
	lag   time.Duration // a watch is behind by up to that much
	deaf  float64       // a watch ends after a batch
	disk  local
}

// remote is how a call over the network goes wrong. The chances are tried in this
// order.
type remote struct {
	slow    time.Duration // the longest answer
	refuse  float64       // 503: nothing happens, and the caller knows
	lose    float64       // the request never arrives; the caller knows nothing
	unknown float64       // it happens, the answer is lost
	late    float64       // the answer is lost, and it happens afterwards
	repeat  float64       // it happens twice: the client library tried again by itself
}

type local struct {
	slow time.Duration
	full bool
	torn bool // the next sync fails
}

func calm() weather {
	return weather{
		blobs: remote{slow: 30 * time.Millisecond},
		meta:  remote{slow: 5 * time.Millisecond},
		lag:   2 * time.Millisecond,
		disk:  local{slow: 2 * time.Millisecond},
	}
}

// sky holds the weather.
type sky struct {
	mu    sync.Mutex
	now   weather
	fixed bool // it stays as it is
}

func (s *sky) get() weather {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *sky) change(fn func(*weather)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.fixed {
		fn(&s.now)
	}
}

// clear ends all bad weather for good.
func (s *sky) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now, s.fixed = calm(), true
}

// tearSync says, once, that a sync fails.
func (s *sky) tearSync() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	torn := s.now.disk.torn
	s.now.disk.torn = false
	return torn
}

var (
	errRefused = errors.New("503 slow down")
	errFull    = fmt.Errorf("write: %w", syscall.ENOSPC)
	errSync    = fmt.Errorf("fdatasync: %w", syscall.EIO)
)

// unknownBlob and unknownMeta are lost answers.
var (
	unknownBlob = fmt.Errorf("request timed out: %w", blob.ErrUnknown)
	unknownMeta = fmt.Errorf("request timed out: %w", meta.ErrUnknown)
)
