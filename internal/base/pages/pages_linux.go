package pages

import "golang.org/x/sys/unix"

func take(n int) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, err
	}
	// Fewer and larger pages are cheaper to touch; without them it works, too.
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE)
	return b, nil
}

// give can fail only for memory that take did not return.
func give(b []byte) { _ = unix.Munmap(b) }
