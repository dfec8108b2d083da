package measure

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
)

// Outcomes of a unit as a table knows them: bins 0 .. 100 hold y = bin/100.
const (
	Bins          = 101
	NotApplicable = 101 // y = g, so that Z = 0: the unit says nothing about the metric
	Missing       = 102 // takes the value that hurts the claim of each side
	Outcomes      = 103
)

// Bin is the bin of an outcome: the nearest hundredth.
func Bin(y float64) int {
	switch {
	case !(y > 0): // also NaN: an unusable number is never good
		return 0
	case y >= 1:
		return Bins - 1
	}
	return int(math.Round(y * (Bins - 1)))
}

// value is y of an outcome for one side and arm.
func value(side Side, arm, outcome int, guess float64) float64 {
	switch outcome {
	case NotApplicable:
		return guess
	case Missing:
		// To claim harm, assume the candidate did well and the baseline badly;
		// to claim no harm, the reverse.
		if (side == Harm) == (arm == Candidate) {
			return 1
		}
		return 0
	}
	return float64(outcome) / (Bins - 1)
}

// One is a log wealth of 1 in fixed point.
const One = 1 << 32

// A Table holds the increments of the log wealths for one stage and one metric,
// in units of 2^-32, by side, arm and outcome. Adding from it is all that is
// ever done to a Wealth.
type Table struct {
	Setting Setting
	Grid    Grid
	inc     [2][2][Outcomes][]int64
}

// NewTable computes the increments, once.
func NewTable(grid Grid, s Setting) (*Table, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	if len(grid) == 0 || len(grid) > 64 {
		return nil, fmt.Errorf("grid of %d bets: must have 1 to 64", len(grid))
	}
	for _, c := range grid {
		if !(c > 0 && c < 1) {
			return nil, fmt.Errorf("bet %v: must lie between 0 and 1", c)
		}
	}
	t := &Table{Setting: s, Grid: grid}
	for side := Harm; side <= Promote; side++ {
		for arm := Baseline; arm <= Candidate; arm++ {
			for o := range Outcomes {
				u := s.Stake(side, s.Pseudo(arm, value(side, arm, o, s.Guess)))
				row := make([]int64, len(grid))
				for k, c := range grid {
					row[k] = int64(math.RoundToEven(math.Log1p(c*math.Max(u, -1)) * One))
				}
				t.inc[side][arm][o] = row
			}
		}
	}
	return t, nil
}

// Hash names the table: any increment that differs, by machine or by version,
// gives another name.
func (t *Table) Hash() [32]byte {
	h := sha256.New()
	var b [8]byte
	put := func(v uint64) {
		binary.BigEndian.PutUint64(b[:], v)
		h.Write(b[:])
	}
	put(uint64(len(t.Grid)))
	for _, c := range t.Grid {
		put(math.Float64bits(c))
	}
	put(math.Float64bits(t.Setting.Propensity))
	put(math.Float64bits(t.Setting.Guess))
	put(math.Float64bits(t.Setting.Margin))
	for side := range t.inc {
		for arm := range t.inc[side] {
			for _, row := range t.inc[side][arm] {
				for _, v := range row {
					put(uint64(v))
				}
			}
		}
	}
	return [32]byte(h.Sum(nil))
}

// A Wealth is the state of both sides: log wealth per bet in units of 2^-32. The
// zero Wealth of a size is New. Wealths of one process on disjoint units merge by
// addition.
type Wealth struct {
	Harm    []int64 `json:"harm"`
	Promote []int64 `json:"promote"`
}

// NewWealth is the start: every bet has wealth one.
func NewWealth(bets int) Wealth {
	return Wealth{make([]int64, bets), make([]int64, bets)}
}

// Add takes one unit in.
func (w Wealth) Add(t *Table, arm, outcome int) {
	for k, v := range t.inc[Harm][arm][outcome] {
		w.Harm[k] += v
	}
	for k, v := range t.inc[Promote][arm][outcome] {
		w.Promote[k] += v
	}
}

// Merge adds what another partition has seen.
func (w Wealth) Merge(o Wealth) {
	for k, v := range o.Harm {
		w.Harm[k] += v
	}
	for k, v := range o.Promote {
		w.Promote[k] += v
	}
}

// LogE reads a side out.
func (w Wealth) LogE(side Side) float64 {
	if side == Harm {
		return FixedLogE(w.Harm)
	}
	return FixedLogE(w.Promote)
}

// FixedLogE is LogE of fixed-point log wealths.
func FixedLogE(fixed []int64) float64 {
	var buf [16]float64
	logs := buf[:0]
	for _, v := range fixed {
		logs = append(logs, float64(v)/One)
	}
	return LogE(logs)
}

// Counts is a histogram of outcomes by arm: everything that is known of a stage
// and a metric. Any margin can be evaluated from it later.
type Counts [2][Outcomes]int64

// Add counts one unit.
func (c *Counts) Add(arm, outcome int) { c[arm][outcome]++ }

// Merge adds another histogram.
func (c *Counts) Merge(o *Counts) {
	for arm := range c {
		for i, n := range o[arm] {
			c[arm][i] += n
		}
	}
}

// N is the number of units of an arm.
func (c *Counts) N(arm int) (n int64) {
	for _, v := range c[arm] {
		n += v
	}
	return n
}

// Scored is the number and the sum of the outcomes of an arm that are neither
// missing nor not applicable.
func (c *Counts) Scored(arm int) (n int64, sum float64) {
	var hundredths int64
	for i, v := range c[arm][:Bins] {
		n += v
		hundredths += int64(i) * v
	}
	return n, float64(hundredths) / (Bins - 1)
}

// Wealth is the state that adding the counted units one by one would give.
func (c *Counts) Wealth(t *Table) Wealth {
	w := NewWealth(len(t.Grid))
	for arm := range c {
		for o, n := range c[arm] {
			if n == 0 {
				continue
			}
			for k := range t.Grid {
				w.Harm[k] += n * t.inc[Harm][arm][o][k]
				w.Promote[k] += n * t.inc[Promote][arm][o][k]
			}
		}
	}
	return w
}

// MarshalJSON writes the outcomes that were seen: per arm, pairs of outcome and
// number.
func (c Counts) MarshalJSON() ([]byte, error) {
	out := [2][][2]int64{{}, {}}
	for arm := range c {
		for o, n := range c[arm] {
			if n != 0 {
				out[arm] = append(out[arm], [2]int64{int64(o), n})
			}
		}
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (c *Counts) UnmarshalJSON(b []byte) error {
	var in [2][][2]int64
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	*c = Counts{}
	for arm := range in {
		for _, p := range in[arm] {
			if p[0] < 0 || p[0] >= Outcomes {
				return fmt.Errorf("outcome %d: must lie in [0, %d)", p[0], Outcomes)
			}
			c[arm][p[0]] = p[1]
		}
	}
	return nil
}
