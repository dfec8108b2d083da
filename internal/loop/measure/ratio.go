package measure

import "math"

// ratioPrior is the strength of the prior around the declared shares.
const ratioPrior = 100

// RatioLogE is the sample-ratio e-process: the log e-value against "every unit
// fell into category i with probability share[i]", from counts. It is valid at
// all times. Shares must be positive and sum to one.
func RatioLogE(counts []int64, shares []float64) float64 {
	var total, out float64
	for i, n := range counts {
		q := ratioPrior * shares[i]
		out += lgamma(q+float64(n)) - lgamma(q) - float64(n)*math.Log(shares[i])
		total += float64(n)
	}
	return out + lgamma(ratioPrior) - lgamma(ratioPrior+total)
}

func lgamma(x float64) float64 {
	v, _ := math.Lgamma(x)
	return v
}
