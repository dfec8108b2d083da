package view

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	records     *prometheus.CounterVec // topic
	skipped     *prometheus.CounterVec // topic
	commits     prometheus.Histogram
	pruned      *prometheus.CounterVec // table
	subscribers prometheus.Gauge
	resyncs     prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	opts := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "looptape", Subsystem: "view", Name: name, Help: help}
	}
	m := &metrics{
		records: prometheus.NewCounterVec(opts("records_total", "Records folded into the tables."), []string{"topic"}),
		skipped: prometheus.NewCounterVec(opts("skipped_total", "Records passed over because they could not be decoded."), []string{"topic"}),
		commits: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "looptape", Subsystem: "view", Name: "batch_seconds",
			Help: "Time to fold and commit one batch of records.", Buckets: prometheus.ExponentialBuckets(0.0005, 3, 9)}),
		pruned: prometheus.NewCounterVec(opts("pruned_rows_total", "Rows removed because of age or number."), []string{"table"}),
		subscribers: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "looptape", Subsystem: "view", Name: "subscribers",
			Help: "Listeners to live changes."}),
		resyncs: prometheus.NewCounter(opts("resyncs_total", "Times that a listener was too slow and has to read anew.")),
	}
	if reg == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.records, m.skipped, m.commits, m.pruned, m.subscribers, m.resyncs} {
		errs = append(errs, reg.Register(c))
	}
	return m, errors.Join(errs...)
}
