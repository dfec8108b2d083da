package app

import (
	"fmt"
	"strings"

	"github.com/looptape/looptape/internal/loop/gate"
)

// describe says in words what a policy guards, waits for and spends.
func describe(p *gate.Policy) string {
	var guards []string
	for _, g := range p.Guards {
		guards = append(guards, fmt.Sprintf("%s (%s is good, margin %g)", g.Metric, g.Good, g.Margin))
	}
	return fmt.Sprintf(`Gate policy %s
  guards       %s
  unit         one %s; closes after %s without a request or at %d requests
  watermark    a unit has its turn %s after it closed, or when %d later ones are there
  dwell        no advance or hold before %s in a stage
  alpha        rollback by mistake with probability at most %g per release, however often it is looked at
  hash         %s`,
		p.Title(), strings.Join(guards, ",\n               "), p.Unit, p.UnitClose, p.MaxRequest, p.Watermark.Time, p.Watermark.Units,
		p.Hysteresis.MinDwell, p.AlphaTotal(), p.Hash())
}
