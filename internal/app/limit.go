package app

import (
	"net"
	"sync"
	"sync/atomic"
	"syscall"
)

// connections is how many the Kafka port may hold, and how many each of the
// others: API, OTLP/HTTP, OTLP/gRPC. Connections and what keeps records draw on
// the same open files, so a tenth, and 256 at least, stays with the latter: a
// crowd on one port must not take the log's.
func connections(files int) (kafka, other int) {
	free := files - max(files/10, 256)
	return max(min(free*2/3, 20_000), 16), max(free/9, 16)
}

// openFiles is how many files the process may open. Go has raised it as far as
// the hard limit goes.
func openFiles() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur > 1<<20 {
		return 1 << 20
	}
	return int(limit.Cur)
}

// A crowd is a listener that holds at most max connections. Those beyond are
// closed at once: their clients know where they stand, and the rest go on.
type crowd struct {
	*net.TCPListener
	max  int64
	open atomic.Int64
}

func (c *crowd) Accept() (net.Conn, error) {
	for {
		conn, err := c.AcceptTCP()
		if err != nil {
			return nil, err
		}
		if c.open.Add(1) <= c.max {
			return &counted{TCPConn: conn, gone: sync.OnceFunc(func() { c.open.Add(-1) })}, nil
		}
		c.open.Add(-1)
		conn.Close()
	}
}

// counted is a connection that gives its place back. It stays a TCP connection
// for servers, which close them half first so that a last answer gets through.
type counted struct {
	*net.TCPConn
	gone func()
}

func (c *counted) Close() error {
	defer c.gone()
	return c.TCPConn.Close()
}
