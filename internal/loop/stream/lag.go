package stream

import (
	"sync"
	"time"
)

// A lagMeter holds how far each partition is behind and publishes the sums. Safe
// for concurrent use.
type lagMeter struct {
	group   string
	metrics *metrics
	mu      sync.Mutex // guards the rest
	at      map[topicPartition]lagAt
	topics  map[string]bool // all that were ever published
}

type lagAt struct {
	next, end int64
	newest    time.Time // append time of the last record processed; zero before the first
}

func newLagMeter(group string, m *metrics) *lagMeter {
	return &lagMeter{group: group, metrics: m, at: map[topicPartition]lagAt{}, topics: map[string]bool{}}
}

// ended notes the end of the log, as a fetch told.
func (l *lagMeter) ended(topic string, partition int32, end int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	tp := topicPartition{topic, partition}
	a := l.at[tp]
	a.end = max(a.end, end)
	l.at[tp] = a
}

// processed notes the position after a checkpoint.
func (l *lagMeter) processed(topic string, partition int32, next int64, newest time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	tp := topicPartition{topic, partition}
	a := l.at[tp]
	a.next, a.end = next, max(a.end, next)
	if !newest.IsZero() {
		a.newest = newest
	}
	l.at[tp] = a
}

// dropped forgets a partition that this process no longer works on.
func (l *lagMeter) dropped(topic string, partition int32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.at, topicPartition{topic, partition})
}

// end is the end of the log as far as it is known.
func (l *lagMeter) end(topic string, partition int32) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.at[topicPartition{topic, partition}].end
}

// publish sets the gauges.
func (l *lagMeter) publish(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lag, delay := map[string]int64{}, map[string]time.Duration{}
	for topic := range l.topics { // one that was given away is nobody's lag here
		lag[topic], delay[topic] = 0, 0
	}
	for tp, a := range l.at {
		behind := max(0, a.end-a.next)
		l.topics[tp.topic] = true
		lag[tp.topic] += behind
		if behind > 0 && !a.newest.IsZero() {
			delay[tp.topic] = max(delay[tp.topic], now.Sub(a.newest))
		}
	}
	for topic, n := range lag {
		l.metrics.lag.WithLabelValues(l.group, topic).Set(float64(n))
		l.metrics.delay.WithLabelValues(l.group, topic).Set(delay[topic].Seconds())
	}
}
