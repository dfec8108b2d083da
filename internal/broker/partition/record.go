package partition

import (
	"encoding/binary"
	"fmt"

	"github.com/looptape/looptape/internal/broker/batch"
)

// recordHeader is the length of what precedes the batches in a log record:
//
//	0 version1 | 1 zero3 | 4 topic16 | 20 partition4 | 24 leaderEpoch4 |
//	28 base8 | 36 last8 | 44 batches4 | 48 the batches
//
// The log adds LSN, length and CRC.
const recordHeader = 48

const recordVersion = 1

func encodeRecord(b []byte, id ID, epoch int32, base, last int64, batches int32) []byte {
	b = append(b[:0], recordVersion, 0, 0, 0)
	b = append(b, id.Topic[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(id.Index))
	b = binary.BigEndian.AppendUint32(b, uint32(epoch))
	b = binary.BigEndian.AppendUint64(b, uint64(base))
	b = binary.BigEndian.AppendUint64(b, uint64(last))
	return binary.BigEndian.AppendUint32(b, uint32(batches))
}

// Record is a decoded log record.
type Record struct {
	ID          ID
	LeaderEpoch int32
	Base, Last  int64
	Batches     []byte
}

// DecodeRecord reads a log record and checks that its batches are whole, follow
// each other and fill [Base, Last].
func DecodeRecord(data []byte) (Record, error) {
	bad := func(what string) (Record, error) {
		return Record{}, fmt.Errorf("%w: log record: %s", ErrCorrupt, what)
	}
	if len(data) < recordHeader || data[0] != recordVersion {
		return bad("header")
	}
	r := Record{
		LeaderEpoch: int32(binary.BigEndian.Uint32(data[24:])),
		Base:        int64(binary.BigEndian.Uint64(data[28:])),
		Last:        int64(binary.BigEndian.Uint64(data[36:])),
		Batches:     data[recordHeader:],
	}
	copy(r.ID.Topic[:], data[4:])
	r.ID.Index = int32(binary.BigEndian.Uint32(data[20:]))
	want := binary.BigEndian.Uint32(data[44:])
	if r.Base < 0 || r.ID.Index < 0 {
		return bad("offsets")
	}
	next, count := r.Base, uint32(0)
	for rest := r.Batches; len(rest) > 0; count++ {
		b, after, err := batch.Next(rest)
		if err != nil {
			return bad(err.Error())
		}
		if b.BaseOffset() != next {
			return bad("offsets")
		}
		next, rest = b.LastOffset()+1, after
	}
	if count != want || count == 0 || next-1 != r.Last {
		return bad("batch count")
	}
	return r, nil
}
