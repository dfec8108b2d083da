package stream

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are shared by everything that runs on one Client; group is the name of
// the processor or tail.
type metrics struct {
	produced      *prometheus.CounterVec   // topic
	produceErrors *prometheus.CounterVec   // topic
	consumed      *prometheus.CounterVec   // group, topic
	lag           *prometheus.GaugeVec     // group, topic
	delay         *prometheus.GaugeVec     // group, topic
	partitions    *prometheus.GaugeVec     // group
	queued        *prometheus.GaugeVec     // group
	paused        *prometheus.GaugeVec     // group
	restored      *prometheus.CounterVec   // group
	rebalances    *prometheus.CounterVec   // group
	cycles        *prometheus.HistogramVec // group, step
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "looptape", Subsystem: "stream", Name: name, Help: help}, labels)
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "looptape", Subsystem: "stream", Name: name, Help: help}, labels)
	}
	m := &metrics{
		produced:      counter("produced_total", "Records acknowledged by all in-sync replicas.", "topic"),
		produceErrors: counter("produce_errors_total", "Records that could not be produced.", "topic"),
		consumed:      counter("consumed_total", "Records processed and checkpointed.", "group", "topic"),
		lag:           gauge("lag_offsets", "Offsets between the last checkpoint and the end of the log, over the partitions this process works on.", "group", "topic"),
		delay:         gauge("delay_seconds", "Age of the newest record processed, of the partition that is furthest behind; 0 when caught up.", "group", "topic"),
		partitions:    gauge("partitions", "Partition numbers this process works on.", "group"),
		queued:        gauge("queued_records", "Records fetched and not yet processed.", "group"),
		paused:        gauge("paused_partitions", "Partition numbers whose fetching is paused because their queue is full.", "group"),
		restored:      counter("restored_records_total", "Changelog records read to restore state.", "group"),
		rebalances:    counter("rebalances_total", "Assignments and revocations of partitions.", "group"),
		cycles: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "looptape", Subsystem: "stream", Name: "cycle_seconds",
			Help:    "Duration of the steps of a batch: process, emit (until all is acknowledged), checkpoint.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 3, 11),
		}, []string{"group", "step"}),
	}
	if reg == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.produced, m.produceErrors, m.consumed, m.lag, m.delay, m.partitions, m.queued, m.paused, m.restored, m.rebalances, m.cycles} {
		errs = append(errs, reg.Register(c))
	}
	return m, errors.Join(errs...)
}
