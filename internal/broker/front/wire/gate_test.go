package wire

import (
	"sync"
	"sync/atomic"
	"testing"
)

// A reply that may not be given any more when its turn to be written has come
// closes the connection instead, however long it was ready; others are not asked.
func TestGateIsAskedLast(t *testing.T) {
	var open atomic.Bool
	open.Store(true)
	var released sync.Map
	s := serve(t, Config{}, func(r *Request) {
		if r.CorrelationID != 2 {
			r.Gate = open.Load
		}
		r.Respond(&text{b: "answer", released: &released})
	})
	c := s.dial(t)
	ask := func(id int32) error {
		if _, err := c.Write(frame(id, 1)); err != nil {
			return err
		}
		_, _, err := readReply(c)
		return err
	}
	if err := ask(1); err != nil {
		t.Fatal(err)
	}
	open.Store(false)
	if err := ask(2); err != nil {
		t.Errorf("without a gate: %v", err)
	}
	if err := ask(3); err == nil {
		t.Error("a stale reply was given")
	}
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	s.obs.locked(func() {
		if s.obs.reasons[reasonStale] != 1 {
			t.Errorf("%v", s.obs.reasons)
		}
	})
}
