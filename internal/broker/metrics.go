package broker

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/broker/front/api"
)

// metrics observe the wire and the APIs. What is counted for each API is looked
// up once, at the start, so that counting costs no allocation.
type metrics struct {
	connections prometheus.Gauge
	opened      prometheus.Counter
	closed      *prometheus.CounterVec
	in, out     prometheus.Counter
	requests    prometheus.Gauge
	bytes       prometheus.Gauge
	errors      *prometheus.CounterVec
	served      [128]prometheus.Observer
	bodies      [128]prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		connections: prometheus.NewGauge(prometheus.GaugeOpts{Name: "looptape_kafka_connections", Help: "Open Kafka connections."}),
		opened:      prometheus.NewCounter(prometheus.CounterOpts{Name: "looptape_kafka_connections_opened_total", Help: "Kafka connections accepted."}),
		closed:      prometheus.NewCounterVec(prometheus.CounterOpts{Name: "looptape_kafka_connections_closed_total", Help: "Kafka connections closed, by reason."}, []string{"reason"}),
		in:          prometheus.NewCounter(prometheus.CounterOpts{Name: "looptape_kafka_received_bytes_total", Help: "Bytes read from Kafka connections."}),
		out:         prometheus.NewCounter(prometheus.CounterOpts{Name: "looptape_kafka_sent_bytes_total", Help: "Bytes written to Kafka connections."}),
		requests:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "looptape_kafka_requests_in_flight", Help: "Requests that wait for their answer."}),
		bytes:       prometheus.NewGauge(prometheus.GaugeOpts{Name: "looptape_kafka_request_bytes_in_flight", Help: "Their bytes."}),
		errors:      prometheus.NewCounterVec(prometheus.CounterOpts{Name: "looptape_kafka_errors_total", Help: "Error codes given to clients, by API."}, []string{"api", "error"}),
	}
	latency := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "looptape_kafka_request_seconds", Help: "From a request's last byte to its answer's last byte, waiting included.",
		Buckets: prometheus.ExponentialBuckets(0.0001, 2.5, 14),
	}, []string{"api"})
	bodies := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "looptape_kafka_request_bytes_total", Help: "Bytes of answered requests, by API."}, []string{"api"})
	for _, a := range api.Served() {
		name := kmsg.NameForKey(a.ApiKey)
		m.served[a.ApiKey] = latency.WithLabelValues(name)
		m.bodies[a.ApiKey] = bodies.WithLabelValues(name)
	}
	for _, c := range []prometheus.Collector{m.connections, m.opened, m.closed, m.in, m.out, m.requests, m.bytes, m.errors, latency, bodies} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) Opened() {
	m.connections.Inc()
	m.opened.Inc()
}

func (m *metrics) Closed(reason string) { m.closed.WithLabelValues(reason).Inc() }
func (m *metrics) Gone()                { m.connections.Dec() }
func (m *metrics) Read(n int)           { m.in.Add(float64(n)) }
func (m *metrics) Wrote(n int)          { m.out.Add(float64(n)) }

func (m *metrics) InFlight(requests int, bytes int64) {
	m.requests.Add(float64(requests))
	m.bytes.Add(float64(bytes))
}

func (m *metrics) Served(key, _ int16, latency time.Duration, size int64) {
	if key >= 0 && int(key) < len(m.served) && m.served[key] != nil {
		m.served[key].Observe(latency.Seconds())
		m.bodies[key].Add(float64(size))
	}
}

func (m *metrics) Error(key, code int16) {
	name := strconv.Itoa(int(code))
	if e, ok := kerr.ErrorForCode(code).(*kerr.Error); ok {
		name = e.Message
	}
	m.errors.WithLabelValues(kmsg.NameForKey(key), name).Inc()
}
