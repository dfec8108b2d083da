package catalog

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Settings is a topic's configuration as the tape uses it.
type Settings struct {
	MaxMessageBytes    int
	LogAppendTime      bool
	TimestampBeforeMax int64 // ms a record may be older than now
	TimestampAfterMax  int64 // ms a record may be ahead of now
	RetentionMillis    int64 // -1 for ever
	RetentionBytes     int64 // per partition, -1 unbounded
	Compact            bool
	Delete             bool // retention applies
	// Of compaction: the share of uncompacted bytes at which it starts, the bounds
	// of a record's age when it is done, and how long tombstones and markers stay.
	MinDirtyRatio   float64
	MinLagMillis    int64
	MaxLagMillis    int64
	TombstoneMillis int64
}

// Kind is the type of a configuration value as Kafka names it.
type Kind string

const (
	KindBool   Kind = "boolean"
	KindString Kind = "string"
	KindInt    Kind = "int"
	KindLong   Kind = "long"
	KindDouble Kind = "double"
	KindList   Kind = "list"
)

// Definition describes one topic configuration.
type Definition struct {
	Name    string
	Default string
	Kind    Kind
	Doc     string
	check   func(string) error
}

// Definitions are all topic configurations, by name. Those the tape has no use
// for (it has no segments and no replicas of its own) are kept and given back.
func Definitions() []Definition { return slices.Clone(definitions) }

const maxLong = "9223372036854775807"

var definitions = []Definition{
	{"cleanup.policy", "delete", KindList, "delete, compact or both", policy},
	{"compression.type", "producer", KindString, "only producer: batches are kept as they came", oneOf("producer")},
	{"delete.retention.ms", "86400000", KindLong, "how long compaction keeps tombstones", atLeast(0)},
	{"file.delete.delay.ms", "60000", KindLong, "kept, without effect", atLeast(0)},
	{"flush.messages", maxLong, KindLong, "kept, without effect: every write is durable", atLeast(1)},
	{"flush.ms", maxLong, KindLong, "kept, without effect: every write is durable", atLeast(0)},
	{"index.interval.bytes", "4096", KindInt, "kept, without effect", atLeast(0)},
	{"max.compaction.lag.ms", maxLong, KindLong, "the longest a record stays uncompacted", atLeast(1)},
	{"max.message.bytes", "1048588", KindInt, "largest record batch", between(0, math.MaxInt32)},
	{"message.timestamp.after.max.ms", "3600000", KindLong, "how far a timestamp may be ahead", atLeast(0)},
	{"message.timestamp.before.max.ms", maxLong, KindLong, "how far a timestamp may be behind", atLeast(0)},
	{"message.timestamp.type", "CreateTime", KindString, "CreateTime or LogAppendTime", oneOf("CreateTime", "LogAppendTime")},
	{"min.cleanable.dirty.ratio", "0.5", KindDouble, "when compaction starts", ratio},
	{"min.compaction.lag.ms", "0", KindLong, "the shortest a record stays uncompacted", atLeast(0)},
	{"min.insync.replicas", "1", KindInt, "kept, without effect: durability is the store's", atLeast(1)},
	{"preallocate", "false", KindBool, "kept, without effect", oneOf("true", "false")},
	{"retention.bytes", "-1", KindLong, "bytes kept of a partition, -1 all", atLeast(-1)},
	{"retention.ms", "604800000", KindLong, "how long records are kept, -1 for ever", atLeast(-1)},
	{"segment.bytes", "1073741824", KindInt, "kept, without effect", between(14, math.MaxInt32)},
	{"segment.index.bytes", "10485760", KindInt, "kept, without effect", atLeast(4)},
	{"segment.jitter.ms", "0", KindLong, "kept, without effect", atLeast(0)},
	{"segment.ms", "604800000", KindLong, "kept, without effect", atLeast(1)},
	{"unclean.leader.election.enable", "false", KindBool, "kept, without effect", oneOf("true", "false")},
}

func definition(name string) (Definition, bool) {
	at, ok := slices.BinarySearchFunc(definitions, name, func(d Definition, n string) int { return strings.Compare(d.Name, n) })
	if !ok {
		return Definition{}, false
	}
	return definitions[at], true
}

// CheckConfig returns an error that wraps ErrBadConfig for a name that is no
// topic configuration or a value it can't have.
func CheckConfig(config map[string]string) error {
	for _, name := range sortedKeys(config) {
		d, ok := definition(name)
		if !ok {
			return fmt.Errorf("%w: unknown name %q", ErrBadConfig, name)
		}
		if err := d.check(config[name]); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrBadConfig, name, err)
		}
	}
	return nil
}

// settings reads a checked configuration; what is missing has its default.
func settings(config map[string]string) Settings {
	value := func(name string) string {
		if v, ok := config[name]; ok {
			return strings.TrimSpace(v)
		}
		d, _ := definition(name)
		return d.Default
	}
	number := func(name string) int64 {
		n, err := strconv.ParseInt(value(name), 10, 64)
		if err != nil {
			d, _ := definition(name)
			n, _ = strconv.ParseInt(d.Default, 10, 64)
		}
		return n
	}
	policies := strings.Split(value("cleanup.policy"), ",")
	has := func(p string) bool {
		return slices.ContainsFunc(policies, func(s string) bool { return strings.TrimSpace(s) == p })
	}
	dirty, err := strconv.ParseFloat(value("min.cleanable.dirty.ratio"), 64)
	if err != nil {
		dirty = 0.5
	}
	return Settings{
		MaxMessageBytes:    int(number("max.message.bytes")),
		LogAppendTime:      value("message.timestamp.type") == "LogAppendTime",
		TimestampBeforeMax: number("message.timestamp.before.max.ms"),
		TimestampAfterMax:  number("message.timestamp.after.max.ms"),
		RetentionMillis:    number("retention.ms"),
		RetentionBytes:     number("retention.bytes"),
		Compact:            has("compact"),
		Delete:             has("delete"),
		MinDirtyRatio:      dirty,
		MinLagMillis:       number("min.compaction.lag.ms"),
		MaxLagMillis:       number("max.compaction.lag.ms"),
		TombstoneMillis:    number("delete.retention.ms"),
	}
}

func atLeast(low int64) func(string) error { return between(low, math.MaxInt64) }

func between(low, high int64) func(string) error {
	return func(s string) error {
		n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
		if err != nil {
			return fmt.Errorf("%q is no whole number", s)
		}
		if n < low || n > high {
			return fmt.Errorf("%d is not in %d..%d", n, low, high)
		}
		return nil
	}
}

func oneOf(values ...string) func(string) error {
	return func(s string) error {
		if !slices.Contains(values, strings.TrimSpace(s)) {
			return fmt.Errorf("%q is none of %s", s, strings.Join(values, ", "))
		}
		return nil
	}
}

func policy(s string) error {
	for p := range strings.SplitSeq(s, ",") {
		if err := oneOf("delete", "compact")(p); err != nil {
			return err
		}
	}
	return nil
}

func ratio(s string) error {
	f, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	if err != nil || !(f >= 0 && f <= 1) {
		return fmt.Errorf("%q is not in 0..1", s)
	}
	return nil
}
