package join

import (
	"encoding/binary"
	"errors"
	"math"

	"github.com/looptape/looptape/internal/loop/event"
)

// A state's bytes: strings once, in a table, and the rest by their numbers.
//
//	u8 version | flags | strings: n (len bytes)* | bound: n string* | vias: n string*
//	seen | own set | loose set
//
//	set     parts: n part*, cut | scores: n score*, cut | labels: n label*, cut | over
//	part    id typ span kind flags time partition offset cost latency usage? n (name value)*
//	cut     0, or 1 class time a b id
//
// Counts, strings' numbers and offsets are uvarints, times and money varints,
// floats 8 bytes little endian.
const (
	stateVersion = 1

	flagStands, flagWithdrawn = 1, 2
)

var errState = errors.New("joined state is damaged")

type encoder struct {
	body    []byte
	table   []byte
	strings map[string]uint64
}

func (w *encoder) uint(n uint64) { w.body = binary.AppendUvarint(w.body, n) }
func (w *encoder) int(n int64)   { w.body = binary.AppendVarint(w.body, n) }
func (w *encoder) byte(b byte)   { w.body = append(w.body, b) }
func (w *encoder) float(f float64) {
	w.body = binary.LittleEndian.AppendUint64(w.body, math.Float64bits(f))
}

func (w *encoder) string(s string) {
	n, ok := w.strings[s]
	if !ok {
		n = uint64(len(w.strings))
		if w.strings == nil {
			w.strings = map[string]uint64{}
		}
		w.strings[s] = n
		w.table = binary.AppendUvarint(w.table, uint64(len(s)))
		w.table = append(w.table, s...)
	}
	w.uint(n)
}

func (w *encoder) optional(f *float64) {
	if f == nil {
		w.byte(0)
		return
	}
	w.byte(1)
	w.float(*f)
}

func (w *encoder) bytes() []byte {
	out := make([]byte, 0, 10+len(w.table)+len(w.body))
	out = binary.AppendUvarint(out, uint64(len(w.strings)))
	out = append(out, w.table...)
	return append(out, w.body...)
}

func (s *state) encode() []byte {
	var w encoder
	w.uint(uint64(len(s.bound)))
	for _, r := range s.bound {
		w.string(r)
	}
	w.uint(uint64(len(s.vias)))
	for _, v := range s.vias {
		w.string(v)
	}
	w.int(s.seen)
	w.set(&s.own)
	w.set(&s.loose)
	flags := byte(0)
	if s.stands {
		flags |= flagStands
	}
	if s.withdrawn {
		flags |= flagWithdrawn
	}
	return append([]byte{stateVersion, flags}, w.bytes()...)
}

func (w *encoder) set(x *set) {
	w.uint(uint64(len(x.parts.items)))
	for i := range x.parts.items {
		w.part(&x.parts.items[i], true)
	}
	w.cut(x.parts.cut)
	w.uint(uint64(len(x.scores.items)))
	for i := range x.scores.items {
		w.score(&x.scores.items[i])
	}
	w.cut(x.scores.cut)
	w.uint(uint64(len(x.labels.items)))
	for i := range x.labels.items {
		w.label(&x.labels.items[i])
	}
	w.cut(x.labels.cut)
	if x.parts.cut == nil && x.scores.cut == nil && x.labels.cut == nil {
		w.byte(0)
		return
	}
	w.byte(1)
	for _, n := range x.over.counts {
		w.int(n)
	}
	w.int(x.over.labels)
	w.int(x.over.first)
	w.int(x.over.last)
	w.int(x.over.cost)
	if x.over.used {
		w.usage(&x.over.usage)
	} else {
		w.usage(nil)
	}
}

func (w *encoder) cut(p *place) {
	if p == nil {
		w.byte(0)
		return
	}
	w.byte(1)
	w.byte(p.class)
	w.int(p.time)
	w.string(p.a)
	w.string(p.b)
	w.string(p.id)
}

func (w *encoder) part(p *part, positions bool) {
	w.string(p.id)
	w.string(p.typ)
	w.string(p.span)
	w.byte(p.kind)
	if p.failed {
		w.byte(1)
	} else {
		w.byte(0)
	}
	w.int(p.time)
	if positions {
		w.uint(uint64(p.partition))
		w.uint(uint64(p.offset))
	}
	w.int(p.cost)
	w.float(p.latency)
	w.usage(p.usage)
	w.uint(uint64(len(p.facts)))
	for _, f := range p.facts {
		w.string(f.name)
		w.string(f.value)
	}
}

func (w *encoder) usage(u *event.Usage) {
	if u == nil {
		w.byte(0)
		return
	}
	w.byte(1)
	w.int(u.Input)
	w.int(u.Output)
	w.int(u.Total)
	w.int(u.Cached)
}

func (w *encoder) score(s *score) {
	w.string(s.ID)
	w.string(s.Evaluator)
	w.string(s.Metric)
	w.string(s.Mode)
	w.string(s.Status)
	w.string(s.Good)
	w.string(s.Label)
	w.string(s.Reason)
	w.string(s.InputsHash)
	w.int(int64(s.InputCount))
	w.float(s.SampledP)
	w.optional(s.Value)
	switch {
	case s.Pass == nil:
		w.byte(0)
	case *s.Pass:
		w.byte(2)
	default:
		w.byte(1)
	}
}

func (w *encoder) label(l *label) {
	w.string(l.ID)
	w.string(l.Kind)
	w.string(l.Label.Label)
	w.string(l.Author)
	w.string(l.AuthorRole)
	w.int(l.time)
	w.optional(l.Value)
}

// bytes are what two items of one id are compared by: all but where they lie.
func (p *part) bytes() []byte {
	var w encoder
	w.part(p, false)
	return w.bytes()
}

func (s *score) bytes() []byte {
	var w encoder
	w.score(s)
	return w.bytes()
}

func (l *label) bytes() []byte {
	var w encoder
	w.label(l)
	return w.bytes()
}

// A decoder reads a state. The first damage empties it: everything after reads
// as zero and bad is set.
type decoder struct {
	b       []byte
	strings []string
	bad     bool
}

func (r *decoder) fail() {
	r.bad, r.b = true, nil
}

func (r *decoder) uint() uint64 {
	n, used := binary.Uvarint(r.b)
	if used <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[used:]
	return n
}

func (r *decoder) int() int64 {
	n, used := binary.Varint(r.b)
	if used <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[used:]
	return n
}

func (r *decoder) byte() byte {
	if len(r.b) == 0 {
		r.fail()
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

func (r *decoder) float() float64 {
	if len(r.b) < 8 {
		r.fail()
		return 0
	}
	f := math.Float64frombits(binary.LittleEndian.Uint64(r.b))
	r.b = r.b[8:]
	return f
}

// count reads how many items of at least min bytes follow; more than there is
// room for is damage, found before anything is allocated.
func (r *decoder) count(min int) int {
	n := r.uint()
	if n > uint64(len(r.b)/min) {
		r.fail()
		return 0
	}
	return int(n)
}

func (r *decoder) string() string {
	n := r.uint()
	if n >= uint64(len(r.strings)) {
		r.fail()
		return ""
	}
	return r.strings[n]
}

func (r *decoder) optional() *float64 {
	if r.byte() == 0 {
		return nil
	}
	f := r.float()
	return &f
}

func (s *state) decode(b []byte) error {
	if len(b) < 2 || b[0] != stateVersion || b[1] > flagStands|flagWithdrawn {
		return errState
	}
	s.stands, s.withdrawn = b[1]&flagStands != 0, b[1]&flagWithdrawn != 0
	r := decoder{b: b[2:]}
	n := r.count(1)
	r.strings = make([]string, 0, n)
	for range n {
		size := r.uint()
		if size > uint64(len(r.b)) {
			r.fail()
			break
		}
		r.strings = append(r.strings, string(r.b[:size]))
		r.b = r.b[size:]
	}
	for range r.count(1) {
		s.bound = append(s.bound, r.string())
	}
	for range r.count(1) {
		s.vias = append(s.vias, r.string())
	}
	s.seen = r.int()
	r.set(&s.own)
	r.set(&s.loose)
	if r.bad || len(r.b) > 0 {
		return errState
	}
	return nil
}

func (r *decoder) set(x *set) {
	n := r.count(16)
	x.parts.items = make([]part, 0, n+2)
	for range n {
		p := r.part()
		x.parts.bytes += p.size()
		x.parts.items = append(x.parts.items, p)
	}
	x.parts.cut = r.cut()
	for range r.count(18) {
		s := r.score()
		x.scores.bytes += s.size()
		x.scores.items = append(x.scores.items, s)
	}
	x.scores.cut = r.cut()
	for range r.count(7) {
		l := r.label()
		x.labels.bytes += l.size()
		x.labels.items = append(x.labels.items, l)
	}
	x.labels.cut = r.cut()
	if r.byte() == 0 {
		return
	}
	for i := range x.over.counts {
		x.over.counts[i] = r.int()
	}
	x.over.labels = r.int()
	x.over.first, x.over.last, x.over.cost = r.int(), r.int(), r.int()
	if u := r.usage(); u != nil {
		x.over.usage, x.over.used = *u, true
	}
}

func (r *decoder) cut() *place {
	if r.byte() == 0 {
		return nil
	}
	return &place{class: r.byte(), time: r.int(), a: r.string(), b: r.string(), id: r.string()}
}

func (r *decoder) part() part {
	p := part{id: r.string(), typ: r.string(), span: r.string(), kind: r.byte(), failed: r.byte() == 1, time: r.int()}
	if p.kind >= kindScore {
		r.fail()
	}
	p.partition, p.offset = int32(r.uint()), int64(r.uint())
	p.cost, p.latency, p.usage = r.int(), r.float(), r.usage()
	if n := r.count(2); n > 0 {
		p.facts = make([]fact, 0, n)
		for range n {
			p.facts = append(p.facts, fact{r.string(), r.string()})
		}
	}
	return p
}

func (r *decoder) usage() *event.Usage {
	if r.byte() == 0 {
		return nil
	}
	return &event.Usage{Input: r.int(), Output: r.int(), Total: r.int(), Cached: r.int()}
}

func (r *decoder) score() score {
	var s score
	for _, at := range []*string{&s.ID, &s.Evaluator, &s.Metric, &s.Mode, &s.Status, &s.Good, &s.Label, &s.Reason, &s.InputsHash} {
		*at = r.string()
	}
	s.InputCount, s.SampledP, s.Value = int(r.int()), r.float(), r.optional()
	if b := r.byte(); b > 0 {
		pass := b == 2
		s.Pass = &pass
	}
	return s
}

func (r *decoder) label() label {
	var l label
	for _, at := range []*string{&l.ID, &l.Kind, &l.Label.Label, &l.Author, &l.AuthorRole} {
		*at = r.string()
	}
	l.time, l.Value = r.int(), r.optional()
	l.Time = fromNanos(l.time)
	return l
}
