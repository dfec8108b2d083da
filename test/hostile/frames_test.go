//go:build e2e

package hostile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// A kafkaConn is one raw connection to the Kafka port.
type kafkaConn struct {
	net.Conn
	next int32 // correlation id
}

func (w *world) dial(t *testing.T) *kafkaConn {
	t.Helper()
	c, err := net.DialTimeout("tcp", w.s.Kafka, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(60 * time.Second))
	return &kafkaConn{Conn: c}
}

// ask sends a request at a version and reads its answer. An error means that the
// server closed the connection.
func (c *kafkaConn) ask(req kmsg.Request, version int16) (kmsg.Response, error) {
	req.SetVersion(version)
	c.next++
	if _, err := c.Write(kmsg.NewRequestFormatter(kmsg.FormatterClientID("hostile")).AppendRequest(nil, req, c.next)); err != nil {
		return nil, err
	}
	body, err := c.frame()
	if err != nil {
		return nil, err
	}
	if id := int32(binary.BigEndian.Uint32(body)); id != c.next {
		return nil, fmt.Errorf("correlation id %d, want %d", id, c.next)
	}
	body = body[4:]
	resp := req.ResponseKind()
	resp.SetVersion(version)
	if resp.IsFlexible() && req.Key() != kmsg.ApiVersions.Int16() {
		body = body[1:] // no tagged fields in the header
	}
	if err := resp.ReadFrom(body); err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	return resp, nil
}

func (c *kafkaConn) frame() ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, err
	}
	body := make([]byte, binary.BigEndian.Uint32(size[:]))
	_, err := io.ReadFull(c, body)
	return body, err
}

// must is ask for requests that are answered.
func must[T kmsg.Response](t *testing.T, c *kafkaConn, req kmsg.Request, version int16) T {
	t.Helper()
	resp, err := c.ask(req, version)
	if err != nil {
		t.Fatalf("%s v%d: %v", kmsg.NameForKey(req.Key()), version, err)
	}
	return resp.(T)
}

// closed says that a read ended because the server ended the connection.
func closed(err error) bool {
	var op net.Error
	return err != nil && (!errors.As(err, &op) || !op.Timeout())
}

// header is a frame with a request header of no client id, and a body.
func header(key, version int16, body string) string {
	b := binary.BigEndian.AppendUint32(nil, uint32(10+len(body)))
	b = binary.BigEndian.AppendUint16(b, uint16(key))
	b = binary.BigEndian.AppendUint16(b, uint16(version))
	b = binary.BigEndian.AppendUint32(b, 7)
	b = append(b, 0xff, 0xff)
	return string(b) + body
}

// frames: bytes on the Kafka port that are no request of the protocol.
func (w *world) frames(t *testing.T) {
	for name, bytes := range map[string]string{
		"a frame of 2 GiB":                "\x7f\xff\xff\xff" + strings.Repeat("x", 1<<16),
		"a frame of 101 MiB":              "\x06\x50\x00\x00\x00\x00\x00\x03" + strings.Repeat("x", 1<<16),
		"a frame of -1 bytes":             "\xff\xff\xff\xff",
		"a frame of -2 GiB":               "\x80\x00\x00\x00",
		"an empty frame":                  "\x00\x00\x00\x00",
		"a frame shorter than a header":   "\x00\x00\x00\x07\x00\x03\x00\x00\x00\x00\x00",
		"random bytes":                    string(noise(64 << 10)),
		"an HTTP request":                 "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"an HTTP request with a body":     "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("{", 100000),
		"HTTP/2":                          "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"TLS":                             "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + string(noise(508)),
		"half a frame, then close":        "\x00\x00\x01\x00\x00\x03\x00\x00",
		"half a length, then close":       "\x00\x00",
		"an unknown key":                  header(999, 0, ""),
		"a negative key":                  header(-1, 0, ""),
		"an inter-broker key":             header(4, 1, strings.Repeat("\x00", 100)), // LeaderAndIsr
		"a negative version":              header(3, -1, "\x00\x00\x00\x00"),
		"a version of the future":         header(3, 32767, "\x00\x00\x00\x00"),
		"a client id beyond the frame":    "\x00\x00\x00\x0a\x00\x03\x00\x01\x00\x00\x00\x01\x7f\xff",
		"a client id of -2 bytes":         "\x00\x00\x00\x0a\x00\x03\x00\x01\x00\x00\x00\x01\xff\xfe",
		"2 billion topics":                header(3, 1, "\x7f\xff\xff\xff"),
		"an array of -2":                  header(3, 1, "\xff\xff\xff\xfe"),
		"2 billion topics to produce to":  header(0, 7, "\xff\xff\x00\x01\x00\x00\x00\x00\x7f\xff\xff\xff"),
		"2 billion partitions to fetch":   header(1, 4, "\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x01t\x7f\xff\xff\xff"),
		"a name beyond the frame":         header(3, 1, "\x00\x00\x00\x01\x7f\xff"),
		"2 billion tagged fields":         header(3, 9, "\x00\xff\xff\xff\xff\x07"),
		"a compact length of 5 bytes":     header(3, 9, "\x00\xff\xff\xff\xff\x0f"),
		"an endless varint":               header(3, 9, "\x00"+strings.Repeat("\xff", 100)),
		"bytes after the request":         header(3, 1, "\x00\x00\x00\x00"+strings.Repeat("x", 1000)),
		"a request of 3 MiB for metadata": header(3, 1, "\x00\x00\x00\x01\x00\x01t"+strings.Repeat("x", 3<<20)),
	} {
		w.attack(t, "frame: "+name, func(t *testing.T) {
			before := w.memory(t)
			closes(t, w.s.Kafka, bytes)
			if grown := w.memory(t) - before; grown > maxGrowth {
				t.Errorf("the server grew by %d MiB", grown>>20)
			}
		})
	}
	w.attack(t, "frame: a good request after each other, one at a time", func(t *testing.T) {
		// A byte at a time is slow, and a request all the same.
		c := w.dial(t)
		frame := kmsg.NewRequestFormatter().AppendRequest(nil, kmsg.NewPtrApiVersionsRequest(), 9)
		for _, b := range frame {
			if _, err := c.Write([]byte{b}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.frame(); err != nil {
			t.Error(err)
		}
	})
	w.attack(t, "frame: answers nobody reads", func(t *testing.T) {
		// Thousands of requests and never a read: the server must stop reading
		// rather than pile up answers.
		c := w.dial(t)
		_ = c.SetDeadline(time.Now().Add(3 * time.Second))
		before := w.memory(t)
		req := kmsg.NewPtrMetadataRequest()
		req.SetVersion(1)
		req.Topics = nil
		frame := kmsg.NewRequestFormatter().AppendRequest(nil, req, 9)
		many := strings.Repeat(string(frame), 1000)
		for range 1000 {
			if _, err := io.WriteString(c, many); err != nil {
				break
			}
		}
		if grown := w.memory(t) - before; grown > maxGrowth {
			t.Errorf("the server grew by %d MiB", grown>>20)
		}
	})
}
