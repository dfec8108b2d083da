package batch

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/golang/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// MaxBody bounds what a compressed batch may grow to.
const MaxBody = 64 << 20

// Body returns the batch's records uncompressed. It aliases the batch when they
// are not compressed. ErrCompression when they can't be unpacked or are larger
// than MaxBody.
func (b Batch) Body() ([]byte, error) {
	body := []byte(b[HeaderSize:])
	if b.Compression() == 0 {
		return body, nil
	}
	out, err := unpack(b.Compression(), body)
	if err != nil {
		return nil, fmt.Errorf("%w: codec %d: %w", ErrCompression, b.Compression(), err)
	}
	return out, nil
}

func unpack(codec int, body []byte) ([]byte, error) {
	switch codec {
	case 1:
		z, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		return readAll(z)
	case 2:
		return unpackSnappy(body)
	case 3:
		return readAll(lz4.NewReader(bytes.NewReader(body)))
	case 4:
		z, err := zstd.NewReader(bytes.NewReader(body), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxBody))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		return readAll(z)
	}
	return nil, fmt.Errorf("unknown")
}

func readAll(r io.Reader) ([]byte, error) {
	out, err := io.ReadAll(io.LimitReader(r, MaxBody+1))
	if err == nil && len(out) > MaxBody {
		err = fmt.Errorf("more than %d bytes", MaxBody)
	}
	return out, err
}

// xerial is the framing that Java's snappy puts around its blocks: this magic,
// two versions of 4 bytes, then blocks with a length of 4 bytes.
var xerial = []byte{0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0}

func unpackSnappy(body []byte) ([]byte, error) {
	if !bytes.HasPrefix(body, xerial) {
		return unpackBlock(nil, body)
	}
	if len(body) < 16 {
		return nil, io.ErrUnexpectedEOF
	}
	var out []byte
	for body = body[16:]; len(body) > 0; {
		if len(body) < 4 {
			return nil, io.ErrUnexpectedEOF
		}
		n := int(binary.BigEndian.Uint32(body))
		if body = body[4:]; n > len(body) {
			return nil, io.ErrUnexpectedEOF
		}
		var err error
		if out, err = unpackBlock(out, body[:n]); err != nil {
			return nil, err
		}
		body = body[n:]
	}
	return out, nil
}

func unpackBlock(out, block []byte) ([]byte, error) {
	n, err := snappy.DecodedLen(block)
	if err != nil {
		return nil, err
	}
	if len(out)+n > MaxBody {
		return nil, fmt.Errorf("more than %d bytes", MaxBody)
	}
	dec, err := snappy.Decode(nil, block)
	if err != nil {
		return nil, err
	}
	return append(out, dec...), nil
}
