//go:build e2e

package e2e

import (
	"testing"
	"time"

	"github.com/looptape/looptape/test/rig"
)

// TestTape runs the loop on the embedded tape.
func TestTape(t *testing.T) {
	s := rig.Serve(t)
	Loop(t, s)
	if err := s.Stop(30 * time.Second); err != nil {
		t.Errorf("stop: %v", err)
	}
}
