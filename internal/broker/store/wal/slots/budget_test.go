package slots

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestRequestsFor(t *testing.T) {
	for _, c := range []struct {
		dollars, perMillion float64
		want                int64
	}{{52.5, 5, 10_500_000}, {1, 5, 200_000}, {0, 5, 0}, {5, 0, 0}, {-1, 5, 0}} {
		if got := RequestsFor(c.dollars, c.perMillion); got != c.want {
			t.Errorf("%v dollars at %v: %d, want %d", c.dollars, c.perMillion, got, c.want)
		}
	}
}

// The linger grows from the shortest to the longest as the purse empties, and the
// purse fills again.
func TestBudgetLinger(t *testing.T) {
	const ms = time.Millisecond
	b := newBudget(50*ms, 250*ms, 30*86400) // one a second, so 86400 are saved at most
	now := time.Unix(1e9, 0)
	expect := func(want time.Duration, wantSpent bool) {
		t.Helper()
		if d, spent := b.linger(now); d.Round(ms) != want || spent != wantSpent {
			t.Errorf("linger %v, spent %v; want %v, %v", d, spent, want, wantSpent)
		}
	}
	expect(50*ms, false)
	for range 43200 {
		b.spend(now)
	}
	expect(150*ms, false)
	for range 50000 {
		b.spend(now)
	}
	expect(250*ms, true)
	now = now.Add(6 * time.Hour)
	expect(200*ms, false)
	now = now.Add(100 * time.Hour)
	expect(50*ms, false)
	now = now.Add(-time.Hour) // a clock may do that
	expect(50*ms, false)
	forever := newBudget(50*ms, 250*ms, -1)
	if d, spent := forever.linger(now); d != 50*ms || spent {
		t.Error(d, spent)
	}
}

// Over a day of lone records, requests stay within the budget, and every record is
// acknowledged within the longest linger and a put.
func TestBudgetHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newLate(slow(10 * time.Millisecond))
		cfg := testConfig(store)
		cfg.BudgetPerMonth = 30 * 86400 // one a second
		l := start(t, cfg)
		l.Log.mu.Lock()
		l.budget.saved = 20
		l.Log.mu.Unlock()
		began := time.Now()
		var asked []time.Time
		for range 3000 {
			asked = append(asked, time.Now())
			l.add("x")
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Second)
		took := time.Since(began).Seconds()
		// Without saved requests it is one every 250 ms: no record waits longer.
		if n := float64(store.count()); n > 20+took*4 || n < took*3.5 {
			t.Errorf("%v puts in %v s", n, took)
		}
		if n := l.fates(3000); n != 3000 {
			t.Errorf("%d acknowledged", n)
		}
		for i, at := range l.at {
			if d := at.Sub(asked[i]); d > 270*time.Millisecond {
				t.Errorf("record %d was acknowledged after %v", i, d)
			}
		}
		if s := l.Requests(); s.Linger < 249*time.Millisecond || !s.OverBudget {
			t.Errorf("%+v", s)
		}
		if err := l.end(); err != nil {
			t.Error(err)
		}
	})
}
