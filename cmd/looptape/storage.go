package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/base/blob/bloburl"
	"github.com/looptape/looptape/internal/base/disk"
	"github.com/looptape/looptape/internal/base/meta"
	"github.com/looptape/looptape/internal/base/meta/metalocal"
	"github.com/looptape/looptape/internal/base/meta/metaurl"
	"github.com/looptape/looptape/internal/broker/store/catalog"
	"github.com/looptape/looptape/internal/broker/store/inspect"
)

type storageCmd struct {
	Stats   storageStatsCmd   `cmd:"" help:"Bytes and objects by what they are for, requests and their price, the log's lag, the cache."`
	Objects storageObjectsCmd `cmd:"" help:"List the objects of the store."`
	Verify  storageVerifyCmd  `cmd:"" help:"Read every object and check every checksum, and that no offset is missing."`
	Doctor  storageDoctorCmd  `cmd:"" help:"Check what the store stands on: object store, clock, bucket rules, etcd, disk."`
}

func (storageCmd) Help() string {
	return `All of it only looks, and works beside a running server. (doctor puts a few small objects into a bucket and deletes them again.)

Examples:
  looptape storage stats                                        of ./looptape-data
  looptape storage objects --class orphan
  looptape storage verify --data /var/lib/looptape && echo whole
  looptape storage verify --blob s3://bucket/tape --meta etcd://etcd-0:2379/looptape
  looptape storage verify --blob s3://bucket/tape               without metadata: by what objects say of themselves
  looptape storage doctor --json | jq '.[] | select(.level != "ok")'`
}

// storageFlags say where the store is.
type storageFlags struct {
	apiFlags
	Data string `help:"Data directory of a server." default:"./looptape-data" env:"LOOPTAPE_DATA" type:"path" placeholder:"DIR"`
	Blob string `help:"URL of the object store; by default the one under --data." env:"LOOPTAPE_BLOB" placeholder:"URL"`
	Meta string `help:"URL of the metadata, as etcd://host:port/prefix; by default the file under --data." env:"LOOPTAPE_META" placeholder:"URL"`
	JSON bool   `name:"json" help:"As JSON."`
}

// storage is an opened store.
type storage struct {
	flags  storageFlags
	dir    string // of the local tape; empty: none
	blobs  blob.Store
	meta   meta.Store // etcd
	source *inspect.Source
	live   *inspect.Live // of the server that runs on it
	silent error         // why that server, or none at all, answered
	inUse  bool          // a process has the metadata open
}

func (st *storage) close() {
	if st.meta != nil {
		st.meta.Close()
	}
}

// open finds the store's parts. The source is missing when that fails.
func (f storageFlags) open(ctx context.Context) (*storage, error) {
	st := &storage{flags: f}
	err := st.open(ctx)
	return st, err
}

func (st *storage) open(ctx context.Context) error {
	f := st.flags
	file := ""
	switch {
	case f.Meta == "" && (f.Blob == "" || exists(filepath.Join(f.Data, "tape", "meta.db"))):
		st.dir = filepath.Join(f.Data, "tape")
		file = filepath.Join(st.dir, "meta.db")
	case f.Meta != "" && !metaurl.Remote(f.Meta):
		file = strings.TrimPrefix(f.Meta, "file://")
	}
	if file != "" && !exists(file) {
		return fmt.Errorf("%s does not exist: give the --data directory of a server, or --blob and --meta", file)
	}
	url := f.Blob
	if url == "" {
		if st.dir == "" {
			return errors.New("--meta without --blob: where are the objects?")
		}
		url = filepath.Join(st.dir, "objects")
	}
	var err error
	if st.blobs, err = bloburl.View(ctx, url); err != nil {
		return err
	}
	switch {
	case file != "":
		return st.openFile(ctx, file)
	case f.Meta != "":
		if st.meta, err = metaurl.Open(ctx, f.Meta); err != nil {
			return err
		}
		st.source, err = inspect.Open(ctx, st.blobs, inspect.FromMetadata, func(ctx context.Context) ([]catalog.Entry, error) {
			return inspect.Scan(ctx, st.meta)
		})
		if err == nil {
			st.ask(ctx, st.source.Cluster)
		}
		return err
	}
	st.source, err = inspect.OpenObjects(ctx, st.blobs)
	return err
}

// openFile reads a metadata file, or asks the server that has it open, or does
// without.
func (st *storage) openFile(ctx context.Context, file string) error {
	var err error
	st.source, err = inspect.Open(ctx, st.blobs, inspect.FromMetadata, func(context.Context) ([]catalog.Entry, error) {
		all, _, err := metalocal.Read(file)
		return inspect.Entries(all), err
	})
	if !errors.Is(err, disk.ErrLocked) {
		return err
	}
	st.inUse = true
	if st.source, err = inspect.OpenObjects(ctx, st.blobs); err != nil {
		return err
	}
	if st.ask(ctx, st.source.Cluster); st.live == nil {
		return nil
	}
	st.source, err = inspect.Open(ctx, st.blobs, inspect.FromServer, st.serverCatalog)
	return err
}

// logFiles counts the segments of a log on this machine.
func (st *storage) logFiles() (n int, bytes int64) {
	if st.dir == "" {
		return 0, 0
	}
	all, _ := disk.OS{}.ReadDir(filepath.Join(st.dir, "wal")) // none: a log in objects
	for _, e := range all {
		if filepath.Ext(e.Name) == ".wal" {
			n, bytes = n+1, bytes+e.Size
		}
	}
	return n, bytes
}

// ask asks the server for what only it knows. One that has another store than this
// one is none.
func (st *storage) ask(ctx context.Context, cluster string) {
	var live inspect.Live
	b, err := st.flags.call(ctx, "GET", "/v1/storage", nil)
	if err == nil {
		err = json.Unmarshal(b, &live)
	}
	if err == nil && live.Cluster != cluster {
		err = fmt.Errorf("the server at %s has another store", st.flags.API)
	}
	if st.silent = err; err == nil {
		st.live = &live
	}
}

func (st *storage) serverCatalog(ctx context.Context) ([]catalog.Entry, error) {
	b, err := st.flags.call(ctx, "GET", "/v1/storage/catalog", nil)
	if err != nil {
		return nil, err
	}
	s, err := catalog.DecodeSnapshot(b)
	return s.Entries, err
}

func exists(name string) bool {
	_, err := disk.OS{}.Stat(name)
	return !errors.Is(err, fs.ErrNotExist)
}

// origin says where the catalog is from, when that is not as it should be.
func (st *storage) origin() string {
	if st.source.From != inspect.FromObjects {
		return ""
	}
	if st.inUse {
		return fmt.Sprintf("The metadata is in use by a server that did not answer (%v): this goes by what objects say of themselves, and can't tell data from garbage and orphans.", st.silent)
	}
	return "No metadata was given: this goes by what objects say of themselves, and can't tell data from garbage and orphans."
}

// writeJSON prints a value.
func writeJSON(s *streams, v any) error {
	e := json.NewEncoder(s.out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

type storageStatsCmd struct {
	storageFlags
	PutPrice   float64 `help:"US dollars for a million puts and lists." default:"5" placeholder:"USD"`
	GetPrice   float64 `help:"US dollars for a million reads." default:"0.4" placeholder:"USD"`
	StorePrice float64 `help:"US dollars for a gigabyte a month." default:"0.023" placeholder:"USD"`
}

func (c *storageStatsCmd) Run(ctx context.Context, s *streams) error {
	st, err := c.open(ctx)
	defer st.close()
	if err != nil {
		return err
	}
	prices := inspect.Prices{PerMillionPuts: c.PutPrice, PerMillionGets: c.GetPrice, PerGBMonth: c.StorePrice}
	stats, err := st.source.Stats(ctx, time.Now(), prices, st.live)
	if err != nil {
		return err
	}
	stats.LogFiles, stats.LogFileBytes = st.logFiles()
	if c.JSON {
		return writeJSON(s, stats)
	}
	return printStats(s, stats, prices, st.origin())
}

func printStats(s *streams, stats *inspect.Stats, prices inspect.Prices, origin string) error {
	fmt.Fprintf(s.out, "cluster %s", stats.Cluster)
	if stats.From != inspect.FromObjects {
		fmt.Fprintf(s.out, ", %d topics with %d partitions (catalog from the %s)", stats.Topics, stats.Partitions, stats.From)
	}
	fmt.Fprint(s.out, "\n\n")
	if origin != "" {
		fmt.Fprintf(s.out, "%s\n\n", origin)
	}
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "CLASS\tOBJECTS\tBYTES\tSMALLEST\tMEDIAN\tLARGEST\tUSD/MONTH\t")
	for _, k := range append(stats.Classes, stats.Total) {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%.2f\t\n", k.Class, k.Objects, inspect.Size(k.Bytes),
			inspect.Size(k.Smallest), inspect.Size(k.Median), inspect.Size(k.Largest), k.USDMonth)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(stats.Logs) > 0 || stats.LogFiles > 0 {
		fmt.Fprintln(s.out)
	}
	for _, l := range stats.Logs {
		fmt.Fprintf(s.out, "log of broker %d, epoch %d: %s, %s, in objects up to record %d\n", l.Broker, l.Epoch, l.Kind, l.State, l.Committed)
	}
	if stats.LogFiles > 0 {
		fmt.Fprintf(s.out, "log files: %d segments, %s, spare ones included\n", stats.LogFiles, inspect.Size(stats.LogFileBytes))
	}
	l := stats.Live
	if l == nil {
		return nil
	}
	fmt.Fprintf(s.out, "\nsince %s, as broker %d, epoch %d:\n", l.Since.Format(time.DateTime+" MST"), l.Broker, l.Epoch)
	w = tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "  requests\t%d puts, %d reads, %d stats, %d lists, %d deletes; %d failed\n", l.Calls.Puts, l.Calls.Gets, l.Calls.Stats, l.Calls.Lists, l.Calls.Deletes, l.Calls.Failures)
	fmt.Fprintf(w, "  their price\t%.4f USD", prices.Requests(l.Calls))
	if stats.USDMonth > 0 {
		fmt.Fprintf(w, ", %.2f USD a month at this rate", stats.USDMonth)
	}
	fmt.Fprintf(w, "\n  traffic\t%s put, %s read\n", inspect.Size(l.Calls.BytesIn), inspect.Size(l.Calls.BytesOut))
	fmt.Fprintf(w, "  log\t%d records, %s written; %s not yet in objects, %s queued; %d appends waited\n", l.WAL.Records, inspect.Size(l.WAL.WrittenBytes), inspect.Size(l.WAL.UncommittedBytes), inspect.Size(l.WAL.QueuedBytes), l.WAL.Waits)
	fmt.Fprintf(w, "  flushed\t%d objects, %s; %d failures, %d stalled now\n", l.Flushed.Objects, inspect.Size(l.Flushed.Bytes), l.Flushed.Failures, l.Flushed.Stalled)
	ratio := "no reads yet"
	if l.Cache.Hits+l.Cache.Misses > 0 {
		ratio = fmt.Sprintf("%.1f %% of %d wanted chunks were there", 100*l.Cache.HitRatio(), l.Cache.Hits+l.Cache.Misses)
	}
	fmt.Fprintf(w, "  cache\t%s; %s\n", inspect.Size(l.Cache.Bytes), ratio)
	return w.Flush()
}

type storageObjectsCmd struct {
	storageFlags
	Class string `help:"Only those of one class: ${enum}." enum:"all,data,garbage,orphan,young,wal,seal,snapshot,tomb,mark,claim,other" default:"all" placeholder:"CLASS"`
}

func (c *storageObjectsCmd) Run(ctx context.Context, s *streams) error {
	st, err := c.open(ctx)
	defer st.close()
	if err != nil {
		return err
	}
	if c.Class == "all" {
		c.Class = ""
	}
	if c.JSON { // a line each: there may be many
		e := json.NewEncoder(s.out)
		return st.source.Objects(ctx, time.Now(), inspect.Class(c.Class), func(i inspect.Item) error { return e.Encode(i) })
	}
	if o := st.origin(); o != "" {
		fmt.Fprintln(s.err, o)
	}
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CLASS\tBYTES\tGEN\tPARTITIONS\tOFFSETS\tMODIFIED\tKEY")
	dash := func(n int64) string {
		if n == 0 {
			return "-"
		}
		return strconv.FormatInt(n, 10)
	}
	rows := 0
	err = st.source.Objects(ctx, time.Now(), inspect.Class(c.Class), func(i inspect.Item) error {
		gen := "-"
		if i.Generation != nil {
			gen = strconv.Itoa(int(*i.Generation))
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%s\n", i.Class, i.Bytes, gen, dash(int64(i.Partitions)), dash(i.Offsets), i.Modified.Format(time.RFC3339), i.Key)
		if rows++; rows%1000 == 0 {
			return w.Flush()
		}
		return nil
	})
	return errors.Join(err, w.Flush())
}

type storageVerifyCmd struct {
	storageFlags
	Parallel int  `help:"Objects read at the same time." default:"4"`
	Quiet    bool `help:"No progress bar." short:"q"`
}

func (storageVerifyCmd) Help() string {
	return `Exit code 0: everything is as it was written. 1: something is damaged, with the object's key and the byte, or something could not be read.`
}

func (c *storageVerifyCmd) Run(ctx context.Context, s *streams) error {
	st, err := c.open(ctx)
	defer st.close()
	if err != nil {
		return err
	}
	cfg, clear := inspect.VerifyConfig{Parallel: c.Parallel}, func() error { return nil }
	if !c.Quiet && !c.JSON && terminal(s.err) {
		bar := progressbar.NewOptions64(-1, progressbar.OptionSetWriter(s.err), progressbar.OptionSetDescription("verify"),
			progressbar.OptionShowBytes(true), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
		cfg.Progress = func(done, total int64) {
			bar.ChangeMax64(total)
			_ = bar.Set64(done) // a bar that can't be drawn is no reason to stop
		}
		clear = bar.Clear
	}
	files, _ := st.logFiles()
	if files > 0 && !st.inUse {
		cfg.Files, cfg.LogDir = disk.OS{}, filepath.Join(st.dir, "wal")
	}
	r, err := st.source.Verify(ctx, cfg)
	_ = clear()
	if err != nil {
		return err
	}
	if files > 0 && st.inUse {
		r.LogUnread = "a server has them open"
	}
	if c.JSON {
		err = writeJSON(s, r)
	} else {
		printReport(s, r, st.origin())
	}
	if err == nil && len(r.Damages) > 0 {
		err = exitError{1}
	}
	return err
}

// terminal tells whether somebody looks at what is written.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func printReport(s *streams, r *inspect.Report, origin string) {
	if origin != "" {
		fmt.Fprintf(s.out, "%s\n\n", origin)
	}
	fmt.Fprintf(s.out, "read %d objects, %s: %d blocks, %d batches, %d records in %d partitions; %d snapshots of the metadata, %d slots of the log\n",
		r.Objects, inspect.Size(r.Bytes), r.Blocks, r.Batches, r.Records, r.Partitions, r.Snapshots, r.Slots)
	if r.Gone > 0 {
		fmt.Fprintf(s.out, "%d objects were replaced and deleted meanwhile\n", r.Gone)
	}
	if r.LogRecords > 0 {
		fmt.Fprintf(s.out, "%d records in the files of the log\n", r.LogRecords)
	}
	if r.LogUnread != "" {
		fmt.Fprintf(s.out, "the files of the log were not read: %s; the next start checks them\n", r.LogUnread)
	}
	if len(r.Damages) == 0 {
		fmt.Fprintln(s.out, "everything is as it was written")
		return
	}
	for _, d := range r.Damages {
		fmt.Fprintf(s.out, "DAMAGED  %s\n", d)
	}
	fmt.Fprintf(s.out, "%d damages: keep the bytes as they are, and see docs/operate.md, Damage\n", len(r.Damages))
}

type storageDoctorCmd struct {
	storageFlags
	Probe bool `help:"Put and delete a few small objects to see what the object store can do." default:"true" negatable:""`
}

func (storageDoctorCmd) Help() string { return `Exit code 1 when a check failed.` }

func (c *storageDoctorCmd) Run(ctx context.Context, s *streams) error {
	st, err := c.open(ctx)
	defer st.close()
	p := inspect.Patient{
		Source: st.source, Broken: err, View: st.blobs, Remote: strings.HasPrefix(c.Blob, "s3://"), Meta: st.meta, Dir: st.dir, Live: st.live, Free: freeSpace,
	}
	if st.inUse {
		p.Silent = st.silent
	}
	if c.Probe && p.Remote && st.blobs != nil {
		if p.Blobs, err = bloburl.Open(ctx, c.Blob); err != nil {
			p.Broken = err
		}
	}
	checks := inspect.Doctor(ctx, p)
	if c.JSON {
		if err := writeJSON(s, checks); err != nil {
			return err
		}
	} else {
		printChecks(s, checks)
	}
	for _, k := range checks {
		if k.Level == inspect.Fail {
			return exitError{1}
		}
	}
	return nil
}

func printChecks(s *streams, checks []inspect.Check) {
	width := 0
	for _, k := range checks {
		width = max(width, len(k.Name))
	}
	for _, k := range checks {
		fmt.Fprintf(s.out, "%-4s  %-*s  %s\n", k.Level, width, k.Name, k.Found)
		if k.Do != "" && k.Level != inspect.OK {
			fmt.Fprintf(s.out, "%*s→ %s\n", width+8, "", k.Do)
		}
	}
}
