// Package event is what travels through the loop: one record of a topic is one
// CloudEvents 1.0 event in the Kafka protocol binding's binary mode.
//
// Every fact that routing, filtering, joining, gating, replay or access control
// needs is a header; the value is JSON and is opened only by those who need its
// content. A body above the claim-check limit lives in the object store and the
// record carries its address in ce_dataref.
//
//	record key     the ordering contract of the topic (contract/): request, task, release, ...
//	record value   the body, JSON (see the body types in body.go)
//	headers        ce_id ce_type ce_source ce_time ce_subject ce_partitionkey ce_dataschema ce_dataref
//	               traceparent, and Looptape's facts by their plain names (Facts)
//	record time    when it was appended; ce_time is when it happened
//
// The package is pure: no I/O, no clock, no client. Decoding takes hostile
// bytes: it never panics, and what it does not know it keeps.
package event

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// SpecVersion is the CloudEvents version written.
const SpecVersion = "1.0"

// Source is the ce_source of events that Looptape itself makes.
const Source = "looptape"

// MaxHeaderBytes bounds one header's value when decoding.
const MaxHeaderBytes = 16 << 10

// A Record is a Kafka record without a Kafka client: what stream gives and takes.
type Record struct {
	Topic     string
	Partition int32 // for output: -1 lets the stream choose by key (PartitionOf)
	Offset    int64
	Time      time.Time // append time (or the producer's), millisecond precision
	Key       []byte
	Value     []byte // nil is a tombstone
	Headers   []Header
}

// A Header is one Kafka record header.
type Header struct {
	Key   string
	Value []byte
}

// Header returns the last header of that name, or "".
func (r *Record) Header(name string) string {
	for i := len(r.Headers) - 1; i >= 0; i-- {
		if r.Headers[i].Key == name {
			return string(r.Headers[i].Value)
		}
	}
	return ""
}

// A Position is where a record lies: the only order that is promised is by
// offset within one partition.
type Position struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
}

func (p Position) String() string { return fmt.Sprintf("%s/%d/%d", p.Topic, p.Partition, p.Offset) }

// An Event is one decoded record.
type Event struct {
	ID          string    // ce_id: idempotency key, unique within a tenant
	Type        string    // ce_type: one of the type constants, or a user's own
	Source      string    // ce_source
	Time        time.Time // ce_time: when it happened, nanoseconds, UTC
	About       string    // ce_subject (CloudEvents' subject, not the person: that is Facts.Subject)
	DataSchema  string    // ce_dataschema: schema and version
	DataRef     string    // ce_dataref: where the body lies when it is too large for the record
	TraceParent string
	Facts       Facts
	Other       []Header // headers that are neither CloudEvents attributes nor known facts, kept as they came
	Data        []byte   // JSON body; empty when DataRef is set and not yet resolved

	Position   Position  // where it was read from; zero for an event not yet appended
	AppendTime time.Time // the record's time stamp; zero for an event not yet appended
}

// Facts are Looptape's own headers. Empty means absent. Pointers tell absent
// from zero.
type Facts struct {
	Tenant           string
	App              string
	Environment      string
	Request          string // the join key
	Trace            string // 32 hex digits
	Span             string // 16 hex digits
	Response         string // the provider's response id; an alias of the request
	Session          string
	Task             string
	Subject          string // pseudonym of the person; never the raw id
	Release          string
	Deployment       string
	Arm              string   // baseline, candidate, shadow
	Unit             string   // unit of randomisation
	UnitKind         string   // conversation, user, request
	Propensity       *float64 // P(arm = candidate), logged at assignment
	Stage            string
	Assignment       string
	Salt             string
	Model            string
	PromptVersion    string
	RetrieverVersion string
	Evaluator        string // id@version#hash
	SampledP         *float64
	Policy           string
	Privacy          string // P0 .. P4
	Retention        string // hot, release, audit
	Producer         string
	Seq              *int64
	ReceivedTime     time.Time
	Via              string            // the alias by which an event without a request was re-keyed; such an event is never re-keyed again
	Segments         map[string]string // segment.<dim>
}

const segmentPrefix = "segment."

// stringFacts lists the plain string facts in the order they are written.
var stringFacts = []struct {
	name string
	at   func(*Facts) *string
}{
	{"tenant", func(f *Facts) *string { return &f.Tenant }},
	{"app", func(f *Facts) *string { return &f.App }},
	{"environment", func(f *Facts) *string { return &f.Environment }},
	{"request", func(f *Facts) *string { return &f.Request }},
	{"trace", func(f *Facts) *string { return &f.Trace }},
	{"span", func(f *Facts) *string { return &f.Span }},
	{"response", func(f *Facts) *string { return &f.Response }},
	{"session", func(f *Facts) *string { return &f.Session }},
	{"task", func(f *Facts) *string { return &f.Task }},
	{"subject", func(f *Facts) *string { return &f.Subject }},
	{"release", func(f *Facts) *string { return &f.Release }},
	{"deployment", func(f *Facts) *string { return &f.Deployment }},
	{"arm", func(f *Facts) *string { return &f.Arm }},
	{"unit", func(f *Facts) *string { return &f.Unit }},
	{"unit_kind", func(f *Facts) *string { return &f.UnitKind }},
	{"stage", func(f *Facts) *string { return &f.Stage }},
	{"assignment", func(f *Facts) *string { return &f.Assignment }},
	{"salt", func(f *Facts) *string { return &f.Salt }},
	{"model", func(f *Facts) *string { return &f.Model }},
	{"prompt_version", func(f *Facts) *string { return &f.PromptVersion }},
	{"retriever_version", func(f *Facts) *string { return &f.RetrieverVersion }},
	{"evaluator", func(f *Facts) *string { return &f.Evaluator }},
	{"policy", func(f *Facts) *string { return &f.Policy }},
	{"privacy", func(f *Facts) *string { return &f.Privacy }},
	{"retention", func(f *Facts) *string { return &f.Retention }},
	{"producer", func(f *Facts) *string { return &f.Producer }},
	{"via", func(f *Facts) *string { return &f.Via }},
}

var stringFact = func() map[string]func(*Facts) *string {
	m := make(map[string]func(*Facts) *string, len(stringFacts))
	for _, s := range stringFacts {
		m[s.name] = s.at
	}
	return m
}()

// Set sets the fact of that name from its wire form. It reports whether the
// name is a fact's; a value that does not parse is an error.
func (f *Facts) Set(name, value string) (bool, error) {
	if at := stringFact[name]; at != nil {
		*at(f) = value
		return true, nil
	}
	switch name {
	case "propensity":
		return true, setProbability(&f.Propensity, name, value)
	case "sampled_p":
		return true, setProbability(&f.SampledP, name, value)
	case "seq":
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return true, fmt.Errorf("fact seq: not a whole number")
		}
		f.Seq = &n
		return true, nil
	case "receivedtime":
		t, err := time.Parse(time.RFC3339Nano, value)
		if err != nil {
			return true, fmt.Errorf("fact receivedtime: not an RFC 3339 time")
		}
		f.ReceivedTime = t.UTC()
		return true, nil
	}
	if dim, ok := strings.CutPrefix(name, segmentPrefix); ok && dim != "" {
		if f.Segments == nil {
			f.Segments = map[string]string{}
		}
		f.Segments[dim] = value
		return true, nil
	}
	return false, nil
}

func setProbability(to **float64, name, value string) error {
	p, err := strconv.ParseFloat(value, 64)
	if err != nil || !(p >= 0 && p <= 1) {
		return fmt.Errorf("fact %s: not a probability between 0 and 1", name)
	}
	*to = &p
	return nil
}

// Each calls fn for every fact that is present, by its wire name and form, in a
// fixed order.
func (f *Facts) Each(fn func(name, value string)) {
	for _, s := range stringFacts {
		if v := *s.at(f); v != "" {
			fn(s.name, v)
		}
	}
	if f.Propensity != nil {
		fn("propensity", formatFloat(*f.Propensity))
	}
	if f.SampledP != nil {
		fn("sampled_p", formatFloat(*f.SampledP))
	}
	if f.Seq != nil {
		fn("seq", strconv.FormatInt(*f.Seq, 10))
	}
	if !f.ReceivedTime.IsZero() {
		fn("receivedtime", f.ReceivedTime.UTC().Format(time.RFC3339Nano))
	}
	dims := make([]string, 0, len(f.Segments))
	for d := range f.Segments {
		dims = append(dims, d)
	}
	slices.Sort(dims)
	for _, d := range dims {
		fn(segmentPrefix+d, f.Segments[d])
	}
}

func formatFloat(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

// ErrNotEvent says that a record does not carry a CloudEvent.
var ErrNotEvent = errors.New("record has no ce_id and ce_type headers")

// Decode reads an event from a record. The event shares the record's value. A
// fact with a malformed value is kept in Other and reported as an error beside
// the otherwise complete event.
func Decode(r *Record) (Event, error) {
	e := Event{Data: r.Value, Position: Position{r.Topic, r.Partition, r.Offset}, AppendTime: r.Time}
	var errs []error
	for _, h := range r.Headers {
		if len(h.Value) > MaxHeaderBytes {
			errs = append(errs, fmt.Errorf("header of %d bytes: limit is %d", len(h.Value), MaxHeaderBytes))
			continue
		}
		v := string(h.Value)
		switch h.Key {
		case "ce_id":
			e.ID = v
		case "ce_type":
			e.Type = v
		case "ce_source":
			e.Source = v
		case "ce_subject":
			e.About = v
		case "ce_dataschema":
			e.DataSchema = v
		case "ce_dataref":
			e.DataRef = v
		case "traceparent":
			e.TraceParent = v
		case "ce_time":
			t, err := time.Parse(time.RFC3339Nano, v)
			if err != nil {
				errs = append(errs, errors.New("header ce_time: not an RFC 3339 time"))
				continue
			}
			e.Time = t.UTC()
		case "ce_specversion", "ce_partitionkey", "content-type":
		default:
			known, err := e.Facts.Set(h.Key, v)
			if err != nil {
				errs = append(errs, err)
			}
			if !known || err != nil {
				e.Other = append(e.Other, h)
			}
		}
	}
	if e.ID == "" || e.Type == "" {
		return e, ErrNotEvent
	}
	if e.Time.IsZero() {
		e.Time = r.Time.UTC()
	}
	return e, errors.Join(errs...)
}

// Record encodes the event for a topic under a key. The partition is chosen
// from partitionKey (PartitionOf) by the stream, so that all records of one
// request lie in partitions of the same number whatever their own key is.
func (e *Event) Record(topic, key, partitionKey string) Record {
	h := make([]Header, 0, 24)
	add := func(k, v string) {
		if v != "" {
			h = append(h, Header{k, []byte(v)})
		}
	}
	add("ce_specversion", SpecVersion)
	add("ce_id", e.ID)
	add("ce_type", e.Type)
	add("ce_source", e.Source)
	add("ce_time", e.Time.UTC().Format(time.RFC3339Nano))
	add("ce_subject", e.About)
	add("ce_partitionkey", partitionKey)
	add("ce_dataschema", e.DataSchema)
	add("ce_dataref", e.DataRef)
	add("content-type", "application/json")
	add("traceparent", e.TraceParent)
	e.Facts.Each(add)
	h = append(h, e.Other...)
	return Record{Topic: topic, Partition: -1, Key: []byte(key), Value: e.Data, Headers: h}
}

// Body decodes the event's JSON body into v. Numbers, unknown fields and missing
// fields are tolerated as encoding/json tolerates them.
func (e *Event) Body(v any) error {
	if len(e.Data) == 0 {
		if e.DataRef != "" {
			return fmt.Errorf("event %s: its body is in the object store and was not resolved", e.ID)
		}
		return nil
	}
	if err := json.Unmarshal(e.Data, v); err != nil {
		return fmt.Errorf("body of event %s (%s): %w", e.ID, e.Type, err)
	}
	return nil
}

// SetBody encodes v as the event's body.
func (e *Event) SetBody(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode body of %s: %w", e.Type, err)
	}
	e.Data = b
	return nil
}
