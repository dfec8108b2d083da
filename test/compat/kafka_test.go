//go:build compat

package compat

import (
	"testing"
	"time"

	"github.com/looptape/looptape/test/e2e"
	"github.com/looptape/looptape/test/rig"
)

// TestLoopOnApacheKafka runs the loop's end-to-end test, unchanged, on a real
// Apache Kafka of the version pinned in java/pom.xml.
func TestLoopOnApacheKafka(t *testing.T) {
	k := rig.StartKafka(t, rig.KafkaOptions{})
	s := rig.Serve(t, "--brokers", k.Addr)
	e2e.Loop(t, s)
	if err := s.Stop(30 * time.Second); err != nil {
		t.Errorf("stop: %v", err)
	}
}
