package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

type releaseCmd struct {
	Register releaseRegisterCmd `cmd:"" help:"Register what a release is made of."`
	Start    releaseStartCmd    `cmd:"" help:"Start a deployment: from now on the gate compares the release with its baseline."`
	Stage    releaseStageCmd    `cmd:"" help:"Move a deployment to another share of the traffic."`
	Finish   releaseFinishCmd   `cmd:"" help:"End a deployment: promoted, rolled back or abandoned."`
}

func (releaseCmd) Help() string {
	return `Examples:
  looptape release register r42 --app support --kind prompt --part prompt=v7 --part model=m-large
  looptape release start r42 --baseline r41 --app support --share 0.05 --reversible 1h
  looptape release stage r42 --stage wide --share 0.25
  looptape release finish r42 --outcome promoted`
}

type releaseRegisterCmd struct {
	apiFlags
	Release string            `arg:"" help:"Release id."`
	App     string            `help:"Application (service.name)."`
	Kind    string            `help:"What changes: prompt, model, route, retriever, policy or evaluator." enum:",prompt,model,route,retriever,policy,evaluator" default:""`
	Part    map[string]string `help:"A part of the bundle, name=value; repeatable." placeholder:"NAME=VALUE"`
}

func (c *releaseRegisterCmd) Run(ctx context.Context, s *streams) error {
	return c.deploy(ctx, s, map[string]any{"type": "release.registered", "release": c.Release, "app": c.App, "kind": c.Kind, "manifest": c.Part})
}

type releaseStartCmd struct {
	apiFlags
	Release    string        `arg:"" help:"Release id of the candidate."`
	Baseline   string        `help:"Release id it is compared with." required:""`
	App        string        `help:"Application (service.name)."`
	Kind       string        `help:"What changes: prompt, model, route, retriever, policy or evaluator." enum:",prompt,model,route,retriever,policy,evaluator" default:""`
	Deployment string        `help:"Deployment id; by default made from the release's."`
	Stage      string        `help:"Name of the first stage." default:"canary"`
	Share      float64       `help:"Share of units that draw the candidate, between 0 and 1." required:""`
	Salt       string        `help:"Salt of the draw."`
	Layer      string        `help:"Layer of mutually exclusive deployments."`
	Reversible time.Duration `help:"How long it can be undone, from now." default:"1h"`
}

func (c *releaseStartCmd) Run(ctx context.Context, s *streams) error {
	if c.Share <= 0 || c.Share >= 1 {
		return fmt.Errorf("--share %v: must lie between 0 and 1, for a comparison needs both arms", c.Share)
	}
	if c.Deployment == "" {
		c.Deployment = "deploy-" + c.Release
	}
	return c.deploy(ctx, s, map[string]any{
		"type": "deployment.started", "release": c.Release, "baseline": c.Baseline, "app": c.App, "kind": c.Kind,
		"deployment": c.Deployment, "stage": c.Stage, "propensity": c.Share, "salt": c.Salt, "layer": c.Layer, "actor": "looptape release",
		"reversible_until": time.Now().Add(c.Reversible).UTC(),
	})
}

type releaseStageCmd struct {
	apiFlags
	Release    string  `arg:"" help:"Release id of the candidate."`
	Deployment string  `help:"Deployment id; by default made from the release's."`
	Stage      string  `help:"Name of the stage." required:""`
	Share      float64 `help:"Share of units that draw the candidate, between 0 and 1." required:""`
}

func (c *releaseStageCmd) Run(ctx context.Context, s *streams) error {
	if c.Share < 0 || c.Share > 1 {
		return fmt.Errorf("--share %v: must lie between 0 and 1", c.Share)
	}
	if c.Deployment == "" {
		c.Deployment = "deploy-" + c.Release
	}
	return c.deploy(ctx, s, map[string]any{
		"type": "deployment.step", "release": c.Release, "deployment": c.Deployment, "stage": c.Stage, "propensity": c.Share, "actor": "looptape release",
	})
}

type releaseFinishCmd struct {
	apiFlags
	Release    string `arg:"" help:"Release id of the candidate."`
	Deployment string `help:"Deployment id; by default made from the release's."`
	Outcome    string `help:"promoted, rolled_back or abandoned." enum:"promoted,rolled_back,abandoned" required:""`
	Reason     string `help:"Why, in a sentence."`
}

func (c *releaseFinishCmd) Run(ctx context.Context, s *streams) error {
	if c.Deployment == "" {
		c.Deployment = "deploy-" + c.Release
	}
	typ := "deployment.finished"
	if c.Outcome == "rolled_back" {
		typ = "deployment.rolled_back"
	}
	return c.deploy(ctx, s, map[string]any{
		"type": typ, "release": c.Release, "deployment": c.Deployment, "outcome": c.Outcome, "reason": c.Reason, "actor": "looptape release",
	})
}

// deploy posts one deployment event, without its empty fields, and prints its id.
func (f apiFlags) deploy(ctx context.Context, s *streams, body map[string]any) error {
	for k, v := range body {
		if m, ok := v.(map[string]string); v == "" || ok && len(m) == 0 {
			delete(body, k)
		}
	}
	answer, err := f.call(ctx, "POST", "/v1/deployments", body)
	if err != nil {
		return err
	}
	var a struct {
		ID string `json:"id"`
	}
	_ = json.Unmarshal(answer, &a) // an answer without an id still was a 2xx
	fmt.Fprintf(s.out, "%s %s %s\n", body["type"], body["release"], a.ID)
	return nil
}
