package object

import (
	"encoding/binary"
	"fmt"
)

type writer struct{ b []byte }

func (w *writer) u8(v uint8)   { w.b = append(w.b, v) }
func (w *writer) u16(v uint16) { w.b = binary.BigEndian.AppendUint16(w.b, v) }
func (w *writer) u32(v uint32) { w.b = binary.BigEndian.AppendUint32(w.b, v) }
func (w *writer) i32(v int32)  { w.u32(uint32(v)) }
func (w *writer) i64(v int64)  { w.b = binary.BigEndian.AppendUint64(w.b, uint64(v)) }
func (w *writer) raw(v []byte) { w.b = append(w.b, v...) }
func (w *writer) str(s string) { w.u16(uint16(len(s))); w.b = append(w.b, s...) }
func (w *writer) flag(v bool) {
	if v {
		w.u8(1)
	} else {
		w.u8(0)
	}
}

// reader reads what writer wrote. After the first overrun every value is zero
// and err reports it.
type reader struct {
	b   []byte
	bad bool
}

var zeros [16]byte

func (r *reader) take(n int) []byte {
	if r.bad || n > len(r.b) {
		r.bad = true
		return zeros[:min(n, len(zeros))]
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}
func (r *reader) u8() uint8   { return r.take(1)[0] }
func (r *reader) u16() uint16 { return binary.BigEndian.Uint16(r.take(2)) }
func (r *reader) u32() uint32 { return binary.BigEndian.Uint32(r.take(4)) }
func (r *reader) i32() int32  { return int32(r.u32()) }
func (r *reader) i64() int64  { return int64(binary.BigEndian.Uint64(r.take(8))) }
func (r *reader) id() (v [16]byte) {
	copy(v[:], r.take(16))
	return v
}
func (r *reader) flag() bool {
	v := r.u8()
	if v > 1 {
		r.bad = true
	}
	return v == 1
}
func (r *reader) str() string {
	n := int(r.u16())
	if r.bad || n > len(r.b) {
		r.bad = true
		return ""
	}
	return string(r.take(n))
}

// list reads a count and refuses one that the rest can't hold at size bytes each.
func (r *reader) list(size int) int {
	n := r.u32()
	if r.bad || int64(n)*int64(size) > int64(len(r.b)) {
		r.bad = true
		return 0
	}
	return int(n)
}

func (r *reader) end(what string) error {
	if r.bad {
		return fmt.Errorf("%w: %s is cut short or has an impossible value", ErrCorrupt, what)
	}
	if len(r.b) != 0 {
		return fmt.Errorf("%w: %d bytes after the %s", ErrCorrupt, len(r.b), what)
	}
	return nil
}
