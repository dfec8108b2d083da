package sim

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"
)

// quick is how many seeds run with the ordinary tests; make sim runs more.
const quick = 25

// worker is set in the processes that TestSim starts: one bubble at a time has the
// process to itself, so that its random numbers can be given.
const worker = "LOOPTAPE_SIM_WORKER"

// TestSim runs the seeds that once failed, then LOOPTAPE_SEEDS others from
// LOOPTAPE_FROM on; or LOOPTAPE_SEED alone, with its whole history. With
// LOOPTAPE_FIRST it ends at the first failure.
func TestSim(t *testing.T) {
	if os.Getenv(worker) != "" {
		t.Skip("this process works for another")
	}
	if one := os.Getenv("LOOPTAPE_SEED"); one != "" {
		for _, res := range runSeeds(t, []uint64{number(t, one)}, true) {
			t.Log("\n" + strings.Join(res.Tail, "\n"))
			report(t, res)
		}
		return
	}
	seeds := knownSeeds(t)
	from, count := uint64(1), quick
	if v := os.Getenv("LOOPTAPE_FROM"); v != "" {
		from = number(t, v)
	}
	if v := os.Getenv("LOOPTAPE_SEEDS"); v != "" {
		count = int(number(t, v))
	} else if testing.Short() {
		count = quick / 4
	}
	for i := range uint64(count) {
		seeds = append(seeds, from+i)
	}
	began := time.Now()
	failed, acked, events, lives := 0, 0, 0, 0
	var virtual time.Duration
	for _, res := range runSeeds(t, seeds, false) {
		acked, events, lives, virtual = acked+res.Acked, events+res.Events, lives+res.Lives, virtual+res.Virtual
		if len(res.Violations) > 0 {
			failed++
		}
		report(t, res)
	}
	t.Logf("%d seeds, %d failed: %d processes lived, %d batches acknowledged, %d events, %s of virtual time in %s",
		len(seeds), failed, lives, acked, events, virtual.Round(time.Minute), time.Since(began).Round(time.Second))
}

// shown bounds the failures that are told in full.
const shown = 5

var told int

func report(t *testing.T, res outcome) {
	t.Helper()
	if len(res.Violations) == 0 {
		return
	}
	if told++; told > shown {
		t.Errorf("seed %d: %s", res.Seed, res.Violations[0])
		return
	}
	t.Errorf("seed %d breaks promises:\n  %s\n\nthe last events:\n%s\n\nrun it again: make sim SEED=%d\nkeep it: echo %d >> test/sim/seeds.txt",
		res.Seed, strings.Join(res.Violations, "\n  "), strings.Join(res.Tail, "\n"), res.Seed, res.Seed)
}

func number(t *testing.T, s string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("%q is not a number", s)
	}
	return n
}

// knownSeeds are the seeds in seeds.txt.
func knownSeeds(t *testing.T) (seeds []uint64) {
	t.Helper()
	b, err := os.ReadFile("seeds.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line != "" {
			seeds = append(seeds, number(t, line))
		}
	}
	return seeds
}

// An outcome is a result as one line of a worker.
type outcome struct {
	Seed       uint64
	Hash       string
	Plan       string // digest of the history's first line
	Events     int
	Acked      int
	Lives      int
	Virtual    time.Duration
	Violations []string `json:",omitempty"`
	Tail       []string `json:",omitempty"`
}

// runSeeds shares the seeds among worker processes and returns the outcomes in the
// order of the seeds.
func runSeeds(t *testing.T, seeds []uint64, all bool) []outcome {
	t.Helper()
	feed := make(chan uint64, len(seeds))
	for _, s := range seeds {
		feed <- s
	}
	close(feed)
	first := os.Getenv("LOOPTAPE_FIRST") != ""
	var mu sync.Mutex
	found := map[uint64]outcome{}
	var workers sync.WaitGroup
	for range min(runtime.NumCPU(), len(seeds)) {
		workers.Go(func() {
			for {
				again := work(t, feed, all, func(o outcome) {
					mu.Lock()
					defer mu.Unlock()
					found[o.Seed] = o
					if first && len(o.Violations) > 0 {
						for range feed { // the rest need not run
						}
					}
				})
				if !again {
					return
				}
			}
		})
	}
	workers.Wait()
	var outcomes []outcome
	for _, s := range seeds {
		if o, ok := found[s]; ok {
			outcomes = append(outcomes, o)
		}
	}
	if len(found) == 0 {
		t.Fatal("no seed ran")
	}
	return outcomes
}

// stuck is how long, in real time, a seed may take.
const stuck = 5 * time.Minute

// work runs seeds in one worker process. true: the worker died of one, start
// another.
func work(t *testing.T, feed <-chan uint64, all bool, done func(outcome)) (again bool) {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestWorker$", "-test.timeout=0")
	cmd.Env = append(os.Environ(), worker+"="+strconv.FormatBool(all), "GOMAXPROCS=1", "GODEBUG=asyncpreemptoff=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Error(err)
		return false
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Error(err)
		return false
	}
	var noise bytes.Buffer
	cmd.Stderr = &noise
	if err := cmd.Start(); err != nil {
		t.Error(err)
		return false
	}
	lines := bufio.NewReader(out)
	for seed := range feed {
		fmt.Fprintln(in, seed)
		watch := time.AfterFunc(stuck, func() { cmd.Process.Signal(quit) })
		o, err := answer(lines)
		watch.Stop()
		if err != nil {
			in.Close()
			err = cmd.Wait()
			text := noise.String()
			done(outcome{Seed: seed, Violations: []string{fmt.Sprintf("the worker died (%v):\n%s", err, text[:min(len(text), 400_000)])}})
			return true
		}
		done(o)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("worker: %v\n%s", err, noise.String())
	}
	return false
}

const mark = "outcome "

func answer(lines *bufio.Reader) (o outcome, err error) {
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return o, err
		}
		if rest, ok := strings.CutPrefix(line, mark); ok {
			return o, json.Unmarshal([]byte(rest), &o)
		}
	}
}

// TestWorker is the other side of work: it runs the seeds it reads.
func TestWorker(t *testing.T) {
	all, err := strconv.ParseBool(os.Getenv(worker))
	if err != nil {
		t.Skip("TestSim starts it")
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		seed := number(t, in.Text())
		b, err := json.Marshal(simulateOne(t, seed, all))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("\n%s%s\n", mark, b)
	}
}

// simulateOne runs a seed in a bubble of its own.
func simulateOne(t *testing.T, seed uint64, all bool) (o outcome) {
	cryptotest.SetGlobalRandom(t, seed)
	synctest.Test(t, func(*testing.T) {
		res := simulate(seed, all)
		o = outcome{res.seed, res.hash, res.plan, res.events, res.acked, res.lives, res.virtual, res.violations, nil}
		if all || len(res.violations) > 0 {
			o.Tail = res.tail
		}
	})
	return o
}

// TestSameSeed runs seeds twice, in two processes. A seed promises the same world,
// work and faults, see the package's doc; how often the whole history is the same
// is only told.
func TestSameSeed(t *testing.T) {
	if os.Getenv(worker) != "" {
		t.Skip("this process works for another")
	}
	var seeds []uint64
	for i := range uint64(5) {
		seeds = append(seeds, 1_000_000+i)
	}
	first, second := runSeeds(t, seeds, false), runSeeds(t, slices.Clone(seeds), false)
	same := 0
	for i := range first {
		if first[i].Hash == second[i].Hash {
			same++
		}
		if first[i].Plan == "" || first[i].Plan != second[i].Plan {
			t.Errorf("seed %d: another plan: %s, %s", seeds[i], first[i].Plan, second[i].Plan)
		}
		for _, o := range []outcome{first[i], second[i]} {
			report(t, o)
		}
	}
	t.Logf("%d of %d histories are the same to the last event", same, len(seeds))
}

// TestDice: a decision depends on its subject and how often that was asked, and on
// nothing else.
func TestDice(t *testing.T) {
	draw := func(d *dice, subjects ...string) (all []uint64) {
		for _, s := range subjects {
			all = append(all, d.about(s).Uint64())
		}
		return all
	}
	a, b := draw(newDice(7), "x", "y", "x", "x"), draw(newDice(7), "x", "x", "y", "x")
	if a[0] != b[0] || a[2] != b[1] || a[3] != b[3] || a[1] != b[2] {
		t.Errorf("another order, other numbers: %v, %v", a, b)
	}
	if a[0] == a[2] || a[0] == a[1] || draw(newDice(8), "x")[0] == a[0] {
		t.Errorf("subjects, repetitions or seeds share numbers: %v", a)
	}
}
