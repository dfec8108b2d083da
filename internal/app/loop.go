package app

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"

	"google.golang.org/grpc"

	"github.com/looptape/looptape/contract"
	"github.com/looptape/looptape/internal/base/blob/bloburl"
	"github.com/looptape/looptape/internal/loop/collect"
	"github.com/looptape/looptape/internal/loop/evaluate"
	"github.com/looptape/looptape/internal/loop/gate"
	"github.com/looptape/looptape/internal/loop/govern"
	"github.com/looptape/looptape/internal/loop/join"
	"github.com/looptape/looptape/internal/loop/stream"
	"github.com/looptape/looptape/internal/loop/view"
	"github.com/looptape/looptape/internal/web"
)

// parts is the loop, built and not yet running.
type parts struct {
	stages  []stage
	handler http.Handler
	grpc    *grpcServer
	close   func() error
}

// A stage runs until its context ends.
type stage struct {
	name string
	run  func(ctx context.Context) error
}

// PolicyFile is a gate policy and where it came from.
type PolicyFile struct {
	Name  string
	Text  []byte
	About string // for people: what it waits for and what it spends
}

// DemoPolicy is the policy of `looptape demo`, with its waits in words.
func DemoPolicy() (PolicyFile, error) {
	text, err := gate.Embedded("demo")
	if err != nil {
		return PolicyFile{}, fmt.Errorf("demo policy: %w", err)
	}
	p, err := gate.LoadPolicy(text)
	if err != nil {
		return PolicyFile{}, fmt.Errorf("demo policy: %w", err)
	}
	return PolicyFile{Name: "demo", Text: text, About: describe(p)}, nil
}

// build makes every part of the loop. The tape is running by now.
func (a *App) build(ctx context.Context) (*parts, error) {
	p := &parts{}
	var closers []func() error
	p.close = func() error {
		var errs []error
		for i := len(closers) - 1; i >= 0; i-- {
			errs = append(errs, closers[i]())
		}
		return errors.Join(errs...)
	}
	fail := func(err error) (*parts, error) { return nil, errors.Join(err, p.close()) }
	state := filepath.Join(a.cfg.Data, "state")

	contr, err := contract.Load()
	if err != nil {
		return nil, err
	}

	a.at("waiting for a Kafka broker at " + strings.Join(a.brokers, ","))
	client, err := stream.Dial(ctx, stream.Config{Brokers: a.brokers, Logger: a.log.With("part", "stream"), Registerer: a.registry})
	if err != nil {
		return nil, fmt.Errorf("reach Kafka at %s: %w", strings.Join(a.brokers, ","), err)
	}
	closers = append(closers, func() error { client.Close(); return nil })
	a.at("creating topics")
	if err := ensureTopics(ctx, client, contr); err != nil {
		return fail(err)
	}

	a.at("building the loop")
	blobURL, err := a.cfg.claims()
	if err != nil {
		return fail(err)
	}
	objects, err := bloburl.Open(ctx, blobURL)
	if err != nil {
		return fail(fmt.Errorf("--blob: %w", err))
	}
	claims := govern.NewClaims(objects)
	pseudonyms, err := govern.OpenPseudonyms(filepath.Join(a.cfg.Data, "keys", "pseudonyms.key"))
	if err != nil {
		return fail(err)
	}

	collector, err := collect.New(collect.Config{
		Producer: client, Contract: contr, Claims: claims, Pseudonyms: pseudonyms,
		Registerer: a.registry, Logger: a.log.With("part", "collect"),
	})
	if err != nil {
		return fail(err)
	}
	gs := grpc.NewServer(collector.GRPCOptions()...)
	collector.RegisterGRPC(gs)
	p.grpc = &grpcServer{a.otlpGRPC, gs}

	evaluator, err := evaluate.New(evaluate.Options{Claims: claims, Registerer: a.registry, StateDir: state})
	if err != nil {
		return fail(err)
	}
	joining := join.Config{StateDir: state, Resolve: claims.Resolve, Logger: a.log.With("part", "join"), Registerer: a.registry}
	var actuators []gate.Actuator
	if a.cfg.Webhook != "" {
		actuators = append(actuators, &gate.Webhook{URL: a.cfg.Webhook, Secret: []byte(a.cfg.WebhookSecret)})
	}
	gates, err := gate.NewRunner(gate.RunnerConfig{
		Log: client, Policies: a.policies, StateDir: filepath.Join(state, "gate"), Actuators: actuators, Resolve: claims.Resolve,
		Logger: a.log.With("part", "gate"), Registerer: a.registry,
	})
	if err != nil {
		return fail(err)
	}
	tables, err := view.Open(ctx, view.Config{
		Path: filepath.Join(a.cfg.Data, "view.db"), Source: client, Registerer: a.registry, Logger: a.log.With("part", "view"),
	})
	if err != nil {
		return fail(err)
	}
	closers = append(closers, tables.Close)
	cfg := web.Config{
		View: tables, Log: client, Claims: claims, Collect: collector.Handler(), Metrics: a.metricsHandler(), Ready: a.readyErr,
		Gate: gates.Status, OTLP: a.Addresses().OTLPHTTP, Version: a.cfg.Version, Logger: a.log.With("part", "web"),
	}
	if a.tape != nil {
		cfg.Storage, cfg.Catalog = func() any { return a.tape.Storage() }, a.tape.CatalogSnapshot
	}
	pages, err := web.New(cfg)
	if err != nil {
		return fail(err)
	}
	p.handler = pages.Handler()

	// In the order of the data, so that the list reads like it flows.
	p.stages = []stage{
		{"evaluate", func(ctx context.Context) error { return evaluator.Run(ctx, client) }},
		{"join", func(ctx context.Context) error { return join.Run(ctx, client, joining) }},
		{"gate", gates.Run},
		{"view", tables.Run},
	}
	return p, nil
}

// loadPolicies loads the given policies, or the built-in default.
func (a *App) loadPolicies() ([]*gate.Policy, error) {
	files := a.cfg.Policies
	if len(files) == 0 {
		text, err := gate.Embedded("default")
		if err != nil {
			return nil, fmt.Errorf("built-in policy: %w", err)
		}
		files = []PolicyFile{{Name: "default", Text: text}}
	}
	var out []*gate.Policy
	var errs []error
	for _, f := range files {
		p, err := gate.LoadPolicy(f.Text)
		if err != nil {
			errs = append(errs, fmt.Errorf("policy %s: %w", f.Name, err))
			continue
		}
		a.log.Info("policy", "name", p.Title(), "hash", p.Hash(), "alpha_total", p.AlphaTotal())
		out = append(out, p)
	}
	return out, errors.Join(errs...)
}

// ensureTopics makes the contract's topics.
func ensureTopics(ctx context.Context, client *stream.Client, c *contract.Contract) error {
	var specs []stream.TopicSpec
	for _, t := range c.Topics() {
		specs = append(specs, stream.TopicSpec{Name: t.Name, Partitions: t.Partitions, Config: t.Config})
	}
	if _, err := client.EnsureTopics(ctx, specs); err != nil {
		if errors.Is(err, stream.ErrPartitions) {
			return fmt.Errorf("%w: these topics were made by something else; give them another name or delete them", err)
		}
		return err
	}
	return nil
}
