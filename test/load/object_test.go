//go:build bench

package load

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/looptape/looptape/test/rig"
)

// fullSlot is what one put of the object log carries at best.
const fullSlot = 8 << 20

// TestObjectLog: G14, produce with the log in a bucket: its puts are full whatever
// the partitions, and a record costs little more than with the log in a file, which
// puts the same data into the same bucket once, not twice.
func TestObjectLog(t *testing.T) {
	s3 := rig.S3(t)
	type server struct {
		target
		*rig.Server
	}
	serve := func(name string, extra ...string) server {
		s := rig.Serve(t, append([]string{"--no-loop", "--blob", s3.URL(name, "")}, extra...)...)
		return server{target{name: name, addr: s.Kafka, pid: s.PID(), create: true, ours: true}, s}
	}
	file := serve("file-log", "--wal", "file")
	object := serve("object-log", "--wal", "object", "--meta", rig.Etcd(t).URL("g14"), "--node-id", "1")
	for _, c := range []struct {
		partitions int
		args       []string
	}{
		{8, []string{"-partitions", "8", "-raw-batch", "262144"}},
		{64, []string{"-partitions", "64", "-raw-batch", "32768", "-raw-per", "8"}},
		{512, []string{"-partitions", "512", "-raw-batch", "4096", "-raw-per", "64"}},
	} {
		var rate, cpu [2][]float64 // of the file log, of the object log
		var fill, size, p99 []float64
		for range repeats {
			for i, s := range []server{file, object} {
				slots, bytes := newestSlot(t, filepath.Join(s3.Dir, s.name)), metric(t, s.Server, "looptape_store_log_bytes_total")
				// 8 connections with 8 requests of 256 KiB: 16 MiB wait for an answer, so
				// that a slot can get full while another is under way.
				f := generate(t, s.target, append([]string{"-mode", "rawmax", "-topic", "bench", "-rm", "-codec", "none", "-clients", "8", "-raw-depth", "8", "-dur", "8s", "-warm", "1s"}, c.args...)...)
				rate[i], cpu[i] = append(rate[i], f.of("rec_s")), append(cpu[i], f.of("srv_cpu_ns_rec")/1e3)
				if i == 1 {
					puts := float64(newestSlot(t, filepath.Join(s3.Dir, s.name)) - slots)
					wrote := metric(t, s.Server, "looptape_store_log_bytes_total") - bytes
					fill, size = append(fill, puts*fullSlot/wrote), append(size, wrote/puts/(1<<20))
					p99 = append(p99, f.of("ack_ms.p99"))
				}
			}
		}
		verdict(fmt.Sprintf("G14 object log on a local S3 server, %d partitions", c.partitions),
			goal{"puts x 8 MiB / bytes", medianOf(fill), 1.1, false, fmt.Sprintf("%.1f MiB a put", medianOf(size))},
			goal{"CPU a record, x file log's", medianOf(cpu[1]) / medianOf(cpu[0]), 2, false, fmt.Sprintf("%.2f us, file log %.2f us", medianOf(cpu[1]), medianOf(cpu[0]))},
			goal{"records/s, x file log's", medianOf(rate[1]) / medianOf(rate[0]), 0.5, true, fmt.Sprintf("%.0f, file log %.0f", medianOf(rate[1]), medianOf(rate[0]))},
			goal{"ack p99, ms", medianOf(p99), 1500, false, "16 MiB in flight: it is their time through the S3 server"},
		)
	}
}

// newestSlot is the number of the newest slot in a bucket's directory: the log keeps
// it, and each put that was not a repetition has its own.
func newestSlot(t *testing.T, bucket string) (newest int64) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(bucket, "wal"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			if n, perr := strconv.ParseInt(filepath.Base(path), 10, 64); perr == nil {
				newest = max(newest, n)
			}
		}
		return nil // one may just have been deleted, or none be there yet
	})
	if err != nil {
		t.Fatal(err)
	}
	return newest
}
