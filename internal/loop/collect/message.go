package collect

import (
	"strconv"
	"strings"

	"github.com/valyala/fastjson"
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/looptape/looptape/internal/loop/event"
)

// Messages come in many dresses: a list of {role, content}, of {role, parts}, of
// events with an "event.name", an object that holds such a list, one such object,
// or plain text. read takes them all. It says whether all was understood; what
// was not, the caller keeps as it came.
type messages struct {
	list []event.Message
	out  []event.Message // answers that stood among the prompts (event.name gen_ai.choice)
	all  bool            // everything was understood
}

// read adds the messages of a value. role is that of text without one. It
// reports whether it found any.
func (m *messages) read(v pcommon.Value, role string) bool {
	m.all = true
	before := len(m.list)
	switch v.Type() {
	case pcommon.ValueTypeStr:
		s := v.Str()
		if looksLikeJSON(s) {
			if parse(s, func(j *fastjson.Value) { m.value(j, role) }) {
				return len(m.list)+len(m.out) > before
			}
		}
		if s != "" {
			m.list = append(m.list, event.Message{Role: role, Content: s})
		}
	case pcommon.ValueTypeMap, pcommon.ValueTypeSlice:
		if !parse(string(appendValue(nil, v)), func(j *fastjson.Value) { m.value(j, role) }) {
			m.all = false
			return false
		}
	case pcommon.ValueTypeEmpty:
	default:
		m.list = append(m.list, event.Message{Role: role, Content: v.AsString()})
	}
	return len(m.list)+len(m.out) > before
}

var parsers fastjson.ParserPool

// maxPooledText bounds the text whose parser is kept: it holds a copy.
const maxPooledText = 1 << 20

// parse runs use on a parsed text and reports whether it is JSON. The value is
// gone when use returns.
func parse(s string, use func(j *fastjson.Value)) bool {
	p := parsers.Get()
	j, err := p.Parse(s)
	if err == nil {
		use(j)
	}
	if len(s) <= maxPooledText {
		parsers.Put(p)
	}
	return err == nil
}

func looksLikeJSON(s string) bool {
	s = strings.TrimLeft(s, " \t\r\n")
	return s != "" && (s[0] == '[' || s[0] == '{' || s[0] == '"')
}

func (m *messages) value(j *fastjson.Value, role string) {
	switch j.Type() {
	case fastjson.TypeArray:
		items := j.GetArray()
		if len(items) > 0 && isPart(items[0]) {
			// A list of parts is one message.
			m.message(j, role)
			return
		}
		for _, item := range items {
			switch item.Type() {
			case fastjson.TypeObject:
				m.object(item, role)
			case fastjson.TypeString:
				s := text(item)
				if looksLikeJSON(s) {
					// A list of messages that are JSON text each.
					if parse(s, func(j *fastjson.Value) { m.value(j, role) }) {
						continue
					}
				}
				m.list = append(m.list, event.Message{Role: role, Content: s})
			default:
				m.all = false
			}
		}
	case fastjson.TypeObject:
		m.object(j, role)
	case fastjson.TypeString:
		if s := text(j); s != "" {
			m.list = append(m.list, event.Message{Role: role, Content: s})
		}
	default:
		m.all = false
	}
}

// isPart tells a part of a message ({"type":"text",...} without a role) from a
// message.
func isPart(j *fastjson.Value) bool {
	return j.Type() == fastjson.TypeObject && j.Exists("type") && !j.Exists("role") && !j.Exists("message") &&
		(j.Exists("content") || j.Exists("text") || j.Exists("name") || j.Exists("toolName"))
}

// object reads one message, or an object that wraps messages.
func (m *messages) object(j *fastjson.Value, role string) {
	if !j.Exists("role") && !j.Exists("content") && !j.Exists("parts") && !j.Exists("tool_calls") && !j.Exists("toolCalls") {
		for _, key := range []string{"messages", "contents", "input", "inputs", "prompt", "output", "outputs", "response", "text", "generations"} {
			if inner := j.Get(key); inner != nil && inner.Type() != fastjson.TypeNull {
				if s := j.Get("system"); s != nil && s.Type() == fastjson.TypeString {
					m.list = append(m.list, event.Message{Role: "system", Content: text(s)})
				}
				m.value(inner, role)
				m.all = false // whatever stands beside it
				return
			}
		}
		if inner := j.Get("message"); inner == nil || inner.Type() != fastjson.TypeObject {
			m.all = false
			return
		}
	}
	m.message(j, role)
}

// message reads one message out of an object, or out of a list of parts.
func (m *messages) message(j *fastjson.Value, role string) {
	msg := draft{Message: event.Message{Role: role}}
	if j.Type() == fastjson.TypeArray {
		m.parts(j, &msg)
	} else {
		m.fields(j, &msg)
	}
	out := msg.done()
	if out.Content == "" && len(out.ToolCalls) == 0 && out.ToolCall == "" && out.Finish == "" && !m.all {
		return
	}
	if name := j.Get("event.name"); j.Type() == fastjson.TypeObject && text(name) == "gen_ai.choice" {
		if out.Role == role {
			out.Role = "assistant"
		}
		m.out = append(m.out, out)
		return
	}
	m.list = append(m.list, out)
}

func (m *messages) fields(j *fastjson.Value, msg *draft) {
	o, err := j.Object()
	if err != nil {
		m.all = false
		return
	}
	o.Visit(func(key []byte, v *fastjson.Value) {
		if v.Type() == fastjson.TypeNull {
			return
		}
		switch string(key) {
		case "role", "gen_ai.message.role":
			if s := text(v); s != "" {
				msg.Role = plainRole(s)
			}
		case "content", "parts", "text":
			m.content(v, msg)
		case "tool_calls", "toolCalls":
			for _, call := range v.GetArray() {
				msg.ToolCalls = append(msg.ToolCalls, toolCall(call))
			}
		case "function_call":
			msg.ToolCalls = append(msg.ToolCalls, toolCall(v))
		case "tool_call_id", "toolCallId":
			msg.ToolCall = text(v)
		case "id":
			if msg.Role == "tool" {
				msg.ToolCall = text(v)
			} else {
				m.all = false
			}
		case "name":
			msg.Name = text(v)
		case "finish_reason", "finishReason":
			msg.Finish = text(v)
		case "message":
			if v.Type() == fastjson.TypeObject {
				m.fields(v, msg)
			} else {
				m.content(v, msg)
			}
		case "event.name", "gen_ai.system", "gen_ai.message.index", "index":
		default:
			m.all = false
		}
	})
}

// plainRole gives the roles of other vocabularies their common names.
func plainRole(s string) string {
	switch s {
	case "human":
		return "user"
	case "ai", "model":
		return "assistant"
	case "function":
		return "tool"
	}
	return s
}

func (m *messages) content(v *fastjson.Value, msg *draft) {
	switch v.Type() {
	case fastjson.TypeString:
		addText(msg, text(v))
	case fastjson.TypeArray:
		m.parts(v, msg)
	case fastjson.TypeObject:
		if first(v, "parts", "content", "text", "role", "tool_calls", "toolCalls") != nil {
			m.fields(v, msg)
			return
		}
		addText(msg, v.String())
	default:
		addText(msg, v.String())
	}
}

func (m *messages) parts(v *fastjson.Value, msg *draft) {
	for _, p := range v.GetArray() {
		if p.Type() == fastjson.TypeString {
			addText(msg, text(p))
			continue
		}
		switch kind := text(p.Get("type")); kind {
		case "", "text", "input_text", "output_text":
			if t := first(p, "content", "text"); t != nil && t.Type() == fastjson.TypeString {
				addText(msg, text(t))
				continue
			}
			if call := first(p, "function_call", "functionCall"); call != nil {
				msg.ToolCalls = append(msg.ToolCalls, toolCall(call))
				continue
			}
			m.all = false
		case "tool_call", "tool-call", "tool_use", "function_call", "function":
			msg.ToolCalls = append(msg.ToolCalls, toolCall(p))
		case "tool_call_response", "tool-result", "tool_result", "function_call_output":
			if id := first(p, "id", "tool_call_id", "toolCallId", "tool_use_id", "call_id"); id != nil {
				msg.ToolCall = text(id)
			}
			if r := first(p, "response", "result", "content", "output"); r != nil {
				addText(msg, flat(r))
			}
			if msg.Role == "" || msg.Role == "user" {
				msg.Role = "tool"
			}
		default: // images, reasoning, files: not text of the answer
			m.all = false
		}
	}
}

// A draft is a message whose text comes in pieces. They are joined once, at the
// end: a client chooses how many there are.
type draft struct {
	event.Message
	texts []string
}

func addText(msg *draft, s string) {
	if s != "" {
		msg.texts = append(msg.texts, s)
	}
}

func (d *draft) done() event.Message {
	d.Content = strings.Join(d.texts, "\n")
	return d.Message
}

func toolCall(p *fastjson.Value) event.ToolCall {
	var c event.ToolCall
	if id := first(p, "id", "toolCallId", "tool_call_id", "call_id"); id != nil {
		c.ID = text(id)
	}
	if f := p.Get("function"); f != nil && f.Type() == fastjson.TypeObject {
		p = f
	}
	if n := first(p, "name", "toolName"); n != nil {
		c.Name = text(n)
	}
	if a := first(p, "arguments", "args", "input"); a != nil {
		c.Arguments = flat(a)
	}
	return c
}

func first(j *fastjson.Value, keys ...string) *fastjson.Value {
	for _, k := range keys {
		if v := j.Get(k); v != nil && v.Type() != fastjson.TypeNull {
			return v
		}
	}
	return nil
}

// text is a copy of a string value, "" for others.
func text(v *fastjson.Value) string {
	if v == nil {
		return ""
	}
	b, err := v.StringBytes()
	if err != nil {
		return ""
	}
	return string(b)
}

// flat is a string value's text, and any other value's JSON.
func flat(v *fastjson.Value) string {
	if v.Type() == fastjson.TypeString {
		return text(v)
	}
	return v.String()
}

// indexed gathers messages that come as one attribute per field:
// gen_ai.prompt.0.role, llm.input_messages.0.message.content and so on.
type indexed struct{ list []indexedMessage }

type indexedMessage struct {
	n   int
	msg draft
}

// maxIndexed bounds the index of an attribute, which a client chooses.
const maxIndexed = 4096

// set takes one attribute, given by what follows the prefix: "0.role".
func (x *indexed) set(rest string, v pcommon.Value) bool {
	n, field, ok := cutIndex(rest)
	if !ok {
		return false
	}
	field = strings.TrimPrefix(field, "message.")
	msg := x.at(n)
	switch field {
	case "role":
		msg.Role = plainRole(v.AsString())
		return true
	case "content":
		if v.Type() == pcommon.ValueTypeStr && !strings.HasPrefix(v.Str(), "[{") {
			addText(msg, v.Str())
			return true
		}
		var m messages
		if !m.read(v, "") || len(m.list) != 1 {
			addText(msg, v.AsString())
			return true
		}
		addText(msg, m.list[0].Content)
		msg.ToolCalls = append(msg.ToolCalls, m.list[0].ToolCalls...)
		if msg.ToolCall == "" {
			msg.ToolCall = m.list[0].ToolCall
		}
		return m.all
	case "finish_reason":
		msg.Finish = v.AsString()
		return true
	case "tool_call_id":
		msg.ToolCall = v.AsString()
		return true
	case "name":
		msg.Name = v.AsString()
		return true
	}
	if rest, ok := strings.CutPrefix(field, "tool_calls."); ok {
		k, field, ok := cutIndex(rest)
		if !ok || k > 256 {
			return false
		}
		for len(msg.ToolCalls) <= k {
			msg.ToolCalls = append(msg.ToolCalls, event.ToolCall{})
		}
		call := &msg.ToolCalls[k]
		switch strings.TrimPrefix(strings.TrimPrefix(field, "tool_call."), "function.") {
		case "id":
			call.ID = v.AsString()
		case "name":
			call.Name = v.AsString()
		case "arguments":
			call.Arguments = v.AsString()
		default:
			return false
		}
		return true
	}
	if rest, ok := strings.CutPrefix(field, "contents."); ok {
		_, field, ok := cutIndex(rest)
		switch {
		case ok && field == "message_content.text":
			addText(msg, v.AsString())
			return true
		case ok && field == "message_content.type" && v.AsString() == "text":
			return true
		}
	}
	return false
}

func (x *indexed) at(n int) *draft {
	for i := range x.list {
		if x.list[i].n == n {
			return &x.list[i].msg
		}
	}
	at := len(x.list)
	for at > 0 && x.list[at-1].n > n {
		at--
	}
	x.list = append(x.list, indexedMessage{})
	copy(x.list[at+1:], x.list[at:])
	x.list[at] = indexedMessage{n: n}
	return &x.list[at].msg
}

// messages returns them in order; role is that of those without one.
func (x *indexed) messages(role string) []event.Message {
	if len(x.list) == 0 {
		return nil
	}
	out := make([]event.Message, len(x.list))
	for i := range x.list {
		out[i] = x.list[i].msg.done()
		if out[i].Role == "" {
			out[i].Role = role
		}
	}
	return out
}

func cutIndex(s string) (n int, rest string, ok bool) {
	digits, rest, ok := strings.Cut(s, ".")
	if !ok || len(digits) > 4 {
		return 0, "", false
	}
	n, err := strconv.Atoi(digits)
	return n, rest, err == nil && n >= 0 && n < maxIndexed
}
