//go:build crash

package crash

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/looptape/looptape/test/rig"
)

// caseLoad sends requests as events: a retrieval, an answer and feedback that
// knows only the response id, in any order.
type caseLoad struct {
	acked atomic.Int64
}

func (c *caseLoad) send(ctx context.Context, api string) {
	rng := rand.New(rand.NewPCG(1, 2))
	for i := 0; ctx.Err() == nil; i++ {
		request, response := requestID(i), fmt.Sprintf("crash-response-%d", i)
		parts := []map[string]any{
			{"type": "request.started", "id": request + "-a", "request": request, "app": "crash", "session": "s", "name": "ask"},
			{"type": "retrieval.completed", "id": request + "-b", "request": request, "app": "crash", "query": "what holds?",
				"documents": []any{map[string]any{"id": "d1", "text": "An acknowledged record is never lost."}}},
			{"type": "response.delivered", "id": request + "-c", "request": request, "response": response, "app": "crash",
				"messages": []any{map[string]any{"role": "assistant", "content": "An acknowledged record is never lost. [d1]"}}},
			{"type": "feedback.recorded", "id": request + "-d", "response": response, "kind": "thumbs", "value": 1},
			{"type": "request.closed", "id": request + "-e", "request": request, "app": "crash", "latency_ms": 12},
		}
		rng.Shuffle(len(parts), func(a, b int) { parts[a], parts[b] = parts[b], parts[a] })
		for _, p := range parts {
			if !postUntilTaken(ctx, api+"/v1/events", p) {
				return // this request stays incomplete and is not counted
			}
		}
		c.acked.Add(1)
	}
}

func requestID(i int) string { return fmt.Sprintf("crash-request-%d", i) }

// postUntilTaken sends an event until the server has taken it: the same id, so
// that a repeat changes nothing.
func postUntilTaken(ctx context.Context, url string, body any) bool {
	b, _ := json.Marshal(body)
	client := &http.Client{Timeout: 10 * time.Second}
	for ctx.Err() == nil {
		res, err := client.Post(url, "application/json", bytes.NewReader(b))
		if err == nil {
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
			if res.StatusCode < 300 {
				return true
			}
			if res.StatusCode < 500 && res.StatusCode != http.StatusTooManyRequests {
				panic(fmt.Sprintf("an event was refused: %d", res.StatusCode))
			}
		}
		time.Sleep(30 * time.Millisecond)
	}
	return false
}

// wantMetrics are scores that every complete request gets.
var wantMetrics = []string{"grounded", "citation"}

// verify waits until every acknowledged case is complete, and holds each
// against what was sent.
func (c *caseLoad) verify(t *testing.T, api string) {
	t.Helper()
	n := int(c.acked.Load())
	if n == 0 {
		t.Fatal("no case was sent: the test has shown nothing")
	}
	for i := range n {
		rig.Until(t, 60*time.Second, func() error { return checkCase(api, requestID(i)) })
	}
}

func checkCase(api, request string) error {
	res, err := http.Get(api + "/v1/cases/" + request)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %d %s", request, res.StatusCode, b)
	}
	var a struct {
		Case struct {
			Request string
			Has     struct{ Prompt, Retrieval, Response, Feedback int }
			Parts   []struct{ ID string }
			Labels  []struct{ ID string }
			Scores  []struct {
				Metric, Mode, Status string
			}
		}
	}
	if err := json.Unmarshal(b, &a); err != nil {
		return fmt.Errorf("%s: %w", request, err)
	}
	var ids []string
	for _, p := range a.Case.Parts {
		if strings.HasPrefix(p.ID, request+"-") {
			ids = append(ids, strings.TrimPrefix(p.ID, request+"-"))
		}
	}
	slices.Sort(ids)
	if got := strings.Join(ids, ""); got != "abcde" {
		return fmt.Errorf("%s: its case has the parts %q, want abcde", request, got)
	}
	if h := a.Case.Has; h.Prompt != 1 || h.Retrieval != 1 || h.Response != 2 || h.Feedback != 1 || len(a.Case.Labels) != 1 {
		return fmt.Errorf("%s: its case counts %+v and has %d labels", request, h, len(a.Case.Labels))
	}
	counts := map[string]int{}
	for _, s := range a.Case.Scores {
		counts[s.Metric]++
	}
	for _, m := range wantMetrics {
		if counts[m] != 1 {
			return fmt.Errorf("%s: %d scores of %s, want 1", request, counts[m], m)
		}
	}
	return nil
}
