//go:build !linux

package pages

import "errors"

var errNone = errors.New("no memory outside of the heap here")

func take(int) ([]byte, error) { return nil, errNone }

func give([]byte) {}
