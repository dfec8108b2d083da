package measure

import "math"

// PairedLogE is the comparison of the same units under both versions (shadow or
// replay): d is candidate minus baseline in [-1, 1], by the number of times it
// was seen.
func PairedLogE(grid Grid, differences map[float64]int64, side Side, margin float64) float64 {
	logs := make([]float64, len(grid))
	for d, n := range differences {
		u := math.Max(stake(side, d, margin, -1, 1), -1)
		for k, c := range grid {
			logs[k] += float64(n) * math.Log1p(c*u)
		}
	}
	return LogE(logs)
}

// ProfileLogE compares two concurrent arms that were not randomised, from their
// counts (missing and inapplicable outcomes are left out): the least over m of
// the product of "candidate mean is below m" and "baseline mean is above
// m+margin". It holds only if one level separates the arms throughout; common
// drift with a ramp breaks it. A fallback, always shown with that caveat.
func ProfileLogE(grid Grid, c *Counts, margin float64) float64 {
	at := func(m float64) float64 {
		low := make([]float64, len(grid))
		high := make([]float64, len(grid))
		for o := range Bins {
			y := float64(o) / (Bins - 1)
			if n := c[Candidate][o]; n > 0 {
				for k, f := range grid {
					low[k] += float64(n) * math.Log(1-f+f*ratio(1-y, 1-m))
				}
			}
			if n := c[Baseline][o]; n > 0 {
				for k, f := range grid {
					high[k] += float64(n) * math.Log(1-f+f*ratio(y, m+margin))
				}
			}
		}
		return LogE(low) + LogE(high)
	}
	// The logarithm is convex in m: golden-section search.
	const phi = 0.6180339887498949
	a, b := 0.0, 1-margin
	x1, x2 := b-phi*(b-a), a+phi*(b-a)
	f1, f2 := at(x1), at(x2)
	for range 90 {
		if f1 <= f2 {
			b, x2, f2 = x2, x1, f1
			x1 = b - phi*(b-a)
			f1 = at(x1)
		} else {
			a, x1, f1 = x1, x2, f2
			x2 = a + phi*(b-a)
			f2 = at(x2)
		}
	}
	return math.Min(f1, f2)
}

func ratio(x, y float64) float64 {
	if x == 0 {
		return 0
	}
	return x / math.Max(y, 1e-300)
}
