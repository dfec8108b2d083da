package read

import (
	"context"
	"testing"
	"time"

	"github.com/looptape/looptape/internal/base/blob/blobmem"
)

// A reader of eight partitions at a glance, as fetches do it, gets every chunk
// from the store once, but for a few when the machine is busy.
func TestNothingIsReadTwice(t *testing.T) {
	const parts, per, size = 8, 60, 20 << 10
	w := newWorld()
	for n := range int64(per / 20) {
		for i := range int32(parts) {
			w.add(t, 0, size, span{part(i), plain(20*n, 20, size-100), nil, nil, -1})
		}
	}
	w.blobs.SetFault(func(blobmem.Call) blobmem.Fault { return blobmem.Fault{Delay: 200 * time.Microsecond} })
	r := w.running(t, Config{CacheBytes: 104 * size, ChunkBytes: size / 2})
	ctx := context.Background()
	var next [parts]int64
	for done := 0; done < parts; {
		done = 0
		var held []Result
		got := 0
		for _, glance := range []bool{true, false} {
			for i := range next {
				if next[i] == per {
					done++
					continue
				}
				if !glance && got > 0 {
					break
				}
				res, err := r.Read(ctx, Query{Partition: part(int32(i)), Offset: next[i], End: per, MaxBytes: size, AtLeastOne: got == 0, Glance: glance})
				if err != nil {
					t.Fatal(err)
				}
				next[i] = res.Next
				got += res.Bytes
				held = append(held, res)
			}
		}
		for i := range held {
			held[i].Release()
		}
		done /= 2
	}
	if s := r.Stats(); s.Bytes > parts*per*size*105/100 {
		t.Errorf("%d MB read for %d", s.Bytes>>20, parts*per*size>>20)
	}
}
