package contract

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// ErrUnknownType says that the contract has no such event type.
var ErrUnknownType = errors.New("event type is not in the contract")

// An InvalidError says where a body breaks its schema. It holds no content of
// the body.
type InvalidError struct {
	Type    string // event type
	Schema  string // schema id
	Pointer string // JSON pointer into the body, "" for the body itself
	Problem string // what is wrong there, without values
}

func (e *InvalidError) Error() string {
	at := e.Pointer
	if at == "" {
		at = "the body"
	}
	return fmt.Sprintf("%s of %s: %s", at, e.Type, e.Problem)
}

// Validate checks a body, JSON text, against the schema of the event type. The
// errors are ErrUnknownType or an *InvalidError.
func (c *Contract) Validate(typ string, body []byte) error {
	t, ok := c.types[typ]
	if !ok {
		return ErrUnknownType
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return &InvalidError{Type: typ, Schema: t.SchemaID(), Problem: "not valid JSON"}
	}
	return t.Validate(v)
}

// Validate checks a decoded body (numbers as json.Number or float64).
func (t *Type) Validate(body any) error {
	err := t.schema.Validate(body)
	if err == nil {
		return nil
	}
	var v *jsonschema.ValidationError
	if !errors.As(err, &v) {
		return &InvalidError{Type: t.Name, Schema: t.SchemaID(), Problem: "does not fit its schema"}
	}
	for len(v.Causes) > 0 {
		v = v.Causes[0]
	}
	var b strings.Builder
	for _, token := range v.InstanceLocation {
		b.WriteByte('/')
		b.WriteString(strings.NewReplacer("~", "~0", "/", "~1").Replace(token))
	}
	return &InvalidError{Type: t.Name, Schema: t.SchemaID(), Pointer: b.String(), Problem: problem(v)}
}

// problem words a violation by its keyword: the library's own sentences quote
// values, and values are content.
func problem(v *jsonschema.ValidationError) string {
	path := v.ErrorKind.KeywordPath()
	keyword := ""
	if len(path) > 0 {
		keyword = path[len(path)-1]
	}
	switch keyword {
	case "type", "required":
		// These name types and property names of the schema only.
		return v.ErrorKind.LocalizedString(message.NewPrinter(language.English))
	case "minimum", "maximum":
		return "number out of range"
	case "minLength":
		return "must not be empty"
	case "maxLength":
		return "too long"
	case "format":
		return "not in the format the schema asks for (times are RFC 3339)"
	case "enum":
		return "not one of the values the schema lists"
	}
	return "breaks the schema's rule " + keyword
}

func readSchema(fsys fs.FS, file string, schemas map[string]any) error {
	b, err := fs.ReadFile(fsys, file)
	if err != nil {
		return err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	m, _ := doc.(map[string]any)
	id, _ := m["$id"].(string)
	if !strings.HasPrefix(id, "urn:looptape:schema:") {
		return fmt.Errorf("%s: $id must begin with urn:looptape:schema:", file)
	}
	if _, taken := schemas[id]; taken {
		return fmt.Errorf("%s: schema %s is defined already", file, id)
	}
	schemas[id] = doc
	return nil
}

// noLoader refuses every address: a schema can't make the program read a file or
// open a connection.
type noLoader struct{}

func (noLoader) Load(url string) (any, error) {
	return nil, fmt.Errorf("schema %s is not part of the contract", url)
}

func (c *Contract) compile(schemas map[string]any) error {
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	compiler.AssertFormat()
	compiler.UseLoader(noLoader{})
	var errs []error
	for id, doc := range schemas {
		if err := compiler.AddResource(id, doc); err != nil {
			errs = append(errs, fmt.Errorf("schema %s: %w", id, err))
		}
	}
	for _, t := range c.types {
		s, err := compiler.Compile(t.SchemaID())
		if err != nil {
			errs = append(errs, fmt.Errorf("type %s: %w", t.Name, err))
			continue
		}
		t.schema = s
		doc, _ := schemas[t.SchemaID()].(map[string]any)
		props, _ := doc["properties"].(map[string]any)
		t.fields = make(map[string]bool, len(props))
		var marked []string
		for name, p := range props {
			t.fields[name] = true
			if m, _ := p.(map[string]any); m["x-privacy"] == "P3" || m["x-privacy"] == "P4" {
				marked = append(marked, "/"+name)
			}
		}
		slices.Sort(marked)
		declared := slices.Clone(t.Content)
		slices.Sort(declared)
		if !slices.Equal(marked, declared) {
			errs = append(errs, fmt.Errorf("type %s: content fields %v, but the schema marks %v", t.Name, declared, marked))
		}
	}
	return errors.Join(errs...)
}
