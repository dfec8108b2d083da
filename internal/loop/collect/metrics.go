package collect

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Kinds of items.
const (
	kindSpan  = "span"
	kindLog   = "log"
	kindEvent = "event"
)

// Fates of items. Every received item has exactly one.
type fate int

const (
	mapped fate = iota
	quarantined
	rejected
	fates
)

var fateNames = [fates]string{"mapped", "quarantined", "rejected"}

type metrics struct {
	received *prometheus.CounterVec
	items    *prometheus.CounterVec
	events   *prometheus.CounterVec
	refused  *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, inFlight func() float64) (*metrics, error) {
	m := &metrics{
		received: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "looptape_collect_received_total", Help: "Spans, log records and events received in requests that could be decoded."}, []string{"kind"}),
		items: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "looptape_collect_items_total", Help: "What became of each received item; the fates sum up to the received ones."}, []string{"kind", "fate"}),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "looptape_collect_events_total", Help: "Events appended to the tape."}, []string{"type"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "looptape_collect_refused_requests_total", Help: "Requests refused whole, by endpoint and reason."}, []string{"endpoint", "reason"}),
	}
	for _, kind := range []string{kindSpan, kindLog, kindEvent} {
		m.received.WithLabelValues(kind)
		for _, f := range fateNames {
			m.items.WithLabelValues(kind, f)
		}
	}
	if reg == nil {
		return m, nil
	}
	gauge := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "looptape_collect_in_flight_bytes", Help: "Bytes of request bodies that are being worked on."}, inFlight)
	var errs []error
	for _, c := range []prometheus.Collector{m.received, m.items, m.events, m.refused, gauge} {
		if err := reg.Register(c); err != nil {
			errs = append(errs, fmt.Errorf("register metrics: %w", err))
		}
	}
	return m, errors.Join(errs...)
}

// count books a finished request: n[f] items of each fate.
func (m *metrics) count(kind string, n [fates]int) {
	total := 0
	for f, k := range n {
		m.items.WithLabelValues(kind, fateNames[f]).Add(float64(k))
		total += k
	}
	m.received.WithLabelValues(kind).Add(float64(total))
}
