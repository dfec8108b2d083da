package api

import (
	"encoding/binary"
	"errors"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/broker/front/wire"
	"github.com/looptape/looptape/internal/broker/partition"
)

// Produce: v3 record batches, v9 flexible, v13 topic ids. It is decoded and
// encoded by hand, since it carries the load: the records stay where they are until
// the partition copies them.
func init() {
	register(kmsg.Produce, endpoint{min: 3, max: 13, maxBody: 1 << 30, serve: (*Server).produce})
}

// A produce is one request under way.
type produce struct {
	s      *Server
	r      *wire.Request
	acks   int16
	topics []produceTopic
	parts  []producePart // of all topics, in their order
	left   atomic.Int32  // parts whose outcome is open, and the starter
}

type produceTopic struct {
	name  string
	id    [16]byte
	parts int
}

type producePart struct {
	index   int32
	records []byte
	res     partition.Appended
}

func (s *Server) produce(r *wire.Request) {
	p := &produce{s: s, r: r}
	transactional, ok := p.decode()
	if !ok {
		r.Abort()
		return
	}
	p.left.Store(int32(len(p.parts)) + 1)
	at := 0
	for i := range p.topics {
		t := &p.topics[i]
		parts := p.parts[at : at+t.parts]
		at += t.parts
		topic, known := s.topics.Topic(t.name)
		unknown := errUnknownTopic
		if r.Version >= 13 {
			topic, known = s.topics.TopicByID(t.id)
			unknown = errUnknownTopicID
		}
		for j := range parts {
			part := &parts[j]
			var err error
			var log Log
			switch {
			case p.acks < -1 || p.acks > 1:
				err = errAcks
			case transactional:
				err = errTransactions
			case !known:
				err = unknown
			case topic.Internal:
				err = errInternalTopic
			case len(part.records) == 0:
				err = errNoRecords
			default:
				log, err = s.open(topic, part.index)
			}
			if err != nil {
				p.done(part, partition.Appended{Base: -1, LogAppendTime: -1, LogStart: -1, Err: err})
				continue
			}
			// Copies the records.
			log.Append(r.Context(), partition.Append{Batches: part.records, Done: func(res partition.Appended) { p.done(part, res) }})
		}
	}
	r.Recycle()
	p.finish()
}

// done takes a partition's outcome; it may come from the log's goroutine, so
// nothing is encoded here.
func (p *produce) done(part *producePart, res partition.Appended) {
	part.res = res
	part.records = nil
	p.finish()
}

func (p *produce) finish() {
	if p.left.Add(-1) > 0 {
		return
	}
	for i := range p.parts {
		if judged(p.parts[i].res.Err) {
			p.r.Gate = p.s.cfg.Serving // an ack proves itself, a verdict on a producer may be out of date
		}
	}
	if p.acks != 0 {
		p.r.Respond(p)
		return
	}
	// Nobody reads a reply; a closed connection is the only way to say no.
	for i := range p.parts {
		if err := p.parts[i].res.Err; err != nil {
			p.s.code(p.r, err)
			p.r.Abort()
			return
		}
	}
	p.r.Discard()
}

// judged says that an append was refused for what this broker knows of the
// producer, which is worth nothing once another leads the partition.
func judged(err error) bool {
	return errors.Is(err, partition.ErrOutOfOrderSequence) || errors.Is(err, partition.ErrInvalidEpoch) || errors.Is(err, partition.ErrUnknownProducer)
}

func (p *produce) Release() {}

// AppendTo encodes the response.
func (p *produce) AppendTo(out *wire.Out) {
	e := encoder{out.Buf, p.r.Flexible()}
	version := p.r.Version
	e.count(len(p.topics))
	at := 0
	for _, t := range p.topics {
		if version >= 13 {
			e.b = append(e.b, t.id[:]...)
		} else {
			e.str(t.name)
		}
		e.count(t.parts)
		for i := range p.parts[at : at+t.parts] {
			part := &p.parts[at+i]
			res := &part.res
			code := p.s.code(p.r, res.Err)
			if code != 0 {
				res.Base, res.LogAppendTime = -1, -1
			}
			e.i32(part.index)
			e.i16(code)
			e.i64(res.Base)
			e.i64(res.LogAppendTime)
			if version >= 5 {
				e.i64(res.LogStart)
			}
			if version >= 8 {
				e.count(0) // no errors of single records: a batch is taken whole or not at all
				e.message(code, res.Err)
			}
			e.tags()
		}
		at += t.parts
		e.tags()
	}
	e.i32(0) // throttle
	e.tags()
	out.Buf = e.b
}

// message explains what the client could do better.
func (e *encoder) message(code int16, err error) {
	switch code {
	case codeInvalidRecord, codeCorruptMessage, codeMessageTooLarge, codeInvalidTimestamp, codeInvalidTxnState, codeInvalidTopic:
		e.nullable(err.Error())
	default:
		e.null()
	}
}

// decode reads the request. Topics and partitions are counted before they are
// allocated, by what their shortest form takes.
func (p *produce) decode() (transactional, ok bool) {
	version := p.r.Version
	d := decoder{b: p.r.Body, flexible: p.r.Flexible(), ok: true, left: maxElements}
	_, transactional = d.nullable()
	p.acks = d.i16()
	d.i32() // timeout: an append is durable or fails, it does not linger
	topics := d.count(3)
	p.topics = make([]produceTopic, 0, topics)
	for range topics {
		var t produceTopic
		if version >= 13 {
			d.take(t.id[:])
		} else {
			var name []byte
			if name, d.ok = d.sized(); !d.ok {
				return false, false
			}
			t.name = string(name)
		}
		t.parts = d.count(5)
		if p.parts == nil {
			p.parts = make([]producePart, 0, t.parts)
		}
		for range t.parts {
			part := producePart{index: d.i32()}
			part.records = d.bytes()
			d.tags()
			if !d.ok {
				return false, false
			}
			p.parts = append(p.parts, part)
		}
		d.tags()
		p.topics = append(p.topics, t)
	}
	d.tags()
	return transactional, d.ok && len(d.b) == 0
}

// A decoder reads the primitives of the protocol. After the first that is not
// there, ok is false and everything reads as zero.
type decoder struct {
	b        []byte
	flexible bool
	ok       bool
	left     int // array elements that may still come
}

func (d *decoder) next(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.ok = false
		d.b = nil
	}
	if !d.ok {
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) i16() int16 {
	if v := d.next(2); v != nil {
		return int16(binary.BigEndian.Uint16(v))
	}
	return 0
}

func (d *decoder) i32() int32 {
	if v := d.next(4); v != nil {
		return int32(binary.BigEndian.Uint32(v))
	}
	return 0
}

func (d *decoder) take(dst []byte) { copy(dst, d.next(len(dst))) }

func (d *decoder) uvarint() int {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || v > 1<<31 {
		d.ok = false
		d.b = nil
		return 0
	}
	d.b = d.b[n:]
	return int(v)
}

// nullable reads a nullable string.
func (d *decoder) nullable() ([]byte, bool) {
	n := 0
	if d.flexible {
		n = d.uvarint() - 1
	} else {
		n = int(d.i16())
	}
	if !d.ok || n == -1 {
		return nil, false
	}
	return d.next(n), d.ok
}

// sized reads a string that may not be null.
func (d *decoder) sized() ([]byte, bool) { return d.nullable() }

// bytes reads nullable bytes.
func (d *decoder) bytes() []byte {
	n := 0
	if d.flexible {
		n = d.uvarint() - 1
	} else {
		n = int(d.i32())
	}
	if !d.ok || n == -1 {
		return nil
	}
	return d.next(n)
}

// count reads an array's length; each element takes at least size bytes.
func (d *decoder) count(size int) int {
	n := 0
	if d.flexible {
		n = d.uvarint() - 1
	} else {
		n = int(d.i32())
	}
	if !d.ok || n > len(d.b)/size || n > d.left {
		d.ok = false
		d.b = nil
		return 0
	}
	n = max(n, 0)
	d.left -= n
	return n
}

func (d *decoder) tags() {
	if !d.flexible {
		return
	}
	for n := d.uvarint(); n > 0 && d.ok; n-- {
		d.uvarint()
		d.next(d.uvarint())
	}
}

// An encoder appends them.
type encoder struct {
	b        []byte
	flexible bool
}

func (e *encoder) i16(v int16) { e.b = binary.BigEndian.AppendUint16(e.b, uint16(v)) }
func (e *encoder) i32(v int32) { e.b = binary.BigEndian.AppendUint32(e.b, uint32(v)) }
func (e *encoder) i64(v int64) { e.b = binary.BigEndian.AppendUint64(e.b, uint64(v)) }

func (e *encoder) count(n int) {
	if e.flexible {
		e.b = binary.AppendUvarint(e.b, uint64(n)+1)
	} else {
		e.i32(int32(n))
	}
}

func (e *encoder) str(s string) {
	if e.flexible {
		e.b = binary.AppendUvarint(e.b, uint64(len(s))+1)
	} else {
		e.i16(int16(len(s)))
	}
	e.b = append(e.b, s...)
}

func (e *encoder) nullable(s string) { e.str(s) }

func (e *encoder) null() {
	if e.flexible {
		e.b = append(e.b, 0)
	} else {
		e.i16(-1)
	}
}

func (e *encoder) tags() {
	if e.flexible {
		e.b = append(e.b, 0)
	}
}
