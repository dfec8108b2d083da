//go:build bench

package load

import (
	"fmt"
	"testing"
	"time"

	"github.com/looptape/looptape/test/rig"
)

// TestRealClient: G3, what franz-go's producer gets out of a durable tape against
// a server that forgets everything; and G7, its latency at a fixed rate with
// keyed traffic, which goes to all partitions in small batches.
func TestRealClient(t *testing.T) {
	null, nullPID := peer(t, "null")
	fsync, fsyncPID := peer(t, "sync")
	tape := rig.Serve(t, "--no-loop")
	kafka := rig.StartKafka(t, rig.KafkaOptions{HeapMB: 1024, Properties: map[string]string{"log.flush.interval.messages": "1"}})
	targets := []target{
		{name: "null", addr: null, pid: nullPID},
		{name: "looptape", addr: tape.Kafka, pid: tape.PID(), ours: true},
		{name: "kfake, syncing", addr: fsync, pid: fsyncPID},
		{name: "kafka, flushing", addr: kafka.Addr, pid: kafka.PID()},
	}
	time.Sleep(3 * time.Second) // the JVM settles
	measure := func(path string, args ...string) []float64 {
		all := make([][]float64, len(targets))
		for range repeats {
			for i, g := range targets {
				all[i] = append(all[i], generate(t, g, append(args, "-topic", "bench", "-rm")...).of(path))
			}
		}
		out := make([]float64, len(targets))
		for i := range all {
			out[i] = medianOf(all[i])
		}
		return out
	}
	v := measure("rec_s", "-mode", "max", "-dur", "4s", "-warm", "1s")
	verdict("G3 kgo as fast as it can, 1 KiB to 8 partitions",
		goal{"of the null sink", v[1] / v[0], 0.75, true, fmt.Sprintf("%.0f of %.0f records/s; %s %.2f, %s %.2f", v[1], v[0], targets[2].name, v[2]/v[0], targets[3].name, v[3]/v[0])})
	for _, rate := range []string{"5000", "20000"} {
		v := measure("ack_ms.p99", "-mode", "rate", "-rate", rate, "-dur", "4s", "-warm", "1s")
		verdict("G7 kgo, keyed, linger 0, "+rate+" records/s: p99 of the ack",
			goal{"times the null sink's", v[1] / v[0], 2, false, fmt.Sprintf("%.2f and %.2f ms", v[1], v[0])},
			goal{"times syncing kfake's", v[1] / v[2], 0.1, false, fmt.Sprintf("%.2f ms", v[2])},
			goal{"times flushing Kafka's", v[1] / v[3], 0.1, false, fmt.Sprintf("%.2f ms", v[3])})
	}
}
