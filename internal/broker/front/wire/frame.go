package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// errLength is a frame length that no request can have.
var errLength = errors.New("frame length out of range")

// firstStep is what a frame may allocate before any of its bytes have come;
// trustStep caps what it may after larger frames came whole on the same
// connection.
const (
	firstStep = 4 << 10
	trustStep = 4 << 20
)

// A framer cuts a byte stream into frames. Its own buffer is small: it takes
// small requests in one read and leaves the body of a large one to be read
// straight into its place.
type framer struct {
	src  io.Reader
	mem  *frames
	max  int
	buf  [1024]byte
	r, w int // buf[r:w] is unread
	seen int // the largest frame that came whole
}

// begin reads the length of the next frame. io.EOF means a clean end.
func (f *framer) begin() (int, error) {
	if err := f.fill(4); err != nil {
		return 0, err
	}
	n := int(int32(binary.BigEndian.Uint32(f.buf[f.r:])))
	f.r += 4
	if n < minFrame || n > f.max {
		return 0, fmt.Errorf("%w: %d", errLength, n)
	}
	return n, nil
}

// first is what body allocates at once for a frame of n bytes.
func (f *framer) first(n int) int { return min(n, max(firstStep, min(2*f.seen, trustStep))) }

// body reads a frame of n bytes. progress is called before each read, grow
// before more bytes are allocated than first says.
func (f *framer) body(n int, progress func(), grow func(more int) error) ([]byte, error) {
	b := f.mem.take(f.first(n))
	have := copy(b, f.buf[f.r:f.w])
	f.r += have
	for {
		for have < len(b) {
			progress()
			m, err := f.src.Read(b[have:])
			have += m
			if err != nil && have < len(b) {
				if err == io.EOF {
					err = io.ErrUnexpectedEOF
				}
				f.mem.put(b)
				return nil, err
			}
		}
		if have == n {
			f.seen = max(f.seen, n)
			return b, nil
		}
		// The sender has paid for len(b) bytes: it may have as many again.
		size := min(n, 2*len(b))
		if err := grow(size - len(b)); err != nil {
			f.mem.put(b)
			return nil, err
		}
		bigger := f.mem.take(size)
		copy(bigger, b)
		f.mem.put(b)
		b = bigger
	}
}

// buffered says how many bytes of later frames are already here.
func (f *framer) buffered() int { return f.w - f.r }

// fill makes at least n bytes available in buf.
func (f *framer) fill(n int) error {
	if f.w-f.r >= n {
		return nil
	}
	f.w = copy(f.buf[:], f.buf[f.r:f.w])
	f.r = 0
	for f.w < n {
		m, err := f.src.Read(f.buf[f.w:])
		f.w += m
		if err != nil && f.w < n {
			if err == io.EOF && f.w > 0 {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}
