//go:build servers

package blobs3

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/looptape/looptape/test/rig"
)

// What one request costs beside the server's own work.
func Benchmark(b *testing.B) {
	server := rig.S3(b)
	cfg, err := ParseURL(server.URL("bucket", ""))
	if err != nil {
		b.Fatal(err)
	}
	s, err := Open(b.Context(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	for _, size := range []int{4 << 10, 8 << 20} {
		body := make([]byte, size)
		n := 0
		b.Run(fmt.Sprintf("put %d KiB", size>>10), func(b *testing.B) {
			b.SetBytes(int64(size))
			for b.Loop() {
				n++
				if err := s.Put(b.Context(), fmt.Sprintf("%d/%d", size, n), bytes.NewReader(body), int64(size)); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("get %d KiB", size>>10), func(b *testing.B) {
			b.SetBytes(int64(size))
			for b.Loop() {
				if _, err := s.GetRange(b.Context(), fmt.Sprintf("%d/1", size), 0, body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
