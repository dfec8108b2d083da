// Package contract is the event contract as data: which event types there are,
// on which topic and under which key they travel, how long they live, which
// parts of them are content, what their bodies look like, and who reads them.
//
//	types/<event type>.yaml   one per type: topic, schema, privacy class, content fields
//	schemas/<name>.json       JSON Schema 2020-12 of the bodies, urn:looptape:schema:<name>:<version>
//	topics.yaml               topics, their keys, partitions and retention classes
//	groups.yaml               consumer groups
//
// Load reads all of it, checks that it agrees with itself and compiles the
// schemas; a contract that loads is sound: every type has a topic and a schema,
// every topic has a known retention class, and every field of class P3 is both
// marked in the schema and named by the type. A directory of the user with types/
// and schemas/ of the same form adds types of his own without a new build; it
// can't change a type or a topic that is built in.
//
// Schemas are open: an unknown field is no error, so that a newer producer is not
// turned away. A Contract is read only after Load and may be used from many
// goroutines.
package contract

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

//go:embed types/*.yaml schemas/*.json topics.yaml groups.yaml
var builtin embed.FS

// RequestPartitions is the partition count of every request-scoped topic.
const RequestPartitions = 8

// Keys of topics.
const (
	KeyRequest       = "request"        // the request id, or the alias of an event that has no request yet
	KeyAlias         = "alias"          // alias + 0x1f + request
	KeyTenantRequest = "tenant/request" // tenant + "/" + request
	KeyRelease       = "release"
	KeyEvaluator     = "evaluator"
	KeyTenant        = "tenant"
)

// A Type is one event type.
type Type struct {
	Name    string   `yaml:"type"`
	About   string   `yaml:"about"`
	Topic   string   `yaml:"topic"`
	Schema  string   `yaml:"schema"` // name; SchemaID is its whole id
	Version int      `yaml:"version"`
	Privacy string   `yaml:"privacy"` // highest class of any field: P0 .. P4
	Content []string `yaml:"content"` // JSON pointers of the P3 fields at the top of the body
	Ingest  bool     `yaml:"ingest"`  // may come from outside; others are made by Looptape only

	Retention string `yaml:"-"` // of its topic
	Key       string `yaml:"-"` // of its topic

	schema *jsonschema.Schema
	fields map[string]bool
}

// SchemaID names the schema and its version, as it is written to ce_dataschema.
func (t *Type) SchemaID() string { return schemaID(t.Schema, t.Version) }

// HasField reports whether the body's schema declares a field of that name at
// its top.
func (t *Type) HasField(name string) bool { return t.fields[name] }

// A Topic is one topic and what a broker must be told of it.
type Topic struct {
	Name       string `yaml:"name"`
	About      string `yaml:"about"`
	Key        string `yaml:"key"`   // one of the Key constants
	Scope      string `yaml:"scope"` // "request": shares the partition count
	Partitions int32  `yaml:"partitions"`
	Retention  string `yaml:"retention"` // hot, release, audit
	Cleanup    string `yaml:"cleanup"`   // delete, compact

	Config map[string]string `yaml:"-"` // topic configuration for the broker
}

// RequestScoped reports whether the topic is partitioned by request like all the
// others that say so.
func (t *Topic) RequestScoped() bool { return t.Scope == "request" }

// A Group is a declared consumer group.
type Group struct {
	Name          string   `yaml:"name"`
	Owner         string   `yaml:"owner"`
	Purpose       string   `yaml:"purpose"`
	Topics        []string `yaml:"topics"`
	MaxLagSeconds float64  `yaml:"max_lag_seconds"`
	Replay        bool     `yaml:"replay"`
}

// MaxLag is the delay the group may have.
func (g *Group) MaxLag() time.Duration {
	return time.Duration(g.MaxLagSeconds * float64(time.Second))
}

// A Retention is a class of life time.
type Retention struct {
	Days    int    `yaml:"days"`
	MinDays int    `yaml:"min_days"`
	About   string `yaml:"about"`
}

// A Contract is a loaded, checked contract. Use Load.
type Contract struct {
	types     map[string]*Type
	topics    []Topic
	groups    []Group
	retention map[string]Retention
	privacy   map[string]string
}

// Load reads the built-in contract and adds the types of the user's file systems,
// each with types/ and schemas/ (and topics.yaml for topics of his own). All
// problems are reported at once.
func Load(user ...fs.FS) (*Contract, error) {
	c := &Contract{types: map[string]*Type{}, retention: map[string]Retention{}, privacy: map[string]string{}}
	schemas := map[string]any{}
	var errs []error
	for i, fsys := range append([]fs.FS{builtin}, user...) {
		if err := c.read(fsys, schemas); err != nil {
			where := "built-in contract"
			if i > 0 {
				where = "contract directory " + strconv.Itoa(i)
			}
			errs = append(errs, fmt.Errorf("%s: %w", where, err))
		}
	}
	if len(errs) == 0 {
		errs = append(errs, c.check(), c.compile(schemas))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("load contract: %w", err)
	}
	return c, nil
}

// Topics returns every topic, in the order of the contract.
func (c *Contract) Topics() []Topic { return slices.Clone(c.topics) }

// Topic returns a topic by name.
func (c *Contract) Topic(name string) (*Topic, bool) {
	for i := range c.topics {
		if c.topics[i].Name == name {
			return &c.topics[i], true
		}
	}
	return nil, false
}

// Type returns an event type by name.
func (c *Contract) Type(name string) (*Type, bool) {
	t, ok := c.types[name]
	return t, ok
}

// Types returns every event type, by name.
func (c *Contract) Types() []*Type {
	return slices.SortedFunc(maps.Values(c.types), func(a, b *Type) int { return strings.Compare(a.Name, b.Name) })
}

// Groups returns the declared consumer groups.
func (c *Contract) Groups() []Group { return slices.Clone(c.groups) }

func schemaID(name string, version int) string {
	return "urn:looptape:schema:" + name + ":" + strconv.Itoa(version)
}

func (c *Contract) read(fsys fs.FS, schemas map[string]any) error {
	var errs []error
	var t struct {
		Retention map[string]Retention `yaml:"retention"`
		Privacy   map[string]string    `yaml:"privacy"`
		Topics    []Topic              `yaml:"topics"`
	}
	errs = append(errs, readYAML(fsys, "topics.yaml", &t))
	for name, r := range t.Retention {
		if _, taken := c.retention[name]; taken {
			errs = append(errs, fmt.Errorf("topics.yaml: retention class %s is defined already", name))
			continue
		}
		c.retention[name] = r
	}
	for name, about := range t.Privacy {
		c.privacy[name] = about
	}
	for _, topic := range t.Topics {
		if _, taken := c.Topic(topic.Name); taken {
			errs = append(errs, fmt.Errorf("topics.yaml: topic %s is defined already", topic.Name))
			continue
		}
		c.topics = append(c.topics, topic)
	}
	var g struct {
		Groups []Group `yaml:"groups"`
	}
	errs = append(errs, readYAML(fsys, "groups.yaml", &g))
	c.groups = append(c.groups, g.Groups...)

	files, err := fs.Glob(fsys, "types/*.yaml")
	errs = append(errs, err)
	for _, file := range files {
		typ := &Type{}
		if err := readYAML(fsys, file, typ); err != nil {
			errs = append(errs, err)
			continue
		}
		if want := strings.TrimSuffix(path.Base(file), ".yaml"); typ.Name != want {
			errs = append(errs, fmt.Errorf("%s: type %q must bear the file's name", file, typ.Name))
			continue
		}
		if _, taken := c.types[typ.Name]; taken {
			errs = append(errs, fmt.Errorf("%s: type %s is defined already", file, typ.Name))
			continue
		}
		c.types[typ.Name] = typ
	}
	files, err = fs.Glob(fsys, "schemas/*.json")
	errs = append(errs, err)
	for _, file := range files {
		errs = append(errs, readSchema(fsys, file, schemas))
	}
	return errors.Join(errs...)
}

// readYAML decodes one file strictly: an unknown key is an error. A file that is
// absent is none, types and schemas are found by name.
func readYAML(fsys fs.FS, name string, to any) error {
	f, err := fsys.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	dec := yaml.NewDecoder(f)
	dec.KnownFields(true)
	if err := dec.Decode(to); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
