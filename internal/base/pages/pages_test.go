package pages

import (
	"runtime"
	"testing"
)

func TestRun(t *testing.T) {
	for _, n := range []int{1, 4096, 4 << 20} {
		r := New(n)
		if len(r.Bytes) != n {
			t.Fatalf("%d bytes, want %d", len(r.Bytes), n)
		}
		for i := range r.Bytes {
			if r.Bytes[i] != 0 {
				t.Fatal("not zero")
			}
			r.Bytes[i] = 1
		}
		r.Free()
		r.Free() // nothing is left to give
		if r.Bytes != nil {
			t.Error("freed memory is still there")
		}
	}
}

// What nobody holds goes back without Free.
func TestCollected(t *testing.T) {
	for i := range 200 { // 800 MiB, if it stayed
		r := New(4 << 20)
		for at := 0; at < len(r.Bytes); at += 1 << 20 {
			r.Bytes[at] = 1
		}
		if i%50 == 49 {
			runtime.GC()
		}
	}
}
