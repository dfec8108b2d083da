//go:build !linux

package main

// freeSpace is not known here.
var freeSpace func(dir string) (free, all uint64, err error)
