package measure

import (
	"encoding/json"
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func drawSetting(t *rapid.T) Setting {
	return Setting{
		Propensity: rapid.SampledFrom([]float64{0.01, 0.05, 0.25, 0.5, 0.9}).Draw(t, "pi"),
		Guess:      rapid.Float64Range(MinGuess, MaxGuess).Draw(t, "g"),
		Margin:     rapid.Float64Range(0, 0.3).Draw(t, "delta"),
	}
}

// TestStakesAreBounded: no bet can lose more than it stakes, on any outcome.
func TestStakesAreBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSetting(t)
		arm, y := rapid.IntRange(0, 1).Draw(t, "arm"), rapid.Float64Range(0, 1).Draw(t, "y")
		z := s.Pseudo(arm, y)
		zmin, zmax := s.Bounds()
		if z < zmin-1e-9 || z > zmax+1e-9 {
			t.Fatalf("z = %v outside [%v, %v]", z, zmin, zmax)
		}
		for side := Harm; side <= Promote; side++ {
			if u := s.Stake(side, z); u < -1-1e-12 {
				t.Fatalf("side %d: stake %v", side, u)
			}
		}
	})
}

// TestPseudoIsUnbiased: averaged over the draw of the arm, Z is the effect, and
// each side's expected growth is not positive when its claim is false.
func TestPseudoIsUnbiased(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSetting(t)
		y1, y0 := rapid.Float64Range(0, 1).Draw(t, "y1"), rapid.Float64Range(0, 1).Draw(t, "y0")
		pi := s.Propensity
		if got := pi*s.Pseudo(1, y1) + (1-pi)*s.Pseudo(0, y0); math.Abs(got-(y1-y0)) > 1e-9 {
			t.Fatalf("mean of Z = %v, effect %v", got, y1-y0)
		}
		for side, null := range []bool{y1-y0 >= -s.Margin, y1-y0 <= -s.Margin} {
			mean := pi*s.Stake(Side(side), s.Pseudo(1, y1)) + (1-pi)*s.Stake(Side(side), s.Pseudo(0, y0))
			if null && mean > 1e-9 {
				t.Fatalf("side %d bets at a profit %v against a true claim", side, mean)
			}
		}
	})
}

// TestSumsAreOrderFree: any order and any partitioning give the same integers,
// and they are those of the counts.
func TestSumsAreOrderFree(t *testing.T) {
	type unit struct{ arm, outcome int }
	rapid.Check(t, func(t *rapid.T) {
		table, err := NewTable(DefaultGrid(), drawSetting(t))
		if err != nil {
			t.Fatal(err)
		}
		units := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) unit {
			return unit{rapid.IntRange(0, 1).Draw(t, "arm"), rapid.IntRange(0, Outcomes-1).Draw(t, "outcome")}
		}), 0, 50).Draw(t, "units")
		whole, counts := NewWealth(8), Counts{}
		for _, u := range units {
			whole.Add(table, u.arm, u.outcome)
			counts.Add(u.arm, u.outcome)
		}
		merged := NewWealth(8)
		for i := range 3 {
			part := NewWealth(8)
			for k, u := range slices.Backward(units) {
				if k%3 == i {
					part.Add(table, u.arm, u.outcome)
				}
			}
			merged.Merge(part)
		}
		if d := cmp.Diff(whole, merged); d != "" {
			t.Fatal(d)
		}
		if d := cmp.Diff(whole, counts.Wealth(table)); d != "" {
			t.Fatal(d)
		}
		b, err := json.Marshal(counts)
		if err != nil {
			t.Fatal(err)
		}
		var back Counts
		if err := json.Unmarshal(b, &back); err != nil || back != counts {
			t.Fatalf("counts came back as %v, %v", back, err)
		}
	})
}

// TestMissingHurts: whatever a missing outcome would have been, it would not have
// been worse for the claim.
func TestMissingHurts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table, err := NewTable(DefaultGrid(), drawSetting(t))
		if err != nil {
			t.Fatal(err)
		}
		arm, o := rapid.IntRange(0, 1).Draw(t, "arm"), rapid.IntRange(0, Bins-1).Draw(t, "outcome")
		missing, known := NewWealth(8), NewWealth(8)
		missing.Add(table, arm, Missing)
		known.Add(table, arm, o)
		for k := range missing.Harm {
			if missing.Harm[k] > known.Harm[k] || missing.Promote[k] > known.Promote[k] {
				t.Fatalf("arm %d, outcome %d: a missing one gains more", arm, o)
			}
		}
	})
}

func TestCombinations(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 8).Draw(t, "n")
		logs := rapid.SliceOfN(rapid.Float64Range(-20, 20), n, n).Draw(t, "logs")
		weights := rapid.SliceOfN(rapid.Float64Range(0.1, 5), n, n).Draw(t, "weights")
		avg := LogAverage(logs, weights)
		if top := slices.Max(logs); avg > top+1e-9 || avg < slices.Min(logs)-1e-9 {
			t.Fatalf("average %v outside the values", avg)
		}
		closed := LogClosed(logs, weights)
		for i := range closed {
			if closed[i] > logs[i]+1e-12 {
				t.Fatalf("closed %v above its own value %v", closed[i], logs[i])
			}
			// Against all sets that contain i, one by one.
			want := math.Inf(1)
			for set := range 1 << n {
				if set>>i&1 == 0 {
					continue
				}
				var l, w []float64
				for j := range n {
					if set>>j&1 == 1 {
						l, w = append(l, logs[j]), append(w, weights[j])
					}
				}
				want = math.Min(want, LogAverage(l, w))
			}
			if math.Abs(closed[i]-want) > 1e-9 {
				t.Fatalf("closed[%d] = %v, the smallest average is %v", i, closed[i], want)
			}
		}
		if n > 1 { // more evidence never gives less
			more := slices.Clone(logs)
			more[0] += 1
			if LogAverage(more, weights) < avg-1e-12 || LogClosed(more, weights)[0] < closed[0]-1e-12 {
				t.Fatal("more evidence gave less")
			}
		}
	})
}

// TestEffectSequence: it holds the estimate, narrows with more of the same, and
// every outcome missing tells nothing.
func TestEffectSequence(t *testing.T) {
	grid, s := DefaultGrid(), Setting{Propensity: 0.5, Guess: 0.9}
	width := 2.0
	for _, n := range []int64{0, 50, 500, 5000} {
		st := []StageCounts{{s, passFail(n, n*8/10, n, n*9/10)}}
		lo, hi := EffectSequence(grid, st, 0.05)
		if e := Estimate(st); !(lo <= e && e <= hi) || hi-lo > width || lo < -1 || hi > 1 {
			t.Errorf("n = %d: [%v, %v] around %v", n, lo, hi, e)
		}
		width = hi - lo
	}
	var c Counts
	c[0][Missing], c[1][Missing] = 5000, 5000
	if lo, hi := EffectSequence(grid, []StageCounts{{s, &c}}, 0.05); lo > -0.9 || hi < 0.9 {
		t.Errorf("nothing but missing outcomes gives [%v, %v]", lo, hi)
	}
}

func TestLimits(t *testing.T) {
	for _, s := range []Setting{
		{0, 0.5, 0}, {1, 0.5, 0}, {math.NaN(), 0.5, 0}, {0.5, 0, 0}, {0.5, 1, 0}, {0.5, math.NaN(), 0}, {0.5, 0.5, -0.1}, {0.5, 0.5, 1}, {0.5, 0.5, math.NaN()},
	} {
		if _, err := NewTable(DefaultGrid(), s); err == nil {
			t.Errorf("%+v was taken", s)
		}
	}
	for _, g := range []Grid{nil, {0}, {1}, {math.NaN()}, make(Grid, 65)} {
		if _, err := NewTable(g, Setting{0.5, 0.5, 0}); err == nil {
			t.Errorf("grid %v was taken", g)
		}
	}
	for y, want := range map[float64]int{-1: 0, 0: 0, 0.004: 0, 0.005: 1, 0.5: 50, 0.994: 99, 1: 100, 7: 100} {
		if got := Bin(y); got != want {
			t.Errorf("Bin(%v) = %d, want %d", y, got, want)
		}
	}
	if Bin(math.NaN()) != 0 {
		t.Error("not a number is taken as good")
	}
}

// TestGoldenIncrements holds some increments, computed elsewhere: ones that changed would break every
// stored process and the recomputation of every old decision.
func TestGoldenIncrements(t *testing.T) {
	table, err := NewTable(DefaultGrid(), Setting{0.25, 0.9, 0.01})
	if err != nil {
		t.Fatal(err)
	}
	w := NewWealth(8)
	w.Add(table, Candidate, 0)
	w.Add(table, Baseline, 37)
	if d := cmp.Diff(goldenWealth, w); d != "" {
		t.Errorf("%#v\n%s", w, d)
	}
}

func FuzzCounts(f *testing.F) {
	f.Add([]byte(`[[[100,5],[0,1]],[[102,3]]]`))
	f.Add([]byte(`[[[-1,5]],[]]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var c Counts
		if json.Unmarshal(b, &c) != nil {
			return
		}
		out, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		var back Counts
		if err := json.Unmarshal(out, &back); err != nil || back != c {
			t.Fatalf("%s came back as %v, %v", out, back, err)
		}
	})
}

var goldenWealth = Wealth{
	Harm:    []int64{2398639522, 1694919629, 1024453756, 568603819, 300582492, 154698057, 78497830, 39542359},
	Promote: []int64{-2568415501, -1026412750, -467653537, -223934989, -109649153, -54262680, -26992985, -13462163},
}
