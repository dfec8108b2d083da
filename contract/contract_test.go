package contract

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/looptape/looptape/internal/loop/event"
)

func load(t *testing.T) *Contract {
	t.Helper()
	c, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTopics(t *testing.T) {
	c := load(t)
	want := []string{
		event.TopicPrompt, event.TopicRetrieval, event.TopicResponse, event.TopicAction, event.TopicSafety, event.TopicFeedback,
		event.TopicScore, event.TopicAlias, event.TopicCase, event.TopicDeployment, event.TopicEvaluator, event.TopicDecision,
		event.TopicQuarantine, event.TopicOps,
	}
	var got []string
	for _, topic := range c.Topics() {
		got = append(got, topic.Name)
		if topic.RequestScoped() && topic.Partitions != RequestPartitions {
			t.Errorf("%s has %d partitions", topic.Name, topic.Partitions)
		}
		if topic.Config["cleanup.policy"] == "delete" && topic.Config["retention.ms"] == "" {
			t.Errorf("%s is deleted and has no retention", topic.Name)
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	hot, _ := c.Topic(event.TopicPrompt)
	if d := cmp.Diff(map[string]string{"cleanup.policy": "delete", "retention.ms": "604800000"}, hot.Config); d != "" {
		t.Error(d)
	}
}

// The schemas and the Go bodies must not drift apart.
func TestSchemasMatchBodies(t *testing.T) {
	c := load(t)
	bodies := map[string]any{
		event.PromptRendered: event.Prompt{}, event.RetrievalCompleted: event.Retrieval{}, event.ModelCallCompleted: event.Response{},
		event.ActionExecuted: event.Action{}, event.GuardrailResult: event.Safety{}, event.FeedbackRecorded: event.Feedback{},
		event.EvaluationResult: event.Score{}, event.AliasBound: event.Alias{}, event.DeploymentStarted: event.Deployment{},
		event.EventQuarantined: event.Quarantined{},
	}
	for name, body := range bodies {
		typ, ok := c.Type(name)
		if !ok {
			t.Errorf("no type %s", name)
			continue
		}
		var want []string
		rt := reflect.TypeOf(body)
		for i := range rt.NumField() {
			field, _, _ := strings.Cut(rt.Field(i).Tag.Get("json"), ",")
			want = append(want, field)
		}
		var got []string
		for field := range typ.fields {
			got = append(got, field)
		}
		slices.Sort(want)
		slices.Sort(got)
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: fields of the body and of the schema differ:\n%s", name, d)
		}
	}
}

func TestValidate(t *testing.T) {
	c := load(t)
	tests := []struct {
		typ, body string
		pointer   string
		ok        bool
	}{
		{event.FeedbackRecorded, `{"kind":"thumbs","value":1}`, "", true},
		{event.FeedbackRecorded, `{"kind":"thumbs","value":1,"new_field":{"a":1}}`, "", true},
		{event.FeedbackRecorded, `{"kind":"thumbs","value":7}`, "/value", false},
		{event.FeedbackRecorded, `{"value":1}`, "", false},
		{event.PromptRendered, `{"messages":[{"role":"user","content":"hi"}]}`, "", true},
		{event.PromptRendered, `{"messages":[{"role":"user","content":1}]}`, "/messages/0/content", false},
		{event.PromptRendered, `not json`, "", false},
		{event.RetrievalCompleted, `{"index_time":"yesterday"}`, "/index_time", false},
		{event.DeploymentStarted, `{"release":"v2","propensity":0.5}`, "", true},
	}
	for _, tt := range tests {
		err := c.Validate(tt.typ, []byte(tt.body))
		if tt.ok {
			if err != nil {
				t.Errorf("%s %s: %v", tt.typ, tt.body, err)
			}
			continue
		}
		var invalid *InvalidError
		if !errors.As(err, &invalid) || invalid.Pointer != tt.pointer {
			t.Errorf("%s %s: %#v, want pointer %q", tt.typ, tt.body, err, tt.pointer)
		}
	}
	if err := c.Validate("made.up", []byte(`{}`)); !errors.Is(err, ErrUnknownType) {
		t.Errorf("unknown type: %v", err)
	}
}

func TestProblemHoldsNoContent(t *testing.T) {
	c := load(t)
	const secret = "my secret diary"
	for _, body := range []map[string]any{
		{"kind": secret, "value": secret}, {"kind": map[string]any{secret: secret}}, {"kind": "x", "comment": []any{secret}},
	} {
		b, _ := json.Marshal(body)
		err := c.Validate(event.FeedbackRecorded, b)
		if err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("error %v", err)
		}
	}
}

func TestUserTypes(t *testing.T) {
	schema := `{"$id":"urn:looptape:schema:ticket:1","type":"object","properties":{"text":{"type":"string","x-privacy":"P3"}}}`
	good := fstest.MapFS{
		"types/ticket.opened.yaml": {Data: []byte("type: ticket.opened\nabout: x\ntopic: llm.feedback\nschema: ticket\nversion: 1\nprivacy: P3\ncontent: [/text]\ningest: true\n")},
		"schemas/ticket.json":      {Data: []byte(schema)},
	}
	c, err := Load(good)
	if err != nil {
		t.Fatal(err)
	}
	if typ, ok := c.Type("ticket.opened"); !ok || typ.Key != KeyRequest || typ.Retention != "release" || !typ.HasField("text") {
		t.Errorf("type %+v", typ)
	}
	bad := []struct {
		name string
		fs   fstest.MapFS
		want string
	}{
		{"undeclared content", fstest.MapFS{
			"types/ticket.opened.yaml": {Data: []byte("type: ticket.opened\ntopic: llm.feedback\nschema: ticket\nversion: 1\nprivacy: P3\n")},
			"schemas/ticket.json":      {Data: []byte(schema)}}, "the schema marks [/text]"},
		{"built-in type", fstest.MapFS{"types/prompt.rendered.yaml": {Data: []byte("type: prompt.rendered\n")}}, "defined already"},
		{"unknown key", fstest.MapFS{"types/a.b.yaml": {Data: []byte("type: a.b\ntopics: x\n")}}, "topics"},
		{"unknown topic", fstest.MapFS{"types/a.b.yaml": {Data: []byte("type: a.b\ntopic: x\nschema: prompt\nversion: 1\nprivacy: P1\n")}}, "unknown topic"},
		{"reference to a file", fstest.MapFS{
			"types/a.b.yaml":  {Data: []byte("type: a.b\ntopic: llm.ops\nschema: ab\nversion: 1\nprivacy: P1\n")},
			"schemas/ab.json": {Data: []byte(`{"$id":"urn:looptape:schema:ab:1","$ref":"file:///etc/passwd"}`)}}, "not part of the contract"},
	}
	for _, tt := range bad {
		if _, err := Load(tt.fs); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}
