package batch

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"io"

	"github.com/golang/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// xerialBlock is how much Java's snappy puts into one block.
const xerialBlock = 32 << 10

func isXerial(body []byte) bool { return bytes.HasPrefix(body, xerial) }

// compress appends body, compressed, to dst.
func compress(dst []byte, codec int, body []byte, framed bool) ([]byte, error) {
	w := bytes.NewBuffer(dst)
	var z io.WriteCloser
	switch codec {
	case 1:
		z = gzip.NewWriter(w)
	case 2:
		return appendSnappy(dst, body, framed), nil
	case 3:
		z = lz4.NewWriter(w)
	case 4:
		enc, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		z = enc
	default:
		return nil, errNoCodec
	}
	if _, err := z.Write(body); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return w.Bytes(), nil
}

func appendSnappy(dst, body []byte, framed bool) []byte {
	if !framed {
		return append(dst, snappy.Encode(nil, body)...)
	}
	dst = append(dst, xerial...)
	dst = binary.BigEndian.AppendUint32(dst, 1)
	dst = binary.BigEndian.AppendUint32(dst, 1)
	for {
		block := body[:min(len(body), xerialBlock)]
		body = body[len(block):]
		packed := snappy.Encode(nil, block)
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(packed)))
		dst = append(dst, packed...)
		if len(body) == 0 {
			return dst
		}
	}
}
