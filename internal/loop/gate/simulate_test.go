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

// TestDemoTimeline: what `looptape demo` promises, in virtual time. The defect
// begins 20 s after the start and is in one metric only; the pages must show a
// rollback within 90 s of the start, of which units take 7 s to have their turn.
func TestDemoTimeline(t *testing.T) {
	p := loadEmbedded(t, PolicyDemo)
	lag := (p.UnitClose + p.Watermark.Time + p.Readout.Every).Seconds()
	for _, c := range []struct {
		name  string
		rate  float64
		in    string
		drop  float64
		means map[string]float64
	}{
		{"stale index", 40, "retrieval_fresh", 0.6, nil},
		{"stale index, slow traffic", 25, "retrieval_fresh", 0.6, nil},
		{"ungrounded answers", 40, "grounded", 0.4, nil},
		{"ungrounded answers, a guess that is off", 40, "grounded", 0.4, map[string]float64{"grounded": 0.7, "citation": 0.6}},
		{"half of the citations", 40, "citation", 0.45, nil},
	} {
		s, err := Simulate(t.Context(), SimulateConfig{
			Policy: p, Runs: 12, Units: int(80 * c.rate), Rate: c.rate, Seed: 3, Defect: c.drop, DefectIn: c.in, DefectFrom: int(20 * c.rate), Means: c.means,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d of %d, median %.0f s", c.name, s.Rollbacks, s.Runs, float64(s.Median)/c.rate+lag)
		if s.Rollbacks != s.Runs {
			t.Errorf("%s: %d of %d rolled back within 80 s", c.name, s.Rollbacks, s.Runs)
		}
	}
}
