package broker

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/looptape/looptape/internal/broker/store/wal/slots"
	"github.com/looptape/looptape/internal/broker/store/write"
)

// register makes the store's counters and gauges visible. They are read when
// asked for and cost nothing otherwise.
func (e *Store) register(reg prometheus.Registerer) error {
	if reg == nil {
		return nil
	}
	gauge := func(name, help string, fn func() float64) error {
		return reg.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "looptape_store_" + name, Help: help}, fn))
	}
	counter := func(name, help string, fn func() float64) error {
		return reg.Register(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "looptape_store_" + name, Help: help}, fn))
	}
	// Not of the store alone: it asks for an operator.
	if err := reg.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "looptape_partitions_quarantined", Help: "Partitions out of service since a log has a gap in them: an operator has to decide.",
	}, func() float64 { return float64(len(e.catalog.Quarantined())) })); err != nil {
		return err
	}
	type metric struct {
		make       func(string, string, func() float64) error
		name, help string
		fn         func() float64
	}
	all := []metric{
		{counter, "log_records_total", "Records made durable.", func() float64 { return float64(e.wal.Stats().Records) }},
		{counter, "log_bytes_total", "Bytes written to the log, padding included.", func() float64 { return float64(e.wal.Stats().WrittenBytes) }},
		{counter, "log_commits_total", "Commits of the log, each one write and one sync.", func() float64 { return float64(e.wal.Stats().Commits) }},
		{counter, "log_commit_seconds_total", "Time spent in them.", func() float64 { return float64(e.wal.Stats().CommitNanos) / 1e9 }},
		{counter, "log_waits_total", "Appends that waited for room in the log.", func() float64 { return float64(e.wal.Stats().ReserveWaits) }},
		{gauge, "log_queued_bytes", "Bytes appended and not yet durable.", func() float64 { return float64(e.wal.Stats().QueuedBytes) }},
		{gauge, "log_uncommitted_bytes", "Bytes of the log not yet in objects.", func() float64 { return float64(e.wal.Stats().UncommittedBytes) }},
		{gauge, "unflushed_bytes", "Record bytes in memory not yet in objects.", func() float64 { return float64(e.set.Usage().Unflushed) }},
		{gauge, "retained_bytes", "Record bytes in objects kept in memory for readers.", func() float64 { return float64(e.set.Usage().Retained) }},
		{gauge, "appends_waiting", "Appends that wait for room.", func() float64 { return float64(e.set.Usage().Waiting) }},
		{gauge, "cuts_in_flight", "Sealed stretches of the log on their way to the object store.", func() float64 { return float64(e.set.Usage().Cuts) }},
		{counter, "puts_total", "Requests that put an object, log slots and marks included.", func() float64 { return float64(e.calls.Counts().Puts) }},
		{counter, "gets_total", "Requests that read of an object.", func() float64 { return float64(e.calls.Counts().Gets) }},
		{counter, "stats_total", "Requests that ask for an object's size.", func() float64 { return float64(e.calls.Counts().Stats) }},
		{counter, "lists_total", "Listings of the object store.", func() float64 { return float64(e.calls.Counts().Lists) }},
		{counter, "deletes_total", "Requests that delete an object.", func() float64 { return float64(e.calls.Counts().Deletes) }},
		{counter, "request_errors_total", "Requests to the object store that failed for good.", func() float64 { return float64(e.calls.Counts().Failures) }},
		{counter, "cache_hits_total", "Chunks of objects that readers found in memory.", func() float64 { return float64(e.reader.Stats().Hits) }},
		{counter, "cache_misses_total", "Chunks of objects that readers waited for.", func() float64 { return float64(e.reader.Stats().Misses) }},
		{counter, "objects_put_total", "Objects written.", func() float64 { return float64(e.flusher.Stats().Objects) }},
		{counter, "object_bytes_put_total", "Bytes of them.", func() float64 { return float64(e.flusher.Stats().Bytes) }},
		{counter, "commits_total", "Commits to the catalog.", func() float64 { return float64(e.flusher.Stats().Commits) }},
		{counter, "flush_errors_total", "Failed puts and commits; each is repeated.", func() float64 { return float64(e.flusher.Stats().Failures) }},
		{gauge, "flush_stalled", "Puts and commits that wait after a failure.", func() float64 { return float64(e.flusher.Stats().Stalled) }},
		{counter, "objects_deleted_total", "Objects deleted.", func() float64 { return float64(e.jobs.Sweeper().Stats().Deleted) }},
		{counter, "block_reads_total", "Blocks read from the object store.", func() float64 { return float64(e.reader.Stats().Gets) }},
		{counter, "block_read_bytes_total", "Bytes of them.", func() float64 { return float64(e.reader.Stats().Bytes) }},
		{gauge, "block_cache_bytes", "Bytes in the block cache.", func() float64 { return float64(e.reader.Stats().CacheBytes) }},
		{gauge, "objects", "Visible objects.", func() float64 { n, _ := e.catalog.Objects(); return float64(n) }},
		{counter, "catalog_full_reads_total", "Times the whole catalog was read, at the start or since the watch did not tell.", func() float64 { return float64(e.catalog.Stats().FullReads) }},
		{counter, "catalog_unknown_total", "Transactions of the catalog whose outcome was unknown; each is repeated.", func() float64 { return float64(e.catalog.Stats().Unknown) }},
		{gauge, "catalog_full", "1 while the metadata store takes nothing more: make space there, producers wait.", func() float64 { return flag(e.catalog.Stats().Full) }},
		{gauge, "snapshot_number", "Number of the newest snapshot of the metadata that this broker knows of.", func() float64 { return float64(e.saver.Stats().Number) }},
		{counter, "snapshot_errors_total", "Failed snapshots of the metadata; each is repeated.", func() float64 { return float64(e.saver.Stats().Failed) }},
		{gauge, "object_bytes", "Bytes of them.", func() float64 { _, n := e.catalog.Objects(); return float64(n) }},
	}
	type job struct {
		name, what string
		counts     func() write.JobCounts
	}
	for _, j := range []job{
		{"merge", "merging", func() write.JobCounts { return e.jobs.Merger().Stats() }},
		{"compact", "log compaction", func() write.JobCounts { return e.jobs.Compactor().Stats().JobCounts }},
	} {
		all = append(all, []metric{
			{counter, j.name + "_jobs_total", "Replacements of objects by " + j.what + ".", func() float64 { return float64(j.counts().Jobs) }},
			{counter, j.name + "_inputs_total", "Objects replaced by " + j.what + ".", func() float64 { return float64(j.counts().Inputs) }},
			{counter, j.name + "_outputs_total", "Objects made by " + j.what + ".", func() float64 { return float64(j.counts().Outputs) }},
			{counter, j.name + "_read_bytes_total", "Bytes read by " + j.what + ".", func() float64 { return float64(j.counts().Read) }},
			{counter, j.name + "_written_bytes_total", "Bytes written by " + j.what + ".", func() float64 { return float64(j.counts().Written) }},
			{counter, j.name + "_conflicts_total", "Jobs of " + j.what + " given up since their inputs changed.", func() float64 { return float64(j.counts().Conflicts) }},
			{counter, j.name + "_errors_total", "Jobs of " + j.what + " that failed; they come again.", func() float64 { return float64(j.counts().Failures) }},
		}...)
	}
	all = append(all, []metric{
		{counter, "compact_cleanings_total", "Partitions compacted.", func() float64 { return float64(e.jobs.Compactor().Stats().Cleanings) }},
		{counter, "compact_dropped_records_total", "Records that compaction dropped.", func() float64 { return float64(e.jobs.Compactor().Stats().Dropped) }},
		{counter, "compact_unreadable_batches_total", "Batches kept as they are since their records can't be read.", func() float64 { return float64(e.jobs.Compactor().Stats().Unreadable) }},
		{counter, "retention_raised_total", "Log starts raised by retention.", func() float64 { return float64(e.jobs.Sweeper().Stats().Raised) }},
		{counter, "retention_clock_distrusted_total", "Rounds in which nothing expired or was deleted since the clock jumped or disagrees with the store's.", func() float64 { return float64(e.jobs.Sweeper().Stats().Distrusted) }},
		{counter, "gc_retired_total", "Objects taken out of sight since nobody needs them.", func() float64 { return float64(e.jobs.Sweeper().Stats().Retired) }},
		{gauge, "gc_waiting", "Retired objects whose grace has not passed.", func() float64 { return float64(e.jobs.Sweeper().Stats().Waiting) }},
		{counter, "sweep_orphans_total", "Objects deleted that no transaction made visible.", func() float64 { return float64(e.jobs.Sweeper().Stats().Swept) }},
	}...)
	if l, ok := e.wal.(*slots.Log); ok {
		all = append(all, []metric{
			{counter, "log_put_retries_total", "Puts of log slots that failed or had no answer; each is repeated.", func() float64 { return float64(l.Requests().Retries) }},
			{gauge, "log_puts_in_flight", "Log slots begun and not yet acknowledged.", func() float64 { return float64(l.Requests().InFlight) }},
			{gauge, "log_put_window", "Log slots that may be begun at a time; fewer while the object store fails.", func() float64 { return float64(l.Requests().Window) }},
			{gauge, "log_linger_seconds", "Time a log slot waits for more records, by the budget of requests.", func() float64 { return l.Requests().Linger.Seconds() }},
			{gauge, "log_over_budget", "1 while the requests saved up are spent and the linger is the longest.", func() float64 { return flag(l.Requests().OverBudget) }},
			{gauge, "log_slots_to_delete", "Trimmed log slots not yet deleted.", func() float64 { return float64(l.Requests().ToDelete) }},
		}...)
	}
	for _, m := range all {
		if err := m.make(m.name, m.help, m.fn); err != nil {
			return err
		}
	}
	return nil
}

// flag is 1 or 0.
func flag(on bool) float64 {
	if on {
		return 1
	}
	return 0
}
