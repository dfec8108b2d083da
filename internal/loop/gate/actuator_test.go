package gate

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestWebhook(t *testing.T) {
	secret := []byte("s3cret")
	now := time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)
	answer := `{"observed_state":"stable only","candidate_share":0}`
	code := http.StatusOK
	var keys []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if err := VerifyWebhook(secret, r.Header.Get(HeaderTimestamp), r.Header.Get(HeaderSignature), body, now); err != nil {
			t.Errorf("receiver refuses: %v", err)
		}
		if r.Method == http.MethodPost && !strings.Contains(string(body), `"action":"rollback"`) {
			t.Errorf("body = %s", body)
		}
		keys = append(keys, r.Header.Get(HeaderKey))
		w.WriteHeader(code)
		io.WriteString(w, answer)
	}))
	defer srv.Close()
	w := &Webhook{URL: srv.URL, Secret: secret, Now: func() time.Time { return now }}
	a := Action{Action: "rollback", Release: "new", Decision: "d-1"}
	o, err := w.Do(t.Context(), a)
	if err != nil || o.State != "stable only" || o.Share == nil || *o.Share != 0 {
		t.Fatalf("observation %+v, %v", o, err)
	}
	w.ReadURL = srv.URL + "/share"
	if _, err := w.Do(t.Context(), a); err != nil || len(keys) != 3 || keys[2] != "d-1" {
		t.Fatalf("with a read-back URL: %v, keys %v", err, keys)
	}
	for name, bad := range map[string]func(){
		"traffic still flows": func() { answer = `{"observed_state":"ramping","candidate_share":0.5}` },
		"no share told":       func() { answer = `{"observed_state":"done"}` },
		"not JSON":            func() { answer = "OK" },
		"an error":            func() { code = http.StatusBadGateway },
		"an answer too large": func() { code, answer = http.StatusOK, strings.Repeat(" ", maxWebhookAnswer+1) },
	} {
		bad()
		if _, err := w.Do(t.Context(), a); err == nil {
			t.Errorf("%s: taken as done", name)
		}
	}
}

func TestVerifyWebhook(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	secret, body := []byte("k"), []byte(`{}`)
	sign := func(ts string) string { return SignWebhook(secret, ts, body) }
	for _, c := range []struct {
		name, ts, sig string
		body          string
		want          error
	}{
		{"good", "1800000000", sign("1800000000"), "{}", nil},
		{"four minutes old", "1799999760", sign("1799999760"), "{}", nil},
		{"six minutes old", "1799999640", sign("1799999640"), "{}", ErrReplay},
		{"six minutes ahead", "1800000360", sign("1800000360"), "{}", ErrReplay},
		{"other body", "1800000000", sign("1800000000"), "{ }", ErrSignature},
		{"other time", "1800000001", sign("1800000000"), "{}", ErrSignature},
		{"no time", "soon", sign("soon"), "{}", ErrReplay},
		{"no signature", "1800000000", "", "{}", ErrSignature},
	} {
		if err := VerifyWebhook(secret, c.ts, c.sig, []byte(c.body), now); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	// The format, byte for byte.
	const golden = "v1=cdd93e246b17200236861b3061e5be1099fa09298de6cebf58e528db933f5c62"
	if got := sign("1800000000"); got != golden {
		t.Errorf("signature = %s, want %s", got, golden)
	}
}

func TestCarryOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		share, calls := 0.5, 0
		act := &Func{
			Label: "ramp",
			Call: func(context.Context, Action) error {
				if calls++; calls == 1 {
					return errors.New("busy")
				}
				if calls == 3 {
					share = 0
				}
				return nil
			},
			ReadShare: func(context.Context, Action) (float64, error) { return share, nil },
		}
		a := Action{Action: "rollback", Release: "new", Decision: "d"}
		ack := carryOut(t.Context(), []Actuator{act}, a, time.Now)
		if !ack.Done || calls != 3 || ack.Share == nil || *ack.Share != 0 || ack.Actuator != "ramp" {
			t.Errorf("ack = %+v after %d calls", ack, calls)
		}
		// Accepted but not observed: tried three times, then told as failed.
		calls, share = 10, 0.5
		if ack = carryOut(t.Context(), []Actuator{act}, a, time.Now); ack.Done || calls != 13 || !strings.Contains(ack.Error, "not observed") {
			t.Errorf("ack = %+v after %d calls", ack, calls)
		}
		// A system that hangs costs a minute at most.
		began := time.Now()
		slow := &Func{Label: "slow", Call: func(ctx context.Context, _ Action) error { <-ctx.Done(); return ctx.Err() }}
		if ack = carryOut(t.Context(), []Actuator{slow}, a, time.Now); ack.Done || time.Since(began) > roundTime {
			t.Errorf("ack = %+v after %v", ack, time.Since(began))
		}
		// What can no longer be undone is not touched.
		past := time.Now().Add(-time.Second)
		a.ReversibleUntil, calls = &past, 0
		if ack = carryOut(t.Context(), []Actuator{act}, a, time.Now); ack.Done || calls != 0 {
			t.Errorf("ack = %+v after %d calls", ack, calls)
		}
	})
}
