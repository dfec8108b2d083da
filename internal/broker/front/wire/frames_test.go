package wire

import "testing"

func TestFrames(t *testing.T) {
	f := frames{limit: 1 << 20}
	for _, n := range []int{0, 1, 1 << 13, 1<<13 + 1, 1 << 14, 1<<14 + 1, 300_000, 1 << 22, 1<<22 + 1} {
		b := f.take(n)
		if len(b) != n {
			t.Fatalf("%d bytes, want %d", len(b), n)
		}
		f.put(b)
	}
	a := f.take(20_000)
	f.put(a)
	if b := f.take(30_000); &b[0] != &a[0] || len(b) != 30_000 {
		t.Error("memory of the same class is not used again")
	}
	if f.kept > f.limit {
		t.Errorf("keeps %d bytes", f.kept)
	}
	var all [][]byte
	for range 10 {
		all = append(all, f.take(1<<19))
	}
	for _, b := range all {
		f.put(b)
	}
	if f.kept > f.limit {
		t.Errorf("keeps %d bytes", f.kept)
	}
}

func TestRecycleTwice(t *testing.T) {
	s := &Server{frames: frames{limit: 1 << 20}}
	r := &Request{conn: &conn{srv: s}, frame: s.frames.take(1 << 15)}
	r.Recycle()
	r.Recycle()
	a, b := s.frames.take(1<<15), s.frames.take(1<<15)
	if &a[0] == &b[0] {
		t.Error("one frame is kept twice")
	}
}
