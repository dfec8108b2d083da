//go:build bench

package load

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/looptape/looptape/test/rig"
)

// TestIsolation: G11, a replay leaves the live tail alone. Live traffic runs all
// the time; half of it beside a replay, capped and not. The generator alternates
// the two within a run.
func TestIsolation(t *testing.T) {
	mb := sizeMB("LOOPTAPE_BENCH_MB", 1000)
	tape := rig.Serve(t, "--no-loop")
	g := target{name: "looptape", addr: tape.Kafka, pid: tape.PID(), ours: true}
	fill(t, g, "replay", mb)
	flushed(t, tape)

	live := []string{"-mode", "replay", "-topic", "replay", "-rate", "2000", "-dur", "12s", "-warm", "1s", "-create=false"}
	var capped, uncapped, p99, ack, speed, alone, base []float64
	for range repeats {
		dropCaches(t, tape.Dir)
		f := generate(t, g, append(live, "-replay-mbps", "100")...)
		capped = append(capped, f.of("p99_inflation"))
		dropCaches(t, tape.Dir)
		f = generate(t, g, live...)
		uncapped = append(uncapped, f.of("p99_inflation"))
		p99, base = append(p99, f.of("e2e_replay_ms.p99")), append(base, f.of("e2e_base_ms.p99"))
		ack = append(ack, f.of("ack_replay_ms.p99"))
		speed = append(speed, f.of("replay_mb_s"))
		// The same replay with nobody else there.
		raw := newFetcher(t, tape.Kafka, "replay", 8, 1<<20)
		alone = append(alone, raw.loop(3*time.Second))
	}
	most := func() float64 { _, m := residentMB(t, tape.PID()); return m }()
	verdict("G11 live tail under a replay, 2,000 records/s",
		goal{"e2e p99, replay at 100 MB/s / without", medianOf(capped), 1.2, false, ""},
		goal{"e2e p99, replay uncapped / without", medianOf(uncapped), 1.5, false, fmt.Sprintf("%.2f ms without", medianOf(base))},
		goal{"e2e p99 under the replay, ms", medianOf(p99), 5, false, fmt.Sprintf("ack p99 %.2f ms", medianOf(ack))},
		goal{"replay speed / alone", medianOf(speed) / medianOf(alone), 0.8, true, fmt.Sprintf("%.0f of %.0f MB/s", medianOf(speed), medianOf(alone))},
		goal{"G13 resident MB, at most", most, 200, false, ""})

	// Ten that catch up at once, from the start of the log.
	var without, with []float64
	for range repeats {
		args := []string{"-mode", "e2e", "-rate", "2000", "-dur", "4s", "-warm", "1s", "-topic", "live", "-rm"}
		without = append(without, generate(t, g, args...).of("e2e_ms.p99"))
		dropCaches(t, tape.Dir)
		stop := make(chan struct{})
		done := make(chan float64, 10)
		for range 10 {
			f := newFetcher(t, tape.Kafka, "replay", 8, 1<<20)
			go func() {
				total, began := int64(0), time.Now()
				for {
					select {
					case <-stop:
						done <- float64(total) / 1e6 / time.Since(began).Seconds()
						return
					default:
					}
					total += f.fetch()
					f.again()
					// At a pace that leaves the generator its share of the machine.
					if due := time.Duration(float64(total) / 10e6 * float64(time.Second)); due > time.Since(began) {
						time.Sleep(due - time.Since(began))
					}
				}
			}()
		}
		with = append(with, generate(t, g, args...).of("e2e_ms.p99"))
		close(stop)
		sum := 0.0
		for range 10 {
			sum += <-done
		}
		fmt.Printf("ten readers together: %s MB/s\n", strconv.FormatFloat(sum, 'f', 0, 64))
	}
	verdict("ten consumers catch up, 10 MB/s each",
		goal{"e2e p99 with / without", medianOf(with) / medianOf(without), 1.2, false, fmt.Sprintf("%.2f and %.2f ms", medianOf(with), medianOf(without))})
}
