package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/base/meta/metamem"
	"github.com/looptape/looptape/internal/broker/partition"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/write"
)

// restored is a new metadata store with the snapshot in it.
func restored(t *testing.T, s catalog.Snapshot) *metamem.Store {
	t.Helper()
	m := metamem.New()
	if err := catalog.Restore(t.Context(), m, s); err != nil {
		t.Fatal(err)
	}
	return m
}

// Metadata lost with everything in objects comes back from the newest snapshot;
// from an older one it is refused, before anything is written or swept, with a
// word on what to do.
func TestRestoreFromSnapshot(t *testing.T) {
	ctx := context.Background()
	w := newWorld()
	var saved []catalog.Snapshot
	p := w.mustStart(t)
	topic := p.create(t, "events", 1, nil)
	part := p.partition(t, topic, 0)
	saver := write.NewSnapshotter(p.e.catalog, w.blobs, write.SnapshotConfig{}, p.e.log)
	for i := range 2 {
		fill(t, part, numbered(10*i+10), int64(10*i))
		p.flush(t)
		if taken, err := saver.Round(ctx); !taken || err != nil {
			t.Fatal(taken, err)
		}
		s, err := write.NewestSnapshot(ctx, w.blobs, p.e.catalog.ClusterID())
		if err != nil {
			t.Fatal(err)
		}
		saved = append(saved, s)
	}
	p.stop(t)
	keys := w.blobs.Keys()
	for name, m := range map[string]*metamem.Store{"older": restored(t, saved[0]), "none": metamem.New()} {
		w.meta = m
		_, err := w.start(0, false)
		if !errors.Is(err, ErrBehind) {
			t.Errorf("%s: %v", name, err)
		}
		if name == "older" && !strings.Contains(fmt.Sprint(err), "restore a newer copy") {
			t.Errorf("%s: no word on what to do: %v", name, err)
		}
		if d := cmp.Diff(keys, w.blobs.Keys()); d != "" {
			t.Errorf("%s: the object store changed:\n%s", name, d)
		}
	}
	w.meta = restored(t, saved[1])
	p = w.mustStart(t)
	part = p.partition(t, topic, 0)
	if d := cmp.Diff(numbered(20), values(t, part, 0, partition.Read{MaxBytes: 1 << 20})); d != "" {
		t.Error(d)
	}
	fill(t, part, numbered(30), 20)
	p.stop(t)
	// And again, from before the last life.
	w.meta = restored(t, saved[1])
	if _, err := w.start(0, false); !errors.Is(err, ErrBehind) {
		t.Errorf("before the last life: %v", err)
	}
}

// That another broker has come further tells, too.
func TestOtherBrokersEpochsTell(t *testing.T) {
	ctx := context.Background()
	w := newWorld()
	p := w.mustStart(t)
	cluster := p.e.catalog.ClusterID()
	p.stop(t)
	for epoch, want := range map[int64]error{0: nil, 3: ErrBehind} {
		if epoch > 0 {
			if err := w.blobs.Put(ctx, fmt.Sprintf("epochs/%s/7/%020d", cluster, epoch), strings.NewReader("x"), 1); err != nil {
				t.Fatal(err)
			}
		}
		p, err := w.start(0, false)
		if !errors.Is(err, want) {
			t.Errorf("epoch %d: %v", epoch, err)
		}
		if err == nil {
			p.stop(t)
		}
		if epoch > 0 {
			if err := w.blobs.Delete(ctx, fmt.Sprintf("epochs/%s/7/%020d", cluster, epoch)); err != nil {
				t.Fatal(err)
			}
		}
	}
}
