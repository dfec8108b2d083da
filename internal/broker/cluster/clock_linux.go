package cluster

import (
	"time"

	"golang.org/x/sys/unix"
)

// BootClock is the time since the machine booted. Unlike Go's monotonic clock it
// goes on while the machine is suspended.
func BootClock() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return time.Since(began)
	}
	return time.Duration(ts.Nano())
}

var began = time.Now()
