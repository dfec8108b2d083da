package collect

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/looptape/looptape/contract"
	"github.com/looptape/looptape/internal/loop/event"
)

// fields are the members of one JSON item that were not used yet.
type fields map[string]json.RawMessage

// pop takes a member out; null is absent.
func (f fields) pop(name string) (json.RawMessage, bool) {
	v, ok := f[name]
	if !ok {
		return nil, false
	}
	delete(f, name)
	return v, string(v) != "null"
}

// popText takes a member out that must be a string, a number or a boolean.
func (f fields) popText(name string, limit int) (string, error) {
	v, ok := f.pop(name)
	if !ok {
		return "", nil
	}
	s, ok := scalarText(v)
	switch {
	case !ok:
		return "", &itemProblem{code: "bad_field", message: "The field must be a string.", pointer: pointer(name)}
	case len(s) > limit:
		return "", &itemProblem{code: "too_long", message: "The field is longer than " + strconv.Itoa(limit) + " bytes.", pointer: pointer(name)}
	case strings.ContainsFunc(s, isControl):
		return "", &itemProblem{code: "bad_field", message: "The field holds control characters.", pointer: pointer(name)}
	}
	return s, nil
}

func pointer(name string) string {
	return "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
}

// scalarText is a JSON scalar as text.
func scalarText(v json.RawMessage) (string, bool) {
	if len(v) == 0 {
		return "", false
	}
	switch c := v[0]; {
	case c == '"':
		var s string
		err := json.Unmarshal(v, &s)
		return s, err == nil
	case c == '{', c == '[':
		return "", false
	}
	return string(v), string(v) != "null"
}

// factNames lists the facts that a client may give, in the order they are read:
// each by its own name and, as CloudEvents can only write letters and digits,
// without the underscore. Facts that Looptape gives itself are not among them.
var factNames = func() (list [][2]string) {
	for _, name := range []string{"app", "environment", "span", "session", "task", "release", "deployment", "arm", "unit", "unit_kind", "propensity",
		"stage", "assignment", "salt", "model", "prompt_version", "retriever_version", "evaluator", "sampled_p", "policy", "producer", "seq"} {
		list = append(list, [2]string{name, name})
		if short := strings.ReplaceAll(name, "_", ""); short != name {
			list = append(list, [2]string{short, name})
		}
	}
	return list
}()

// readEvent reads a CloudEvent or the short form of /v1/events.
func readEvent(c *Collector, tenant string, item json.RawMessage) (event.Event, string, error) {
	f, err := object(item)
	if err != nil {
		return event.Event{}, "", err
	}
	return c.readFields(tenant, f, nil)
}

func object(item json.RawMessage) (fields, error) {
	var f fields
	if err := json.Unmarshal(item, &f); err != nil || f == nil {
		return nil, reject("not_an_object", "An event must be a valid JSON object.")
	}
	return f, nil
}

// readFields makes an event out of an item. shape, if there is one, may change
// the fields of the body once the envelope is read.
func (c *Collector) readFields(tenant string, f fields, shape func(e *event.Event, f fields) error) (e event.Event, under string, err error) {
	_, cloud := f["specversion"]
	body := f
	if cloud {
		if body, err = c.cloudData(f); err != nil {
			return e, "", err
		}
	} else if data, ok := f["data"]; ok {
		var inner fields
		if json.Unmarshal(data, &inner) == nil && inner != nil {
			delete(f, "data")
			for k, v := range inner {
				if _, taken := f[k]; !taken {
					f[k] = v
				}
			}
		}
	}
	limit := c.cfg.Limits.FactBytes
	if e.Type, err = f.popText("type", limit); err != nil {
		return e, "", err
	}
	if err := c.readEnvelope(&e, f, tenant, cloud); err != nil {
		return e, "", err
	}
	if shape != nil {
		if err := shape(&e, body); err != nil {
			return e, "", err
		}
	}
	if e.Type == "" {
		return e, "", &itemProblem{code: "no_type", message: `Say what happened in "type", for instance "feedback.recorded".`, pointer: "/type"}
	}
	tf, known := c.types[e.Type]
	switch {
	case !known:
		return e, "", &itemProblem{code: "unknown_type", message: "The contract has no such event type; the event is kept in quarantine. Correct its type, or add the type to the contract.",
			pointer: "/type", keep: true}
	case !tf.typ.Ingest:
		return e, "", &itemProblem{code: "reserved_type", message: "Events of this type are made by Looptape only.", pointer: "/type"}
	}
	if under, err = c.readFacts(&e, f, body, tf.typ, tenant, cloud); err != nil {
		return e, "", err
	}
	friendly(e.Type, body)
	if cloud {
		addAttributes(tf.typ, body, f) // extensions that are not facts
	} else {
		gatherAttributes(tf.typ, body)
	}
	if e.Data, err = encode(body); err != nil {
		return e, "", reject("bad_body", "The body can't be encoded.")
	}
	if e.DataSchema == "" {
		e.DataSchema = tf.schema
	}
	return e, under, validate(tf.typ, e.Data)
}

func validate(t *contract.Type, body []byte) error {
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err == nil {
		err = t.Validate(v)
	}
	var invalid *contract.InvalidError
	if errors.As(err, &invalid) {
		return &itemProblem{code: "invalid_body", message: "The event is kept in quarantine: " + invalid.Problem + ".", pointer: invalid.Pointer, schema: invalid.Schema, keep: true}
	}
	return err
}

// cloudData takes the body out of a structured CloudEvent.
func (c *Collector) cloudData(f fields) (fields, error) {
	if v, _ := scalarText(f["specversion"]); v != "1.0" {
		return nil, &itemProblem{code: "bad_specversion", message: `Only CloudEvents of specversion "1.0" are taken.`, pointer: "/specversion"}
	}
	delete(f, "specversion")
	delete(f, "datacontenttype")
	delete(f, "partitionkey")
	data, ok := f.pop("data")
	if encoded, has := f.pop("data_base64"); has {
		var s string
		raw, err := []byte(nil), json.Unmarshal(encoded, &s)
		if err == nil {
			raw, err = base64.StdEncoding.DecodeString(s)
		}
		if err != nil || !json.Valid(raw) {
			return nil, &itemProblem{code: "bad_data", message: "data_base64 must be the base64 of JSON.", pointer: "/data_base64", keep: true}
		}
		if g := c.guard(); g.json(raw, c.cfg.Limits.Depth, c.cfg.Limits.jsonValues()) != nil {
			return nil, &itemProblem{code: "bad_data", message: "data_base64 is nested too deeply, or holds too many values or too large numbers.", pointer: "/data_base64", keep: true}
		}
		data, ok = raw, true
	}
	if !ok {
		return fields{}, nil
	}
	var body fields
	if err := json.Unmarshal(data, &body); err != nil || body == nil {
		return nil, &itemProblem{code: "bad_data", message: "data must be a JSON object.", pointer: "/data", keep: true}
	}
	return body, nil
}

// readEnvelope reads who, when and where.
func (c *Collector) readEnvelope(e *event.Event, f fields, tenant string, cloud bool) (err error) {
	limit := c.cfg.Limits.FactBytes
	if e.ID, err = f.popText("id", limit); err != nil {
		return err
	}
	// In the short form "source" is the field of the body, where there is one.
	if tf, ok := c.types[e.Type]; cloud || !ok || !tf.typ.HasField("source") {
		if e.Source, err = f.popText("source", limit); err != nil {
			return err
		}
	}
	if v, ok := f.pop("time"); ok {
		t, ok := readTime(v)
		if !ok {
			return &itemProblem{code: "bad_time", message: "A time must be RFC 3339, for instance 2026-01-02T03:04:05Z, between the years 1970 and 2261.", pointer: "/time"}
		}
		e.Time = t
	}
	if who, err := f.popText("tenant", limit); err != nil {
		return err
	} else if who != "" && who != tenant {
		return &itemProblem{code: "wrong_tenant", message: "The credential belongs to another tenant; leave the field out.", pointer: "/tenant"}
	}
	if cloud {
		if e.About, err = f.popText("subject", limit); err != nil {
			return err
		}
		if e.DataSchema, err = f.popText("dataschema", limit); err != nil {
			return err
		}
	}
	parent, err := f.popText("traceparent", limit)
	if err != nil {
		return err
	}
	if parts := strings.Split(parent, "-"); len(parts) >= 4 && isHex(parts[1], 32) && isHex(parts[2], 16) {
		e.TraceParent = parent
		e.Facts.Trace, e.Facts.Span = parts[1], parts[2]
	}
	return nil
}

func isHex(s string, n int) bool {
	if len(s) != n {
		return false
	}
	for i := range n {
		if c := s[i]; !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f') {
			return false
		}
	}
	return true
}

func readTime(v json.RawMessage) (time.Time, bool) {
	s, ok := scalarText(v)
	if !ok {
		return time.Time{}, false
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return time.Time{}, false
		}
		return epoch(n)
	}
	t = t.UTC()
	return t, t.Year() >= 1970 && t.Year() < 2262 // nanoseconds in 64 bits end there
}

// readFacts reads the facts out of f; those that the body's schema has too stay
// in the body. It returns the id under which an event without a request waits.
func (c *Collector) readFacts(e *event.Event, f, body fields, typ *contract.Type, tenant string, cloud bool) (under string, err error) {
	limit := c.cfg.Limits.FactBytes
	both := func(name string) { // a fact that the body has a field for, too
		if v, ok := f[name]; ok && typ.HasField(name) {
			if _, has := body[name]; !has || !cloud {
				body["\x00"+name] = v
			}
		}
	}
	for _, n := range factNames {
		name, fact := n[0], n[1]
		if _, ok := f[name]; !ok {
			continue
		}
		both(name)
		s, err := f.popText(name, limit)
		if err != nil {
			return "", err
		}
		if s == "" {
			continue
		}
		if _, err := e.Facts.Set(fact, s); err != nil {
			return "", &itemProblem{code: "bad_field", message: "The field is not a number of the right kind.", pointer: pointer(name)}
		}
	}
	if v, ok := f.pop("segments"); ok {
		var m map[string]string
		if json.Unmarshal(v, &m) != nil || len(m) > c.cfg.Limits.Segments {
			return "", &itemProblem{code: "bad_field", message: "segments must be an object of a few strings.", pointer: "/segments"}
		}
		for dim, value := range m {
			f["segment."+dim], _ = json.Marshal(value)
		}
	}
	for name := range f {
		if dim, ok := strings.CutPrefix(name, "segment."); ok {
			s, err := f.popText(name, limit)
			if err != nil || dim == "" || len(dim) > 64 || strings.ContainsFunc(dim, isControl) || len(e.Facts.Segments) >= c.cfg.Limits.Segments {
				return "", &itemProblem{code: "bad_field", message: "A segment must have a short name and a short string.", pointer: pointer(name)}
			}
			_, _ = e.Facts.Set(name, s)
		}
	}
	people := []string{"user", "user_id", "userid"}
	if !cloud {
		people = append(people, "subject")
	}
	for _, name := range people {
		s, err := f.popText(name, limit)
		if err != nil {
			return "", err
		}
		if s != "" && e.Facts.Subject == "" {
			e.Facts.Subject = c.cfg.Pseudonyms.Pseudonym(tenant, s)
		}
	}
	for _, name := range []string{"author", "approver"} {
		if !typ.HasField(name) {
			continue
		}
		s, err := body.popText(name, limit)
		if err != nil {
			return "", err
		}
		if s != "" {
			body[name], _ = json.Marshal(c.cfg.Pseudonyms.Pseudonym(tenant, s))
		}
	}

	alias := ""
	for _, p := range []struct {
		name string
		to   *string
	}{{"request", &e.Facts.Request}, {"response", &e.Facts.Response}, {"trace", &e.Facts.Trace}, {"alias", &alias}} {
		both(p.name)
		s, err := f.popText(p.name, limit)
		if err != nil {
			return "", err
		}
		if s != "" {
			*p.to = s
		}
	}
	for name := range body {
		if plain, ok := strings.CutPrefix(name, "\x00"); ok {
			body[plain] = body[name]
			delete(body, name)
		}
	}
	if e.Facts.Trace != "" {
		e.Facts.Trace = strings.ToLower(e.Facts.Trace)
		if !isHex(e.Facts.Trace, 32) {
			return "", &itemProblem{code: "bad_field", message: "trace must be 32 hex digits; send other ids as alias.", pointer: "/trace"}
		}
	}
	return c.underOf(e, body, typ, alias)
}

// underOf checks that the event can be keyed, and finds the id that stands in
// for its request.
func (c *Collector) underOf(e *event.Event, body fields, typ *contract.Type, alias string) (string, error) {
	f := &e.Facts
	fromBody := func(to *string, name string) {
		if s, ok := scalarText(body[name]); ok && *to == "" && len(s) <= c.cfg.Limits.FactBytes && !strings.ContainsFunc(s, isControl) {
			*to = s
		}
	}
	switch typ.Key {
	case contract.KeyRelease:
		fromBody(&f.Release, "release")
		if f.Release == "" {
			return "", &itemProblem{code: "no_release", message: `Say which release it is about in "release".`, pointer: "/release"}
		}
	case contract.KeyEvaluator:
		fromBody(&f.Evaluator, "evaluator")
		if f.Evaluator == "" {
			return "", &itemProblem{code: "no_evaluator", message: `Say which evaluator it is about in "evaluator".`, pointer: "/evaluator"}
		}
	case contract.KeyAlias:
		fromBody(&f.Request, "request")
		fromBody(&alias, "alias")
		if f.Request == "" || alias == "" || alias == f.Request {
			return "", &itemProblem{code: "no_alias", message: `Give the other id in "alias" and the request it belongs to in "request".`, pointer: "/alias"}
		}
		return alias, nil
	case contract.KeyRequest:
		for _, id := range []string{f.Request, f.Trace, f.Response, alias} {
			if id != "" {
				return id, nil
			}
		}
		return "", &itemProblem{code: "no_request", message: `Say which request it belongs to: "request", "response", "trace" or "alias".`, pointer: "/request"}
	}
	return "", nil
}

// friendly turns plain words of the short form into what the schemas have.
func friendly(typ string, body fields) {
	message := func(role string, names ...string) {
		if _, ok := body["messages"]; ok {
			return
		}
		for _, name := range names {
			var s string
			if json.Unmarshal(body[name], &s) == nil && s != "" {
				delete(body, name)
				body["messages"], _ = encode([]event.Message{{Role: role, Content: s}})
				return
			}
		}
	}
	switch typ {
	case event.RequestStarted, event.PromptRendered:
		message("user", "prompt", "question", "input")
	case event.ModelCallCompleted, event.ResponseDelivered:
		message("assistant", "answer", "output", "text")
	case event.RetrievalCompleted:
		var docs []json.RawMessage
		if json.Unmarshal(body["documents"], &docs) == nil {
			for i, d := range docs {
				var s string
				if json.Unmarshal(d, &s) == nil {
					docs[i], _ = encode(event.Document{Rank: i + 1, Text: s})
				}
			}
			body["documents"], _ = encode(docs)
		}
	}
	var s string
	if json.Unmarshal(body["error"], &s) == nil && s != "" {
		body["error"], _ = encode(failureOf(nil, s, "", 0))
	}
}

// gatherAttributes moves what the schema has no field for into the attributes,
// where the type has them; elsewhere it stays as it is. They are moved at once:
// one after the other would decode and encode all of them again each time.
func gatherAttributes(typ *contract.Type, body fields) {
	if !typ.HasField("attributes") {
		return
	}
	more := fields{}
	for k, v := range body {
		if !typ.HasField(k) {
			more[k] = v
			delete(body, k)
		}
	}
	addAttributes(typ, body, more)
}

// addAttributes adds attributes that are not there yet.
func addAttributes(typ *contract.Type, body, more fields) {
	if len(more) == 0 {
		return
	}
	if !typ.HasField("attributes") {
		for k, v := range more {
			if _, taken := body[k]; !taken {
				body[k] = v
			}
		}
		return
	}
	var attributes fields
	if raw, ok := body["attributes"]; ok {
		if json.Unmarshal(raw, &attributes) != nil {
			return // the schema will say so
		}
	}
	if attributes == nil {
		attributes = fields{}
	}
	for k, v := range more {
		if _, taken := attributes[k]; !taken {
			attributes[k] = v
		}
	}
	body["attributes"], _ = encode(attributes)
}

// fromBinary turns a CloudEvent in binary mode, attributes in headers, into the
// structured form.
func fromBinary(h http.Header, body []byte) ([]byte, *problem) {
	f := fields{}
	if len(body) > 0 {
		if !json.Valid(body) {
			return nil, problemf(http.StatusBadRequest, "invalid_json", "The body is not valid JSON.")
		}
		f["data"] = body
	}
	for name, values := range h {
		attribute, ok := strings.CutPrefix(strings.ToLower(name), "ce-")
		if !ok || len(values) == 0 {
			continue
		}
		s, err := url.PathUnescape(values[0])
		if err != nil {
			s = values[0]
		}
		if f[attribute], err = encode(s); err != nil {
			return nil, problemf(http.StatusBadRequest, "bad_header", "A CloudEvents header can't be read.")
		}
	}
	if v := h.Get("Traceparent"); v != "" {
		f["traceparent"], _ = encode(v)
	}
	out, err := encode(f)
	if err != nil {
		return nil, problemf(http.StatusBadRequest, "invalid_json", "The body is not valid JSON.")
	}
	return out, nil
}
