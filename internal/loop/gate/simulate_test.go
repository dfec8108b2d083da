package gate

import (
	"slices"
	"testing"
)

func TestSimulateWithoutDefect(t *testing.T) {
	for _, name := range []string{PolicyDemo} {
		s, err := Simulate(t.Context(), SimulateConfig{Policy: loadEmbedded(t, name), Runs: 200, Units: 5000, Seed: 7})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %+v", name, s)
		if s.Rate > s.Bound() {
			t.Errorf("%s: %d false rollbacks in %d runs: %.4f, bound %.4f", name, s.Rollbacks, s.Runs, s.Rate, s.Bound())
		}
	}
}

func TestSimulateDefect(t *testing.T) {
	s, err := Simulate(t.Context(), SimulateConfig{Policy: loadEmbedded(t, PolicyDemo), Runs: 20, Units: 3600, Seed: 7, Defect: 0.2, DefectFrom: 800})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", s)
	if s.Rollbacks != s.Runs {
		t.Errorf("%d of %d defects found", s.Rollbacks, s.Runs)
	}
	if s.Median > 800+400 {
		t.Errorf("half of the runs needed %d units, 800 of them before the defect", s.Median)
	}
}

func median(x []float64) float64 {
	slices.Sort(x)
	return x[len(x)/2]
}
