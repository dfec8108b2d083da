package measure

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"
)

// vector reads a file of the shared vectors, or skips where they are not beside
// the repository.
func vector(t *testing.T, name string, into any) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(sharedDir(t), "vectors", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatal(err)
	}
}

func sharedDir(t *testing.T) string {
	if d := os.Getenv("LOOPTAPE_SHARED"); d != "" {
		return d
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		up := filepath.Dir(dir)
		if up == dir {
			t.Fatal("no go.mod above the test")
		}
		dir = up
	}
	shared := filepath.Join(dir, "..", "shared")
	if _, err := os.Stat(filepath.Join(shared, "vectors")); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err) // in CI a missing component is a failure
		}
		t.Skip("no shared vectors beside the repository (LOOPTAPE_SHARED)")
	}
	return shared
}

func near(t *testing.T, what string, got, want, tol float64) {
	t.Helper()
	if !(math.Abs(got-want) <= tol) {
		t.Errorf("%s = %.15g, want %.15g", what, got, want)
	}
}

func passFail(n1, s1, n0, s0 int64) *Counts {
	var c Counts
	c[Candidate][100], c[Candidate][0] = s1, n1-s1
	c[Baseline][100], c[Baseline][0] = s0, n0-s0
	return &c
}

func TestVector05(t *testing.T) {
	var f struct {
		Cases []struct {
			Name                string
			G, Pi, Delta        float64
			Zmax, Zmin          float64
			Alpha, Lower, Upper float64
			Point               float64 `json:"ipw_point"`
			N1, S1, N0, S0      int64
			LogE                *float64 `json:"log_e_additive_AIPW"`
			Profile             *float64 `json:"log_e_profile"`
			Events              []struct {
				Arm     int
				Y, Z    float64
				Harm    float64 `json:"u_harm"`
				Promote float64 `json:"u_promote"`
				EHarm   float64 `json:"log_e_harm"`
				EProm   float64 `json:"log_e_promote"`
			}
			FinalHarm     []float64 `json:"final_logwealth_vector_harm"`
			FinalPromote  []float64 `json:"final_logwealth_vector_promote"`
			N             int64
			Worse, Better int64
			LogEHarm      float64 `json:"log_e_harm"`
			LogEPromote   float64 `json:"log_e_promote"`
			Total         []int64
			LogEFixed     float64 `json:"log_e_fixed"`
			LogEFloat     float64 `json:"log_e_float"`
		}
	}
	vector(t, "05_two_sample_and_paired_eprocess.json", &f)
	grid := Geometric(0.9, 0.5, 12)
	seen := 0
	for _, c := range f.Cases {
		t.Run(c.Name, func(t *testing.T) {
			s := Setting{c.Pi, c.G, c.Delta}
			switch {
			case len(c.Events) > 0:
				zmin, zmax := s.Bounds()
				near(t, "zmin", zmin, c.Zmin, 1e-12)
				near(t, "zmax", zmax, c.Zmax, 1e-12)
				table, err := NewTable(grid, s)
				if err != nil {
					t.Fatal(err)
				}
				var counts Counts
				w := NewWealth(len(grid))
				for i, e := range c.Events {
					z := s.Pseudo(e.Arm, e.Y)
					near(t, "z", z, e.Z, 1e-12)
					near(t, "u", s.Stake(Harm, z), e.Harm, 1e-12)
					near(t, "v", s.Stake(Promote, z), e.Promote, 1e-12)
					bin := Bin(e.Y)
					if math.Abs(float64(bin)/100-e.Y) > 1e-9 {
						t.Fatalf("event %d: outcome %v is not a hundredth", i, e.Y)
					}
					counts.Add(e.Arm, bin)
					w.Add(table, e.Arm, bin)
					st := []StageCounts{{s, &counts}}
					near(t, "harm", LogEAt(grid, st, Harm, c.Delta), e.EHarm, 1e-9)
					near(t, "promote", LogEAt(grid, st, Promote, c.Delta), e.EProm, 1e-9)
					// Fixed point rounds each increment to 2^-32.
					near(t, "fixed harm", w.LogE(Harm), e.EHarm, 1e-8)
					near(t, "fixed promote", w.LogE(Promote), e.EProm, 1e-8)
				}
				for k := range grid {
					near(t, "harm wealth", float64(w.Harm[k])/One, c.FinalHarm[k], 1e-8)
					near(t, "promote wealth", float64(w.Promote[k])/One, c.FinalPromote[k], 1e-8)
				}
			case c.LogE != nil:
				st := []StageCounts{{s, passFail(c.N1, c.S1, c.N0, c.S0)}}
				near(t, "log e", LogEAt(grid, st, Harm, c.Delta), *c.LogE, 1e-9)
				near(t, "profile", ProfileLogE(grid, st[0].Counts, c.Delta), *c.Profile, 1e-9)
			case c.Alpha > 0:
				st := []StageCounts{{s, passFail(c.N1, c.S1, c.N0, c.S0)}}
				lo, hi := EffectSequence(grid, st, c.Alpha)
				near(t, "lower", lo, c.Lower, 1e-9)
				near(t, "upper", hi, c.Upper, 1e-9)
				near(t, "point", Estimate(st), c.Point, 1e-9)
			case c.Worse > 0:
				d := map[float64]int64{-1: c.Worse, 1: c.Better, 0: c.N - c.Worse - c.Better}
				near(t, "harm", PairedLogE(grid, d, Harm, c.Delta), c.LogEHarm, 1e-9)
				near(t, "promote", PairedLogE(grid, d, Promote, c.Delta), c.LogEPromote, 1e-9)
			case len(c.Total) > 0:
				near(t, "fixed", FixedLogE(c.Total), c.LogEFixed, 1e-9)
				near(t, "fixed against float", FixedLogE(c.Total), c.LogEFloat, 1e-8)
			default:
				t.Fatal("a case that no check knows")
			}
		})
		seen++
	}
	if seen == 0 {
		t.Fatal("no cases")
	}
}

func TestVector05b(t *testing.T) {
	type counts struct {
		Pi, G          float64
		N1, S1, N0, S0 int64
	}
	var f struct {
		Grid  Grid
		Cases []struct {
			counts
			Name    string
			Delta   float64
			Stages  []counts
			Harm    float64   `json:"log_e_harm"`
			Promote *float64  `json:"log_e_promote"`
			WHarm   []float64 `json:"logwealth_harm"`
			WProm   []float64 `json:"logwealth_promote"`
		}
	}
	vector(t, "05b_default_grid_eprocess.json", &f)
	grid := DefaultGrid()
	for k := range f.Grid {
		if grid[k] != f.Grid[k] {
			t.Fatalf("grid = %v, want %v", grid, f.Grid)
		}
	}
	for _, c := range f.Cases {
		t.Run(c.Name, func(t *testing.T) {
			if c.Stages == nil {
				c.Stages = []counts{c.counts}
			}
			var st []StageCounts
			w := NewWealth(len(grid))
			units := int64(0)
			for _, s := range c.Stages {
				set := Setting{s.Pi, s.G, c.Delta}
				table, err := NewTable(grid, set)
				if err != nil {
					t.Fatal(err)
				}
				b := passFail(s.N1, s.S1, s.N0, s.S0)
				st = append(st, StageCounts{set, b})
				w.Merge(b.Wealth(table))
				units += s.N1 + s.N0
			}
			near(t, "harm", LogEAt(grid, st, Harm, c.Delta), c.Harm, 1e-9)
			// The worst the rounding of the increments can do.
			tol := 1e-9 + float64(units)/(2*One)
			near(t, "fixed harm", w.LogE(Harm), c.Harm, tol)
			for k, v := range c.WHarm {
				near(t, "wealth", float64(w.Harm[k])/One, v, tol)
			}
			if c.Promote != nil {
				near(t, "promote", LogEAt(grid, st, Promote, c.Delta), *c.Promote, 1e-9)
				near(t, "fixed promote", w.LogE(Promote), *c.Promote, tol)
				for k, v := range c.WProm {
					near(t, "wealth", float64(w.Promote[k])/One, v, tol)
				}
			}
		})
	}
}

func TestVector07(t *testing.T) {
	var f struct {
		Static struct {
			E, Weights []float64
			Alpha      float64
			Average    float64   `json:"global_average"`
			Closed     []float64 `json:"closed_average_adjusted"`
			BH         []int     `json:"e_BH_rejected"`
			BH02       []int     `json:"e_BH_alpha_02"`
			BH01       []int     `json:"e_BH_alpha_01"`
		}
		Adjusters struct{ M, Mixture []float64 }
		ELOND     struct {
			Alpha float64
			Rows  []struct {
				T      int
				E      float64
				AlphaT float64 `json:"alpha_t"`
				Reject bool
			}
		} `json:"e_LOND"`
	}
	vector(t, "07_multiple_testing.json", &f)
	s := f.Static
	logs := make([]float64, len(s.E))
	for i, e := range s.E {
		logs[i] = math.Log(e)
	}
	near(t, "average", math.Exp(LogAverage(logs, s.Weights)), s.Average, 1e-9)
	for i, l := range LogClosed(logs, s.Weights) {
		near(t, "closed", math.Exp(l), s.Closed[i], 1e-9)
	}
	for _, c := range []struct {
		alpha float64
		want  []int
	}{{s.Alpha, s.BH}, {0.2, s.BH02}, {0.1, s.BH01}} {
		got := EBH(s.E, c.alpha)
		if len(got) != len(c.want) {
			t.Errorf("e-BH at %v = %v, want %v", c.alpha, got, c.want)
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("e-BH at %v = %v, want %v", c.alpha, got, c.want)
			}
		}
	}
	for i, m := range f.Adjusters.M {
		near(t, "adjuster", Adjust(m), f.Adjusters.Mixture[i], 1e-9)
	}
	rejected := 0
	for _, r := range f.ELOND.Rows {
		a := LondLevel(f.ELOND.Alpha, r.T, rejected)
		near(t, "alpha_t", a, r.AlphaT, 1e-12)
		if (r.E >= 1/a) != r.Reject {
			t.Errorf("e-LOND at %d: rejects %v", r.T, !r.Reject)
		}
		if r.Reject {
			rejected++
		}
	}
}

// TestRatio holds the two figures of the sample-ratio process that are published
// in its description.
func TestRatio(t *testing.T) {
	near(t, "5300/4700", RatioLogE([]int64{5300, 4700}, []float64{0.5, 0.5}), 15.5, 0.05)
	near(t, "5150/4850", RatioLogE([]int64{5150, 4850}, []float64{0.5, 0.5}), 2.15, 0.01)
	near(t, "nothing", RatioLogE([]int64{0, 0}, []float64{0.25, 0.75}), 0, 1e-12)
}
