//go:build e2e

package hostile

import (
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/looptape/looptape/test/rig"
)

// TestMoreConnectionsThanFiles starts a server that may open few files and
// crowds each of its ports in turn. What keeps records needs files too: they
// must not be had by strangers.
func TestMoreConnectionsThanFiles(t *testing.T) {
	raiseFiles(t)
	dir := t.TempDir()
	port := func() string { return fmt.Sprintf("127.0.0.1:%d", rig.Port(t)) }
	kafka, api, otlp, grpc := port(), port(), port(), port()
	const files = 1024
	p := rig.Start(t, dir, "sh", "-c", fmt.Sprintf("ulimit -n %d && exec %q serve --data %q --kafka %s --http %s --otlp-http %s --otlp-grpc %s",
		files, rig.Binary(t), filepath.Join(dir, "data"), kafka, api, otlp, grpc))
	w := &world{s: &rig.Server{Process: p, Dir: dir, Kafka: kafka, API: "http://" + api, OTLP: "http://" + otlp, OTLPGRPC: grpc}, pid: p.PID()}
	ready := func() error {
		select {
		case <-p.Done():
			return fmt.Errorf("the server ended:\n%s", p.Output())
		default:
		}
		client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
		res, err := client.Get(w.s.API + "/readyz")
		if err != nil {
			return err
		}
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("readyz: %d", res.StatusCode)
		}
		return nil
	}
	rig.Until(t, 60*time.Second, ready)
	w.kafka, w.otlp = startKafkaLoad(t, w.s), startOTLPLoad(t, w.s)
	// Those who are connected stay so; a full port has no room for new ones. So
	// the clients, and the loop, must have the connections they need.
	rig.Until(t, 30*time.Second, func() error {
		for p := range w.kafka.got {
			if n := w.kafka.got[p].Load(); n < 30 {
				return fmt.Errorf("%d records of partition %d read", n, p)
			}
		}
		if n := w.otlp.sent.Load(); n < 30 {
			return fmt.Errorf("%d spans exported", n)
		}
		return nil
	})
	for _, addr := range []string{kafka, otlp, grpc, api} {
		t.Run("crowd on "+map[string]string{kafka: "Kafka", otlp: "OTLP", grpc: "gRPC", api: "the API"}[addr], func(t *testing.T) {
			conns := crowdOf(addr, 2*files)
			if len(conns) == 0 {
				t.Fatal("nobody came in")
			}
			time.Sleep(2 * time.Second) // the crowd stays while records are kept
			w.kafka.unhurt(t)
			w.otlp.unhurt(t)
			hangUp(conns)
			rig.Until(t, 20*time.Second, ready)
		})
	}
	w.otlp.stop()
	w.kafka.stop()
	w.kafka.verify(t)
	w.otlp.verify(t, w)
	if err := w.s.Stop(30 * time.Second); err != nil {
		t.Errorf("stop: %v", err)
	}
	if strings.Contains(p.Output(), "too many open files") {
		t.Errorf("the server ran out of files:\n%s", p.Output())
	}
}

// crowdOf opens as many connections as come in.
func crowdOf(addr string, n int) (conns []net.Conn) {
	for range n {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			break
		}
		conns = append(conns, c)
	}
	return conns
}
