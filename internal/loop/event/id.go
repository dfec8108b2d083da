package event

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strconv"
)

// DeriveID makes an event id from what identifies the event: a UUIDv8 of
// SHA-256 over the parts, each preceded by its length, so that no two lists of
// parts collide. Events of a span: (tenant, trace id, span id, event type,
// ordinal in the span). A log record without a span: (tenant, resource, time,
// body). It is never random, so a re-sent export changes nothing.
func DeriveID(parts ...string) string {
	h := sha256.New()
	var n [8]byte
	for _, p := range parts {
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write([]byte(p))
	}
	return uuid8(h.Sum(nil))
}

// ScoreID is the id of a score: the same for every run of one evaluator version
// in one mode on one subject event (for request-level evaluators, the request).
func ScoreID(tenant, about, evaluator, mode string) string {
	return DeriveID("score", tenant, about, evaluator, mode)
}

// InputsHash names a set of input events whatever their order.
func InputsHash(ids []string) string {
	s := slices.Clone(ids)
	slices.Sort(s)
	h := sha256.New()
	for _, id := range slices.Compact(s) {
		h.Write([]byte(strconv.Itoa(len(id)) + ":" + id))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

func uuid8(sum []byte) string {
	var u [16]byte
	copy(u[:], sum)
	u[6] = u[6]&0x0f | 0x80 // version 8
	u[8] = u[8]&0x3f | 0x80 // RFC 9562 variant
	b := make([]byte, 36)
	hex.Encode(b[0:8], u[0:4])
	hex.Encode(b[9:13], u[4:6])
	hex.Encode(b[14:18], u[6:8])
	hex.Encode(b[19:23], u[8:10])
	hex.Encode(b[24:36], u[10:16])
	b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
	return string(b)
}

// PartitionOf is the partition of a key among n: Kafka's default (murmur2), so
// that any client that produces with the same key writes to the same partition.
func PartitionOf(key string, n int32) int32 {
	return int32(murmur2(key)&0x7fffffff) % n
}

// murmur2 is the hash of Kafka's default partitioner.
func murmur2(key string) uint32 {
	const (
		seed uint32 = 0x9747b28c
		m    uint32 = 0x5bd1e995
		r           = 24
	)
	b := []byte(key)
	h := seed ^ uint32(len(b))
	for ; len(b) >= 4; b = b[4:] {
		k := binary.LittleEndian.Uint32(b) * m
		k ^= k >> r
		h = h*m ^ k*m
	}
	switch len(b) {
	case 3:
		h ^= uint32(b[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(b[1]) << 8
		fallthrough
	case 1:
		h ^= uint32(b[0])
		h *= m
	}
	h ^= h >> 13
	h *= m
	h ^= h >> 15
	return h
}
