package broker

import (
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/looptape/looptape/internal/broker/batch"
)

// A wrong CRC, a batch of another format or one that is too large is refused by
// its code, and the connection goes on; garbage ends its own connection only.
func TestBadInputDisturbsNobody(t *testing.T) {
	b := runBroker(t, t.TempDir())
	cl := b.client(t)
	produceRange(t, cl, "t", 0, 1)

	c, err := net.Dial("tcp", b.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	good := func() []byte { return batch.Build(batch.Plain, batch.KV{Timestamp: 1, Value: []byte("v")}) }
	crc, magic, cut := good(), good(), good()
	crc[len(crc)-1] ^= 1
	magic[16] = 1
	large := batch.Build(batch.Plain, batch.KV{Timestamp: 1, Value: make([]byte, 2<<20)})
	var codes []int16
	for _, records := range [][]byte{crc, magic, cut[:len(cut)-3], large, []byte("no batch at all"), good()} {
		req := kmsg.NewPtrProduceRequest()
		req.Acks = -1
		rt := kmsg.NewProduceRequestTopic()
		rt.Topic = "t"
		rp := kmsg.NewProduceRequestTopicPartition()
		rp.Records = records
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		req.SetVersion(9)
		if _, err := c.Write(kmsg.NewRequestFormatter().AppendRequest(nil, req, 1)); err != nil {
			t.Fatal(err)
		}
		var size [4]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			t.Fatalf("after codes %v: %v", codes, err)
		}
		body := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(c, body); err != nil {
			t.Fatal(err)
		}
		resp := kmsg.NewPtrProduceResponse()
		resp.SetVersion(9)
		if err := resp.ReadFrom(body[5:]); err != nil {
			t.Fatal(err)
		}
		codes = append(codes, resp.Topics[0].Partitions[0].ErrorCode)
	}
	if diff := cmp.Diff([]int16{2, 43, 2, 10, 2, 0}, codes); diff != "" {
		t.Errorf("codes (-want +got):\n%s", diff)
	}
	for _, garbage := range []string{"GET / HTTP/1.1\r\n\r\n", "\x00\x00\x00\x20half a frame", "\xff\xff\xff\xff"} {
		g, err := net.Dial("tcp", b.Addr())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(g, garbage); err != nil {
			t.Fatal(err)
		}
		g.(*net.TCPConn).CloseWrite()
		g.SetDeadline(time.Now().Add(20 * time.Second))
		if n, _ := io.Copy(io.Discard, g); n != 0 {
			t.Errorf("%q was answered with %d bytes", garbage, n)
		}
		g.Close()
	}
	produceRange(t, cl, "t", 1, 2)
}
