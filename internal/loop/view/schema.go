package view

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// schemaVersion is the version of the tables and of the rules that fill them. A
// file of another version is thrown away and built again.
const schemaVersion = 3

// Times are nanoseconds since 1970 UTC. "goodness" is a score turned so that 1
// is good; "_micro" are millionths, whole numbers, so that sums do not depend on
// the order of addition.
const schema = `
CREATE TABLE offsets (
  topic TEXT, partition INTEGER, next INTEGER NOT NULL,
  PRIMARY KEY (topic, partition)) WITHOUT ROWID;

CREATE TABLE events (
  tenant TEXT, id TEXT, type TEXT NOT NULL,
  topic TEXT NOT NULL, partition INTEGER NOT NULL, off INTEGER NOT NULL,
  time INTEGER NOT NULL, appended INTEGER NOT NULL,
  request TEXT NOT NULL, trace TEXT NOT NULL, session TEXT NOT NULL,
  app TEXT NOT NULL, release TEXT NOT NULL, arm TEXT NOT NULL,
  summary TEXT NOT NULL,
  via INTEGER NOT NULL, input_count INTEGER NOT NULL, inputs_hash TEXT NOT NULL,
  PRIMARY KEY (tenant, id)) WITHOUT ROWID;
CREATE INDEX events_appended ON events (tenant, appended, id);
CREATE INDEX events_request ON events (tenant, request);
CREATE INDEX events_age ON events (appended);

CREATE TABLE cases (
  tenant TEXT, request TEXT, revision INTEGER NOT NULL,
  partition INTEGER NOT NULL, off INTEGER NOT NULL,
  release TEXT NOT NULL, arm TEXT NOT NULL, session TEXT NOT NULL, app TEXT NOT NULL,
  start INTEGER NOT NULL, failed INTEGER NOT NULL,
  feedback REAL, labels TEXT NOT NULL,
  doc TEXT NOT NULL,
  PRIMARY KEY (tenant, request)) WITHOUT ROWID;
CREATE INDEX cases_start ON cases (tenant, start, request);
CREATE INDEX cases_release ON cases (tenant, release, start, request);
CREATE INDEX cases_session ON cases (tenant, session, start, request);
CREATE INDEX cases_age ON cases (start);

CREATE TABLE scores (
  tenant TEXT, request TEXT, metric TEXT,
  value REAL NOT NULL, goodness REAL NOT NULL,
  release TEXT NOT NULL, start INTEGER NOT NULL,
  PRIMARY KEY (tenant, request, metric)) WITHOUT ROWID;
CREATE INDEX scores_worst ON scores (tenant, metric, release, goodness, start DESC, request);

CREATE TABLE aliases (
  tenant TEXT, alias TEXT, request TEXT, kind TEXT NOT NULL, time INTEGER NOT NULL,
  PRIMARY KEY (tenant, alias, request)) WITHOUT ROWID;
CREATE INDEX aliases_age ON aliases (time);

CREATE TABLE case_aliases (
  tenant TEXT, alias TEXT, request TEXT, start INTEGER NOT NULL,
  PRIMARY KEY (tenant, alias, request)) WITHOUT ROWID;

CREATE TABLE evidence (
  tenant TEXT, id TEXT, release TEXT NOT NULL, process TEXT NOT NULL,
  seq INTEGER NOT NULL, time INTEGER NOT NULL, doc TEXT NOT NULL,
  PRIMARY KEY (tenant, id)) WITHOUT ROWID;
CREATE INDEX evidence_series ON evidence (tenant, release, process, seq);
CREATE INDEX evidence_newest ON evidence (tenant, release, time, seq);

CREATE TABLE decisions (
  tenant TEXT, id TEXT, release TEXT NOT NULL, time INTEGER NOT NULL, seq INTEGER NOT NULL,
  action TEXT NOT NULL, doc TEXT NOT NULL,
  PRIMARY KEY (tenant, id)) WITHOUT ROWID;
CREATE INDEX decisions_time ON decisions (tenant, time, seq, id);
CREATE INDEX decisions_release ON decisions (tenant, release, time, seq, id);

CREATE TABLE acknowledgements (
  tenant TEXT, id TEXT, decision TEXT NOT NULL, time INTEGER NOT NULL, doc TEXT NOT NULL,
  PRIMARY KEY (tenant, id)) WITHOUT ROWID;
CREATE INDEX acknowledgements_decision ON acknowledgements (tenant, decision, time);

CREATE TABLE deployments (
  tenant TEXT, id TEXT, type TEXT NOT NULL, release TEXT NOT NULL, time INTEGER NOT NULL, doc TEXT NOT NULL,
  PRIMARY KEY (tenant, id)) WITHOUT ROWID;
CREATE INDEX deployments_release ON deployments (tenant, release, time, id);

CREATE TABLE quarantine (
  tenant TEXT, id TEXT, time INTEGER NOT NULL, kind TEXT NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL,
  topic TEXT NOT NULL, partition INTEGER NOT NULL, off INTEGER NOT NULL,
  PRIMARY KEY (tenant, id)) WITHOUT ROWID;
CREATE INDEX quarantine_time ON quarantine (tenant, time, id);

CREATE TABLE counters (
  tenant TEXT, minute INTEGER, type TEXT, n INTEGER NOT NULL,
  PRIMARY KEY (tenant, minute, type)) WITHOUT ROWID;

CREATE TABLE seen (
  tenant TEXT, fact TEXT, n INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
  PRIMARY KEY (tenant, fact)) WITHOUT ROWID;

CREATE TABLE quality (
  tenant TEXT, release TEXT, arm TEXT, metric TEXT, minute INTEGER,
  n INTEGER NOT NULL, sum_micro INTEGER NOT NULL,
  PRIMARY KEY (tenant, release, arm, metric, minute)) WITHOUT ROWID;
CREATE INDEX quality_age ON quality (minute);
`

// tables are what clear empties, which is everything.
var tables = []string{
	"offsets", "events", "cases", "scores", "aliases", "case_aliases", "evidence", "decisions", "acknowledgements",
	"deployments", "quarantine", "counters", "seen", "quality",
}

var errSchema = errors.New("schema of another version")

// rebuildable tells a file that is of no use from one that cannot be reached.
func rebuildable(err error) bool {
	var e *sqlite.Error
	if errors.As(err, &e) {
		switch e.Code() & 0xff {
		case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
			return true
		}
	}
	return errors.Is(err, errSchema)
}

// migrate makes the tables in an empty file and checks the version of others.
func migrate(ctx context.Context, db *sql.DB) error {
	var version, objects int
	if err := db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_master").Scan(&objects); err != nil {
		return err
	}
	switch {
	case version == schemaVersion:
		return nil
	case objects > 0:
		return fmt.Errorf("%w: have %d, want %d", errSchema, version, schemaVersion)
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, schema+fmt.Sprintf("PRAGMA user_version = %d;", schemaVersion)); err != nil {
		return err
	}
	return tx.Commit()
}

func loadPositions(ctx context.Context, db *sql.DB) (positions, error) {
	rows, err := db.QueryContext(ctx, "SELECT topic, partition, next FROM offsets")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := positions{}
	for rows.Next() {
		var (
			topic string
			p     int32
			next  int64
		)
		if err := rows.Scan(&topic, &p, &next); err != nil {
			return nil, err
		}
		if out[topic] == nil {
			out[topic] = map[int32]int64{}
		}
		out[topic][p] = next
	}
	return out, rows.Err()
}

// clear empties every table, positions included.
func (v *View) clear(ctx context.Context) error {
	err := v.transact(ctx, func() error {
		for _, t := range tables {
			if _, err := v.conn.ExecContext(ctx, "DELETE FROM "+t); err != nil {
				return fmt.Errorf("table %s: %w", t, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("clear tables: %w", err)
	}
	v.next = positions{}
	v.caughtUp.Store(false)
	return nil
}
