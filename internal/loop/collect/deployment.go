package collect

import (
	"encoding/json"

	"github.com/looptape/looptape/internal/loop/event"
)

// deploymentTypes maps the short words of /v1/deployments to event types.
var deploymentTypes = map[string]string{
	"registered": event.ReleaseRegistered, "started": event.DeploymentStarted, "step": event.DeploymentStep,
	"finished": event.DeploymentFinished, "rolled_back": event.DeploymentRolledBack,
	event.ReleaseRegistered: event.ReleaseRegistered, event.DeploymentStarted: event.DeploymentStarted, event.DeploymentStep: event.DeploymentStep,
	event.DeploymentFinished: event.DeploymentFinished, event.DeploymentRolledBack: event.DeploymentRolledBack,
}

// readDeployment reads an item of /v1/deployments: a release, what it is compared
// with, its traffic share, and in "type" (or "status") what happened to it, which
// is "started" when nothing is said.
func readDeployment(c *Collector, tenant string, item json.RawMessage) (event.Event, string, error) {
	f, err := object(item)
	if err != nil {
		return event.Event{}, "", err
	}
	return c.readFields(tenant, f, func(e *event.Event, body fields) error {
		word := e.Type
		if word == "" {
			var err error
			if word, err = body.popText("status", c.cfg.Limits.FactBytes); err != nil {
				return err
			}
		}
		if word == "" {
			word = "started"
		}
		typ, ok := deploymentTypes[word]
		if !ok {
			return &itemProblem{code: "wrong_type", message: "type must be registered, started, step, finished or rolled_back.", pointer: "/type"}
		}
		e.Type = typ
		return nil
	})
}
