package contract

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
)

const dayMs = 24 * 60 * 60 * 1000

// check proves that types, topics, classes and groups agree, and fills in what
// follows from their topic.
func (c *Contract) check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	for name, r := range c.retention {
		if r.Days <= 0 || r.Days < r.MinDays {
			bad("retention class %s: %d days, at least %d", name, r.Days, max(r.MinDays, 1))
		}
	}
	for i := range c.topics {
		t := &c.topics[i]
		r, ok := c.retention[t.Retention]
		if !ok {
			bad("topic %s: unknown retention class %q", t.Name, t.Retention)
		}
		if t.Cleanup != "delete" && t.Cleanup != "compact" {
			bad("topic %s: cleanup %q is neither delete nor compact", t.Name, t.Cleanup)
		}
		switch t.Key {
		case KeyRequest, KeyAlias, KeyTenantRequest:
			if !t.RequestScoped() {
				bad("topic %s: key %s needs scope request", t.Name, t.Key)
			}
		case KeyRelease, KeyEvaluator, KeyTenant:
		default:
			bad("topic %s: unknown key %q", t.Name, t.Key)
		}
		if t.RequestScoped() && t.Partitions != RequestPartitions {
			bad("topic %s: %d partitions, request-scoped topics have %d", t.Name, t.Partitions, RequestPartitions)
		}
		if t.Partitions < 1 {
			bad("topic %s: %d partitions", t.Name, t.Partitions)
		}
		t.Config = map[string]string{"cleanup.policy": t.Cleanup}
		if t.Cleanup == "delete" {
			t.Config["retention.ms"] = strconv.FormatInt(int64(r.Days)*dayMs, 10)
		}
	}
	for _, typ := range c.types {
		t, ok := c.Topic(typ.Topic)
		if !ok {
			bad("type %s: unknown topic %q", typ.Name, typ.Topic)
			continue
		}
		typ.Retention, typ.Key = t.Retention, t.Key
		if _, ok := c.privacy[typ.Privacy]; !ok {
			bad("type %s: unknown privacy class %q", typ.Name, typ.Privacy)
		}
		if typ.Version < 1 || typ.Schema == "" {
			bad("type %s: schema %q version %d", typ.Name, typ.Schema, typ.Version)
		}
		if len(typ.Content) > 0 && typ.Privacy < "P3" {
			bad("type %s: has content fields and privacy class %s", typ.Name, typ.Privacy)
		}
	}
	seen := map[string]bool{}
	for _, g := range c.groups {
		if g.Name == "" || seen[g.Name] {
			bad("group %q: no name, or defined twice", g.Name)
		}
		seen[g.Name] = true
		if g.MaxLagSeconds <= 0 {
			bad("group %s: max_lag_seconds must be above zero", g.Name)
		}
		for _, name := range g.Topics {
			if _, ok := c.Topic(name); !ok {
				bad("group %s: unknown topic %q", g.Name, name)
			}
		}
	}
	slices.SortFunc(errs, func(a, b error) int {
		if a.Error() < b.Error() {
			return -1
		}
		return 1
	})
	return errors.Join(errs...)
}
