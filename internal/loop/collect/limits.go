package collect

import (
	"bufio"
	"compress/flate"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
)

// Limits bound what one request and all requests together may take. Zero fields
// take their defaults.
type Limits struct {
	BodyBytes     int64 // of a body after decompression; default 32 MiB
	InFlightBytes int64 // of all bodies being worked on, after decompression; default 256 MiB
	Depth         int   // nesting of values; default 64
	Items         int   // spans, log records or events in one request; default 50,000
	Values        int   // attributes and values in one OTLP request; default 500,000
	FactBytes     int   // of one fact (a header of the record) and of ids; default 512
	Segments      int   // segment facts of one event; default 32
	ClaimBytes    int   // bodies above go to the object store; default 256 KiB
}

func (l Limits) withDefaults() Limits {
	set := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	if l.BodyBytes <= 0 {
		l.BodyBytes = 32 << 20
	}
	if l.InFlightBytes <= 0 {
		l.InFlightBytes = 256 << 20
	}
	set(&l.Depth, 64)
	set(&l.Items, 50_000)
	set(&l.Values, 500_000)
	set(&l.FactBytes, 512)
	set(&l.Segments, 32)
	set(&l.ClaimBytes, 256<<10)
	return l
}

// inFlight counts the bytes that requests hold.
type inFlight struct {
	max  int64
	used atomic.Int64
}

func (f *inFlight) acquire(n int64) bool {
	if f.used.Add(n) > f.max {
		f.used.Add(-n)
		return false
	}
	return true
}

func (f *inFlight) release(n int64) { f.used.Add(-n) }

const (
	readChunk     = 64 << 10
	trustedLength = 1 << 20 // a body that says to be shorter gets its room at once
)

// readBody reads and decompresses the body of a request within the limits. The
// bytes count as in flight until release is called, which is never nil.
func (c *Collector) readBody(r *http.Request) (body []byte, release func(), p *problem) {
	var held int64
	release = func() { c.inFlight.release(held) }
	limit := c.cfg.Limits.BodyBytes
	tooLarge := problemf(http.StatusRequestEntityTooLarge, "too_large",
		"The body is larger than %d bytes after decompression; send it in smaller parts.", limit)
	if r.ContentLength > limit {
		hearOut(r, limit)
		return nil, release, tooLarge
	}
	in, p := decompress(r)
	if p != nil {
		return nil, release, p
	}
	chunk := int64(readChunk)
	if n := r.ContentLength; n >= 0 && n < trustedLength && in == io.Reader(r.Body) {
		chunk = n + 1 // room to see the end
	}
	for {
		if len(body) == cap(body) {
			grow := min(max(int64(len(body)), chunk), limit+1-int64(len(body)))
			if !c.inFlight.acquire(grow) {
				return nil, release, busy
			}
			held += grow
			bigger := make([]byte, len(body), int64(len(body))+grow)
			copy(bigger, body)
			body = bigger
		}
		n, err := in.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		if int64(len(body)) > limit {
			hearOut(r, limit)
			return nil, release, tooLarge
		}
		if err == io.EOF {
			return body, release, nil
		}
		if err != nil {
			return nil, release, readProblem(r, err)
		}
	}
}

// hearOut reads on for a while and forgets it: a client that is still writing when
// the connection is closed sees a broken one instead of the answer, and sends
// the same again.
func hearOut(r *http.Request, limit int64) { _, _ = io.CopyN(io.Discard, r.Body, 2*limit) }

func decompress(r *http.Request) (io.Reader, *problem) {
	switch encoding := strings.ToLower(strings.TrimSpace(r.Header.Get("Content-Encoding"))); encoding {
	case "", "identity":
		return r.Body, nil
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			return nil, readProblem(r, err)
		}
		return z, nil
	case "deflate":
		// HTTP means zlib by it; some clients send the bare stream.
		b := bufio.NewReader(r.Body)
		head, err := b.Peek(2)
		if err == nil && head[0]&0x0f == 8 && (int(head[0])<<8|int(head[1]))%31 == 0 {
			z, err := zlib.NewReader(b)
			if err != nil {
				return nil, readProblem(r, err)
			}
			return z, nil
		}
		return flate.NewReader(b), nil
	default:
		return nil, problemf(http.StatusUnsupportedMediaType, "unsupported_encoding",
			"Content-Encoding must be gzip, deflate or absent.")
	}
}

func readProblem(r *http.Request, err error) *problem {
	if r.Context().Err() != nil {
		return problemf(499, "client_closed", "The client closed the connection.")
	}
	var corrupt flate.CorruptInputError
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return problemf(http.StatusBadRequest, "truncated_body", "The body ends too early; send it again whole.")
	case errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum), errors.Is(err, zlib.ErrHeader), errors.Is(err, zlib.ErrChecksum),
		errors.As(err, &corrupt):
		return problemf(http.StatusBadRequest, "bad_compression", "The body is not what its Content-Encoding says; compress it again or leave the header out.")
	}
	return problemf(http.StatusBadRequest, "unreadable_body", "The body could not be read; send it again.")
}

// A problem is why a whole request is refused, in words for its sender.
type problem struct {
	Status  int    // HTTP
	Code    string // machine word
	Message string // a sentence that says what to do; never content
	Retry   bool   // the same request may succeed later
}

func (p *problem) Error() string { return p.Code + ": " + p.Message }

func problemf(status int, code, format string, args ...any) *problem {
	return &problem{Status: status, Code: code, Message: fmt.Sprintf(format, args...)}
}

var (
	busy = &problem{http.StatusServiceUnavailable, "busy", "Too many bytes are in flight; wait and send the request again.", true}

	unavailable = &problem{http.StatusServiceUnavailable, "unavailable", "The tape did not acknowledge in time; send the same request again, its events keep their ids.", true}

	unauthorized = &problem{http.StatusUnauthorized, "unauthorized", "Send a valid credential.", false}
)
