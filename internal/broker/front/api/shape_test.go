package api

import (
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/broker/front/wire"
)

// fill sets every field of a request to something.
func fill(v reflect.Value, r *rand.Rand, depth int) {
	switch v.Kind() {
	case reflect.Pointer:
		if r.IntN(3) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem(), r, depth)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			name := v.Type().Field(i).Name
			if name == "Version" || name == "UnknownTags" || !v.Field(i).CanSet() {
				continue
			}
			fill(v.Field(i), r, depth+1)
		}
	case reflect.Slice:
		n := r.IntN(4)
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			fill(v.Index(i), r, depth+1)
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), r, depth+1)
		}
	case reflect.String:
		v.SetString("some text"[:r.IntN(9)])
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(r.IntN(100)))
	case reflect.Uint8:
		v.SetUint(uint64(r.IntN(100)))
	case reflect.Float64:
		v.SetFloat(r.Float64())
	}
}

// Every request the codec can encode fits its shape, and no part of one does.
func TestShapesFitTheCodec(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for key, e := range table {
		if e == nil || e.shape == nil {
			continue
		}
		for v := e.min; v <= e.max; v++ {
			for range 20 {
				req := kmsg.RequestForKey(int16(key))
				req.SetVersion(v)
				fill(reflect.ValueOf(req).Elem(), r, 0)
				req.SetVersion(v)
				b := req.AppendTo(nil)
				if !e.shape.fits(b, v, req.IsFlexible()) {
					t.Fatalf("%s v%d does not fit: %x", kmsg.NameForKey(int16(key)), v, b)
				}
				for n := range b {
					if e.shape.fits(b[:n], v, req.IsFlexible()) {
						t.Fatalf("%s v%d fits when cut to %d of %d bytes", kmsg.NameForKey(int16(key)), v, n, len(b))
					}
				}
			}
		}
	}
}

func TestShapeRefusesLies(t *testing.T) {
	big := append([]byte{0x7f, 0xff, 0xff, 0xff}, make([]byte, 1000)...)
	if table[kmsg.Metadata.Int16()].shape.fits(big, 1, false) {
		t.Error("an array of 2^31 topics in 1000 bytes fits")
	}
	tags := append([]byte{1, 0, 0}, 0xff, 0xff, 0xff, 0xff, 0x0f)
	if table[kmsg.Metadata.Int16()].shape.fits(tags, 9, true) {
		t.Error("2^32 tagged fields in 5 bytes fit")
	}
}

// FuzzDecode holds arbitrary bytes against the shapes: what fits must be decoded
// without an error or a panic.
func FuzzDecode(f *testing.F) {
	for key, e := range table {
		if e != nil && e.shape != nil {
			req := kmsg.RequestForKey(int16(key))
			req.SetVersion(e.max)
			f.Add(int16(key), e.max, req.AppendTo(nil))
		}
	}
	f.Fuzz(func(t *testing.T, key, version int16, b []byte) {
		if key < 0 || int(key) >= len(table) || table[key] == nil {
			return
		}
		e := table[key]
		if version < e.min || version > e.max || len(b) > 1<<16 {
			return
		}
		req := kmsg.RequestForKey(key)
		req.SetVersion(version)
		if e.shape != nil && e.shape.fits(b, version, req.IsFlexible()) {
			_ = req.ReadFrom(b) // a null where none may be is the codec's to refuse
		}
		if key == 0 {
			p := &produce{r: &wire.Request{Key: key, Version: version, Body: b}}
			if _, ok := p.decode(); ok && len(p.parts) > len(b) {
				t.Fatalf("%d partitions from %d bytes", len(p.parts), len(b))
			}
		}
	})
}

// The codec and the decoder by hand read the same.
func TestProduceDecodeMatchesCodec(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for v := int16(3); v <= 13; v++ {
		for range 50 {
			req := kmsg.NewPtrProduceRequest()
			fill(reflect.ValueOf(req).Elem(), r, 0)
			req.SetVersion(v)
			b := req.AppendTo(nil)
			p := &produce{r: &wire.Request{Version: v, Body: b}}
			txn, ok := p.decode()
			if !ok || txn != (req.TransactionID != nil) || p.acks != req.Acks || len(p.topics) != len(req.Topics) {
				t.Fatalf("v%d: ok %v, %+v of %+v", v, ok, p, req)
			}
			at := 0
			for i, rt := range req.Topics {
				if v < 13 && p.topics[i].name != rt.Topic || v >= 13 && p.topics[i].id != rt.TopicID {
					t.Fatalf("v%d: topic %d", v, i)
				}
				for _, rp := range rt.Partitions {
					if got := p.parts[at]; got.index != rp.Partition || string(got.records) != string(rp.Records) {
						t.Fatalf("v%d: partition %d of topic %d", v, at, i)
					}
					at++
				}
			}
			for n := range b {
				cut := &produce{r: &wire.Request{Version: v, Body: b[:n]}}
				if _, ok := cut.decode(); ok {
					t.Fatalf("v%d: decodes when cut to %d of %d bytes", v, n, len(b))
				}
			}
		}
	}
}
