package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
)

// apiFlags say where a running server's API is.
type apiFlags struct {
	API string `help:"URL of the server's API." default:"http://127.0.0.1:8080" env:"LOOPTAPE_API" placeholder:"URL"`
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 20

// call sends one request to the API and returns the answer of a 2xx.
func (f apiFlags) call(ctx context.Context, method, path string, body any) ([]byte, error) {
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode the request: %w", err)
		}
		r = bytes.NewReader(b)
	}
	url := strings.TrimRight(f.API, "/") + path
	req, err := http.NewRequestWithContext(ctx, method, url, r)
	if err != nil {
		return nil, fmt.Errorf("--api %s: %w", f.API, err)
	}
	req.Header.Set("Content-Type", "application/json")
	client := &http.Client{Timeout: 30 * time.Second}
	res, err := client.Do(req)
	if err != nil {
		return nil, unreachable(url, "--api", err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read the answer of %s: %w", url, err)
	}
	if res.StatusCode >= 300 {
		return nil, refused(res.StatusCode, answer)
	}
	return answer, nil
}

// unreachable adds what to do to an error of the connection.
func unreachable(url, flag string, err error) error {
	if !strings.HasPrefix(url, "http://") && !strings.HasPrefix(url, "https://") {
		return fmt.Errorf("%s: %s must be a URL, as http://127.0.0.1:8080", url, flag)
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return fmt.Errorf("no server answers at %s: start one with `looptape serve`, or say where it is with %s", url, flag)
	}
	return fmt.Errorf("%s: %w", url, err)
}

// refused is the error for an answer that is not a 2xx: the server's own
// sentence when it gave one.
func refused(status int, answer []byte) error {
	var e struct {
		Code    any // a word; a number in OTLP, which has the word as reason
		Reason  string
		Message string
	}
	if json.Unmarshal(answer, &e) == nil && e.Message != "" {
		if code, ok := e.Code.(string); ok && e.Reason == "" {
			e.Reason = code
		}
		if e.Reason != "" {
			return fmt.Errorf("%s (%s, HTTP %d)", e.Message, e.Reason, status)
		}
		return fmt.Errorf("%s (HTTP %d)", e.Message, status)
	}
	// OTLP answers protobuf with protobuf.
	var s statuspb.Status
	if proto.Unmarshal(answer, &s) == nil && s.Message != "" {
		return fmt.Errorf("%s (HTTP %d)", s.Message, status)
	}
	return fmt.Errorf("the server answered HTTP %d: %s", status, bytes.TrimSpace(answer[:min(len(answer), 200)]))
}
