//go:build !linux

package disk

import (
	"errors"
	"os"
	"syscall"
)

// openDirect: there is no direct I/O here.
func openDirect(string, int) File { return nil }

// datasync is fsync; on macOS the runtime makes that a flush of the drive.
func datasync(f *os.File) error { return f.Sync() }

func dropCache(*os.File) error { return nil }

func lock(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return ErrLocked
	}
	return err
}
