package gate

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/looptape/looptape/internal/loop/event"
)

type metrics struct {
	units     *prometheus.CounterVec
	decisions *prometheus.CounterVec
	open      *prometheus.GaugeVec
	logE      *prometheus.GaugeVec
	lag       *prometheus.GaugeVec
	unread    prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		units:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "looptape_gate_units_total", Help: "Units that entered a comparison."}, []string{"release", "arm"}),
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "looptape_gate_decisions_total", Help: "Decisions taken, by action."}, []string{"action"}),
		open:      prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "looptape_gate_open_units", Help: "Units that wait for their turn."}, []string{"release"}),
		logE:      prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "looptape_gate_log_e", Help: "Natural log of the overall e-value, by side."}, []string{"release", "side"}),
		lag:       prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "looptape_gate_watermark_lag_seconds", Help: "Event time between the newest case and the last unit that had its turn."}, []string{"release"}),
		unread:    prometheus.NewCounter(prometheus.CounterOpts{Name: "looptape_gate_unreadable_records_total", Help: "Records that could not be decoded and were passed over."}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.units, m.decisions, m.open, m.logE, m.lag, m.unread} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// read takes the numbers of an evidence. Releases come from deployment events of
// operators, so their number stays small.
func (m *metrics) read(ev *event.Evidence) {
	for _, u := range ev.Units {
		arm := event.ArmBaseline
		if u.Arm == 1 {
			arm = event.ArmCandidate
		}
		m.units.WithLabelValues(ev.Release, arm).Inc()
	}
	m.open.WithLabelValues(ev.Release).Set(float64(ev.Open))
	m.logE.WithLabelValues(ev.Release, "harm").Set(ev.Overall.Harm)
	m.logE.WithLabelValues(ev.Release, "promote").Set(ev.Overall.Promote)
	m.lag.WithLabelValues(ev.Release).Set(ev.LagS)
}
