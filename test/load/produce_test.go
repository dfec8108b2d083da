//go:build bench

package load

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/looptape/looptape/test/rig"
)

const repeats = 3

// A target is one server under the same load.
type target struct {
	name   string
	addr   string
	pid    int
	create bool // whether it has topics
	ours   bool
}

// TestProduce runs the same generator against the limit probe, the tape and
// Apache Kafka with and without a flush per batch, in turn, three times. The goals
// of the design are ratios to the probe in the same block: records a second of 0.65
// plain and 0.5 zstd, 64 partitions 0.85 of our 8, processor time 1.5, resident
// memory 200 MB.
func TestProduce(t *testing.T) {
	loadgen := build(t, "loadgen")
	limitd := build(t, "limitd")

	probe := "127.0.0.1:" + strconv.Itoa(rig.Port(t))
	probeProcess := rig.Start(t, t.TempDir(), limitd, "-addr", probe, "-how", "recycled-direct", "-wal", "limit.wal")
	tape := rig.Serve(t)
	kafka := rig.StartKafka(t, rig.KafkaOptions{HeapMB: 1024})
	flushed := rig.StartKafka(t, rig.KafkaOptions{HeapMB: 1024, Properties: map[string]string{"log.flush.interval.messages": "1"}})
	targets := []target{
		{"limit probe", probe, probeProcess.PID(), false, false},
		{"looptape (fsync)", tape.Kafka, tape.PID(), true, true},
		{"kafka (default)", kafka.Addr, kafka.PID(), true, false},
		{"kafka (flush/batch)", flushed.Addr, flushed.PID(), true, false},
	}
	time.Sleep(3 * time.Second) // the JVMs settle

	for _, c := range []struct {
		title string
		args  []string
	}{
		{"closed loop, 1 KiB records, 256 KiB batches, 8 partitions, no compression", []string{"-codec", "none", "-partitions", "8"}},
		{"the same, zstd batches", []string{"-codec", "zstd", "-partitions", "8"}},
		{"64 partitions, 8 batches of 32 KiB in each request", []string{"-codec", "none", "-partitions", "64", "-raw-per", "8", "-raw-batch", "32768"}},
		{"1,000 partitions, 8 batches of 32 KiB in each request", []string{"-codec", "none", "-partitions", "1000", "-raw-per", "8", "-raw-batch", "32768"}},
		{"open schedule, 20,000 records/s: 1,000 requests/s of 20 records", []string{"-codec", "none", "-partitions", "8", "-raw-batch", "20960", "-raw-rate", "1000"}},
	} {
		rows := make([][]result, len(targets))
		for range repeats {
			for i, target := range targets { // interleaved: A B C D, A B C D, ...
				rows[i] = append(rows[i], target.run(t, loadgen, c.args))
			}
		}
		table(c.title, targets, rows)
	}
}

type result struct {
	RecS float64                          `json:"rec_s"`
	MBS  float64                          `json:"mb_s"`
	Errs int64                            `json:"errs"`
	Err  string                           `json:"err"`
	Ack  struct{ P50, P99, P999 float64 } `json:"ack_ms"`
	CPU  float64                          `json:"srv_cpu_ns_rec"`
	RSS  float64                          `json:"srv_rss_mb"`
}

func (g target) run(t *testing.T, loadgen string, args []string) result {
	t.Helper()
	args = append([]string{"-brokers", g.addr, "-mode", "rawmax", "-size", "1024", "-clients", "2", "-dur", "4s", "-warm", "1s",
		"-pid", strconv.Itoa(g.pid), "-topic", "bench", "-create=" + strconv.FormatBool(g.create), "-rm=" + strconv.FormatBool(g.create)}, args...)
	c := exec.Command(loadgen, args...)
	c.Stderr = os.Stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%s: loadgen: %v\n%s", g.name, err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	var r result
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &r); err != nil {
		t.Fatalf("%s: loadgen printed %s", g.name, out)
	}
	if r.Errs > 0 { // a peer that has just made its topic refuses a few; ours may not
		fmt.Printf("%s: %d produce errors: %s\n", g.name, r.Errs, r.Err)
		if g.ours {
			t.Errorf("%s: %d produce errors: %s", g.name, r.Errs, r.Err)
		}
	}
	return r
}

func table(title string, targets []target, rows [][]result) {
	fmt.Printf("\n%s (medians of %d, range)\n%-22s %12s %22s %9s %9s %9s %8s %9s %9s %8s\n", title, repeats,
		"server", "records/s", "(range)", "MB/s", "p50 ms", "p99 ms", "x probe", "ns/rec", "x probe", "RSS MB")
	var base, baseCPU float64
	for i, g := range targets {
		r := rows[i]
		rate := median(r, func(r result) float64 { return r.RecS })
		if i == 0 {
			base, baseCPU = rate, median(r, func(r result) float64 { return r.CPU })
		}
		cpu := median(r, func(r result) float64 { return r.CPU })
		low := slices.MinFunc(r, func(a, b result) int { return int(a.RecS - b.RecS) }).RecS
		high := slices.MaxFunc(r, func(a, b result) int { return int(a.RecS - b.RecS) }).RecS
		fmt.Printf("%-22s %12.0f %22s %9.0f %9.2f %9.2f %8.2f %9.0f %9.2f %8.0f\n", g.name, rate, fmt.Sprintf("(%.0f-%.0f)", low, high),
			median(r, func(r result) float64 { return r.MBS }), median(r, func(r result) float64 { return r.Ack.P50 }),
			median(r, func(r result) float64 { return r.Ack.P99 }), rate/base, cpu, cpu/baseCPU, median(r, func(r result) float64 { return r.RSS }))
	}
}

func median(rs []result, of func(result) float64) float64 {
	var v []float64
	for _, r := range rs {
		v = append(v, of(r))
	}
	slices.Sort(v)
	return v[len(v)/2]
}

// build compiles a tool of the shared directory into the cache.
func build(t *testing.T, tool string) string {
	t.Helper()
	out := filepath.Join(rig.Root(), ".cache", "bench", tool)
	c := exec.Command("go", "build", "-buildvcs=false", "-o", out, ".")
	c.Dir = rig.Shared(t, filepath.Join("tools", tool))
	if b, err := c.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", tool, err, b)
	}
	return out
}
