//go:build crash

package crash

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/looptape/looptape/test/rig"
)

// rounds of each variant.
func variantRounds(t *testing.T) int { return fromEnv(t, "LOOPTAPE_VARIANT_ROUNDS", 5) }

func within(rng *rand.Rand, low, high time.Duration) time.Duration {
	return low + time.Duration(rng.Int64N(int64(high-low)))
}

// alone starts the tape without the loop.
func alone(t *testing.T, args ...string) *rig.Server {
	t.Helper()
	s := rig.Prepare(t, "serve", append([]string{"--no-loop", "--log-level", "info"}, args...)...)
	s.Start()
	s.Ready(60 * time.Second)
	return s
}

// finish ends the load, kills the server once more and reads everything back.
func finish(t *testing.T, l *load, s *rig.Server, what string, rounds int) {
	t.Helper()
	l.stop()
	s.Kill()
	again(s)
	t.Logf("result: %s, %d rounds, %d acknowledged records read back once and in order", what, rounds, l.verify(t))
}

// The object store dies and comes back underneath. With the log in files the tape
// goes on without it; with the log in it, it waits. In every other round the tape
// is killed, too, and starts while the store is away.
func TestObjectStoreDies(t *testing.T) {
	for _, log := range []string{"file", "object"} {
		t.Run("log in "+log, func(t *testing.T) {
			rng, rounds := dice(t), variantRounds(t)
			store := rig.S3(t)
			s := alone(t, "--blob", store.URL("tape", "crash"), "--wal", log)
			l := startLoad(t, s.Kafka)
			for round := range rounds {
				time.Sleep(within(rng, 300*time.Millisecond, 1500*time.Millisecond))
				store.Kill()
				if round%2 == 1 {
					s.Kill()
					s.Start()
				} else if log == "file" {
					l.flows(t, 200) // it does not need the store for that
				}
				time.Sleep(within(rng, 100*time.Millisecond, 2*time.Second))
				store.Start()
				s.Ready(60 * time.Second)
				l.flows(t, 200)
				t.Logf("round %d: %d records acknowledged so far", round+1, l.total())
			}
			finish(t, l, s, "object store killed, log in "+log, rounds)
		})
	}
}

// The metadata dies and comes back underneath. Acknowledgements need it for a new
// lease only; a broker that lost its lease may end, and starts again.
func TestEtcdDies(t *testing.T) {
	rng, rounds := dice(t), variantRounds(t)
	etcd := rig.Etcd(t)
	s := alone(t, "--node-id", "1", "--blob", rig.S3(t).URL("tape", "crash"), "--meta", etcd.URL("crash"))
	l := startLoad(t, s.Kafka)
	for round := range rounds {
		time.Sleep(within(rng, 300*time.Millisecond, 1500*time.Millisecond))
		etcd.Kill()
		if round%2 == 1 {
			s.Kill()
			s.Start()
		}
		time.Sleep(within(rng, 100*time.Millisecond, 3*time.Second))
		etcd.Start()
		revive(t, s)
		l.flows(t, 200)
		t.Logf("round %d: %d records acknowledged so far", round+1, l.total())
	}
	finish(t, l, s, "etcd killed", rounds)
}

// revive waits until the server is ready, and starts it again if it has ended: an
// init system would.
func revive(t *testing.T, s *rig.Server) {
	t.Helper()
	time.Sleep(200 * time.Millisecond)
	select {
	case <-s.Done():
		t.Logf("the server had ended:\n%s", last(s.Output(), 5))
		s.Start()
	default:
	}
	s.Ready(60 * time.Second)
}

func last(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// noSpace is what the server says of ENOSPC.
const noSpace = "no space left"

// The disk gets full under load, and has room again later. The server may end, or
// make its writers wait; what it has acknowledged stays.
func TestDiskFull(t *testing.T) {
	rng, rounds := dice(t), variantRounds(t)
	dir := t.TempDir()
	var s *rig.Server
	var fill, free func()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=2g"); err == nil {
		t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
		t.Log("on a tmpfs of 2 GiB")
		s = alone(t, "--data", filepath.Join(dir, "data"))
		filler := filepath.Join(dir, "filler")
		fill = func() {
			f, err := os.OpenFile(filler, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
			if err != nil {
				return // not even room for a name
			}
			defer f.Close()
			for size := 1 << 20; size >= 512; {
				if _, err := f.Write(make([]byte, size)); err != nil {
					size /= 2
				}
			}
		}
		free = func() {
			if err := os.Remove(filler); err != nil {
				t.Error(err)
			}
		}
	} else {
		t.Logf("no mount is allowed here (%v): a disk that says it is full", err)
		var fault string
		s, fault = faulty(t)
		fill = func() { set(t, fault, "full") }
		free = func() { set(t, fault, "") }
	}
	l := startLoadOf(t, s.Kafka, 500)
	for round := range rounds {
		time.Sleep(within(rng, 300*time.Millisecond, 1500*time.Millisecond))
		said := strings.Count(s.Output(), noSpace)
		fill()
		// The log has its next files at hand: it is the next objects that feel it
		// first, after half a minute at the latest.
		rig.Until(t, 45*time.Second, func() error {
			fill()
			if strings.Count(s.Output(), noSpace) <= said {
				return errors.New("the server has not felt that its disk is full")
			}
			return nil
		})
		for until := time.Now().Add(within(rng, 200*time.Millisecond, 3*time.Second)); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
			fill()
		}
		if round%2 == 1 {
			s.Kill()
		}
		free()
		if round%2 == 1 {
			s.Start()
		}
		revive(t, s)
		l.flows(t, 200)
		t.Logf("round %d: %d records acknowledged so far", round+1, l.total())
	}
	finish(t, l, s, "disk full", rounds)
}

// A sync of the log fails. The server must end at once and say why: whether the
// records before it are on the disk is not known, and no later sync would tell.
func TestSyncFails(t *testing.T) {
	rng, rounds := dice(t), variantRounds(t)
	s, fault := faulty(t)
	l := startLoad(t, s.Kafka)
	for round := range rounds {
		time.Sleep(within(rng, 300*time.Millisecond, 1500*time.Millisecond))
		set(t, fault, "sync")
		select {
		case <-s.Done():
		case <-time.After(30 * time.Second):
			t.Fatal("a sync failed and the server goes on")
		}
		if out := s.Output(); !strings.Contains(out, "fdatasync") || !strings.Contains(out, "input/output error") {
			t.Errorf("the server ended without a reason:\n%s", last(out, 10))
		}
		set(t, fault, "")
		again(s)
		l.flows(t, 200)
		t.Logf("round %d: %d records acknowledged so far", round+1, l.total())
	}
	finish(t, l, s, "fdatasync failed", rounds)
}

// faulty starts a server that is built with the tag faultdisk: a file says how its
// disk fails.
func faulty(t *testing.T) (s *rig.Server, fault string) {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "looptape")
	build := exec.Command("go", "build", "-tags", "faultdisk", "-o", program, "./cmd/looptape")
	build.Dir = rig.Root()
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build with a faulty disk: %v\n%s", err, out)
	}
	fault = filepath.Join(dir, "fault")
	set(t, fault, "")
	t.Setenv("LOOPTAPE_FAULTDISK", fault)
	s = rig.Prepare(t, "serve", "--no-loop", "--log-level", "info")
	s.Program = program
	s.Start()
	s.Ready(60 * time.Second)
	return s, fault
}

// set says how the disk fails from now on; the file changes at once.
func set(t *testing.T, fault, how string) {
	t.Helper()
	next := fmt.Sprintf("%s.%d", fault, time.Now().UnixNano())
	if err := os.WriteFile(next, []byte(how), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, fault); err != nil {
		t.Fatal(err)
	}
}
