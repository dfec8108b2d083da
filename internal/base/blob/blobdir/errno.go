package blobdir

import (
	"errors"
	"syscall"
)

// notDirectory tells whether err says that a file stands where a directory was
// looked for: then nothing is below it.
func notDirectory(err error) bool { return errors.Is(err, syscall.ENOTDIR) }
