package broker

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/broker/partition"
)

// What is left of dead logs goes: slots whose deletion a crash came before, and those
// of puts that arrive after everything. Seals and living logs stay, and nobody but
// the controller acts.
func TestSweepLogs(t *testing.T) {
	w := newClusterWorld()
	w.cfg.DrainTimeout = 5 * time.Second
	a := w.mustJoin(t, 1)
	topic := a.create(t, "events", 1, nil)
	if r := appendTo(a.partition(t, topic, 0), partition.Append{Batches: plain("one")}); r.Err != nil {
		t.Fatal(r.Err)
	}
	cluster, dead := a.e.catalog.ClusterID(), a.e.writer.Epoch()
	a.crash(t)
	a = w.mustJoin(t, 1)
	b := w.mustJoin(t, 2)
	part := a.serves(t, topic)[0]
	if r := appendTo(part, partition.Append{Batches: plain("two")}); r.Err != nil {
		t.Fatal(r.Err)
	}
	until(t, "the old log is in objects", func() bool {
		logs, err := a.e.catalog.Logs(t.Context())
		for _, l := range logs {
			if l.Log.Epoch == dead && l.Log.Broker == 1 {
				return err == nil && l.Done
			}
		}
		return false
	})
	key := func(seq int) string { return fmt.Sprintf("wal/%s/1/%d/%020d", cluster, dead, seq) }
	late := []string{key(50), key(51)}
	for _, k := range late {
		if err := w.blobs.Put(t.Context(), k, strings.NewReader(strings.Repeat("x", 500)), 500); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []*process{a, b} {
		if !p.e.controls() {
			if err := p.e.SweepLogs(t.Context()); err != nil || len(slotsUnder(t, w, key(50))) != 1 {
				t.Fatalf("not the controller, and it sweeps: %v", err)
			}
		}
	}
	until(t, "somebody is the controller", func() bool { return a.e.controls() || b.e.controls() })
	for _, p := range []*process{a, b} {
		if err := p.e.SweepLogs(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	left := slotsUnder(t, w, fmt.Sprintf("wal/%s/1/%d/", cluster, dead))
	if len(left) != 1 || left[0].Size != 108 {
		t.Errorf("left of the dead log: %v", left)
	}
	if living := slotsUnder(t, w, fmt.Sprintf("wal/%s/1/%d/", cluster, a.e.writer.Epoch())); len(living) == 0 {
		t.Error("a living log lost its slots")
	}
	a.stop(t)
	b.stop(t)
}

func slotsUnder(t *testing.T, w *world, prefix string) (all []blob.Info) {
	t.Helper()
	if err := w.blobs.List(t.Context(), prefix, func(i blob.Info) error { all = append(all, i); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

// until waits for what other goroutines do.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}
