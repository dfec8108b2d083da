// Package pages is memory outside of the Go heap, for buffers that are large,
// live long and are used again and again. The collector sizes the heap by what
// lives in it: there, such buffers would double the memory of the process.
//
// The memory lives as long as its Run: whoever uses the bytes must hold the Run,
// too. It goes back to the system with Free, or when the Run is collected; to use
// it afterwards ends the process. Small runs, and all where the system gives none,
// are ordinary memory.
package pages

import "runtime"

// mappedFrom is the size from which memory outside of the heap is worth it.
const mappedFrom = 128 << 10

// A Run is contiguous zeroed memory.
type Run struct {
	Bytes   []byte
	mapped  bool
	cleanup runtime.Cleanup
}

// New returns n bytes.
func New(n int) *Run {
	if n >= mappedFrom {
		if b, err := take(n); err == nil {
			r := &Run{Bytes: b, mapped: true}
			r.cleanup = runtime.AddCleanup(r, give, b)
			return r
		}
	}
	return &Run{Bytes: make([]byte, n)}
}

// Free gives the memory back to the system.
func (r *Run) Free() {
	if r.mapped {
		r.cleanup.Stop()
		give(r.Bytes)
	}
	r.Bytes, r.mapped = nil, false
}
