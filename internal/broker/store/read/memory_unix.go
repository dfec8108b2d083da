//go:build unix

package read

import "syscall"

// memory returns n bytes that the garbage collector does not count: a cache of a
// fixed size would else make the heap twice as large. They belong to the cache
// until unmap.
func memory(n int) []byte {
	b, err := syscall.Mmap(-1, 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return make([]byte, n)
	}
	return b
}

// unmap gives memory back; b is all of what memory returned, or of the heap.
func unmap(b []byte) { _ = syscall.Munmap(b[:cap(b)]) }
