package collect

import (
	"encoding/json"
	"strconv"
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/looptape/looptape/internal/loop/event"
)

// A group says which kind of event a recognised attribute belongs to. An event
// carries the attributes of all other groups as they came, so that nothing is
// lost when a span says more than its event has fields for.
type group uint16

const (
	gOther group = 0         // not recognised
	gUsed  group = 1 << iota // used up, whatever the event
	gModel
	gPrompt
	gTool
	gRetrieval
	gScore
	gSafety
	gParam
	gError
)

// An attr is one attribute of a span or log record.
type attr struct {
	key   string
	value pcommon.Value
	group group
	text  string // stands in for the value when group is gOther and it is not empty
}

// ranked is a fact that several attributes may give: the highest rank wins, the
// others stay attributes.
type ranked struct {
	value string
	rank  int
	key   string // of the attribute
	at    int    // its index, -1 when it came from the resource
}

// A given is a candidate for the input or output of a span.
type given struct {
	at   int // index of its attribute
	rank int
}

// A reading is what the attributes of one span or log record say, in whatever
// dialect. It is reused from span to span.
type reading struct {
	c     *Collector
	facts event.Facts
	attrs []attr

	app, environment, release, session, promptVersion, arm, unit ranked

	user       string // the raw id: only its pseudonym leaves the reading
	references []string
	template   struct {
		name, text, version string
		variables           pcommon.Value
		hasVariables        bool
	}

	kind      string // looptape.kind
	op        string // gen_ai.operation.name
	oi        string // openinference.span.kind
	traceloop string // traceloop.span.kind
	vercel    string // ai.operationId
	langfuse  string // langfuse.observation.type
	mlflow    string // mlflow.spanType
	llmType   string // llm.request.type
	agentName string
	vectorDB  bool
	modelish  bool // carries something only a model call has

	provider, modelAsked, modelGiven, responseID, route string
	finish                                              []string
	usage                                               event.Usage
	cost, firstMs                                       float64
	streaming                                           bool
	citations                                           []string
	errorType                                           string
	status                                              int
	firstAt                                             string // langfuse.observation.completion_start_time

	prompts, completions indexed
	system               []given
	input, output        []given
	choices              []event.Message // answers found among the inputs

	tool, toolCall, tier, decision string
	args, result                   []given

	query                []given
	source, indexVersion string
	indexTime            string
	k                    int
	docs                 []event.Document
	docsIn               []given
	retrievalish         bool

	evalName, evalLabel, evalText, evaluator string
	evalScore                                *float64
	safety                                   event.Safety
	safetyish                                bool
	annotations                              map[int]*annotation
}

type annotation struct {
	name, label, text, kind string
	score                   *float64
}

func (r *reading) reset(base *reading) {
	attrs, docs := r.attrs[:0], r.docs[:0]
	clear(r.attrs[:cap(r.attrs)])
	*r = reading{c: r.c, attrs: attrs, docs: docs[:0:0]}
	if base == nil {
		return
	}
	r.facts = base.facts
	if base.facts.Segments != nil {
		r.facts.Segments = make(map[string]string, len(base.facts.Segments))
		for k, v := range base.facts.Segments {
			r.facts.Segments[k] = v
		}
	}
	r.app, r.environment, r.release, r.session, r.promptVersion = base.app, base.environment, base.release, base.session, base.promptVersion
	r.arm, r.unit = base.arm, base.unit
	for _, f := range []*ranked{&r.app, &r.environment, &r.release, &r.session, &r.promptVersion, &r.arm, &r.unit} {
		f.at = -1
		f.rank = min(f.rank, 1) // what the span itself says is nearer
	}
	r.user = base.user
}

// readAll reads every attribute of m.
func (r *reading) readAll(m pcommon.Map) {
	for k, v := range m.All() {
		r.attrs = append(r.attrs, attr{key: k, value: v})
		at := len(r.attrs) - 1
		g := r.take(k, v, at)
		if r.attrs[at].group == gOther {
			r.attrs[at].group = g
		}
	}
}

// settle moves the ranked facts into the facts.
func (r *reading) settle() {
	f := &r.facts
	for _, p := range []struct {
		to   *string
		from *ranked
	}{{&f.App, &r.app}, {&f.Environment, &r.environment}, {&f.Release, &r.release}, {&f.Session, &r.session},
		{&f.PromptVersion, &r.promptVersion}, {&f.Arm, &r.arm}, {&f.Unit, &r.unit}} {
		if p.from.value != "" {
			*p.to = p.from.value
		}
	}
	if f.Propensity != nil && f.Unit == "" && f.Session != "" {
		f.Unit = f.Session
		if f.UnitKind == "" {
			f.UnitKind = "conversation"
		}
	}
	f.Model = r.modelGiven
	if f.Model == "" {
		f.Model = r.modelAsked
	}
	f.Response = r.responseID
	if f.PromptVersion == "" {
		f.PromptVersion = r.template.version
	}
}

// fact sets a fact that one attribute gives. A second, different value stays an
// attribute, and so does one too long for a header.
func (r *reading) fact(to *string, v pcommon.Value) group {
	s := r.short(v)
	if s == "" || *to != "" && *to != s {
		return gOther
	}
	*to = s
	return gUsed
}

// str is fact for a field of a body, which belongs to a group and is not limited
// in length.
func (r *reading) str(to *string, v pcommon.Value, g group) group {
	if !scalar(v) {
		return gOther
	}
	s := v.AsString()
	if s == "" || *to != "" && *to != s {
		return gOther
	}
	*to = s
	return g
}

// word is str for a short word that also becomes a fact.
func (r *reading) word(to *string, v pcommon.Value, g group) group {
	if s := r.short(v); s == "" || *to != "" && *to != s {
		return gOther
	}
	*to = r.short(v)
	return g
}

// best sets a ranked fact; the one it displaces becomes an attribute again.
func (r *reading) best(to *ranked, rank int, v pcommon.Value, at int) group {
	s := r.short(v)
	switch {
	case s == "":
		return gOther
	case to.value == s:
		to.rank = max(to.rank, rank)
		return gUsed
	case to.value != "" && rank <= to.rank:
		return gOther
	}
	switch {
	case to.value == "":
	case to.at >= 0:
		r.attrs[to.at].group = gOther
	default:
		r.attrs = append(r.attrs, attr{key: "otel.resource." + to.key, value: pcommon.NewValueStr(to.value)})
	}
	*to = ranked{s, rank, r.attrs[at].key, at}
	return gUsed
}

// short is a scalar's text if it may be a header, else "".
func (r *reading) short(v pcommon.Value) string {
	if !scalar(v) {
		return ""
	}
	s := v.AsString()
	if len(s) > r.c.cfg.Limits.FactBytes || strings.ContainsFunc(s, isControl) {
		return ""
	}
	return strings.ToValidUTF8(s, "\ufffd")
}

func scalar(v pcommon.Value) bool {
	switch v.Type() {
	case pcommon.ValueTypeStr, pcommon.ValueTypeInt, pcommon.ValueTypeDouble, pcommon.ValueTypeBool:
		return true
	}
	return false
}

// person takes the raw id of a user. Another id than the first stays an
// attribute, as its pseudonym.
func (r *reading) person(v pcommon.Value, at int) group {
	s := v.AsString()
	switch {
	case s == "":
		return gOther
	case r.user == "" || r.user == s:
		r.user = s
		return gUsed
	}
	r.attrs[at].text = s // becomes its pseudonym when the attributes are written
	return gOther
}

// count takes a number of tokens: 0 gives way to another value.
func (r *reading) count(to *int64, v pcommon.Value, g group) group {
	n, ok := number(v)
	if !ok || n < 0 || n > 1<<53 || *to != 0 && *to != int64(n) {
		return gOther
	}
	*to = int64(n)
	return g
}

func (r *reading) float(to *float64, v pcommon.Value, g group) group {
	n, ok := number(v)
	if !ok || *to != 0 && *to != n {
		return gOther
	}
	*to = n
	return g
}

func (r *reading) floatPtr(to **float64, v pcommon.Value, g group) group {
	n, ok := number(v)
	if !ok || *to != nil && **to != n {
		return gOther
	}
	*to = &n
	return g
}

// number reads a finite number, also from text.
func number(v pcommon.Value) (float64, bool) {
	var f float64
	switch v.Type() {
	case pcommon.ValueTypeInt:
		return float64(v.Int()), true
	case pcommon.ValueTypeDouble:
		f = v.Double()
	case pcommon.ValueTypeStr:
		n, err := strconv.ParseFloat(v.Str(), 64)
		if err != nil {
			return 0, false
		}
		f = n
	default:
		return 0, false
	}
	return f, f-f == 0 // neither infinite nor NaN
}

func (r *reading) flag(to *bool, v pcommon.Value, g group) group {
	switch v.AsString() {
	case "true", "True", "1":
		*to = true
		return g
	case "false", "False", "0":
		return g
	}
	return gOther
}

// strings reads a list of strings: an array, JSON text of one, or one string.
func (r *reading) strings(to *[]string, v pcommon.Value, g group) group {
	if len(*to) > 0 {
		return gOther
	}
	switch v.Type() {
	case pcommon.ValueTypeSlice:
		for _, e := range v.Slice().All() {
			*to = append(*to, e.AsString())
		}
		return g
	case pcommon.ValueTypeStr:
		s := v.Str()
		if strings.HasPrefix(s, "[") {
			var list []string
			if json.Unmarshal([]byte(s), &list) == nil {
				*to = list
				return g
			}
		}
		if s != "" {
			*to = []string{s}
			return g
		}
	}
	return gOther
}

// candidate notes an input or output; which one is used shows when all are known.
func candidate(list *[]given, at, rank int) group {
	*list = append(*list, given{at, rank})
	return gOther
}

// pick returns the candidate of the highest rank, the first among equals, and
// marks it as used.
func (r *reading) pick(lists ...[]given) (pcommon.Value, bool) {
	at, rank := -1, -1
	for _, list := range lists {
		for _, c := range list {
			if c.rank > rank {
				at, rank = c.at, c.rank
			}
		}
	}
	if at < 0 {
		return pcommon.Value{}, false
	}
	r.attrs[at].group = gUsed
	return r.attrs[at].value, true
}

// messages reads the best candidate that holds messages. A value that was not
// understood whole stays an attribute too.
func (r *reading) messages(role string, lists ...[]given) []event.Message {
	tried := 0
	for range 4 {
		at, rank := -1, -1
		for _, list := range lists {
			for _, c := range list {
				if c.rank > rank && tried&(1<<min(c.rank, 30)) == 0 {
					at, rank = c.at, c.rank
				}
			}
		}
		if at < 0 {
			return nil
		}
		tried |= 1 << min(rank, 30)
		var m messages
		if m.read(r.attrs[at].value, role) {
			if m.all {
				r.attrs[at].group = gUsed
			}
			r.choices = append(r.choices, m.out...)
			return m.list
		}
	}
	return nil
}

// segment takes looptape.segment.<dim>.
func (r *reading) segment(dim string, v pcommon.Value) group {
	s := r.short(v)
	if dim == "" || s == "" || len(dim) > 64 || len(r.facts.Segments) >= r.c.cfg.Limits.Segments {
		return gOther
	}
	if r.facts.Segments == nil {
		r.facts.Segments = map[string]string{}
	}
	r.facts.Segments[dim] = s
	return gUsed
}

// rest encodes what an event of the given groups does not hold, and then the
// meta fields, as one JSON object; nil when there is nothing.
func (r *reading) rest(has group, tenant string, meta func(dst []byte) []byte) []byte {
	dst := []byte{'{'}
	for i := range r.attrs {
		a := &r.attrs[i]
		if a.group&(has|gUsed) != 0 {
			continue
		}
		if len(dst) > 1 {
			dst = append(dst, ',')
		}
		dst = appendString(dst, a.key)
		dst = append(dst, ':')
		if a.text != "" {
			dst = appendString(dst, r.c.cfg.Pseudonyms.Pseudonym(tenant, a.text))
			continue
		}
		dst = appendValue(dst, a.value)
	}
	if meta != nil {
		dst = meta(dst)
	}
	if len(dst) == 1 {
		return nil
	}
	return append(dst, '}')
}

// field appends one more field to an object that is being written.
func field(dst []byte, key string) []byte {
	if len(dst) > 1 {
		dst = append(dst, ',')
	}
	dst = appendString(dst, key)
	return append(dst, ':')
}
