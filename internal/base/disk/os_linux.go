package disk

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// fallbackAlign is used when the kernel does not tell the alignment of direct
// I/O. It is the largest logical block in common use.
const fallbackAlign = 4096

// maxAlign bounds what we believe; a larger alignment means buffered.
const maxAlign = 1 << 20

// openDirect opens name past the page cache, or returns nil if that does not
// work, for whatever reason: the caller then opens it the ordinary way.
func openDirect(name string, flags int) File {
	f, err := os.OpenFile(name, flags|syscall.O_DIRECT, 0o600)
	if err != nil {
		return nil
	}
	align := directAlign(f)
	if align == 0 || !readsDirect(f, align) {
		f.Close()
		if flags&os.O_EXCL != 0 {
			os.Remove(name) // ours, and empty: let the ordinary open make it
		}
		return nil
	}
	return &osFile{File: f, align: align}
}

// directAlign asks the kernel (statx, since Linux 6.1). 0: no direct I/O.
func directAlign(f *os.File) int {
	var st unix.Statx_t
	err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st)
	if err != nil || st.Mask&unix.STATX_DIOALIGN == 0 {
		return fallbackAlign
	}
	align := int(max(st.Dio_mem_align, st.Dio_offset_align))
	if align > maxAlign || align&(align-1) != 0 {
		return 0
	}
	return align
}

// readsDirect tries one read: some file systems accept the flag and refuse the
// I/O.
func readsDirect(f *os.File, align int) bool {
	_, err := syscall.Pread(int(f.Fd()), Aligned(align, align), 0)
	return err == nil
}

func datasync(f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = conn.Control(func(fd uintptr) {
		for {
			if serr = syscall.Fdatasync(int(fd)); serr != syscall.EINTR {
				return
			}
		}
	})
	return errors.Join(err, serr)
}

func dropCache(f *os.File) error {
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

func lock(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return ErrLocked
	}
	return err
}
