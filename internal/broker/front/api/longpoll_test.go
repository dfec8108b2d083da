package api

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A fetch that waits sleeps: it looks when it comes, when something new is there
// and when its time is over.
func TestLongPollSleeps(t *testing.T) {
	tape := newMemTape()
	f := startFront(t, tape)
	if _, err := kadm.NewClient(f.client(t)).CreateTopic(testCtx(t), 2, 1, nil, "s"); err != nil {
		t.Fatal(err)
	}
	p := f.raw(t)
	p.send(produceRequest("s", [16]byte{}, record("x")), 9, 1)
	p.receive(kmsg.NewPtrProduceResponse(), 9)
	reads := func() (n int) {
		tape.mu.Lock()
		defer tape.mu.Unlock()
		for _, l := range tape.logs {
			l.mu.Lock()
			n += l.reads
			l.mu.Unlock()
		}
		return n
	}
	for name, offset := range map[string]int64{"at the end": 1, "for more than there is": 0} {
		before := reads()
		c := f.raw(t)
		req := fetchRequest(0, -1, want(0, offset), want(1, 0))
		req.MinBytes, req.MaxWaitMillis = 1<<20, 200
		c.send(req, 12, 1)
		c.receive(kmsg.NewPtrFetchResponse(), 12)
		if n := reads() - before; n != 4 {
			t.Errorf("%s: two partitions were read %d times, want twice each", name, n)
		}
	}
}
