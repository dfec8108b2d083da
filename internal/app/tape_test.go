package app

import "testing"

// What the log's puts may cost becomes a number of them.
func TestWALBudget(t *testing.T) {
	for usd, want := range map[float64]int64{0: 0, -1: -1, 52.5: 10_500_000, 1e-9: 1} {
		c := Config{Tape: Tape{WALBudget: usd}}
		if got := c.tape().Store.Slots.BudgetPerMonth; got != want {
			t.Errorf("%v dollars: %d, want %d", usd, got, want)
		}
	}
}
