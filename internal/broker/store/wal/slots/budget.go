package slots

import "time"

// month is the time a budget is for.
const month = 30 * 24 * time.Hour

// RequestsFor says how many requests a month a sum buys: dollars, at a price of
// perMillion dollars for a million requests.
func RequestsFor(dollars, perMillion float64) int64 {
	if dollars <= 0 || perMillion <= 0 {
		return 0
	}
	return int64(dollars / perMillion * 1e6)
}

// A budget turns a number of requests a month into a linger. It saves up one day
// of requests. With a full purse the linger is the shortest, with an empty one the
// longest, and then it is also the least time between two requests that are not
// full. No clock runs: what was saved is computed when it is asked for.
type budget struct {
	shortest, longest time.Duration
	perSecond         float64 // 0: no limit
	saved             float64
	at                time.Time // saved was computed
}

func newBudget(shortest, longest time.Duration, perMonth int64) budget {
	b := budget{shortest: shortest, longest: max(shortest, longest)}
	if perMonth > 0 {
		b.perSecond = float64(perMonth) / month.Seconds()
		b.saved = b.purse()
	}
	return b
}

// purse is the most that is saved.
func (b *budget) purse() float64 { return max(1, b.perSecond*(24*time.Hour).Seconds()) }

func (b *budget) earn(now time.Time) {
	if !b.at.IsZero() {
		b.saved = min(b.purse(), b.saved+b.perSecond*max(0, now.Sub(b.at).Seconds()))
	}
	b.at = now
}

// spend takes one request out.
func (b *budget) spend(now time.Time) {
	if b.perSecond > 0 {
		b.earn(now)
		b.saved = max(0, b.saved-1)
	}
}

// linger is how long a slot waits for more records while others are in flight.
// spent: the purse is empty, and it waits even when none is.
func (b *budget) linger(now time.Time) (d time.Duration, spent bool) {
	if b.perSecond <= 0 {
		return b.shortest, false
	}
	b.earn(now)
	full := b.saved / b.purse()
	return b.longest - time.Duration(full*float64(b.longest-b.shortest)), b.saved < 1
}
