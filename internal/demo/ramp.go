package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Gate is what GET /v1/gates/{release} answers, as far as a ramp controller
// reads it; Raw is all of it.
type Gate struct {
	OK      bool            `json:"ok"`
	Phase   string          `json:"phase"` // Successful, Failed, Inconclusive
	State   string          `json:"state"`
	Message string          `json:"message"`
	Raw     json.RawMessage `json:"-"`
}

// announce registers both releases and starts the deployment.
func (a *App) announce(ctx context.Context) error {
	now := time.Now().UTC()
	until := now.Add(30 * time.Minute)
	for i, role := range []string{"assistant-r1", "assistant-r2"} {
		err := a.api.post(ctx, "/v1/deployments", map[string]any{
			"type": "release.registered", "release": a.releases[i], "app": appName, "kind": "retriever",
			"manifest": map[string]string{"app": role, "prompt": "prompt-v1", "model": "extractive-1", "index": a.fresh.version},
		})
		if err != nil {
			return fmt.Errorf("register release: %w", err)
		}
	}
	err := a.api.post(ctx, "/v1/deployments", map[string]any{
		"type": "deployment.started", "release": a.releases[1], "baseline": a.releases[0], "app": appName, "kind": "retriever",
		"deployment": a.deployment, "salt": a.deployment, "layer": "docs", "stage": stageName, "propensity": a.shareNow(),
		"actor": "looptape demo", "reversible_until": until,
	})
	if err != nil {
		return fmt.Errorf("start deployment: %w", err)
	}
	return nil
}

// ramp asks the gate twice a second. On Failed it gives all new conversations to
// the baseline and reports the deployment as rolled back; on Successful it
// leaves the share as it is (there is no further stage to go to).
func (a *App) ramp(ctx context.Context) error {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		g, err := a.api.gate(ctx, a.releases[1])
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, errNoGate) {
				a.cfg.Logger.Warn("the gate did not answer", "error", err)
			}
			continue
		}
		a.gate.Store(g)
		if g.Phase == "Failed" && a.shareNow() > 0 {
			a.setShare(0)
			err := a.api.post(ctx, "/v1/deployments", map[string]any{
				"type": "deployment.rolled_back", "release": a.releases[1], "baseline": a.releases[0], "app": appName,
				"deployment": a.deployment, "stage": stageName, "propensity": 0, "actor": "looptape demo",
				"outcome": "rolled_back", "reason": g.Message,
			})
			if err != nil && ctx.Err() == nil {
				a.cfg.Logger.Warn("the rollback was not recorded", "error", err)
			}
			if a.cfg.Progress != nil {
				a.cfg.Progress(a.progress())
			}
		}
	}
}

// apiClient talks to Looptape's HTTP API.
type apiClient struct {
	base, key string
	http      *http.Client
}

func newAPIClient(base, key string) *apiClient {
	return &apiClient{base: strings.TrimRight(base, "/"), key: key, http: &http.Client{Timeout: 10 * time.Second}}
}

var errNoGate = errors.New("no gate for this release yet")

func (c *apiClient) post(ctx context.Context, path string, body any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	_, err = c.do(ctx, http.MethodPost, path, b)
	return err
}

func (c *apiClient) gate(ctx context.Context, release string) (*Gate, error) {
	b, err := c.do(ctx, http.MethodGet, "/v1/gates/"+url.PathEscape(release), nil)
	if err != nil {
		return nil, err
	}
	g := &Gate{Raw: b}
	if err := json.Unmarshal(b, g); err != nil {
		return nil, fmt.Errorf("gate status: %w", err)
	}
	return g, nil
}

func (c *apiClient) do(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 16<<20))
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	switch {
	case res.StatusCode == http.StatusNotFound && method == http.MethodGet:
		return nil, errNoGate
	case res.StatusCode >= 300:
		return nil, fmt.Errorf("%s %s: status %d: %w: %s", method, path, res.StatusCode, ErrRefused, bytes.TrimSpace(answer[:min(len(answer), 300)]))
	}
	return answer, nil
}
