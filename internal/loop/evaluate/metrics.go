package evaluate

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics count what happened; a batch that is repeated after a crash counts again.
type metrics struct {
	results *prometheus.CounterVec   // evaluations by evaluator and status
	seconds *prometheus.HistogramVec // an evaluator's own time
	delay   prometheus.Histogram     // from append to score
	open    *prometheus.GaugeVec     // by partition
	events  *prometheus.CounterVec   // events by fate
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		results: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "looptape_evaluate_results_total", Help: "Evaluations by evaluator and status (scored, skipped, failed).",
		}, []string{"evaluator", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "looptape_evaluate_seconds", Help: "Time of one evaluation.",
			Buckets: prometheus.ExponentialBuckets(1e-6, 4, 10),
		}, []string{"evaluator"}),
		delay: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "looptape_evaluate_append_to_score_seconds", Help: "From the append of an event to the score that it made possible.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60, 600},
		}),
		open: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "looptape_evaluate_open_requests", Help: "Requests whose parts are kept at hand.",
		}, []string{"partition"}),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "looptape_evaluate_events_total", Help: "Input events by fate.",
		}, []string{"fate"}),
	}
	if reg == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.results, m.seconds, m.delay, m.open, m.events} {
		errs = append(errs, reg.Register(c))
	}
	return m, errors.Join(errs...)
}
