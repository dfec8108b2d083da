//go:build e2e

package hostile

import (
	"encoding/binary"
	"hash/crc32"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/broker/batch"
)

// batches: record batches that lie.
func (w *world) batches(t *testing.T) {
	none := &kerr.Error{}
	good := func() []byte {
		now := time.Now().UnixMilli()
		return batch.Build(batch.Plain, batch.KV{Timestamp: now, Value: []byte("one")}, batch.KV{Timestamp: now, Value: []byte("two")})
	}
	// change edits a good batch and makes its checksum right again.
	change := func(edit func(b []byte)) []byte {
		b := good()
		edit(b)
		binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
		return b
	}
	be := binary.BigEndian
	for _, p := range []struct {
		name    string
		records []byte
		codes   []*kerr.Error
	}{
		{"none at all", nil, []*kerr.Error{kerr.InvalidRecord}},
		{"a wrong CRC", func() []byte { b := good(); b[20] ^= 1; return b }(), []*kerr.Error{kerr.CorruptMessage}},
		{"a flipped bit in a record", func() []byte { b := good(); b[len(b)-2] ^= 1; return b }(), []*kerr.Error{kerr.CorruptMessage}},
		{"cut short", good()[:70], []*kerr.Error{kerr.CorruptMessage}},
		{"bytes after it", append(good(), "tail"...), []*kerr.Error{kerr.CorruptMessage, kerr.UnsupportedForMessageFormat}},
		{"a length beyond the end", func() []byte { b := good(); be.PutUint32(b[8:], 1<<30); return b }(), []*kerr.Error{kerr.CorruptMessage}},
		{"a negative length", func() []byte { b := good(); be.PutUint32(b[8:], 1<<31); return b }(), []*kerr.Error{kerr.CorruptMessage}},
		{"a length of 3", func() []byte { b := good(); be.PutUint32(b[8:], 3); return b }(), []*kerr.Error{kerr.CorruptMessage}},
		{"2 billion records", change(func(b []byte) { be.PutUint32(b[57:], 1<<31-1); be.PutUint32(b[23:], 1<<31-2) }), []*kerr.Error{kerr.InvalidRecord}},
		{"a negative count", change(func(b []byte) { be.PutUint32(b[57:], 1<<31) }), []*kerr.Error{kerr.InvalidRecord}},
		{"no records but a count", change(func(b []byte) { be.PutUint32(b[57:], 0) }), []*kerr.Error{kerr.InvalidRecord}},
		{"one record more than there are", change(func(b []byte) { be.PutUint32(b[57:], 3); be.PutUint32(b[23:], 2) }), []*kerr.Error{kerr.InvalidRecord}},
		{"one record less than there are", change(func(b []byte) { be.PutUint32(b[57:], 1); be.PutUint32(b[23:], 0) }), []*kerr.Error{kerr.InvalidRecord}},
		{"a last offset that lies", change(func(b []byte) { be.PutUint32(b[23:], 1000) }), []*kerr.Error{kerr.InvalidRecord}},
		{"a record longer than the batch", change(func(b []byte) { b[61] = 0x7e }), []*kerr.Error{kerr.InvalidRecord}},
		{"a record with a negative length", change(func(b []byte) { b[61] = 0x03 }), []*kerr.Error{kerr.InvalidRecord}},
		{"an offset delta that lies", change(func(b []byte) { b[64] = 0x20 }), []*kerr.Error{kerr.InvalidRecord}},
		{"a key longer than its record", change(func(b []byte) { b[65] = 0x7e }), []*kerr.Error{kerr.InvalidRecord}},
		{"compression 7", change(func(b []byte) { b[22] = 7 }), []*kerr.Error{kerr.InvalidRecord}},
		{"a control batch", change(func(b []byte) { b[22] = 0x20 }), []*kerr.Error{kerr.InvalidRecord}},
		{"a transaction nobody began", change(func(b []byte) {
			b[22] = 0x10
			be.PutUint64(b[43:], 1)
			be.PutUint16(b[51:], 0)
			be.PutUint32(b[53:], 0)
		}),
			[]*kerr.Error{kerr.InvalidRecord, kerr.InvalidTxnState}},
		{"a time in the year 10,000", change(func(b []byte) { be.PutUint64(b[35:], 253402300800000) }), []*kerr.Error{kerr.InvalidTimestamp}},
		{"magic 0", legacy(0), []*kerr.Error{kerr.UnsupportedForMessageFormat}},
		{"magic 1", legacy(1), []*kerr.Error{kerr.UnsupportedForMessageFormat}},
		{"magic 3", change(func(b []byte) { b[16] = 3 }), []*kerr.Error{kerr.UnsupportedForMessageFormat}},
		{"larger than max.message.bytes", batch.Build(batch.Plain, batch.KV{Timestamp: time.Now().UnixMilli(), Value: make([]byte, 8<<20)}), []*kerr.Error{kerr.MessageTooLarge}},
		{"noise", noise(4096), []*kerr.Error{kerr.CorruptMessage, kerr.UnsupportedForMessageFormat}},
		{"a good one, after all these", good(), []*kerr.Error{none}},
	} {
		w.attack(t, "batch: "+p.name, func(t *testing.T) {
			c := w.dial(t)
			for _, version := range []int16{3, 9, 11} {
				resp := must[*kmsg.ProduceResponse](t, c, produceTo(victim, 0, p.records), version)
				got := resp.Topics[0].Partitions[0]
				wantCode(t, "produce", got.ErrorCode, p.codes...)
				if got.ErrorCode != 0 && got.BaseOffset != -1 {
					t.Errorf("a refused batch got offset %d", got.BaseOffset)
				}
			}
		})
	}
	w.attack(t, "batch: acks of 7", func(t *testing.T) {
		req := produceTo(victim, 0, good())
		req.Acks = 7
		wantCode(t, "produce", must[*kmsg.ProduceResponse](t, w.dial(t), req, 9).Topics[0].Partitions[0].ErrorCode, kerr.InvalidRequiredAcks)
	})
	w.attack(t, "batch: a bad one without acks", func(t *testing.T) {
		c := w.dial(t)
		req := produceTo(victim, 0, noise(100))
		req.Acks = 0
		if _, err := c.ask(req, 9); !closed(err) { // the only way to say no
			t.Errorf("the connection goes on: %v", err)
		}
	})
	w.attack(t, "batch: sequences of somebody else", func(t *testing.T) {
		c := w.dial(t)
		for name, p := range map[string]struct {
			h    batch.Header
			code *kerr.Error
		}{
			"a negative sequence": {batch.Header{LeaderEpoch: -1, ProducerID: 77, ProducerEpoch: 0, Sequence: -5}, kerr.InvalidRecord},
			"a negative epoch":    {batch.Header{LeaderEpoch: -1, ProducerID: 77, ProducerEpoch: -3, Sequence: 0}, kerr.InvalidRecord},
		} {
			b := batch.Build(p.h, batch.KV{Timestamp: time.Now().UnixMilli(), Value: []byte("v")})
			wantCode(t, name, must[*kmsg.ProduceResponse](t, c, produceTo(victim, 0, b), 9).Topics[0].Partitions[0].ErrorCode, p.code)
		}
	})
	w.attack(t, "batch: a gzip bomb in a batch", func(t *testing.T) {
		// The broker need not look inside; whoever reads it does.
		bomb := gzipped(make([]byte, 64<<20))
		b := batch.Build(batch.Plain, batch.KV{Timestamp: time.Now().UnixMilli(), Value: []byte("v")})
		b = append(b[:61:61], bomb...)
		be.PutUint32(b[8:], uint32(len(b)-12))
		b[22] = 1
		be.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
		before := w.memory(t)
		wantCode(t, "produce", must[*kmsg.ProduceResponse](t, w.dial(t), produceTo(victim, 0, b), 9).Topics[0].Partitions[0].ErrorCode, none, kerr.InvalidRecord)
		lo := kmsg.NewPtrListOffsetsRequest() // by time, which looks into batches
		lt := kmsg.NewListOffsetsRequestTopic()
		lt.Topic = victim
		lp := kmsg.NewListOffsetsRequestTopicPartition()
		lp.Timestamp = time.Now().Add(-time.Second).UnixMilli()
		lt.Partitions = append(lt.Partitions, lp)
		lo.Topics = append(lo.Topics, lt)
		if _, err := w.dial(t).ask(lo, 6); err != nil {
			t.Errorf("list offsets by time: %v", err)
		}
		if grown := w.memory(t) - before; grown > maxGrowth {
			t.Errorf("the server grew by %d MiB", grown>>20)
		}
	})
}

// legacy is a message of one of the formats before batches.
func legacy(magic byte) []byte {
	body := []byte{magic, 0}
	if magic == 1 {
		body = binary.BigEndian.AppendUint64(body, 1)
	}
	body = append(body, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 'v')
	b := make([]byte, 8)
	b = binary.BigEndian.AppendUint32(b, uint32(4+len(body)))
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(body))
	return append(b, body...)
}
