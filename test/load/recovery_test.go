//go:build bench

package load

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/broker/batch"
	"github.com/looptape/looptape/test/rig"
)

// TestRecovery: G12, from SIGKILL to an acknowledged record on each of 8
// partitions, whatever the amount of data retained. LOOPTAPE_BENCH_LARGE=1 adds
// 10 GB (the nightly run).
func TestRecovery(t *testing.T) {
	sizes := []int{10, sizeMB("LOOPTAPE_BENCH_MB", 1000)}
	if os.Getenv("LOOPTAPE_BENCH_LARGE") != "" {
		sizes = append(sizes, 10_000)
	}
	recoveries(t, "log on disk, local metadata", sizes, func(t *testing.T) *rig.Server { return rig.Serve(t, "--no-loop") })
}

// TestRecoveryShared is the same with everything in a bucket and an etcd, which
// live on. What etcd and the bucket take is in the figures.
func TestRecoveryShared(t *testing.T) {
	recoveries(t, "log in the object store, metadata in etcd", []int{10, sizeMB("LOOPTAPE_BENCH_MB", 1000) / 2}, func(t *testing.T) *rig.Server {
		s3, etcd := rig.S3(t), rig.Etcd(t)
		return rig.Serve(t, "--no-loop", "--blob", s3.URL("tape", ""), "--meta", "etcd://"+etcd.Addr+"/bench", "--node-id", "1")
	})
}

// recoveries fills a server, kills it under load and measures, for each size.
func recoveries(t *testing.T, title string, sizes []int, serve func(*testing.T) *rig.Server) {
	t.Helper()
	var goals []goal
	took := make([]float64, len(sizes))
	for i, mb := range sizes {
		tape := serve(t)
		g := target{name: "looptape", addr: tape.Kafka, pid: tape.PID(), ours: true}
		generate(t, g, "-mode", "fill", "-topic", "kept", "-mb", fmt.Sprint(mb))
		ready(t, tape.Kafka, "kept", time.Minute) // one more record each, so that all are warm
		var s, after, began []float64
		for range repeats {
			tape.Kill()
			start := time.Now()
			tape.Start()
			s = append(s, ready(t, tape.Kafka, "kept", time.Minute).Sub(start).Seconds())
			tape.Ready(time.Minute)
			began = append(began, time.Since(start).Seconds())
			now, _ := residentMB(t, tape.PID())
			after = append(after, now)
			generate(t, target{name: g.name, addr: g.addr, pid: tape.PID()}, "-mode", "fill", "-topic", "kept", "-mb", "20", "-create=false")
		}
		took[i] = medianOf(s)
		goals = append(goals, goal{fmt.Sprintf("%d MB, s", mb), took[i], 0.1, false,
			fmt.Sprintf("all of the server ready after %.2f s, then %.0f MB resident", medianOf(began), medianOf(after))})
		tape.Kill()
	}
	last := len(sizes) - 1
	slope := (took[last] - took[0]) / (float64(sizes[last]-sizes[0]) / 1000) * 1000
	goals = append(goals, goal{"slope, ms a GB", slope, 5, false, ""})
	verdict("G12 kill -9 to acknowledged records on 8 partitions, "+title, goals...)
}

// ready produces a record to each of 8 partitions of the topic, at once and again
// until all are acknowledged, and returns when they were.
func ready(t *testing.T, addr, topic string, within time.Duration) time.Time {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := acknowledged(addr, topic)
		if err == nil {
			return time.Now()
		}
		if time.Now().After(deadline) {
			t.Fatalf("not ready within %s: %v", within, err)
		}
		time.Sleep(time.Millisecond)
	}
}

func acknowledged(addr, topic string) error {
	nc, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return err
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(10 * time.Second))
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = 7, -1, 10_000
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic = topic
	for i := range int32(8) {
		p := kmsg.NewProduceRequestTopicPartition()
		p.Partition, p.Records = i, batch.Build(batch.Plain, batch.KV{Timestamp: time.Now().UnixMilli(), Value: []byte("ready")})
		rt.Partitions = append(rt.Partitions, p)
	}
	req.Topics = append(req.Topics, rt)
	if _, err := nc.Write(kmsg.NewRequestFormatter(kmsg.FormatterClientID("bench")).AppendRequest(nil, req, 1)); err != nil {
		return err
	}
	var head [4]byte
	if _, err := io.ReadFull(nc, head[:]); err != nil {
		return err
	}
	b := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(nc, b); err != nil {
		return err
	}
	resp := kmsg.NewPtrProduceResponse()
	resp.Version = 7
	if err := resp.ReadFrom(b[4:]); err != nil {
		return err
	}
	n := 0
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if p.ErrorCode != 0 {
				return fmt.Errorf("partition %d: error %d", p.Partition, p.ErrorCode)
			}
			n++
		}
	}
	if n != 8 {
		return fmt.Errorf("%d partitions answered", n)
	}
	return nil
}
