package sim

import "syscall"

// quit makes a Go process print its goroutines and end.
const quit = syscall.SIGQUIT
