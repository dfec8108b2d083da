//go:build !unix

package read

func memory(n int) []byte { return make([]byte, n) }
func unmap([]byte)        {}
