package metaetcd

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/looptape/looptape/internal/base/run"
)

// minVersion is the first etcd whose progress can be trusted.
var minVersion = [3]int{3, 5, 8}

// versionWait is how long the first call waits for members to tell their version.
const versionWait = time.Second

// Health is what one member of etcd says of itself.
type Health struct {
	Endpoint   string
	Version    string
	Bytes      int64 // of its file
	InUseBytes int64 // of its file, without what a defragmentation would give back
	QuotaBytes int64 // above it etcd takes nothing more; 0: it does not say
	Leader     bool
	Problems   []string // alarms and errors in etcd's words
	Err        error    // it did not answer; the rest is empty
}

// Health asks all members at once. A member that does not answer has Err set.
func (s *Store) Health(ctx context.Context) []Health {
	all := make([]Health, len(s.cfg.Endpoints))
	g := run.New(ctx)
	for i, url := range s.cfg.endpoints() {
		g.Go("ask "+s.cfg.Endpoints[i], func(ctx context.Context) error {
			all[i] = s.health(ctx, url)
			all[i].Endpoint = s.cfg.Endpoints[i]
			return nil
		})
	}
	if err := g.Wait(); err != nil { // one fell
		for i := range all {
			all[i].Err = errors.Join(all[i].Err, err)
		}
	}
	return all
}

func (s *Store) health(ctx context.Context, url string) Health {
	if err := s.usable(ctx); err != nil {
		return Health{Err: err}
	}
	ctx, cancel := s.request(ctx)
	defer cancel()
	r, err := s.client.Status(ctx, url)
	if err != nil {
		return Health{Err: fmt.Errorf("ask etcd for its status: %w", plain(err))}
	}
	return Health{
		Version: r.Version, Bytes: r.DbSize, InUseBytes: r.DbSizeInUse, QuotaBytes: r.DbSizeQuota,
		Leader: r.Leader == r.Header.GetMemberId(), Problems: r.Errors,
	}
}

// checkVersion refuses an etcd with a member that is too old. Members that don't
// answer now are let be.
func (s *Store) checkVersion(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, versionWait) // a start does not wait for a member that is away
	defer cancel()
	for _, h := range s.Health(ctx) {
		if h.Err == nil && tooOld(h.Version) {
			return fmt.Errorf("member %s is etcd %s, at least %d.%d.%d is needed", h.Endpoint, h.Version, minVersion[0], minVersion[1], minVersion[2])
		}
	}
	return nil
}

func tooOld(version string) bool {
	version, _, _ = strings.Cut(version, "-")
	var v [3]int
	for i, part := range strings.SplitN(version, ".", 3) {
		n, err := strconv.Atoi(part)
		if err != nil {
			return false // a build of one's own
		}
		v[i] = n
	}
	for i := range v {
		if v[i] != minVersion[i] {
			return v[i] < minVersion[i]
		}
	}
	return false
}
