package inspect

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/blob/blobmem"
	"github.com/looptape/looptape/internal/base/blob/blobs3"
	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/meta/metaetcd"
)

// bucket is an object store as the doctor may find it.
type bucket struct {
	blob.Store
	time  time.Time
	rules blobs3.BucketRules
	err   error // of reading rules and time
	weak  bool
}

func (b *bucket) Now(context.Context) (time.Time, error) { return b.time, b.err }
func (b *bucket) BucketRules(context.Context) (blobs3.BucketRules, error) {
	return b.rules, b.err
}
func (b *bucket) Conditional() bool   { return !b.weak }
func (b *bucket) SetConditional(bool) {}

// etcd is one as the doctor may find it.
type etcd struct {
	meta.Store
	health    []metaetcd.Health
	rev       int64
	compacted bool
}

func (e *etcd) Health(context.Context) []metaetcd.Health { return e.health }
func (e *etcd) Get(context.Context, ...string) (map[string]meta.KV, int64, error) {
	return nil, e.rev, nil
}
func (e *etcd) Watch(context.Context, string, int64) <-chan meta.Batch {
	c := make(chan meta.Batch, 1)
	if e.compacted {
		c <- meta.Batch{Err: meta.ErrCompacted}
	} else {
		c <- meta.Batch{Rev: 1}
	}
	return c
}

func TestDoctor(t *testing.T) {
	now := time.Unix(1e9, 0).Add(300 * time.Millisecond)
	good := metaetcd.Health{Endpoint: "a:1", Version: "3.7.3", Bytes: 1 << 20, QuotaBytes: 1 << 30}
	full := good
	full.Bytes = 1<<30 - 1<<20
	filling := good
	filling.Bytes = 700 << 20
	alarm := good
	alarm.Problems = []string{"NOSPACE"}
	away := metaetcd.Health{Endpoint: "b:1", Err: errors.New("gone")}
	free := func(free, all uint64) func(string) (uint64, uint64, error) {
		return func(string) (uint64, uint64, error) { return free, all, nil }
	}
	healthy := func() *bucket { return &bucket{Store: blobmem.New(), time: time.Unix(1e9, 0)} }
	at := func(d time.Duration) *bucket {
		b := healthy()
		b.time = b.time.Add(d)
		return b
	}
	with := func(r blobs3.BucketRules) *bucket {
		b := healthy()
		b.rules = r
		return b
	}
	down := healthy()
	mem := blobmem.New()
	mem.SetFault(func(blobmem.Call) blobmem.Fault { return blobmem.Fault{Before: blob.ErrRefused} })
	down.Store = mem
	weak := healthy()
	weak.weak = true
	used := blobmem.New()
	if err := used.Put(t.Context(), "cluster", strings.NewReader("x"), 1); err != nil {
		t.Fatal(err)
	}
	mute := healthy()
	mute.err = errors.New("denied")
	for name, c := range map[string]struct {
		p    Patient
		want []string // "level check" in order
	}{
		"bucket":          {Patient{Remote: true, Blobs: healthy()}, []string{"ok object store", "ok clock", "ok bucket rules"}},
		"refused":         {Patient{Remote: true, Blobs: down}, []string{"fail object store"}},
		"not conditional": {Patient{Remote: true, Blobs: weak}, []string{"warn object store", "ok clock", "ok bucket rules"}},
		"mute":            {Patient{Remote: true, Blobs: mute}, []string{"ok object store", "warn clock", "warn bucket rules"}},
		"clock a minute":  {Patient{Remote: true, Blobs: at(time.Minute)}, []string{"ok object store", "warn clock", "ok bucket rules"}},
		"clock ahead":     {Patient{Remote: true, Blobs: at(-time.Hour)}, []string{"ok object store", "fail clock", "ok bucket rules"}},
		"clock behind":    {Patient{Remote: true, Blobs: at(time.Hour)}, []string{"ok object store", "fail clock", "ok bucket rules"}},
		"lifecycle":       {Patient{Remote: true, Blobs: with(blobs3.BucketRules{Deletes: []string{"x"}})}, []string{"ok object store", "ok clock", "fail bucket rules"}},
		"archive and versions": {Patient{Remote: true, Blobs: with(blobs3.BucketRules{Moves: []string{"x"}, Versioned: true})},
			[]string{"ok object store", "ok clock", "warn bucket rules", "warn bucket versions"}},
		"etcd":         {Patient{Meta: &etcd{health: []metaetcd.Health{good}, rev: 5}}, []string{"ok etcd a:1", "ok etcd compaction"}},
		"etcd full":    {Patient{Meta: &etcd{health: []metaetcd.Health{full, filling}, compacted: true}}, []string{"fail etcd a:1", "warn etcd a:1", "ok etcd compaction"}},
		"etcd alarm":   {Patient{Meta: &etcd{health: []metaetcd.Health{alarm}, rev: 1e6}}, []string{"fail etcd a:1", "warn etcd compaction"}},
		"etcd partly":  {Patient{Meta: &etcd{health: []metaetcd.Health{good, good, away}}}, []string{"ok etcd a:1", "ok etcd a:1", "warn etcd b:1", "ok etcd compaction"}},
		"etcd away":    {Patient{Meta: &etcd{health: []metaetcd.Health{away}}}, []string{"fail etcd b:1"}},
		"disk":         {Patient{Dir: t.TempDir(), Free: free(100<<30, 200<<30)}, []string{"ok disk space"}},
		"disk short":   {Patient{Dir: t.TempDir(), Free: free(5<<30, 20<<30)}, []string{"warn disk space"}},
		"disk full":    {Patient{Dir: t.TempDir(), Free: free(1<<20, 20<<30)}, []string{"fail disk space"}},
		"server":       {Patient{Live: &Live{}}, []string{"ok log"}},
		"server lags":  {Patient{Live: &Live{WAL: LiveLog{UncommittedBytes: 500 << 20}}}, []string{"warn log"}},
		"server stuck": {Patient{Live: &Live{Flushed: LiveFlush{Stalled: 1}}}, []string{"fail log"}},
		"silent":       {Patient{Silent: errors.New("refused")}, []string{"warn server"}},
		"new":          {Patient{Broken: ErrEmpty, View: blobmem.New()}, []string{"ok store"}},
		"lost":         {Patient{Broken: ErrEmpty, View: used}, []string{"fail store"}},
		"both broken":  {Patient{Broken: ErrEmpty, View: down.Store}, []string{"fail store"}},
		"broken":       {Patient{Broken: errors.New("no such file")}, []string{"fail store"}},
	} {
		t.Run(name, func(t *testing.T) {
			c.p.Now = func() time.Time { return now }
			var got []string
			for _, k := range Doctor(t.Context(), c.p) {
				got = append(got, fmt.Sprint(k.Level, " ", k.Name))
				if k.Found == "" || k.Level == Fail && k.Do == "" {
					t.Errorf("%+v says too little", k)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDoctorOfCluster(t *testing.T) {
	level := func(w *world, name string) (Level, string) {
		w.Helper()
		for _, k := range Doctor(t.Context(), Patient{Source: w.source()}) {
			if k.Name == name {
				return k.Level, k.Found
			}
		}
		return "", ""
	}
	w := newWorld(t)
	for _, name := range []string{"cluster", "epochs"} {
		if l, found := level(w, name); l != OK {
			t.Errorf("%s: %s %s", name, l, found)
		}
	}
	if l, found := level(w, "metadata snapshots"); l != Warn {
		t.Errorf("no snapshot: %s %s", l, found)
	}
	w.put("meta/"+w.catalog.ClusterID()+"/1", []byte("x"))
	if l, found := level(w, "metadata snapshots"); l != OK {
		t.Errorf("a snapshot: %s %s", l, found)
	}
	w.put(fmt.Sprintf("epochs/%s/1/%020d", w.catalog.ClusterID(), 2), make([]byte, 16))
	if l, found := level(w, "epochs"); l != Fail || !strings.Contains(found, "epoch 2 of broker 1") {
		t.Errorf("metadata of the past: %s %s", l, found)
	}
	w.replace("cluster", []byte("another---------------"))
	if l, found := level(w, "cluster"); l != Fail {
		t.Errorf("another cluster: %s %s", l, found)
	}
	w.check(w.blobs.Delete(t.Context(), "cluster"))
	if l, found := level(w, "cluster"); l != Fail {
		t.Errorf("no cluster: %s %s", l, found)
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 3 << 29: "1.5 GiB", 1 << 62: "4096.0 PiB"} {
		if got := Size(n); got != want {
			t.Errorf("%d is %s, want %s", n, got, want)
		}
	}
}
