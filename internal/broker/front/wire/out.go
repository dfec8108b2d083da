package wire

import (
	"encoding/binary"
	"net"
)

// An Out collects replies: bytes of its own, and references to bytes of others
// that are sent without copying them.
type Out struct {
	// Buf takes what a Reply appends. References are cut in at its length.
	Buf []byte

	cuts []cut
	refs int // bytes in cuts
}

type cut struct {
	at  int // the reference goes out after Buf[:at]
	ref []byte
}

// copyBelow is the size under which a copy is cheaper than a segment.
const copyBelow = 256

// Ref adds b by reference. It must not change until the reply's Release.
func (o *Out) Ref(b []byte) {
	if len(b) < copyBelow {
		o.Buf = append(o.Buf, b...)
		return
	}
	o.cuts = append(o.cuts, cut{len(o.Buf), b})
	o.refs += len(b)
}

func (o *Out) size() int { return len(o.Buf) + o.refs }

// begin writes a response header and returns where its frame starts.
func (o *Out) begin(r *Request) (mark, size int) {
	mark, size = len(o.Buf), o.size()
	o.Buf = append(o.Buf, 0, 0, 0, 0)
	o.Buf = binary.BigEndian.AppendUint32(o.Buf, uint32(r.CorrelationID))
	if r.flexibleReply() {
		o.Buf = append(o.Buf, 0) // no tagged fields
	}
	return mark, size
}

// end patches the length of the frame begun at mark.
func (o *Out) end(mark, size int) {
	binary.BigEndian.PutUint32(o.Buf[mark:], uint32(o.size()-size-4))
}

// segments returns everything as buffers of at most chunk bytes a group, one
// group per write.
func (o *Out) segments(bufs net.Buffers) net.Buffers {
	at := 0
	for _, c := range o.cuts {
		if c.at > at {
			bufs = append(bufs, o.Buf[at:c.at])
			at = c.at
		}
		bufs = append(bufs, c.ref)
	}
	if at < len(o.Buf) {
		bufs = append(bufs, o.Buf[at:])
	}
	return bufs
}

func (o *Out) reset() {
	if cap(o.Buf) > 64<<10 {
		o.Buf = nil // an idle connection keeps little
	} else {
		o.Buf = o.Buf[:0]
	}
	clear(o.cuts)
	o.cuts = o.cuts[:0]
	if cap(o.cuts) > 1024 {
		o.cuts = nil
	}
	o.refs = 0
}
