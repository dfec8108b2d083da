package api

import "encoding/binary"

// A shape describes the layout of a request, version by version, as far as is
// needed to pass over it. Requests are held against it before they are decoded:
// the codec allocates arrays by their announced lengths and believes the count
// of tagged fields, so neither may come from a stranger unchecked.
type shape []field

type field struct {
	kind     kind
	size     int     // of fixed
	min, max int16   // versions that have it
	elem     []field // of arrays
}

type kind uint8

const (
	fixed  kind = iota
	text        // string, nullable or not
	blob        // bytes, nullable or not
	array       // of structures
	list        // of one plain type
	tagged      // structure in a tagged field: size is the tag
)

const lastVersion = 1 << 14

// maxElements bounds the array elements and tagged fields of one request.
const maxElements = 500_000

// maxText is the longest string in a request, in either encoding.
const maxText = 1<<15 - 1

func num(size int) field          { return field{kind: fixed, size: size, max: lastVersion} }
func str() field                  { return field{kind: text, max: lastVersion} }
func raw() field                  { return field{kind: blob, max: lastVersion} }
func arr(elem ...field) field     { return field{kind: array, max: lastVersion, elem: elem} }
func listOf(elem field) field     { return field{kind: list, max: lastVersion, elem: []field{elem}} }
func tag(n int, f ...field) field { return field{kind: tagged, size: n, max: lastVersion, elem: f} }
func (f field) from(v int16) field {
	f.min = v
	return f
}
func (f field) to(v int16) field {
	f.max = v
	return f
}

// fits says whether b is exactly one request of that shape.
func (s shape) fits(b []byte, version int16, flexible bool) bool {
	w := walker{b: b, version: version, flexible: flexible, left: maxElements}
	return w.structure(s) && len(w.b) == 0
}

type walker struct {
	b        []byte
	version  int16
	flexible bool
	left     int // elements that may still come
}

func (w *walker) structure(fields []field) bool {
	for i := range fields {
		f := &fields[i]
		if f.kind == tagged || w.version < f.min || w.version > f.max {
			continue
		}
		if !w.field(f) {
			return false
		}
	}
	return !w.flexible || w.tags(fields)
}

func (w *walker) field(f *field) bool {
	switch f.kind {
	case fixed:
		return w.skip(f.size)
	case text:
		n, ok := w.length(2)
		return ok && n <= maxText && w.skip(max(n, 0))
	case blob:
		return w.sized(4)
	}
	n, ok := w.length(4)
	if !ok || n > len(w.b) || n > w.left {
		return false
	}
	w.left -= max(n, 0)
	for range n {
		if f.kind == list && !w.field(&f.elem[0]) || f.kind == array && !w.structure(f.elem) {
			return false
		}
	}
	return true
}

// length reads the length of a string, of bytes or of an array; -1 is null.
func (w *walker) length(size int) (int, bool) {
	if w.flexible {
		u, n := binary.Uvarint(w.b)
		if n <= 0 || u > 1<<31 {
			return 0, false
		}
		w.b = w.b[n:]
		return int(u) - 1, true
	}
	if len(w.b) < size {
		return 0, false
	}
	var n int
	if size == 2 {
		n = int(int16(binary.BigEndian.Uint16(w.b)))
	} else {
		n = int(int32(binary.BigEndian.Uint32(w.b)))
	}
	w.b = w.b[size:]
	return n, n >= -1
}

func (w *walker) sized(size int) bool {
	n, ok := w.length(size)
	return ok && w.skip(max(n, 0))
}

func (w *walker) skip(n int) bool {
	if n > len(w.b) {
		return false
	}
	w.b = w.b[n:]
	return true
}

func (w *walker) tags(fields []field) bool {
	count, n := binary.Uvarint(w.b)
	if n <= 0 || count > uint64(len(w.b)) || count > uint64(w.left) {
		return false
	}
	w.b = w.b[n:]
	w.left -= int(count)
	for range count {
		key, n := binary.Uvarint(w.b)
		if n <= 0 {
			return false
		}
		w.b = w.b[n:]
		size, n := binary.Uvarint(w.b)
		if n <= 0 || size > uint64(len(w.b)-n) {
			return false
		}
		value := w.b[n : n+int(size)]
		w.b = w.b[n+int(size):]
		for i := range fields {
			if f := &fields[i]; f.kind == tagged && uint64(f.size) == key {
				inner := walker{b: value, version: w.version, flexible: true, left: w.left}
				if !inner.structure(f.elem) || len(inner.b) != 0 {
					return false
				}
				w.left = inner.left
			}
		}
	}
	return true
}
