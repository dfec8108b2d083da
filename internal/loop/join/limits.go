package join

import (
	"math"
	"time"
	"unicode/utf8"
)

// Limits of one state. A list keeps the first items in its order, as many as the
// count and the bytes allow; the rest is counted.
const (
	maxParts      = 1000
	maxPartBytes  = 160 << 10
	maxScores     = 256
	maxScoreBytes = 128 << 10
	maxLabels     = 256
	maxLabelBytes = 96 << 10

	maxBound    = 16 // requests of one alias
	maxAliases  = 64 // listed in a case
	maxSegments = 32 // of one part

	// maxCaseBytes bounds a case's record. Lists are halved until it holds, which
	// only happens when strings are as long as they may be.
	maxCaseBytes = 900 << 10
)

// Limits of strings, in bytes; longer ones are cut.
const (
	maxID    = 256
	maxType  = 128
	maxSpan  = 64
	maxFact  = 256
	maxWord  = 128 // kinds, labels, roles, modes
	maxCause = 256 // reasons
)

// clip cuts a string to at most n bytes of whole characters. What is not UTF-8
// is replaced, as JSON would do later.
func clip(s string, n int) string {
	if len(s) > n {
		for n > 0 && !utf8.RuneStart(s[n]) {
			n--
		}
		s = s[:n]
	}
	if !utf8.ValidString(s) {
		s = string([]rune(s))
	}
	return s
}

// nanos is a time as nanoseconds since 1970; times that do not fit are the
// nearest that do.
func nanos(t time.Time) int64 {
	switch y := t.Year(); {
	case t.IsZero():
		return 0
	case y < 1678:
		return math.MinInt64
	case y > 2261:
		return math.MaxInt64
	}
	return t.UnixNano()
}

func fromNanos(n int64) time.Time { return time.Unix(0, n).UTC() }

// picos is money in units of 1e-12 dollars, so that sums do not depend on their
// order; what is no amount of money is nothing.
func picos(usd float64) int64 {
	switch v := math.Round(usd * 1e12); {
	case !(v > 0):
		return 0
	case v > 1<<62:
		return 1 << 62
	default:
		return int64(v)
	}
}

// addUp adds without going over.
func addUp(a, b int64) int64 {
	if b > math.MaxInt64-a {
		return math.MaxInt64
	}
	return a + b
}
