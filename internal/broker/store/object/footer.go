package object

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// TrailerSize is the length of the trailer in bytes: footer length, footer CRC, magic.
const TrailerSize = 16

// MaxFooter bounds a footer: ten thousand topics with the longest names fit.
const MaxFooter = 4 << 20

var trailerMagic = [8]byte{'L', 'O', 'O', 'P', 'T', 'A', 'P', 'E'}

// TopicName names a topic that has a partition in the object.
type TopicName struct {
	ID   [16]byte
	Name string
}

// Footer says who wrote an object, from what, and where its index is.
type Footer struct {
	Identity   Identity
	Nonce      [16]byte // of the writing process
	Generation int32    // 0 as flushed; merging raises it
	WALBroker  int32    // whose log the batches come from, and
	WALEpoch   int64    // of which epoch; 0 for a merged object
	FirstLSN   int64
	LastLSN    int64
	IndexPos   int64
	IndexLen   int64
	IndexCRC   uint32
	Blocks     int32
	Tails      int32
	Topics     []TopicName // by id
	Inputs     []string    // names of the objects this one supersedes
}

// Encode returns footer and trailer.
func (f *Footer) Encode() ([]byte, error) {
	cluster, err := clusterBytes(f.Identity.Cluster)
	if err != nil {
		return nil, err
	}
	w := writer{}
	w.u16(version)
	w.u8(byte(f.Identity.Kind))
	w.u8(0)
	w.raw(cluster[:])
	w.i32(f.Identity.Broker)
	w.i64(f.Identity.Epoch)
	w.i64(f.Identity.Seq)
	w.raw(f.Nonce[:])
	w.i32(f.Generation)
	w.i32(f.WALBroker)
	w.i64(f.WALEpoch)
	w.i64(f.FirstLSN)
	w.i64(f.LastLSN)
	w.i64(f.IndexPos)
	w.i64(f.IndexLen)
	w.u32(f.IndexCRC)
	w.i32(f.Blocks)
	w.i32(f.Tails)
	w.u32(uint32(len(f.Topics)))
	for _, t := range f.Topics {
		w.raw(t.ID[:])
		w.str(t.Name)
	}
	w.u32(uint32(len(f.Inputs)))
	for _, name := range f.Inputs {
		w.str(name)
	}
	if len(w.b) > MaxFooter {
		return nil, fmt.Errorf("footer of %d bytes, at most %d", len(w.b), MaxFooter)
	}
	crc := crc32.Checksum(w.b, castagnoli)
	w.u32(uint32(len(w.b)))
	w.u32(crc)
	w.raw(trailerMagic[:])
	return w.b, nil
}

// FooterLen reads the trailer, the last TrailerSize bytes of an object of size
// bytes, and returns how many bytes before it the footer has.
func FooterLen(trailer []byte, size int64) (int64, error) {
	if len(trailer) != TrailerSize || [8]byte(trailer[8:]) != trailerMagic {
		return 0, fmt.Errorf("%w: trailer", ErrCorrupt)
	}
	n := int64(binary.BigEndian.Uint32(trailer))
	if n > MaxFooter || n > size-TrailerSize-HeaderSize {
		return 0, fmt.Errorf("%w: footer of %d bytes in an object of %d", ErrCorrupt, n, size)
	}
	return n, nil
}

// DecodeFooter reads footer and trailer as Encode wrote them.
func DecodeFooter(b []byte) (*Footer, error) {
	if len(b) < TrailerSize {
		return nil, fmt.Errorf("%w: footer of %d bytes", ErrCorrupt, len(b))
	}
	body, trailer := b[:len(b)-TrailerSize], b[len(b)-TrailerSize:]
	if n := binary.BigEndian.Uint32(trailer); int64(n) != int64(len(body)) || [8]byte(trailer[8:]) != trailerMagic {
		return nil, fmt.Errorf("%w: trailer", ErrCorrupt)
	}
	if got, want := crc32.Checksum(body, castagnoli), binary.BigEndian.Uint32(trailer[4:]); got != want {
		return nil, fmt.Errorf("%w: footer: crc %08x, want %08x", ErrCorrupt, got, want)
	}
	r := reader{b: body}
	if r.u16() != version {
		return nil, fmt.Errorf("%w: footer of an unknown version", ErrCorrupt)
	}
	f := &Footer{}
	f.Identity.Kind = Kind(r.u8())
	r.u8()
	cluster := r.id()
	f.Identity.Cluster = base64.RawURLEncoding.EncodeToString(cluster[:])
	f.Identity.Broker, f.Identity.Epoch, f.Identity.Seq = r.i32(), r.i64(), r.i64()
	f.Nonce = r.id()
	f.Generation = r.i32()
	f.WALBroker, f.WALEpoch, f.FirstLSN, f.LastLSN = r.i32(), r.i64(), r.i64(), r.i64()
	f.IndexPos, f.IndexLen, f.IndexCRC = r.i64(), r.i64(), r.u32()
	f.Blocks, f.Tails = r.i32(), r.i32()
	for range r.list(18) {
		f.Topics = append(f.Topics, TopicName{ID: r.id(), Name: r.str()})
	}
	for range r.list(2) {
		f.Inputs = append(f.Inputs, r.str())
	}
	if f.Blocks < 0 || f.Tails < 0 || f.IndexPos < HeaderSize || f.IndexLen != EntrySize*(int64(f.Blocks)+int64(f.Tails)) {
		r.bad = true
	}
	if err := r.end("footer"); err != nil {
		return nil, err
	}
	return f, nil
}
