package disk

import "unsafe"

// pageBytes is the smallest page of memory in use.
const pageBytes = 4096

// Aligned returns n zero bytes at an address that is a multiple of align, a power
// of two, for reads and writes of a file with that DirectAlign. Every page is
// touched, so that its first use costs no fault.
func Aligned(n, align int) []byte {
	b := make([]byte, n+max(align, 1))
	skip := 0
	if r := AlignedTo(b, align); r != 0 {
		skip = align - r
	}
	b = b[skip : skip+n : skip+n]
	for i := 0; i < n; i += pageBytes {
		b[i] = 0
	}
	return b
}

// AlignedTo returns how far past a multiple of align the first byte of b lies; 0
// is aligned.
func AlignedTo(b []byte, align int) int {
	if align <= 1 || cap(b) == 0 {
		return 0
	}
	return int(uintptr(unsafe.Pointer(unsafe.SliceData(b))) & uintptr(align-1))
}
