package evaluate

import (
	"fmt"
	"time"

	"github.com/looptape/looptape/internal/loop/event"
)

// slo compares the latency of the whole request with its budget.
type slo struct{ cfg SLOConfig }

func newSLO(cfg SLOConfig) *slo { return &slo{cfg} }

func (e *slo) Manifest() Manifest {
	return Manifest{
		ID: "over_slo", Version: "1.0.0", Revision: 1,
		Description: "Whether the request took longer than its latency budget.",
		Reads:       Latency, Needs: Latency,
		Output: Output{Meaning: "1 over the budget, 0 within", Good: GoodLow, Labels: []string{"within", "over"}},
		Cost:   Cost{Micros: 1},
		Params: map[string]any{"max_latency": e.cfg.MaxLatency.String()},
	}
}

func (e *slo) Evaluate(r *event.Request) Result {
	if r.LatencyMs == 0 {
		return skip("no_latency")
	}
	limit := float64(e.cfg.MaxLatency) / float64(time.Millisecond)
	why := fmt.Sprintf("%.0f ms of %.0f ms", r.LatencyMs, limit)
	if r.LatencyMs > limit {
		return score(1, "over", false, why)
	}
	return score(0, "within", true, why)
}

// cost compares money and tokens of the whole request with their budgets. It
// waits until the request is settled: a part of the calls is within almost any
// budget.
type cost struct{ cfg CostConfig }

func newCost(cfg CostConfig) *cost { return &cost{cfg} }

func (e *cost) Manifest() Manifest {
	return Manifest{
		ID: "over_cost", Version: "1.0.0", Revision: 1,
		Description: "Whether the request cost more money or tokens than its budget.",
		Reads:       Money | Usage, Needs: Closed,
		Output: Output{Meaning: "1 over a budget, 0 within", Good: GoodLow, Labels: []string{"within", "over_usd", "over_tokens"}},
		Cost:   Cost{Micros: 1},
		Params: map[string]any{"max_usd": e.cfg.MaxUSD, "max_tokens": e.cfg.MaxTokens},
	}
}

func (e *cost) Evaluate(r *event.Request) Result {
	if r.CostUSD == 0 && r.Usage == nil {
		return skip("no_usage")
	}
	var tokens int64
	if r.Usage != nil {
		tokens = r.Usage.Total
	}
	why := fmt.Sprintf("%.4f USD of %.4f, %d tokens of %d", r.CostUSD, e.cfg.MaxUSD, tokens, e.cfg.MaxTokens)
	switch {
	case e.cfg.MaxUSD >= 0 && r.CostUSD > e.cfg.MaxUSD:
		return score(1, "over_usd", false, why)
	case e.cfg.MaxTokens >= 0 && tokens > e.cfg.MaxTokens:
		return score(1, "over_tokens", false, why)
	}
	return score(0, "within", true, why)
}
