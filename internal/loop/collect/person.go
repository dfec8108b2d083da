package collect

import (
	"encoding/json"

	"go.opentelemetry.io/collector/pdata/pcommon"
)

// isPerson reports whether an attribute holds the id of a person. Such an id is
// never stored: it becomes the event's subject, or its own pseudonym.
func isPerson(key string) bool {
	switch key {
	case "user.id", "enduser.id", "langfuse.user.id", "ai.telemetry.metadata.userId", "traceloop.association.properties.user_id",
		"gen_ai.request.user", "langfuse.trace.metadata.langfuse_user_id", "langfuse.observation.metadata.langfuse_user_id", "looptape.user":
		return true
	}
	return false
}

// hidePeople puts pseudonyms in the place of people's ids, for the copy that goes
// to quarantine. A pseudonym stays what it is, so that a repaired copy that is
// sent again is about the same person.
func (b *batch) hidePeople(attributes ...pcommon.Map) {
	for _, m := range attributes {
		for k, v := range m.All() {
			if isPerson(k) {
				v.SetStr(b.c.cfg.Pseudonyms.Pseudonym(b.tenant, v.AsString()))
			}
		}
	}
}

// hidePeopleIn is hidePeople for a JSON item. What is no object has no names to
// look for, and is returned as it is.
func (b *batch) hidePeopleIn(item json.RawMessage) json.RawMessage {
	var f fields
	if json.Unmarshal(item, &f) != nil || f == nil {
		return item
	}
	_, cloud := f["specversion"]
	changed := b.hideFields(f, cloud)
	var data fields
	if json.Unmarshal(f["data"], &data) == nil && data != nil && b.hideFields(data, cloud) {
		f["data"], _ = encode(data)
		changed = true
	}
	if !changed {
		return item
	}
	out, err := encode(f)
	if err != nil {
		return item
	}
	return out
}

func (b *batch) hideFields(f fields, cloud bool) (changed bool) {
	for _, name := range []string{"user", "user_id", "userid", "author", "approver", "subject"} {
		if name == "subject" && cloud {
			continue // what the event is about
		}
		v, ok := f[name]
		if !ok || string(v) == "null" {
			continue
		}
		s, ok := scalarText(v)
		if !ok {
			s = string(v)
		}
		f[name], _ = encode(b.c.cfg.Pseudonyms.Pseudonym(b.tenant, s))
		changed = true
	}
	return changed
}
