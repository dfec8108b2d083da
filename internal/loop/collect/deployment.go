package collect

import (
	"encoding/json"
	"slices"

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
		return checkDeployment(typ, body)
	})
}

// outcomes are the ways in which a deployment ends.
var outcomes = []string{"promoted", "rolled_back", "abandoned"}

// checkDeployment refuses what no gate could act on.
func checkDeployment(typ string, body fields) error {
	text := func(name string) (s string) {
		_ = json.Unmarshal(body[name], &s) // the schema speaks of other types
		return s
	}
	switch baseline := text("baseline"); {
	case typ == event.DeploymentStarted && baseline == "":
		return &itemProblem{code: "no_baseline", message: "A deployment that starts needs baseline: the release it is compared with.", pointer: "/baseline"}
	case typ == event.DeploymentStarted && baseline == text("release"):
		return &itemProblem{code: "same_release", message: "baseline and release are the same: there is nothing to compare.", pointer: "/baseline"}
	}
	if o := text("outcome"); o != "" && !slices.Contains(outcomes, o) {
		return &itemProblem{code: "bad_outcome", message: "outcome must be promoted, rolled_back or abandoned.", pointer: "/outcome"}
	}
	return nil
}
