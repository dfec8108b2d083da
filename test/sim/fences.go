package sim

import (
	"strings"
	"sync"

	"github.com/looptape/looptape/internal/base/meta"
)

// fences watches that at most one epoch of a log commits: once somebody else has
// changed a process's fence, nothing of that process becomes visible any more.
type fences struct {
	w      *world
	mu     sync.Mutex
	owner  map[string]*process // by the fence's key
	of     map[*process]string
	sealed map[string]int64 // revision
}

func newFences(w *world) *fences {
	return &fences{w: w, owner: map[string]*process{}, of: map[*process]string{}, sealed: map[string]int64{}}
}

// lost says that somebody else has changed the process's fence.
func (f *fences) lost(p *process) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sealed[f.of[p]] != 0
}

// applied is told of every transaction that was, while its process or the network
// makes it happen.
func (f *fences) applied(p *process, t meta.Txn, rev int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	commits := ""
	for _, op := range t.Then {
		switch {
		case op.Kind != meta.OpPut:
		case strings.HasPrefix(op.Key, "/v1/fence/"):
			if o := f.owner[op.Key]; o == nil {
				f.owner[op.Key], f.of[p] = p, op.Key
			} else if o != p && f.sealed[op.Key] == 0 {
				f.sealed[op.Key] = rev
			}
		case strings.HasPrefix(op.Key, "/v1/sets/"), strings.HasPrefix(op.Key, "/v1/objs/"), strings.HasPrefix(op.Key, "/v1/wal/"):
			commits = op.Key
		}
	}
	if at := f.sealed[f.of[p]]; commits != "" && at != 0 && at < rev {
		f.w.hist.violate("I4: %s commits %s at revision %d, it was fenced at %d", p.name, commits, rev, at)
	}
}
