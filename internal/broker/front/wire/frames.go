package wire

import (
	"math/bits"
	"sync"
)

// frames keeps the memory of large frames whose handler has said that it is done
// with them. Fresh memory costs more than reading the frame into it; the frame
// used last comes first, since it may still be in a processor's cache.
type frames struct {
	mu    sync.Mutex
	kept  int // bytes in free
	free  [frameClasses][][]byte
	limit int
}

// Frames are kept by powers of two, from minKept to maxKept bytes; smaller ones
// are cheap, larger ones rare.
const (
	minKeptShift = 14
	maxKeptShift = 22
	frameClasses = maxKeptShift - minKeptShift + 1
	keptBytes    = 16 << 20 // of free frames of one server
)

func frameClass(n int) int { return max(0, bits.Len(uint(n-1))-minKeptShift) }

// take returns n bytes, with anything in them.
func (f *frames) take(n int) []byte {
	if n <= 1<<(minKeptShift-1) || n > 1<<maxKeptShift {
		return make([]byte, n)
	}
	class := frameClass(n)
	f.mu.Lock()
	if free := f.free[class]; len(free) > 0 {
		last := len(free) - 1
		b := free[last]
		free[last] = nil
		f.free[class] = free[:last]
		f.kept -= cap(b)
		f.mu.Unlock()
		return b[:n]
	}
	f.mu.Unlock()
	return make([]byte, n, 1<<(minKeptShift+class))
}

// put takes back what take returned.
func (f *frames) put(b []byte) {
	size := cap(b)
	if size < 1<<minKeptShift || size > 1<<maxKeptShift || size&(size-1) != 0 {
		return
	}
	class := frameClass(size)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.kept+size <= f.limit {
		f.kept += size
		f.free[class] = append(f.free[class], b[:0])
	}
}
