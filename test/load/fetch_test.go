//go:build bench

package load

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sys/unix"

	"github.com/looptape/looptape/test/rig"
)

// TestMain turns this binary into one of the servers that the benches compare
// with, so that each has a process of its own.
func TestMain(m *testing.M) {
	role, addr, _ := strings.Cut(os.Getenv("LOOPTAPE_BENCH_PEER"), "=")
	switch role {
	case "":
		os.Exit(m.Run())
	case "stream":
		fail(stream(addr))
	default:
		fail(fake(role, addr))
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// peer starts this binary as a server on a free port.
func peer(t *testing.T, role string) (addr string, pid int) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	addr = "127.0.0.1:" + strconv.Itoa(rig.Port(t))
	p := rig.Start(t, t.TempDir(), "/usr/bin/env", "LOOPTAPE_BENCH_PEER="+role+"="+addr, self)
	rig.Until(t, 10*time.Second, func() error {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err
	})
	return addr, p.PID()
}

// stream writes 64 KiB buffers to whoever connects: the most that one loopback
// connection carries.
func stream(addr string) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	b := make([]byte, 64<<10)
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		for err == nil {
			_, err = c.Write(b)
		}
		c.Close()
	}
}

// fake is a Kafka in memory: "null" forgets what it is sent, "sync" writes it to
// a file and syncs it, batch by batch.
func fake(role, addr string) error {
	_, port, _ := net.SplitHostPort(addr)
	n, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	opts := []kfake.Opt{kfake.NumBrokers(1), kfake.Ports(n)}
	if role == "null" {
		opts = append(opts, kfake.BlackholeProduce())
	} else {
		dir, err := os.MkdirTemp(".", "kfake")
		if err != nil {
			return err
		}
		opts = append(opts, kfake.DataDir(dir), kfake.SyncWrites())
	}
	c, err := kfake.NewCluster(opts...)
	if err != nil {
		return err
	}
	defer c.Close()
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	<-end
	return errors.New("terminated")
}

// generate runs the load generator and returns the figures of its last line.
func generate(t *testing.T, g target, args ...string) figures {
	t.Helper()
	args = append([]string{"-brokers", g.addr, "-pid", strconv.Itoa(g.pid), "-size", "1024", "-partitions", "8"}, args...)
	c := exec.Command(build(t, "loadgen"), args...)
	c.Stderr = os.Stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%s: loadgen %v: %v\n%s", g.name, args, err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	f := figures{}
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &f); err != nil {
		t.Fatalf("%s: loadgen printed %s", g.name, out)
	}
	if e, _ := f["errs"].(float64); e > 0 {
		t.Errorf("%s: %v errors: %v", g.name, e, f["err"])
	}
	return f
}

// figures is a line of the load generator; of gives one, as "ack_ms.p99".
type figures map[string]any

func (f figures) of(path string) float64 {
	var v any = map[string]any(f)
	for name := range strings.SplitSeq(path, ".") {
		m, _ := v.(map[string]any)
		for k, x := range m {
			if strings.EqualFold(k, name) {
				v = x
			}
		}
	}
	n, _ := v.(float64)
	return n
}

func medianOf(v []float64) float64 {
	v = slices.Clone(v)
	slices.Sort(v)
	if len(v) == 0 {
		return 0
	}
	return v[len(v)/2]
}

// A goal is one line of a table: the median of what was measured against what it
// should be, both from the same block.
type goal struct {
	what  string
	got   float64
	want  float64
	least bool // want is the least, else the most
	note  string
}

// verdict prints a goal's table.
func verdict(title string, goals ...goal) {
	fmt.Printf("\n%s (medians of %d, interleaved)\n", title, repeats)
	w := 20
	for _, g := range goals {
		w = max(w, len(g.what))
	}
	for _, g := range goals {
		sign, met := "<=", g.got <= g.want
		if g.least {
			sign, met = ">=", g.got >= g.want
		}
		word := "met"
		if !met {
			word = "NOT met"
		}
		fmt.Printf("  %-*s %8.3f   goal %s %.3f   %-7s  %s\n", w, g.what, g.got, sign, g.want, word, g.note)
	}
}

// cpuSeconds and residentMB are what the kernel says of a process.
func cpuSeconds(t *testing.T, pid int) float64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	user, _ := strconv.ParseFloat(f[11], 64)
	system, _ := strconv.ParseFloat(f[12], 64)
	return (user + system) / 100
}

func residentMB(t *testing.T, pid int) (now, most float64) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kb, _ := strconv.ParseFloat(f[1], 64)
		switch f[0] {
		case "VmRSS:":
			now = kb / 1024
		case "VmHWM:":
			most = kb / 1024
		}
	}
	return now, most
}

// dropCaches makes the next reads of the files below dir come from the disk.
func dropCaches(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // gone meanwhile
		}
		f, err := os.Open(path)
		if err != nil {
			return nil
		}
		defer f.Close()
		_ = f.Sync()
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A fetcher reads partitions over one connection with plain Fetch requests and
// looks at no more of the answers than it has to.
type fetcher struct {
	t       *testing.T
	nc      net.Conn
	r       *bufio.Reader
	topic   string
	next    []int64
	high    []int64
	partMax int32
	skip    []byte
}

func newFetcher(t *testing.T, addr, topic string, partitions int, partMax int32) *fetcher {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	return &fetcher{t: t, nc: nc, r: bufio.NewReaderSize(nc, 256<<10), topic: topic, next: make([]int64, partitions), high: make([]int64, partitions), partMax: partMax, skip: make([]byte, 256<<10)}
}

// fetch sends a request and returns the bytes of batches that came.
func (f *fetcher) fetch() (got int64) {
	req := kmsg.NewPtrFetchRequest()
	req.Version = 11
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.SessionEpoch = 500, 1, 50<<20, -1
	topic := kmsg.NewFetchRequestTopic()
	topic.Topic = f.topic
	for i, next := range f.next {
		p := kmsg.NewFetchRequestTopicPartition()
		p.Partition, p.FetchOffset, p.PartitionMaxBytes = int32(i), next, f.partMax
		topic.Partitions = append(topic.Partitions, p)
	}
	// Whoever was first lets the others go first, as clients do.
	slices.Reverse(topic.Partitions)
	req.Topics = append(req.Topics, topic)
	b := kmsg.NewRequestFormatter(kmsg.FormatterClientID("bench")).AppendRequest(nil, req, 1)
	if _, err := f.nc.Write(b); err != nil {
		f.t.Fatal(err)
	}
	f.discard(4 + 4 + 4) // length, correlation id, throttle
	if code := f.i16(); code != 0 {
		f.t.Fatalf("fetch: error %d", code)
	}
	f.discard(4) // session
	for range f.i32() {
		f.discard(int(f.i16()))
		for range f.i32() {
			index := f.i32()
			if code := f.i16(); code != 0 {
				f.t.Fatalf("fetch of partition %d: error %d", index, code)
			}
			f.high[index] = int64(f.i32())<<32 | int64(uint32(f.i32()))
			f.discard(8 + 8)
			f.discard(16 * max(0, int(f.i32()))) // aborted transactions
			f.discard(4)
			left := int64(f.i32())
			got += max(left, 0)
			for left > 0 {
				if left < 61 {
					f.discard(int(left))
					break
				}
				head, err := f.r.Peek(61)
				if err != nil {
					f.t.Fatal(err)
				}
				length := int64(binary.BigEndian.Uint32(head[8:])) + 12
				if length <= left { // Kafka cuts the last one off
					f.next[index] = int64(binary.BigEndian.Uint64(head)) + int64(int32(binary.BigEndian.Uint32(head[23:]))) + 1
				}
				length = min(length, left)
				f.discard(int(length))
				left -= length
			}
		}
	}
	return got
}

func (f *fetcher) i32() int32 {
	var b [4]byte
	if _, err := io.ReadFull(f.r, b[:]); err != nil {
		f.t.Fatal(err)
	}
	return int32(binary.BigEndian.Uint32(b[:]))
}

func (f *fetcher) i16() int16 {
	var b [2]byte
	if _, err := io.ReadFull(f.r, b[:]); err != nil {
		f.t.Fatal(err)
	}
	return int16(binary.BigEndian.Uint16(b[:]))
}

// discard passes over n bytes. Large stretches are read into a buffer of their
// own, as a client would.
func (f *fetcher) discard(n int) {
	for n > 0 {
		if f.r.Buffered() == 0 && n > len(f.skip) {
			m, err := io.ReadFull(f.nc, f.skip)
			if err != nil {
				f.t.Fatal(err)
			}
			n -= m
			continue
		}
		m := n
		if b := f.r.Buffered(); b > 0 {
			m = min(n, b)
		}
		d, err := f.r.Discard(m)
		if err != nil {
			f.t.Fatal(err)
		}
		n -= d
	}
}

// loop reads the topic again and again for d and returns MB/s.
func (f *fetcher) loop(d time.Duration) float64 {
	began, total := time.Now(), int64(0)
	for time.Since(began) < d {
		got := f.fetch()
		if got == 0 {
			f.t.Fatal("nothing to fetch")
		}
		total += got
		f.again()
	}
	return float64(total) / 1e6 / time.Since(began).Seconds()
}

// again starts anew in the partitions whose end was reached.
func (f *fetcher) again() {
	for i := range f.next {
		if f.next[i] >= f.high[i] {
			f.next[i] = 0
		}
	}
}

// once reads total bytes of the topic from its start and returns MB/s.
func (f *fetcher) once(total int64) float64 {
	clear(f.next)
	began, got := time.Now(), int64(0)
	for got < total {
		n := f.fetch()
		if n == 0 {
			f.t.Fatalf("nothing more after %d of %d bytes", got, total)
		}
		got += n
	}
	return float64(got) / 1e6 / time.Since(began).Seconds()
}

// streamed reads the loopback stream for d and returns MB/s.
func streamed(t *testing.T, addr string, d time.Duration) float64 {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	b := make([]byte, 256<<10)
	began, total := time.Now(), 0
	for time.Since(began) < d {
		n, err := io.ReadFull(nc, b)
		if err != nil {
			t.Fatal(err)
		}
		total += n
	}
	return float64(total) / 1e6 / time.Since(began).Seconds()
}

// directRead reads up to total bytes of the files below dir past the page cache,
// 1 MiB at a time, and returns MB/s.
func directRead(t *testing.T, dir string, total int64) float64 {
	t.Helper()
	var files []string
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if i, err := d.Info(); err == nil && i.Size() >= 4<<20 {
				files = append(files, path)
			}
		}
		return nil
	})
	b, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(b)
	began, got := time.Now(), int64(0)
	for _, path := range files {
		f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0)
		if err != nil {
			t.Fatal(err)
		}
		for at := int64(0); got < total; at += int64(len(b)) {
			n, _ := f.ReadAt(b, at)
			if got += int64(n); n < len(b) {
				break
			}
		}
		f.Close()
	}
	return float64(got) / 1e6 / time.Since(began).Seconds()
}

// size is a figure of the environment, in MB.
func sizeMB(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil && n > 0 {
		return n
	}
	return otherwise
}

func fill(t *testing.T, g target, topic string, mb int) {
	t.Helper()
	generate(t, g, "-mode", "fill", "-topic", topic, "-mb", strconv.Itoa(mb))
}

// flushed waits until the tape holds nothing in memory that is not in objects.
func flushed(t *testing.T, s *rig.Server) {
	t.Helper()
	rig.Until(t, 90*time.Second, func() error {
		if v := metric(t, s, "looptape_store_unflushed_bytes"); v > 0 {
			return fmt.Errorf("%.0f bytes are not in objects", v)
		}
		return nil
	})
}

// TestFetch: G9, a fetch from the cache as fast as loopback carries it, and G10,
// a cold replay as fast as the disk reads.
func TestFetch(t *testing.T) {
	const d = 3 * time.Second
	mb := sizeMB("LOOPTAPE_BENCH_MB", 1000)
	source, _ := peer(t, "stream")
	tape := rig.Serve(t, "--no-loop")
	kafka := rig.StartKafka(t, rig.KafkaOptions{HeapMB: 1024})
	kafkaDir, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", kafka.PID()))
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := target{name: "looptape", addr: tape.Kafka, pid: tape.PID(), ours: true}, target{name: "kafka", addr: kafka.Addr, pid: kafka.PID()}
	for _, g := range []target{ours, theirs} {
		fill(t, g, "small", 20)
		fill(t, g, "large", mb)
	}
	flushed(t, tape)

	filled, _ := residentMB(t, tape.PID())

	var loop, fetch, other, perMB, otherPerMB []float64
	us, them := newFetcher(t, tape.Kafka, "small", 8, 1<<20), newFetcher(t, kafka.Addr, "small", 8, 1<<20)
	us.loop(d / 6)
	them.loop(d / 6)
	for range repeats {
		loop = append(loop, streamed(t, source, d))
		cpu := cpuSeconds(t, tape.PID())
		fetch = append(fetch, us.loop(d))
		perMB = append(perMB, 1000*(cpuSeconds(t, tape.PID())-cpu)/(fetch[len(fetch)-1]*d.Seconds()))
		cpu = cpuSeconds(t, kafka.PID())
		other = append(other, them.loop(d))
		otherPerMB = append(otherPerMB, 1000*(cpuSeconds(t, kafka.PID())-cpu)/(other[len(other)-1]*d.Seconds()))
	}
	l, f, o := medianOf(loop), medianOf(fetch), medianOf(other)
	verdict("G9 fetch from the cache, one connection",
		goal{"of single-stream loopback", f / l, 0.7, true, fmt.Sprintf("%.0f of %.0f MB/s", f, l)},
		goal{"of Kafka's", f / o, 1.1, true, fmt.Sprintf("Kafka %.0f MB/s at %.2f ms CPU a MB", o, medianOf(otherPerMB))},
		goal{"server CPU, ms a MB", medianOf(perMB), 0.4, false, ""})

	var direct, cold, coldOther []float64
	us, them = newFetcher(t, tape.Kafka, "large", 8, 1<<20), newFetcher(t, kafka.Addr, "large", 8, 1<<20)
	total := int64(mb) * 1e6
	for range repeats {
		dropCaches(t, tape.Dir)
		direct = append(direct, directRead(t, filepath.Join(tape.Dir, "data"), total))
		dropCaches(t, tape.Dir)
		cold = append(cold, us.once(total))
		dropCaches(t, kafkaDir)
		coldOther = append(coldOther, them.once(total))
	}
	now, most := residentMB(t, tape.PID())
	verdict("G10 cold replay",
		goal{"of the 1 MiB O_DIRECT read rate", medianOf(cold) / medianOf(direct), 0.8, true,
			fmt.Sprintf("%.0f of %.0f MB/s; Kafka %.0f", medianOf(cold), medianOf(direct), medianOf(coldOther))},
		goal{"G13 resident MB, at most", most, 200, false, fmt.Sprintf("%.0f after filling, %.0f now", filled, now)})
}

// TestEndToEnd: G8, a consumer has a record as soon as its producer knows that it
// is durable.
func TestEndToEnd(t *testing.T) {
	tape := rig.Serve(t, "--no-loop")
	g := target{name: "looptape", addr: tape.Kafka, pid: tape.PID()}
	for _, rate := range []string{"1000", "5000", "20000"} {
		var p50, p99, ack []float64
		for range repeats {
			f := generate(t, g, "-mode", "e2e", "-rate", rate, "-dur", "4s", "-warm", "1s", "-topic", "e2e", "-rm")
			p50 = append(p50, f.of("e2e_ms.p50")-f.of("ack_ms.p50"))
			p99 = append(p99, f.of("e2e_ms.p99")-f.of("ack_ms.p99"))
			ack = append(ack, f.of("ack_ms.p99"))
		}
		verdict("G8 end to end, "+rate+" records/s",
			goal{"e2e p50 - ack p50, ms", medianOf(p50), 0.2, false, ""},
			goal{"e2e p99 - ack p99, ms", medianOf(p99), 0.5, false, fmt.Sprintf("ack p99 %.2f ms", medianOf(ack))})
	}
}

// metric reads one value of the server's metrics.
func metric(t *testing.T, s *rig.Server, name string) float64 {
	t.Helper()
	res, err := http.Get(s.API + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		if v, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			n, _ := strconv.ParseFloat(v, 64)
			return n
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}
