package evaluate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/looptape/looptape/internal/loop/event"
)

// format checks that the answer has the form that was asked for. What was asked
// for is a parameter of the call, in the first of these that is there:
//
//	response_format  {"type": "json_object"}, {"type": "json_schema", "json_schema": {"schema": S}}, "json", "text"
//	text.format      the same under "text": {"format": ...}
//	output_type      "json", "text"
//
// each by its bare name or behind a prefix of the GenAI conventions, else the
// configured expectation. An answer of any form must not be cut off by the
// token limit and must close its code fences.
type format struct {
	cfg     FormatConfig
	schemas schemaCache
}

const (
	maxSchemaBytes  = 64 << 10
	maxCachedSchema = 256
)

func newFormat(cfg FormatConfig) *format { return &format{cfg: cfg} }

func (e *format) Manifest() Manifest {
	return Manifest{
		ID: "format", Version: "1.0.0", Revision: 1,
		Description: "Whether the answer is complete and has the response format that was asked for.",
		Reads:       Answer | Finish | Params | Failure, Needs: Answer,
		Output: Output{Meaning: "1 in the format asked for, 0 not", Good: GoodHigh, Labels: []string{"valid", "truncated", "not_json", "schema", "open_fence"}},
		Cost:   Cost{Micros: 5},
		Params: map[string]any{"expect": e.cfg.Expect, "max_schema_bytes": maxSchemaBytes},
	}
}

func (e *format) Evaluate(r *event.Request) Result {
	if r.Answer == "" {
		return noAnswer(r) // perhaps content is not captured: an empty answer can't be told from that
	}
	for _, f := range r.Finish {
		switch strings.ToLower(f) {
		case "length", "max_tokens", "model_length", "max_output_tokens", "incomplete":
			return score(0, "truncated", false, "the model stopped for "+cut(f, 40))
		}
	}
	want := e.want(r.Params)
	if want.json {
		return e.checkJSON(r.Answer, want.schema)
	}
	if openFence(r.Answer) {
		return score(0, "open_fence", false, "a code fence is opened and not closed")
	}
	return score(1, "valid", true, "")
}

func (e *format) checkJSON(answer string, schema any) Result {
	text := unfence(answer)
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return score(0, "not_json", false, "the answer is not JSON")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return score(0, "not_json", false, "something follows the JSON value")
	}
	if schema == nil {
		return score(1, "valid", true, "JSON")
	}
	s, err := e.schemas.compile(schema)
	if err != nil {
		return fail("bad_schema")
	}
	if err := s.Validate(v); err != nil {
		var bad *jsonschema.ValidationError
		where := ""
		if errors.As(err, &bad) {
			for len(bad.Causes) > 0 {
				bad = bad.Causes[0]
			}
			where = " at /" + strings.Join(bad.InstanceLocation, "/")
		}
		return score(0, "schema", false, "the JSON does not fit the schema asked for"+cut(where, 200))
	}
	return score(1, "valid", true, "JSON that fits its schema")
}

// expectation is what an answer must be.
type expectation struct {
	json   bool
	schema any
}

func (e *format) want(params map[string]any) expectation {
	for _, name := range []string{"response_format", "text.format", "output_type", "output.type"} {
		for _, prefix := range []string{"", "gen_ai.request.", "gen_ai.", "openai.request.", "gen_ai.openai.request."} {
			if v, ok := params[prefix+name]; ok {
				if w, ok := readExpectation(v); ok {
					return w
				}
			}
		}
	}
	if text, ok := params["text"].(map[string]any); ok {
		if w, ok := readExpectation(text["format"]); ok {
			return w
		}
	}
	return expectation{json: e.cfg.Expect == "json"}
}

// readExpectation reads one way of asking for a format; false: it says nothing that is known.
func readExpectation(v any) (expectation, bool) {
	switch v := v.(type) {
	case string:
		switch s := strings.ToLower(strings.TrimSpace(v)); {
		case s == "json" || s == "json_object" || s == "application/json":
			return expectation{json: true}, true
		case s == "text" || s == "text/plain" || s == "markdown":
			return expectation{}, true
		case strings.HasPrefix(s, "{") && len(v) <= maxSchemaBytes:
			var m map[string]any
			if json.Unmarshal([]byte(v), &m) == nil {
				return readExpectation(m)
			}
		}
	case map[string]any:
		switch t, _ := v["type"].(string); t {
		case "json_object", "json":
			return expectation{json: true}, true
		case "text":
			return expectation{}, true
		case "json_schema":
			if inner, ok := v["json_schema"].(map[string]any); ok {
				v = inner
			}
			return expectation{json: true, schema: v["schema"]}, true
		}
	}
	return expectation{}, false
}

// unfence takes the text out of a code fence that is all there is.
func unfence(s string) string {
	s = strings.TrimSpace(s)
	if !strings.HasPrefix(s, "```") || !strings.HasSuffix(s, "```") || len(s) < 6 {
		return s
	}
	_, body, ok := strings.Cut(s[:len(s)-3], "\n")
	if !ok {
		return s
	}
	return strings.TrimSpace(body)
}

// openFence says that a code fence at the start of a line is never closed.
func openFence(s string) bool {
	open := ""
	for line := range strings.Lines(s) {
		line = strings.TrimSpace(line)
		mark := ""
		for _, m := range []string{"```", "~~~"} {
			if strings.HasPrefix(line, m) {
				mark = line[:len(line)-len(strings.TrimLeft(line, m[:1]))]
			}
		}
		switch {
		case mark == "":
		case open == "":
			// ```inline``` on one line opens nothing.
			if !strings.Contains(line[len(mark):], mark) {
				open = mark
			}
		case mark[0] == open[0] && len(mark) >= len(open) && strings.TrimSpace(line[len(mark):]) == "":
			open = ""
		}
	}
	return open != ""
}

// schemaCache keeps compiled schemas by their text. Safe for concurrent use.
type schemaCache struct {
	mu sync.Mutex // guards m
	m  map[string]*jsonschema.Schema
}

type noLoader struct{}

func (noLoader) Load(url string) (any, error) {
	return nil, errors.New("schemas are not loaded from elsewhere")
}

func (c *schemaCache) compile(schema any) (*jsonschema.Schema, error) {
	text, err := json.Marshal(schema)
	if err != nil {
		return nil, fmt.Errorf("encode schema: %w", err)
	}
	if len(text) > maxSchemaBytes {
		return nil, fmt.Errorf("schema of %d bytes: limit is %d", len(text), maxSchemaBytes)
	}
	c.mu.Lock()
	s := c.m[string(text)]
	c.mu.Unlock()
	if s != nil {
		return s, nil
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("decode schema: %w", err)
	}
	k := jsonschema.NewCompiler()
	k.UseLoader(noLoader{})
	if err := k.AddResource("mem:schema", doc); err != nil {
		return nil, errors.New("add schema: refused")
	}
	s, err = k.Compile("mem:schema")
	if err != nil {
		return nil, errors.New("compile schema: not a valid JSON Schema")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil || len(c.m) >= maxCachedSchema {
		c.m = map[string]*jsonschema.Schema{}
	}
	c.m[string(text)] = s
	return s, nil
}
