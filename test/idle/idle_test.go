//go:build e2e

package idle

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/looptape/looptape/test/rig"
)

const (
	mostMiB  = 150  // resident
	mostCore = 0.01 // share of a core
)

// TestIdle: a broker that had traffic and has none any more sends no PUT, whatever
// the log, and is small and quiet.
func TestIdle(t *testing.T) {
	for _, c := range []struct {
		name  string
		serve func(t *testing.T) (*rig.Server, func() map[string]int)
	}{
		{"local", local},
		{"S3, file log", func(t *testing.T) (*rig.Server, func() map[string]int) { return bucket(t, "--wal", "file") }},
		{"S3, object log, etcd", func(t *testing.T) (*rig.Server, func() map[string]int) {
			return bucket(t, "--wal", "object", "--meta", rig.Etcd(t).URL("idle"), "--node-id", "1")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			server, writes := c.serve(t)
			traffic(t, server.Kafka)
			settle(t, writes)
			idle(t, server, writes)
		})
	}
}

// local is a broker whose objects are files.
func local(t *testing.T) (*rig.Server, func() map[string]int) {
	s := rig.Serve(t, "--no-loop")
	n := map[string]int{} // all that were ever seen
	return s, func() map[string]int {
		err := filepath.WalkDir(filepath.Join(s.Dir, "data", "objects"), func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				n["object "+filepath.Base(path)] = 1
			}
			return nil // one may just have been deleted
		})
		if err != nil {
			t.Fatal(err)
		}
		return maps.Clone(n)
	}
}

// bucket is a broker on an S3 server, with a proxy between them that counts.
func bucket(t *testing.T, extra ...string) (*rig.Server, func() map[string]int) {
	s3 := rig.S3(t)
	target, err := url.Parse(s3.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	n := map[string]int{}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host // it is signed
		mu.Lock()
		defer mu.Unlock()
		n[r.In.Method]++
	}}
	front := &http.Server{Addr: fmt.Sprintf("127.0.0.1:%d", rig.Port(t)), Handler: proxy}
	ended := make(chan error, 1)
	go func() { ended <- front.ListenAndServe() }()
	t.Cleanup(func() {
		front.Close()
		<-ended
	})
	at := strings.Replace(s3.URL("idle", ""), target.Host, front.Addr, 1)
	s := rig.Serve(t, append([]string{"--no-loop", "--blob", at}, extra...)...)
	return s, func() map[string]int {
		mu.Lock()
		defer mu.Unlock()
		return map[string]int{"PUT": n[http.MethodPut], "POST": n[http.MethodPost]} // the others are reads, listings, or free
	}
}

// traffic makes a topic, writes to it and reads it.
func traffic(t *testing.T, addr string) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumeTopics("idle"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := kadm.NewClient(client).CreateTopic(ctx, 8, 1, nil, "idle"); err != nil {
		t.Fatal(err)
	}
	const records = 20_000
	value := make([]byte, 1000)
	for i := range records {
		client.Produce(ctx, &kgo.Record{Topic: "idle", Key: []byte(strconv.Itoa(i)), Value: value}, func(_ *kgo.Record, err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	if err := client.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	for got := 0; got < records; {
		f := client.PollFetches(ctx)
		if err := f.Err(); err != nil {
			t.Fatal(err)
		}
		got += f.NumRecords()
	}
}

// settle waits until everything is in objects and merged: nothing was written for
// longer than the flusher waits.
func settle(t *testing.T, writes func() map[string]int) {
	const quiet = 40 * time.Second
	last, since := writes(), time.Now()
	rig.Until(t, 5*time.Minute, func() error {
		if now := writes(); !maps.Equal(now, last) {
			last, since = now, time.Now()
		}
		if time.Since(since) < quiet {
			return fmt.Errorf("still writes: %v", last)
		}
		return nil
	})
}

// idle measures.
func idle(t *testing.T, s *rig.Server, writes func() map[string]int) {
	long := time.Minute
	if v := os.Getenv("LOOPTAPE_IDLE"); v != "" {
		var err error
		if long, err = time.ParseDuration(v); err != nil {
			t.Fatal(err)
		}
	}
	before, cpu := writes(), processor(t, s.PID())
	select {
	case <-time.After(long):
	case <-s.Done():
		t.Fatal("the broker ended")
	}
	share := (processor(t, s.PID()) - cpu).Seconds() / long.Seconds()
	mib := resident(t, s.PID())
	t.Logf("%s idle: %.0f MiB resident, %.2f %% of a core", long, mib, 100*share)
	if after := writes(); !maps.Equal(before, after) {
		t.Errorf("writes before %v, after %v", before, after)
	}
	if mib >= mostMiB {
		t.Errorf("%.0f MiB resident, at most %d", mib, mostMiB)
	}
	if share >= mostCore {
		t.Errorf("%.2f %% of a core, at most %.0f %%", 100*share, 100*mostCore)
	}
}

// processor is the time the process has spent on processors.
func processor(t *testing.T, pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	// The name in parentheses may hold spaces; utime and stime are fields 14 and 15.
	fields := strings.Fields(string(b)[strings.LastIndexByte(string(b), ')')+1:])
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * (time.Second / 100)
}

// resident is the process's memory in MiB.
func resident(t *testing.T, pid int) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if kb, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.ParseFloat(strings.Fields(kb)[0], 64)
			if err != nil {
				t.Fatal(err)
			}
			return n / 1024
		}
	}
	t.Fatal("no VmRSS")
	return 0
}
