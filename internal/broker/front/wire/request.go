package wire

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// A Request is one frame, its header decoded.
type Request struct {
	Key, Version  int16
	CorrelationID int32
	ClientID      string
	Body          []byte    // the Handler's for good, or until Recycle
	Arrived       time.Time // when its last byte had come

	// Gate, if the Handler sets it, is asked right before the reply is written: the
	// connection is closed instead when it says no.
	Gate func() bool

	conn  *conn
	frame []byte // with Body; nil once recycled
	size  int64  // bytes charged
	reply Reply  // guarded by conn.mu, as done
	done  bool
}

// A Reply writes itself when its turn has come.
type Reply interface {
	// AppendTo appends the response body, without its header. It is called in
	// the connection's goroutine for writing, and must not wait.
	AppendTo(out *Out)
	// Release is called once: when the reply has been written, or when it never
	// will be.
	Release()
}

// A Waiter is a Reply that may have to wait for its content, as a long poll.
type Waiter interface {
	Reply
	// Wait is called once before AppendTo, when all earlier replies of the
	// connection have gone out. It returns when the reply is ready or ctx ends:
	// the client is gone or the server drains.
	Wait(ctx context.Context)
}

// Context ends when the connection does, or when the server drains.
func (r *Request) Context() context.Context { return r.conn.waitCtx }

// RemoteAddr of the connection.
func (r *Request) RemoteAddr() net.Addr { return r.conn.nc.RemoteAddr() }

// LocalAddr of the connection: how the client reached this server.
func (r *Request) LocalAddr() net.Addr { return r.conn.nc.LocalAddr() }

// Respond gives the reply. It never blocks and may be called from anywhere.
func (r *Request) Respond(reply Reply) { r.conn.complete(r, reply) }

// Discard ends a request that has no reply (Produce with acks=0).
func (r *Request) Discard() { r.conn.complete(r, nil) }

// Abort closes the connection: the request makes no sense.
func (r *Request) Abort() {
	r.conn.close(reasonRequest)
	r.conn.complete(r, nil)
}

// Recycle says that nobody uses Body any more: its memory is for other frames
// from here on. Only whoever handles the request may call it; nobody has to.
func (r *Request) Recycle() {
	r.conn.srv.frames.put(r.frame)
	r.frame, r.Body = nil, nil
}

// Flexible says whether the request's version uses compact encodings and
// tagged fields.
func (r *Request) Flexible() bool { return flexible(r.Key, r.Version) }

// An ApiVersions response keeps the old header, so that any client can read it.
func (r *Request) flexibleReply() bool { return r.Key != apiVersionsKey && r.Flexible() }

const (
	apiVersionsKey = 18
	minFrame       = 8 // key, version, correlation id
	keys           = 128
)

var errHeader = errors.New("malformed request header")

// firstFlexible[key] is the first flexible version of an API, or a version that
// is never reached; known[key] says that the codec has the API.
var firstFlexible, known = func() (first [keys]int16, known [keys]bool) {
	for key := range first {
		first[key] = 1 << 14
		req := kmsg.RequestForKey(int16(key))
		if req == nil {
			continue
		}
		known[key] = true
		for v := int16(0); v <= req.MaxVersion(); v++ {
			if req.SetVersion(v); req.IsFlexible() {
				first[key] = v
				break
			}
		}
	}
	return first, known
}()

func flexible(key, version int16) bool {
	return key >= 0 && key < keys && version >= firstFlexible[key]
}

// parse decodes the header of frame (without its length) into r.
func (r *Request) parse(frame []byte, lastClient string) error {
	if len(frame) < minFrame {
		return fmt.Errorf("%w: %d bytes", errHeader, len(frame))
	}
	r.Key = int16(binary.BigEndian.Uint16(frame))
	r.Version = int16(binary.BigEndian.Uint16(frame[2:]))
	r.CorrelationID = int32(binary.BigEndian.Uint32(frame[4:]))
	if r.Key < 0 || r.Key >= keys || !known[r.Key] || r.Version < 0 {
		return fmt.Errorf("%w: api key %d version %d", errHeader, r.Key, r.Version)
	}
	b := frame[minFrame:]
	if len(b) < 2 {
		return fmt.Errorf("%w: no client id", errHeader)
	}
	n := int(int16(binary.BigEndian.Uint16(b)))
	b = b[2:]
	if n > len(b) || n < -1 {
		return fmt.Errorf("%w: client id of %d bytes", errHeader, n)
	}
	if n > 0 {
		if r.ClientID = lastClient; string(b[:n]) != lastClient {
			r.ClientID = string(b[:n])
		}
		b = b[n:]
	}
	if r.Flexible() {
		var ok bool
		if b, ok = skipTags(b); !ok {
			return fmt.Errorf("%w: tagged fields", errHeader)
		}
	}
	r.Body = b
	return nil
}

// skipTags passes over tagged fields.
func skipTags(b []byte) ([]byte, bool) {
	count, n := binary.Uvarint(b)
	if n <= 0 || count > uint64(len(b)) {
		return nil, false
	}
	b = b[n:]
	for range count {
		_, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, false
		}
		b = b[n:]
		size, n := binary.Uvarint(b)
		if n <= 0 || size > uint64(len(b)-n) {
			return nil, false
		}
		b = b[n+int(size):]
	}
	return b, true
}
