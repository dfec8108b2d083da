//go:build crash

package crash

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/looptape/looptape/test/rig"
)

// TestKill kills the server with SIGKILL at random moments under load and
// restarts it. In the end every acknowledged record is there once and in
// order, and every case of the loop is right.
func TestKill(t *testing.T) {
	rounds := fromEnv(t, "LOOPTAPE_ROUNDS", 50)
	rng := dice(t)
	s := rig.Serve(t)
	l := startLoad(t, s.Kafka)
	var cases caseLoad
	l.also(func() { cases.send(l.ctx, s.API) })

	var slowest time.Duration
	for round := range rounds {
		// Anywhere from the first writes after the restart to well into a flush.
		time.Sleep(time.Duration(200+rng.IntN(1300)) * time.Millisecond)
		s.Kill()
		took := again(s)
		slowest = max(slowest, took)
		t.Logf("round %d: ready %s after the start, %d records and %d cases acknowledged so far", round+1, took.Round(time.Millisecond), l.total(), cases.acked.Load())
	}
	time.Sleep(time.Second)
	l.stop()
	s.Kill() // what was acknowledged last must survive too
	again(s)

	n := l.verify(t)
	cases.verify(t, s.API)
	t.Logf("result: %d kills, %d acknowledged records read back once and in order, %d cases right, slowest restart %s", rounds+1, n, cases.acked.Load(), slowest.Round(time.Millisecond))
}

// again starts the server and says how long it took until it was ready.
func again(s *rig.Server) time.Duration {
	began := time.Now()
	s.Start()
	s.Ready(60 * time.Second)
	return time.Since(began)
}

// dice are seeded by LOOPTAPE_SEED, or by the clock; the log says how.
func dice(t *testing.T) *rand.Rand {
	seed := uint64(fromEnv(t, "LOOPTAPE_SEED", int(time.Now().UnixNano()&0x7fffffff)))
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func fromEnv(t *testing.T, name string, otherwise int) int {
	v := os.Getenv(name)
	if v == "" {
		return otherwise
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatalf("%s=%q is not a number", name, v)
	}
	return n
}
