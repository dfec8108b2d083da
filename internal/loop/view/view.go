// Package view folds the topics of the loop into tables that answer the
// questions of the pages and of the API: which events came, what is known of a
// request, how each release does, what the gate saw and decided.
//
// The tables are a SQLite database (WAL mode) beside the log and hold nothing
// that is not in the log: facts, numbers and positions, never content. A body is
// read from the tape when somebody asks for it. Every batch of records and the
// next offsets after it commit in one transaction:
//
//	stream.Tail -> gather 100 ms -> BEGIN; fold; offsets; COMMIT -> Changes to subscribers
//
// so after a crash the fold goes on exactly where the tables stand. Rows are
// upserted by event id under rules that do not depend on the order between
// partitions (the re-keyed copy of an event stands for the original, the larger
// input set of a score for the smaller, the newest offset for the older), so a
// view that is deleted and built again from offset 0 holds the same rows. A
// change of the schema, a damaged file and a log that was made anew all lead to
// the same thing: the view is rebuilt.
//
// The tables are bounded (Retention). What was pruned is not lost: it is in the
// log. Counters and quality sums outlive the rows they were counted from; an
// event that is re-sent after its row was pruned counts again in them.
//
// A record that cannot be decoded is counted and passed over; an error of the
// database ends Run.
package view

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	_ "modernc.org/sqlite" // the database driver

	"github.com/looptape/looptape/internal/loop/event"
	"github.com/looptape/looptape/internal/loop/stream"
)

// A Source gives the records of topics in order. stream.Client is one.
type Source interface {
	Tail(ctx context.Context, cfg stream.TailConfig) error
}

// Config says what a View works with.
type Config struct {
	Path   string // of the database file; its directory is made when missing
	Source Source // may be nil for a view that is only read

	Name   string   // consumer group under which positions are shown; default "looptape-view"
	Topics []string // default Topics()

	Keep       Retention
	Registerer prometheus.Registerer // nil: no metrics
	Logger     *slog.Logger          // nil: slog.Default()
	Now        func() time.Time      // nil: time.Now; decides what is too old to keep
}

// DefaultTenant is the tenant of records that name none.
const DefaultTenant = "default"

// Topics are the topics that a view folds.
func Topics() []string {
	return []string{
		event.TopicPrompt, event.TopicRetrieval, event.TopicResponse, event.TopicAction, event.TopicSafety,
		event.TopicFeedback, event.TopicScore, event.TopicAlias, event.TopicDeployment, event.TopicCase,
		event.TopicDecision, event.TopicQuarantine,
	}
}

// A View is the tables and the fold that fills them. Queries may run from many
// goroutines; Run is called once.
type View struct {
	cfg      Config
	log      *slog.Logger
	write    *sql.DB
	conn     *sql.Conn            // the only connection of write; used by Run only
	stmts    map[string]*sql.Stmt // prepared on conn
	read     *sql.DB
	next     positions // what is committed; owned by Run
	hub      hub
	metrics  *metrics
	caughtUp atomic.Bool
	pruned   time.Time // last time; owned by Run
	most     int       // records in one transaction before no more are waited for
}

// positions are next offsets by topic and partition.
type positions = map[string]map[int32]int64

// Open opens the tables and makes them when they are missing, damaged or of
// another schema version. It starts nothing.
func Open(ctx context.Context, cfg Config) (*View, error) {
	if cfg.Path == "" {
		return nil, errors.New("open view: no path")
	}
	if cfg.Name == "" {
		cfg.Name = "looptape-view"
	}
	if cfg.Topics == nil {
		cfg.Topics = Topics()
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.Keep = cfg.Keep.withDefaults()
	v := &View{cfg: cfg, log: cfg.Logger, most: gatherRecords}
	if err := os.MkdirAll(filepath.Dir(cfg.Path), 0o750); err != nil {
		return nil, fmt.Errorf("open view: %w", err)
	}
	var err error
	if v.metrics, err = newMetrics(cfg.Registerer); err != nil {
		return nil, fmt.Errorf("open view: %w", err)
	}
	if err := v.open(ctx); err != nil {
		return nil, fmt.Errorf("open view %s: %w", cfg.Path, err)
	}
	return v, nil
}

// open opens the file; one that is of no use is removed, once.
func (v *View) open(ctx context.Context) error {
	why := ""
	for range 2 {
		err := v.connect(ctx)
		if err == nil {
			if why != "" {
				v.log.Warn("view is rebuilt from the log", "path", v.cfg.Path, "reason", why)
			}
			return nil
		}
		if ctx.Err() != nil || !rebuildable(err) {
			return err
		}
		why = err.Error()
		if err := removeFiles(v.cfg.Path); err != nil {
			return err
		}
	}
	return errors.New(why)
}

func (v *View) connect(ctx context.Context) (err error) {
	if v.write, err = sql.Open("sqlite", dsn(v.cfg.Path, "synchronous(NORMAL)")+"&_txlock=immediate"); err != nil {
		return err
	}
	v.write.SetMaxOpenConns(1)
	defer func() {
		if err != nil {
			v.write.Close()
		}
	}()
	if err := migrate(ctx, v.write); err != nil {
		return err
	}
	if v.next, err = loadPositions(ctx, v.write); err != nil {
		return err
	}
	if v.read, err = sql.Open("sqlite", dsn(v.cfg.Path, "query_only(1)")); err != nil {
		return err
	}
	v.read.SetMaxOpenConns(4)
	v.read.SetMaxIdleConns(4)
	if v.conn, err = v.write.Conn(ctx); err != nil {
		return errors.Join(err, v.read.Close())
	}
	v.stmts = map[string]*sql.Stmt{}
	return nil
}

func dsn(path string, pragmas ...string) string {
	q := url.Values{}
	for _, p := range append([]string{"busy_timeout(5000)", "journal_mode(WAL)", "temp_store(MEMORY)", "cache_size(-16000)"}, pragmas...) {
		q.Add("_pragma", p)
	}
	return (&url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: q.Encode()}).String()
}

func removeFiles(path string) error {
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Close closes the database. Run must have ended.
func (v *View) Close() error {
	errs := []error{v.read.Close()}
	for _, s := range v.stmts {
		errs = append(errs, s.Close())
	}
	return errors.Join(append(errs, v.conn.Close(), v.write.Close())...)
}

// CaughtUp tells whether the view has folded everything that was in the log when
// Run started.
func (v *View) CaughtUp() bool { return v.caughtUp.Load() }

// Run follows the log until ctx ends.
func (v *View) Run(ctx context.Context) error {
	if v.cfg.Source == nil {
		return errors.New("view: no source")
	}
	for {
		err := v.follow(ctx)
		if !errors.Is(err, errLogReplaced) {
			return err
		}
		v.log.Warn("the log was made anew: view is rebuilt", "path", v.cfg.Path)
		if err := v.clear(ctx); err != nil {
			return fmt.Errorf("view: %w", err)
		}
		v.hub.publish(Change{Resync: true})
	}
}

func clonePositions(p positions) positions {
	out := make(positions, len(p))
	for topic, ps := range p {
		out[topic] = maps.Clone(ps)
	}
	return out
}
