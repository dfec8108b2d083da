package inspect

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/disk"
	"github.com/looptape/looptape/internal/base/run"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/object"
	"github.com/looptape/looptape/internal/broker/store/wal"
	"github.com/looptape/looptape/internal/broker/store/wal/slots"
)

// Damage is one thing that is not as it was written. It is in an object, at an
// offset in bytes, or between objects of a partition, at an offset of records.
type Damage struct {
	Key       string `json:"key,omitempty"`
	Partition string `json:"partition,omitempty"` // topic/number
	Offset    int64  `json:"offset"`
	Problem   string `json:"problem"`
}

func (d Damage) String() string {
	if d.Key == "" {
		return fmt.Sprintf("partition %s, offset %d: %s", d.Partition, d.Offset, d.Problem)
	}
	return fmt.Sprintf("%s, byte %d: %s", d.Key, d.Offset, d.Problem)
}

// Report is what Verify found.
type Report struct {
	Cluster    string   `json:"cluster"`
	From       string   `json:"catalog_from"`
	Objects    int      `json:"objects"`
	Bytes      int64    `json:"bytes"`
	Blocks     int64    `json:"blocks"`
	Batches    int64    `json:"batches"`
	Records    int64    `json:"records"`
	Snapshots  int      `json:"snapshots"`
	Slots      int      `json:"wal_slots"`
	Partitions int      `json:"partitions"`             // whose offsets were followed from object to object
	Gone       int      `json:"gone"`                   // objects that were replaced and deleted meanwhile
	LogRecords int64    `json:"log_records,omitempty"`  // in files of the log
	LogUnread  string   `json:"log_not_read,omitempty"` // why those were not read
	Damages    []Damage `json:"damages"`
}

// VerifyConfig tunes Verify. The zero value is the default.
type VerifyConfig struct {
	Parallel int                     // objects read at the same time; default 4
	Window   int                     // bytes read at a time; default 8 MiB
	Progress func(done, total int64) // bytes of objects; called by many goroutines, one at a time
	Files    disk.FS                 // with LogDir, that of a log in files; nil: none
	LogDir   string
}

func (c VerifyConfig) withDefaults() VerifyConfig {
	if c.Parallel <= 0 {
		c.Parallel = 4
	}
	if c.Window <= 0 {
		c.Window = 8 << 20
	}
	if c.Progress == nil {
		c.Progress = func(int64, int64) {}
	}
	return c
}

// span is a stretch of a partition that an object holds.
type span struct{ base, end int64 }

// verifier is one run of Verify.
type verifier struct {
	*Source
	cfg    VerifyConfig
	report Report
	total  int64

	mu     sync.Mutex // guards report and what follows
	done   int64
	spans  map[catalog.Partition][]span // of objects that were read, without a catalog
	starts map[catalog.Partition]int64  // the highest log start seen
	names  map[catalog.TopicID]string
}

// Verify reads every object that belongs to the store, every byte of it: footer,
// index, tails, blocks and each batch in them are compared with their checksums and
// with each other, and objects with the catalog. Then it follows each partition's
// offsets from object to object, and reads the log of a server that is stopped. The error is that of a store that can't be read.
func (s *Source) Verify(ctx context.Context, cfg VerifyConfig) (*Report, error) {
	v := &verifier{
		Source: s, cfg: cfg.withDefaults(),
		report: Report{Cluster: s.Cluster, From: s.From, Damages: []Damage{}},
		spans:  map[catalog.Partition][]span{}, starts: map[catalog.Partition]int64{}, names: map[catalog.TopicID]string{},
	}
	todo, err := v.list(ctx)
	if err != nil {
		return nil, err
	}
	if err := v.all(ctx, todo); err != nil {
		return nil, err
	}
	if s.Catalog != nil {
		v.followCatalog()
	} else if err := v.followObjects(ctx); err != nil {
		return nil, err
	}
	if cfg.Files != nil {
		if err := v.logFiles(ctx); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(v.report.Damages, func(a, b Damage) int {
		if (a.Key == "") != (b.Key == "") {
			return strings.Compare(b.Key, a.Key) // what is in objects first
		}
		return cmp.Or(strings.Compare(a.Key, b.Key), strings.Compare(a.Partition, b.Partition), cmp.Compare(a.Offset, b.Offset), strings.Compare(a.Problem, b.Problem))
	})
	return &v.report, nil
}

// A task is one object to read.
type task struct {
	key  string
	size int64           // as listed
	want *catalog.Object // what the catalog says; nil: nothing
	span *catalog.Range  // of an object of one partition
}

// list finds what is to be read: with a catalog, what it names; without one, all
// data objects. And the snapshots of the metadata, and the slots of logs.
func (v *verifier) list(ctx context.Context) ([]task, error) {
	var todo []task
	sizes := map[string]int64{}
	data := object.Prefix(v.Cluster)
	for _, prefix := range []string{data, "meta/" + v.Cluster + "/", "wal/" + v.Cluster + "/"} {
		err := v.Blobs.List(ctx, prefix, func(i blob.Info) error {
			sizes[i.Key] = i.Size
			if v.Catalog == nil || prefix != data {
				todo = append(todo, task{key: i.Key, size: i.Size})
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if v.Catalog != nil {
		for _, o := range v.Catalog.Visible() {
			t := task{key: object.Key(v.Cluster, o.Object.Name), want: o.Object}
			size, ok := sizes[t.key]
			if !ok {
				size = -1
			}
			t.size = size
			if o.Single && len(o.Ranges) == 1 {
				t.span = &o.Ranges[0]
			}
			todo = append(todo, t)
		}
	}
	for _, t := range todo {
		v.total += max(0, t.size)
	}
	return todo, nil
}

func (v *verifier) all(ctx context.Context, todo []task) error {
	next := make(chan task, len(todo))
	for _, t := range todo {
		next <- t
	}
	close(next)
	g := run.New(ctx)
	for range min(v.cfg.Parallel, len(todo)) {
		g.Go("verify", func(ctx context.Context) error {
			for t := range next {
				if err := v.one(ctx, t); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// one reads one object. What is wrong with it goes to the report.
func (v *verifier) one(ctx context.Context, t task) error {
	var err error
	switch kind, _, _ := strings.Cut(t.key, "/"); kind {
	case "meta":
		err = v.snapshot(ctx, t)
	case "wal":
		err = v.slot(ctx, t)
	default:
		err = v.object(ctx, t)
	}
	var d *Damage
	switch {
	case err == nil:
		return nil
	case errors.As(err, &d):
		v.damage(*d)
		return nil
	case errors.Is(err, blob.ErrNotFound):
		return v.missing(ctx, t)
	}
	return fmt.Errorf("%s: %w", t.key, err)
}

// missing is told of an object that is not there. One that the catalog no longer
// names was replaced while we looked.
func (v *verifier) missing(ctx context.Context, t task) error {
	gone := t.want == nil
	if !gone {
		entries, err := v.reload(ctx)
		if err != nil {
			return fmt.Errorf("read the catalog anew: %w", err)
		}
		now, err := catalog.Open(ctx, newFrozen(entries), catalog.Config{Ranges: func(context.Context, string, *catalog.Object) ([]catalog.Range, error) { return nil, nil }})
		if err != nil {
			return fmt.Errorf("read the catalog anew: %w", err)
		}
		_, visible := now.Lookup(t.want.Name)
		gone = !visible
	}
	if !gone {
		v.damage(Damage{Key: t.key, Problem: "the catalog names the object, the object store does not have it"})
		return nil
	}
	v.mu.Lock()
	v.report.Gone++
	v.mu.Unlock()
	return nil
}

func (d *Damage) Error() string { return d.String() }

func (v *verifier) damage(d Damage) {
	v.mu.Lock()
	defer v.mu.Unlock()
	d.Problem = strings.TrimPrefix(d.Problem, object.ErrCorrupt.Error()+": ")
	v.report.Damages = append(v.report.Damages, d)
}

// read counts as progress.
func (v *verifier) read(ctx context.Context, key string, off int64, b []byte) error {
	_, err := v.Blobs.GetRange(ctx, key, off, b)
	if errors.Is(err, blob.ErrRange) {
		return &Damage{Key: key, Offset: off, Problem: fmt.Sprintf("the object ends before byte %d", off+int64(len(b)))}
	}
	v.mu.Lock()
	v.done += int64(len(b))
	v.cfg.Progress(min(v.done, v.total), v.total)
	v.mu.Unlock()
	return err
}

// Bounds of what is read at once of a snapshot and of a slot.
const (
	maxSnapshotBytes = 1 << 30
	maxSlotBytes     = 256 << 20
)

// whole reads an object at once.
func (v *verifier) whole(ctx context.Context, t task, most int64) ([]byte, error) {
	if t.size > most {
		return nil, &Damage{Key: t.key, Problem: fmt.Sprintf("%d bytes, at most %d are possible", t.size, most)}
	}
	b := make([]byte, t.size)
	return b, v.read(ctx, t.key, 0, b)
}

func (v *verifier) snapshot(ctx context.Context, t task) error {
	b, err := v.whole(ctx, t, maxSnapshotBytes)
	if err != nil {
		return err
	}
	s, err := catalog.DecodeSnapshot(b)
	if err == nil && s.Cluster != v.Cluster {
		err = fmt.Errorf("a snapshot of cluster %s", s.Cluster)
	}
	if err != nil {
		return &Damage{Key: t.key, Problem: err.Error()}
	}
	v.mu.Lock()
	v.report.Snapshots++
	v.mu.Unlock()
	return nil
}

func (v *verifier) slot(ctx context.Context, t task) error {
	b, err := v.whole(ctx, t, maxSlotBytes)
	if err != nil {
		return err
	}
	var bad *wal.CorruptError
	if _, err := slots.Check("wal/"+v.Cluster, t.key, b); errors.As(err, &bad) {
		return &Damage{Key: t.key, Offset: bad.Offset, Problem: fmt.Sprintf("%s: want %s, got %s", bad.What, bad.Want, bad.Got)}
	} else if err != nil {
		return err
	}
	v.mu.Lock()
	v.report.Slots++
	v.mu.Unlock()
	return nil
}
