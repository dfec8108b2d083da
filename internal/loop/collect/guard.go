package collect

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/http"
)

// What a body of a few megabytes can unfold into is checked before the decoder
// allocates: the decoder recurses as deep as the values nest and allocates a
// struct for each empty message of two bytes.

var (
	errMalformed = errors.New("not a valid message")
	errTooDeep   = errors.New("nested too deeply")
	errTooMany   = errors.New("too many values")
	errBadNumber = errors.New("a number out of bounds")
)

// A shape is what the guard knows of a protobuf message: which fields are
// messages of which shape.
type shape struct {
	fields [16]*shape
	value  bool // counts against Limits.Values
	item   bool // counts against Limits.Items
}

var traceShape, logShape = func() (*shape, *shape) {
	any := &shape{}
	keyValue := &shape{value: true}
	keyValue.fields[2] = any
	array := &shape{}
	element := &shape{value: true}
	array.fields[1] = element
	list := &shape{}
	list.fields[1] = keyValue
	any.fields[5], any.fields[6] = array, list
	element.fields[5], element.fields[6] = array, list

	with := func(s *shape, fields map[int]*shape) *shape {
		for n, f := range fields {
			s.fields[n] = f
		}
		return s
	}
	resource := with(&shape{value: true}, map[int]*shape{1: keyValue, 3: {value: true}})
	scope := with(&shape{value: true}, map[int]*shape{3: keyValue})
	span := with(&shape{item: true}, map[int]*shape{
		9:  keyValue,
		11: with(&shape{value: true}, map[int]*shape{3: keyValue}),
		13: with(&shape{value: true}, map[int]*shape{4: keyValue}),
		15: {value: true},
	})
	record := with(&shape{item: true}, map[int]*shape{5: {value: true, fields: any.fields}, 6: keyValue})
	request := func(item *shape) *shape {
		group := with(&shape{value: true}, map[int]*shape{1: scope, 2: item})
		all := with(&shape{value: true}, map[int]*shape{1: resource, 2: group})
		return with(&shape{}, map[int]*shape{1: all})
	}
	return request(span), request(record)
}()

type guard struct {
	depth, items, values int // what is left

	trailing bool // something follows the first JSON value
}

func (c *Collector) guard() guard {
	// A value nests three messages deep (any, array or list, entry), and the
	// request holds its values four messages down.
	return guard{depth: 3*c.cfg.Limits.Depth + 8, items: c.cfg.Limits.Items, values: c.cfg.Limits.Values}
}

// proto walks one message without allocating.
func (g *guard) proto(b []byte, s *shape, depth int) error {
	if depth > g.depth {
		return errTooDeep
	}
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 || tag>>3 == 0 || tag>>3 > 1<<29-1 {
			return errMalformed
		}
		b = b[n:]
		switch tag & 7 {
		case 0:
			if _, n = binary.Uvarint(b); n <= 0 {
				return errMalformed
			}
			b = b[n:]
		case 1, 5:
			n = 8
			if tag&7 == 5 {
				n = 4
			}
			if len(b) < n {
				return errMalformed
			}
			b = b[n:]
		case 2:
			size, n := binary.Uvarint(b)
			if n <= 0 || size > uint64(len(b)-n) {
				return errMalformed
			}
			field := b[n : n+int(size)]
			b = b[n+int(size):]
			if tag>>3 >= uint64(len(s.fields)) || s.fields[tag>>3] == nil {
				continue
			}
			child := s.fields[tag>>3]
			if child.item {
				g.items--
			}
			if child.value {
				g.values--
			}
			if g.items < 0 || g.values < 0 {
				return errTooMany
			}
			if err := g.proto(field, child, depth+1); err != nil {
				return err
			}
		default:
			return errMalformed // groups: not in these messages
		}
	}
	return nil
}

// json walks JSON text. It does not check the syntax; it bounds nesting, the
// number of values, which is what a decoder pays for, and the size of numbers,
// which whoever calculates with them exactly pays for.
func (g *guard) json(b []byte, depth, values int) error {
	level, inString, ended := 0, false, false
	for i := 0; i < len(b); i++ {
		c := b[i]
		if ended && c > ' ' {
			g.trailing = true
		}
		if inString {
			switch c {
			case '\\':
				i++
			case '"':
				inString = false
			}
			continue
		}
		switch c {
		case '"':
			inString = true
		case '{', '[', ',':
			if values--; values < 0 {
				return errTooMany
			}
			if c == ',' {
				continue
			}
			if level++; level > depth {
				return errTooDeep
			}
		case '}', ']':
			level--
			ended = ended || level <= 0
		case '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
			n := numberLength(b[i:])
			if !smallNumber(b[i : i+n]) {
				return errBadNumber
			}
			i += n - 1
		}
	}
	return nil
}

// maxNumber is more than any number needs that a float64 or an int64 can hold.
const maxNumber = 128

func numberLength(b []byte) int {
	for i, c := range b {
		if !(c >= '0' && c <= '9' || c == '.' || c == 'e' || c == 'E' || c == '+' || c == '-') {
			return i
		}
	}
	return len(b)
}

// smallNumber accepts numbers of a bounded length with exponents of up to three
// digits.
func smallNumber(b []byte) bool {
	if len(b) > maxNumber {
		return false
	}
	e := bytes.IndexAny(b, "eE")
	return e < 0 || len(bytes.TrimLeft(b[e+1:], "+-0")) <= 3
}

// jsonValues bounds the values of JSON text: an attribute of OTLP takes six
// brackets and commas at most.
func (l *Limits) jsonValues() int { return 6 * l.Values }

// guardProblem words what the guard found.
func (c *Collector) guardProblem(err error) *problem {
	switch {
	case errors.Is(err, errTooDeep):
		return problemf(http.StatusBadRequest, "too_deep", "Values are nested more than %d levels deep; flatten them.", c.cfg.Limits.Depth)
	case errors.Is(err, errTooMany):
		return problemf(http.StatusRequestEntityTooLarge, "too_many",
			"The request holds more than %d items or %d values; send smaller batches.", c.cfg.Limits.Items, c.cfg.Limits.Values)
	case errors.Is(err, errBadNumber):
		return problemf(http.StatusBadRequest, "bad_number", "A number has more than %d characters or an exponent of more than three digits; send it as a string.", maxNumber)
	}
	return problemf(http.StatusBadRequest, "bad_protobuf", "The body is not a valid OTLP protobuf message of this endpoint; check the path and the encoding.")
}
