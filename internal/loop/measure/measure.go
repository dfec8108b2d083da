// Package measure is the statistics of the loop: numbers in, numbers out.
//
// Its core is the additive-wealth e-process of a release comparison. Every unit
// i of a randomised comparison has an arm (1 candidate, 0 baseline), an outcome
// y in [0,1] where 1 is good, and the logged probability pi of arm 1. With a
// guess g of the mean of y that was frozen before the stage began,
//
//	Z =  (y-g)/pi       arm 1          zmax = max((1-g)/pi, g/(1-pi))
//	Z = -(y-g)/(1-pi)   arm 0          zmin = -max(g/pi, (1-g)/(1-pi))
//
// is unbiased for the candidate's effect on the unit, whatever the traffic does.
// Against "the mean effect is at least -delta" each of K bets multiplies its
// wealth by 1 + c*(-delta-Z)/(zmax+delta); against "the mean effect is at most
// -delta" by 1 + c*(Z+delta)/(-zmin-delta). The mean wealth of the bets is E, and
//
//	P(there is a time with E >= 1/alpha while the claim it bets against holds) <= alpha
//
// at every time at once, however often one looks, under any drift or correlation,
// provided each arm was drawn with the logged probability independently of
// everything before. Over several stages the mean effect is weighted by
// n_s/(zmax_s+delta).
//
// The logarithms of the wealths are sums over units. They are kept as int64 in
// units of 2^-32, added from a Table that is fixed with the stage: sums are
// exact, in any order, over any partitioning, on any machine.
//
// Beside it: the effect's confidence sequence by inversion, averages and closed
// testing over many e-values, the sample-ratio e-process, and the profile and
// paired forms of the comparison. The package is pure: no clock, no randomness,
// no I/O. Arguments outside their range are errors where a caller's data can
// cause them, and never NaN.
package measure

import (
	"fmt"
	"math"
)

// A Grid lists the fractions c of the bets, all in (0, 1), equally weighted.
type Grid []float64

// DefaultGrid is 0.5 * 2^-j for j = 0 .. 7.
func DefaultGrid() Grid { return Geometric(0.5, 0.5, 8) }

// Geometric is first * ratio^j for j = 0 .. n-1.
func Geometric(first, ratio float64, n int) Grid {
	g := make(Grid, n)
	for j := range g {
		g[j] = first
		first *= ratio
	}
	return g
}

// Arms of a comparison.
const (
	Baseline  = 0
	Candidate = 1
)

// A Side is the claim bet against.
type Side int

const (
	Harm    Side = iota // bets against "no worse than the margin": grows when the candidate harms
	Promote             // bets against "worse than the margin": grows when the candidate is at least as good
)

// Limits of what may be frozen in a stage. Outside of them the bounds of Z, and
// with them the number of units needed, are beyond use.
const (
	MinPropensity = 1e-4
	MinGuess      = 0.02
	MaxGuess      = 0.98
)

// A Setting is what a stage freezes for one metric.
type Setting struct {
	Propensity float64 // pi, P(arm = candidate)
	Guess      float64 // g, of the mean outcome
	Margin     float64 // delta >= 0: the harm that is tolerated
}

// Check reports what is out of range.
func (s Setting) Check() error {
	switch {
	case !(s.Propensity >= MinPropensity && s.Propensity <= 1-MinPropensity):
		return fmt.Errorf("propensity %v: must lie between %v and %v", s.Propensity, MinPropensity, 1-MinPropensity)
	case !(s.Guess >= MinGuess && s.Guess <= MaxGuess):
		return fmt.Errorf("guess %v: must lie between %v and %v", s.Guess, MinGuess, MaxGuess)
	case !(s.Margin >= 0 && s.Margin < 1):
		return fmt.Errorf("margin %v: must lie in [0, 1)", s.Margin)
	}
	return nil
}

// Pseudo is Z: the unbiased estimate of the effect on one unit.
func (s Setting) Pseudo(arm int, y float64) float64 {
	if arm == Candidate {
		return (y - s.Guess) / s.Propensity
	}
	return -(y - s.Guess) / (1 - s.Propensity)
}

// Bounds are the least and the greatest value of Z.
func (s Setting) Bounds() (zmin, zmax float64) {
	p, g := s.Propensity, s.Guess
	return -math.Max(g/p, (1-g)/(1-p)), math.Max((1-g)/p, g/(1-p))
}

// Stake is u for the harm side and v for the promote side: the amount, at least
// -1, by which a bet of fraction one would change on a unit with this Z.
func (s Setting) Stake(side Side, z float64) float64 {
	zmin, zmax := s.Bounds()
	return stake(side, z, s.Margin, zmin, zmax)
}

func stake(side Side, z, margin, zmin, zmax float64) float64 {
	if side == Harm {
		return (-margin - z) / (zmax + margin)
	}
	return (z + margin) / (-zmin - margin)
}

// LogE is the logarithm of the mean wealth, from the logarithms of the wealths.
func LogE(logs []float64) float64 {
	return logSumExp(logs) - math.Log(float64(len(logs)))
}

func logSumExp(x []float64) float64 {
	m := math.Inf(-1)
	for _, v := range x {
		m = math.Max(m, v)
	}
	if math.IsInf(m, 0) {
		return m
	}
	var s float64
	for _, v := range x {
		s += math.Exp(v - m)
	}
	return m + math.Log(s)
}
