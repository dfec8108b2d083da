// Package object is the file format of a data object: batches of one or many
// partitions, packed once and never changed. Pure: bytes in, bytes out.
//
//	header | block ... block | tail ... tail | index | footer | trailer
//
//	block    whole batches of one partition, contiguous, about BlockBytes
//	tail     one per partition: what a broker must know to continue after the
//	         partition's last batch here (Tail)
//	index    64-byte entries: blocks, then tails; each by topic, partition, base
//	footer   who wrote it, from which log, where the index is (Footer)
//	trailer  length and CRC of the footer, magic
//
// Every piece has a CRC32C, all integers are big-endian, offsets are 64 bits
// wide and may have holes. docs/format/object.md draws each byte. An object
// describes itself: the catalog can be rebuilt from footers.
//
// Decoders take hostile bytes: they check lengths before they allocate and
// return an error that wraps ErrCorrupt.
package object

import (
	"encoding/base64"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
)

// ErrCorrupt says that bytes are not what the format demands.
var ErrCorrupt = errors.New("corrupt object")

// BlockBytes is the size at which a block is closed. A block is larger only if
// one append is.
const BlockBytes = 1 << 20

const version = 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Kind says which job wrote an object; each has its own sequence (P12).
type Kind byte

const (
	Flush    Kind = 'f'
	Merge    Kind = 'm'
	Recovery Kind = 'r'
)

// Identity is who wrote an object. It is unique for ever: an epoch is one
// process, and a process counts.
type Identity struct {
	Cluster string // 22 characters of base64url
	Broker  int32
	Epoch   int64
	Kind    Kind
	Seq     int64
}

// Name is the object's name in the catalog. Names of one broker and epoch sort
// by kind and sequence.
func (id Identity) Name() string {
	return fmt.Sprintf("%d-%010d-%c%010d", id.Broker, id.Epoch, id.Kind, id.Seq)
}

// Key is the object's key in the object store.
func Key(cluster, name string) string { return Prefix(cluster) + name }

// Prefix is what all keys of the cluster's data objects start with.
func Prefix(cluster string) string { return "data/" + cluster + "/" }

// ParseName reads a name; the identity has no cluster.
func ParseName(name string) (Identity, error) {
	bad := fmt.Errorf("%w: name %q", ErrCorrupt, name)
	parts := strings.Split(name, "-")
	if len(parts) != 3 || len(parts[2]) < 2 {
		return Identity{}, bad
	}
	broker, err1 := strconv.ParseInt(parts[0], 10, 32)
	epoch, err2 := strconv.ParseInt(parts[1], 10, 64)
	seq, err3 := strconv.ParseInt(parts[2][1:], 10, 64)
	id := Identity{Broker: int32(broker), Epoch: epoch, Kind: Kind(parts[2][0]), Seq: seq}
	if err1 != nil || err2 != nil || err3 != nil || id.Name() != name {
		return Identity{}, bad
	}
	if id.Kind != Flush && id.Kind != Merge && id.Kind != Recovery {
		return Identity{}, bad
	}
	return id, nil
}

func clusterBytes(cluster string) (raw [16]byte, err error) {
	b, err := base64.RawURLEncoding.DecodeString(cluster)
	if err != nil || len(b) != len(raw) {
		return raw, fmt.Errorf("cluster id %q is not 16 bytes of base64url", cluster)
	}
	return [16]byte(b), nil
}

// HeaderSize is the length of the header in bytes.
const HeaderSize = 32

var headerMagic = [4]byte{'L', 'T', 'O', 'B'}

// 0 magic4 | 4 version2 | 6 kind1 | 7 zero1 | 8 cluster16 | 24 zero4 | 28 crc4
func appendHeader(b []byte, cluster [16]byte, kind Kind) []byte {
	w := writer{b}
	start := len(b)
	w.raw(headerMagic[:])
	w.u16(version)
	w.u8(byte(kind))
	w.u8(0)
	w.raw(cluster[:])
	w.u32(0)
	w.u32(crc32.Checksum(w.b[start:], castagnoli))
	return w.b
}

// CheckHeader accepts the first HeaderSize bytes of an object of the cluster.
func CheckHeader(b []byte, cluster string) error {
	raw, err := clusterBytes(cluster)
	if err != nil {
		return err
	}
	if len(b) < HeaderSize || string(b[:HeaderSize]) != string(appendHeader(nil, raw, Kind(b[6]))) {
		return fmt.Errorf("%w: header is not that of a data object of this cluster", ErrCorrupt)
	}
	return nil
}
