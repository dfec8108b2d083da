package evaluate

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/looptape/looptape/internal/loop/event"
)

// What the runner keeps per request, in the task's store:
//
//	'm' key       meta of an open request
//	'p' key id    one part of it: its record, or only where it lies (folded)
//	'f' key       meta of a folded request: quiet for long, its parts are on the tape only
//
//	key           uvarint(len) tenant uvarint(len) request: no key is the beginning of another
//	part          version 1, kind (record, place), uvarint topic length, topic, partition,
//	              offset, time; a record adds headers and value
const (
	prefixMeta   = 'm'
	prefixPart   = 'p'
	prefixFolded = 'f'

	partVersion = 1
	kindRecord  = 0
	kindPlace   = 1
)

// maxPartHeaders bounds the headers of a stored part when decoding.
const maxPartHeaders = 1024

// meta is the part of a request's state that changes with every event.
type meta struct {
	Last     int64          `json:"t"` // stream time of the last event, Unix nanoseconds
	Parts    int            `json:"n"`
	Bytes    int            `json:"b"`
	Closed   bool           `json:"c,omitempty"`
	Settled  bool           `json:"s,omitempty"`
	Oversize bool           `json:"o,omitempty"`
	Done     map[string]int `json:"d,omitempty"` // evaluator name -> inputs when it last spoke, plus 1
}

func (m *meta) encode() ([]byte, error) {
	b, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode state: %w", err)
	}
	return b, nil
}

func decodeMeta(b []byte) (meta, error) {
	var m meta
	if err := json.Unmarshal(b, &m); err != nil {
		return m, errors.New("state of a request: corrupt meta")
	}
	return m, nil
}

func stateKey(tenant, request string) string {
	b := make([]byte, 0, len(tenant)+len(request)+4)
	b = appendString(b, tenant)
	return string(appendString(b, request))
}

func splitKey(key string) (tenant, request string, err error) {
	d := decoder{b: []byte(key)}
	tenant, request = d.string(), d.string()
	if d.bad || len(d.b) != 0 {
		return "", "", errors.New("state of a request: corrupt key")
	}
	return tenant, request, nil
}

func storeKey(prefix byte, key string, id string) []byte {
	b := make([]byte, 0, 1+len(key)+len(id))
	b = append(b, prefix)
	b = append(b, key...)
	return append(b, id...)
}

// encodePart writes a record as a part, with or without its value.
func encodePart(r *event.Record, kind byte, value bool) []byte {
	b := make([]byte, 0, 64+len(r.Value)+32*len(r.Headers))
	b = append(b, partVersion, kind)
	b = appendString(b, r.Topic)
	b = binary.AppendVarint(b, int64(r.Partition))
	b = binary.AppendVarint(b, r.Offset)
	b = binary.AppendVarint(b, r.Time.UnixNano())
	if kind == kindPlace {
		return b
	}
	b = binary.AppendUvarint(b, uint64(len(r.Headers)))
	for _, h := range r.Headers {
		b = appendString(b, h.Key)
		b = appendString(b, string(h.Value))
	}
	if value {
		b = append(b, r.Value...)
	}
	return b
}

// decodePart reads a part. The record shares b.
func decodePart(b []byte) (r event.Record, kind byte, err error) {
	corrupt := errors.New("state of a request: corrupt part")
	if len(b) < 2 || b[0] != partVersion || b[1] > kindPlace {
		return r, 0, corrupt
	}
	kind = b[1]
	d := decoder{b: b[2:]}
	r.Topic = d.string()
	r.Partition = int32(d.varint())
	r.Offset = d.varint()
	r.Time = time.Unix(0, d.varint()).UTC()
	if kind == kindRecord {
		n := d.uvarint()
		if n > maxPartHeaders || n > uint64(len(d.b)) {
			return event.Record{}, 0, corrupt
		}
		r.Headers = make([]event.Header, 0, n)
		for range n {
			k, v := d.string(), d.string()
			r.Headers = append(r.Headers, event.Header{Key: k, Value: []byte(v)})
		}
		if len(d.b) > 0 {
			r.Value = d.b
		}
	}
	if d.bad || kind == kindPlace && len(d.b) != 0 {
		return event.Record{}, 0, corrupt
	}
	return r, kind, nil
}

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// A decoder takes values off the front of b; after the first that is not
// there, bad is set and all others are zero.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) string() string {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return ""
	}
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}
