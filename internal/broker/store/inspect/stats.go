package inspect

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/looptape/looptape/internal/base/blob"
	"github.com/looptape/looptape/internal/broker/store/object"
)

// A Class is what an object of the store is for.
type Class string

// The classes. Without a catalog nobody can tell data from garbage and orphans:
// then all of it is Data.
const (
	Data     Class = "data"     // the catalog names it
	Garbage  Class = "garbage"  // retired; to be deleted when its grace is over
	Orphan   Class = "orphan"   // no catalog names it: what a crash or a fenced broker left; swept hourly
	Young    Class = "young"    // as an orphan, but put just now: it may be about to be named
	Log      Class = "wal"      // slots of the object log
	Seal     Class = "seal"     // the end of a dead epoch's object log; kept for ever
	Snapshot Class = "snapshot" // of the metadata
	Tomb     Class = "tomb"     // of a deletion
	Mark     Class = "mark"     // the cluster's id, and one for each epoch
	Claim    Class = "claim"    // large bodies of events
	Other    Class = "other"    // not of this cluster, or unknown
)

// classes in the order in which they are shown.
var classes = []Class{Data, Garbage, Orphan, Young, Log, Seal, Snapshot, Tomb, Mark, Claim, Other}

// youth is how long an object may be unknown to the catalog without being an
// orphan: a put and its commit take less.
const youth = 10 * time.Minute

// sealBytes is the size of a seal: the only slot without a body.
const sealBytes = 108

// classify names the class of an object.
func (s *Source) classify(i blob.Info, visible map[string]bool, now time.Time) Class {
	kind, rest, _ := strings.Cut(i.Key, "/")
	cluster, name, _ := strings.Cut(rest, "/")
	switch {
	case i.Key == "cluster":
		return Mark
	case kind == "claims":
		return Claim
	case cluster != s.Cluster:
		return Other
	}
	switch kind {
	case "data":
		switch _, err := object.ParseName(name); {
		case err != nil:
			return Other
		case s.Catalog == nil || visible[name]:
			return Data
		case s.garbage[name]:
			return Garbage
		case now.Sub(i.Modified) < youth:
			return Young
		}
		return Orphan
	case "wal":
		if i.Size == sealBytes {
			return Seal
		}
		return Log
	case "meta":
		return Snapshot
	case "tomb":
		return Tomb
	case "epochs":
		return Mark
	}
	return Other
}

// An Item is one object of the store.
type Item struct {
	Key        string    `json:"key"`
	Class      Class     `json:"class"`
	Bytes      int64     `json:"bytes"`
	Modified   time.Time `json:"modified"`
	Generation *int32    `json:"generation,omitempty"` // of data the catalog names; merging raises it
	Partitions int       `json:"partitions,omitempty"` // with records or state in it
	Offsets    int64     `json:"offsets,omitempty"`    // over all partitions
}

// Objects calls fn for every object of the store, by key. An empty class means all.
func (s *Source) Objects(ctx context.Context, now time.Time, class Class, fn func(Item) error) error {
	if class != "" && !slices.Contains(classes, class) {
		return fmt.Errorf("unknown class %q: there are %v", class, classes)
	}
	visible := map[string]bool{}
	details := map[string]Item{}
	if s.Catalog != nil {
		for _, v := range s.Catalog.Visible() {
			visible[v.Object.Name] = true
			it := Item{Generation: &v.Object.Generation}
			parts := map[string]bool{}
			for _, r := range v.Ranges {
				parts[r.Partition.String()] = true
				it.Offsets += r.End - r.Base
			}
			it.Partitions = len(parts)
			details[object.Key(s.Cluster, v.Object.Name)] = it
		}
	}
	return s.Blobs.List(ctx, "", func(i blob.Info) error {
		it := details[i.Key]
		it.Key, it.Bytes, it.Modified, it.Class = i.Key, i.Size, i.Modified.UTC(), s.classify(i, visible, now)
		if class != "" && it.Class != class {
			return nil
		}
		return fn(it)
	})
}

// Prices are what a store asks for, in US dollars.
type Prices struct {
	PerMillionPuts float64 // and lists
	PerMillionGets float64 // and stats; deletes are free
	PerGBMonth     float64 // of 10^9 bytes
}

// S3Prices are those of Amazon S3, standard class, in us-east-1.
var S3Prices = Prices{PerMillionPuts: 5, PerMillionGets: 0.4, PerGBMonth: 0.023}

// Requests prices requests.
func (p Prices) Requests(c blob.Counts) float64 {
	return (float64(c.Puts+c.Lists)*p.PerMillionPuts + float64(c.Gets+c.Stats)*p.PerMillionGets) / 1e6
}

// Month prices a month of storing bytes.
func (p Prices) Month(bytes int64) float64 { return float64(bytes) / 1e9 * p.PerGBMonth }

// ClassStats are the objects of one class.
type ClassStats struct {
	Class    Class   `json:"class"`
	Objects  int64   `json:"objects"`
	Bytes    int64   `json:"bytes"`
	Smallest int64   `json:"smallest_bytes"`
	Median   int64   `json:"median_bytes"`
	Largest  int64   `json:"largest_bytes"`
	USDMonth float64 `json:"usd_month"`

	sizes []int64
}

// LogStats is the log of one broker epoch that is not done.
type LogStats struct {
	Broker    int32  `json:"broker"`
	Epoch     int64  `json:"epoch"`
	Kind      string `json:"kind"`
	State     string `json:"state"`         // active or sealed
	Committed int64  `json:"committed_lsn"` // up to there it is in objects
}

// Live is what only the running broker knows, since it started.
type Live struct {
	Cluster string      `json:"cluster"`
	Broker  int32       `json:"broker"`
	Epoch   int64       `json:"epoch"`
	Since   time.Time   `json:"since"`
	Calls   blob.Counts `json:"requests"`
	WAL     LiveLog     `json:"wal"`
	Cache   LiveCache   `json:"cache"`
	Flushed LiveFlush   `json:"flush"`
}

// LiveLog is the state of the running broker's log.
type LiveLog struct {
	Records          int64 `json:"records"`
	WrittenBytes     int64 `json:"written_bytes"`
	QueuedBytes      int64 `json:"queued_bytes"`      // appended, not yet durable
	UncommittedBytes int64 `json:"uncommitted_bytes"` // durable in the log only: its lag behind the objects
	Waits            int64 `json:"waits"`             // appends that waited for room
}

// LiveCache is the state of the running broker's block cache.
type LiveCache struct {
	Bytes     int64 `json:"bytes"`
	Hits      int64 `json:"hits"`
	Misses    int64 `json:"misses"`
	Gets      int64 `json:"gets"` // from the store, read-ahead included
	ReadBytes int64 `json:"read_bytes"`
}

// HitRatio is the share of chunks that readers found in memory, 0 without any.
func (c LiveCache) HitRatio() float64 {
	if c.Hits+c.Misses == 0 {
		return 0
	}
	return float64(c.Hits) / float64(c.Hits+c.Misses)
}

// LiveFlush is what the running broker put into objects.
type LiveFlush struct {
	Objects  int64 `json:"objects"`
	Bytes    int64 `json:"bytes"`
	Failures int64 `json:"failures"` // each was repeated
	Stalled  int64 `json:"stalled"`  // that wait after a failure now
}

// Stats sums up a store.
type Stats struct {
	Cluster    string       `json:"cluster"`
	From       string       `json:"catalog_from"`
	Topics     int          `json:"topics"`
	Partitions int          `json:"partitions"`
	Classes    []ClassStats `json:"classes"` // those that have objects
	Total      ClassStats   `json:"total"`
	Logs       []LogStats   `json:"logs"`
	// Of a log on this machine, spare segments included.
	LogFiles     int     `json:"log_files,omitempty"`
	LogFileBytes int64   `json:"log_file_bytes,omitempty"`
	Live         *Live   `json:"live,omitempty"`     // of the server that was asked
	USDMonth     float64 `json:"usd_requests_month"` // of Live's requests, at their rate since it started
}

// Stats lists the whole store and sums it up. live may be nil.
func (s *Source) Stats(ctx context.Context, now time.Time, prices Prices, live *Live) (*Stats, error) {
	st := &Stats{Cluster: s.Cluster, From: s.From, Total: ClassStats{Class: "total"}, Live: live, Logs: []LogStats{}}
	by := map[Class]*ClassStats{}
	err := s.Objects(ctx, now, "", func(i Item) error {
		c := by[i.Class]
		if c == nil {
			c = &ClassStats{Class: i.Class}
			by[i.Class] = c
		}
		c.add(i.Bytes)
		st.Total.add(i.Bytes)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, class := range classes {
		if c := by[class]; c != nil {
			c.finish(prices)
			st.Classes = append(st.Classes, *c)
		}
	}
	st.Total.finish(prices)
	if s.Catalog != nil {
		for _, t := range s.Catalog.Topics() {
			st.Topics++
			st.Partitions += int(t.Partitions)
		}
	}
	for _, l := range s.logs {
		if !l.Done {
			st.Logs = append(st.Logs, LogStats{l.Log.Broker, l.Log.Epoch, l.Kind.String(), l.Fence, l.Committed})
		}
	}
	if live != nil {
		if up := now.Sub(live.Since); up > time.Minute {
			st.USDMonth = prices.Requests(live.Calls) * float64(30*24*time.Hour) / float64(up)
		}
	}
	return st, nil
}

func (c *ClassStats) add(bytes int64) {
	c.Objects++
	c.Bytes += bytes
	c.sizes = append(c.sizes, bytes)
}

func (c *ClassStats) finish(p Prices) {
	c.USDMonth = p.Month(c.Bytes)
	if len(c.sizes) == 0 {
		return
	}
	slices.Sort(c.sizes)
	c.Smallest, c.Median, c.Largest = c.sizes[0], c.sizes[len(c.sizes)/2], c.sizes[len(c.sizes)-1]
	c.sizes = nil
}
