//go:build !linux

package cluster

import "time"

// BootClock is the time since the process began. On some systems it stands still
// while the machine is suspended: a broker that wakes may give one answer too many
// to a read.
func BootClock() time.Duration { return time.Since(began) }

var began = time.Now()
