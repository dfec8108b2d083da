package app

import (
	"io"
	"net"
	"testing"
	"time"
)

func TestConnectionsLeaveFiles(t *testing.T) {
	for _, files := range []int{256, 1024, 4096, 20_000, 1 << 20} {
		kafka, other := connections(files)
		if left := files - kafka - 3*other; left < min(files*3/4, max(files/10, 256)) || kafka < 16 || other < 16 {
			t.Errorf("%d files: %d for Kafka, %d for each other port, %d left", files, kafka, other, left)
		}
	}
}

func TestCrowdClosesWhatIsTooMuch(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &crowd{TCPListener: l.(*net.TCPListener), max: 2}
	accepted := make(chan net.Conn, 10)
	done := make(chan error, 1)
	go func() {
		for {
			conn, err := c.Accept()
			if err != nil {
				done <- err
				return
			}
			accepted <- conn
		}
	}()
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		return conn
	}
	dial()
	dial()
	first, second := <-accepted, <-accepted
	defer second.Close()
	if _, ok := first.(interface{ CloseWrite() error }); !ok {
		t.Error("the connection can't be closed half")
	}
	if _, err := dial().Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the third: %v, want its end", err)
	}
	first.Close()
	first.Close() // counts once
	dial()
	third := <-accepted
	defer third.Close()
	if _, err := dial().Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("one more: %v, want its end", err)
	}
	l.Close()
	<-done
}
