package inspect

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/blob/blobs3"
	"github.com/looptape/looptape/internal/base/disk"
	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/meta/metaetcd"
)

// Level is how bad a finding is.
type Level string

// The levels. Warn: it works, and costs or will hurt. Fail: data or service is at
// stake.
const (
	OK   Level = "ok"
	Warn Level = "warn"
	Fail Level = "fail"
)

// A Check is one line of a Doctor's report.
type Check struct {
	Name  string `json:"check"`
	Level Level  `json:"level"`
	Found string `json:"found"`
	Do    string `json:"do,omitempty"` // what to do about it
}

// Patient is what Doctor looks at. Parts that are missing are left out.
type Patient struct {
	Source *Source    // nil if the catalog or the store can't be read; then Broken says why
	Broken error      // of the source
	View   blob.Store // the object store; nil if it can't be opened
	Blobs  blob.Store // the same, that can be written to; nil: no probe
	Remote bool       // the object store is no directory
	Meta   meta.Store // nil: a local file
	Dir    string     // of local data; empty: none
	Live   *Live      // of a running server
	Silent error      // why a server that should run does not answer
	Now    func() time.Time

	// Free tells the free bytes of the file system of a directory, and all of
	// them; nil: not known here.
	Free func(dir string) (free, all uint64, err error)
}

// Doctor checks what a store stands on.
func Doctor(ctx context.Context, p Patient) []Check {
	if p.Now == nil {
		p.Now = time.Now
	}
	d := &doctor{p: p}
	d.objects(ctx)
	d.cluster(ctx)
	d.etcd(ctx)
	d.disk()
	d.server()
	return d.checks
}

type doctor struct {
	p      Patient
	checks []Check
}

func (d *doctor) say(name string, l Level, do, format string, args ...any) {
	d.checks = append(d.checks, Check{Name: name, Level: l, Found: fmt.Sprintf(format, args...), Do: do})
}

// Bounds of clocks: retention and deletion of objects stop above the wider one
// (tape.md P18).
const (
	clockWarn = 10 * time.Second
	clockFail = 5 * time.Minute
)

func (d *doctor) objects(ctx context.Context) {
	if d.p.Source == nil && d.p.Broken != nil {
		d.broken(ctx)
	}
	if !d.p.Remote {
		if d.p.Source != nil {
			d.say("object store", OK, "", "a local directory: puts are create-only and synced")
		}
		return
	}
	if d.p.Blobs == nil {
		return
	}
	began := d.p.Now()
	f, err := blob.Probe(ctx, d.p.Blobs, "probe/")
	switch {
	case err != nil:
		d.say("object store", Fail, "check the URL, the credentials and their rights, and the network", "%v", err)
		return
	case !f.Conditional:
		d.say("object store", Warn, "prefer a store that knows If-None-Match: without it every slot of the object log costs a question to the metadata before it is acknowledged",
			"puts are not create-only")
	default:
		d.say("object store", OK, "", "puts are create-only; the probe took %s", d.p.Now().Sub(began).Round(time.Millisecond))
	}
	d.clock(ctx)
	d.rules(ctx)
}

// broken tells a store that was never used from one that is not whole.
func (d *doctor) broken(ctx context.Context) {
	err := d.p.Broken
	if errors.Is(err, ErrEmpty) && d.p.View != nil {
		_, serr := d.p.View.Stat(ctx, "cluster")
		switch {
		case errors.Is(serr, blob.ErrNotFound):
			d.say("store", OK, "", "new: neither metadata nor objects")
			return
		case serr == nil:
			d.say("store", Fail, "check the URLs; if they are right the metadata is lost: bring back a backup of it, or the newest snapshot under meta/",
				"the metadata is empty, and the object store is in use by a cluster")
			return
		}
		err = serr
	}
	d.say("store", Fail, "mend this first; the other checks go as far as they can", "%v", err)
}

func (d *doctor) clock(ctx context.Context) {
	c, ok := blob.As[blob.Clock](d.p.Blobs)
	if !ok {
		return
	}
	before := d.p.Now()
	theirs, err := c.Now(ctx)
	after := d.p.Now()
	if err != nil {
		d.say("clock", Warn, "retention and deletion wait until the store's time can be read", "%v", err)
		return
	}
	// The store's time has no fractions, and was right at some moment in between.
	skew := time.Duration(0)
	if lead := before.Sub(theirs.Add(time.Second)); lead > 0 {
		skew = lead
	}
	if lag := theirs.Sub(after); lag > 0 {
		skew = -lag
	}
	do := "set the clock and keep it set with NTP: retention and deletion stop at five minutes"
	switch abs := max(skew, -skew); {
	case abs > clockFail:
		d.say("clock", Fail, do, "this machine is %s from the object store's time", skew.Round(time.Second))
	case abs > clockWarn:
		d.say("clock", Warn, do, "this machine is %s from the object store's time", skew.Round(time.Second))
	default:
		d.say("clock", OK, "", "agrees with the object store's")
	}
}

func (d *doctor) rules(ctx context.Context) {
	s, ok := blob.As[interface {
		BucketRules(context.Context) (blobs3.BucketRules, error)
	}](d.p.Blobs)
	if !ok {
		return
	}
	r, err := s.BucketRules(ctx)
	switch {
	case err != nil:
		d.say("bucket rules", Warn, "allow s3:GetLifecycleConfiguration and s3:GetBucketVersioning, or make sure that no rule deletes or moves objects of the store", "%v", err)
		return
	case len(r.Deletes) > 0:
		d.say("bucket rules", Fail, "remove the rule: objects go when nobody needs them, and a seal under wal/ must never go",
			"lifecycle rules delete objects of the store: %s", strings.Join(r.Deletes, ", "))
	case len(r.Moves) > 0:
		d.say("bucket rules", Warn, "make sure that the other class answers at once: an archive class makes reads fail",
			"lifecycle rules move objects of the store: %s", strings.Join(r.Moves, ", "))
	default:
		d.say("bucket rules", OK, "", "none touches the store")
	}
	if r.Versioned {
		d.say("bucket versions", Warn, "switch versioning off, or expire noncurrent versions: what is deleted stays and costs", "the bucket keeps old versions")
	}
}

// staleSnapshot is when a snapshot of the metadata is missed; they are hourly.
const staleSnapshot = 3 * time.Hour

func (d *doctor) cluster(ctx context.Context) {
	s := d.p.Source
	if s == nil || s.Catalog == nil {
		return
	}
	id, err := small(ctx, s.Blobs, "cluster", 64)
	switch {
	case errors.Is(err, blob.ErrNotFound):
		d.say("cluster", Fail, "check the URLs: the broker would not find its objects", "the metadata is of cluster %s, the object store of none", s.Cluster)
		return
	case err != nil:
		d.say("cluster", Fail, "", "%v", err)
		return
	case string(id) != s.Cluster:
		d.say("cluster", Fail, "check the URLs: metadata and objects do not belong together, a broker refuses to start on them", "the metadata is of cluster %s, the object store of %.22q", s.Cluster, id)
		return
	}
	d.say("cluster", OK, "", "metadata and objects are of cluster %s", s.Cluster)
	d.epochs(ctx)
	if q := s.Catalog.Quarantined(); len(q) > 0 {
		var names []string
		for p, why := range q {
			names = append(names, fmt.Sprintf("%s (%s)", p, why))
		}
		slices.Sort(names)
		d.say("partitions", Fail, "they are offline until an operator decides: docs/operate.md, Quarantine", "%d in quarantine: %s", len(q), strings.Join(names, ", "))
	}
	d.snapshots(ctx)
}

// epochs compares the marks in the object store with the metadata's epochs (P13).
func (d *doctor) epochs(ctx context.Context) {
	s := d.p.Source
	newest := map[int32]int64{}
	for _, l := range s.logs {
		newest[l.Log.Broker] = max(newest[l.Log.Broker], l.Log.Epoch)
	}
	prefix := "epochs/" + s.Cluster + "/"
	behind := ""
	err := s.keys(ctx, prefix, func(key string) {
		b, e, _ := strings.Cut(strings.TrimPrefix(key, prefix), "/")
		broker, err := strconv.ParseInt(b, 10, 32)
		epoch, err2 := strconv.ParseInt(e, 10, 64)
		if err == nil && err2 == nil && epoch > newest[int32(broker)] {
			behind = fmt.Sprintf("the object store knows epoch %d of broker %d, the metadata %d", epoch, broker, newest[int32(broker)])
		}
	})
	switch {
	case err != nil:
		d.say("epochs", Fail, "", "%v", err)
	case behind != "" && s.From != FromServer:
		d.say("epochs", Fail, "the metadata is an old copy: do not start a broker on it; bring back the newest one or rebuild it from the object store", "%s", behind)
	default:
		d.say("epochs", OK, "", "the metadata is not behind the object store")
	}
}

func (d *doctor) snapshots(ctx context.Context) {
	s := d.p.Source
	var newest time.Time
	n := 0
	err := s.Blobs.List(ctx, "meta/"+s.Cluster+"/", func(i blob.Info) error {
		n++
		if i.Modified.After(newest) {
			newest = i.Modified
		}
		return nil
	})
	age := d.p.Now().Sub(newest).Round(time.Minute)
	switch {
	case err != nil:
		d.say("metadata snapshots", Fail, "", "%v", err)
	case n == 0 && d.p.Live != nil && d.p.Now().Sub(d.p.Live.Since) < staleSnapshot:
		d.say("metadata snapshots", OK, "", "none yet: the server started %s ago", d.p.Now().Sub(d.p.Live.Since).Round(time.Second))
	case n == 0:
		d.say("metadata snapshots", Warn, "a server takes one every hour in which something changed: is one running?", "there is none in the object store")
	case age > staleSnapshot && d.p.Live != nil:
		d.say("metadata snapshots", Warn, "look into the server's log for what fails, unless nothing was written since", "the newest is %s old", age)
	default:
		d.say("metadata snapshots", OK, "", "%d, the newest is %s old", n, age)
	}
}

// Shares of etcd's quota that its file may fill.
const (
	quotaWarn = 0.6
	quotaFail = 0.85
	// manyRevisions without a compaction are no accident.
	manyRevisions = 10_000
)

func (d *doctor) etcd(ctx context.Context) {
	s, ok := d.p.Meta.(interface {
		Health(context.Context) []metaetcd.Health
	})
	if !ok {
		return
	}
	all := s.Health(ctx)
	down := 0
	for _, h := range all {
		if h.Err != nil {
			down++
		}
	}
	for _, h := range all {
		name := "etcd " + h.Endpoint
		used := 0.0
		if h.QuotaBytes > 0 {
			used = float64(h.Bytes) / float64(h.QuotaBytes)
		}
		room := "compact and defragment it, or raise --quota-backend-bytes: a full etcd takes no commit, and producers wait"
		switch {
		case h.Err != nil && 2*down >= len(all):
			d.say(name, Fail, "bring it back: without a majority nothing can be committed", "%v", h.Err)
		case h.Err != nil:
			d.say(name, Warn, "bring it back: one more and nothing can be committed", "%v", h.Err)
		case len(h.Problems) > 0:
			d.say(name, Fail, "see etcdctl alarm list; after NOSPACE: compact, defragment, then etcdctl alarm disarm", "%s", strings.Join(h.Problems, "; "))
		case used > quotaFail:
			d.say(name, Fail, room, "its file fills %.0f %% of its quota of %s", 100*used, Size(h.QuotaBytes))
		case used > quotaWarn:
			d.say(name, Warn, room, "its file fills %.0f %% of its quota of %s", 100*used, Size(h.QuotaBytes))
		case h.QuotaBytes == 0:
			d.say(name, OK, "", "version %s, %s", h.Version, Size(h.Bytes))
		default:
			d.say(name, OK, "", "version %s, %s of a quota of %s", h.Version, Size(h.Bytes), Size(h.QuotaBytes))
		}
	}
	if down < len(all) {
		d.compaction(ctx)
	}
}

// compaction asks for the first change ever: an etcd that still has it never
// forgot anything.
func (d *doctor) compaction(ctx context.Context) {
	const name = "etcd compaction"
	_, rev, err := d.p.Meta.Get(ctx, "/v1/cluster")
	if err != nil {
		d.say(name, Warn, "", "%v", err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	batch, ok := <-d.p.Meta.Watch(ctx, catalogRoot, 0)
	switch {
	case ok && errors.Is(batch.Err, meta.ErrCompacted):
		d.say(name, OK, "", "old revisions are compacted")
	case rev > manyRevisions:
		d.say(name, Warn, "start etcd with --auto-compaction-mode=periodic --auto-compaction-retention=1h: without it its file only grows",
			"none of its %d revisions was ever compacted", rev)
	default:
		d.say(name, OK, "", "not needed yet, after %d revisions", rev)
	}
}

// Free space below which a disk is short, and below which it is all but full:
// bytes, and share of the disk.
const (
	freeWarn, freeWarnShare = 10 << 30, 0.05
	freeFail, freeFailShare = 1 << 30, 0.01
)

func (d *doctor) disk() {
	if d.p.Dir == "" {
		return
	}
	if d.p.Free != nil {
		free, all, err := d.p.Free(d.p.Dir)
		share := float64(free) / float64(max(1, all))
		do := "make room, shorten retention, or move --data: a full disk stops producers"
		switch {
		case err != nil:
			d.say("disk space", Warn, "", "%v", err)
		case free < freeFail || share < freeFailShare:
			d.say("disk space", Fail, do, "%s free of %s under %s", Size(int64(free)), Size(int64(all)), d.p.Dir)
		case free < freeWarn || share < freeWarnShare:
			d.say("disk space", Warn, do, "%s free of %s under %s", Size(int64(free)), Size(int64(all)), d.p.Dir)
		default:
			d.say("disk space", OK, "", "%s free of %s under %s", Size(int64(free)), Size(int64(all)), d.p.Dir)
		}
	}
	// Any file of the log tells; a directory without one has none to speed up.
	segments, _ := filepath.Glob(filepath.Join(d.p.Dir, "wal", "*.wal"))
	if len(segments) == 0 {
		return
	}
	f, err := disk.OS{}.OpenFile(segments[0], disk.Mode{Direct: true})
	if err != nil {
		d.say("direct I/O", Warn, "", "%v", err)
		return
	}
	defer f.Close()
	if f.DirectAlign() == 0 {
		d.say("direct I/O", Warn, "put --data on ext4 or XFS on a local or attached disk: through the page cache every commit costs a copy, and recovery has to trust the cache less",
			"the log's file system refuses it")
		return
	}
	d.say("direct I/O", OK, "", "works, in steps of %d bytes", f.DirectAlign())
}

// lagWarn is how much of the log may wait to be put into objects; producers wait
// at 512 MiB.
const lagWarn = 400 << 20

func (d *doctor) server() {
	if d.p.Silent != nil {
		d.say("server", Warn, "give its address with --api to see its log and its requests", "the data is in use, and no server answers: %v", d.p.Silent)
	}
	l := d.p.Live
	if l == nil {
		return
	}
	switch {
	case l.Flushed.Stalled > 0:
		d.say("log", Fail, "look into the server's log for what the object store or the metadata answers; nothing is lost, but producers wait when the log is full",
			"%d uploads or commits wait after a failure, %s are in the log only", l.Flushed.Stalled, Size(l.WAL.UncommittedBytes))
	case l.WAL.UncommittedBytes > lagWarn:
		d.say("log", Warn, "the object store takes less than producers bring: see its latency", "%s are in the log only", Size(l.WAL.UncommittedBytes))
	default:
		d.say("log", OK, "", "broker %d, epoch %d: %s are in the log only", l.Broker, l.Epoch, Size(l.WAL.UncommittedBytes))
	}
}

// Size writes bytes for people.
func Size(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	f, i := float64(n), 0
	for ; f >= 1024 && i < len(units)-1; i++ {
		f /= 1024
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}
