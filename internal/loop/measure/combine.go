package measure

import (
	"cmp"
	"math"
	"slices"
)

// LogAverage is the log of the weighted average of e-values given by their logs;
// the weights need not sum to one. It is an e-value under any dependence of
// e-processes of the same filtration, and never above the largest.
func LogAverage(logE, weights []float64) float64 {
	var total float64
	terms := make([]float64, 0, len(logE))
	for i, l := range logE {
		if weights[i] > 0 {
			terms = append(terms, l+math.Log(weights[i]))
			total += weights[i]
		}
	}
	if total == 0 {
		return 0
	}
	return logSumExp(terms) - math.Log(total)
}

// LogClosed is closed testing with weighted averages: for every e-value the
// smallest average over all sets that contain it. Those that cross may be blamed
// with family-wise error alpha. An entry of weight zero takes no part and gets
// its own value.
func LogClosed(logE, weights []float64) []float64 {
	order := make([]int, 0, len(logE))
	for i := range logE {
		if weights[i] > 0 {
			order = append(order, i)
		}
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(logE[a], logE[b]), cmp.Compare(a, b))
	})
	out := slices.Clone(logE)
	for _, i := range order {
		// The smallest average is reached by a prefix of the others in ascending
		// order: adding one lowers the average exactly while it lies below it.
		log, weight := logE[i]+math.Log(weights[i]), weights[i]
		for _, j := range order {
			if j == i {
				continue
			}
			if logE[j] >= log-math.Log(weight) {
				break
			}
			log = logSumExp([]float64{log, logE[j] + math.Log(weights[j])})
			weight += weights[j]
		}
		out[i] = math.Min(logE[i], log-math.Log(weight))
	}
	return out
}

// EBH rejects at false discovery rate alpha, at one chosen time, under any
// dependence: the indices of the k largest e-values, ascending.
func EBH(e []float64, alpha float64) []int {
	order := make([]int, len(e))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(e[b], e[a]) })
	k := 0
	for i, at := range order {
		if float64(i+1)*e[at]/float64(len(e)) >= 1/alpha {
			k = i + 1
		}
	}
	out := slices.Clone(order[:k])
	slices.Sort(out)
	return out
}

// Adjust turns the running maximum M >= 1 of an e-process into an e-value.
func Adjust(m float64) float64 {
	l := math.Log(m)
	if l < 1e-4 { // the series, where the closed form cancels
		return 0.5 + l/6
	}
	return (m - 1 - l) / (l * l)
}

// LondLevel is the level of the t-th release (from 1) of a stream of releases of
// which rejected were rolled back before: e-LOND, valid under any dependence.
func LondLevel(alpha float64, t, rejected int) float64 {
	return alpha / (float64(t) * float64(t+1)) * float64(rejected+1)
}
