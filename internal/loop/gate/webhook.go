package gate

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// Headers of a signed webhook call.
const (
	HeaderTimestamp = "Looptape-Timestamp" // seconds since 1970
	HeaderSignature = "Looptape-Signature" // "v1=" and hex of HMAC-SHA-256 over timestamp "." body
	HeaderKey       = "Idempotency-Key"    // the decision's id
)

// ReplayWindow is how old (or how far ahead) a signed call may be.
const ReplayWindow = 5 * time.Minute

// A Webhook is an actuator behind an HTTP endpoint. The action is POSTed as JSON;
// a 2xx answer of the form {"observed_state": "...", "candidate_share": 0} is the
// read-back, or the answer of a GET to ReadURL where one is given. A receiver
// checks a call with VerifyWebhook.
type Webhook struct {
	URL     string
	ReadURL string // optional: read the state back from here
	Secret  []byte
	Client  *http.Client     // default: 10 s timeout
	Now     func() time.Time // default time.Now
}

// webhookAnswer is what an endpoint answers.
type webhookAnswer struct {
	State string   `json:"observed_state"`
	Share *float64 `json:"candidate_share"`
}

const maxWebhookAnswer = 64 << 10

// Name is "webhook".
func (w *Webhook) Name() string { return "webhook" }

// Do posts the action and reads back.
func (w *Webhook) Do(ctx context.Context, a Action) (Observation, error) {
	body, err := json.Marshal(&a)
	if err != nil {
		return Observation{}, fmt.Errorf("encode action: %w", err)
	}
	answer, err := w.call(ctx, http.MethodPost, w.URL, a, body)
	if err == nil && w.ReadURL != "" {
		answer, err = w.call(ctx, http.MethodGet, w.ReadURL, a, nil)
	}
	if err != nil {
		return Observation{}, err
	}
	var got webhookAnswer
	if err := json.Unmarshal(answer, &got); err != nil {
		return Observation{}, fmt.Errorf("webhook answer is not {\"observed_state\", \"candidate_share\"}: %w", err)
	}
	return observe(a, got.State, got.Share)
}

func (w *Webhook) call(ctx context.Context, method, url string, a Action, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("webhook request: %w", err)
	}
	now := time.Now
	if w.Now != nil {
		now = w.Now
	}
	stamp := strconv.FormatInt(now().Unix(), 10)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(HeaderKey, a.Decision)
	req.Header.Set(HeaderTimestamp, stamp)
	req.Header.Set(HeaderSignature, SignWebhook(w.Secret, stamp, body))
	client := w.Client
	if client == nil {
		client = defaultWebhookClient
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("call webhook: %w", err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxWebhookAnswer+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read webhook answer: %w", err)
	case len(answer) > maxWebhookAnswer:
		return nil, fmt.Errorf("webhook answer is larger than %d bytes", maxWebhookAnswer)
	case res.StatusCode < 200 || res.StatusCode > 299:
		return nil, fmt.Errorf("webhook answered %s", res.Status)
	}
	return answer, nil
}

var defaultWebhookClient = &http.Client{Timeout: 10 * time.Second}

// SignWebhook is the signature header of a body at a time stamp.
func SignWebhook(secret []byte, timestamp string, body []byte) string {
	m := hmac.New(sha256.New, secret)
	m.Write([]byte(timestamp + "."))
	m.Write(body)
	return "v1=" + hex.EncodeToString(m.Sum(nil))
}

// Errors of VerifyWebhook.
var (
	ErrSignature = errors.New("webhook signature does not match")
	ErrReplay    = errors.New("webhook time stamp is outside the replay window")
)

// VerifyWebhook checks a call as its receiver: the signature over time stamp and
// body, and that the time stamp is within the replay window of now. Receivers
// that must not act twice also remember the idempotency keys of the window.
func VerifyWebhook(secret []byte, timestamp, signature string, body []byte, now time.Time) error {
	if !hmac.Equal([]byte(signature), []byte(SignWebhook(secret, timestamp, body))) {
		return ErrSignature
	}
	s, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil {
		return ErrReplay
	}
	if d := now.Sub(time.Unix(s, 0)); d > ReplayWindow || d < -ReplayWindow {
		return ErrReplay
	}
	return nil
}
