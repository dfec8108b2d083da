package crc32c

import (
	"hash/crc32"
	"math/rand/v2"
	"testing"
)

func TestConcat(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 1<<20)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	for _, n := range []int{0, 1, 2, 7, 8, 21, 255, 256, 4095, 4096, 99_999, 1 << 19, 1 << 20} {
		for _, at := range []int{0, 1, 21, n / 3, n / 2, n - 1, n} {
			if at < 0 || at > n {
				continue
			}
			want := crc32.Checksum(b[:n], table)
			if got := Concat(Sum(b[:at]), Sum(b[at:n]), int64(n-at)); got != want {
				t.Fatalf("%d and %d bytes: %08x, want %08x", at, n-at, got, want)
			}
			if got := Update(Sum(b[:at]), b[at:n]); got != want {
				t.Fatalf("%d and %d bytes updated: %08x, want %08x", at, n-at, got, want)
			}
		}
	}
	// A check value of the standard.
	if got := Sum([]byte("123456789")); got != 0xe3069283 {
		t.Errorf("%08x", got)
	}
}

func FuzzConcat(f *testing.F) {
	f.Add([]byte("abc"), 1)
	f.Fuzz(func(t *testing.T, b []byte, at int) {
		if at < 0 || at > len(b) {
			return
		}
		if got, want := Concat(Sum(b[:at]), Sum(b[at:]), int64(len(b)-at)), Sum(b); got != want {
			t.Fatalf("%08x, want %08x", got, want)
		}
	})
}

func BenchmarkConcat(b *testing.B) {
	for b.Loop() {
		Concat(1, 2, 262_123)
	}
}
