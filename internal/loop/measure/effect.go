package measure

import "math"

// StageCounts is one stage's histogram with what was frozen in it. The margin of
// the setting is not used here.
type StageCounts struct {
	Setting Setting
	Counts  *Counts
}

// LogEAt is the log e-value of a side at any margin in (-1, 1), from counts,
// in floating point.
func LogEAt(grid Grid, stages []StageCounts, side Side, margin float64) float64 {
	logs := make([]float64, len(grid))
	for _, st := range stages {
		zmin, zmax := st.Setting.Bounds()
		for arm := range st.Counts {
			for o, n := range st.Counts[arm] {
				if n == 0 {
					continue
				}
				z := st.Setting.Pseudo(arm, value(side, arm, o, st.Setting.Guess))
				u := math.Max(stake(side, z, margin, zmin, zmax), -1)
				for k, c := range grid {
					logs[k] += float64(n) * math.Log1p(c*u)
				}
			}
		}
	}
	return LogE(logs)
}

// EffectSequence is the confidence sequence of the mean effect (candidate minus
// baseline) at level 1-alpha: the effects that neither side rejects at alpha/2.
// It covers at all times at once. Missing outcomes widen it on both sides.
func EffectSequence(grid Grid, stages []StageCounts, alpha float64) (lo, hi float64) {
	bound := math.Log(2 / alpha)
	// The harm side's E falls as the margin grows, so with effect = -margin it
	// rises with the effect: the upper end is where it reaches the bound. Mirrored
	// below for the lower end.
	hi = edge(func(effect float64) bool { return LogEAt(grid, stages, Harm, -effect) < bound })
	lo = -edge(func(effect float64) bool { return LogEAt(grid, stages, Promote, effect) < bound })
	return lo, hi
}

// edge is the largest x in (-1, 1) that keep holds for; keep is true up to some
// point and false after it.
func edge(keep func(float64) bool) float64 {
	lo, hi := -1.0, 1.0
	for range 52 {
		mid := lo + (hi-lo)/2
		if keep(mid) {
			lo = mid
		} else {
			hi = mid
		}
	}
	if 1-lo < 1e-12 {
		return 1
	}
	if 1+lo < 1e-12 {
		return -1
	}
	return lo
}

// Estimate is the inverse-propensity estimate of the mean effect over all units;
// missing and inapplicable outcomes count as the guess.
func Estimate(stages []StageCounts) float64 {
	var sum float64
	var n int64
	for _, st := range stages {
		for arm := range st.Counts {
			for o, k := range st.Counts[arm] {
				if k == 0 {
					continue
				}
				n += k
				if o < Bins {
					sum += float64(k) * st.Setting.Pseudo(arm, float64(o)/(Bins-1))
				}
			}
		}
	}
	if n == 0 {
		return 0
	}
	return sum / float64(n)
}
