//go:build servers

package metaetcd

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/test/rig"
)

// A worker counts its key up, one transaction a step, and repeats each until its
// outcome is known. It holds every outcome against what the store says.
type worker struct {
	s       *Store
	key     string
	n       int   // as known to be stored
	rev     int64 // of the key
	done    *atomic.Int64
	unknown *atomic.Int64
}

func (w *worker) step(ctx context.Context) error {
	value := []byte(strconv.Itoa(w.n + 1))
	txn := meta.Txn{
		If: []meta.Cmp{meta.ModRevIs(w.key, w.rev)}, Then: []meta.Op{meta.Put(w.key, value), meta.Put(w.key+"/twin", value)},
		ElseGet: []string{w.key, w.key + "/twin"},
	}
	unknown := false
	for {
		r, err := w.s.Txn(ctx, txn)
		switch {
		case errors.Is(err, meta.ErrUnknown):
			unknown = true
			w.unknown.Add(1)
			time.Sleep(10 * time.Millisecond)
			continue
		case err != nil: // says: not done
			return fmt.Errorf("step %d: %w", w.n+1, err)
		case r.OK:
			w.n, w.rev = w.n+1, r.Rev
		case !unknown:
			return fmt.Errorf("step %d: refused though nobody else writes: %v", w.n+1, r.Else)
		case len(r.Else) != 2 || string(r.Else[0].Value) != string(value) || string(r.Else[1].Value) != string(value):
			return fmt.Errorf("step %d: refused and not there: %v", w.n+1, r.Else)
		default: // an earlier attempt
			w.n, w.rev = w.n+1, r.Else[0].ModRev
		}
		w.done.Add(1)
		return nil
	}
}

// check holds a linearizable read against what is known.
func (w *worker) check(ctx context.Context) error {
	found, _, err := w.s.Get(ctx, w.key, w.key+"/twin")
	if err != nil {
		return nil // a read may fail
	}
	for _, kv := range found {
		if string(kv.Value) != strconv.Itoa(w.n) || kv.ModRev != w.rev {
			return fmt.Errorf("%s is %s at %d, want %d at %d", kv.Key, kv.Value, kv.ModRev, w.n, w.rev)
		}
	}
	return nil
}

// While etcd is killed and started again, no outcome is a lie, no read is stale,
// and a watch that begins anew where it ended sees every step once.
func TestKilledServer(t *testing.T) {
	server := rig.Etcd(t)
	torture(t, server.URL("killed")+"?timeout=2s", 4, func(int) { server.Restart() })
}

// The same while the leader of three members is killed, or hangs until another
// leads.
func TestKilledLeader(t *testing.T) {
	dir := t.TempDir()
	var clients, peers, names []string
	for i := range 3 {
		clients = append(clients, fmt.Sprintf("127.0.0.1:%d", rig.Port(t)))
		peers = append(peers, fmt.Sprintf("http://127.0.0.1:%d", rig.Port(t)))
		names = append(names, fmt.Sprintf("m%d=%s", i, peers[i]))
	}
	members := make([]*rig.Process, 3)
	start := func(i int) {
		members[i] = rig.Start(t, dir, filepath.Join(rig.Root(), ".cache", "bin", "etcd"),
			"--name", fmt.Sprint("m", i), "--data-dir", filepath.Join(dir, fmt.Sprint(i)), "--log-level", "error",
			"--listen-client-urls", "http://"+clients[i], "--advertise-client-urls", "http://"+clients[i],
			"--listen-peer-urls", peers[i], "--initial-advertise-peer-urls", peers[i], "--initial-cluster", strings.Join(names, ","))
	}
	for i := range members {
		start(i)
	}
	url := "etcd://" + strings.Join(clients, ",") + "/led?timeout=2s"
	var s *Store
	rig.Until(t, 60*time.Second, func() error {
		cfg, err := Parse(url)
		if err == nil {
			s, err = Open(t.Context(), cfg)
		}
		return err
	})
	defer s.Close()
	torture(t, url, 4, func(round int) {
		leader := -1
		rig.Until(t, 30*time.Second, func() error {
			for i, h := range s.Health(t.Context()) {
				if h.Leader {
					leader = i
					return nil
				}
			}
			return errors.New("no leader")
		})
		if round%2 == 0 {
			members[leader].Kill()
			start(leader)
			return
		}
		pid := -members[leader].PID()
		_ = syscall.Kill(pid, syscall.SIGSTOP)
		time.Sleep(3 * time.Second) // more than an election takes
		_ = syscall.Kill(pid, syscall.SIGCONT)
	})
}

// torture lets workers count while a nemesis strikes some times.
func torture(t *testing.T, url string, rounds int, nemesis func(round int)) {
	t.Helper()
	watcher := openURL(t, url)
	var done, unknown atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var working, watching sync.WaitGroup
	workers := make([]*worker, 4)
	stop := make(chan struct{})
	for i := range workers {
		w := &worker{s: openURL(t, url), key: fmt.Sprintf("w/%d", i), done: &done, unknown: &unknown}
		workers[i] = w
		working.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := errors.Join(w.step(ctx), w.check(ctx)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	seen := map[string]int{}
	ends := 0
	var last atomic.Int64
	watching.Go(func() {
		after := int64(0)
		for ctx.Err() == nil {
			for b := range watcher.Watch(ctx, "w/", after) {
				if b.Err != nil {
					ends++
					break
				}
				if len(b.Events) != 0 && len(b.Events) != 2 {
					t.Errorf("torn: %+v", b)
				}
				for _, e := range b.Events {
					n, _ := strconv.Atoi(string(e.Value))
					if n != seen[e.Key]+1 {
						t.Errorf("%s goes from %d to %d at %d", e.Key, seen[e.Key], n, b.Rev)
					}
					seen[e.Key] = n
				}
				after = b.Rev
				last.Store(after)
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
	for round := range rounds {
		before := done.Load()
		rig.Until(t, 60*time.Second, func() error {
			if n := done.Load(); n < before+200 {
				return fmt.Errorf("%d steps of 200", n-before)
			}
			return nil
		})
		nemesis(round)
	}
	close(stop)
	working.Wait()
	var newest int64
	for _, w := range workers {
		newest = max(newest, w.rev)
	}
	rig.Until(t, 30*time.Second, func() error {
		if last.Load() < newest {
			return fmt.Errorf("the watch is at %d of %d", last.Load(), newest)
		}
		return nil
	})
	cancel()
	watching.Wait()
	for _, w := range workers {
		if err := w.check(t.Context()); err != nil {
			t.Error(err)
		}
		if seen[w.key] != w.n || seen[w.key+"/twin"] != w.n {
			t.Errorf("%s: watched %d, done %d", w.key, seen[w.key], w.n)
		}
	}
	t.Logf("%d steps, %d unknown outcomes, %d watches ended", done.Load(), unknown.Load(), ends)
}

// A server that hangs leaves an outcome unknown after the timeout, and ends no
// call later.
func TestPausedServer(t *testing.T) {
	server := rig.Etcd(t)
	s := openURL(t, server.URL("paused")+"?timeout=1s")
	id, err := s.Grant(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	server.Pause()
	began := time.Now()
	if _, err := s.Txn(t.Context(), aPut); !errors.Is(err, meta.ErrUnknown) {
		t.Errorf("transaction: %v", err)
	}
	if _, _, err := s.Get(t.Context(), "key"); err == nil || errors.Is(err, meta.ErrUnknown) {
		t.Errorf("get: %v", err)
	}
	if _, err := s.KeepAlive(t.Context(), id); err == nil || errors.Is(err, meta.ErrNoLease) {
		t.Errorf("refresh: %v", err)
	}
	if d := time.Since(began); d > 6*time.Second {
		t.Errorf("three calls took %v", d)
	}
	server.Resume()
	rig.Until(t, 20*time.Second, func() error { _, err := s.KeepAlive(t.Context(), id); return err })
	// Whatever became of it, the same transaction again tells.
	r, err := s.Txn(t.Context(), meta.Txn{If: aPut.If, Then: aPut.Then, ElseGet: []string{"key"}})
	if err != nil || !r.OK && (len(r.Else) != 1 || string(r.Else[0].Value) != "hunter2") {
		t.Errorf("%+v, %v", r, err)
	}
}

// A full etcd leaves what it refuses unknown, still reads and deletes, and goes
// on once there is space.
func TestNoSpace(t *testing.T) {
	server := rig.Etcd(t, "--quota-backend-bytes", strconv.Itoa(4<<20))
	s := openOn(t, server)
	large := make([]byte, 200<<10)
	value := func(i int) meta.Txn {
		return meta.Txn{Then: []meta.Op{meta.Put("large", append(large, byte(i))), meta.Put("n", []byte{byte(i)})}}
	}
	full := -1
	for i := range 100 {
		_, err := s.Txn(t.Context(), value(i))
		if err == nil {
			continue
		}
		if !errors.Is(err, meta.ErrUnknown) || !errors.Is(err, meta.ErrNoSpace) {
			t.Fatalf("full: %v", err)
		}
		full = i
		break
	}
	if full < 1 {
		t.Fatalf("full after %d", full)
	}
	found, _, err := s.Get(t.Context(), "n")
	if n := found["n"].Value; err != nil || len(n) != 1 || int(n[0]) != full && int(n[0]) != full-1 {
		t.Errorf("n is %v, the last done is %d: %v", n, full-1, err)
	}
	if h := s.Health(t.Context())[0]; h.Err != nil || len(h.Problems) == 0 || h.Version == "" || h.Bytes == 0 {
		t.Errorf("health %+v", h)
	}
	if _, err := s.Grant(t.Context(), time.Minute); !errors.Is(err, meta.ErrNoSpace) {
		t.Errorf("lease: %v", err)
	}
	if r, err := s.Txn(t.Context(), meta.Txn{Then: []meta.Op{meta.Delete("large")}}); err != nil || !r.OK {
		t.Errorf("delete: %+v, %v", r, err)
	}
	FreeSpace(t, s.client, server.Addr)
	if r, err := s.Txn(t.Context(), value(full)); err != nil || !r.OK {
		t.Errorf("with space: %+v, %v", r, err)
	}
}

// FreeSpace does what an operator does: compact, defragment, clear the alarm.
func FreeSpace(t *testing.T, c *clientv3.Client, addr string) {
	t.Helper()
	r, err := c.Get(t.Context(), "x")
	if err == nil {
		_, err = c.Compact(t.Context(), r.Header.Revision, clientv3.WithCompactPhysical())
	}
	if err == nil {
		_, err = c.Defragment(t.Context(), "http://"+addr)
	}
	if err == nil {
		_, err = c.AlarmDisarm(t.Context(), &clientv3.AlarmMember{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A watch that lags behind a compaction while its server is away ends with
// ErrCompacted; it does not skip.
func TestCompactedWhileAway(t *testing.T) {
	server := rig.Etcd(t)
	s := openOn(t, server)
	put := func() int64 {
		r, err := s.Txn(t.Context(), meta.Txn{Then: []meta.Op{meta.Put("k", nil)}})
		if err != nil {
			t.Fatal(err)
		}
		return r.Rev
	}
	first := put()
	for range 3 {
		put()
	}
	compact(t, s)
	b := <-s.Watch(t.Context(), "", first)
	if !errors.Is(b.Err, meta.ErrCompacted) {
		t.Errorf("%+v", b)
	}
	server.Kill()
	// Nobody is there: a watch waits, and Close ends it.
	w := s.Watch(t.Context(), "", first)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if b := <-w; !errors.Is(b.Err, meta.ErrClosed) {
		t.Errorf("%+v", b)
	}
}

// Clusters in one etcd don't see each other, however their prefixes begin.
func TestPrefixes(t *testing.T) {
	server := rig.Etcd(t)
	prefixes := []string{"p", "p/1", "p1", "p/1/2"}
	for _, p := range prefixes {
		s := openURL(t, server.URL(p))
		if _, err := s.Txn(t.Context(), meta.Txn{Then: []meta.Op{meta.Put("k", []byte(p)), meta.Put("1:k", nil), meta.Put("/1", nil)}}); err != nil {
			t.Fatal(err)
		}
	}
	all := openURL(t, server.URL("p"))
	w := all.Watch(t.Context(), "", 0)
	if b := <-w; b.Err != nil || len(b.Events) != 3 {
		t.Errorf("%+v", b)
	}
	if _, err := all.Txn(t.Context(), meta.Txn{Then: []meta.Op{meta.DeletePrefix("k"), meta.DeletePrefix("1"), meta.DeletePrefix("/")}}); err != nil {
		t.Fatal(err)
	}
	for _, p := range prefixes {
		n := 0
		if _, err := openURL(t, server.URL(p)).Scan(t.Context(), "", func(meta.KV) error { n++; return nil }); err != nil || n != 3 && p != "p" || n != 0 && p == "p" {
			t.Errorf("%s has %d keys: %v", p, n, err)
		}
	}
}
