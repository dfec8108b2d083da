package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
)

type sendCmd struct {
	apiFlags
	OTLPHTTP string   `name:"otlp-http" help:"URL of the server's OTLP/HTTP port." default:"http://127.0.0.1:4318" env:"LOOPTAPE_OTLP_HTTP" placeholder:"URL"`
	Rate     float64  `help:"Lines a second; 0 is as fast as the server takes them." default:"0"`
	Quiet    bool     `help:"No progress bar." short:"q"`
	Files    []string `arg:"" name:"file" help:"Files of JSON lines, gzip or plain; - is standard input."`
}

func (sendCmd) Help() string {
	return `Each line is one of
  {"path":"/v1/traces","content_type":"application/json","body":{...}}      an OTLP export request
  {"path":"/v1/logs","content_type":"application/x-protobuf","body_b64":"..."}
  {"request":{"resourceSpans":[...]}}                                         the same, shorter
  {"type":"response.delivered","request":"...", ...}                           an event
  {"kind":"thumbs","value":1,"response":"..."}                                 feedback

Sending a file twice changes nothing: event ids are derived from the content.

Examples:
  looptape send traces.jsonl.gz
  looptape send --rate 50 traces.jsonl.gz feedback.jsonl
  zcat traces.jsonl.gz | looptape send -`
}

// maxLine bounds one line: an export request of 32 MiB in base64, and more.
const maxLine = 64 << 20

// line is one line of a file: a recorded export request, an event or feedback.
type line struct {
	Path        string          `json:"path"`
	ContentType string          `json:"content_type"`
	Body        json.RawMessage `json:"body"`
	BodyB64     string          `json:"body_b64"`
	Request     json.RawMessage `json:"request"`
	Type        string          `json:"type"`
	SpecVersion string          `json:"specversion"`
	Kind        string          `json:"kind"`
}

// target is where a line goes and as what.
func (l *line) target(raw []byte, api, otlp string) (url, contentType string, body []byte, err error) {
	switch {
	case l.Path == "/v1/traces" || l.Path == "/v1/logs":
		contentType = l.ContentType
		switch {
		case l.BodyB64 != "":
			if body, err = base64.StdEncoding.DecodeString(l.BodyB64); err != nil {
				return "", "", nil, errors.New("body_b64 is not base64")
			}
			if contentType == "" {
				contentType = "application/x-protobuf"
			}
		case len(l.Body) > 0:
			body = l.Body
			if body[0] == '"' { // the body as a string
				var s string
				if err = json.Unmarshal(l.Body, &s); err != nil {
					return "", "", nil, errors.New("body is not JSON")
				}
				body = []byte(s)
			}
			if contentType == "" {
				contentType = "application/json"
			}
		default:
			return "", "", nil, errors.New("an export request needs body or body_b64")
		}
		return otlp + l.Path, contentType, body, nil
	case l.Path != "":
		return "", "", nil, fmt.Errorf("path %q is neither /v1/traces nor /v1/logs", l.Path)
	case len(l.Request) > 0 && l.Request[0] == '{':
		path := "/v1/traces"
		if bytes.Contains(l.Request[:min(len(l.Request), 200)], []byte(`"resourceLogs"`)) {
			path = "/v1/logs"
		}
		return otlp + path, "application/json", l.Request, nil
	case l.SpecVersion != "":
		return api + "/v1/events", "application/cloudevents+json", raw, nil
	case l.Type != "":
		return api + "/v1/events", "application/json", raw, nil
	case l.Kind != "":
		return api + "/v1/feedback", "application/json", raw, nil
	}
	return "", "", nil, errors.New("neither an export request (path or request), nor an event (type), nor feedback (kind)")
}

// totals is what became of the lines.
type totals struct {
	lines, sent, failed int
	spans, logs         int64 // rejected by the server in partial answers
	quarantined         int
}

func (c *sendCmd) Run(ctx context.Context, s *streams) error {
	if c.Rate < 0 || math.IsNaN(c.Rate) || math.IsInf(c.Rate, 0) {
		return errors.New("--rate must be 0 or a positive number of lines a second")
	}
	var t totals
	for _, name := range c.Files {
		if err := c.sendFile(ctx, s, name, &t); err != nil {
			return err
		}
	}
	fmt.Fprintf(s.out, "sent %d of %d lines", t.sent, t.lines)
	if t.quarantined > 0 {
		fmt.Fprintf(s.out, ", %d of them quarantined (kept, with the reason, on llm.quarantine)", t.quarantined)
	}
	if t.spans+t.logs > 0 {
		fmt.Fprintf(s.out, "; the server rejected %d spans and %d log records", t.spans, t.logs)
	}
	fmt.Fprintln(s.out)
	if t.failed > 0 || t.spans+t.logs > 0 {
		return exitError{1}
	}
	return nil
}

func (c *sendCmd) sendFile(ctx context.Context, s *streams, name string, t *totals) error {
	in, size, err := openLines(name)
	if err != nil {
		return err
	}
	defer in.Close()
	counted := &countingReader{r: in}
	plain, err := gunzip(counted)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	var bar *progressbar.ProgressBar
	if !c.Quiet {
		bar = progressbar.NewOptions64(size, progressbar.OptionSetWriter(s.err), progressbar.OptionSetDescription(name),
			progressbar.OptionShowBytes(true), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
		defer bar.Finish()
	}
	client := &http.Client{Timeout: 2 * time.Minute}
	sc := bufio.NewScanner(plain)
	sc.Buffer(make([]byte, 64<<10), maxLine)
	start, n, before := time.Now(), 0, t.sent
	for number := 1; sc.Scan(); number++ {
		raw := bytes.TrimSpace(sc.Bytes())
		if len(raw) == 0 {
			continue
		}
		if c.Rate > 0 && !wait(ctx, time.Until(start.Add(time.Duration(float64(n)/c.Rate*float64(time.Second))))) {
			return ctx.Err()
		}
		n++
		t.lines++
		if err := c.sendLine(ctx, client, raw, t); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			var gone unreachableError
			if errors.As(err, &gone) {
				return err
			}
			t.failed++
			fmt.Fprintf(s.err, "%s:%d: %v\n", name, number, err)
		}
		if bar != nil {
			_ = bar.Set64(counted.n)
		}
	}
	if err := sc.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			return fmt.Errorf("%s: a line is longer than %d MiB", name, maxLine>>20)
		}
		return fmt.Errorf("%s: %w (%d lines were sent before it)", name, err, t.sent-before)
	}
	return nil
}

// unreachableError ends the run: no later line would fare better.
type unreachableError struct{ error }

// sendLine sends one line, again while the server asks to wait.
func (c *sendCmd) sendLine(ctx context.Context, client *http.Client, raw []byte, t *totals) error {
	var l line
	if err := json.Unmarshal(raw, &l); err != nil {
		return errors.New("not a line of JSON")
	}
	url, contentType, body, err := l.target(raw, strings.TrimRight(c.API, "/"), strings.TrimRight(c.OTLPHTTP, "/"))
	if err != nil {
		return err
	}
	for try := 0; ; try++ {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", contentType)
		res, err := client.Do(req)
		if err != nil {
			flag := "--api"
			if strings.HasPrefix(url, strings.TrimRight(c.OTLPHTTP, "/")) {
				flag = "--otlp-http"
			}
			return unreachableError{unreachable(url, flag, err)}
		}
		answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
		res.Body.Close()
		if err != nil {
			return fmt.Errorf("read the answer: %w", err)
		}
		switch {
		case res.StatusCode == http.StatusTooManyRequests || res.StatusCode == http.StatusServiceUnavailable:
			if try == 60 {
				return refused(res.StatusCode, answer)
			}
			pause := time.Second
			if n, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && n >= 0 && n < 60 {
				pause = time.Duration(max(n, 1)) * time.Second
			}
			if !wait(ctx, pause) {
				return ctx.Err()
			}
			continue
		case res.StatusCode >= 300:
			return refused(res.StatusCode, answer)
		}
		t.sent++
		t.count(answer)
		return nil
	}
}

// count reads what a 2xx answer says of single items.
func (t *totals) count(answer []byte) {
	var a struct {
		PartialSuccess struct {
			RejectedSpans      json.Number `json:"rejectedSpans"`
			RejectedLogRecords json.Number `json:"rejectedLogRecords"`
		} `json:"partialSuccess"`
		Quarantined int    `json:"quarantined"` // of several events
		Status      string `json:"status"`      // of a single one
	}
	if json.Unmarshal(answer, &a) != nil {
		return // a protobuf answer: empty when all went well
	}
	n, _ := a.PartialSuccess.RejectedSpans.Int64()
	t.spans += n
	n, _ = a.PartialSuccess.RejectedLogRecords.Int64()
	t.logs += n
	t.quarantined += a.Quarantined
	if a.Status == "quarantined" {
		t.quarantined++
	}
}

func openLines(name string) (io.ReadCloser, int64, error) {
	if name == "-" {
		return io.NopCloser(os.Stdin), -1, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	if info.IsDir() {
		f.Close()
		return nil, 0, fmt.Errorf("%s is a directory", name)
	}
	return f, info.Size(), nil
}

// gunzip unpacks what begins like gzip and passes anything else through.
func gunzip(r io.Reader) (io.Reader, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	magic, err := b.Peek(2)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(magic) == 2 && magic[0] == 0x1f && magic[1] == 0x8b {
		return gzip.NewReader(b)
	}
	return b, nil
}

type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// wait sleeps for d; false when ctx ended first.
func wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
